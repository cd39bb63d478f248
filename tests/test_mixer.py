"""The mixer: how much it moves at once, on simulated time with real streams and sinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.decoder import PacketDecoder
from stream.audio.frontend import FrontEnd
from stream.audio.sinks import NullSink, Sink
from stream.audio.slots import DeviceSlot
from stream.call import receiver
from stream.call.receiver import Receiver, early_of
from stream.call.remote_stream import RemoteStream
from stream.link.events import AudioArrived, Joined
from stream.log import Journal
from tests.test_remote_stream import (
    NO_CODEC,
    STEP,
    ClipDecoder,
    Numbered,
    ends_at,
    numbered,
    said,
    steady,
)

TICK = 0.001
Block = tuple[float, float, FloatArray]  # when it was written, when it is in the air, samples


class Card(NullSink):
    """A sound card that nobody hears, and what it was given."""

    is_card = True

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.blocks: list[Block] = []

    def write(self, samples: FloatArray) -> None:
        self.blocks.append((self._clock(), self.play_time(), samples))
        super().write(samples)


@dataclass
class Playing:
    """A receiver whose mixer sleeps in simulated time, in which packets come and are decoded."""

    arrivals: list[tuple[float, Numbered]]
    clip: FloatArray
    now: float = 0.0
    slept: int = 0
    told: list[tuple[float, FloatArray]] = field(default_factory=list)  # of what is played

    def __post_init__(self) -> None:
        decoder = cast(PacketDecoder, ClipDecoder(self.clip))
        self.card = Card(self.clock)
        self.stream = RemoteStream(NO_CODEC, 1, clock=self.clock, decoder=decoder)
        slot = DeviceSlot[Sink]("output", self.card, lambda name: self.card, NullSink, Journal())
        self.receiver = Receiver(
            NO_CODEC,
            slot,
            Journal(),
            lambda samples, at: self.told.append((at, samples)),
            stream=lambda codec, party: self.stream,
        )
        self.rendered: list[tuple[float, FloatArray]] = []
        self.receiver.front_end = cast(
            FrontEnd,
            SimpleNamespace(
                render=lambda samples, at, silence: self.rendered.append((at, samples))
            ),
        )
        self.receiver.join(Joined(1, "ann", "2k", ""))

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        until = self.now + seconds
        while self.now < until:
            self.now += TICK
            while self.arrivals and self.arrivals[0][0] <= self.now:
                at, (step, packet) = self.arrivals.pop(0)
                captured = ends_at(step, packet)
                self.receiver.arrive(AudioArrived(1, step, packet, captured, at))
            while self.stream.work():
                pass

    def run(self, seconds: float) -> None:
        while self.now < seconds:
            self.receiver._mix()

    def pulls(self, first: float, last: float) -> list[int]:
        """How many samples were written at once between two moments."""
        return [len(samples) for at, _, samples in self.card.blocks if first <= at < last]


# Two seconds of speech, three of a pause, two of speech.
PAUSE, AGAIN, END = 32 * STEP, 80 * STEP, 112 * STEP
PACKETS = [
    *said(PAUSE, 4),
    *(numbered(32 + 16 * n, 4, pause=True) for n in range(3)),
    *(numbered(n, 4) for n in range(80, 112, 4)),
]
WAIT, LENGTH = 0.05, 4 * STEP


def play(clip: FloatArray, patch: pytest.MonkeyPatch, most_early: int | None = None) -> Playing:
    playing = Playing(steady(PACKETS, lambda n: WAIT), clip)
    sleeping = SimpleNamespace(sleep=playing.sleep, monotonic=playing.clock)
    patch.setattr(receiver, "time", sleeping)
    if most_early is not None:
        patch.setattr(receiver, "_MOST_EARLY", most_early)
    playing.run(END + 0.2)
    return playing


def test_how_much_is_pulled_early():
    assert early_of(80, [720]) == 640
    assert early_of(80, [719]) == 480  # in whole blocks of sound cards
    assert early_of(80, [720, 300]) == 160  # as much as every stream can give
    assert early_of(80, [720, 0]) == 0
    assert early_of(160, [120]) == 0
    assert early_of(80, [10_000]) == early_of(80, []) == 960


def test_in_a_pause_more_is_pulled_at_once_until_speech_comes(clip, monkeypatch):
    playing = play(clip, monkeypatch)
    # A packet is known for a pause, or for speech, when it has come.
    pause, again = PAUSE + LENGTH + WAIT, AGAIN + LENGTH + WAIT
    speech = playing.pulls(0.5, pause) + playing.pulls(again + TICK, END)
    assert max(speech) <= 0.01 * SAMPLE_RATE
    quiet = playing.pulls(pause + 0.1, again)
    assert max(quiet) > 0.05 * SAMPLE_RATE
    assert len(quiet) < 60 * (again - pause)  # 200 a second otherwise
    assert playing.card.gaps == 0
    assert playing.stream.snapshot().arrivals.underruns == 0


def test_nothing_is_later_for_what_is_pulled_early(clip, monkeypatch):
    early, usual = play(clip, monkeypatch), play(clip, monkeypatch, 0)
    assert early.slept < 0.75 * usual.slept
    later, sooner = (playing.stream.snapshot().latency.total for playing in (early, usual))
    assert later is not None and sooner is not None
    assert later <= sooner + 0.001
    assert early.stream.snapshot().arrivals == usual.stream.snapshot().arrivals


def test_who_records_or_cancels_echoes_is_told_all_that_is_played_and_when(clip, monkeypatch):
    playing = play(clip, monkeypatch)
    written = [(at, samples) for _, at, samples in playing.card.blocks]
    for told in (playing.rendered, playing.told):
        assert len(told) == len(written)
        for (at, samples), (told_at, told_samples) in zip(written, told, strict=True):
            assert told_at == at and np.array_equal(told_samples, samples)
    for (at, samples), (after, _) in pairwise(written):
        assert after == pytest.approx(at + len(samples) / SAMPLE_RATE, abs=1e-6)
