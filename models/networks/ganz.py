"""The networks of GANZ: the BEGAN generator (Berthelot et al. 2017) and its discriminator.

A generator is a linear layer from d latents to features h0 on a grid of 8x8 positions with n
channels, and a convolutional module: two 3x3 convolutions with ELU at every size from 8x8 to
128x128, nearest-neighbour upsampling between. Unlike in the paper

- finer maps have fewer channels;
- a *linear synthesis*, which starts as a lapped transform, draws the picture, and the convolutions
  learn what to add to it: without it little is learnt in hours;
- they see its picture at the three finest sizes, and add to it from each of them;
- what they see and what they add is in units of the *level*, the estimated error of the linear
  synthesis, so that one restoration serves all ratios;
- the second convolution of every size is added to what it sees;
- h0 can have *details*, further channels of the linear synthesis that the latents of the paper do
  not reach.

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
from models.networks.common import start_at_zero
from models.networks.first_layer import (
    GRID,
    SMOOTH,
    ChosenFirstLayer,
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
# Pixels across a position of the three finest sizes, where the convolutions see the picture.
_FINEST = (4, 2, 1)
_BLUR = 9  # pixels across; the convolutions see what is left of the picture without its blur
_PIXELS_PER_LEVEL = 0.2  # the error of pixels where the smallest entry kept is 1
_START = 0.7  # of the convolutions' weights, relative to those that keep the size of what they see
_NOTHING = 1e-4  # keeps the level of an even picture above 0
_MOST = 3.0  # the largest correction of its logarithm


@dataclass(frozen=True)
class GanzShape:
    """Sizes of the networks; stored with the weights.

    latents: d_t, of the trained first layer; widths: channels at 8x8, 16x16, ... 128x128 positions,
    the first of them, which h0 has too, a power of two; details: channels beside h0.
    """

    latents: int = 64
    widths: tuple[int, ...] = (128, 96, 64, 32, 16)
    details: int = 256

    def __post_init__(self) -> None:
        first = self.widths[0] if self.widths else 0
        if len(self.widths) != 5 or min(self.widths) < 1 or max(self.widths) > 1024:
            raise ValueError("widths are five numbers of channels")
        if first & (first - 1) or not 1 <= self.latents <= self.features:
            raise ValueError("the features are no power of two, or fewer than the latents")
        if not 0 <= self.details <= COLOURS * STRIDE * STRIDE - first:
            raise ValueError("there are more details than functions of a lapped transform")

    @property
    def features(self) -> int:
        """Numbers in h0."""
        return self.widths[0] * GRID * GRID

    @property
    def channels(self) -> int:
        """Of the linear synthesis: h0's and the details."""
        return self.widths[0] + self.details

    @property
    def entries(self) -> int:
        """Numbers in h0 and its details, from which places are chosen."""
        return self.channels * GRID * GRID

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


class Level(nn.Module):
    """How small the entries of h0 and its details get, which tells the error of their picture.

    Where a picture's largest entries are kept, those left out are smaller than all of these. The
    level is half the mean magnitude, corrected by a network for how magnitudes are distributed.
    """

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, hidden), nn.Linear(hidden, 1)
        start_at_zero(self.leave)

    def forward(self, h: Tensor) -> Tensor:
        """h: [B, c, 8, 8], in linear units -> [B, 1, 1, 1]."""
        rough = h[:, SMOOTH:].float()
        kept = (rough != 0.0).sum((1, 2, 3)).clamp_min(1)
        mean = rough.abs().sum((1, 2, 3)) / kept + _NOTHING
        power = rough.square().sum((1, 2, 3)) / kept + _NOTHING**2
        share = kept / rough[0].numel()
        features = torch.stack((mean.log() + 2.5, 0.5 * power.log() + 2.0, share.log() + 2.0), 1)
        correction = self.leave(F.elu(self.enter(features)))[:, 0].clamp(-_MOST, _MOST)
        return (0.5 * mean * correction.exp())[:, None, None, None]


