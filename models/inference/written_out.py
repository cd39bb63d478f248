"""The speech generator written out on arrays, without PyTorch: what decodes on the CPU.

It is `models.networks.speech.Generator`: products with weights laid out, and between them the
passes of `kernels`, which leave behind what a gradient needs (`fast_networks`).

Of latents that follow others, only those rows of the residual stream are computed that matter for
the new columns: every block sees one row to each side, so that of the eight rows before them, with
eight blocks, four are on average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.entropy.speech_context import MAX_INDEX
from codec.signal.samples import FloatArray
from models.inference.kernels import gelu, gelu_ahead, normalise, normalise_ahead
from models.networks.speech_shape import ANCHORS, FrameShape


class Product(Protocol):
    """x -> x Wᵀ + b of a frozen weight W [out, in], and the gradient with respect to x."""

    def __call__(self, x: FloatArray) -> FloatArray:
        """[..., in], contiguous -> [..., out]."""

    def back(self, slope: FloatArray) -> FloatArray:
        """[..., out], contiguous -> [..., in]."""


class Products(Protocol):
    """Makes products. rough: whether this one may be some hundredths off."""

    def __call__(
        self, weight: FloatArray, bias: FloatArray | None = None, *, rough: bool = False
    ) -> Product: ...


class PlainProduct:
    """A `Product` by NumPy, in single precision."""

    def __init__(
        self, weight: FloatArray, bias: FloatArray | None = None, *, rough: bool = False
    ) -> None:
        self._weight, self._bias = weight.T, bias
        self._laid_out = False

    def __call__(self, x: FloatArray) -> FloatArray:
        if not self._laid_out:
            # Only now, for those that only encode draw nothing: so, products take less time.
            self._weight, self._laid_out = np.ascontiguousarray(self._weight), True
        y: FloatArray = x.reshape(-1, x.shape[-1]) @ self._weight
        if self._bias is not None:
            y += self._bias
        return y.reshape(*x.shape[:-1], -1)

    def back(self, slope: FloatArray) -> FloatArray:
        x: FloatArray = slope @ self._weight.T
        return x


class Passes(NamedTuple):
    """`kernels.normalise` and `kernels.gelu`, compiled in one way or another."""

    normalise: Callable[..., None]
    gelu: Callable[..., None]


AHEAD = Passes(normalise_ahead, gelu_ahead)
CALLED = Passes(normalise, gelu)


@dataclass(frozen=True)
class Edge:
    """The left end of a block's input: `fixed` rows [F, W], the same for all frames, and whether
    its first row is but a neighbour of the next."""

    fixed: FloatArray
    neighbour: bool


NOTHING: FloatArray = np.zeros((0, 1), np.float32)
WHOLE = Edge(NOTHING, False)  # nothing comes before
SHRINKING = Edge(NOTHING, True)


@dataclass(frozen=True)
class Trace:
    """What the gradient of a norm needs: whitened rows [B, F + N, W], their 1/sigma [B, F + N], and
    F."""

    unit: FloatArray
    scale: FloatArray
    fixed: int


class Weights:
    """The tensors of a network by their names, in single precision, given out once each."""

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._left = dict(state)

    def take(self, name: str, *shape: int) -> FloatArray:
        """Raises LookupError if it is missing, ValueError if it has another shape."""
        found = self._left.pop(name).astype(np.float32, copy=False)
        if found.shape != shape:
            raise ValueError(f"{name} is {list(found.shape)}, not {list(shape)}")
        return found

    def end(self) -> None:
        """Raise ValueError if any is left."""
        if self._left:
            raise ValueError(f"{min(self._left)} belongs to no layer")


class Norm:
    """Layer norm of the residual stream, of whose output the neighbours are wanted too or not."""

    def __init__(self, weights: Weights, name: str, width: int, taps: int, passes: Passes) -> None:
        self.weight = weights.take(f"{name}.weight", width)
        self._bias = weights.take(f"{name}.bias", width)
        self._taps, self._normalise = taps, passes.normalise

    def __call__(
        self, before: FloatArray, added: FloatArray, edge: Edge
    ) -> tuple[FloatArray, FloatArray, Trace]:
        """before: [B, N', W] stream whose last rows go on by added [B, N, W].

        -> the norm [B, M, taps W], the stream [B, F + N, W], and what its gradient needs.
        """
        frames, rows, width = added.shape
        rows += len(edge.fixed)
        stream, unit = (np.empty((frames, rows, width), np.float32) for _ in range(2))
        scale = np.empty((frames, rows), np.float32)
        out = np.empty((frames, rows - edge.neighbour, self._taps * width), np.float32)
        weight, bias = self.weight, self._bias
        self._normalise(before, added, edge.fixed, weight, bias, stream, unit, scale, out)
        return out, stream, Trace(unit, scale, len(edge.fixed))


class Block:
    """`models.networks.speech.Block`."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        width: int,
        hidden: int,
        product: Products,
        passes: Passes,
    ) -> None:
        self.norm = Norm(weights, f"{name}.norm", width, 3, passes)
        self._gelu = passes.gelu
        self.taps = product(
            weights.take(f"{name}.taps.weight", hidden, 3 * width),
            weights.take(f"{name}.taps.bias", hidden), rough=True,
        )  # fmt: skip
        self.mix = product(
            weights.take(f"{name}.mix.weight", width, hidden),
            weights.take(f"{name}.mix.bias", width), rough=True,
        )  # fmt: skip

    def __call__(
        self, before: FloatArray, added: FloatArray, edge: Edge
    ) -> tuple[FloatArray, FloatArray, tuple[Trace, FloatArray]]:
        """What is added to the stream next, the stream before that, and what a gradient needs: the
        norm's, and the slope of the activation."""
        y, stream, trace = self.norm(before, added, edge)
        hidden = self.taps(y)
        slope = np.empty_like(hidden)
        self._gelu(hidden.reshape(-1), slope.reshape(-1))
        return self.mix(hidden), stream, (trace, slope)


