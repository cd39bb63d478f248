"""The distance F of log-mel frames for searches on the CPU, with its slope in one pass."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.kernels import kernel
from codec.search.problem import Distance
from codec.signal import analysis
from codec.signal.samples import FloatArray
from models.networks.speech_distance import (
    ADDED_SHARE,
    ASYMMETRY,
    HIGHEST,
    LOUDNESS_SCALE,
    LOUDNESS_SHARE,
    LOWEST,
    MOST_RATIO,
    OFFSET,
    SCALE,
    ZWICKER_POWER,
    FrameDistance,
)

# A log-mel value to the natural logarithm of an amplitude.
_NEPERS = np.float32((analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0 * np.log(10.0) / 20.0)
_MIDDLE = np.float32((analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0 * np.log(10.0) / 20.0)
_FLOOR = np.float32(analysis.FLOOR)


@kernel(fastmath=True, error_model="numpy")
def _distance_slope(
    y: FloatArray,
    x: FloatArray,
    gain: FloatArray,
    target_power: FloatArray,
    target: FloatArray,
    first: NDArray[np.intp],
    shares: FloatArray,
    weight: FloatArray,
    threshold: FloatArray,
    distance: FloatArray,
    slope: FloatArray,
) -> None:
    """`FrameDistance.against` of frames y [B, T, M], in `distance` [B], and its slope [B, T, M].

    x, gain [B], target_power, target [B, T, K]: the reference; first [M], shares [M, 2]: the two
    critical bands that a band adds to, and how much; weight, threshold [K]: of critical bands.
    """
    frames, columns, bands = y.shape
    count = len(weight)
    amplitude = np.empty(bands, np.float32)
    power, along = np.empty(count, np.float32), np.empty(count, np.float32)
    low = np.empty(count, np.float32)
    for k in range(count):
        low[k] = (threshold[k] / np.float32(0.5)) ** np.float32(ZWICKER_POWER)
        low[k] *= np.float32(LOUDNESS_SCALE)
    for_level = np.float32(SCALE) / np.float32(columns * bands)
    for_loudness = np.float32(SCALE * LOUDNESS_SHARE) / np.float32(columns)
    for b in range(frames):
        total = np.float32(0.0)
        for t in range(columns):
            power[:] = 0.0
            for j in range(bands):
                level = min(max(y[b, t, j], np.float32(LOWEST)), np.float32(HIGHEST))
                amplitude[j] = np.exp(level * _NEPERS + _MIDDLE)
                over = max(amplitude[j] - _FLOOR, np.float32(0.0))
                k, square = first[j], over * over * gain[b]
                power[k] += square * shares[j, 0]
                power[k + 1] += square * shares[j, 1]
            for k in range(count):
                base = np.float32(0.5) + np.float32(0.5) * power[k] / threshold[k]
                raised = base ** np.float32(ZWICKER_POWER)
                loudness = low[k] * (raised - np.float32(1.0))
                rising = np.float32(0.0)
                if loudness >= 0.0:
                    rising = low[k] * np.float32(ZWICKER_POWER) * raised / base
                    rising *= np.float32(0.5) / threshold[k]
                else:
                    loudness = np.float32(0.0)
                off = loudness - target[b, t, k]
                beside = target_power[b, t, k] + np.float32(OFFSET)
                ratio = (power[k] + np.float32(OFFSET)) / beside
                inside = np.float32(1.0 / MOST_RATIO) <= ratio <= np.float32(MOST_RATIO)
                ratio = min(max(ratio, np.float32(1.0 / MOST_RATIO)), np.float32(MOST_RATIO))
                added = np.float32(ADDED_SHARE) * weight[k] * ratio ** np.float32(ASYMMETRY)
                total += for_loudness * off * off * (weight[k] * weight[k] + added)
                along[k] = np.float32(2.0) * off * rising * (weight[k] * weight[k] + added)
                if inside:
                    along[k] += off * off * np.float32(ASYMMETRY) * added / (ratio * beside)
            for j in range(bands):
                error = y[b, t, j] - x[b, t, j]
                total += for_level * error * error
                k, over = first[j], max(amplitude[j] - _FLOOR, np.float32(0.0))
                change = np.float32(0.0)
                if np.float32(LOWEST) <= y[b, t, j] <= np.float32(HIGHEST):
                    change = along[k] * shares[j, 0] + along[k + 1] * shares[j, 1]
                    change *= np.float32(2.0) * over * amplitude[j] * _NEPERS * gain[b]
                slope[b, t, j] = for_loudness * change + np.float32(2.0) * for_level * error
        distance[b] = total


class FastDistance(Distance):
    """A `FrameDistance` whose slope is written out. Its values are the same but for rounding."""

    def __init__(self, exact: FrameDistance) -> None:
        self._exact = exact
        gather = exact.gather.numpy()
        # Every band lies between two critical bands, or on one.
        self._first = np.minimum(np.argmax(gather > 0.0, axis=1), gather.shape[1] - 2)
        self._shares = np.take_along_axis(gather, self._first[:, None] + np.arange(2), axis=1)
        self._weight, self._threshold = exact.weight.numpy(), exact.threshold.numpy()

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """As that of `FrameDistance`."""
        return self._exact.reference(x)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded frames y [B, T, M] against a `reference`: [B]."""
        return self._exact.against(reference, y)

    def with_slope(self, reference: tuple[Tensor, ...], y: Tensor) -> tuple[Tensor, Tensor]:
        """F of decoded frames y [B, T, M] against a `reference` [B], and its slope by y."""
        x, gain, power, loudness = (part.detach().contiguous().numpy() for part in reference)
        frames = y.detach().contiguous().numpy()
        found, slope = np.empty(len(frames), np.float32), np.empty_like(frames)
        _distance_slope(
            frames, x, gain.reshape(-1), power, loudness,
            self._first, self._shares, self._weight, self._threshold, found, slope,
        )  # fmt: skip
        return torch.from_numpy(found), torch.from_numpy(slope)
