"""Parts shared by both systems of Liu et al. (2020): blocks, bounded latents, static tables.

The speech networks are in `speech_paper`, those of pictures in `photo_paper`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from models.model import FrameModel
from models.networks.common import start_at_zero
from models.stored import Arrays, finite, sizes

if TYPE_CHECKING:
    from typing_extensions import Self

SLOPE = 0.1  # of the leaky rectifiers, below zero

Three = tuple[int, int, int]


def compress(v: Tensor, reach: float) -> Tensor:
    """Any numbers to within ±reach, nearly unchanged when small."""
    return reach * torch.tanh(v / reach)


def expand(z: Tensor, reach: float) -> Tensor:
    """Inverse of `compress`, bounded at ±2.3 reach: even levels in z are uneven ones here."""
    return reach * torch.atanh((z / reach).clamp(-0.98, 0.98))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around the identity; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, width, H, W] -> the same shape."""
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))


def encoder_body(pixels: int, widths: Three, blocks: Three) -> nn.Sequential:
    """Maps in cells of 4x4 `pixels` numbers, twice halved.

    widths, blocks: from the coarsest maps on.
    """
    low, middle, high = widths
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(4),
        nn.Conv2d(pixels, high, 3, padding=1),
        *refining(high, blocks[2]),
    ]
    for before, after, count in ((high, middle, blocks[1]), (middle, low, blocks[0])):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *refining(after, count)]
    return nn.Sequential(*layers)


def rising(widths: Three, blocks: Three) -> list[nn.Module]:
    """Layers from the coarsest maps to maps of four times as many positions a side."""
    low, middle, high = widths
    layers: list[nn.Module] = []
    for before, after, count in ((low, middle, blocks[0]), (middle, high, blocks[1])):
        layers += [ResidualBlock(before) for _ in range(count)]
        layers += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return layers


def refining(width: int, blocks: int) -> list[nn.Module]:
    """Residual blocks on maps of one size."""
    return [*(ResidualBlock(width) for _ in range(blocks)), nn.LeakyReLU(SLOPE)]


@dataclass(frozen=True)
class StaticShape:
    """Sizes of the networks of both systems; widths and blocks from the coarsest maps on."""

    channels: int
    levels: int
    reach: float
    encoder_widths: Three
    encoder_blocks: Three
    generator_widths: Three
    generator_blocks: Three
    largest_reach: ClassVar[float]

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit together and are bounded."""
        sizes = (*self.encoder_widths, *self.generator_widths, self.channels)
        if len(sizes) != 7 or not all(1 <= size <= 512 for size in sizes):
            raise ValueError("paper network sizes are out of range")
        blocks = (*self.encoder_blocks, *self.generator_blocks)
        if len(blocks) != 6 or not all(0 <= n <= 16 for n in blocks):
            raise ValueError("paper network depths are out of range")
        if not 2 <= self.levels <= 128 or not 0.0 < self.reach <= self.largest_reach:
            raise ValueError("paper levels or latent reach are out of range")


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

    Subclasses set `encoder` and `generator`.
    """

    hashed = ("centres", "counts")
    shape_type: ClassVar[type[StaticShape]]
    qualities = 1
    prior: OrderZeroPrior
    penalty: float

    def __init__(self, shape: Any, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__()
        self.shape = shape
        self.quantiser = quantiser
        self.counts = counts
        self.prior = OrderZeroPrior(quantiser, counts)
        self.reach = shape.reach
        self.penalty = 2e-3

    @classmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        shape = cls.shape_type(**sizes(description))
        model = cls(shape, *static_tables(tables))
        if model.counts.levels != shape.levels:
            raise ValueError("counts and description disagree about the number of levels")
        (model.penalty,) = finite([description["penalty"]], 1)
        channels_last(model)
        return model

    def described(self) -> dict[str, Any]:
        return {"penalty": self.penalty}

    def tables(self) -> Arrays:
        return static_arrays(self.quantiser, self.counts)

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


def channels_last(network: nn.Module) -> None:
    """Lay out the convolutions' weights as the frames are laid out, in place."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
