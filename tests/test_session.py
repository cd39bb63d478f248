"""The session of one connection, without sockets and with a manual clock."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadStream
from stream.link.clock import LinkClock, RemoteClock
from stream.link.session import (
    BURST,
    DEAD,
    INTERVAL,
    MAX_WAITING,
    RATE,
    STALE,
    WINDOW,
    KeyRequests,
    Outgoing,
    ReplayWindow,
    Session,
    voice_allowance,
)
from stream.link.wire import (
    STAMP_STEP,
    STEP_SECONDS,
    Audio,
    Bye,
    Echo,
    Heartbeat,
    Message,
    Talk,
    stamp_steps,
)

TICK = 0.008
DELAY = 0.096  # seconds on the way
NUMBER = 7  # the session id


class Wire:
    """Two sessions, `DELAY` apart; the other one's clock is 1000 s ahead and 100 ppm fast."""

    def __init__(self, delay: float = DELAY) -> None:
        self.now = 0.0
        self.delay = delay
        self.stalled = self.full = False
        self.heard: list[tuple[float, Audio]] = []  # by the other one
        self.said: list[tuple[float, Message]] = []  # by this one
        self._under_way: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        self.here = self._session(0)
        self.there = self._session(1)

    def time(self, end: int) -> float:
        """What the clock of an end says."""
        return self.now * 1.0001 + 1000.0 if end else self.now

    def _session(self, end: int) -> Session:
        def transmit(data: bytes) -> bool:
            if self.full:
                return False
            if not end:
                self.said.append((self.now, Talk(NUMBER).decode(data)))
            self._under_way[end].append((self.now + self.delay, data))
            return True

        now = self.time(end)
        return Session(NUMBER, LinkClock(now), transmit, now)

    def run(self, seconds: float) -> None:
        """Let time pass. What is stalled arrives when the wire is not stalled any more."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            for end, session in enumerate((self.here, self.there)):
                arriving = self._under_way[1 - end]
                while arriving and arriving[0][0] <= self.now and not self.stalled:
                    message = session.receive(arriving.popleft()[1], self.time(end))
                    if isinstance(message, Audio):
                        self.heard.append((self.now, message))
                session.tick(self.time(end))

    def say(self, number: int, end: int = 0) -> None:
        now = self.time(end)
        item = Outgoing(1, number, now - 0.05, b"x", now)
        (self.there if end else self.here).queue(item, now)

    def talk(self, seconds: float, every: float, both: bool = True) -> None:
        """One end, or both, say a packet every so many seconds."""
        for number in range(round(seconds / every)):
            self.say(number)
            self.run(every / 2)
            if both:
                self.say(number, 1)
            self.run(every / 2)

    def beats(self) -> list[float]:
        return [when for when, message in self.said if isinstance(message, Heartbeat)]

    def echoes(self) -> list[float]:
        return [
            when
            for when, message in self.said
            if isinstance(message, (Audio, Heartbeat)) and message.echo is not None
        ]


@pytest.fixture
def link() -> Wire:
    """Two sessions that know each other's clocks."""
    link = Wire()
    link.run(3.0)
    return link


def test_the_first_heartbeats_tell_the_delay_and_the_other_clock():
    link = Wire()
    link.run(1.0)
    for session in (link.here, link.there):
        assert session.remote.round_trip == pytest.approx(2 * DELAY, abs=2 * TICK)
        assert session.remote.one_way == pytest.approx(DELAY, abs=2 * TICK)
    link.say(1)
    link.run(0.5)
    ((when, audio),) = link.heard
    assert when == pytest.approx(1.0 + DELAY, abs=TICK)
    heard = link.there.captured(audio, link.time(1))
    assert heard == pytest.approx(1000.95, abs=2 * TICK)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("both", [True, False])