class Convolutions(nn.Module):
    """The convolutional module: features h0 [B, n, 8, 8], about 1 in size, to pixels.

    h0 may have its details behind it [B, c, 8, 8]; those that it lacks are 0.
    """

    spread: Tensor

    def __init__(self, shape: GanzShape) -> None:
        super().__init__()
        self.linear = Lapped(shape.channels)
        self.register_buffer("spread", torch.ones(shape.channels))  # of h0 in linear units
        self.level = Level()
        self.layers = nn.ModuleList()
        before = shape.channels
        for width in shape.widths:
            self.layers.append(nn.Conv2d(before, width, 3, padding=1))
            self.layers.append(nn.Conv2d(width, width, 3, padding=1))
            before = width
        finest = list(zip(shape.widths[-len(_FINEST) :], _FINEST, strict=True))
        self.images = nn.ModuleList(nn.Conv2d(COLOURS * s * s, w, 1) for w, s in finest)
        self.leave = nn.ModuleList(nn.Conv2d(w, COLOURS * s * s, 1) for w, s in finest)
        with torch.no_grad():
            for layer in self.layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
                layer.weight.mul_(_START)  # type: ignore[operator]
                layer.bias.zero_()  # type: ignore[operator]
            for layer in self.leave:
                start_at_zero(layer)

    def draw(self, h: Tensor) -> Tensor:
        """The linear synthesis alone: [B, n, 8, 8] -> [B, 3, 128, 128]."""
        picture: Tensor = self.linear(self._in_linear_units(h))
        return picture + 0.5

    def _in_linear_units(self, h: Tensor) -> Tensor:
        """h0 with all of its details: [B, c, 8, 8]."""
        whole = F.pad(h, (0, 0, 0, 0, 0, len(self.spread) - h.shape[1]))
        return whole * self.spread[:, None, None]

    def forward(self, h: Tensor) -> Tensor:
        """[B, n, 8, 8] -> [B, 3, 128, 128], nominally in [0, 1]."""
        h = self._in_linear_units(h)
        picture: Tensor = self.linear(h)
        level = self.level(h)
        unit = _PIXELS_PER_LEVEL * level
        blur = F.avg_pool2d(picture, _BLUR, 1, _BLUR // 2, count_include_pad=False)
        # Few entries and pixels are many levels in size.
        y, seen = torch.asinh(h / level), torch.asinh((picture - blur) / unit)
        drawn = picture.float() + 0.5
        coarse = len(self.layers) // 2 - len(_FINEST)
        for size in range(len(self.layers) // 2):
            if size:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
            y, fine = self.layers[2 * size](y), size - coarse
            if fine >= 0:
                y = y + self.images[fine](F.pixel_unshuffle(seen, _FINEST[fine]))
            y = F.elu(y)
            y = y + F.elu(self.layers[2 * size + 1](y))
            if fine >= 0:
                added = F.pixel_shuffle(self.leave[fine](y), _FINEST[fine])
                drawn = drawn + unit * added.float()
        return drawn


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
        features = self.analysis.transposed(x).float()
        features = features / self.decoder.spread[: features.shape[1], None, None]
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
        """The first layer whose latents reach `places`; flags: of `ChosenFirstLayer`.

        Raises ValueError when there is no such layer.
        """
        first, every = self.generator.first, self.generator.body.spread
        spread = every[: self.shape.widths[0]]
        mean = first.mean.detach()
        layer: FirstLayer
        if places == "dense":
            layer = DenseFirstLayer(latents, self.scales, mean, spread)
        elif places == "keep":
            layer = TrainedFirstLayer(first.weight.detach(), mean, spread)
        elif places == "none":
            layer = NoFirstLayer(spread)
        elif flags is not None:
            layer = ChosenFirstLayer(torch.from_numpy(flags), mean, every)
        else:
            layer = PlacedFirstLayer(latents, self.scales, mean, spread)
        if layer.latents != latents:
            raise ValueError(f"this layer has {layer.latents} latents, not {latents}")
        return layer.to(self.scales.device)
