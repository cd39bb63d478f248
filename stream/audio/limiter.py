"""A limiter: whatever is decoded, nothing louder than speech at full scale reaches an ear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.signal.analysis import cleaned
from codec.signal.samples import SAMPLE_RATE, FloatArray

PEAK = 0.98
# (seconds, dB of full scale): the most power over so long. Clips of speech raised until their peaks
# are at full scale have up to -6 to -10 dB over 20 ms, and -11 to -18 dB over 400 ms.
MOST_POWER = ((0.02, -8.0), (0.4, -12.0))
_RELEASE_DB = 40.0  # per second, with which the gain comes back
_QUIET = 1e-12
# Where no sample is louder, no window can have too much power.
_CALM = 0.99 * 10.0 ** (min(limit for _, limit in MOST_POWER) / 20.0)


class Limiter:
    """Turns down what has too much power, or too high peaks. Not thread safe.

    It looks only back, and so delays nothing: the power over a window rises gradually however
    suddenly a sound begins, and the gain falls with it. What is within the limits passes unchanged,
    to the bit. For a peak the gain falls as the sample rises, so the waveform bends but never
    jumps.
    """

    def __init__(self) -> None:
        self._lengths = [round(seconds * SAMPLE_RATE) for seconds, _ in MOST_POWER]
        self._longest = max(self._lengths)
        self._squares = np.zeros(self._longest)  # of the latest samples, and room for more
        self._end = self._longest  # of what is in it
        self._calm = self._longest  # samples since one was louder than _CALM
        self._gain_db = 0.0

    def process(self, samples: FloatArray) -> FloatArray:
        """The samples [n], full scale 1, within ±PEAK. What is not finite counts as silence."""
        count = len(samples)
        if not count:
            return samples
        clean = cleaned(samples)
        self._remember(clean)
        if self._gain_db == 0.0 and self._calm >= self._longest + count:
            return clean
        squares = self._squares[self._end - self._longest - count : self._end]
        if self._gain_db == 0.0 and self._within(squares, count):
            return clean
        sums = np.concatenate(([0.0], np.cumsum(squares)))
        target = np.minimum(20.0 * np.log10(PEAK / np.maximum(np.abs(clean), _QUIET)), 0.0)
        for length, (_, limit) in zip(self._lengths, MOST_POWER, strict=True):
            power = (sums[-count:] - sums[-count - length : -length]) / length
            target = np.minimum(target, limit - 10.0 * np.log10(np.maximum(power, _QUIET)))
        # The least of all targets so far, each of which is forgotten at the rate of the release.
        back = np.arange(1, count + 1) * (_RELEASE_DB / SAMPLE_RATE)
        before = np.concatenate(([self._gain_db], target - back))
        gain_db = np.minimum(np.minimum.accumulate(before)[1:] + back, 0.0)
        self._gain_db = float(gain_db[-1])
        if not gain_db.any():
            return clean
        return np.clip(clean * 10.0 ** (gain_db / 20.0), -PEAK, PEAK).astype(np.float32)

    def _remember(self, clean: FloatArray) -> None:
        """Put the squares of samples behind those before them."""
        count = len(clean)
        end = self._end + count
        if end > len(self._squares):
            latest = self._squares[self._end - self._longest : self._end]
            self._squares = np.zeros(3 * self._longest + count)
            self._squares[: self._longest] = latest
            end = self._longest + count
        np.square(clean, out=self._squares[end - count : end], dtype=np.float64)
        self._end = end
        loud = float(np.abs(clean).max()) > _CALM
        self._calm = 0 if loud else self._calm + count

    def _within(self, squares: NDArray[np.float64], count: int) -> bool:
        """Whether the latest `count` samples are certainly within all limits, as most are: no
        window that ends in them can hold more than all of them and what is before together."""
        if squares[-count:].max() > PEAK * PEAK:
            return False
        for length, (_, limit) in zip(self._lengths, MOST_POWER, strict=True):
            if squares[-count - length :].sum() > length * 10.0 ** (limit / 10.0):
                return False
        return True
