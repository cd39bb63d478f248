"""Kernels between the matrix products of the search's networks, compiled with numba.

At one frame per call, separate passes would cost as much as the products; here there is one pass
between two products. B frames of N rows; W is the width of the residual stream, H that of a block's
hidden layer. Kernels keep the interpreter's lock, for they run for microseconds.
"""

from __future__ import annotations

import numpy as np

from codec.kernels import kernel
from codec.kernels.ahead import ahead_of_time
from codec.signal.samples import FloatArray

_ROOT = np.float32(0.7978845608)  # of 2/pi; with the next one Hendrycks and Gimpel's approximation
_CUBE = np.float32(0.044715)
_FLAT = np.float32(7.9)  # from where on a tanh in single precision is 1
_OVER = (
    np.float32(4.89352455891786e-03), np.float32(6.37261928875436e-04),
    np.float32(1.48572235717979e-05), np.float32(5.12229709037114e-08),
    np.float32(-8.60467152213735e-11), np.float32(2.00018790482477e-13),
    np.float32(-2.76076847742355e-16),
)  # fmt: skip
_UNDER = (
    np.float32(4.89352518554385e-03), np.float32(2.26843463243900e-03),
    np.float32(1.18534705686654e-04), np.float32(1.19825839466702e-06),
)  # fmt: skip
_EPSILON = np.float32(1e-5)  # of torch's layer norm

_kernel = kernel(fastmath=True, error_model="numpy")


@_kernel
def normalise(
    before: FloatArray,
    added: FloatArray,
    fixed: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    stream: FloatArray,
    unit: FloatArray,
    scale: FloatArray,
    out: FloatArray,
) -> None:
    """Layer norm of a residual stream, which goes on from `before` by what a block has `added`.

    before: [B, N', W], of whose end as many rows matter as are added; added: [B, N, W]; fixed:
    [F, W] rows of every frame that come before those; weight, bias: [W]. stream: their sum
    [B, F + N, W]; unit: it whitened; scale: its 1/sigma [B, F + N]. out: [B, F + N, W], or [B, M,
    3W] for each of the last M rows between its neighbours, with zeros beyond the ends.
    """
    frames, rows, width = stream.shape
    known, passed = len(fixed), before.shape[1] - added.shape[1]
    taps = out.shape[2] > width
    skipped = rows - out.shape[1]
    for b in range(frames):
        for n in range(rows):
            sums, white = stream[b, n], unit[b, n]
            if n < known:
                for j in range(width):
                    sums[j] = fixed[n, j]
            else:
                old, new = before[b, passed + n - known], added[b, n - known]
                for j in range(width):
                    sums[j] = old[j] + new[j]
            total = np.float32(0.0)
            for j in range(width):
                total += sums[j]
            mean = total / np.float32(width)
            power = np.float32(0.0)
            for j in range(width):
                power += (sums[j] - mean) * (sums[j] - mean)
            inverse = np.float32(1.0) / np.sqrt(power / np.float32(width) + _EPSILON)
            scale[b, n] = inverse
            for j in range(width):
                white[j] = (sums[j] - mean) * inverse
            at = n - skipped  # its row of the output
            if not taps:
                for j in range(width):
                    out[b, at, j] = white[j] * weight[j] + bias[j]
                continue
            if at >= 0:
                for j in range(width):
                    out[b, at, width + j] = white[j] * weight[j] + bias[j]
            if at >= 1:
                for j in range(width):
                    out[b, at - 1, 2 * width + j] = white[j] * weight[j] + bias[j]
            if at + 1 < out.shape[1]:
                for j in range(width):
                    out[b, at + 1, j] = white[j] * weight[j] + bias[j]
        if taps:
            if not skipped:
                out[b, 0, :width] = 0.0
            out[b, out.shape[1] - 1, 2 * width :] = 0.0


