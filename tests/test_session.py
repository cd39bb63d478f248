"""The session of one connection, without sockets and with a manual clock."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadStream
from stream.link.clock import LinkClock
from stream.link.session import DEAD, MAX_WAITING, STALE, WINDOW, Outgoing, ReplayWindow, Session
from stream.link.wire import Audio, Bye, Heartbeat, decode, encode

STEP = 0.05
DELAY = 0.1  # seconds on the way


class Wire:
    """Two sessions, `DELAY` apart; the other one's clock is 1000 s ahead."""

    OFFSET = 1000.0

    def __init__(self) -> None:
        self.now = 0.0
        self.stalled = self.full = False
        self._under_way: dict[Session, deque[tuple[float, bytes]]] = {}
        self.heard: list[tuple[float, Audio]] = []
        self.here = self._session(0.0)
        self.there = self._session(self.OFFSET)
        self._under_way[self.here], self._under_way[self.there] = deque(), deque()

    def _session(self, offset: float) -> Session:
        def transmit(data: bytes) -> bool:
            other = self.there if session is self.here else self.here
            if not self.full:
                self._under_way[other].append((self.now + DELAY, data))
            return not self.full

        session = Session(7, LinkClock(self.now + offset), transmit, self.now + offset)
        return session

    def run(self, seconds: float) -> None:
        """Let time pass. What is stalled arrives when the wire is not stalled any more."""
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for session, offset in ((self.here, 0.0), (self.there, self.OFFSET)):
                arriving = self._under_way[session]
                while arriving and arriving[0][0] <= self.now and not self.stalled:
                    message = session.receive(arriving.popleft()[1], self.now + offset)
                    if isinstance(message, Audio):
                        self.heard.append((self.now, message))
                session.tick(self.now + offset)

    def say(self, sequence: int) -> None:
        self.here.queue(Outgoing(1, sequence, self.now, b"x", self.now), self.now)


@pytest.fixture
def link() -> Wire:
    """Two sessions that know each other's clocks."""
    link = Wire()
    link.run(3.0)
    return link


def test_heartbeats_tell_the_delay_and_the_other_clock(link):
    assert link.here.remote.round_trip == pytest.approx(2 * DELAY, abs=2 * STEP)
    assert link.there.remote.one_way == pytest.approx(DELAY, abs=STEP)
    link.say(1)
    link.run(0.5)
    ((when, audio),) = link.heard
    assert when == pytest.approx(3.0 + DELAY, abs=STEP)
    assert link.there.captured(audio.captured) == pytest.approx(3.0 + link.OFFSET, abs=2 * STEP)


def test_a_silent_connection_is_dead(link):
    link.stalled = True
    link.run(DEAD - 0.5)
    assert not link.here.dead(link.now)
    link.run(1.5)
    assert link.here.dead(link.now).startswith("nothing heard for ")
    link.stalled = False
    link.run(STEP)
    assert not link.here.dead(link.now)


def test_a_stall_is_not_followed_by_stale_audio(link):
    link.stalled = True
    for sequence in range(60):
        link.say(sequence)
        link.run(0.1)
    link.stalled = False
    link.say(60)
    link.run(1.0)
    assert link.heard[-1][1].sequence == 60
    assert len({audio.sequence for _, audio in link.heard}) == len(link.heard)
    # What was sent before the stall showed is late; all else is held back, and dropped when stale.
    held = [when - 3.0 - 0.1 * audio.sequence for when, audio in link.heard if audio.sequence > 20]
    assert max(held) < STALE + 3 * STEP
    assert link.here.dropped == 61 - len(link.heard) > 20


def test_what_waits_is_bounded(link):
    link.full = True
    for sequence in range(1200):
        link.say(sequence)
    assert link.here.dropped == 1200 - MAX_WAITING
    link.full = False
    link.run(1.0)
    assert [audio.sequence for _, audio in link.heard] == list(range(1200 - MAX_WAITING, 1200))


def test_what_waits_at_the_end_is_dropped(link):
    link.full = True
    link.say(1)
    link.say(2)
    link.here.discard()
    assert link.here.dropped == 2


def test_another_session_and_damage_are_no_sign_of_life(link):
    before = link.here.heard_at
    for data in (encode(Bye("over"), 8), encode(Heartbeat(1, 0, 1), 7)[:-1] + b"\0"):
        with pytest.raises(BadStream):
            link.here.receive(data, link.now + 1.0)
    assert link.here.heard_at == before
    assert link.here.receive(encode(Bye("over"), 7), link.now + 1.0) == Bye("over")
    assert link.here.heard_at == link.now + 1.0


def test_messages_carry_the_session(link):
    sent: deque[bytes] = deque()

    def transmit(data: bytes) -> bool:
        sent.append(data)
        return True

    session = Session(9, LinkClock(0.0), transmit, 0.0)
    assert session.say(Bye("over"))
    assert decode(sent[0]) == (9, Bye("over"))


@given(st.lists(st.integers(0, 300), max_size=200))
def test_replay_window_against_a_set(sequence):
    """Fresh exactly when never seen and less than WINDOW behind the highest."""
    window, seen, highest = ReplayWindow(), set(), -1
    for number in sequence:
        fresh = window.check(number)
        highest = max(highest, number)
        assert fresh == (number > highest - WINDOW and number not in seen)
        seen.add(number)


def test_replay_window_jumps_far():
    window = ReplayWindow()
    assert window.check(5)
    assert window.check((1 << 32) - 1)
    assert not window.check(5)
