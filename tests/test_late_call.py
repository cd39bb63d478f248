"""What is said with push-to-talk while the link is down is heard whole when it is back."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import soundfile

from codec.files.audio import AudioReader
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from stream.audio.sinks import NullSink
from stream.audio.sources import FileSource, Silence
from stream.call.call import Call, CallSettings, warm_up
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import CallState, Offer
from stream.link.listener import Listener
from stream.log import Journal
from tests.test_call import (
    CLIP,
    CollectingSink,
    likeness,
    make,
    no_devices,
    wait_until,
    wires,
)
from tests.test_reconnection import Relay

OPEN = Security()
OUTAGE = 10.0


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    codec = SpeechCodec.load("2k", "cpu")
    warm_up(codec)
    return codec


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    with AudioReader(CLIP) as reader:
        return np.concatenate(list(reader))


def call_of(codec, endpoint, source, sink, **settings) -> Call:
    chosen = CallSettings("2k", iterations=2, **settings)
    return Call(codec, endpoint, source, sink, chosen, Journal(), no_devices())


def log_of(call: Call) -> str:
    return "\n".join(line.text for line in call.log_lines(-1))


def test_an_over_said_during_an_outage_is_heard_whole_and_as_late(codec, clip, tmp_path: Path):
    """The link is down for ten seconds, in which five of speech are said. Prints how long it took
    from its return until they had come, and until they were heard."""
    talk = tmp_path / "talk.wav"
    soundfile.write(talk, np.tile(clip, 30), SAMPLE_RATE)
    listener = Listener("127.0.0.1:0", Offer(codec.model_id, "2k", "Bob"), OPEN)
    ear = CollectingSink()
    hearer = call_of(codec, listener, Silence(), ear)
    hearer.start()
    relay = Relay(listener.port)
    caller = Caller("127.0.0.1", relay.port, Offer(codec.model_id, "2k", "Ann"), OPEN)
    talker = call_of(codec, caller, FileSource(talk), NullSink(), push_to_talk=True)
    talker.start()
    hearer.record_overs(str(tmp_path / "overs"))
    try:
        wait_until(lambda: talker.snapshot().state is CallState.TALKING)
        wait_until(lambda: hearer.snapshot().listeners)
        begun = time.monotonic()
        relay.cut()
        wait_until(lambda: talker.snapshot().state is CallState.RECONNECTING)
        talker.talk(True)
        assert talker.snapshot().keeping and not talker.snapshot().talking
        frames = talker.snapshot().talker.frames
        packets = round((len(clip) / SAMPLE_RATE + 1.3) / 0.256)  # the clip once round, and more
        wait_until(lambda: talker.snapshot().talker.frames >= frames + packets)
        talker.talk(False)
        frames = talker.snapshot().talker.frames
        wait_until(lambda: talker.snapshot().talker.frames >= frames + 3)  # the over has ended
        assert talker.snapshot().link.kept >= 0.256 * (packets - 1)
        wait_until(lambda: time.monotonic() >= begun + OUTAGE)
        before = len(ear.played)
        assert not np.concatenate(ear.played).any()
        relay.stalled = False
        back = time.monotonic()
        wait_until(lambda: "have come late" in log_of(hearer))
        came = time.monotonic() - back
        wait_until(lambda: any(block.any() for block in ear.played[before:]))
        sounds = time.monotonic() - back
        wait_until(lambda: (late := hearer.snapshot().late) is not None and late.playing)
        late = hearer.snapshot().late
        assert late is not None and late.name == '"Ann"' and late.ago > 0.5 and not late.again
        wait_until(lambda: hearer.snapshot().late is None)
        ended = time.monotonic() - back
        wait_until(lambda: "have arrived" in log_of(talker))
    finally:
        talker.close()
        hearer.close()
        relay.close()
    length = f"{late.seconds:.1f} s long"
    print(f"whole after {came:.2f} s, heard from {sounds:.2f} to {ended:.2f} s, {length}")
    heard = np.concatenate(ear.played[before:])
    assert median(likeness(clip, heard)) > 0.8
    # Once, and nothing of it as if it were said now.
    audible = np.flatnonzero(np.abs(heard) > 0.003) / SAMPLE_RATE
    assert audible[-1] - audible[0] < late.seconds + 2.0
    assert talker.snapshot().link.kept == 0.0
    (file,) = (tmp_path / "overs").iterdir()
    assert file.name.endswith("-ann-late.wav")
    samples, _ = soundfile.read(file, dtype="float32")
    assert len(samples) / SAMPLE_RATE == pytest.approx(late.seconds, abs=0.6)
    assert median(likeness(clip, samples)) > 0.8


def test_the_overs_of_push_to_talk_are_told_apart_and_an_open_microphone_is_none(codec):
    one, two = wires()
    call, other = make(codec, one), make(codec, two, clip=None)
    call.set_push_to_talk(True)
    call.start()
    other.start()
    try:
        wait_until(lambda: call.snapshot().state is CallState.TALKING)
        for number in range(2):
            call.talk(True)
            wait_until(lambda number=number: one.overs.count(number) >= 2)
            call.talk(False)
            wait_until(lambda number=number: one.ended == list(range(number + 1)))
        call.set_push_to_talk(False)
        sent = len(one.overs)
        wait_until(lambda: len(one.overs) > sent + 3)
    finally:
        call.close()
        other.close()
    numbers = [number for number in one.overs if number is not None]
    assert numbers == sorted(numbers)
    assert one.overs[-1] is None
