"""Choosing devices, and the sources and sinks: in simulated time, and on virtual sound cards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE
from stream.audio import devices
from stream.audio.callbacks import RingCallback
from stream.audio.devices import AudioDeviceError, DeviceInfo, choose, refresh
from stream.audio.pacing import Pacer, SampleClock
from stream.audio.sinks import BUFFER, Cushion, Loudspeaker, NullSink
from stream.audio.sources import FileSource, Microphone, PipeSource, Silence
from stream.bench.rig import soundcard
from stream.bench.rig.soundcard import VirtualSoundCards
from tui.commands.devices import as_text

needs_cards = pytest.mark.skipif(
    soundcard.unavailable() is not None, reason=soundcard.unavailable() or "cards are there"
)


class Time:
    """A clock that moves when told, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def device(index: int, name: str, inputs: int = 1, outputs: int = 1, **more) -> DeviceInfo:
    values = {"default_input": False, "default_output": False, **more}
    return DeviceInfo(index, name, "ALSA", inputs, outputs, native_rate=48_000, **values)


DEVICES = (
    device(0, "HDA Intel PCH: ALC257", 2, 2),
    device(1, "HDA Intel PCH: HDMI 0", 0, 8),
    device(2, "USB headset", 1, 2, default_input=True, default_output=True),
    device(3, "USB headset (hw:2,0)", 1, 2),
)


# Choosing a device


@pytest.mark.parametrize(
    ("wanted", "direction", "index"),
    [
        (None, "input", 2),
        (0, "input", 0),
        ("1", "output", 1),
        ("alc257", "output", 0),
        ("hdmi", "output", 1),
        ("usb headset", "input", 2),
        ("hw:2", "input", 3),
        ("HDA", "input", 0),  # the HDMI output has no microphone
    ],
)
def test_choosing_by_number_and_by_part_of_the_name(wanted, direction, index):
    assert choose(wanted, direction, DEVICES).index == index


@pytest.mark.parametrize(
    ("wanted", "direction", "words"),
    [
        ("HDA", "output", ["several", "0 HDA Intel PCH: ALC257", "1 HDA"]),
        ("trumpet", "input", ["no input device matches trumpet", "2 USB headset"]),
        ("1", "input", ["HDMI 0", "has no input"]),
        ("17", "input", ["no input device matches 17"]),
        ("", "output", ["no output device"]),
        ("\x1b[2J", "output", ["\\x1b[2J"]),
    ],
)
def test_what_cannot_be_chosen_is_explained_in_one_line(wanted, direction, words):
    with pytest.raises(AudioDeviceError) as caught:
        choose(wanted, direction, DEVICES)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_machine_without_devices_says_so():
    with pytest.raises(AudioDeviceError, match="no audio input device"):
        choose(None, "input", [])


def test_the_list_marks_defaults_and_rates():
    text = as_text((device(0, "mic", 1, 0, default_input=True, input_rates=(16_000, 44_100)),))
    assert text.splitlines()[1].startswith(">   0  mic")
    assert "in 16 44.1" in text
    assert "out" not in text.splitlines()[1]


def test_looking_for_devices_runs_nothing_that_lies_around(tmp_path, monkeypatch):
    """As a project may hold a module of any name."""
    for name in ("stream.py", "json.py", "ctypes.py", "sounddevice.py", "numpy.py"):
        (tmp_path / name).write_text("open('ran', 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    # What is not in the path of a program that was installed, but of these tests, maybe.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with contextlib.suppress(AudioDeviceError):  # where there is no sound system
        devices.look()
    assert not (tmp_path / "ran").exists()


def run_sotto(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tui", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_sound_system_at_all(tmp_path):
    # No server to ask; a machine with sound cards of its own may still show those.
    env = {"PULSE_SERVER": f"unix:{tmp_path}/none"}
    done = run_sotto("devices", "--json", **env)
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), list)
    assert done.stderr == ""
    if not json.loads(done.stdout):
        done = run_sotto("devices", **env)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "this machine has no audio devices\n"


# Time


