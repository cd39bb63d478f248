"""How many voices are decoded: dropped when there is no time, taken back when there is."""

from __future__ import annotations

from itertools import pairwise

from stream.call.capacity import CALM, PATIENCE, SETTLE, Capacity, Change, Demand

STEP = 0.5


class Room:
    """Voices that each take `cost` of a decoder's time, watched as a call watches them."""

    def __init__(self, count: int, cost: float) -> None:
        self.capacity = Capacity()
        self.cost = cost
        self.joined = {number: 0.01 * number for number in range(1, count + 1)}
        self.heard = set(self.joined)
        self.now = 0.0
        self.changes: list[tuple[float, Change]] = []

    def share(self) -> float:
        return min(self.cost * len(self.heard), 1.0)

    def run(self, seconds: float) -> list[tuple[float, Change]]:
        """Let time pass; what was changed meanwhile."""
        before = len(self.changes)
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            demands = {n: Demand(n, since, self.cost) for n, since in self.joined.items()}
            change = self.capacity.consider(
                self.now,
                self.share(),
                [demands[n] for n in self.heard],
                [demands[n] for n in self.joined if n not in self.heard],
            )
            self.heard -= set(change.drop)
            self.heard |= set(change.take)
            if change != Change():
                self.changes.append((self.now, change))
        return self.changes[before:]


def test_all_are_heard_while_there_is_time():
    room = Room(7, 0.1)
    assert room.run(300.0) == []
    assert not room.capacity.overloaded


def test_the_newest_are_dropped_at_once_and_only_as_many_as_needed():
    room = Room(7, 0.2)
    ((when, change),) = room.run(120.0)
    assert change.drop == (7, 6, 5)
    assert when > PATIENCE
    assert room.heard == {1, 2, 3, 4}
    assert not room.capacity.overloaded


def test_the_last_voice_is_never_dropped():
    room = Room(2, 3.0)
    room.run(60.0)
    assert room.heard == {1}
    assert room.capacity.overloaded


def test_dropped_voices_come_back_one_by_one_when_the_machine_is_faster_again():
    room = Room(5, 0.3)
    room.run(30.0)
    assert room.heard == {1, 2}
    room.cost = 0.1
    since = room.now
    changes = room.run(60.0)
    assert [change.take for _, change in changes] == [(3,), (4,), (5,)]
    times = [since, *(when for when, _ in changes)]
    assert all(later - earlier >= CALM for earlier, later in pairwise(times))


def test_they_do_not_come_back_for_a_moment_of_calm_or_a_little_room():
    room = Room(4, 0.3)
    room.run(30.0)
    for _ in range(10):
        room.cost = 0.1
        assert room.run(CALM - 2 * STEP) == []
        room.cost = 0.3
        assert room.run(SETTLE) == []
    room.cost = 0.24  # three would fit below overload, but not with anything to spare
    assert room.run(300.0) == []


def test_a_voice_that_was_taken_back_too_early_waits_ever_longer():
    """Decoding looks cheap until the voice is really decoded."""
    room = Room(3, 0.45)
    room.run(20.0)
    assert room.heard == {1}
    for _ in range(40):
        room.cost = 0.2 if len(room.heard) < 2 else 0.5
        room.run(10.0)
    drops = [when for when, change in room.changes if change.drop]
    gaps = [later - earlier for earlier, later in pairwise(drops)]
    assert 3 <= len(drops) <= 8
    assert gaps[-1] > 2.0 * gaps[0]


def test_when_somebody_leaves_the_others_need_not_wait_longer_than_usual():
    room = Room(3, 0.4)
    room.run(30.0)
    assert room.heard == {1, 2}
    del room.joined[1]
    room.heard.remove(1)
    room.capacity.forget(1)
    room.cost = 0.3
    ((_, change),) = room.run(CALM + SETTLE)
    assert change.take == (3,)
