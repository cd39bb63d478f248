"""Kernels between the matrix products of the bfloat16 networks, compiled with numba.

At one frame per call, separate passes would cost as much as the products; here there is one pass
between two products. Halves are bfloat16, held as int16: numba has no bfloat16, but its bits are
the upper ones of a float32.

B frames of N rows each make R rows; W is the width of the residual stream, H that of a block's
hidden layer. Kernels keep the interpreter's lock, for they run for microseconds.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codec.kernels import kernel

Half = NDArray[np.int16]
Single = NDArray[np.float32]

_ROOT = np.float32(0.7978845608)  # of 2/pi; with the next one Hendrycks and Gimpel's approximation
_CUBE = np.float32(0.044715)
_FLAT = np.float32(4.97)  # where the fraction below reaches 1
_EPSILON = np.float32(1e-5)  # of torch's layer norm

_kernel = kernel(fastmath=True, error_model="numpy")


def bits_of(x: torch.Tensor) -> Half:
    """A contiguous bfloat16 tensor as halves, without a copy."""
    bits: Half = x.view(torch.int16).numpy()
    return bits


@kernel(inline="always")
def _rounded(bits: int) -> int:
    """The upper half of a float32's bits, rounded to the nearest, ties to even."""
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@_kernel
def normalise(
    x: Single, added: Half, weight: Single, bias: Single, unit: Single, scale: Single, out: Half
) -> None:
    """Layer norm of x + added, each [B, N, W]; x becomes the sum.

    weight, bias: [W]. unit: whitened rows [B, N, W]; scale: their 1/sigma [B, N]. out: [B, N, W],
    or [B, N, 3W] for every row between its neighbours, with zeros beyond the ends.
    """
    frames, rows, width = x.shape
    taps = out.shape[2] > width
    bits = np.empty(width, np.int32)
    value = bits.view(np.float32)
    for b in range(frames):
        for n in range(rows):
            stream, white = x[b, n], unit[b, n]
            for j in range(width):
                bits[j] = np.int32(added[b, n, j]) << 16
            total = np.float32(0.0)
            for j in range(width):
                stream[j] += value[j]
                total += stream[j]
            mean = total / np.float32(width)
            power = np.float32(0.0)
            for j in range(width):
                power += (stream[j] - mean) * (stream[j] - mean)
            inverse = np.float32(1.0) / np.sqrt(power / np.float32(width) + _EPSILON)
            scale[b, n] = inverse
            for j in range(width):
                white[j] = (stream[j] - mean) * inverse
            for j in range(width):
                value[j] = white[j] * weight[j] + bias[j]
            at = width if taps else 0
            for j in range(width):
                out[b, n, at + j] = _rounded(bits[j])
            if taps:
                if n > 0:
                    out[b, n - 1, 2 * width :] = out[b, n, width : 2 * width]
                if n + 1 < rows:
                    out[b, n + 1, :width] = out[b, n, width : 2 * width]
        if taps:
            out[b, 0, :width] = 0
            out[b, rows - 1, 2 * width :] = 0


@_kernel
def normalise_back(
    slope: Half, weight: Single, unit: Single, scale: Single, total: Single, out: Half
) -> None:
    """Add the gradient through `normalise` to that of its sum.

    slope: of its output, [B, N, W] or [B, N, 3W]; total: [B, N, W], added to in place, and rounded
    in `out`.
    """
    frames, rows, width = total.shape
    taps = slope.shape[2] > width
    bits = np.empty(width, np.int32)
    value = bits.view(np.float32)
    change = np.empty(width, np.float32)
    for b in range(frames):
        for n in range(rows):
            white, stream = unit[b, n], total[b, n]
            at = width if taps else 0
            for j in range(width):
                bits[j] = np.int32(slope[b, n, at + j]) << 16
            for j in range(width):
                change[j] = value[j]
            if taps and n > 0:
                for j in range(width):
                    bits[j] = np.int32(slope[b, n - 1, 2 * width + j]) << 16
                for j in range(width):
                    change[j] += value[j]
            if taps and n + 1 < rows:
                for j in range(width):
                    bits[j] = np.int32(slope[b, n + 1, j]) << 16
                for j in range(width):
                    change[j] += value[j]
            level, along = np.float32(0.0), np.float32(0.0)
            for j in range(width):
                change[j] *= weight[j]
                level += change[j]
                along += change[j] * white[j]
            level /= np.float32(width)
            along /= np.float32(width)
            inverse = scale[b, n]
            for j in range(width):
                stream[j] += inverse * (change[j] - level - along * white[j])
                value[j] = stream[j]
            for j in range(width):
                out[b, n, j] = _rounded(bits[j])


