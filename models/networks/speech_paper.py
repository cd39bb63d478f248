"""Networks of the speech preset `paper`: the shape of Liu et al. (2020), on a linear start.

Notation: B frames in a batch, T = 128 hops, M = 128 mel bands, S = 8 latent steps (16 hops each),
C = 64 latents per step, so that a frame has 512. The generator takes latents on an 8x8 grid (time x
frequency) to 128x128 through transposed convolutions and residual blocks. The encoder mirrors it.

Unlike in the paper, the convolutions correct a *linear* transform (the principal components of
16-hop patches), and tanh bounds the latents to ±`reach`, in units of the mean quantisation step.
The linear synthesis undoes the tanh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import LevelHuffmanCoder, StaticRangeCoder, SymbolCounts
from models.networks.common import start_at_zero
from models.networks.paper import StaticModel, check_levels

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
class PaperShape:
    """Sizes of the networks; stored with the weights. Widths are at 8x8, 16x16 and 32x32."""

    channels: int = 64
    levels: int = 16
    reach: float = 8.0
    encoder_widths: Three = (96, 64, 32)
    encoder_blocks: Three = (1, 1, 0)
    generator_widths: Three = (128, 96, 48)
    generator_blocks: Three = (2, 2, 1)
    hops: int = 128
    mels: int = 128
    steps: int = 8

    @property
    def patch(self) -> int:
        """Hops per latent step."""
        return self.hops // self.steps

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit together and are bounded."""
        if (self.hops, self.mels, self.steps) != (128, 128, 8):
            raise ValueError("paper networks are made for 128x128 frames and 8 steps")
        sizes = (*self.encoder_widths, *self.generator_widths, self.channels)
        if len(sizes) != 7 or not all(1 <= size <= 512 for size in sizes):
            raise ValueError("paper network sizes are out of range")
        blocks = (*self.encoder_blocks, *self.generator_blocks)
        if len(blocks) != 6 or not all(0 <= n <= 16 for n in blocks):
            raise ValueError("paper network depths are out of range")
        check_levels(self.levels, self.reach, 64.0)


class PaperEncoder(nn.Module):
    """E(x): log-mel frame to bounded latents, the warm start of the search."""

    mean: Tensor

    def __init__(self, shape: PaperShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.mels))
        self.basis = nn.Parameter(torch.zeros(shape.patch * shape.mels, shape.channels))
        self.body = encoder_body(16, shape.encoder_widths, shape.encoder_blocks)
        self.leave = nn.Linear(8 * shape.encoder_widths[0], shape.channels)
        start_at_zero(self.leave)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, T, M] in [-1, 1], rate: [B], unused -> latents [B, S, C] within ±reach."""
        s = self.shape
        x = x - self.mean
        linear = x.reshape(len(x), s.steps, -1) @ self.basis
        grid = x[:, None].contiguous(memory_format=torch.channels_last)
        h = self.body(grid)  # [B, low, S, 8]
        correction = self.leave(h.permute(0, 2, 3, 1).reshape(len(x), s.steps, -1))
        return compress((linear + correction).float(), s.reach)


class PaperGenerator(nn.Module):
    """G(z): latents to a log-mel frame; a linear synthesis plus a convolutional residual."""

    mean: Tensor

    def __init__(self, shape: PaperShape) -> None:
        super().__init__()
        self.shape = shape
        low, _, high = shape.generator_widths
        self.register_buffer("mean", torch.zeros(shape.mels))
        # Patches overlap by half on both sides, so that their borders can be smoothed out.
        self.basis = nn.Parameter(torch.zeros(shape.channels, shape.mels, 2 * shape.patch))
        self.enter = nn.Linear(shape.channels, 8 * low)
        self.body = nn.Sequential(
            *rising(shape.generator_widths, shape.generator_blocks),
            *refining(high, shape.generator_blocks[2]),
        )
        self.leave = nn.Conv2d(high, 16, 3, padding=1)
        self.unfold = nn.PixelShuffle(4)
        start_at_zero(self.leave)

    def forward(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, S, C] latents, rate: [B], unused -> [B, T, M] normalised log-mel frame."""
        s = self.shape
        steps = expand(z, s.reach).to(self.basis.dtype).transpose(1, 2)
        z = z.to(self.basis.dtype)
        linear = F.conv_transpose1d(steps, self.basis, stride=s.patch, padding=s.patch // 2)
        grid = self.enter(z).reshape(len(z), s.steps, 8, -1).permute(0, 3, 1, 2)
        residual = self.unfold(self.leave(self.body(grid)))[:, 0]
        return (linear.transpose(1, 2) + residual).float() + self.mean


class PaperModel(StaticModel):
    """The speech networks with quantiser and table, as the codec and its search use them."""

    kind = "paper"
    title = family = "paper"
    shape_type = PaperShape
    shape: PaperShape
    encoder: PaperEncoder
    generator: PaperGenerator

    def __init__(self, shape: PaperShape, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__(shape, quantiser, counts)
        self.encoder = PaperEncoder(shape)
        self.generator = PaperGenerator(shape)
        self.coders = {
            "range": StaticRangeCoder(counts, shape.steps, shape.channels),
            "huffman": LevelHuffmanCoder(counts, shape.steps, shape.channels),
        }
