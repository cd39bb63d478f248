"""The networks of GANZ: the BEGAN generator (Berthelot et al. 2017) and its discriminator.

A generator is a linear layer from d latents to features h0 on a grid of 8x8 positions with n
channels, and a convolutional module: two 3x3 convolutions with ELU at every size from 8x8 to
128x128, nearest-neighbour upsampling between. Unlike in the paper, finer maps have fewer channels,
and a *linear synthesis*, which starts as a lapped transform, runs beside the convolutions: without
it little is learnt in hours.

`models.networks.first_layer` has the layers that a picture can be coded with.
"""

from __future__ import annotations

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
from codec.image.settings import Places
from models.model import Model
from models.networks.first_layer import (
    GRID,
    DenseFirstLayer,
    FirstLayer,
    NoFirstLayer,
    PlacedFirstLayer,
    TrainedFirstLayer,
    as_grid,
    as_spectrum,
)
from models.networks.paper import static_arrays, static_tables
from models.networks.photo import COLOURS, lapped_analysis, lapped_synthesis
from models.stored import Arrays, sizes

if TYPE_CHECKING:
    from typing_extensions import Self

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

    @property
    def random_latents(self) -> tuple[int, int]:
        """The range of a random first layer's latents in training."""
        return min(PIXELS // LARGEST_RATIO, self.latents), self.most_latents


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


class LinearLayer(nn.Module):
    """The linear layer under training, latents [B, d_t] in [-1, 1] to h0."""

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape.features, shape.latents))
        self.mean = nn.Parameter(torch.zeros(shape.features))

    def forward(self, z: Tensor) -> Tensor:
        """-> [B, n, 8, 8]."""
        return as_grid(z.float() @ self.weight.T + self.mean)


class Discriminator(nn.Module):
    """BEGAN's D: an auto-encoder of pictures with d_t numbers in the middle."""

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.decoder = Convolutions(shape)
        self.first = LinearLayer(shape)
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
        self.first = LinearLayer(shape)
        self.body = Convolutions(shape)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, d_t] in [-1, 1] -> [B, 3, 128, 128]."""
        picture: Tensor = self.body(self.first(z))
        return picture


class GanzModel(Model):
    """A generator and what the random first layers and the coded form of its latents need.

    scales: [n * 64] (`PlacedFirstLayer`); quantiser, counts: of latents over their tile's size.
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
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        generator = Generator(GanzShape(**sizes(description)))
        scales = torch.ones(generator.shape.features)
        return cls(generator, scales, *static_tables(tables))

    def tables(self) -> Arrays:
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

    def first_layer(
        self, latents: int, places: Places = "fixed", flags: NDArray[np.uint8] | None = None
    ) -> FirstLayer:
        """The first layer whose latents reach `places`; flags: `chosen` of `PlacedFirstLayer`.

        Raises ValueError when there is no such layer.
        """
        first, spread = self.generator.first, self.generator.body.spread
        mean = first.mean.detach()
        layer: FirstLayer
        if places == "dense":
            layer = DenseFirstLayer(latents, self.scales, mean, spread)
        elif places == "keep":
            layer = TrainedFirstLayer(first.weight.detach(), mean, spread)
        elif places == "none":
            layer = NoFirstLayer(spread)
        else:
            chosen = None if flags is None else torch.from_numpy(flags)
            layer = PlacedFirstLayer(latents, self.scales, mean, spread, chosen)
        if layer.latents != latents:
            raise ValueError(f"this layer has {layer.latents} latents, not {latents}")
        return layer.to(self.scales.device)
