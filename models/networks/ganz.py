"""The networks of GANZ: the BEGAN generator (Berthelot et al. 2017) and its discriminator.

A generator is a linear layer from d latents to features h0 on a grid of 8x8 positions with n
channels, and a convolutional module: two 3x3 convolutions with ELU at every size from 8x8 to
128x128, nearest-neighbour upsampling between. Unlike in the paper, finer maps have fewer channels,
and a *linear synthesis*, which starts as a lapped transform, runs beside the convolutions: without
it little is learnt in hours.

The first layer is diagonal in the DCT of h0 over the grid, so that random latents give features
that vary as slowly from position to position as those of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.image.container import STRIDE
from models.model import Model, sizes
from models.networks.paper import static_arrays, static_tables
from models.networks.photo import COLOURS, lapped_analysis, lapped_synthesis
from models.networks.random_layer import RandomLayer

if TYPE_CHECKING:
    from typing_extensions import Self

GRID = 8
SIDE = 128
PIXELS = SIDE * SIDE * COLOURS  # N of the paper
SMALLEST_RATIO, LARGEST_RATIO = 6, 768


@dataclass(frozen=True)
class GanzShape:
    """Sizes of the networks; stored with the weights.

    latents: d_t, of the trained first layer; widths: channels at 8x8, 16x16, ... 128x128 positions,
    the first of them a power of two.
    """

    latents: int = 64
    widths: tuple[int, ...] = (128, 96, 64, 32, 16)

    def __post_init__(self) -> None:
        first = self.widths[0] if self.widths else 0
        if len(self.widths) != 5 or min(self.widths) < 1 or max(self.widths) > 1024:
            raise ValueError("widths are five numbers of channels")
        if first & (first - 1) or not 1 <= self.latents <= self.features:
            raise ValueError("the features are no power of two, or fewer than the latents")

    @property
    def features(self) -> int:
        """Numbers in h0."""
        return self.widths[0] * GRID * GRID

    @property
    def most_latents(self) -> int:
        """Of a random first layer."""
        return min(PIXELS // SMALLEST_RATIO, self.features)


def grid_dct() -> Tensor:
    """The orthonormal DCT-II matrix of the grid's side, [8, 8]."""
    n = torch.arange(GRID, dtype=torch.float64)
    matrix = math.sqrt(2.0 / GRID) * torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * GRID))
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()


class Lapped(nn.Module):
    """A linear synthesis: features [B, n, 8, 8] to pixels, each by 32x32 of them around its place.

    Beyond the outermost positions the picture is taken for its mirror image, which `signs` (of the
    channels, across and down) makes of the features.
    """

    signs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(channels, COLOURS * STRIDE * STRIDE, 2, 2))
        self.register_buffer("signs", torch.ones(2, channels))

    def forward(self, h: Tensor) -> Tensor:
        """[B, n, 8, 8] -> [B, 3, 128, 128]."""
        return lapped_synthesis(h, self.basis, self.signs)

    def transposed(self, x: Tensor) -> Tensor:
        """[B, 3, 128, 128] -> [B, n, 8, 8]; the inverse while the basis is orthonormal."""
        return lapped_analysis(x, self.basis)


class Convolutions(nn.Module):
    """The convolutional module: features h0 [B, n, 8, 8], about 1 in size, to pixels."""

    spread: Tensor

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.linear = Lapped(shape.widths[0])
        self.register_buffer("spread", torch.ones(shape.widths[0]))  # of h0 in linear units
        self.layers = nn.ModuleList()
        before = shape.widths[0]
        for width in shape.widths:
            self.layers.append(nn.Conv2d(before, width, 3, padding=1))
            self.layers.append(nn.Conv2d(width, width, 3, padding=1))
            before = width
        self.leave = nn.Conv2d(before, COLOURS, 3, padding=1)
        with torch.no_grad():
            for layer in self.layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            self.leave.weight.zero_()
            self.leave.bias.zero_()  # type: ignore[union-attr]

    def draw(self, h: Tensor) -> Tensor:
        """The linear synthesis alone: [B, n, 8, 8] -> [B, 3, 128, 128]."""
        picture: Tensor = self.linear(h * self.spread[:, None, None])
        return picture + 0.5

    def forward(self, h: Tensor) -> Tensor:
        """[B, n, 8, 8] -> [B, 3, 128, 128], nominally in [0, 1]."""
        y = h
        for number, layer in enumerate(self.layers):
            if number and number % 2 == 0:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.elu(layer(y))
        return self.draw(h).float() + self.leave(y).float()


class FirstLayer(nn.Module):
    """The trained linear layer, latents [B, d_t] in [-1, 1] to h0."""

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape.features, shape.latents))
        self.mean = nn.Parameter(torch.zeros(shape.features))

    def forward(self, z: Tensor) -> Tensor:
        """-> [B, n, 8, 8]."""
        return as_grid(z.float() @ self.weight.T + self.mean)


def as_grid(spectrum: Tensor) -> Tensor:
    """DCT numbers of h0 [B, n * 64] to h0 [B, n, 8, 8]."""
    dct = grid_dct().to(spectrum.device)
    return dct.T @ spectrum.reshape(len(spectrum), -1, GRID, GRID) @ dct


def as_spectrum(h: Tensor) -> Tensor:
    """Inverse of `as_grid`."""
    dct = grid_dct().to(h.device)
    return (dct @ h @ dct.T).reshape(len(h), -1)


def reach_order(scales: Tensor, spread: Tensor) -> Tensor:
    """The numbers of h0's DCT [n * 64] from the one that makes the most difference to pictures.

    scales, spread: as `RandomFirstLayer` takes them.
    """
    # On the CPU and stable: the order is part of what a file means.
    weights = scales.cpu() * spread.cpu().repeat_interleave(GRID * GRID)
    return weights.argsort(descending=True, stable=True)


