"""A call as a whole: source to sink through two calls, joined by an in-memory connection."""

from __future__ import annotations

import io
import queue
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput
from codec.files.audio import AudioReader
from codec.packet import short_id, unpack_session
from codec.signal.analysis import STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from stream.audio.chime import call_begins
from stream.audio.devices import DeviceNames
from stream.audio.frontend import Delay, FrontEnd, FrontEndMissing, Processing
from stream.audio.sinks import NullSink
from stream.audio.slots import Hotplug, SoundSystem
from stream.audio.sources import FileSource, Silence, Source
from stream.call.call import Call, CallSettings, warm_up
from stream.call.delays import steps_of
from stream.call.sender import Sender
from stream.call.snapshot import FrontEndState, Party
from stream.link.events import (
    FAULT,
    AudioArrived,
    CallState,
    Event,
    Joined,
    KeyWanted,
    Left,
    Link,
    Notice,
    RecordingChanged,
    RingOver,
    Rings,
    StateChanged,
    TextArrived,
    Verified,
)
from stream.log import Journal, logfmt
from tui.headless import follow

CLIP = Path(__file__).parent / "clips" / "librispeech-6930.flac"


class Wire:
    """One end of an in-memory connection."""

    def __init__(self, name: str, peer: bool = True) -> None:
        """peer: whether somebody is there from the start."""
        self.name = name
        self.peer = peer
        self.other: Wire | None = None
        self._reports: queue.Queue[tuple[Event, ...]] = queue.Queue(100)
        self.presets: list[str] = []
        self.sent: list[tuple[int, bytes]] = []  # (step, packet)
        self.overs: list[int | None] = []  # of all packets
        self.ended: list[int] = []
        self.closed: str | None = None

    def start(self) -> None:
        self.give(StateChanged(CallState.TALKING, ""))
        if self.peer:
            self.give(Joined(1, f"not {self.name}", "2k", "aaaa-bbbb"))

    def send(
        self,
        packet: bytes,
        step: int,
        captured: float,
        capture: float | None,
        over: int | None = None,
    ) -> bool:
        assert self.other is not None
        self.overs.append(over)
        if self.other.closed is not None:
            return False
        self.sent.append((step, packet))
        self.other.give(AudioArrived(1, step & 0xFFFF, packet, captured, time.monotonic(), capture))
        return True

    def end_over(self, over: int, ended: float) -> None:
        self.ended.append(over)

    def give(self, *events: Event) -> None:
        """Report all of these at once."""
        self._reports.put(events)

    def announce_preset(self, preset: str) -> None:
        self.presets.append(preset)

    def tell_recording(self, on: bool) -> None:
        assert self.other is not None
        self.other.give(RecordingChanged(1, on))

    def send_text(self, text: str) -> bool:
        assert self.other is not None
        if self.other.closed is not None:
            return False
        self.other.give(TextArrived(1, text))
        return True

    def events(self, timeout: float) -> list[Event]:
        try:
            return list(self._reports.get(timeout=timeout))
        except queue.Empty:
            return []

    def link(self) -> Link:
        return Link(peer=self.name)

    def unreached(self) -> str:
        return ""

    def ask_for_key(self, party: int) -> None:
        assert self.other is not None
        self.other.give(KeyWanted(1))

    def wire_bytes(self) -> tuple[int, int]:
        return 1000, 2000

    def ip_bytes(self) -> tuple[int, int]:
        return 1500, 3000

    def one_way(self, party: int) -> float | None:
        return 0.0

    def rejected(self, party: int) -> int:
        return 0

    def close(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            assert self.other is not None
            self.other.give(Left(1, reason))


class CollectingSink(NullSink):
    """Keeps what is played."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[np.ndarray] = []

    def write(self, samples: np.ndarray) -> None:
        self.played.append(samples.copy())
        super().write(samples)


def wires(peer: bool = True) -> tuple[Wire, Wire]:
    """Both ends of a connection."""
    one, two = Wire("one", peer), Wire("two", peer)
    one.other, two.other = two, one
    return one, two


def no_devices() -> SoundSystem:
    """A machine without sound."""

    def none(name: str) -> Any:
        raise BadInput(f"no device {name}")

    return SoundSystem(none, none, DeviceNames, DeviceNames)


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    codec = SpeechCodec.load("2k", "cpu")
    warm_up(codec)
    return codec


def make(codec, wire, sink=None, clip=CLIP, log=None, preset="2k", **settings) -> Call:
    """A call that says `clip`, or nothing."""
    return Call(
        codec,
        wire,
        Silence() if clip is None else FileSource(clip),
        sink or CollectingSink(),
        CallSettings(preset, iterations=2, **settings),
        Journal(log),
        no_devices(),
    )


@pytest.fixture
def pair(codec):
    """Two calls that talk to each other."""
    one, two = wires()
    calls = make(codec, one), make(codec, two)
    for call in calls:
        call.start()
    yield calls
    for call in calls:
        call.close()


def wait_until(condition, seconds: float = 120.0) -> None:
    """Fail unless the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.02)