@given(
    ppm=st.floats(-300, 300),
    noise=st.floats(0.0, 0.004),
    start=st.floats(0.0, 1e6),
    seed=st.integers(0, 9),
)
def test_the_sample_clock_follows_a_drifting_noisy_card(ppm, noise, start, seed):
    draw = np.random.default_rng(seed)
    clock = SampleClock(16_000)
    rate = 16_000 * (1 + ppm * 1e-6)
    for k in range(2000):
        true = start + 160 * k / rate
        clock.stamp(160 * k, true + draw.uniform(-noise, noise))
    estimate = clock.time_of(160 * 1999)
    assert estimate is not None
    # Drift leaves ppm · 10 ms / gain; noise is averaged over some fifty stamps.
    assert abs(estimate - true) < abs(ppm) * 1e-6 * 0.01 / 0.02 + 0.7 * noise + 1e-6


def test_the_sample_clock_jumps_when_samples_were_lost():
    clock = SampleClock(16_000)
    assert clock.time_of(0) is None
    clock.stamp(0, 5.0)
    clock.stamp(160, 5.01 + 0.2)
    assert clock.time_of(320) == pytest.approx(5.22)
    clock.stamp(320, 5.225, restart=True)
    assert clock.time_of(320) == pytest.approx(5.225)


def test_the_sample_clock_follows_a_small_step_and_no_single_stamp():
    """A sound system that has run dry is later from then on, and says so in its stamps alone."""
    clock, random = SampleClock(16_000), np.random.default_rng(3)
    positions = iter(range(0, 1_000_000, 80))

    def error(late: float, count: int) -> float:
        for _ in range(count):
            noise = 0.03 if random.random() < 0.05 else random.uniform(-0.002, 0.002)
            position = next(positions)
            clock.stamp(position, 50.0 + position / 16_000 + late + noise)
        at = clock.time_of(0)
        assert at is not None
        return at - 50.0 - late

    assert abs(error(0.0, 400)) < 0.003
    assert abs(error(0.02, 30)) < 0.004
    assert abs(error(0.01, 30)) < 0.004


def test_the_pacer_counts_what_falls_due():
    clock = Time()
    pacer = Pacer(clock=clock)
    assert pacer.due() == 0
    pacer.start()
    clock.now += 100.0
    assert pacer.due() == 1_600_000
    pacer.take(160)
    pacer.forgive(1_599_840)
    assert abs(pacer.due()) <= 1


# Sources


def test_a_file_is_spoken_in_real_time_and_whole(clip_path, clip):
    clock = Time()
    source = FileSource(clip_path, clock=clock, sleep=clock.sleep)
    source.start()
    pieces, last = [], 0.0
    while not source.ended:
        samples, when = source.read(400, 0.1)
        assert len(samples) <= 400
        assert last <= when <= clock.now + 1e-9
        pieces.append(samples)
        last = when
        # Never ahead of time.
        assert sum(map(len, pieces)) <= (clock.now - 100.0) * 16_000 + 1
    assert np.array_equal(np.concatenate(pieces), clip)
    assert clock.now - 100.0 == pytest.approx(len(clip) / 16_000, abs=0.05)
    # The last sample's moment is that of its place in the file.
    assert last == pytest.approx(100.0 + len(clip) / 16_000, abs=1e-6)
    assert len(source.read(400, 0.1)[0]) == 0
    source.stop()


def test_a_late_reader_loses_nothing_of_a_file(clip_path, clip):
    clock = Time()
    source = FileSource(clip_path, clock=clock, sleep=clock.sleep)
    source.start()
    clock.now += 1000.0
    pieces = []
    while not source.ended:
        pieces.append(source.read(16_000, 0.1)[0])
    assert source.gaps == 1
    assert np.array_equal(np.concatenate(pieces), clip)
    source.stop()


def test_silence_takes_its_time():
    clock = Time()
    source = Silence(clock=clock, sleep=clock.sleep)
    source.start()
    total = 0
    while clock.now < 101.0:
        samples, when = source.read(400, 0.05)
        total += len(samples)
        assert not samples.any()
        assert when <= clock.now
    assert total == pytest.approx(16_000, abs=400)
    source.stop()
    assert source.ended


def test_a_file_that_is_no_audio_is_refused(tmp_path):
    bad = tmp_path / "x.wav"
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput):
        FileSource(bad)


