"""The `paper` family as the codec loads it: networks, shared centres, static tables.

Its folder holds `model.json` (sizes, licence, model id), `encoder.safetensors` and
`generator.safetensors` (half precision) and `entropy.safetensors` (centres and symbol counts).
The model id is a hash of everything that decides what a stream decodes to.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.entropy.latent_coder import LatentCoder
from codec.entropy.quantiser import Quantiser
from codec.entropy.static import StaticHuffmanCoder, StaticRangeCoder, SymbolCounts
from codec.errors import BadInput
from models.family import CodecNetworks, Model, read_part
from models.networks.speech_paper import PaperEncoder, PaperGenerator, PaperShape, channels_last

KIND = "paper"
_TABLES = ("centres", "counts")


class OrderZeroPrior(nn.Module):
    """Ideal code lengths under the static table, linear between the centres."""

    lengths: Tensor

    def __init__(self, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__()
        self.quantiser = quantiser
        lengths = torch.from_numpy(counts.bits().astype(np.float32))
        self.register_buffer("lengths", lengths, persistent=False)

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of each latent of z [B, S, C], exact at the centres: [B, S, C]."""
        centres = self.quantiser.centres
        with torch.no_grad():
            above = torch.searchsorted(centres, z.contiguous()).clamp(1, len(centres) - 1)
        low, high = centres[above - 1], centres[above]
        share = ((z - low) / (high - low)).clamp(0.0, 1.0)
        return torch.lerp(self.lengths[above - 1], self.lengths[above], share)


class StoredShape(Protocol):
    """Sizes of networks, as `model.json` keeps them."""

    def to_json(self) -> dict[str, object]: ...


class StaticModel(CodecNetworks):
    """What all systems of the paper share: one quantiser and one static table for all latents.

    Subclasses set `encoder` and `generator`.
    """

    prior: OrderZeroPrior
    penalty: float

    def __init__(
        self, shape: StoredShape, quantiser: Quantiser, counts: SymbolCounts, reach: float
    ) -> None:
        super().__init__()
        self.shape = shape
        self.quantiser = quantiser
        self.counts = counts
        self.prior = OrderZeroPrior(quantiser, counts)
        self.reach = reach
        self.penalty = 2e-3

    def rate_weight(self, rate: float) -> float:
        """Zero: there is no rate term, the number of levels bounds the rate."""
        return 0.0

    def quantise(self, z: Tensor, dead_zone: float = 0.0) -> Tensor:
        """Q: nearest centre. The dead zone is for rounding quantisers and has no meaning here."""
        return self.quantiser(z)

    def indices_of(self, latents: Tensor) -> NDArray[np.int8]:
        """Indices of the centres, same shape."""
        indices: NDArray[np.int8] = self.quantiser.index(latents).to(torch.int8).cpu().numpy()
        return indices

    def latents_of(self, indices: NDArray[np.int8]) -> Tensor:
        """Centres of the indices, same shape, on the model's device."""
        return self.quantiser.value(torch.from_numpy(indices).to(self.quantiser.centres.device))

    def thin_out(self, indices: NDArray[np.int8]) -> NDArray[np.int8]:
        """Move the outermost 2 % of the indices one level inwards, where codes are shorter."""
        return self.quantiser.thin_out(indices)


class PaperModel(StaticModel):
    """The speech networks with quantiser and table, as the codec and its search use them."""

    encoder: PaperEncoder
    generator: PaperGenerator

    def __init__(self, shape: PaperShape, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__(shape, quantiser, counts, shape.reach)
        self.encoder = PaperEncoder(shape)
        self.generator = PaperGenerator(shape)


def _arrays(model: StaticModel) -> dict[str, NDArray[Any]]:
    centres = model.quantiser.centres.cpu().numpy()
    return {"centres": np.ascontiguousarray(centres), "counts": model.counts.counts}


def model_id(folder: Path, shape: dict[str, object]) -> str:
    """Hash of sizes, generator weights, centres and counts: 16 hex digits."""
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    digest.update((folder / "generator.safetensors").read_bytes())
    with safe_open(folder / "entropy.safetensors", "numpy") as file:
        for name in _TABLES:
            digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def save(model: StaticModel, folder: Path, about: dict[str, Any], kind: str = KIND) -> str:
    """Write a model folder, weights as float16; returns the model id."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encoder", "generator"):
        state = getattr(model, name).state_dict()
        half = {key: value.half().contiguous() for key, value in state.items()}
        save_file(half, folder / f"{name}.safetensors")
    save_numpy(_arrays(model), folder / "entropy.safetensors")
    shape = json.loads(json.dumps(model.shape.to_json()))
    identity = model_id(folder, shape)
    description = {"kind": kind, "shape": shape, "penalty": model.penalty, **about}
    description["model_id"] = identity
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    return identity


def load(folder: Path, description: dict[str, Any]) -> Model:
    """The model in a folder whose `model.json` is `description`.

    Raises BadInput, or KeyError, TypeError or ValueError when the description does not fit.
    """
    shape = PaperShape(**shape_fields(description))
    shape.check()
    quantiser, counts = read_tables(folder, shape.levels)
    networks = PaperModel(shape, quantiser, counts)
    fill(networks, folder, description)
    coders: dict[str, LatentCoder] = {
        "range": StaticRangeCoder(counts, shape.steps, shape.channels),
        "huffman": StaticHuffmanCoder(counts, shape.steps, shape.channels),
    }
    return Model(networks, coders, 1, str(description["model_id"]))


def shape_fields(description: dict[str, Any]) -> dict[str, Any]:
    """The sizes in a description, lists as tuples. Raises KeyError or AttributeError."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in description["shape"].items()
    }


def read_tables(folder: Path, levels: int) -> tuple[Quantiser, SymbolCounts]:
    """Centres and counts of a model folder. Raises KeyError or ValueError when they do not fit."""
    tables = read_part(folder / "entropy.safetensors")
    quantiser = Quantiser(tables["centres"].numpy())
    counts = SymbolCounts(tables["counts"].numpy())
    counts.check()
    if not quantiser.levels == counts.levels == levels:
        raise ValueError("centres, counts and description disagree about the number of levels")
    return quantiser, counts


def fill(networks: StaticModel, folder: Path, description: dict[str, Any]) -> None:
    """Load the weights of a folder into a model, ready for use.

    Raises BadInput when they are not those of the description, RuntimeError when they do not fit.
    """
    for name in ("encoder", "generator"):
        part = read_part(folder / f"{name}.safetensors")
        getattr(networks, name).load_state_dict({key: v.float() for key, v in part.items()})
    if model_id(folder, description["shape"]) != description["model_id"]:
        raise BadInput(f"{folder}: weights do not match their model id; reinstall the model")
    networks.penalty = float(description["penalty"])
    networks.requires_grad_(False).eval()
    channels_last(networks)
