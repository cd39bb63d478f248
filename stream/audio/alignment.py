"""What is played and what is heard, on one line of time.

Threads bring samples when they have time, and sound cards lose some; only their stamps tell which
of them belong together.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray

BLOCK = SAMPLE_RATE // 100  # 10 ms


class Stamps:
    """Gives samples their places on one line of time, 16 kHz.

    Stamps err, and how much changes slowly. Only where they change by more than SLACK at once have
    samples been lost, or have waited. When they are wrong by APART, they are followed.
    """

    SLACK = SAMPLE_RATE // 50
    APART = SAMPLE_RATE // 10
    _LEARNT = 0.02  # of what a stamp errs, by each

    def __init__(self) -> None:
        self.end = 0  # the place after the last sample
        self._error = 0.0  # usual, of stamps: samples

    def place(self, at: float | None, count: int) -> int:
        """The place of the first of `count` samples. at: seconds; None: after those before."""
        begin = self.end
        if at is not None:
            sudden = at * SAMPLE_RATE - self.end - self._error
            if abs(sudden) > self.SLACK:
                begin += round(sudden)
            elif abs(self._error) > self.APART:
                begin += round(self._error)
                self._error = 0.0
            else:
                self._error += self._LEARNT * sudden
        self.end = begin + count
        return begin


class Playback:
    """What a loudspeaker plays, block by block in step with what a microphone hears.

    One thread says what is played, another takes it. So a canceller finds an echo always as late
    after what was played, whenever threads have time, and where samples are lost. It is told that
    EARLY samples sooner, since stamps err, or less where what is played is never known so soon.
    """

    EARLY = 2 * BLOCK
    OFTEN = 10  # times in a row that it is known too late: a canceller bears no change now and then
    _MOST = SAMPLE_RATE  # samples that are kept, or are missing, before it begins anew

    def __init__(self) -> None:
        self._rendered: deque[tuple[FloatArray, float | None]] = deque(maxlen=500)
        self._stamps = Stamps()
        self._samples = np.zeros(0, np.float32)
        self._begin = 0  # the place of the first of these
        self._early = self.EARLY
        self._late = 0  # times in a row

    def render(self, samples: FloatArray, at: float | None) -> None:
        """What is played, any number of samples; at: when the first is in the air, or None."""
        self._rendered.append((samples, at))

    def block(self, end: int) -> FloatArray:
        """What is played while a block up to a place is heard, [BLOCK], and a little sooner.

        Silence where nothing is known to be. What was played before is forgotten.
        """
        while self._rendered:
            self._add(*self._rendered.popleft())
        end += self._early
        found = np.zeros(BLOCK, np.float32)
        first = end - BLOCK - self._begin
        part = self._samples[max(first, 0) : max(first + BLOCK, 0)]
        found[max(-first, 0) :][: len(part)] = part
        self._samples = self._samples[max(first + BLOCK, 0) :]
        self._begin = max(self._begin, end)
        return found

    def _add(self, samples: FloatArray, at: float | None) -> None:
        """Put samples to their place: silence where some are missing, without what came before."""
        begin = self._stamps.place(at, len(samples))
        missing = begin - self._begin - len(self._samples)
        if abs(missing) > self._MOST:
            self._samples, self._begin = samples, begin
        elif missing >= 0:
            self._late = 0
            self._samples = np.concatenate((self._samples, np.zeros(missing, np.float32), samples))
        else:
            kept = max(len(self._samples) + missing, 0)
            late = max(self._begin - begin, 0)
            self._late = self._late + 1 if late else 0
            if self._late >= self.OFTEN:
                later = min(late, self._early)
                self._early -= later
                self._begin -= later
                late -= later
            self._samples = np.concatenate((self._samples[:kept], samples[late:]))