def through_a_pipe(
    data: bytes, tmp_path: Path, *, raw: bool = False
) -> tuple[np.ndarray, PipeSource]:
    """What a PipeSource makes of `data`, fed to it through a FIFO."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def feed() -> None:
        with open(path, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=feed, daemon=True).start()
    source = PipeSource(path, raw=raw)
    with source:
        pieces = []
        deadline = time.monotonic() + 60
        while not source.ended and time.monotonic() < deadline:
            pieces.append(source.read(16_000, 0.05)[0])
        assert source.ended
    return np.concatenate(pieces), source


def test_raw_samples_from_a_pipe(tmp_path, clip):
    stored = (clip[:8000] * 32768).astype("<i2")
    begun = time.monotonic()
    got, source = through_a_pipe(stored.tobytes() + b"\x01", tmp_path, raw=True)
    assert time.monotonic() - begun > 0.45  # as long as it is spoken
    assert np.array_equal(got, stored.astype(np.float32) / 32768)
    assert source.error is None


def test_wav_of_another_rate_from_a_pipe(tmp_path, clip):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([clip[:8000]] * 2, axis=1), 32_000, "FLOAT")
    got, source = through_a_pipe(path.read_bytes(), tmp_path)
    assert len(got) == pytest.approx(4000, abs=2)
    assert source.error is None


@pytest.mark.parametrize("data", [b"fLaC" + bytes(100), b"RIFF\x00\x00\x00\x00WAVE" + bytes(50)])
def test_what_a_pipe_cannot_hold_is_said(tmp_path, data):
    got, source = through_a_pipe(data, tmp_path)
    assert not len(got)
    assert source.error is not None
    assert "pipe" in source.error


# Sinks


def test_nowhere_plays_in_real_time():
    clock = Time()
    sink = NullSink(clock=clock)
    sink.start()
    held = int(BUFFER * SAMPLE_RATE)
    assert sink.room() == held
    clock.now += 5.0
    assert (sink.room(), sink.gaps) == (held, 0)
    sink.write(np.ones(held, np.float32))
    assert sink.room() == 0
    assert sink.play_time() == pytest.approx(clock.now + BUFFER)
    clock.now += 0.01
    assert abs(sink.room() - 160) <= 1
    clock.now += 1.0
    assert (sink.room(), sink.gaps) == (held, 1)
    assert (sink.room(), sink.gaps) == (held, 1)
    sink.write(np.ones(160, np.float32))
    assert abs(sink.room() - held + 160) <= 1


def test_the_cushion_grows_with_underruns_and_shrinks_in_calm():
    cushion = Cushion(480, 2080, 160, calm=20.0)
    assert cushion.update(0, 100.0) == 480
    assert cushion.update(2, 101.0) == 800
    assert cushion.update(2, 120.0) == 800
    assert cushion.update(2, 121.5) == 720
    assert cushion.update(3, 122.0) == 880
    assert cushion.update(300, 123.0) == 2080
    for k in range(40):
        cushion.update(300, 200.0 + 21 * k)
    assert cushion.samples == 480


PIPE_OUT = """
import numpy as np
from stream.audio.sinks import PipeSink
with PipeSink() as sink:
    for k in range(20):
        sink.write(np.full(160, k / 32, np.float32))