def test_who_speaks_sends_no_heartbeats_and_an_echo_about_once_a_second(link, steps, both):
    start = link.now
    link.talk(20.0, steps * STEP_SECONDS, both)
    assert not [when for when in link.beats() if when > start]
    # Where the other side says nothing but heartbeats, there is no more to echo than those.
    echoes = [when for when in link.echoes() if when > start + 2.0]
    gaps = [b - a for a, b in pairwise(echoes)]
    assert min(gaps) > 0.75
    assert max(gaps) < (INTERVAL if both else 2.5)
    assert link.here.dropped == link.there.dropped == 0
    for session in (link.here, link.there):
        assert session.remote.round_trip == pytest.approx(2 * DELAY, abs=2 * TICK)
        assert session.remote.one_way == pytest.approx(DELAY, abs=2 * TICK)


def test_who_says_nothing_sends_heartbeats(link):
    start = link.now
    link.run(30.0)
    beats = [when for when in link.beats() if when > start]
    gaps = [b - a for a, b in pairwise(beats)]
    assert min(gaps) > 0.75
    assert max(gaps) < INTERVAL + 2 * TICK
    assert link.here.remote.round_trip == pytest.approx(2 * DELAY, abs=2 * TICK)


def test_audio_is_not_held_back_when_the_other_side_falls_silent(link):
    """Its next echo would have come with audio, and comes with a heartbeat now."""
    for silence in (0.1, 0.6, 0.9, 1.3):
        link.talk(2.0 + silence, 4 * STEP_SECONDS)
        before = len(link.heard)
        link.talk(3.0, STEP_SECONDS, both=False)
        assert len(link.heard) - before == pytest.approx(3.0 / STEP_SECONDS, abs=4)
        delays = [link.there.captured(audio, link.time(1)) for _, audio in link.heard[before:]]
        assert None not in delays
    assert link.here.dropped == 0


def test_capture_delays_are_said_now_and_then_and_when_they_change(link):
    def told(capture, seconds):
        before = len(link.heard)
        for number in range(round(seconds / STEP_SECONDS)):
            item = Outgoing(1, number, None, b"x", link.now, capture)
            link.here.queue(item, link.now)
            link.run(STEP_SECONDS)
        return [audio.capture for _, audio in link.heard[before:] if audio.capture is not None]

    assert told(9, 7.0) == [9]
    assert told(9, 8.0) == [9]
    link.run(2.0)
    assert told(10, 0.5) == [10]
    assert told(11, 0.4) == []  # not at every change
    assert told(11, 1.0) == [11]
    assert told(255, 2.0) == [255]


def test_capture_times_are_right_hours_later_though_stamps_have_wrapped(link):
    link.run(30.0)
    for number in range(70):
        link.now += 240.0  # nothing of this passes; a stamp wraps after 268 s
        link.here.heard_at, link.there.heard_at = link.time(0), link.time(1)
        link.run(3.0)
        link.say(number)
        at = link.now
        link.run(0.5)
        _, audio = link.heard[-1]
        heard = link.there.captured(audio, link.time(1))
        assert heard == pytest.approx((at - 0.05) * 1.0001 + 1000.0, abs=0.1)
    assert link.now > 4 * 3600


def test_a_silent_connection_is_dead(link):
    link.stalled = True
    link.run(DEAD - 1.2)
    assert not link.here.dead(link.now)
    link.run(1.5)
    assert link.here.dead(link.now).startswith("nothing heard for ")
    link.stalled = False
    link.run(2 * TICK)
    assert not link.here.dead(link.now)


