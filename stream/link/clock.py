"""Estimates of the remote clock: offset, round trip and one-way delay.

Both ends exchange the four times of NTP's on-wire protocol (RFC 5905, section 8): t0 we sent, t1 it
arrived there, t2 they sent, t3 it arrived here. Then

    round trip = (t3 - t0) - (t2 - t1)        offset = ((t1 - t0) + (t2 - t3)) / 2

and the offset's error is at most half the round trip. So the sample with the shortest round trip is
believed (NTP's clock filter, section 10), where a sample's age counts against it: clocks drift
apart, by up to `DRIFT`.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from stream.link.wire import STAMP_BITS, STAMP_STEP

DRIFT = 200e-6  # seconds per second that two clocks may drift apart
_SAMPLES = 32
_DELAYS = 9
_BETWEEN_DELAYS = 0.25  # seconds
_MODULUS = 1 << STAMP_BITS
_TICKS = 1_000_000


class LinkClock:
    """Our monotonic clock as it travels: 24-bit stamps in steps of 16 microseconds.

    It begins at `now`, so that stamps tell nothing about the machine's uptime.
    """

    def __init__(self, now: float) -> None:
        self._origin = now

    def stamp(self, when: float) -> int:
        """The stamp of a time of our monotonic clock."""
        return round((when - self._origin) / STAMP_STEP) % _MODULUS


class RemoteClock:
    """Follows one remote clock. Times are seconds; remote ones count from its first stamp's wrap.

    Stamps wrap, so each is taken for the time nearest to where the remote clock should be by now.
    """

    def __init__(self) -> None:
        self._reference: tuple[int, float] | None = None  # latest stamp, unwrapped, and its arrival
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=_SAMPLES)
        self._delays: deque[tuple[float, float]] = deque(maxlen=_DELAYS)

    def exchange(self, t0: float, t1: float, t2: float, t3: float) -> None:
        """Add one exchange; t0, t3 in our clock, t1, t2 in the remote one.

        Impossible ones (negative spans, as a confused or lying peer may send) are ignored.
        """
        round_trip = (t3 - t0) - (t2 - t1)
        inexact = STAMP_STEP + DRIFT * (t2 - t1)
        if t3 < t0 or t2 < t1 or round_trip < -inexact:
            return
        self._samples.append((t3, max(round_trip, 0.0), ((t1 - t0) + (t2 - t3)) / 2.0))

    def heard(self, stamp: int, arrived: float) -> float:
        """Follow the stamp that a message was sent with; returns its remote time."""
        ticks = self._unwrap(stamp, arrived)
        self._reference = ticks, arrived
        return ticks * STAMP_STEP

    def remote_time(self, stamp: int, now: float) -> float:
        """The remote time that `stamp` stands for, if it is of about now."""
        return self._unwrap(stamp, now) * STAMP_STEP

    def delayed(self, transmitted: float, arrived: float) -> None:
        """Add the one-way delay of a message sent at a remote time, a few times a second."""
        local = self.to_local(transmitted)
        full = len(self._delays) == _DELAYS
        if local is None or (full and arrived - self._delays[-1][0] < _BETWEEN_DELAYS):
            return
        self._delays.append((arrived, max(arrived - local, 0.0)))

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
        return median(delay for _, delay in self._delays) if self._delays else None

    def to_local(self, remote: float) -> float | None:
        """A remote time in our clock, None until the offset is known."""
        offset = self.offset
        return None if offset is None else remote - offset

    def _unwrap(self, stamp: int, now: float) -> int:
        if self._reference is None:
            return stamp
        latest, arrived = self._reference
        expected = latest + round((now - arrived) / STAMP_STEP)
        return expected + (stamp - expected + _MODULUS // 2) % _MODULUS - _MODULUS // 2


def seconds(microseconds: int) -> float:
    """A span of time that came in microseconds."""
    return microseconds / _TICKS


def microseconds(span: float) -> int:
    """A span of time in whole microseconds, 32 bits."""
    return min(max(round(span * _TICKS), 0), (1 << 32) - 1)