"""


def test_samples_to_standard_output():
    done = subprocess.run(
        [sys.executable, "-c", PIPE_OUT], capture_output=True, timeout=60, check=True
    )
    assert done.stderr == b""
    samples = np.frombuffer(done.stdout, "<i2")
    assert len(samples) == 3200
    assert samples[::160].tolist() == [k * 1024 for k in range(20)]


class Flags:
    """What PortAudio says with every block."""

    def __init__(self, underflow: bool) -> None:
        self.output_underflow = self.input_overflow = underflow
        self.outputBufferDacTime, self.currentTime = 0.02, 0.0
        self.inputBufferAdcTime = -0.01


class Sound:
    """PortAudio with one card of 48 kHz, whose blocks are asked for by hand.

    It loses samples below a latency of `needed` seconds, and calls nothing but Python.
    """

    class PortAudioError(Exception):
        pass

    default = SimpleNamespace(device=(0, 0))

    def __init__(self, needed: float) -> None:
        self.needed = needed
        self.asked: list[float] = []
        self.streams: list[Sound.Stream] = []
        self.begun: list[str] = []

    def _terminate(self) -> None:
        self.begun.append("end")

    def _initialize(self) -> None:
        self.begun.append("new")

    def _exit_handler(self) -> None:
        raise AssertionError("it would not return")

    def query_hostapis(self) -> list[dict[str, object]]:
        return [{"name": "ALSA"}]

    def query_devices(self) -> list[dict[str, object]]:
        channels = {"max_input_channels": 1, "max_output_channels": 1}
        return [{"name": "card", "hostapi": 0, "default_samplerate": 48_000.0, **channels}]

    def check_output_settings(self, *, samplerate: int, **_: object) -> None:
        if samplerate != 48_000:
            raise ValueError("Invalid sample rate")

    check_input_settings = check_output_settings

    class Stream:
        def __init__(self, latency: float, callback) -> None:
            self.latency, self.callback, self.active = latency, callback, False

        def start(self) -> None:
            self.active = True

        def close(self) -> None:
            self.active = False

        abort = close

    def OutputStream(self, *, latency: float, callback, **_: object) -> Sound.Stream:
        self.asked.append(latency)
        self.streams.append(Sound.Stream(latency, callback))
        return self.streams[-1]

    InputStream = OutputStream

    def turn(self, seconds: float, loudspeaker: Loudspeaker, clock: Time) -> None:
        """Let it play, with the mixer looking in between blocks."""
        block = np.zeros((loudspeaker.rate // 100, 1), np.float32)
        for _ in range(round(100 * seconds)):
            room = loudspeaker.room()
            loudspeaker.write(np.zeros(room, np.float32))
            stream = self.streams[-1]
            flags = Flags(stream.latency < self.needed)
            stream.callback(block, len(block), flags, flags)
            clock.now += 0.01


@pytest.fixture
def use(monkeypatch) -> Callable[[Sound], None]:
    """Have a simulated PortAudio in place of the real one."""

    def use(sound: Sound) -> None:
        monkeypatch.setattr("stream.audio.devices.sound_system", lambda: sound)
        monkeypatch.setattr(RingCallback, "compiled", lambda callback, channels: None)

    return use


def test_a_card_that_cannot_be_closed_is_not_waited_for(monkeypatch, use):
    sound, answers = Sound(0.0), threading.Event()
    use(sound)
    monkeypatch.setattr(Sound.Stream, "abort", lambda stream: answers.wait(30.0))
    left: list[object] = []
    monkeypatch.setattr("atexit.unregister", left.append)
    loudspeaker = Loudspeaker()
    loudspeaker.start()
    before = time.monotonic()
    loudspeaker.stop()
    assert time.monotonic() - before < 10.0
    assert left == [sound._exit_handler]  # nor is it when the program ends
    refresh()
    assert sound.begun == []  # PortAudio would wait for it
    answers.set()
    deadline = time.monotonic() + 30.0
    while not sound.begun and time.monotonic() < deadline:
        time.sleep(0.01)
        refresh()
    assert sound.begun == ["end", "new"]


@pytest.mark.parametrize(
    ("needed", "asked"),
    [
        (0.01, [0.01]),
        (0.05, [0.01, 0.02, 0.04, 0.08]),
        (9.0, [0.01, 0.02, 0.04, 0.08, 0.16]),
    ],
)
def test_a_sound_system_that_keeps_underflowing_gets_a_longer_buffer(use, needed, asked):
    sound, clock = Sound(needed), Time()
    use(sound)
    loudspeaker = Loudspeaker(clock=clock)
    loudspeaker.start()
    sound.turn(20.0, loudspeaker, clock)
    assert sound.asked == pytest.approx(asked)
    assert [stream.active for stream in sound.streams] == [False] * (len(asked) - 1) + [True]
    assert loudspeaker.error is None
    # Our own cushion does not grow for it.
    assert loudspeaker.latency < asked[-1] + 0.05


def test_a_loudspeaker_that_runs_dry_says_for_how_long(use):
    """What is played after that comes as much later, to the sample, whatever the stamps say."""
    sound, clock = Sound(0.0), Time()
    use(sound)
    loudspeaker = Loudspeaker(clock=clock)
    loudspeaker.start()
    sound.turn(1.0, loudspeaker, clock)
    loudspeaker.silence()
    sound.turn(1.0, loudspeaker, clock)
    assert loudspeaker.silence() == 0
    before, stream = loudspeaker.play_time(), sound.streams[-1]
    waiting = loudspeaker._playing.ring.available
    for _ in range(5):  # nobody writes
        stream.callback(np.zeros((480, 1), np.float32), 480, Flags(False), Flags(False))
        clock.now += 0.01
    silent = (5 * 480 - waiting) * SAMPLE_RATE // loudspeaker.rate
    assert 0 < silent == pytest.approx(loudspeaker.silence(), abs=1)
    assert loudspeaker.play_time() - before == pytest.approx(silent / SAMPLE_RATE, abs=2e-3)
    assert loudspeaker.silence() == 0


@pytest.mark.parametrize(("needed", "asked"), [(0.01, [0.01]), (0.02, [0.01, 0.02])])
def test_a_microphone_that_keeps_losing_samples_gets_a_longer_buffer(use, needed, asked):
    sound, clock = Sound(needed), Time()
    use(sound)
    microphone = Microphone(clock=clock)
    microphone.start()
    taken = 0
    for k in range(600):
        stream = sound.streams[-1]
        flags = Flags(stream.latency < needed and k % 20 == 0)  # five times a second
        stream.callback(np.ones((480, 1), np.float32), 480, flags, flags)
        taken += len(microphone.read(1600, 0.0)[0])
        clock.now += 0.01
    assert sound.asked == pytest.approx(asked)
    assert [stream.active for stream in sound.streams] == [False] * (len(asked) - 1) + [True]
    assert microphone.error is None and microphone.gaps == 6 * (len(asked) - 1)
    assert taken == pytest.approx(6 * 16_000, abs=1_000)


# On virtual sound cards

LOOP = """
import sys, threading, time
import numpy as np
from stream.audio.devices import sound_system
rate, sound = int(sys.argv[1]), sound_system()
def only(check):
    def checked(samplerate, **rest):
        if samplerate != rate:
            raise sound.PortAudioError("Invalid sample rate")
        check(samplerate=samplerate, **rest)
    return checked