@pytest.mark.parametrize("every", [0.064, 0.256, 1.024])
def test_a_stall_is_not_followed_by_stale_audio(link, every):
    link.talk(5.0, every)
    link.run(2 * DELAY)
    link.heard.clear()
    start, count = link.now, round(6.0 / every)
    link.stalled = True
    for number in range(count):
        link.say(number)
        link.run(every)
    link.stalled = False
    link.say(count)
    link.run(1.0)
    assert link.heard[-1][1].number == count
    assert len({audio.number for _, audio in link.heard}) == len(link.heard)
    # What was sent before the stall showed is late; all else is held back, and dropped when stale.
    shown = start + 2.1
    late = [when - start - every * audio.number for when, audio in link.heard]
    held = [
        seconds
        for seconds, (_, audio) in zip(late, link.heard, strict=True)
        if start + every * audio.number > shown
    ]
    assert max(held) < STALE + DELAY + 3 * TICK
    assert link.here.dropped == count + 1 - len(link.heard) > 0


def test_what_waits_is_bounded(link):
    link.full = True
    for number in range(1200):
        link.say(number)
    assert link.here.dropped == 1200 - MAX_WAITING
    link.full = False
    link.run(1.0)
    assert [audio.number for _, audio in link.heard] == list(range(1200 - MAX_WAITING, 1200))


def test_seven_voices_of_the_shortest_packets_may_wait_for_as_long_as_they_are_of_use():
    seconds = MAX_WAITING * STEP_SECONDS / 7
    assert seconds == pytest.approx(STALE, rel=0.05)


def test_what_waits_at_the_end_is_dropped(link):
    link.full = True
    link.say(1)
    link.say(2)
    link.here.discard()
    assert link.here.dropped == 2


def test_another_session_and_damage_are_no_sign_of_life(link):
    before = link.here.heard_at
    damaged = Talk(NUMBER).encode(Heartbeat(1))[:-1] + b"\0"
    for data in (Talk(8).encode(Bye("over")), Talk(None).encode(Bye("over")), damaged):
        with pytest.raises(BadStream):
            link.here.receive(data, link.now + 1.0)
    assert link.here.heard_at == before
    assert link.here.receive(Talk(NUMBER).encode(Bye("over")), link.now + 1.0) == Bye("over")
    assert link.here.heard_at == link.now + 1.0


@pytest.mark.parametrize("number", [9, None])
def test_messages_carry_the_session_where_nothing_else_vouches_for_them(number):
    sent: deque[bytes] = deque()

    def transmit(data: bytes) -> bool:
        sent.append(data)
        return True

    session = Session(number, LinkClock(0.0), transmit, 0.0)
    assert session.say(Bye("over"), 0.0)
    assert Talk(number).decode(sent[0]) == Bye("over")
    assert len(sent[0]) == (6 if number is None else 14)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 20.0),
            st.integers(0, 2**24 - 1),
            st.none() | st.builds(Echo, st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1)),
            st.integers(0, 2**16 - 1),
        ),
        max_size=40,
    )
)
def test_whatever_times_a_peer_claims_the_figures_stay_sane(claims):
    """Bounded memory, no exception, no negative spans."""
    now = 0.0
    session = Session(None, LinkClock(now), lambda data: True, now)
    for wait, transmit, echo, age in claims:
        now += wait
        session.tick(now)
        audio = Audio(0, 0, transmit, b"x", age, echo=echo)
        session.receive(Talk(None).encode(audio), now)
        captured = session.captured(audio, now)
        assert captured is None or abs(captured) < 1e6
        assert (session.remote.round_trip or 0.0) >= 0.0
        assert (session.remote.one_way or 0.0) >= 0.0
        assert DEAD <= session.patience <= 10.0
        session.queue(Outgoing(1, 0, now, b"x", now), now)


def test_stamps_that_nobody_echoes_take_bounded_memory():
    session = Session(None, LinkClock(0.0), lambda data: True, 0.0)
    for k in range(20_000):
        session.queue(Outgoing(1, k % 65536, None, b"x", 0.0), 1e-4 * k)
    assert len(session._unechoed) <= 2048


