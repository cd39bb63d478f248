"""The encoder, and the generator with its gradient, for searches on the CPU.

`FastGenerator` is the generator of `written_out` with its backward pass. The blocks are in 8-bit
integers; the ways in and out are not, for there channels of very different sizes meet.

Where latents follow known ones, only those rows of the residual stream are computed that matter for
the new columns and that the new latents reach: of the eight rows before them, with eight blocks,
two on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.signal.samples import FloatArray
from models.inference import packed
from models.inference.kernels import normalise_back
from models.inference.written_out import (
    CALLED,
    WHOLE,
    Block,
    Edge,
    Norm,
    Trace,
    Traces,
    Weights,
    WrittenGenerator,
)
from models.networks.speech import Encoder, Generator, anchor_weights
from models.stored import Arrays


class _Product:
    """`written_out.Product` by PyTorch, rough ones in 8-bit integers where these are there."""

    def __init__(
        self, weight: FloatArray, bias: FloatArray | None = None, *, rough: bool = False
    ) -> None:
        added = None if bias is None else torch.from_numpy(bias)
        self._product = packed.Product(torch.from_numpy(weight), added, bytes_=rough)

    def __call__(self, x: FloatArray) -> FloatArray:
        y: FloatArray = self._product(torch.from_numpy(x)).numpy()
        return y

    def back(self, slope: FloatArray) -> FloatArray:
        x: FloatArray = self._product.back(torch.from_numpy(slope)).numpy()
        return x


def arrays_in(network: nn.Module) -> Arrays:
    """The tensors of a frozen network on the CPU as arrays, in single precision and by name."""
    return {k: v.detach().float().numpy() for k, v in network.state_dict().items()}


def _through_norm(norm: Norm, slope: FloatArray, trace: Trace, above: FloatArray) -> FloatArray:
    """The gradient with respect to the stream [B, N, W] before a block.

    slope: of the norm's output; above: of the stream after the block [B, M, W].
    """
    frames, rows, width = trace.unit.shape
    out = np.empty((frames, rows - trace.fixed, width), np.float32)
    normalise_back(slope, norm.weight, trace.unit, trace.scale, above, out)
    return out


def _through_block(block: Block, above: FloatArray, traces: tuple[Trace, FloatArray]) -> FloatArray:
    """The gradient with respect to the stream before a block, from that after it."""
    trace, active_slope = traces
    hidden = block.mix.back(above)
    hidden *= active_slope
    return _through_norm(block.norm, block.taps.back(hidden), trace, above)


class _Passes(torch.autograd.Function):
    """y = G(z) with a gradient for z alone."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, rate: Tensor, network: FastGenerator, edges: Sequence[Edge]
    ) -> Tensor:
        ctx.network = network
        y, ctx.traces = network.draw(z.numpy(), rate.numpy(), edges)
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        slope = ctx.network.slope(gradients[0].contiguous().numpy(), ctx.traces)
        return torch.from_numpy(slope), None, None, None


class FastGenerator(WrittenGenerator):
    """A frozen generator on the CPU, whose gradients reach the latents only."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(arrays_in(generator), generator.shape, _Product, CALLED)

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, S, C] latents in index units, rate: [B] -> log-mel frames [B, T, M]."""
        y: Tensor = _Passes.apply(z, rate, self, [WHOLE] * len(self.blocks))
        return y

    def following(self, latents: Tensor) -> Following:
        """The columns of latents that follow known ones [1, P, C]."""
        return Following(self, latents)

    def slope(self, gradient: FloatArray, traces: Traces) -> FloatArray:
        """Gradient with respect to z of what has `gradient` with respect to the frames."""
        frames, hops, _ = gradient.shape
        steps = hops // self.shape.patch
        inner, blocks, last = traces
        total = self.leave.back(gradient.reshape(frames, steps * self.fold, -1))
        total = _through_norm(self.norm, total, last, np.zeros_like(total))
        for block, trace in zip(reversed(self.blocks), reversed(blocks), strict=True):
            total = _through_block(block, total, trace)
        into = self.enter.back(total.reshape(frames, steps, -1))
        into += self.basis.back(gradient.reshape(frames, steps, -1))
        into *= inner
        return into


class FastEncoder:
    """A frozen encoder on the CPU, without gradients."""

    def __init__(self, encoder: Encoder) -> None:
        self._shape, self._mean = encoder.shape, encoder.mean.detach().float()
        self._gains = encoder.gains
        self._condition = encoder.condition.weight.detach().float()
        self._basis = packed.Product(encoder.basis.t())
        self._enter = packed.Product(encoder.enter.weight, encoder.enter.bias)
        weights, s = Weights(arrays_in(encoder)), encoder.shape
        self._blocks = [
            Block(weights, f"blocks.{k}", s.width, s.hidden, _Product, CALLED)
            for k in range(s.encoder_blocks)
        ]
        self._leave = packed.Product(encoder.leave.weight, encoder.leave.bias)

    @torch.no_grad()
    def __call__(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, T, M] in [-1, 1], rate: [B] -> indices before rounding [B, S, C]."""
        s, (frames, hops, _) = self._shape, x.shape
        x = (x - self._mean).contiguous()
        linear = self._basis(x.view(frames, hops // s.patch, -1))
        added = self._enter(x.view(frames, hops // 4, -1)).numpy()
        stream = np.empty(added.shape, np.float32)
        stream[:] = (anchor_weights(rate) @ self._condition.t())[:, None].numpy()
        for block in self._blocks:
            added, stream, _ = block(stream, added, WHOLE)
        h = torch.from_numpy(stream + added)
        correction = self._leave(h.view(frames, linear.shape[1], -1))
        gained: Tensor = (linear + correction) * self._gains(rate)
        return gained


class Following:
    """Draws the columns of latents that follow known ones."""

    def __init__(self, generator: FastGenerator, latents: Tensor) -> None:
        """latents: [1, P, C], the known ones."""
        self._generator, self._latents = generator, latents
        self._rate: float | None = None
        self._edges: list[Edge] = []

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor:
        """Columns [B, T', M] of z [B, S, C] alone; rate: [B], all alike."""
        if float(rate[0]) != self._rate:
            self._rate = float(rate[0])
            self._edges = self._generator.edges(self._latents.numpy(), rate[:1].numpy())
        y: Tensor = _Passes.apply(z, rate, self._generator, self._edges)
        return y