sound.check_input_settings = only(sound.check_input_settings)
sound.check_output_settings = only(sound.check_output_settings)
from stream.audio.sinks import Loudspeaker
from stream.audio.sources import Microphone
microphone, loudspeaker = Microphone(), Loudspeaker()
microphone.start(); loudspeaker.start()
assert microphone.rate == loudspeaker.rate == rate, (microphone.rate, loudspeaker.rate)
print("ready", flush=True)
held, times, ahead = np.zeros(0, np.float32), [], []
told = threading.Thread(target=sys.stdin.read, daemon=True)  # until our input is closed
told.start()
while told.is_alive():
    samples, when = microphone.read(1600, 0.005)
    if len(samples):
        times.append((when, time.monotonic() - when))
    held = np.concatenate([held, samples])
    room = loudspeaker.room()
    if room >= 64:  # as the mixer does: what is lacking is silence, which then is the delay
        block, held = held[:room], held[room:]
        loudspeaker.write(np.pad(block, (0, room - len(block))))
        ahead.append(loudspeaker.play_time() - time.monotonic())
times = np.array(times)
assert (np.diff(times[:, 0]) >= 0).all(), "time ran backwards"
assert (times[:, 1] >= 0).all(), "samples from the future"
print("age", np.median(times[:, 1]), "ahead", np.median(ahead))
print("underruns", loudspeaker.gaps, "gaps", microphone.gaps)
print("errors", microphone.error, loudspeaker.error)
microphone.stop(); loudspeaker.stop()
"""


def child(card: str, cards: VirtualSoundCards, code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, **cards.environment(card)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TONE = 1000.0


def pitch(samples: np.ndarray) -> float:
    """The strongest frequency at 16 kHz, also of a tone with gaps."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * 16_000 / len(samples)


