"""Overs that are kept, sent late and put together, without sockets and with a manual clock."""

from __future__ import annotations

import contextlib
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadStream
from stream.link import wire
from stream.link.overs import Arriving, Kept, Over, Piece

STEPS = 4  # of a packet: 256 ms
KEY, CHAINED = 0b100, 0b10100  # first bytes of packets of four steps
LONGEST = wire.OVER_STEPS // STEPS  # packets of a minute


def packet(chained: bool = False, size: int = 60) -> bytes:
    return bytes([CHAINED if chained else KEY]) + bytes(size - 1)


class Voice:
    """Says overs into a `Kept`, packet by packet."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.over = 0
        self.step = 0

    def say(self, packets: int, fate: str, at: float = 0.0, key_every: int = 16) -> None:
        """Some packets of the present over; fate: arrived, sent, waiting or missed."""
        for k in range(packets):
            number = self.step % 65536
            self.kept.say(self.over, number, packet(chained=k % key_every != 0))
            self.step += STEPS
            if fate in ("arrived", "sent"):
                self.kept.sent(number, at)
            if fate == "arrived":
                self.kept.acknowledged(at)
            if fate == "missed":
                self.kept.dropped(number)

    def end(self, ended: float = 0.0) -> None:
        self.kept.end(self.over, ended)
        self.over += 1
        self.step += 40


def deliver(kept: Kept, now: float = 0.0, most: int = 10_000) -> list[wire.Late]:
    """Everything that is due, to somebody who answers at once."""
    found: list[wire.Late] = []
    for at in count():
        late = kept.next(now + 0.05 * at)
        if late is None:
            if not kept.busy:
                return found
            continue
        kept.took(now)
        found.append(late)
        assert len(found) < most
        kept.got(wire.Got(late.party, late.over, late.index + 1), now, 0.01)
    raise AssertionError


@pytest.fixture
def voice() -> Voice:
    return Voice(Kept(own=1))


def test_an_over_that_has_arrived_is_forgotten(voice):
    voice.say(5, "arrived")
    voice.end()
    assert not voice.kept.busy
    assert voice.kept.seconds == 0.0


def test_an_over_said_while_nobody_hears_it_is_due_when_it_has_ended(voice):
    voice.say(10, "missed")
    assert not voice.kept.busy
    assert voice.kept.seconds == pytest.approx(2.56)
    voice.end(ended=5.0)
    assert voice.kept.busy
    found = deliver(voice.kept, now=7.0)
    assert [late.index for late in found] == list(range(10))
    assert [late.last for late in found] == [False] * 9 + [True]
    assert [late.number for late in found] == [STEPS * k for k in range(10)]
    assert {(late.party, late.over, late.again) for late in found} == {(1, 0, False)}
    assert found[0].ago == 2 * 16
    assert voice.kept.seconds == 0.0
    assert voice.kept.news == ["3 s of what you said have arrived, 2 s late"]


@pytest.mark.parametrize("fates", [("missed", "arrived"), ("arrived", "missed")])
def test_an_over_that_was_torn_is_sent_whole_and_marked(voice, fates):
    for fate in fates:
        voice.say(6, fate)
    voice.end()
    found = deliver(voice.kept)
    assert len(found) == 12
    assert all(late.again for late in found)


def test_what_was_sent_but_not_acknowledged_is_missing_when_the_connection_breaks(voice):
    voice.say(4, "arrived", at=1.0)
    voice.say(2, "sent", at=3.0)
    voice.end()
    voice.kept.acknowledged(2.9)
    assert not voice.kept.busy
    voice.kept.broken()
    assert len(deliver(voice.kept)) == 6


def test_an_over_waits_until_it_is_known_what_became_of_it(voice):
    voice.say(3, "missed")
    voice.say(1, "sent", at=5.0)
    voice.end()
    assert not voice.kept.busy
    voice.kept.acknowledged(5.0)
    assert voice.kept.busy


def test_a_minute_is_kept_and_the_oldest_whole_overs_go_first(voice):
    for _ in range(4):
        voice.say(LONGEST // 3, "missed")
        voice.end()
    found = deliver(voice.kept)
    assert {late.over for late in found} == {1, 2, 3}
    given_up = [text for text in voice.kept.news if "given up" in text]
    assert given_up == ["a minute is kept: 20 s said before are given up"]


def test_of_an_over_that_has_arrived_nothing_is_said_when_it_makes_room(voice):
    voice.say(LONGEST // 2, "arrived")
    voice.say(1, "sent", at=9.0)
    voice.end()
    voice.say(LONGEST, "arrived")
    voice.end()
    assert voice.kept.news == []
    assert not voice.kept.busy


def test_of_an_over_without_end_the_last_minute_is_kept_and_begins_with_a_key_packet(voice):
    voice.say(10 * LONGEST, "missed")
    voice.end()
    found = deliver(voice.kept)
    assert LONGEST - 16 <= len(found) <= LONGEST
    assert not wire.packet_chained(found[0].packet)
    assert found[-1].number == STEPS * (10 * LONGEST - 1) % 65536
    assert sum("beginning" in text for text in voice.kept.news) == 1


def test_of_an_over_of_more_than_a_minute_only_what_follows_the_first_gap_is_sent(voice):
    voice.say(2 * LONGEST, "arrived")
    voice.say(8, "missed", key_every=4)
    voice.say(8, "arrived")
    voice.end()
    found = deliver(voice.kept)
    assert len(found) == 16
    assert all(late.again for late in found)
    assert not wire.packet_chained(found[0].packet)


def test_a_minute_of_silence_with_the_key_down_is_no_minute_of_packets(voice):
    voice.say(1, "missed")
    voice.step += 2 * wire.OVER_STEPS
    voice.say(3, "missed")
    voice.end()
    assert len(deliver(voice.kept)) == 3


def take(kept: Kept, now: float) -> list[wire.Late]:
    """What may be sent now, without any answer."""
    found = []
    while (late := kept.next(now)) is not None:
        kept.took(now)
        found.append(late)
    return found


def test_little_is_under_way_and_more_only_where_answers_come_soon(voice):
    voice.say(LONGEST, "missed")
    voice.end()
    now, done, rounds = 0.0, 0, []
    for _ in range(6):
        sent = take(voice.kept, now)
        rounds.append(sum(len(late.packet) + 64 for late in sent))
        done += len(sent)
        now += 0.06  # a round trip, and nothing of a queue
        voice.kept.got(wire.Got(1, 0, done), now, 0.05)
    assert rounds[0] <= 1024 < rounds[1] <= 2048 < rounds[2] <= 4096
    assert max(rounds) <= 4096
    for _ in range(6):
        sent = take(voice.kept, now)
        done += len(sent)
        now += 1.0  # the link is slow
        voice.kept.got(wire.Got(1, 0, done), now, 0.05)
    assert sum(len(late.packet) + 64 for late in take(voice.kept, now)) <= 512


def test_many_short_packets_do_not_use_up_what_is_read_of_a_connection(voice):
    voice.say(LONGEST, "missed")
    voice.end()
    now, sent = 0.0, 0
    while now < 1.0:
        for late in take(voice.kept, now):
            sent += 1
            voice.kept.got(wire.Got(1, 0, late.index + 1), now, 0.001)
        now += 0.001
    assert sent <= 200 + 80


def test_an_over_goes_on_where_it_broke_off(voice):
    voice.say(30, "missed")
    voice.end()
    first = take(voice.kept, 0.0)
    voice.kept.got(wire.Got(1, 0, 2), 0.1, 0.05)
    voice.kept.broken()
    assert len(first) > 2
    assert [late.index for late in deliver(voice.kept, 1.0)] == list(range(2, 30))


def test_who_has_more_than_was_known_is_sent_the_rest_and_who_has_less_gets_it_anew(voice):
    voice.say(30, "missed")
    voice.end()
    take(voice.kept, 0.0)
    voice.kept.broken()
    take(voice.kept, 1.0)
    assert voice.kept.got(wire.Got(1, 0, 12), 1.1, 0.05)
    late = voice.kept.next(1.1)
    assert late is not None and late.index == 12
    assert voice.kept.got(wire.Got(1, 0, 0), 1.2, 0.05)
    assert [late.index for late in deliver(voice.kept, 1.2)] == list(range(30))


def test_an_end_that_never_answers_is_tried_three_times_and_people_are_told(voice):
    for _ in range(2):
        voice.say(3, "missed")
        voice.end()
    sent = []
    for second in range(60):
        sent += take(voice.kept, float(second))
    assert len(sent) == 2 * 3 * 3
    assert not voice.kept.busy
    told = "1 s of what you said are not taken late: an older program may be there"
    assert voice.kept.news == [told, told]


def test_an_end_that_answers_nonsense_is_not_served_for_ever(voice):
    voice.say(5, "missed")
    voice.end()
    assert not voice.kept.got(wire.Got(1, 0, 6), 0.0, 0.05)
    sent, now = 0, 0.0
    while voice.kept.busy:
        for late in take(voice.kept, now):
            sent += 1
            voice.kept.got(wire.Got(1, 0, late.index % 2), now, 0.05)
        now += 1.0
        assert now < 100.0
    assert sent < 60
    assert voice.kept.got(wire.Got(1, 7, 1), now, 0.05)  # of one long gone


def test_what_is_passed_on_is_bounded_for_each_voice():
    kept = Kept()
    pieces = tuple(Piece(STEPS * k, packet()) for k in range(LONGEST // 2))
    for number in range(10):
        for party in (2, 3):
            kept.pass_on(Over(party, number, pieces, 0.0))
    found = deliver(kept)
    overs = {(late.party, late.over) for late in found}
    assert overs == {(2, 8), (2, 9), (3, 8), (3, 9)}
    assert kept.seconds == 0.0  # of our own voice


# --- receiving ------------------------------------------------------------------------------------


def late(index: int, over: int = 1, *, last: bool = False, number: int | None = None, steps=None):
    first = KEY if steps is None else steps.bit_length() - 1 << 1
    number = STEPS * index if number is None else number
    return wire.Late(2, over, index, last, False, number % 65536, 160, bytes([first, 3, 9]))


def test_an_over_is_reported_when_it_is_whole_and_never_twice():
    arriving = Arriving()
    for index in range(5):
        assert arriving.take(late(index), 18, 100.0) == []
        assert arriving.got(1) == index + 1
    (over,) = arriving.take(late(5, last=True), 18, 101.0)
    assert (over.party, over.number, len(over.pieces), over.cut) == (18, 1, 6, False)
    assert over.ended == pytest.approx(91.0)
    assert over.seconds == pytest.approx(6 * 0.256)
    for index in range(6):
        assert arriving.take(late(index, last=index == 5), 18, 102.0) == []
        assert arriving.got(1) == 6


def test_what_came_already_or_too_soon_is_left_alone():
    arriving = Arriving()
    assert arriving.take(late(3), 18, 0.0) == []
    assert arriving.got(1) == 0
    arriving.take(late(0), 18, 0.0)
    for index in (0, 2, 0):
        assert arriving.take(late(index), 18, 0.0) == []
        assert arriving.got(1) == 1
    arriving.take(late(1), 18, 0.0)
    (over,) = arriving.take(late(2, last=True), 18, 0.0)
    assert [piece.number for piece in over.pieces] == [0, 4, 8]


def test_an_over_that_is_given_up_is_reported_as_far_as_it_came():
    arriving = Arriving()
    arriving.take(late(0), 18, 0.0)
    arriving.take(late(1), 18, 0.0)
    cut, whole = arriving.take(late(0, over=2, last=True), 18, 0.0)
    assert (cut.number, len(cut.pieces), cut.cut) == (1, 2, True)
    assert (whole.number, len(whole.pieces), whole.cut) == (2, 1, False)
    arriving.take(late(0, over=3), 18, 0.0)
    (cut,) = arriving.finish(18)
    assert cut.cut
    assert arriving.finish(18) == []


def test_pauses_in_an_over_keep_their_length():
    arriving = Arriving()
    arriving.take(late(0, number=65530), 18, 0.0)
    (over,) = arriving.take(late(1, number=65530 + 400, last=True), 18, 0.0)
    assert over.steps == 404


@pytest.mark.parametrize("number", [0, 3, 65535, 960 - STEPS + 1, 5000])
def test_packets_that_overlap_or_end_too_late_are_rejected(number):
    arriving = Arriving()
    arriving.take(late(0, number=0), 18, 0.0)
    with pytest.raises(BadStream):
        arriving.take(late(1, number=number), 18, 0.0)
    assert arriving.got(1) == 1
    arriving.take(late(1, number=960 - STEPS), 18, 0.0)
    assert arriving.got(1) == 2


def test_an_endless_over_ends():
    arriving = Arriving()
    for index in range(LONGEST):
        assert arriving.take(late(index), 18, 0.0) == []
    for last in (False, True):
        with pytest.raises(BadStream):
            arriving.take(late(LONGEST, last=last), 18, 0.0)
    assert arriving.got(1) == LONGEST


def test_nobody_has_more_taken_than_a_voice_says():
    arriving = Arriving()
    steps = 0
    for number in range(40_000):
        now = 0.0005 * number
        try:
            for over in arriving.take(late(0, over=number % 65536, last=True, steps=16), 18, now):
                steps += over.steps
        except BadStream:
            pass
    assert steps <= 1.1 * wire.OVER_STEPS + 20.0 * 1.05 / 0.064 + 16


def test_tiny_overs_are_few():
    arriving = Arriving()
    overs = 0
    for number in range(5000):
        with contextlib.suppress(BadStream):
            overs += len(arriving.take(late(0, over=number, last=True, steps=1), 18, 0.0))
    assert 60 <= overs <= 120


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 3),
            st.booleans(),
            st.integers(0, 65535),
            st.integers(0, 255),
        ),
        max_size=40,
    )
)
def test_whatever_comes_overs_are_whole_ordered_and_bounded(messages):
    arriving = Arriving()
    for over, index, last, number, first in messages:
        message = wire.Late(1, over, index, last, False, number, 0, bytes([first]))
        try:
            found = arriving.take(message, 1, 0.0)
        except BadStream:
            continue
        for each in found:
            assert each.pieces and each.steps <= wire.OVER_STEPS
            at = [(piece.number - each.pieces[0].number) % 65536 for piece in each.pieces]
            assert at == sorted(set(at))


@given(st.lists(st.sampled_from(["break", "lose", "answer", "restart"]), max_size=30))
def test_whatever_breaks_what_was_kept_comes_once_and_whole(events):
    """Both ends together, over a connection that loses what is under way when it breaks."""
    voice = Voice(Kept(own=1))
    for _ in range(3):
        voice.say(20, "missed")
        voice.end()
    arriving, got, now = Arriving(), [], 0.0
    restarts = 0
    for event in [*events, *["answer"] * 200]:
        now += 0.2
        sent = take(voice.kept, now)
        if event == "lose":
            voice.kept.broken()
            continue
        if event == "restart" and restarts < 3:
            arriving, restarts = Arriving(), restarts + 1
        answers = {}
        for message in sent:
            got += arriving.take(message, 1, now)
            answers[message.over] = arriving.got(message.over)
        if event == "break":
            voice.kept.broken()
            continue
        for over, number in answers.items():
            voice.kept.got(wire.Got(1, over, number), now, 0.05)
    assert not voice.kept.busy
    assert {over.number for over in got if not over.cut} == {0, 1, 2}
    assert all(len(over.pieces) == 20 for over in got if not over.cut)
    if not restarts:
        assert len(got) == 3
