"""The encoder, and the generator with its gradient, for searches on the CPU.

`FastGenerator` is `networks.speech.Generator` with its backward pass written out: the products with
weights laid out, the passes between them from `kernels`. The blocks are in 8-bit integers; the ways
in and out are not, for there channels of very different sizes meet.

Where latents follow known ones, only those rows of the residual stream are computed that matter for
the new columns and that the new latents reach: of the eight rows before them, with eight blocks,
two on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from codec.entropy.speech_context import MAX_INDEX
from codec.signal.samples import FloatArray
from models.inference.kernels import gelu, normalise, normalise_back
from models.inference.packed import Product
from models.networks.speech import Block, Encoder, Generator, anchor_weights


@dataclass(frozen=True)
class _Edge:
    """The left end of a block's input: `fixed` rows [F, W], the same for all frames, and whether
    its first row is but a neighbour of the next."""

    fixed: FloatArray
    neighbour: bool


_WHOLE = _Edge(np.zeros((0, 1), np.float32), False)  # nothing comes before


@dataclass(frozen=True)
class _Trace:
    """What the gradient of a norm needs: whitened rows [B, F + N, W], their 1/sigma [B, F + N], and
    F."""

    unit: FloatArray
    scale: FloatArray
    fixed: int


class _Norm:
    """Layer norm of the residual stream, of whose output the neighbours are wanted too or not."""

    def __init__(self, norm: nn.LayerNorm, taps: int) -> None:
        self._weight: FloatArray = norm.weight.detach().float().numpy()
        self._bias: FloatArray = norm.bias.detach().float().numpy()
        self._taps = taps

    def __call__(
        self, before: FloatArray, added: Tensor, edge: _Edge
    ) -> tuple[Tensor, FloatArray, _Trace]:
        """before: [B, N', W] stream whose last rows go on by added [B, N, W].

        -> the norm [B, M, taps W], the stream [B, F + N, W], and what `back` needs.
        """
        frames, rows, width = added.shape
        rows += len(edge.fixed)
        stream, unit = (np.empty((frames, rows, width), np.float32) for _ in range(2))
        scale = np.empty((frames, rows), np.float32)
        out = torch.empty(frames, rows - edge.neighbour, self._taps * width)
        normalise(
            before, added.numpy(), edge.fixed, self._weight, self._bias,
            stream, unit, scale, out.numpy(),
        )  # fmt: skip
        return out, stream, _Trace(unit, scale, len(edge.fixed))

    def back(self, slope: Tensor, trace: _Trace, above: Tensor) -> Tensor:
        """The gradient with respect to the stream [B, N, W] before the block.

        slope: of the norm's output; above: of the stream after the block [B, M, W].
        """
        frames, rows, width = trace.unit.shape
        out = torch.empty(frames, rows - trace.fixed, width)
        normalise_back(
            slope.numpy(), self._weight, trace.unit, trace.scale, above.numpy(), out.numpy()
        )
        return out


class _Block:
    """`models.networks.speech.Block`."""

    def __init__(self, block: Block) -> None:
        self._norm = _Norm(block.norm, 3)
        self._taps = Product(block.taps.weight, block.taps.bias, bytes_=True)
        self._mix = Product(block.mix.weight, block.mix.bias, bytes_=True)

    def __call__(
        self, before: FloatArray, added: Tensor, edge: _Edge
    ) -> tuple[Tensor, FloatArray, tuple[_Trace, Tensor]]:
        """What is added to the stream next, the stream before that, and what `back` needs."""
        y, stream, trace = self._norm(before, added, edge)
        hidden = self._taps(y)
        slope = torch.empty_like(hidden)
        gelu(hidden.view(-1).numpy(), slope.view(-1).numpy())
        return self._mix(hidden), stream, (trace, slope)

    def back(self, above: Tensor, traces: tuple[_Trace, Tensor]) -> Tensor:
        """The gradient with respect to the stream before the block, from that after it."""
        trace, active_slope = traces
        hidden = self._mix.back(above).mul_(active_slope)
        return self._norm.back(self._taps.back(hidden), trace, above)


class _Passes(torch.autograd.Function):
    """y = G(z) with a gradient for z alone."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, rate: Tensor, network: FastGenerator, edges: Sequence[_Edge]
    ) -> Tensor:
        ctx.network = network
        y, ctx.traces = network.draw(z, rate, edges)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.network.slope(gradients[0], ctx.traces), None, None, None