@_kernel
def normalise_back(
    slope: FloatArray,
    weight: FloatArray,
    unit: FloatArray,
    scale: FloatArray,
    above: FloatArray,
    out: FloatArray,
) -> None:
    """The gradient with respect to the stream's last rows before `normalise`: out [B, N, W].

    slope: that of the norm's output, [B, M, W] or [B, M, 3W]; above: that of the stream's last rows
    after the block [B, M, W]; unit, scale: as `normalise` left them.
    """
    frames, rows, width = out.shape
    taps = slope.shape[2] > width
    given, fixed = slope.shape[1], unit.shape[1] - rows
    skipped = unit.shape[1] - given
    change = np.empty(width, np.float32)
    for b in range(frames):
        for n in range(rows):
            white, total = unit[b, fixed + n], out[b, n]
            at = fixed + n - skipped
            change[:] = 0.0
            if not taps:
                for j in range(width):
                    change[j] = slope[b, at, j]
            else:
                if at >= 0:
                    for j in range(width):
                        change[j] += slope[b, at, width + j]
                if at >= 1:
                    for j in range(width):
                        change[j] += slope[b, at - 1, 2 * width + j]
                if at + 1 < given:
                    for j in range(width):
                        change[j] += slope[b, at + 1, j]
            level, along = np.float32(0.0), np.float32(0.0)
            for j in range(width):
                change[j] *= weight[j]
                level += change[j]
                along += change[j] * white[j]
            level /= np.float32(width)
            along /= np.float32(width)
            inverse = scale[b, fixed + n]
            for j in range(width):
                total[j] = inverse * (change[j] - level - along * white[j])
            if at >= 0:
                for j in range(width):
                    total[j] += above[b, at, j]


@_kernel
def gelu(hidden: FloatArray, slope: FloatArray) -> None:
    """GELU of `hidden`, any number of values, in its tanh form and in place; slope: its derivative
    there."""
    for i in range(len(hidden)):
        x = hidden[i]
        square = x * x
        u = _ROOT * x * (np.float32(1.0) + _CUBE * square)
        u = min(max(u, -_FLAT), _FLAT)
        v = u * u
        # tanh as a fraction of two polynomials, to the last digits; its coefficients are Eigen's.
        over = _OVER[6]
        for k in range(5, -1, -1):
            over = _OVER[k] + v * over
        under = _UNDER[3]
        for k in range(2, -1, -1):
            under = _UNDER[k] + v * under
        t = u * over / under
        half = np.float32(0.5) * (np.float32(1.0) + t)
        inner = _ROOT * (np.float32(1.0) + np.float32(3.0) * _CUBE * square)
        hidden[i] = x * half
        slope[i] = half + np.float32(0.5) * x * (np.float32(1.0) - t * t) * inner


# Without numba, for decoders: starting is quicker so, and a call a few microseconds slower.
normalise_ahead = ahead_of_time(
    "f4[:,:,::1]", "f4[:,:,::1]", "f4[:,::1]", "f4[::1]", "f4[::1]", "f4[:,:,::1]", "f4[:,:,::1]",
    "f4[:,::1]", "f4[:,:,::1]",
)(normalise)  # fmt: skip
gelu_ahead = ahead_of_time("f4[::1]", "f4[::1]")(gelu)


@_kernel
def features(q: FloatArray, anchors: FloatArray, out: FloatArray) -> None:
    """What the prior sees of latents q [B, S, C], in `out` [B, S, 6C + A + 1].

    Clipped values and magnitudes of a step and of the two before it, the rate's anchor weights
    [B, A], and 1 for the first step.
    """
    frames, steps, channels = q.shape
    few = anchors.shape[1]
    for b in range(frames):
        for s in range(steps):
            row = out[b, s]
            for j in range(channels):
                x = q[b, s, j]
                row[j] = min(max(x, np.float32(-8.0)), np.float32(8.0))
                row[channels + j] = min(abs(x), np.float32(4.0))
            for past in range(1, 3):
                at = 2 * channels * past
                if s >= past:
                    row[at : at + 2 * channels] = out[b, s - past, : 2 * channels]
                else:
                    row[at : at + 2 * channels] = 0.0
            for j in range(few):
                row[6 * channels + j] = anchors[b, j]
            row[6 * channels + few] = 1.0 if s == 0 else 0.0


@_kernel
def features_back(slope: FloatArray, q: FloatArray, total: FloatArray) -> None:
    """Gradient `total` [B, S, C] with respect to q, from that of its `features`."""
    frames, steps, channels = q.shape
    change = np.empty(2 * channels, np.float32)
    for b in range(frames):
        for s in range(steps):
            change[:] = 0.0
            for later in range(min(3, steps - s)):
                at = 2 * channels * later
                for j in range(2 * channels):
                    change[j] += slope[b, s + later, at + j]
            for j in range(channels):
                x = q[b, s, j]
                inside = change[j] if abs(x) <= np.float32(8.0) else np.float32(0.0)
                near = change[channels + j] if abs(x) <= np.float32(4.0) else np.float32(0.0)
                sign = np.float32(x > 0.0) - np.float32(x < 0.0)
                total[b, s, j] = inside + sign * near
