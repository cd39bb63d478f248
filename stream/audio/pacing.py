"""Keeping time with samples: where a stream of samples stands against `time.monotonic`.

`Pacer` makes real time out of a clock, for sources and sinks without a sound card. `SampleClock`
follows a sound card: it learns from the card's time stamps at which moment each sample was, or
will be, in the air.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE

# What a time stamp of a `SampleClock` consists of: the number of a sample, when it was or will be
# in the air, and whether the clock has to begin anew with it.
POSITION, WHEN, RESTART = range(3)

Clock = Callable[[], float]


class Pacer:
    """Samples that fall due as time passes, at 16 kHz."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self.position = 0
        self._clock = clock
        self._started: float | None = None

    @property
    def started(self) -> bool:
        """Whether time is passing."""
        return self._started is not None

    def start(self) -> None:
        """Let time pass from now on."""
        self._started = self._clock() - self.position / SAMPLE_RATE

    def due(self) -> int:
        """Samples that have fallen due and were not taken; negative if taken ahead of time."""
        if self._started is None:
            return 0
        return int((self._clock() - self._started) * SAMPLE_RATE) - self.position

    def take(self, count: int) -> None:
        """Move on by `count` samples."""
        self.position += count

    def forgive(self, count: int) -> None:
        """Let `count` due samples never have been due: time stood still for them."""
        if self._started is not None:
            self._started += count / SAMPLE_RATE

    def time_of(self, position: int) -> float:
        """When the sample at `position` is due, in seconds of the clock."""
        started = self._clock() if self._started is None else self._started
        return started + position / SAMPLE_RATE


class SampleClock:
    """The moment of each sample of a sound card, from the card's own noisy time stamps.

    A first-order tracker: between stamps time runs at the nominal rate, each stamp pulls by a
    small share of its error, and a stamp far off (samples were lost, or the first stamps of a
    stream were nonsense) restarts it. So do several that are off by the same: a sound system that
    has run dry says so in no other way. One thread stamps and one asks.

    rate: Hz. gain: the share of the error taken up per stamp; drift of r seconds per second leaves
    an offset of r · interval / gain, a few tenths of a millisecond for 200 ppm. jump: seconds.
    stamped: array of one int64 that counts the stamps, where not `stamp` makes them but who writes
    rows of POSITION, WHEN and RESTART into `stamps`, each at its number modulo their number.
    """

    # Almost all of the last stamps off by more than so many seconds, and to one side, are no noise.
    _STEP = 0.004
    _LAST, _EXCEPT = 15, 2
    _ROWS = 256

    def __init__(
        self,
        rate: float,
        *,
        gain: float = 0.02,
        jump: float = 0.05,
        stamped: NDArray[np.int64] | None = None,
    ) -> None:
        self._rate, self._gain, self._jump = float(rate), gain, jump
        self.stamps = np.zeros((self._ROWS, 3))
        self._stamped = np.zeros(1, np.int64) if stamped is None else stamped
        self._followed = 0
        self._errors: deque[float] = deque(maxlen=self._LAST)
        self._position = 0
        self._time: float | None = None

    def stamp(self, position: int, when: float, restart: bool = False) -> None:
        """Sample number `position` was (or will be) in the air at `when` seconds."""
        self.stamps[int(self._stamped[0]) % self._ROWS] = position, when, restart
        self._stamped += 1

    def time_of(self, position: float) -> float | None:
        """When the sample at `position` was (or will be) in the air; None before any stamp."""
        stamped = int(self._stamped[0])
        # Of the oldest ones some may be written over while they are read.
        self._followed = max(self._followed, stamped - self._ROWS // 2)
        while self._followed < stamped:
            stamp = self.stamps[self._followed % self._ROWS].tolist()
            self._follow(int(stamp[POSITION]), stamp[WHEN], stamp[RESTART] != 0.0)
            self._followed += 1
        if self._time is None:
            return None
        return self._time + (position - self._position) / self._rate

    def _follow(self, position: int, when: float, restart: bool) -> None:
        if self._time is not None and not restart:
            expected = self._time + (position - self._position) / self._rate
            self._errors.append(when - expected)
            if step := self._step():
                when = expected + step
                self._errors.clear()
            elif abs(when - expected) <= self._jump:
                when = expected + self._gain * (when - expected)
            else:
                self._errors.clear()
        else:
            self._errors.clear()
        self._position, self._time = position, when

    def _step(self) -> float:
        """Seconds by which the last stamps are off together; 0.0 if they are not."""
        if len(self._errors) < self._LAST:
            return 0.0
        errors = sorted(self._errors)
        if errors[self._EXCEPT] > self._STEP or errors[-1 - self._EXCEPT] < -self._STEP:
            return errors[self._LAST // 2]
        return 0.0
