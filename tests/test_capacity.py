"""How many parties are decoded: dropped when time runs short, resumed when it suffices."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from stream.call.capacity import CALM, PATIENCE, SETTLE, Capacity
from stream.call.remote_stream import RemoteStream

STEP = 0.5


@dataclass
class Stream:
    """A remote stream as far as its capacity is concerned."""

    party: int
    joined: float
    cost: float
    skipped: bool = False

    def real_time(self) -> float:
        return self.cost


@dataclass
class Change:
    """Parties dropped and taken back at a time."""

    when: float
    drop: tuple[int, ...]
    take: tuple[int, ...]


class Room:
    """Parties that each take `cost` of a decoder's time, watched as a call watches them."""

    def __init__(self, count: int, cost: float) -> None:
        self.capacity = Capacity()
        self.streams = [Stream(number, 0.01 * number, cost) for number in range(1, count + 1)]
        self.now = 0.0
        self.changes: list[Change] = []

    def set_cost(self, cost: float) -> None:
        for stream in self.streams:
            stream.cost = cost

    @property
    def heard(self) -> set[int]:
        return {stream.party for stream in self.streams if not stream.skipped}

    def run(self, seconds: float) -> list[Change]:
        """Let time pass; what was changed meanwhile."""
        before = len(self.changes)
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            share = sum(stream.cost for stream in self.streams if not stream.skipped)
            streams = [cast(RemoteStream, stream) for stream in self.streams]
            drop, take = self.capacity.consider(self.now, min(share, 1.0), streams)
            for stream in drop:
                stream.skipped = True
            for stream in take:
                stream.skipped = False
            if drop or take:
                parties = (tuple(stream.party for stream in part) for part in (drop, take))
                self.changes.append(Change(self.now, *parties))
        return self.changes[before:]


def test_all_are_heard_while_there_is_time():
    room = Room(7, 0.1)
    assert room.run(300.0) == []
    assert not room.capacity.overloaded


def test_the_newest_are_dropped_at_once_and_only_as_many_as_needed():
    room = Room(7, 0.2)
    (change,) = room.run(120.0)
    assert change.drop == (7, 6, 5)
    assert change.when > PATIENCE
    assert room.heard == {1, 2, 3, 4}
    assert not room.capacity.overloaded


def test_the_last_party_is_never_dropped():
    room = Room(2, 3.0)
    room.run(60.0)
    assert room.heard == {1}
    assert room.capacity.overloaded


def test_dropped_partys_come_back_one_by_one_when_the_machine_is_faster_again():
    room = Room(5, 0.3)
    room.run(30.0)
    assert room.heard == {1, 2}
    room.set_cost(0.1)
    since = room.now
    changes = room.run(60.0)
    assert [change.take for change in changes] == [(3,), (4,), (5,)]
    times = [since, *(change.when for change in changes)]
    assert all(later - earlier >= CALM for earlier, later in pairwise(times))


def test_they_do_not_come_back_for_a_moment_of_calm_or_a_little_room():
    room = Room(4, 0.3)
    room.run(30.0)
    for _ in range(10):
        room.set_cost(0.1)
        assert room.run(CALM - 2 * STEP) == []
        room.set_cost(0.3)
        assert room.run(SETTLE) == []
    room.set_cost(0.24)  # three would fit below overload, but not with anything to spare
    assert room.run(300.0) == []


def test_a_party_that_was_taken_back_too_early_waits_ever_longer():
    """Decoding looks cheap until the party is really decoded."""
    room = Room(3, 0.45)
    room.run(20.0)
    assert room.heard == {1}
    for _ in range(40):
        room.set_cost(0.2 if len(room.heard) < 2 else 0.5)
        room.run(10.0)
    drops = [change.when for change in room.changes if change.drop]
    gaps = [later - earlier for earlier, later in pairwise(drops)]
    assert 3 <= len(drops) <= 8
    assert gaps[-1] > 2.0 * gaps[0]


def test_when_somebody_leaves_the_others_need_not_wait_longer_than_usual():
    room = Room(3, 0.4)
    room.run(30.0)
    assert room.heard == {1, 2}
    del room.streams[0]
    room.capacity.forget(1)
    room.set_cost(0.3)
    (change,) = room.run(CALM + SETTLE)
    assert change.take == (3,)