Traces = tuple[FloatArray, list[tuple[Trace, FloatArray]], Trace]


class WrittenGenerator:
    """A frozen generator. Raises LookupError or ValueError for weights of another shape."""

    def __init__(
        self,
        state: Mapping[str, NDArray[Any]],
        shape: FrameShape,
        product: Products = PlainProduct,
        passes: Passes = AHEAD,
    ) -> None:
        weights, width = Weights(state), shape.width
        self.shape, self.fold = shape, shape.fold
        channels, levels = shape.channels, 2 * MAX_INDEX + 1
        self._centres = weights.take("centres", channels, levels).reshape(-1)
        self._first = np.arange(channels) * levels  # of a channel's centres
        self._log_gain = weights.take("gains.log_gain", ANCHORS, channels)
        self._mean = weights.take("mean", shape.mels)
        self._condition = weights.take("condition.weight", width, ANCHORS)
        self.basis = product(weights.take("basis", channels, shape.patch * shape.mels).T)
        self.enter = product(
            weights.take("enter.weight", self.fold * width, channels),
            weights.take("enter.bias", self.fold * width),
        )
        self.blocks = [
            Block(weights, f"blocks.{k}", width, shape.hidden, product, passes)
            for k in range(shape.generator_blocks)
        ]
        self.norm = Norm(weights, "norm", width, 1, passes)
        self.leave = product(
            weights.take("leave.weight", 4 * shape.mels, width),
            weights.take("leave.bias", 4 * shape.mels),
        )
        weights.end()

    def newest(self, z: FloatArray, rate: FloatArray, steps: int) -> FloatArray:
        """Columns [B, T', M] of the last `steps` of latents z [B, S, C]; rate: [B]."""
        spare = (z.shape[1] - steps) * self.fold
        whole = max(len(self.blocks) - spare, 0)
        edges = [WHOLE] * whole + [SHRINKING] * (len(self.blocks) - whole)
        y, _ = self.draw(z[:, -steps - -(-len(self.blocks) // self.fold) :], rate, edges)
        return y[:, -steps * self.shape.patch :]

    def draw(
        self, z: FloatArray, rate: FloatArray, edges: Sequence[Edge]
    ) -> tuple[FloatArray, Traces]:
        """The columns [B, T', M] that the edges of the blocks leave of z [B, S, C] at rate points
        [B], and what their gradient needs."""
        v, inner = self._values(z, rate)
        stream, added = self._entered(v, rate)
        traces = []
        for block, edge in zip(self.blocks, edges, strict=True):
            added, stream, trace = block(stream, added, edge)
            traces.append(trace)
        h, _, last = self.norm(stream, added, WHOLE)
        residual = self.leave(h).reshape(len(z), -1, self.shape.mels)
        residual += self._mean
        steps = -(-residual.shape[1] // self.shape.patch)
        linear = self.basis(np.ascontiguousarray(v[:, -steps:])).reshape(
            len(z), -1, self.shape.mels
        )
        y: FloatArray = linear[:, -residual.shape[1] :] + residual
        return y, (inner, traces, last)

    def edges(self, latents: FloatArray, rate: FloatArray) -> list[Edge]:
        """The edges of the blocks where more follows known latents [1, P, C] at a rate [1].

        The k-th of D blocks changes what the new latents reach, k rows before them and more with
        each block, as far as that reaches the new columns: D - k rows, and fewer with each block.
        """
        known, depth = latents.shape[1] * self.fold, len(self.blocks)
        v, _ = self._values(latents, rate)
        stream, added = self._entered(v, rate)
        edges = []
        for k, block in enumerate(self.blocks):
            given, wanted = (min(n, depth - n, known) for n in (k, k + 1))
            neighbour = wanted < known
            if wanted + neighbour <= given:
                edges.append(Edge(NOTHING, neighbour))
                continue
            added, stream, _ = block(stream, added, WHOLE)
            fixed = stream[0, known - wanted - neighbour : known - given]
            edges.append(Edge(np.ascontiguousarray(fixed), neighbour))
        return edges

    def gains(self, rate: FloatArray) -> FloatArray:
        """Channel gains (1 / quantisation step) of rate points [B]: [B, 1, C]."""
        gains: FloatArray = np.exp(_hats(rate) @ self._log_gain)[:, None]
        return gains

    def _values(self, z: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Latent values [B, S, C] of (relaxed) indices, and their derivatives."""
        position = np.clip(z, -MAX_INDEX, MAX_INDEX) + np.float32(MAX_INDEX)
        low = np.minimum(np.floor(position), np.float32(2 * MAX_INDEX - 1))
        at = low.astype(np.intp) + self._first
        below = self._centres[at]
        slope = self._centres[at + 1] - below
        inverse = 1.0 / self.gains(rate)
        return (below + (position - low) * slope) * inverse, slope * inverse

    def _entered(self, v: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The residual stream before the first block, as what is there and what is added to it."""
        shape = len(v), v.shape[1] * self.fold, self.shape.width
        stream = np.empty(shape, np.float32)
        stream[:] = (_hats(rate) @ self._condition.T)[:, None]
        return stream, self.enter(v).reshape(shape)


def _hats(rate: FloatArray) -> FloatArray:
    """`models.networks.speech.anchor_weights`: [B] -> [B, ANCHORS]."""
    away = np.abs(rate[:, None] - np.arange(ANCHORS, dtype=np.float32))
    return np.maximum(np.float32(1.0) - away, np.float32(0.0))
