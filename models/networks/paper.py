"""Parts shared by both systems of Liu et al. (2020): the quantiser, its prices and static tables.

The speech networks are in `speech_paper`, those of pictures in `photo_paper`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.quads import QuadCounts
from codec.entropy.quantiser import MAX_LEVELS, Quantiser
from codec.entropy.static import LevelHuffmanCoder, SymbolCounts
from codec.search.problem import RateModel
from models.model import FrameModel
from models.stored import Arrays, finite, sizes

if TYPE_CHECKING:
    from typing_extensions import Self


def check_levels(levels: int, reach: float, largest_reach: float) -> None:
    """Raise ValueError unless the quantiser's sizes are bounded."""
    if not 2 <= levels <= MAX_LEVELS or not 0.0 < reach <= largest_reach:
        raise ValueError("paper levels or latent reach are out of range")


class OrderZeroPrior(nn.Module):
    """Lengths of the Huffman codes of the static table, linear between the centres.

    Not the ideal ones: a frame that takes a bit more than was counted may not be sent.
    """

    lengths: Tensor

    def __init__(self, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__()
        self.quantiser = quantiser
        lengths = LevelHuffmanCoder(counts, 1, 1).lengths
        self.register_buffer("lengths", torch.from_numpy(lengths).float(), persistent=False)

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of each latent of z [B, S, C], exact at the centres: [B, S, C]."""
        centres = self.quantiser.centres
        with torch.no_grad():
            above = torch.searchsorted(centres, z.contiguous()).clamp(1, len(centres) - 1)
        low, high = centres[above - 1], centres[above]
        share = ((z - low) / (high - low)).clamp(0.0, 1.0)
        return torch.lerp(self.lengths[above - 1], self.lengths[above], share)


class PairPrior(nn.Module):
    """Code lengths under the static tables of quads, as if all were pairs, bilinear between the
    centres.

    Successive steps are pairs, as in the entropy coder; each of the two gets half of the bits.
    """

    lengths: Tensor

    def __init__(self, quantiser: Quantiser, counts: QuadCounts) -> None:
        super().__init__()
        self.quantiser = quantiser
        self.rest = float(quantiser.centres[counts.rest])
        lengths = torch.from_numpy(counts.pair_bits().astype(np.float32))
        self.register_buffer("lengths", lengths, persistent=False)

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of each latent of z [B, S, C], about: [B, S, C]."""
        steps = z.shape[1]
        if steps % 2:
            z = torch.cat((z, torch.full_like(z[:, :1], self.rest)), 1)
        pairs = pair_bits(z[:, 0::2], z[:, 1::2], self.quantiser.centres, self.lengths)
        return (0.5 * pairs).repeat_interleave(2, 1)[:, :steps]


def pair_bits(first: Tensor, second: Tensor, centres: Tensor, lengths: Tensor) -> Tensor:
    """Bits of pairs of latents by their lengths [levels, levels] at the centres, bilinear between
    those; in the shape of both.
    """
    count = len(centres)
    places = []
    for z in (first, second):
        with torch.no_grad():
            above = torch.searchsorted(centres, z.contiguous()).clamp(1, count - 1)
        low, high = centres[above - 1], centres[above]
        places.append((above - 1, ((z - low) / (high - low)).clamp(0.0, 1.0)))
    (row, down), (column, across) = places
    flat, at = lengths.reshape(-1), row * count + column
    upper = torch.lerp(flat[at], flat[at + 1], across)
    lower = torch.lerp(flat[at + count], flat[at + count + 1], across)
    return torch.lerp(upper, lower, down)


def static_tables(tables: Arrays) -> tuple[Quantiser, SymbolCounts]:
    """Centres and counts of a model folder. Raises LookupError or ValueError if they do not fit."""
    quantiser = Quantiser(tables["centres"])
    counts = SymbolCounts(np.ascontiguousarray(tables["counts"]))
    counts.check()
    if quantiser.levels != counts.levels:
        raise ValueError("there are other numbers of centres and of counts")
    return quantiser, counts


def static_arrays(quantiser: Quantiser, counts: SymbolCounts) -> Arrays:
    """Inverse of `static_tables`."""
    centres = np.ascontiguousarray(quantiser.centres.cpu().numpy())
    return {"centres": centres, "counts": counts.counts}


class StaticModel(FrameModel):
    """A system of the paper: one quantiser and one static table for all latents.

    Subclasses set `encoder` and `generator`. price: what a bit costs in the search, in units of F.
    """

    hashed: ClassVar[tuple[str, ...] | None] = ("centres", "counts")
    shape_type: ClassVar[type[Any]]
    qualities = 1
    penalty: float
    price: float

    def __init__(self, shape: Any, quantiser: Quantiser, counts: Any) -> None:
        super().__init__()
        self.shape = shape
        self.quantiser = quantiser
        self.counts = counts
        self.prior = self.prior_of(quantiser, counts)
        self.reach = shape.reach
        self.penalty, self.price = 5e-4, 1e-4

    @classmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        shape = cls.shape_type(**sizes(description))
        model = cls(shape, *cls.read_tables(tables))
        if model.counts.levels != shape.levels:
            raise ValueError("counts and description disagree about the number of levels")
        model.penalty, model.price = finite([description["penalty"], description["price"]], 2)
        channels_last(model)
        return model

    def described(self) -> dict[str, Any]:
        return {"penalty": self.penalty, "price": self.price}

    @staticmethod
    def prior_of(quantiser: Quantiser, counts: Any) -> RateModel:
        """What latents cost."""
        return OrderZeroPrior(quantiser, counts)

    @classmethod
    def read_tables(cls, tables: Arrays) -> tuple[Quantiser, Any]:
        """Inverse of `tables`. Raises LookupError or ValueError if they do not fit."""
        return static_tables(tables)

    def tables(self) -> Arrays:
        return static_arrays(self.quantiser, self.counts)

    def rate_weight(self, rate: float) -> float:
        """The price of a bit."""
        return self.price

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


def channels_last(network: nn.Module) -> None:
    """Lay out the convolutions' weights as the frames are laid out, in place."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
