"""The generator and its gradient in bfloat16, for searches on the CPU.

`HalfGenerator` is `networks.speech.Generator` in another number format with its backward pass
written out: the products with weights laid out for oneDNN, the passes between them from
`kernels_bf16`. The residual stream and its gradient are in single precision.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from codec.entropy.speech_context import MAX_INDEX
from models.inference.kernels_bf16 import Single, bits_of, gelu, normalise, normalise_back, scale_by
from models.inference.packed import HalfProduct
from models.networks.speech import Block, Generator, anchor_weights


def _half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


class _Norm:
    """Layer norm of the residual stream, of whose output the neighbours are wanted too or not."""

    def __init__(self, norm: nn.LayerNorm, taps: int) -> None:
        self._weight: Single = norm.weight.detach().float().numpy()
        self._bias: Single = norm.bias.detach().float().numpy()
        self._taps = taps

    def __call__(self, stream: Single, added: Tensor) -> tuple[Tensor, _Trace]:
        """stream, added: [B, N, W]; the stream becomes the sum. -> [B, N, taps W], for `back`."""
        frames, rows, width = stream.shape
        unit, scale = np.empty_like(stream), np.empty((frames, rows), np.float32)
        out = _half(frames, rows, self._taps * width)
        normalise(stream, bits_of(added), self._weight, self._bias, unit, scale, bits_of(out))
        return out, (unit, scale)

    def back(self, slope: Tensor, trace: _Trace, total: Single) -> Tensor:
        """Adds to the stream's gradient `total` [B, N, W] what the norm's output takes part in."""
        out = _half(*total.shape)
        normalise_back(bits_of(slope), self._weight, *trace, total, bits_of(out))
        return out


_Trace = tuple[Single, Single]


class _Block:
    """`models.networks.speech.Block`."""

    def __init__(self, block: Block) -> None:
        self._norm = _Norm(block.norm, 3)
        self._taps = HalfProduct(block.taps.weight, block.taps.bias)
        self._mix = HalfProduct(block.mix.weight, block.mix.bias)

    def __call__(self, stream: Single, added: Tensor) -> tuple[Tensor, tuple[_Trace, Tensor]]:
        """What is added to the stream next, and what `back` needs."""
        y, trace = self._norm(stream, added)
        hidden = self._taps(y).flatten(0, 1)
        active, slope = torch.empty_like(hidden), torch.empty_like(hidden)
        gelu(bits_of(hidden), bits_of(active), bits_of(slope))
        return self._mix(active.view(*y.shape[:2], -1)), (trace, slope)

    def back(self, slope: Tensor, traces: tuple[_Trace, Tensor], total: Single) -> Tensor:
        """The stream's gradient `total` [B, N, W], rounded in `slope`, before the block."""
        trace, active_slope = traces
        hidden = self._mix.back(slope)
        scale_by(bits_of(hidden.view(active_slope.shape)), bits_of(active_slope))
        return self._norm.back(self._taps.back(hidden), trace, total)


class _Passes(torch.autograd.Function):
    """y = G(z) with a gradient for z alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rate: Tensor, network: HalfGenerator) -> Tensor:
        ctx.network = network
        y, ctx.traces = network.draw(z, rate)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.network.slope(gradients[0], ctx.traces), None, None


class HalfGenerator:
    """A frozen generator on the CPU, whose gradients reach the latents only.

    Needs oneDNN's packed layers (`models.inference.packed.can_pack`).
    """

    def __init__(self, generator: Generator) -> None:
        self._shape, self._fold = generator.shape, generator.fold
        self._log_gain = generator.gains.log_gain.detach().float()
        centres = generator.centres.detach().float()
        self._flat = centres.reshape(-1)
        self._first = torch.arange(len(centres)) * centres.shape[1]  # of a channel's centres
        self._mean = generator.mean.detach().float()
        self._condition = generator.condition.weight.detach().float()
        self._basis = HalfProduct(generator.basis.t())
        self._enter = HalfProduct(generator.enter.weight, generator.enter.bias)
        self._blocks = [_Block(cast(Block, block)) for block in generator.blocks]
        self._norm = _Norm(generator.norm, 1)
        self._leave = HalfProduct(generator.leave.weight, generator.leave.bias)

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, S, C] latents in index units, rate: [B] -> log-mel frames [B, T, M]."""
        y: Tensor = _Passes.apply(z, rate, self)
        return y

    def draw(self, z: Tensor, rate: Tensor) -> tuple[Tensor, _Traces]:
        """The frames, and what `slope` needs."""
        s, (frames, steps, _) = self._shape, z.shape
        anchors = anchor_weights(rate)
        position = z.clamp(-MAX_INDEX, MAX_INDEX) + MAX_INDEX
        low = position.floor().clamp_max(2 * MAX_INDEX - 1)
        at = low.long() + self._first
        below = self._flat[at]
        slope = self._flat[at + 1] - below
        inverse = torch.exp(-anchors @ self._log_gain)[:, None]
        v = ((below + (position - low) * slope) * inverse).bfloat16()
        linear = self._basis(v)
        stream = np.empty((frames, steps * self._fold, s.width), np.float32)
        stream[:] = (anchors @ self._condition.t())[:, None].numpy()
        added = self._enter(v).view(stream.shape)
        traces = []
        for block in self._blocks:
            added, trace = block(stream, added)
            traces.append(trace)
        h, last = self._norm(stream, added)
        y = linear.view(frames, -1, s.mels) + self._mean
        y += self._leave(h).view(y.shape)
        return y, (slope * inverse, traces, last)

    def slope(self, gradient: Tensor, traces: _Traces) -> Tensor:
        """Gradient with respect to z of what has `gradient` with respect to the frames."""
        s, (frames, hops, _) = self._shape, gradient.shape
        steps = hops // s.patch
        inner, blocks, last = traces
        half = gradient.to(torch.bfloat16, memory_format=torch.contiguous_format)
        total = np.zeros((frames, steps * self._fold, s.width), np.float32)
        slope = self._leave.back(half.view(*total.shape[:2], -1))
        slope = self._norm.back(slope, last, total)
        for block, trace in zip(reversed(self._blocks), reversed(blocks), strict=True):
            slope = block.back(slope, trace, total)
        into = self._enter.back(slope.view(frames, steps, -1)).float()
        return (into + self._basis.back(half.view(frames, steps, -1))) * inner


_Traces = tuple[Tensor, list[tuple[_Trace, Tensor]], _Trace]