# --- the remote clock -----------------------------------------------------------------------------


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e5), st.floats(-130.0, 130.0))
def test_stamps_are_unwrapped_against_the_local_estimate(begin, passed, jitter):
    """Up to half a wrap away from where the remote clock should be by now."""
    there = LinkClock(0.0)
    remote = RemoteClock()
    first = remote.heard(there.stamp(begin), 0.0)
    later = remote.remote_time(there.stamp(begin + passed + jitter), passed)
    assert later - first == pytest.approx(passed + jitter, abs=3 * STAMP_STEP)


def test_an_impossible_exchange_is_ignored():
    remote = RemoteClock()
    remote.exchange(10.0, 5.0, 4.0, 11.0)  # sent there before it arrived there
    remote.exchange(11.0, 5.0, 5.0, 10.0)
    remote.exchange(10.0, 5.0, 8.0, 11.0)  # held for longer than it was away
    assert remote.offset is remote.round_trip is None
    remote.exchange(10.0, 5.0, 6.0001, 11.0001)  # by no more than clocks differ
    assert remote.round_trip == pytest.approx(0.0, abs=1e-6)


# --- what may pass --------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 600), max_size=200),
    st.sampled_from([0, 60_000, 65_400, 32_500]),
)
def test_replay_window_against_a_set(numbers, base):
    """Fresh exactly when never seen and less than WINDOW behind the highest; numbers wrap."""
    window, seen = ReplayWindow(), set()
    highest = None
    for number in numbers:
        fresh = window.check((base + number) % 65536)
        highest = number if highest is None else max(highest, number)
        assert fresh == (number > highest - WINDOW and number not in seen)
        seen.add(number)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_replay_window_follows_a_voice_for_hours(steps):
    window = ReplayWindow()
    for number in range(0, 150_000, steps):
        assert window.check(number % 65536)
        assert not window.check(number % 65536)
        assert number < WINDOW or not window.check((number - WINDOW) % 65536)


def test_replay_window_holds_four_seconds_of_every_length():
    assert WINDOW * STEP_SECONDS >= 4.0 + 16 * STEP_SECONDS


def test_replay_window_jumps_far():
    window = ReplayWindow()
    assert window.check(5)
    assert window.check(32_000)
    assert not window.check(5)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_a_voice_passes_for_hours_though_its_clock_is_fast(steps):
    allowance = voice_allowance()
    for k in range(20_000):
        assert allowance.take(steps, k * steps * STEP_SECONDS / 1.001)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_what_a_stall_held_back_passes_at_once(steps):
    """All of the 1.5 s before a stall shows, with a round trip of half a second, and STALE."""
    allowance = voice_allowance()
    assert allowance.take(steps, 0.0)
    held = int((1.5 + 2 * 0.5 + STALE) / (steps * STEP_SECONDS))
    assert all(allowance.take(steps, 5.0) for _ in range(held))


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(1, 16)), max_size=300))
def test_what_passes_is_bounded_in_time(packets):
    allowance = voice_allowance()
    now, passed = 0.0, 0
    for wait, steps in packets:
        now += wait
        passed += steps if allowance.take(steps, now) else 0
        assert passed <= BURST + RATE * now + 1e-6


def test_key_requests_are_merged_and_none_is_lost():
    requests = KeyRequests(0.25)
    assert requests.due(0.0) == []
    for _ in range(3):
        requests.want(4)
    assert requests.due(0.0) == [4]
    assert requests.due(0.0) == []
    requests.want(4)
    requests.want(5)
    assert requests.due(0.1) == [5]
    assert requests.next_at() == 0.25
    requests.want(4)
    assert requests.due(0.25) == [4]
    assert requests.next_at() == float("inf")
    requests.want(4)
    requests.forget(4)
    assert requests.due(9.0) == []


def test_holds_and_stamps_have_room_for_what_happens():
    assert stamp_steps(DEAD) * STAMP_STEP == pytest.approx(DEAD)
    assert stamp_steps(1e9) == 2**24 - 1
    assert stamp_steps(-1.0) == 0
