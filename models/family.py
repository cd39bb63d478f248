"""What the codec needs of a model family, whatever networks, quantiser and coders it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.entropy.latent_coder import LatentCoder
from codec.entropy.quantiser import thin_out
from codec.entropy.speech_context import MAX_INDEX
from codec.errors import BadInput
from codec.search.admm import Prior as SearchPrior
from codec.search.admm import quantise

MAX_FILE_BYTES = 64 << 20
MAX_DESCRIPTION_BYTES = 1 << 20


class CodecNetworks(nn.Module):
    """What the codec needs of a family's networks; latents are rounded unless a family differs."""

    encoder: nn.Module
    generator: nn.Module
    prior: SearchPrior
    penalty: float | None = None  # the search's coupling, where no bit price sets it
    reach: float = MAX_INDEX  # largest magnitude of a latent

    def rate_weight(self, rate: float) -> float:
        """Lagrangian weight (cost per bit) at rate point r."""
        raise NotImplementedError

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


@contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever the reading of a broken model folder raises into BadInput with one line."""
    try:
        yield
    except (
        OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError,
        MemoryError, SafetensorError,
    ) as error:  # fmt: skip
        # torch explains itself over many lines.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot load {what} from {folder}: {reason}") from error


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` says. Raises ValueError when it is no description or too large."""
    path = folder / "model.json"
    if path.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise ValueError("model.json is larger than any description may be")
    description = json.loads(path.read_text())
    if not isinstance(description, dict):
        raise ValueError("model.json holds no description")
    return description


def finite(numbers: Any, count: int) -> list[float]:
    """Numbers of a description, checked. Raises TypeError or ValueError when they are others."""
    found = [float(v) for v in numbers]
    if len(found) != count or not np.isfinite(found).all():
        raise ValueError(f"the description has other than {count} numbers")
    return found


def read_part(path: Path) -> dict[str, Tensor]:
    """The tensors of one file of a model folder. Raises BadInput when it is too large."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadInput(f"{path}: larger than any model file may be")
    return load_file(path)


@dataclass(frozen=True)
class Model:
    """A loaded model family: networks for the search, entropy coders for the bitstream.

    qualities: how many rate points it has; packets carry 0..qualities-1.
    """

    networks: CodecNetworks
    coders: dict[str, LatentCoder]
    qualities: int
    model_id: str
