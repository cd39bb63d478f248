"""Networks of the speech presets: encoder, generator and entropy prior of log-mel frames.

Notation: B frames in a batch, T = 128 hops, M = 128 mel bands, S = 16 latent steps (8 hops each),
C latent channels. A latent frame is [B, S, C]; its quantised form holds integers. The networks take
shorter pieces of a frame as well: they are convolutions over time.

The generator starts from a *linear* synthesis (the principal components of 8-hop patches) and
learns the residual. One set of weights serves all rates: a rate point r in [0, 2] scales the
latents channel by channel (log-linear between three trained anchors) and conditions the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.huffman import RunModel
from codec.entropy.logistic import Effects, step_bits, step_bits_around
from codec.entropy.speech_context import MAX_INDEX, QUALITIES, SpeechContext
from models.model import FrameModel, PriorModel
from models.networks.common import Gains, MaskedPrior, hats, start_at_zero
from models.networks.speech_shape import ANCHORS as ANCHORS
from models.networks.speech_shape import HASHED, FrameShape, SpeechTables
from models.networks.speech_shape import SpeechShape as SpeechShape
from models.stored import Arrays, arrays_of

if TYPE_CHECKING:
    from typing_extensions import Self


def anchor_weights(rate: Tensor) -> Tensor:
    """Hat functions of the rate point: [B] in [0, 2] -> [B, 3] that sum to one."""
    return hats(rate, ANCHORS)


def _gains(channels: int) -> Gains:
    return Gains(channels, steps=(0.55, 0.4, 0.28), shape=(1, channels))


class Block(nn.Module):
    """Residual block over time: a 3-tap convolution written as one matrix product, then a mix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.taps = nn.Linear(3 * width, hidden)
        self.mix = nn.Linear(hidden, width)
        start_at_zero(self.mix)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, width] -> the same shape."""
        # Normalised in full precision, then as short as the layers' numbers.
        y = F.pad(self.norm(x).to(x.dtype), (0, 0, 1, 1))
        y = torch.cat((y[:, :-2], y[:, 1:-1], y[:, 2:]), dim=-1)
        return x + self.mix(F.gelu(self.taps(y), approximate="tanh"))


class Encoder(nn.Module):
    """E(x): log-mel frame to scaled latents, the warm start of the search."""

    mean: Tensor

    def __init__(self, shape: FrameShape) -> None:
        super().__init__()
        self.shape = shape
        patch_size = shape.patch * shape.mels
        self.register_buffer("mean", torch.zeros(shape.mels))
        self.basis = nn.Parameter(torch.zeros(patch_size, shape.channels))
        self.gains = _gains(shape.channels)
        self.enter = nn.Linear(4 * shape.mels, shape.width)
        self.condition = nn.Linear(ANCHORS, shape.width, bias=False)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.hidden) for _ in range(shape.encoder_blocks)
        )
        self.leave = nn.Linear(shape.fold * shape.width, shape.channels)
        start_at_zero(self.leave)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, T, M] in [-1, 1], rate: [B] -> indices before rounding [B, S, C]."""
        frames, hops, _ = x.shape
        x = x - self.mean
        linear = x.reshape(frames, hops // self.shape.patch, -1) @ self.basis
        h = self.enter(x.reshape(frames, hops // 4, -1))
        h = h + self.condition(anchor_weights(rate))[:, None]
        for block in self.blocks:
            h = block(h)
        correction = self.leave(h.reshape(frames, linear.shape[1], -1))
        return (linear + correction).float() * self.gains(rate)


class Generator(nn.Module):
    """G(z): latents to a log-mel frame; a linear synthesis plus a learned residual."""

    mean: Tensor
    centres: Tensor

    def __init__(self, shape: FrameShape) -> None:
        super().__init__()
        self.shape = shape
        self.fold = shape.fold
        self.register_buffer("mean", torch.zeros(shape.mels))
        self.basis = nn.Parameter(torch.zeros(shape.channels, shape.patch * shape.mels))
        whole = torch.arange(-MAX_INDEX, MAX_INDEX + 1, dtype=torch.float32)
        self.register_buffer("centres", whole.repeat(shape.channels, 1))
        self.gains = _gains(shape.channels)
        self.enter = nn.Linear(shape.channels, self.fold * shape.width)
        self.condition = nn.Linear(ANCHORS, shape.width, bias=False)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.hidden) for _ in range(shape.generator_blocks)
        )
        self.norm = nn.LayerNorm(shape.width)
        self.leave = nn.Linear(shape.width, 4 * shape.mels)
        start_at_zero(self.leave)

    def linear(self, z: Tensor, rate: Tensor) -> Tensor:
        """What the latents say before the residual is learned: as `forward`."""
        z = dequantise(z, self.centres) / self.gains(rate)
        return (z @ self.basis).float().reshape(len(z), -1, self.shape.mels) + self.mean

    def forward(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, S, C] latents in index units, rate: [B] -> [B, T, M] normalised log-mel frame."""
        s, (frames, steps, _) = self.shape, z.shape
        z = (dequantise(z, self.centres) / self.gains(rate)).to(self.basis.dtype)
        linear = (z @ self.basis).reshape(frames, steps * s.patch, s.mels)
        h = self.enter(z).reshape(frames, steps * self.fold, s.width)
        h = h + self.condition(anchor_weights(rate))[:, None]
        for block in self.blocks:
            h = block(h)
        residual = self.leave(self.norm(h)).reshape(linear.shape)
        return (linear + residual).float() + self.mean


def dequantise(z: Tensor, centres: Tensor) -> Tensor:
    """Latent values of (relaxed) indices: z [B, S, C] read off each channel's K-means centres.

    centres: [C, 2 * MAX_INDEX + 1], rising. Between whole indices the value is interpolated, so
    that the search may descend through it.
    """
    position = z.float().clamp(-MAX_INDEX, MAX_INDEX) + MAX_INDEX
    low = position.detach().floor().clamp_max(2 * MAX_INDEX - 1)
    levels = centres.shape[1]
    at = low.long() + torch.arange(centres.shape[0], device=z.device) * levels
    flat = centres.float().reshape(-1)
    below, above = flat[at], flat[at + 1]
    return below + (position - low) * (above - below)


def index_features(q: Tensor) -> Tensor:
    """What the prior sees of its neighbours: clipped value and magnitude, [..., C] -> [..., 2C]."""
    return torch.cat((q.clamp(-8, 8), q.abs().clamp(max=4)), dim=-1)


class Prior(MaskedPrior):
    """Autoregressive entropy model of the latent indices, causal over steps and channel groups.

    What it knows before a step are the two steps before.
    """

    def __init__(self, shape: SpeechShape) -> None:
        channels = shape.channels
        inputs = 4 * channels + ANCHORS + 1
        super().__init__(shape.prior_groups, shape.prior_unit, channels, inputs)
        self.shape = shape

    def forward(self, q: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """q: [B, S, C] indices, rate: [B] -> location and log scale, each [B, S, C]."""
        features = index_features(q)
        padded = F.pad(features, (0, 0, 2, 0))
        first = torch.zeros_like(features[..., :1])
        first[:, 0] = 1.0
        where = anchor_weights(rate)[:, None].expand(-1, q.shape[1], -1)
        past = torch.cat((padded[:, 1:-1], padded[:, :-2], where, first), dim=-1)
        location, log_scale = self.predicted(past, features)
        return location, (log_scale - 1.0).clamp(-2.6, 1.8)

    def step_bits(self, u: Tensor, rate: Tensor) -> Effects:
        """`codec.entropy.logistic.step_bits` by this prior: [B, S, C] each."""
        return step_bits(self, u, rate)

    def step_bits_around(self, u: Tensor, rate: Tensor) -> Callable[[Tensor], Effects]:
        """`codec.entropy.logistic.step_bits_around` by this prior."""
        return step_bits_around(self, u, rate)


class SpeechModel(PriorModel, FrameModel):
    """Encoder, generator and prior of the speech presets.

    runs: tables of the Huffman coder, which an export sets, like `context`; log_prices: log λ.
    """

    kind = None
    title = family = "speech"
    hashed = HASHED
    shape_type = SpeechShape
    context_type = SpeechContext
    prices_key = "log_rate_weights"
    qualities = QUALITIES
    shape: SpeechShape
    encoder: Encoder
    generator: Generator
    prior: Prior
    context: SpeechContext
    runs: RunModel
    generator_past: int

    def __init__(self, shape: SpeechShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.generator = Generator(shape)
        self.prior = Prior(shape)
        self.generator_past, self.encoder_past = shape.generator_past, shape.encoder_past
        self.log_prices = [-7.5, -8.0, -9.0]

    @classmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        model = super().restored(description, tables)
        found = SpeechTables.read(description, tables, model.shape)
        model.runs, model.coders = found.runs, found.coders(model.shape.steps)
        return model

    def tables(self) -> Arrays:
        return super().tables() | arrays_of("huffman", self.runs)

    def rate_weight(self, rate: float) -> float:
        """Lagrangian weight (cost per bit) the networks were trained for at rate point r."""
        return float(np.exp(np.interp(rate, np.arange(ANCHORS), self.log_prices)))

    def rescale(self, latents: Tensor, rate: Tensor, new_rate: Tensor) -> Tensor:
        """Latents [B, S, C] of rate points [B] in the steps of others, centres taken as even."""
        with torch.no_grad():
            gains = self.generator.gains
            return latents * (gains(new_rate) / gains(rate))
