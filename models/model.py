"""Base classes of the models: their stored form, and the interface that the codec uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.context_model import ContextModel
from codec.entropy.latent_coder import LatentCoder
from codec.entropy.quantiser import thin_out
from codec.entropy.speech_context import MAX_INDEX
from codec.search.problem import RateModel, quantise
from models.stored import Arrays, arrays_of, context_of, finite, sizes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from typing_extensions import Self

    from models.networks.speech_distance import FrameDistance


class Model(nn.Module, ABC):
    """Networks and entropy tables that are stored in one folder (`models.folder`).

    kind: the class in `model.json`, None for the speech model; title: in messages; parts:
    submodules with a weights file each; hashed: tables that decide what a stream decodes to, None
    for all; shape: the sizes of the networks.
    """

    kind: ClassVar[str | None]
    title: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("encoder", "generator")
    hashed: ClassVar[tuple[str, ...] | None]
    shape: DataclassInstance
    model_id: str = ""

    @classmethod
    @abstractmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        """A model as its folder describes it, all but the weights of its parts.

        Raises LookupError, TypeError or ValueError when the folder does not describe one.
        """

    def described(self) -> dict[str, Any]:
        """What `model.json` says beside the shape."""
        return {}

    @abstractmethod
    def tables(self) -> Arrays:
        """The arrays of `entropy.safetensors`."""

    def part(self, name: str) -> Mapping[str, Tensor]:
        """The tensors in the file of a part."""
        state: Mapping[str, Tensor] = getattr(self, name).state_dict()
        return state

    def load_part(self, name: str, state: dict[str, Tensor]) -> None:
        """Take over what `part` gave. Raises RuntimeError or ValueError when it does not fit."""
        getattr(self, name).load_state_dict(state)


class FrameModel(Model):
    """A model of the speech codec; latents are rounded unless a subclass differs.

    family: the kind of speech presets that it serves; coders: entropy coders by name; qualities:
    number of rate points; penalty: the search's coupling, where no bit price sets it; reach: the
    largest magnitude of a latent; generator_past, encoder_past: how many latent steps before its
    own each network sees, None where the networks only take whole frames.
    """

    encoder: nn.Module
    generator: nn.Module
    prior: RateModel
    family: ClassVar[str]
    coders: dict[str, LatentCoder]
    qualities: int
    penalty: float | None = None
    reach: float = MAX_INDEX
    generator_past: int | None = None
    encoder_past: int = 0

    @abstractmethod
    def rate_weight(self, rate: float) -> float:
        """Lagrangian weight (cost per bit) at rate point r."""

    def quantise(self, z: Tensor, dead_zone: float = 0.0) -> Tensor:
        """Q: the allowed latents nearest to z."""
        return quantise(z, dead_zone)

    def rescale(self, latents: Tensor, rate: Tensor, new_rate: Tensor) -> Tensor:
        """Latents [B, S, C] of rate points [B] in the steps of others."""
        return latents

    def indices_of(self, latents: Tensor) -> NDArray[np.int8]:
        """Quantised latents to the symbols that the entropy coders write, same shape."""
        indices: NDArray[np.int8] = latents.to(torch.int8).cpu().numpy()
        return indices

    def latents_of(self, indices: NDArray[np.int8]) -> Tensor:
        """Symbols to quantised latents, same shape."""
        return torch.from_numpy(indices.astype(np.float32))

    def thin_out(self, indices: NDArray[np.int8]) -> NDArray[np.int8]:
        """A cheaper frame of symbols near the given one; the same when there is none."""
        return thin_out(indices)

    def frame_distance(self) -> FrameDistance:
        """F, which the search lowers, on the model's device."""
        from models.networks.speech_distance import FrameDistance

        return FrameDistance().to(next(self.parameters()).device)


class PriorModel(Model):
    """A model with a trained prior, and its fixed-point form for the entropy coder.

    context: that form, which an export sets; log_prices: what a bit costs at each rate anchor, as
    the logarithm that `model.json` stores under `prices_key`.
    """

    shape_type: ClassVar[type[Any]]
    context_type: ClassVar[type[ContextModel]]
    prices_key: ClassVar[str] = "log_prices"
    log_prices: list[float]
    prior: Any
    context: Any

    @classmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        model = cls(cls.shape_type(**sizes(description)))
        model.log_prices = finite(description[cls.prices_key], len(model.log_prices))
        prior = {key[6:]: value for key, value in tables.items() if key.startswith("prior.")}
        model.prior.load_state_dict(widened(tensors_of(prior)))
        channels = model.shape.channels  # type: ignore[attr-defined]
        model.context = context_of(cls.context_type, tables, channels)
        return model

    def described(self) -> dict[str, Any]:
        return {self.prices_key: self.log_prices}

    def networks(self) -> Self:
        """A new model with these networks and prices, for training: without entropy coders, which
        cannot be copied.
        """
        model = type(self)(self.shape)
        model.load_state_dict(self.state_dict())
        model.log_prices = self.log_prices
        return model

    def tables(self) -> Arrays:
        prior = {f"prior.{key}": v.numpy() for key, v in halved(self.prior.state_dict()).items()}
        return arrays_of("context", self.context) | prior


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are stored: on the CPU, contiguous, in half precision unless whole."""
    return {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }


def tensors_of(arrays: Arrays) -> dict[str, Tensor]:
    """Arrays as tensors, in the same memory."""
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors in single precision unless whole."""
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
