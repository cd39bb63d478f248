"""Estimates of the remote clock: offset, round trip and one-way delay.

Both ends exchange heartbeats with the four times of NTP's on-wire protocol (RFC 5905, section 8):
t0 we sent, t1 it arrived there, t2 they sent, t3 it arrived here. Then

    round trip = (t3 - t0) - (t2 - t1)        offset = ((t1 - t0) + (t2 - t3)) / 2

and the offset's error is at most half the round trip. So the sample with the shortest round trip is
believed (NTP's clock filter, section 10), where a sample's age counts against it: clocks drift
apart, by up to `DRIFT`.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from stream.link.wire import NO_STAMP, STAMP_BITS

DRIFT = 200e-6  # seconds per second that two clocks may drift apart
_SAMPLES = 32
_DELAYS = 9
_LEAST_ORIGIN = 3600.0
_TICKS = 1_000_000


class LinkClock:
    """Our monotonic clock as it travels: 48-bit stamps in microseconds, NO_STAMP excepted.

    The origin is an hour before `now`, so that stamps tell nothing about the machine's uptime and
    anything of the last hour has one.
    """

    def __init__(self, now: float) -> None:
        self._origin = now - _LEAST_ORIGIN

    def stamp(self, when: float) -> int:
        """The stamp of a time of our monotonic clock, clamped to what a stamp can say."""
        ticks = round((when - self._origin) * _TICKS)
        return min(max(ticks, NO_STAMP + 1), (1 << STAMP_BITS) - 1)

    def time(self, stamp: int) -> float:
        """The time of our monotonic clock that `stamp`, one of ours, stands for."""
        return self._origin + stamp / _TICKS


class RemoteClock:
    """Follows one remote clock. Times are seconds; `remote` ones are stamps over 1e6."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=_SAMPLES)
        self._delays: deque[float] = deque(maxlen=_DELAYS)

    def exchange(self, t0: float, t1: float, t2: float, t3: float) -> None:
        """Add one exchange; t0, t3 in our clock, t1, t2 in the remote one.

        Impossible ones (negative spans, as a confused or lying peer may send) are ignored.
        """
        round_trip = (t3 - t0) - (t2 - t1)
        if t3 < t0 or t2 < t1 or round_trip < 0.0:
            return
        self._samples.append((t3, round_trip, ((t1 - t0) + (t2 - t3)) / 2.0))

    def heard(self, transmitted: float, arrived: float) -> None:
        """Add the one-way delay of a message that carries the remote time it was sent at."""
        local = self.to_local(transmitted)
        if local is not None:
            self._delays.append(max(arrived - local, 0.0))

    @property
    def round_trip(self) -> float | None:
        """The shortest recent round trip, None before the first."""
        return min((sample[1] for sample in self._samples), default=None)

    @property
    def longest_round_trip(self) -> float | None:
        """The longest of the last eight round trips, None before the first."""
        return max((sample[1] for sample in list(self._samples)[-8:]), default=None)

    @property
    def offset(self) -> float | None:
        """Remote clock minus ours, None until known."""
        if not self._samples:
            return None
        latest = self._samples[-1][0]
        return min(self._samples, key=lambda s: s[1] / 2.0 + DRIFT * (latest - s[0]))[2]

    @property
    def one_way(self) -> float | None:
        """The median recent delay from there to here, None until known."""
        return median(self._delays) if self._delays else None

    def to_local(self, remote: float) -> float | None:
        """A remote time in our clock, None until the offset is known."""
        offset = self.offset
        return None if offset is None else remote - offset


def seconds(stamp: int) -> float:
    """A remote stamp in seconds of the remote clock."""
    return stamp / _TICKS


def microseconds(span: float) -> int:
    """A span of time in whole microseconds, 32 bits."""
    return min(max(round(span * _TICKS), 0), (1 << 32) - 1)