class FastGenerator:
    """A frozen generator on the CPU, whose gradients reach the latents only."""

    def __init__(self, generator: Generator) -> None:
        self._shape, self._fold = generator.shape, generator.fold
        self._log_gain = generator.gains.log_gain.detach().float()
        centres = generator.centres.detach().float()
        self._flat = centres.reshape(-1)
        self._first = torch.arange(len(centres)) * centres.shape[1]  # of a channel's centres
        self._mean = generator.mean.detach().float()
        self._condition = generator.condition.weight.detach().float()
        self._basis = Product(generator.basis.t())
        self._enter = Product(generator.enter.weight, generator.enter.bias)
        self._blocks = [_Block(cast(Block, block)) for block in generator.blocks]
        self._norm = _Norm(generator.norm, 1)
        self._leave = Product(generator.leave.weight, generator.leave.bias)

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, S, C] latents in index units, rate: [B] -> log-mel frames [B, T, M]."""
        y: Tensor = _Passes.apply(z, rate, self, [_WHOLE] * len(self._blocks))
        return y

    def following(self, latents: Tensor) -> Following:
        """The columns of latents that follow known ones [1, P, C]."""
        return Following(self, latents)

    def draw(self, z: Tensor, rate: Tensor, edges: Sequence[_Edge]) -> tuple[Tensor, _Traces]:
        """The frames, and what `slope` needs. edges: of each block."""
        frames = len(z)
        v, inner = self._entered(z, rate)
        stream, added = self._stream(v, rate)
        traces = []
        for block, edge in zip(self._blocks, edges, strict=True):
            added, stream, trace = block(stream, added, edge)
            traces.append(trace)
        h, _, last = self._norm(stream, added, _WHOLE)
        y = self._basis(v).view(frames, -1, self._shape.mels) + self._mean
        y += self._leave(h).view(y.shape)
        return y, (inner, traces, last)

    def slope(self, gradient: Tensor, traces: _Traces) -> Tensor:
        """Gradient with respect to z of what has `gradient` with respect to the frames."""
        s, (frames, hops, _) = self._shape, gradient.shape
        steps = hops // s.patch
        inner, blocks, last = traces
        gradient = gradient.contiguous()
        total = self._leave.back(gradient.view(frames, steps * self._fold, -1))
        total = self._norm.back(total, last, torch.zeros_like(total))
        for block, trace in zip(reversed(self._blocks), reversed(blocks), strict=True):
            total = block.back(total, trace)
        into = self._enter.back(total.view(frames, steps, -1))
        return into.add_(self._basis.back(gradient.view(frames, steps, -1))).mul_(inner)

    def edges(self, latents: Tensor, rate: Tensor) -> list[_Edge]:
        """The edges of the blocks where more follows known latents [1, P, C] at a rate [1].

        The k-th of D blocks changes what the new latents reach, k rows before them and more with
        each block, as far as that reaches the new columns: D - k rows, and fewer with each block.
        """
        known, depth = latents.shape[1] * self._fold, len(self._blocks)
        v, _ = self._entered(latents, rate)
        stream, added = self._stream(v, rate)
        edges = []
        for k, block in enumerate(self._blocks):
            given, wanted = (min(n, depth - n, known) for n in (k, k + 1))
            neighbour = wanted < known
            if wanted + neighbour <= given:
                edges.append(_Edge(_WHOLE.fixed, neighbour))
                continue
            added, stream, _ = block(stream, added, _WHOLE)
            fixed = stream[0, known - wanted - neighbour : known - given]
            edges.append(_Edge(np.ascontiguousarray(fixed), neighbour))
        return edges

    def _entered(self, z: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Latent values [B, S, C] of (relaxed) indices, and their derivatives."""
        position = z.clamp(-MAX_INDEX, MAX_INDEX) + MAX_INDEX
        low = position.floor().clamp_max(2 * MAX_INDEX - 1)
        at = low.long() + self._first
        below = self._flat[at]
        slope = self._flat[at + 1] - below
        inverse = torch.exp(-anchor_weights(rate) @ self._log_gain)[:, None]
        return (below + (position - low) * slope) * inverse, slope * inverse

    def _stream(self, v: Tensor, rate: Tensor) -> tuple[FloatArray, Tensor]:
        """The residual stream before the first block, as what is there and what is added to it."""
        condition = anchor_weights(rate) @ self._condition.t()
        shape = len(v), v.shape[1] * self._fold, self._shape.width
        stream = np.empty(shape, np.float32)
        stream[:] = condition[:, None].numpy()
        return stream, self._enter(v).view(shape)


class FastEncoder:
    """A frozen encoder on the CPU, without gradients."""

    def __init__(self, encoder: Encoder) -> None:
        self._shape, self._mean = encoder.shape, encoder.mean.detach().float()
        self._gains = encoder.gains
        self._condition = encoder.condition.weight.detach().float()
        self._basis = Product(encoder.basis.t())
        self._enter = Product(encoder.enter.weight, encoder.enter.bias)
        self._blocks = [_Block(cast(Block, block)) for block in encoder.blocks]
        self._leave = Product(encoder.leave.weight, encoder.leave.bias)

    @torch.no_grad()
    def __call__(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, T, M] in [-1, 1], rate: [B] -> indices before rounding [B, S, C]."""
        s, (frames, hops, _) = self._shape, x.shape
        x = (x - self._mean).contiguous()
        linear = self._basis(x.view(frames, hops // s.patch, -1))
        added = self._enter(x.view(frames, hops // 4, -1))
        stream = np.empty(added.shape, np.float32)
        stream[:] = (anchor_weights(rate) @ self._condition.t())[:, None].numpy()
        for block in self._blocks:
            added, stream, _ = block(stream, added, _WHOLE)
        h = torch.from_numpy(stream) + added
        correction = self._leave(h.view(frames, linear.shape[1], -1))
        gained: Tensor = (linear + correction) * self._gains(rate)
        return gained


class Following:
    """Draws the columns of latents that follow known ones."""

    def __init__(self, generator: FastGenerator, latents: Tensor) -> None:
        """latents: [1, P, C], the known ones."""
        self._generator, self._latents = generator, latents
        self._rate: float | None = None
        self._edges: list[_Edge] = []

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor:
        """Columns [B, T', M] of z [B, S, C] alone; rate: [B], all alike."""
        if float(rate[0]) != self._rate:
            self._rate = float(rate[0])
            self._edges = self._generator.edges(self._latents, rate[:1])
        y: Tensor = _Passes.apply(z, rate, self._generator, self._edges)
        return y


_Traces = tuple[Tensor, list[tuple[_Trace, Tensor]], _Trace]
