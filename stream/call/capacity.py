"""Which voices of a room there is time to decode: measured load, with hysteresis.

No threads and no clock of its own: every method is told the time and what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OVERLOAD = 0.85  # share of real time the decoder may take
ROOM = 0.65  # share that must not be exceeded with one voice more, before one is taken back
PATIENCE = 3.0  # seconds a new voice is given: its first frames tell little
SETTLE = 6.0  # seconds until the measured load says what the last change has brought
CALM = 8.0  # seconds there must have been room for a voice before it is taken back
_RELAPSE = 60.0  # a voice dropped this soon after it was taken back waits twice as long next time
_LONGEST_CALM = 240.0


@dataclass(frozen=True)
class Demand:
    """What one voice takes. joined: when it came; real_time: seconds of decoding per second."""

    number: int
    joined: float
    real_time: float


@dataclass(frozen=True)
class Change:
    """drop: voices not to be decoded any more; take: those to be decoded again."""

    drop: tuple[int, ...] = ()
    take: tuple[int, ...] = ()


NO_CHANGE = Change()


class Capacity:
    """Drops the newest voices when there is no time for all, and takes the oldest back first.

    The gap between OVERLOAD and ROOM, the time that ROOM must have lasted, and the doubling of that
    time for a voice that had to be dropped again keep voices from coming and going.
    """

    def __init__(self) -> None:
        self.overloaded = False
        self._changed = float("-inf")
        self._calm_since: float | None = None
        self._calm: dict[int, float] = {}
        self._taken: dict[int, float] = {}

    def consider(
        self, now: float, share: float, heard: Sequence[Demand], dropped: Sequence[Demand]
    ) -> Change:
        """What to change now. share: of its time that the decoder has been busy lately, 0..1."""
        self.overloaded = share > OVERLOAD
        change = NO_CHANGE
        if self.overloaded:
            self._calm_since = None
            change = Change(drop=self._too_many(now, heard))
        elif dropped:
            change = Change(take=self._affordable(now, share, heard, dropped))
        if change != NO_CHANGE:
            self._changed, self._calm_since = now, None
        return change

    def forget(self, number: int) -> None:
        """A voice has left for good: the others need not wait longer than usual any more."""
        self._calm.clear()
        self._taken.pop(number, None)

    def _too_many(self, now: float, heard: Sequence[Demand]) -> tuple[int, ...]:
        """The newest voices, one at least, until the rest fits; never the last one."""
        order = sorted(heard, key=lambda voice: voice.joined)
        if len(order) < 2 or now - max(order[-1].joined + PATIENCE, self._changed + SETTLE) <= 0.0:
            return ()
        drop: list[int] = []
        while len(order) > 1 and (not drop or _sum(order) > OVERLOAD):
            number = order.pop().number
            drop.append(number)
            relapse = now - self._taken.get(number, float("-inf")) < _RELAPSE
            before = self._calm.get(number, CALM)
            self._calm[number] = min(2.0 * before, _LONGEST_CALM) if relapse else CALM
        return tuple(drop)

    def _affordable(
        self, now: float, share: float, heard: Sequence[Demand], dropped: Sequence[Demand]
    ) -> tuple[int, ...]:
        """The voice that has waited for a place longest, if there has been room for a while."""
        first = min(dropped, key=lambda voice: voice.joined)
        # What it took itself was measured when the machine was busy, perhaps with something else.
        costs = [voice.real_time for voice in heard if voice.real_time > 0.0]
        cost = max(costs, default=first.real_time)
        if max(share, _sum(heard)) + cost > ROOM:
            self._calm_since = None
            return ()
        if self._calm_since is None:
            self._calm_since = now
        calm = self._calm.get(first.number, CALM)
        if now - self._calm_since < calm or now - self._changed < SETTLE:
            return ()
        self._taken[first.number] = now
        return (first.number,)


def _sum(voices: Iterable[Demand]) -> float:
    return sum(voice.real_time for voice in voices)