def parties(call: Call) -> tuple[Party, ...]:
    return call.snapshot().listeners


def likeness(said: np.ndarray, heard: np.ndarray) -> list[float]:
    """How well each second of the one is found somewhere in the other, 0..1.

    By envelopes of 50 ms: codecs keep them, whatever they do to the waveform. Second by second, as
    a machine that is busy with other things may have to stretch the sound in between.
    """
    a, b = (np.sqrt(np.convolve(x**2, np.ones(800), "same")[::160]) for x in (said, heard))
    found = []
    for at in range(0, len(a) - 100, 100):
        part = a[at : at + 100] - a[at : at + 100].mean()
        windows = np.lib.stride_tricks.sliding_window_view(b, 100)
        norms = 10.0 * windows.std(axis=1) * np.linalg.norm(part)
        found.append(float((windows @ part / np.maximum(norms, 1e-3)).max()))
    return found


_BREAK = 0.06  # seconds that an underrun spoils: the fades around it and what is silent


def test_what_is_said_is_heard(codec, tmp_path):
    for number in range(3):
        alike, torn = one_talk(codec, tmp_path / str(number))
        if alike > 0.8:
            return
        # Said again only where the machine was too busy to bring it in time.
        assert torn > 0.1
    pytest.fail(f"torn three times, at last for {torn:.2f} s")


