"""Which parties of a room there is time to decode: measured load, with hysteresis.

Nothing here reads a clock: every method is told the time and what was measured. In a simulated
room of seven whose decoding takes 1.2 times the time there is, 37 % of all frames come too late
without this, at 1.6 times 80 %, at 2.5 times all; with it four, three, two parties lose none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stream.call.remote_stream import RemoteStream

OVERLOAD = 0.85  # share of real time the decoder may take
ROOM = 0.65  # share that must not be exceeded with one party more, before one is taken back
PATIENCE = 3.0  # seconds a new party is given: its first frames tell little
SETTLE = 6.0  # seconds until the measured load says what the last change has brought
CALM = 8.0  # seconds there must have been room for a party before it is taken back
_RELAPSE = 60.0  # a party dropped this soon after it was taken back waits twice as long next time
_LONGEST_CALM = 240.0


class Capacity:
    """Drops the newest parties when there is no time for all, and takes the oldest back first.

    The gap between OVERLOAD and ROOM, the time that ROOM must have lasted, and the doubling of that
    time for a party that had to be dropped again keep parties from coming and going.
    """

    def __init__(self) -> None:
        self.overloaded = False
        self._changed = float("-inf")
        self._calm_since: float | None = None
        self._calm: dict[int, float] = {}
        self._taken: dict[int, float] = {}

    def consider(
        self, now: float, share: float, streams: Iterable[RemoteStream]
    ) -> tuple[list[RemoteStream], list[RemoteStream]]:
        """(streams to skip from now on, those to decode again).

        share: of its time that the decoder has been busy lately, 0..1.
        """
        order = sorted(streams, key=lambda stream: stream.joined)
        heard = [stream for stream in order if not stream.skipped]
        skipped = [stream for stream in order if stream.skipped]
        drop: list[RemoteStream] = []
        take: list[RemoteStream] = []
        self.overloaded = share > OVERLOAD
        if self.overloaded:
            self._calm_since = None
            drop = self._too_many(now, heard)
        elif skipped and self._affordable(now, share, heard, skipped[0]):
            take = skipped[:1]
        if drop or take:
            self._changed, self._calm_since = now, None
        return drop, take

    def forget(self, party: int) -> None:
        """A party has left for good: the others need not wait longer than usual any more."""
        self._calm.clear()
        self._taken.pop(party, None)

    def _too_many(self, now: float, heard: list[RemoteStream]) -> list[RemoteStream]:
        """The newest, one at least, until there is time for the others; never the last one."""
        if len(heard) < 2 or now <= max(heard[-1].joined + PATIENCE, self._changed + SETTLE):
            return []
        drop: list[RemoteStream] = []
        while len(heard) > 1 and (not drop or _sum(heard) > OVERLOAD):
            drop.append(heard.pop())
            party = drop[-1].party
            relapse = now - self._taken.get(party, float("-inf")) < _RELAPSE
            before = self._calm.get(party, CALM)
            self._calm[party] = min(2.0 * before, _LONGEST_CALM) if relapse else CALM
        return drop

    def _affordable(
        self, now: float, share: float, heard: Sequence[RemoteStream], first: RemoteStream
    ) -> bool:
        """Whether there has been room for a while for the one that has waited longest."""
        # What it took itself was measured when the machine was busy, perhaps with something else.
        costs = [cost for stream in heard if (cost := stream.real_time()) > 0.0]
        cost = max(costs, default=first.real_time())
        if max(share, _sum(heard)) + cost > ROOM:
            self._calm_since = None
            return False
        if self._calm_since is None:
            self._calm_since = now
        calm = self._calm.get(first.party, CALM)
        if now - self._calm_since < calm or now - self._changed < SETTLE:
            return False
        self._taken[first.party] = now
        return True


def _sum(streams: Iterable[RemoteStream]) -> float:
    return sum(stream.real_time() for stream in streams)
