"""What comes late is played behind its mark, when it is quiet, in order and once; and overs are
told apart by the key. No threads, and a clock by hand."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadStream
from codec.packet import Packet, pack_session
from codec.signal.analysis import N_MELS, STEP_HOPS, STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import Frame
from stream.call.late import LateVoice
from stream.call.overs import OverMarks
from stream.link.overs import Over, Piece
from stream.link.wire import OVER_STEPS

BLOCK = 160
STEPS = 4


class Decoder:
    """Packets are loud, what is concealed is quiet, and a payload of zeros is damaged."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def decode(self, packet: Packet) -> Frame:
        if packet.payload == b"\0":
            raise BadStream("damaged")
        self.log.append(f"packet {packet.sequence}")
        return Frame(np.full((packet.steps * STEP_HOPS, N_MELS), 0.2, np.float32), True)

    def conceal(self, steps: int) -> np.ndarray:
        self.log.append(f"conceal {steps}")
        return np.full((steps * STEP_HOPS, N_MELS), -1.0, np.float32)


class Player:
    """A late voice, worked and pulled by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.decoded: list[tuple[int, int]] = []  # number of the over, samples
        self.voice = LateVoice(
            cast(SpeechCodec, None),
            clock=lambda: self.now,
            decoder=cast(Any, lambda: Decoder(self.log)),
            decoded=lambda over, name, samples: self.decoded.append((over.number, len(samples))),
        )

    def run(self, seconds: float, *, quiet: bool = True, gain: float = 1.0) -> np.ndarray:
        """Let time pass; returns what is heard."""
        out = []
        for _ in range(round(seconds * SAMPLE_RATE / BLOCK)):
            while self.voice.work():
                pass
            out.append(self.voice.pull(BLOCK, quiet=quiet, gain=lambda party: gain))
            self.now += BLOCK / SAMPLE_RATE
        return np.concatenate(out)


def over(packets=4, number=0, party=1, ended=88.0, gap=0, damaged=(), again=False) -> Over:
    pieces = []
    for k in range(packets):
        payload = b"\0" if k in damaged else b"x"
        packet = Packet(0, 3, payload, 0, chained=k > 0, steps=STEPS)
        pieces.append(Piece((k * (STEPS + gap)) % 65536, pack_session(packet)))
    return Over(party, number, tuple(pieces), ended, again)


@pytest.fixture
def player() -> Player:
    return Player()


def test_an_over_is_played_whole_behind_its_mark_and_shown_with_its_age(player):
    assert player.voice.snapshot(player.now) is None
    player.run(0.1, quiet=False)
    player.voice.add(over(again=True), "Ann")
    player.run(0.1)
    shown = player.voice.snapshot(player.now)
    assert shown is not None
    assert (shown.name, round(shown.ago), shown.again, shown.playing) == ("Ann", 12, True, False)
    assert shown.seconds == pytest.approx(1.024)
    heard = player.run(0.6)
    shown = player.voice.snapshot(player.now)
    assert shown is not None and shown.playing
    heard = np.concatenate([heard, player.run(2.0)])
    assert player.log == ["packet 0", "packet 4", "packet 8", "packet 12"]
    audible = np.flatnonzero(np.abs(heard) > 1e-3) / SAMPLE_RATE
    assert audible[-1] - audible[0] == pytest.approx(1.024 + 0.3, abs=0.1)
    assert player.voice.snapshot(player.now) is None
    assert not player.voice.pending(1)
    assert not player.run(1.0).any()
    ((number, count),) = player.decoded
    assert number == 0 and count == pytest.approx(4 * STEPS * STEP_SAMPLES, abs=1024)


def test_it_waits_until_nobody_speaks_but_not_for_ever(player):
    player.voice.add(over(), "Ann")
    assert not player.run(9.0, quiet=False).any()
    assert player.voice.pending(1)
    assert player.run(2.0, quiet=False).any()
    player.run(2.0)
    player.voice.add(over(), "Ann")
    assert not player.run(3.0, quiet=False).any()
    assert not player.run(0.2).any()
    assert player.run(1.0).any()
    player.run(2.0)
    player.voice.add(over(), "Ann")  # it has been quiet for long
    assert player.run(0.1).any()


def test_once_begun_it_goes_on_whoever_speaks(player):
    player.voice.add(over(20), "Ann")
    player.run(1.0)
    assert player.run(2.0, quiet=False)[-BLOCK:].any()


def test_overs_are_played_one_after_the_other(player):
    for number in range(3):
        player.voice.add(over(2, number), "Ann")
    player.run(8.0)
    assert [number for number, _ in player.decoded] == [0, 1, 2]
    assert player.log == ["packet 0", "packet 4"] * 3


def test_pauses_are_shortened_and_damage_is_concealed(player):
    player.voice.add(over(3, gap=100, damaged=(1,)), "Ann")
    player.run(5.0)
    expected = ["packet 0", "conceal 8", f"conceal {STEPS}", "conceal 8", "packet 208"]
    assert player.log == expected


def test_who_is_muted_is_not_heard_late_either(player):
    player.voice.add(over(), "Ann")
    assert not player.run(3.0, gain=0.0).any()
    assert not player.voice.pending(1)


def test_what_cannot_be_decoded_makes_room_for_the_next(player):
    player.voice.add(over(number=1), "Ann")
    player.voice.add(over(number=2), "Bob")
    player.voice.work()
    assert player.voice.give_up_current() == "Ann"
    player.run(3.0)
    assert [number for number, _ in player.decoded] == [2]


def test_what_waits_is_bounded_for_each_party(player):
    lengths = OVER_STEPS // STEPS
    assert player.voice.add(over(lengths, 0), "Ann") == 0.0
    assert player.voice.add(over(lengths, 1), "Ann") == 0.0
    assert player.voice.add(over(lengths, 2, party=2), "Bob") == 0.0
    assert player.voice.add(over(lengths, 3), "Ann") == pytest.approx(61.44)
    shown = player.voice.snapshot(player.now)
    assert shown is not None
    assert shown.seconds + shown.waiting == pytest.approx(3 * 61.44)


def test_it_is_no_louder_than_speech_at_full_scale(player):
    player.voice.add(over(20), "Ann")
    heard = player.run(4.0, gain=100.0)
    assert np.abs(heard).max() <= 0.98


# --- the key --------------------------------------------------------------------------------------


def marked(presses: list[tuple[int, int]], length: int = 100, until: int = 2000):
    """(over of every packet, packets before which one has ended) for a key that is down from one
    sample to another."""
    marks, overs, ends = OverMarks(), [], []
    for at in range(0, until, 10):
        marks.push(at, at + 10, down=any(first <= at < last for first, last in presses))
        if (at + 10) % length == 0:
            number, ended = marks.packet(at + 10 - length, at + 10)
            overs.append(number)
            if ended is not None:
                ends.append((len(overs) - 1, ended))
    return overs, ends


def test_an_over_has_every_packet_with_something_of_it():
    overs, ends = marked([(250, 620), (1000, 1100)])
    assert overs[:8] == [None, None, 0, 0, 0, 0, 0, None]
    assert overs[8:12] == [None, None, 1, None]
    assert ends == [(7, 0), (11, 1)]


def test_who_lets_go_for_a_moment_goes_on_with_the_same_over():
    overs, ends = marked([(250, 310), (390, 420), (430, 510)])
    assert overs[2:7] == [0, 0, 0, 0, None]
    assert ends == [(6, 0)]


def test_nothing_is_an_over_without_the_key():
    assert marked([]) == ([None] * 20, [])


@given(st.lists(st.tuples(st.integers(0, 180), st.integers(1, 60)), max_size=6))
def test_overs_follow_each_other_and_end(spans):
    overs, ends = marked([(10 * a, 10 * (a + n)) for a, n in spans], until=3000)
    numbers = [number for number in overs if number is not None]
    assert numbers == sorted(numbers)
    assert [ended for _, ended in ends] == sorted(set(numbers))