@_kernel
def gelu(hidden: Half, out: Half, slope: Half) -> None:
    """GELU of [R, H] in its tanh form, and its derivative there."""
    rows, width = hidden.shape
    bits = np.empty(width, np.int32)
    value = bits.view(np.float32)
    more = np.empty(width, np.int32)
    derivative = more.view(np.float32)
    for r in range(rows):
        for j in range(width):
            bits[j] = np.int32(hidden[r, j]) << 16
        for j in range(width):
            x = value[j]
            square = x * x
            u = _ROOT * x * (np.float32(1.0) + _CUBE * square)
            u = min(max(u, -_FLAT), _FLAT)
            v = u * u
            # tanh as a continued fraction, cut off after seven terms: within 1e-4.
            over = np.float32(135135.0) + v * (np.float32(17325.0) + v * (np.float32(378.0) + v))
            under = np.float32(135135.0) + v * (
                np.float32(62370.0) + v * (np.float32(3150.0) + v * np.float32(28.0))
            )
            t = u * over / under
            half = np.float32(0.5) * (np.float32(1.0) + t)
            inner = _ROOT * (np.float32(1.0) + np.float32(3.0) * _CUBE * square)
            value[j] = x * half
            derivative[j] = half + np.float32(0.5) * x * (np.float32(1.0) - t * t) * inner
        for j in range(width):
            out[r, j] = _rounded(bits[j])
        for j in range(width):
            slope[r, j] = _rounded(more[j])


@_kernel
def scale_by(values: Half, factors: Half) -> None:
    """values *= factors, [R, H]."""
    rows, width = values.shape
    bits = np.empty(width, np.int32)
    value = bits.view(np.float32)
    more = np.empty(width, np.int32)
    factor = more.view(np.float32)
    for r in range(rows):
        for j in range(width):
            bits[j] = np.int32(values[r, j]) << 16
            more[j] = np.int32(factors[r, j]) << 16
        for j in range(width):
            value[j] *= factor[j]
        for j in range(width):
            values[r, j] = _rounded(bits[j])


@_kernel
def features(q: Single, anchors: Single, out: Half) -> None:
    """What the prior sees of latents q [B, S, C], in `out` [B, S, 6C + A + 1].

    Clipped values and magnitudes of a step and of the two before it, the rate's anchor weights
    [B, A], and 1 for the first step.
    """
    frames, steps, channels = q.shape
    few = anchors.shape[1]
    bits = np.empty(channels, np.int32)
    value = bits.view(np.float32)
    for b in range(frames):
        for s in range(steps):
            row = out[b, s]
            for j in range(channels):
                value[j] = min(max(q[b, s, j], np.float32(-8.0)), np.float32(8.0))
            for j in range(channels):
                row[j] = _rounded(bits[j])
            for j in range(channels):
                value[j] = min(abs(q[b, s, j]), np.float32(4.0))
            for j in range(channels):
                row[channels + j] = _rounded(bits[j])
            for past in range(1, 3):
                at = 2 * channels * past
                if s >= past:
                    row[at : at + 2 * channels] = out[b, s - past, : 2 * channels]
                else:
                    row[at : at + 2 * channels] = 0
            for j in range(few):
                value[j] = anchors[b, j]
                row[6 * channels + j] = _rounded(bits[j])
            value[0] = 1.0 if s == 0 else 0.0
            row[6 * channels + few] = _rounded(bits[0])


@_kernel
def features_back(slope: Half, q: Single, total: Single) -> None:
    """Gradient `total` [B, S, C] with respect to q, from that of its `features`."""
    frames, steps, channels = q.shape
    bits = np.empty(2 * channels, np.int32)
    value = bits.view(np.float32)
    change = np.empty(2 * channels, np.float32)
    for b in range(frames):
        for s in range(steps):
            change[:] = 0.0
            for later in range(min(3, steps - s)):
                at = 2 * channels * later
                for j in range(2 * channels):
                    bits[j] = np.int32(slope[b, s + later, at + j]) << 16
                for j in range(2 * channels):
                    change[j] += value[j]
            for j in range(channels):
                x = q[b, s, j]
                inside = change[j] if abs(x) <= np.float32(8.0) else np.float32(0.0)
                near = change[channels + j] if abs(x) <= np.float32(4.0) else np.float32(0.0)
                sign = np.float32(x > 0.0) - np.float32(x < 0.0)
                total[b, s, j] = inside + sign * near
