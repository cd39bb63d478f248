"""What the codec needs of a model family, whatever networks, quantiser and coders it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.entropy import MAX_INDEX
from codec.errors import BadInput
from codec.latents import LatentCoder, thin_out
from codec.search import Prior as SearchPrior
from codec.search import quantise

MAX_FILE_BYTES = 64 << 20


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