def one_talk(codec, folder) -> tuple[float, float]:
    """Let one side say the clip, and check all but how well it was heard: returned, with how much
    of it was concealed for coming late or broken off, in seconds."""
    folder.mkdir()
    one, two = wires()
    ear = CollectingSink()
    talker, hearer = make(codec, one), make(codec, two, ear, clip=None)
    talker.start()
    hearer.start()
    hearer.set_recording(str(folder / "call.wav"))
    try:
        with AudioReader(CLIP) as reader:
            said = np.concatenate(list(reader))
        # The silence after the clip is sent, too; when it is there, the clip has been played.
        packets = -(-len(said) // 4096)
        wait_until(lambda: talker.snapshot().talker.frames >= packets + 12)
        seen, told = hearer.snapshot(), talker.snapshot().talker
    finally:
        talker.close()
        hearer.close()
    (party,) = seen.listeners
    assert party.arrivals.lost <= party.arrivals.late  # of a machine that is too busy
    assert party.arrivals.rejected == 0
    assert party.latency.total is not None and 0.25 < party.latency.total < 4.0
    assert party.delay == told.delay == 256 and seen.delays == (64, 128, 256, 512, 1024)
    assert 300 < party.rate.average < 2600 and 300 < told.rate.average < 2600
    # Of pauses nearly nothing is sent.
    assert party.arrivals.received < told.frames - 5
    with AudioReader(folder / "call.wav") as reader:
        recorded = sum(len(block) for block in reader)
    assert recorded > len(said)
    torn = party.arrivals.concealed + _BREAK * party.arrivals.underruns
    return median(likeness(said, np.concatenate(ear.played))), torn


def test_hanging_up_ends_the_other_side_too(pair):
    one, two = pair
    wait_until(lambda: one.snapshot().state is CallState.TALKING)
    one.hang_up()
    assert one.wait(120.0)
    one.close()
    assert two.wait(120.0)
    assert two.snapshot().state is CallState.ENDED
    two.close()
    alive = [thread.name for thread in threading.enumerate()]
    assert not [name for name in alive if name.startswith("sotto-")]


@pytest.mark.parametrize("there", [False, True])
def test_a_call_whose_time_is_over_has_failed_if_it_reached_nobody(codec, monkeypatch, there):
    one, _ = wires()
    monkeypatch.setattr(one, "unreached", lambda: "" if there else "nobody answers")
    call = make(codec, one, clip=None)
    call.start()
    follow(call, pytest.fail, seconds=0.2)
    call.close()
    over = call.snapshot()
    state, reason = (CallState.ENDED, "hung up") if there else (CallState.FAILED, "nobody answers")
    assert (over.state, over.reason) == (state, reason)


def test_the_log_is_whole_when_the_call_is_closed(codec):
    one, _ = wires()
    log = io.StringIO()
    call = make(codec, one, log=log)
    call.start()
    call.close()
    assert log.getvalue().splitlines() == [logfmt(line) for line in call.log_lines(-1)]
    assert "ended: hung up" in log.getvalue()


def test_muting_sends_silence_and_costs_next_to_no_bits(codec):
    one, two = wires()
    call, other = make(codec, one), make(codec, two)
    call.set_muted(True)
    call.start()
    other.start()
    try:
        wait_until(lambda: call.snapshot().talker.frames >= 12)
        talker = call.snapshot().talker
        assert talker.rate.average < 250
        assert talker.level_db > -60  # the meter still shows the microphone
        assert call.snapshot().muted and not call.snapshot().talking
    finally:
        call.close()
        other.close()


def test_lines_of_text_are_in_the_log_of_both_sides_with_who_wrote_them(pair):
    one, two = pair
    for k in range(20):  # more than other events may say
        one.send_text(f"line {k}")
    wait_until(lambda: sum(line.level == "said" for line in two.log_lines(-1)) == 20)
    for call, name in ((one, "you"), (two, '"not two"')):
        said = [line.text for line in call.log_lines(-1) if line.level == "said"]
        assert said == [f"{name}: line {k}" for k in range(20)]
    two.close()
    with pytest.raises(BadInput, match="nobody is connected"):
        one.send_text("still there?")
    assert sum(line.level == "said" for line in one.log_lines(-1)) == 20


def test_who_has_been_verified_is_shown_so_from_then_on(pair, monkeypatch):
    one, _ = pair
    wait_until(lambda: parties(one))
    assert not parties(one)[0].verified
    asked = []

    def verify(party: int, code: str) -> None:
        asked.append((party, code))
        one._endpoint.give(Verified(party))

    monkeypatch.setattr(one._endpoint, "verify", verify, raising=False)
    one.verify(1, "12345")
    wait_until(lambda: parties(one)[0].verified)
    assert asked == [(1, "12345")]
    wait_until(lambda: one.log_lines(-1)[-1].text == '"not one" is verified from now on')
    one._endpoint.give(Verified(1, False))
    wait_until(lambda: not parties(one)[0].verified)
    wait_until(lambda: one.log_lines(-1)[-1].text == '"not one" is not verified any more')


def recorded(call: Call) -> list[bool]:
    return [party.recording for party in parties(call)]


def test_the_other_side_sees_and_reads_that_it_is_recorded(pair, tmp_path):
    one, two = pair
    wait_until(lambda: parties(two))
    one.set_recording(str(tmp_path / "a.wav"))
    wait_until(lambda: recorded(two) == [True])
    one.set_recording(str(tmp_path / "b.wav"))  # which changes nothing for them
    assert recorded(one) == [False]
    (tmp_path / "b.wav").write_bytes(b"somebody else's")
    one.set_recording(None)
    assert one.log_lines(-1)[-1].text == f"recorded {tmp_path / 'b-2.wav'}"
    wait_until(lambda: recorded(two) == [False])
    wait_until(lambda: two.log_lines(-1)[-1].text == '"not two" records no more')
    lines = [line.text for line in two.log_lines(-1) if "record" in line.text]
    assert lines == ['"not two" records this call', '"not two" records no more']


def test_whoever_comes_next_is_not_taken_for_the_one_who_recorded(codec, monkeypatch):
    monkeypatch.setattr("stream.call.receiver.Receiver.drained", lambda receiver, party: False)
    one, _ = wires()
    call = make(codec, one, lasting=True)
    call.start()
    try:
        one.give(RecordingChanged(1, True))
        wait_until(lambda: recorded(call) == [True])
        one.give(Left(1, "bye"), Joined(1, "eve", "2k", ""))
        wait_until(lambda: parties(call)[0].name == '"eve"')
        assert recorded(call) == [False]
    finally:
        call.close()


def test_a_recording_that_has_ended_by_itself_is_over_for_everybody(codec, tmp_path):
    one, two = wires()
    call, other = make(codec, one, recording_bytes=64_000), make(codec, two, clip=None)
    call.start()
    other.start()
    try:
        wait_until(lambda: parties(other))
        call.set_recording(str(tmp_path / "a.wav"))
        wait_until(lambda: recorded(other) == [True])
        wait_until(lambda: not call.snapshot().recording)
        wait_until(lambda: recorded(other) == [False])
        wait_until(lambda: any("is full" in line.text for line in call.log_lines(-1)))
        assert [line.level for line in call.log_lines(-1) if "is full" in line.text] == ["warning"]
    finally:
        call.close()
        other.close()
    assert (tmp_path / "a.wav").exists()


def test_push_to_talk_is_silent_until_pressed(pair):
    call, _ = pair
    call.set_push_to_talk(True)
    wait_until(lambda: call.snapshot().state is CallState.TALKING)
    assert not call.snapshot().talking
    call.talk(True)
    assert call.snapshot().talking


def test_the_preset_changes_within_the_model_and_not_beyond(pair):
    call, _ = pair
    with pytest.raises(BadInput, match="cannot be changed"):
        call.set_preset("paper")
    wait_until(lambda: call.snapshot().state is CallState.TALKING)
    call.set_preset("1k2")
    assert call.snapshot().preset == "1k2"
    before = call.snapshot().talker.frames
    wait_until(lambda: call.snapshot().talker.frames >= before + 8)
    assert call.snapshot().talker.rate.now < 1700


def test_a_device_that_cannot_be_opened_is_reported_and_the_call_goes_on(pair):
    call, _ = pair
    call.set_input("gramophone")
    call.set_output("gramophone")
    wait_until(lambda: sum("no device gramophone" in line.text for line in call.log_lines(-1)) == 2)
    assert not call.wait(0.0)


def test_a_file_that_is_over_hangs_up_when_asked_to(codec, clip, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, clip[:16_000], 16_000)
    one, two = wires()
    short, other = make(codec, one, clip=path, hang_up=True), make(codec, two, clip=None)
    short.start()
    other.start()
    try:
        assert short.wait(120.0)
        assert short.snapshot().reason == "all input has been sent"
    finally:
        short.close()
        other.close()


class Dictated(Source):
    """Gives at once what it is told to, and says when all of it has been worked on."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.Queue[np.ndarray] = queue.Queue()
        self._asked = 0

    def start(self) -> None:
        pass

    stop = start

    def say(self, samples: np.ndarray) -> None:
        for at in range(0, len(samples), 640):
            self._waiting.put(samples[at : at + 640])
        wait_until(self._waiting.empty, 60.0)
        asked = self._asked
        wait_until(lambda: self._asked > asked)

    def _take(self, most: int) -> tuple[np.ndarray, float]:
        try:
            return self._waiting.get_nowait(), time.monotonic()
        except queue.Empty:
            self._asked += 1
            return np.zeros(0, np.float32), 0.0


class Card(Dictated):
    """A microphone, the first sample of which was in the air at BEGUN."""

    BEGUN = 50.0
    is_card = True
    name = "a microphone"

    def __init__(self) -> None:
        super().__init__()
        self._given = 0

    def _take(self, most: int) -> tuple[np.ndarray, float]:
        samples, _ = super()._take(most)
        self._given += len(samples)
        return samples, self.BEGUN + self._given / SAMPLE_RATE


def test_what_is_wrong_with_a_file_is_in_the_log(codec, tmp_path):
    samples, rate = soundfile.read(CLIP, dtype="int16", frames=40_000)
    path = tmp_path / "damaged.flac"
    soundfile.write(path, samples, rate)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    notes: list[str] = []
    with AudioReader(path, warn=notes.append) as reader:
        list(reader)
    assert notes
    log = io.StringIO()
    call = make(codec, wires()[0], clip=path, log=log)
    call.start()
    try:
        wait_until(lambda: all(note in log.getvalue() for note in notes))
    finally:
        call.close()


class LateEcho(Delay):
    """Stands in for a stage of processing: nothing but late."""

    delay = 70

    def __init__(self) -> None:
        super().__init__(self.delay)


@pytest.mark.parametrize("processed", [False, True])
def test_what_is_said_at_a_time_is_stamped_with_it(codec, processed):
    """Whatever the front end holds back."""
    encoded: list[tuple[np.ndarray, float]] = []
    ends: list[tuple[int, float]] = []

    def send(packet: bytes, step: int, captured: float, capture: float | None) -> bool:
        ends.append((step + steps_in(packet, step), captured))
        return True

    source, journal = Card(), Journal()
    slot = Hotplug(source, NullSink(), no_devices(), journal).input
    sender = Sender(
        codec, slot, send, journal, iterations=0, tail=0.0, delay=64,
        encoded=lambda samples, when: encoded.append((samples, when)),
    )  # fmt: skip
    late = 0
    if processed:
        sender.front_end = FrontEnd(Processing(False, False, False), [LateEcho()])
        late = LateEcho.delay
    said = np.zeros(16_050, np.float32)
    said[[3000, 9001]] = 0.5
    sender.start()
    try:
        sender.call(True)
        source.say(said)
    finally:
        sender.stop()
    assert sender.failure is None
    clicks = [
        when - (len(samples) - 1 - at) / SAMPLE_RATE
        for samples, when in encoded
        for at in np.flatnonzero(samples)
    ]
    expected = [Card.BEGUN + (at + 1) / SAMPLE_RATE for at in (3000, 9001)]
    np.testing.assert_allclose(clicks, expected, atol=1e-6)
    assert ends
    for step, captured in ends:
        last = Card.BEGUN + (step * STEP_SAMPLES - late) / SAMPLE_RATE
        assert captured == pytest.approx(last, abs=1e-6)


def test_a_front_end_that_fails_is_reported_once_and_done_without(codec):
    class Failing(LateEcho):
        def process(self, block: np.ndarray) -> np.ndarray:
            raise FrontEndMissing("out of order")

    encoded: list[np.ndarray] = []
    source, journal = Card(), Journal()
    slot = Hotplug(source, NullSink(), no_devices(), journal).input
    sender = Sender(
        codec, slot, lambda *packet: True, journal, iterations=0, tail=0.0,
        encoded=lambda samples, when: encoded.append(samples),
    )  # fmt: skip
    sender.front_end = FrontEnd(Processing(False, False, False), [Failing()])
    sender.start()
    try:
        sender.call(True)
        source.say(np.full(8000, 0.1, np.float32))
    finally:
        sender.stop()
    assert [line.text for line in journal.after(-1)] == ["out of order"]
    assert np.concatenate(encoded)[-1] == np.float32(0.1)


def carded(codec, made, sink=None, **options) -> tuple[Call, Journal]:
    """A call with a microphone, whose front ends `made` makes."""
    journal = Journal(None)
    wire: Any = wires()[0]
    settings = CallSettings("2k", iterations=0, **options)
    sink = sink or CollectingSink()
    return Call(codec, wire, Card(), sink, settings, journal, no_devices(), made), journal


def test_a_microphone_has_a_front_end_that_can_be_switched_off(codec):
    made: list[Processing] = []

    def make_one(wanted: Processing) -> FrontEnd:
        made.append(wanted)
        return FrontEnd(wanted, [LateEcho()])

    wanted = Processing(noise_suppression=False)
    call, _ = carded(codec, make_one, processing=wanted)
    call.start()
    try:
        assert made == [wanted]
        assert call.snapshot().front_end is FrontEndState.ON
        assert '"front_end": "on"' in call.snapshot().to_json()
        call.set_front_end(False)
        assert call.snapshot().front_end is FrontEndState.OFF
        call.set_front_end(True)
        assert call.snapshot().front_end is FrontEndState.ON
    finally:
        call.close()


def test_a_call_without_livekit_goes_on_and_says_so_once(codec, monkeypatch):
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    call, journal = carded(codec, FrontEnd)
    call.start()
    try:
        call.set_input("another")
        assert call.snapshot().front_end is FrontEndState.MISSING
        with pytest.raises(BadInput, match="missing here"):
            call.set_front_end(True)
        lines = [line.text for line in journal.after(-1) if "livekit" in line.text]
        assert len(lines) == 1 and "cannot be used" in lines[0]
        assert not call.wait(0.0)
    finally:
        call.close()


def test_files_and_unwanted_processing_have_no_front_end(codec):
    def never(wanted: Processing) -> FrontEnd:
        raise AssertionError

    wire: Any = wires()[0]
    file = Call(codec, wire, FileSource(CLIP), CollectingSink(), CallSettings("2k", iterations=0),
                Journal(None), no_devices(), never)  # fmt: skip
    raw, _ = carded(codec, never, processing=Processing(False, False, False))
    for call in (file, raw):
        call.start()
        try:
            assert call.snapshot().front_end is FrontEndState.NONE
            with pytest.raises(BadInput, match="nothing to switch"):
                call.set_front_end(False)
        finally:
            call.close()


def test_the_front_end_is_told_what_a_loudspeaker_plays(codec):
    class Speaker(CollectingSink):
        is_card = True

        def silence(self) -> int:
            return 7

    class Told(FrontEnd):
        def __init__(self, wanted: Processing) -> None:
            super().__init__(wanted, [])
            self.told: list[np.ndarray] = []
            self.stamps: list[float | None] = []
            self.silences: set[int] = set()

        def render(self, samples: np.ndarray, at: float | None = None, silence: int = 0) -> None:
            self.told.append(samples.copy())
            self.stamps.append(at)
            self.silences.add(silence)

    for kind in (Speaker, CollectingSink):
        ends: list[Told] = []

        def make_one(wanted: Processing, ends: list[Told] = ends) -> FrontEnd:
            ends.append(Told(wanted))
            return ends[0]

        sink = kind()
        call, _ = carded(codec, make_one, sink)
        call.start()
        try:
            wait_until(lambda sink=sink: len(sink.played) > 20)
        finally:
            call.close()
        if kind is Speaker:
            assert np.array_equal(np.concatenate(ends[0].told), np.concatenate(sink.played))
            assert np.all(np.diff(np.array(ends[0].stamps, float)) >= 0.0)
            assert ends[0].silences == {7}
        else:
            assert not ends[0].told


@pytest.mark.parametrize(
    ("kind", "wanted", "heard"),
    [("card", True, True), ("card", False, False), ("pipe", True, False)],
)
def test_a_loudspeaker_says_when_a_call_begins(codec, tmp_path, kind, wanted, heard):
    """Once, whoever else comes, and not into a recording."""

    class Speaker(CollectingSink):
        is_card = kind == "card"

    sink, recording = Speaker(), tmp_path / "call.wav"
    wire = wires(peer=False)[0]
    call = make(codec, wire, sink, clip=None, chime=wanted)
    call.start()
    try:
        call.set_recording(str(recording))
        for party in (1, 2):
            wire.give(Joined(party, f"party {party}", "2k", "aaaa-bbbb"))
            wait_until(lambda party=party: len(parties(call)) == party)
        wait_until(lambda: sum(map(len, sink.played)) > SAMPLE_RATE)
    finally:
        call.close()
    played = np.concatenate(sink.played)
    notes = call_begins()
    if heard:
        first = int(np.flatnonzero(played)[0]) - int(np.flatnonzero(notes)[0])
        np.testing.assert_allclose(played[first : first + len(notes)], notes, atol=1e-6)
        played[first : first + len(notes)] = 0.0
    assert not played.any()
    _, theirs = soundfile.read(recording)[0].T
    assert np.abs(theirs).max() < 1e-4


def steps_in(packet: bytes, step: int = 0) -> int:
    return unpack_session(packet, step & 0xFFFF, 0).steps


@pytest.mark.parametrize("delay", [64, 256])
def test_the_next_caller_hears_nothing_of_what_was_said_to_the_last_one(codec, delay):
    packets: list[tuple[int, bytes]] = []

    def send(packet: bytes, step: int, captured: float, capture: float | None) -> bool:
        packets.append((step, packet))
        return True

    source, journal = Dictated(), Journal()
    slot = Hotplug(source, NullSink(), no_devices(), journal).input
    sender = Sender(codec, slot, send, journal, iterations=1, tail=0.0, delay=delay)
    with AudioReader(CLIP) as reader:
        speech = np.concatenate(list(reader))[16_000 : 16_000 + 16_384 * 3 // 2]
    sender.start()
    try:
        sender.call(True)
        source.say(speech)
        said = len(packets)
        assert said == (len(speech) - 192) // (16 * delay)
        sender.call(False)
        source.say(np.zeros(16_000, np.float32))
        sender.call(True)
        source.say(np.zeros(2 * 16_384, np.float32))
    finally:
        sender.stop()
    assert sender.failure is None
    assert len(packets) > said
    # The numbers go on, so that nobody takes the new packets for old ones.
    steps = [step for step, _ in packets]
    assert steps == sorted(steps)
    decoder = codec.decoder(steps_of(delay))
    short = short_id(codec.model_id)
    parts = [decoder.push(unpack_session(p, n & 0xFFFF, short)) for n, p in packets[said:]]
    heard = np.concatenate([*parts, decoder.finish()])
    assert np.abs(heard).max() < 1e-3


def test_the_delay_changes_between_two_packets_and_no_step_is_left_out(codec):
    packets: list[tuple[int, bytes]] = []
    times: list[float] = []

    def send(packet: bytes, step: int, captured: float, capture: float | None) -> bool:
        packets.append((step, packet))
        times.append(captured)
        return True

    source, journal = Dictated(), Journal()
    slot = Hotplug(source, NullSink(), no_devices(), journal).input
    sender = Sender(codec, slot, send, journal, iterations=0, tail=0.0, delay=256)
    with AudioReader(CLIP) as reader:
        speech = np.concatenate(list(reader))[16_000:]
    sender.start()
    try:
        sender.call(True)
        for number, delay in enumerate((64, 1024, 128, 512, 256)):
            source.say(speech[number * 10_240 : (number + 1) * 10_240])
            sender.set_delay(delay)
            assert sender.delay == delay
        source.say(speech[: 2 * 16_384])
        with pytest.raises(BadInput, match="65 ms"):
            sender.set_delay(65)
    finally:
        sender.stop()
    assert sender.failure is None
    lengths = [steps_in(packet) for _, packet in packets]
    assert set(lengths) == {1, 2, 4, 8, 16}
    ends = [step + length for (step, _), length in zip(packets, lengths, strict=True)]
    assert [step for step, _ in packets] == [0, *ends[:-1]]


def test_a_wish_for_a_key_reaches_the_encoder(codec):
    packets: list[bytes] = []

    def send(packet: bytes, step: int, captured: float, capture: float | None) -> bool:
        packets.append(packet)
        return True

    source, journal = Dictated(), Journal()
    slot = Hotplug(source, NullSink(), no_devices(), journal).input
    sender = Sender(codec, slot, send, journal, iterations=0, tail=0.0, delay=64)
    with AudioReader(CLIP) as reader:
        speech = np.concatenate(list(reader))[16_000:]
    sender.start()
    try:
        sender.call(True)
        source.say(speech[:16_384])
        before = len(packets)
        sender.want_key(lost=True)
        source.say(speech[16_384 : 2 * 16_384])
    finally:
        sender.stop()
    chained = [unpack_session(packet, 0, 0).chained for packet in packets]
    assert chained[:3] == [False, True, True]
    assert not any(chained[before + 1 :])


@pytest.mark.parametrize("room", [False, True])
def test_whoever_comes_when_all_others_have_left_is_a_new_call(codec, monkeypatch, room):
    """Also while those are still heard to the end; one that comes back, or joins a room, is not."""
    one, _ = wires(peer=False)
    asked: list[bool] = []
    monkeypatch.setattr(Sender, "call", lambda sender, wanted: asked.append(wanted))
    call = make(codec, one, lasting=True, room=room)
    call.start()
    try:
        for expected, events in (
            ([False, True, True], [Joined(1, "ann", "2k", "")] * 2),
            ([False, True], [Left(1, "bye"), Joined(1, "bob", "2k", "")]),
            ([True], [Joined(2, "eve", "2k", "")]),  # a caller may not know that it is in a room
        ):
            asked.clear()
            one.give(*events)
            wait_until(lambda: len(asked) >= len(expected))  # noqa: B023
            assert asked == expected
    finally:
        call.close()


def test_a_connection_that_never_returns_is_given_up(codec):
    one, _ = wires()
    call = make(codec, one, patience=0.3)
    call.start()
    try:
        one.give(StateChanged(CallState.RECONNECTING, "nothing heard"))
        assert call.wait(120.0)
        assert call.snapshot().state is CallState.ENDED
        assert "gone" in call.snapshot().reason
    finally:
        call.close()


@pytest.mark.parametrize("state", [CallState.REFUSED, CallState.FAILED])
def test_refusal_ends_the_call_with_its_reason(codec, state):
    one, _ = wires()
    call = make(codec, one)
    call.start()
    try:
        one.give(Notice("warning", "a notice"))
        one.give(StateChanged(state, "the listener does not know our key"))
        assert call.wait(120.0)
        assert call.snapshot().state is state
        assert "does not know" in call.snapshot().reason
        assert "a notice" in [line.text for line in call.log_lines(-1)]
    finally:
        call.close()


class BrokenSink(CollectingSink):
    def write(self, samples: np.ndarray) -> None:
        raise BadInput("cannot write /home/ann/private/heard.wav: no space left")


def test_of_a_fault_of_ours_others_learn_no_more_than_that(codec):
    one, _ = wires()
    call = make(codec, one, sink=BrokenSink())
    call.start()
    assert call.wait(60.0)
    call.close()
    assert "private" in call.snapshot().reason
    assert one.closed == FAULT


def test_what_cannot_be_handled_ends_the_call_with_a_reason(codec, monkeypatch):
    def broken(call: Call, event: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(Call, "_take", broken)
    call = make(codec, wires()[0])
    call.start()
    assert call.wait(60.0)
    call.close()
    assert call.snapshot().reason == "internal error: RuntimeError: no idea"


def test_nobody_fills_the_log_by_ringing_or_by_other_party_numbers(codec):
    """As strangers who keep ringing, or a listener that seems to be started again and again, do."""
    one, _ = wires(peer=False)
    call = make(codec, one, lasting=True)
    call.start()
    try:
        for k in range(200):
            one.give(Rings('"eve"', "aaaa-bbbb"), RingOver("the caller has given up"))
            party = 16 * k
            one.give(Joined(party, "eve", "2k", "", code=str(k)), Left(party, "restarted"))
        one.give(Rings("ada", "cccc-dddd", known=True), RingOver("refused"))
        one.give(TextArrived(0, "the end"))
        wait_until(lambda: any("the end" in line.text for line in call.log_lines(-1)))
        lines = [line.text for line in call.log_lines(-1)]
    finally:
        call.close()
    assert len(lines) < 60
    assert "ada rings (key cccc-dddd)" in lines
    assert "it rings no more: refused" in lines


def test_a_lasting_listener_waits_for_the_next_caller(codec):
    one, _ = wires()
    call = make(codec, one, lasting=True)
    call.start()
    try:
        wait_until(lambda: call.snapshot().listeners)
        one.give(Left(1, "bye"))
        wait_until(lambda: not call.snapshot().listeners)
        assert not call.wait(0.2)
    finally:
        call.close()


def test_nobodys_voice_begins_anew_because_somebody_came(codec):
    """A caller does not know whether it has called a room."""
    one, two = wires()
    call, other = make(codec, one), make(codec, two)
    call.start()
    other.start()
    try:
        wait_until(lambda: len(one.sent) >= 4)
        one.give(Joined(2, "eve", "2k", ""), KeyWanted(2))
        before = len(one.sent)
        wait_until(lambda: len(one.sent) >= before + 4)
    finally:
        call.close()
        other.close()
    steps = [step for step, _ in one.sent]
    assert [b - a for a, b in pairwise(steps)] == [steps_in(packet) for _, packet in one.sent[:-1]]


def test_who_has_come_wants_one_key_and_who_has_lost_something_several(codec, monkeypatch):
    one, _ = wires(peer=False)
    asked: list[bool] = []
    monkeypatch.setattr(Sender, "want_key", lambda sender, lost: asked.append(lost))
    call = make(codec, one)
    call.start()
    try:
        one.give(Joined(1, "ann", "2k", ""), KeyWanted(1))
        wait_until(lambda: asked == [False])
        monkeypatch.setattr("stream.call.call._NEW_SECONDS", 0.0)
        one.give(KeyWanted(1))
        wait_until(lambda: asked == [False, True])
    finally:
        call.close()


def test_a_slow_machine_takes_a_longer_delay_and_says_so(codec):
    one, _ = wires()
    call = make(codec, one, delay=64, measured={64: 0.2, 128: 0.01})
    assert call.snapshot().talker.delay == 128
    lines = [line.text for line in call.log_lines(-1)]
    assert lines == ["falling back to 128 ms: this machine is too slow for 64"]
    call.close()


def test_a_machine_that_falls_behind_takes_a_longer_delay_and_says_so(codec, monkeypatch):
    monkeypatch.setattr("stream.call.delays.BEHIND_SECONDS", 0.1)
    monkeypatch.setattr(Sender, "behind", True)
    one, _ = wires()
    call = make(codec, one, delay=256)
    call.start()
    try:
        wait_until(lambda: call.snapshot().talker.delay == 512)
        wait_until(lambda: len(call.log_lines(-1)) > 0)
    finally:
        call.close()
    assert "falling back to 512 ms: this machine is too slow for 256" in [
        line.text for line in call.log_lines(-1)
    ]


def test_delays_that_may_be_chosen(codec):
    one, _ = wires()
    call = make(codec, one)
    try:
        for delay in call.delays():
            call.set_delay(delay)
            assert call.snapshot().talker.delay == delay
        for delay in (0, 100, 2048):
            with pytest.raises(BadInput, match="the delay cannot be"):
                call.set_delay(delay)
        with pytest.raises(BadInput, match="the delay cannot be 100 ms"):
            make(codec, one, delay=100)
    finally:
        call.close()


def test_whole_frames_only_where_a_model_has_no_others():
    codec = SpeechCodec.load("paper", "cpu")
    one, _ = wires()
    call = make(codec, one, clip=None, preset="paper")
    try:
        assert call.delays() == (1024,) and call.snapshot().talker.delay == 1024
        with pytest.raises(BadInput, match="the delay cannot be 256 ms"):
            call.set_delay(256)
        assert "not possible here: taking 1024 ms" in call.log_lines(-1)[0].text
    finally:
        call.close()


# Opens nothing once it listens: whoever uses up the descriptors by then takes nothing away.
LISTENING = """
import os, sys
import numpy as np
from codec.packet import pack_session
from codec.speech.codec import SpeechCodec
from codec.speech.encoder import SpeechEncoder
from stream.call.call import warm_up
from stream.call.remote_stream import RemoteStream
codec = SpeechCodec.load("2k", "cpu")
warm_up(codec)
noise = np.random.default_rng(1).normal(0.0, 0.05, 16_000).astype(np.float32)
hook = lambda event, args: opened.append(args[0]) if event in ("open", "import") else None
opened = []
sys.addaudithook(hook)
kinds = set()
for steps in (1, 4):
    encoder, stream = SpeechEncoder(codec, 0, 0.0, steps=steps, session=True), RemoteStream(codec)
    for samples in (noise, np.zeros(96_000, np.float32), noise):
        for each in encoder.push(samples):
            if each.packet is not None:
                kinds.add(each.packet.pause)
                stream.arrive(pack_session(each.packet), each.packet.sequence, None, 0.0)
                stream.work()
                stream.pull(1024 * steps, 0.0)
print(sorted(kinds), opened, flush=True)
"""


def test_nothing_is_loaded_during_a_call():
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "[False, True] []", done.stderr