class RandomFirstLayer(nn.Module):
    """The random first layer at compression time, latents [B, d_c] about 1 in size to h0.

    d_c latents reach as many numbers of h0's DCT over the grid: those that make the most difference
    to photographs in general, scaled to the statistics of photographs, or those chosen for one
    picture, all in units of the picture, so that the error of quantised latents is spread evenly.
    """

    scales: Tensor
    units: Tensor
    mean: Tensor
    where: Tensor

    def __init__(
        self,
        latents: int,
        scales: Tensor,
        mean: Tensor,
        spread: Tensor,
        chosen: Tensor | None = None,
    ) -> None:
        """scales, mean: [n * 64], of h0's DCT; spread: [n], of its channels in `Convolutions`;
        chosen: flags of the first numbers in `reach_order`, one for each number reached."""
        super().__init__()
        self.random = RandomLayer(latents)
        order = reach_order(scales, spread)
        where = order[:latents] if chosen is None else order[: len(chosen)][chosen.cpu().bool()]
        if len(where) != latents:
            raise ValueError(f"{latents} latents cannot reach {len(where)} numbers")
        self.register_buffer("where", where.to(scales.device))
        units = spread.repeat_interleave(GRID * GRID)[self.where]
        self.register_buffer("units", units)  # of the numbers reached, in the linear synthesis
        self.register_buffer("scales", scales[self.where] if chosen is None else 1.0 / units)
        self.register_buffer("mean", mean)

    def forward(self, z: Tensor) -> Tensor:
        """-> [B, n, 8, 8]."""
        moved = z.new_zeros(len(z), len(self.mean))
        moved = moved.index_copy(1, self.where, self.scales * self.random(z))
        return as_grid(moved + self.mean)

    def inverse(self, h: Tensor) -> Tensor:
        """The latents [B, d_c] whose h0 is nearest to h [B, n, 8, 8] in what they reach."""
        wanted = (as_spectrum(h) - self.mean)[:, self.where] / self.scales
        latents: Tensor = self.random.transposed(wanted)
        return latents


class Discriminator(nn.Module):
    """BEGAN's D: an auto-encoder of pictures with d_t numbers in the middle."""

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.decoder = Convolutions(shape)
        self.first = FirstLayer(shape)
        self.analysis = Lapped(shape.widths[0])
        self.code = nn.Linear(shape.features, shape.latents)
        self.enter = nn.Conv2d(COLOURS, shape.widths[-1], 3, padding=1)
        self.layers = nn.ModuleList()
        before = shape.widths[-1]
        for width in reversed(shape.widths[:-1]):
            self.layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            self.layers.append(nn.Conv2d(width, width, 3, padding=1))
            before = width
        with torch.no_grad():
            nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 128, 128] in [0, 1] -> the same, through d_t numbers."""
        x = x - 0.5
        y = F.elu(self.enter(x))
        for layer in self.layers[:-1]:
            y = F.elu(layer(y))
        features = self.analysis.transposed(x).float() / self.decoder.spread[:, None, None]
        h = features + self.layers[-1](y).float()
        picture: Tensor = self.decoder(self.first(self.code(as_spectrum(h))))
        return picture

    def error(self, x: Tensor) -> Tensor:
        """L(x), the mean absolute reconstruction error: [B]."""
        return (self(x) - x).abs().mean((1, 2, 3))


class Generator(nn.Module):
    """The trained generator: first layer and convolutional module."""

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.shape = shape
        self.first = FirstLayer(shape)
        self.body = Convolutions(shape)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, d_t] in [-1, 1] -> [B, 3, 128, 128]."""
        picture: Tensor = self.body(self.first(z))
        return picture


class GanzModel(Model):
    """A generator and what the random first layers and the coded form of its latents need.

    scales: [n * 64] (`RandomFirstLayer`); quantiser, counts: of latents over their tile's size.
    """

    kind = "ganz"
    title = "GANZ"
    parts = ("generator",)
    hashed = None
    shape: GanzShape
    scales: Tensor

    def __init__(
        self, generator: Generator, scales: Tensor, quantiser: Quantiser, counts: SymbolCounts
    ) -> None:
        super().__init__()
        self.shape = generator.shape
        self.generator, self.quantiser, self.counts = generator, quantiser, counts
        self.register_buffer("scales", scales)

    @classmethod
    def restored(cls, description: dict[str, Any], tables: dict[str, Tensor]) -> Self:
        generator = Generator(GanzShape(**sizes(description)))
        scales = torch.ones(generator.shape.features)
        return cls(generator, scales, *static_tables(tables))

    def tables(self) -> dict[str, NDArray[Any]]:
        return static_arrays(self.quantiser, self.counts)

    def part(self, name: str) -> dict[str, Tensor]:
        return {**self.generator.state_dict(), "scales": self.scales}

    def load_part(self, name: str, state: dict[str, Tensor]) -> None:
        scales = state.pop("scales")
        finite = all(bool(torch.isfinite(v).all()) for v in (scales, *state.values()))
        if scales.shape != self.scales.shape or not finite or scales.min() <= 0:
            raise ValueError("weights out of range")
        self.generator.load_state_dict(state)
        self.scales.copy_(scales)

    def first_layer(self, latents: int, flags: NDArray[np.uint8] | None = None) -> RandomFirstLayer:
        """The random first layer of d_c latents; flags: `chosen` of `RandomFirstLayer`.

        Raises ValueError when there is no such layer.
        """
        chosen = None if flags is None else torch.from_numpy(flags)
        mean, spread = self.generator.first.mean.detach(), self.generator.body.spread
        layer = RandomFirstLayer(latents, self.scales, mean, spread, chosen)
        return layer.to(self.scales.device)