@needs_cards
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_microphone_to_loudspeaker(tmp_path, rate):
    """On a card that does `rate` only: what is said comes out again, no higher, soon."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, 16_000).astype(np.float32)
    tone = 0.2 * np.sin(2 * np.pi * TONE / 16_000 * np.arange(16_000))
    talk = np.concatenate([noise, tone.astype(np.float32)])
    soundfile.write(tmp_path / "talk.wav", talk, 16_000, "FLOAT")
    with VirtualSoundCards(["alice"]) as cards:
        recording = cards.record(tmp_path / "all.wav")

        def let_pass(seconds: float) -> None:
            """Wait until the cards have gone on for so long, which their recording shows."""
            path, deadline = tmp_path / "all.wav", time.monotonic() + 120.0
            whole = path.stat().st_size + seconds * 16_000 * 2 * 4
            while path.stat().st_size < whole:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        process = child("alice", cards, LOOP, str(rate))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if rate != 16_000:
            let_pass(3.0)  # PulseAudio resamples: the latency that this takes is found out first
        cards.play("alice", tmp_path / "talk.wav").wait(120)
        let_pass(1.0)  # what was said last comes out
        out, err = process.communicate(timeout=60)
        recording.stop()
    assert process.returncode == 0, err
    assert err == ""
    assert "errors None None" in out
    both, _ = soundfile.read(tmp_path / "all.wav")
    said = int(np.argmax(np.correlate(both[:, 0], noise[:2000], "valid")))
    delays = []
    for start in range(said, said + 12_000, 2000):
        match = np.correlate(
            both[start : start + 18_000, 1], both[start : start + 2000, 0], "valid"
        )
        delays.append(int(np.argmax(match)) / 16_000)
    assert 0.01 < np.median(delays) < 0.8
    print(f"{rate} Hz: mouth to ear {np.median(delays):.4f} s, {out}")
    begun = said + 16_000 + int(np.median(delays) * 16_000)
    heard = both[begun + 1600 : begun + 14_400, 1]
    print(f"a tone of {TONE} Hz came out at {pitch(heard):.3f} Hz")
    assert pitch(heard) == pytest.approx(TONE, abs=4.0)


@needs_cards
def test_a_card_that_goes_away_is_told_once_and_silence_goes_on():
    code = """
    import time
    import numpy as np
    from stream.audio.sinks import Loudspeaker
    from stream.audio.sources import Microphone
    microphone, loudspeaker = Microphone(), Loudspeaker()
    microphone.start(); loudspeaker.start()
    while not len(microphone.read(1600, 0.01)[0]):
        loudspeaker.write(np.zeros(loudspeaker.room(), np.float32))
    print("ready", flush=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (microphone.error and loudspeaker.error):
        microphone.read(1600, 0.01)
        loudspeaker.write(np.zeros(loudspeaker.room(), np.float32))
    begun, silent, played = time.monotonic(), 0, 0
    while time.monotonic() < begun + 1:
        samples, _ = microphone.read(1600, 0.01)
        assert not samples.any()
        silent += len(samples)
        room = loudspeaker.room()
        loudspeaker.write(np.zeros(room, np.float32))
        played += room
    microphone.stop(); loudspeaker.stop()
    print(silent > 12000, played > 12000)
    print(microphone.error, "|", loudspeaker.error)
    """
    with VirtualSoundCards(["alice"]) as cards:
        process = child("alice", cards, code)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        cards.unplug()
        out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[0] == "True True"
    assert "microphone default has stopped" in out
    assert "loudspeaker default has stopped" in out


@pytest.mark.skipif(find_library("asound") is None, reason="no ALSA")
@pytest.mark.parametrize("what", ["missing", "empty", "broken", "folder", "pipe"])
def test_a_configuration_that_describes_nothing_is_said(tmp_path, what):
    """PortAudio would end the program, without a word."""
    path = tmp_path / "asound.conf"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "missing":
        path.write_text("pcm {" if what == "broken" else "")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from tui.cli import main; sys.exit(main(['devices']))"],
        env={**os.environ, "ALSA_CONFIG_PATH": str(path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "asound.conf" in done.stderr and len(done.stderr.splitlines()) == 1
