"""Networks of the image preset `paper`: the shape of Liu et al. (2020), on a linear start.

Notation: B images in a batch, cells are squares of 16 pixels, h x w of them, C = 13 latents per
cell, so that a 768x512 picture has 13 * 48 * 32 = 19 968 of them (the paper's vector of 20 000).
The generator takes latents through residual blocks and transposed convolutions from one position
per cell to two and four a side; the encoder mirrors it with strided convolutions.

As in `speech_paper`, the convolutions correct a *linear* transform (here the most important
functions of the lapped transform of `models.networks.photo`), and tanh bounds the latents. A fixed
matrix scales and mixes the channels of a cell, so that latents of the same levels matter the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.image.container import STRIDE
from models.networks.common import start_at_zero
from models.networks.paper import (
    StaticModel,
    StaticShape,
    Three,
    compress,
    encoder_body,
    expand,
    refining,
    rising,
)
from models.networks.photo import COLOURS, lapped_analysis, lapped_synthesis

if TYPE_CHECKING:
    from codec.image.presets import Tune
    from models.networks.image_distance import PaperDistance

FOLD = 4  # pixels a side that one position of the finest maps stands for
_PIXELS = COLOURS * FOLD * FOLD


@dataclass(frozen=True)
class PaperImageShape(StaticShape):
    """Sizes of the networks; stored with the weights. Widths are at 16, 8 and 4 pixels."""

    channels: int = 13
    levels: int = 64
    reach: float = 32.0
    encoder_widths: Three = (128, 64, 32)
    encoder_blocks: Three = (1, 1, 0)
    generator_widths: Three = (128, 64, 32)
    generator_blocks: Three = (2, 1, 1)
    largest_reach = 128.0


def mixed(z: Tensor, matrix: Tensor) -> Tensor:
    """A matrix [C, C] times the channels of every cell of z [B, C, h, w]."""
    return F.conv2d(z, matrix[:, :, None, None])


class PaperImageEncoder(nn.Module):
    """E(x): picture to bounded latents, the warm start of the search."""

    mixing: Tensor

    def __init__(self, shape: PaperImageShape) -> None:
        super().__init__()
        self.shape = shape
        self.basis = nn.Parameter(torch.zeros(shape.channels, COLOURS * STRIDE * STRIDE, 2, 2))
        self.register_buffer("mixing", torch.eye(shape.channels))
        self.body = encoder_body(_PIXELS, shape.encoder_widths, shape.encoder_blocks)
        self.leave = nn.Conv2d(shape.encoder_widths[0], shape.channels, 1)
        start_at_zero(self.leave)

    @property
    def sight(self) -> int:
        """How many cells away a pixel can make a difference."""
        deep, mid, shallow = self.shape.encoder_blocks
        pixels = FOLD * (2 * shallow + 3) + 8 * (2 * mid + 2) + 16 * 2 * deep
        return math.ceil(pixels / STRIDE)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, 3, 16h, 16w] in [0, 1], rate: [B], unused -> latents [B, C, h, w] in ±reach."""
        x = x - 0.5
        linear = mixed(lapped_analysis(x, self.basis), self.mixing)
        # In units of a tenth of the reach: corrections of several levels are soon learnt.
        correction = 0.1 * self.shape.reach * self.leave(self.body(x))
        return compress((linear + correction).float(), self.shape.reach)


class PaperImageGenerator(nn.Module):
    """G(z): latents to a picture; a linear synthesis plus a convolutional residual."""

    signs: Tensor
    mixing: Tensor
    smooth: Tensor

    def __init__(self, shape: PaperImageShape) -> None:
        super().__init__()
        self.shape = shape
        low, _, high = shape.generator_widths
        self.basis = nn.Parameter(torch.zeros(shape.channels, COLOURS * STRIDE * STRIDE, 2, 2))
        self.register_buffer("signs", torch.ones(2, shape.channels))
        self.register_buffer("mixing", torch.eye(shape.channels))
        self.register_buffer("smooth", torch.ones(shape.channels))
        self.body = nn.Sequential(
            nn.Conv2d(shape.channels, low, 3, padding=1),
            *rising(shape.generator_widths, shape.generator_blocks),
        )
        self.draft = nn.Conv2d(_PIXELS, high, 1)
        self.finish = nn.Sequential(
            *refining(high, shape.generator_blocks[2]),
            nn.Conv2d(high, _PIXELS, 3, padding=1),
        )
        start_at_zero(self.finish[-1])

    @property
    def sight(self) -> int:
        """How many cells away a latent can make a difference."""
        deep, mid, shallow = self.shape.generator_blocks
        pixels = FOLD * (2 * shallow + 1) + 8 * (2 * mid + 1) + 16 * (2 * deep + 2)
        return math.ceil(pixels / STRIDE)

    def forward(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, C, h, w] latents, rate: [B], unused -> [B, 3, 16h, 16w], nominally in [0, 1]."""
        linear = lapped_synthesis(self._unmixed(z), self.basis, self.signs)
        h = self.body(z / (0.4 * self.shape.reach))
        h = h + self.draft(F.pixel_unshuffle(linear, FOLD))
        return (linear + F.pixel_shuffle(self.finish(h), FOLD)).float() + 0.5

    def _unmixed(self, z: Tensor) -> Tensor:
        """Coefficients of the lapped functions, [B, C, h, w]."""
        return mixed(expand(z, self.shape.reach), self.mixing)

    def smoothed(self, z: Tensor) -> Tensor:
        """Latents [B, C, h, w] that keep the mean colours of their cells and nothing else."""
        kept = self._unmixed(z) * self.smooth[:, None, None]
        return compress(mixed(kept, torch.linalg.inv(self.mixing)), self.shape.reach)


class PaperImageModel(StaticModel):
    """The image networks with quantiser and table, as the codec and its search use them."""

    kind = "image-paper"
    title = "photo-paper"
    shape_type = PaperImageShape
    shape: PaperImageShape
    encoder: PaperImageEncoder
    generator: PaperImageGenerator

    def __init__(self, shape: PaperImageShape, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__(shape, quantiser, counts)
        self.encoder = PaperImageEncoder(shape)
        self.generator = PaperImageGenerator(shape)

    def picture_distance(self, tune: Tune) -> PaperDistance:
        """F, which the search lowers."""
        from models.networks.image_distance import ALPHAS, PaperDistance

        return PaperDistance(ALPHAS[tune])
