"""`sotto check`: its measurements on known sound, and its answers on machines of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from codec.errors import SottoError
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from stream.audio import devices, soundcheck
from stream.audio.devices import AudioDeviceError, CardStream, DeviceInfo
from stream.audio.sinks import NullSink
from stream.audio.soundcheck import SETTLE, TONES, Hint, LevelCheck, TonePlayer, listen, tones
from stream.audio.sources import FileSource, Source
from stream.bench.rig import soundcard
from stream.bench.rig.soundcard import VirtualSoundCards
from stream.call.loopback import loop_back
from stream.link.address import Address
from stream.link.ports import Port, listening_port
from stream.log import Journal
from tui.cli import main
from tui.commands import check
from tui.findings import Anonymous, Finding, Verdict, this_machine, to_json

ROOT = Path(__file__).resolve().parents[1]
needs_cards = pytest.mark.skipif(
    soundcard.unavailable() is not None, reason=soundcard.unavailable() or "cards are there"
)


def noise(seconds: float, level_db: float) -> np.ndarray:
    count = round(seconds * SAMPLE_RATE)
    return np.random.default_rng(0).normal(0.0, 10 ** (level_db / 20), count).astype(np.float32)


def level_of(samples: np.ndarray, block: int = 777) -> soundcheck.MicrophoneLevel:
    found = LevelCheck()
    lead = np.zeros(round(SETTLE * SAMPLE_RATE), np.float32)
    samples = np.concatenate((lead, samples))
    for first in range(0, len(samples), block):
        found.push(samples[first : first + block])
    return found.result()


# The microphone


@pytest.mark.parametrize(
    ("gain", "noise_db", "hint"),
    [
        (1.0, -70.0, Hint.FINE),
        (0.05, -90.0, Hint.QUIET),
        (20.0, -70.0, Hint.CLIPPING),
        (0.6, -48.0, Hint.NOISY),
        (0.0, -70.0, Hint.NO_SPEECH),
        (0.0, -110.0, Hint.SILENT),
    ],
)
def test_a_level_is_named(clip, gain, noise_db, hint):
    speech = np.clip(gain * clip, -1.0, 1.0)
    assert level_of(speech + noise(len(clip) / SAMPLE_RATE, noise_db)).hint is hint


def test_nothing_heard_at_all_is_no_sound():
    assert LevelCheck().result().hint is Hint.DEAD
    assert level_of(np.zeros(0, np.float32)).hint is Hint.DEAD


def test_a_level_does_not_depend_on_how_it_comes(clip):
    one, other = level_of(clip, block=160), level_of(clip, block=1601)
    assert one.speech_db == pytest.approx(other.speech_db, abs=0.01)
    assert one.peak_db == pytest.approx(other.peak_db, abs=0.01)
    assert one.clipped == other.clipped == 0


def test_an_offset_and_what_pops_at_the_beginning_are_no_sound(clip):
    found = LevelCheck()
    found.push(np.ones(round(SETTLE * SAMPLE_RATE), np.float32))
    assert found.result().seconds == 0.0
    offset = level_of(np.full(3 * SAMPLE_RATE, 0.05, np.float32) + noise(3.0, -70.0))
    assert offset.hint is Hint.NO_SPEECH


def test_what_is_not_finite_does_not_hurt(clip):
    clip = clip.copy()
    clip[1000:1100] = np.nan
    assert np.isfinite(level_of(clip).peak_db)


class Spoken(Source):
    """A microphone in simulated time that breaks after a while."""

    def __init__(self, samples, breaks_after: float = np.inf) -> None:
        self.now = 0.0
        super().__init__(clock=lambda: self.now, sleep=self.wait)
        self._samples, self._breaks_after = samples, breaks_after
        self.opened = 0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def start(self) -> None:
        self.opened += 1

    def stop(self) -> None:
        self.opened -= 1

    def _take(self, most):
        self.now += most / SAMPLE_RATE
        if self.now > self._breaks_after:
            self.error = "the microphone has stopped"
        first = round(self.now * SAMPLE_RATE)
        return self._samples[first - most : first], self.now


def test_listening_ends_in_time_and_when_it_is_told_to(clip):
    source, stop, left = Spoken(clip), threading.Event(), []
    level = listen(source, 3.0, stop, lambda level_db, each: left.append(each), clock=source._clock)
    assert level.hint is Hint.FINE
    assert 3.0 < source.now < 3.0 + SETTLE + 0.2
    assert left == sorted(left, reverse=True)
    stop.set()
    assert listen(source, 3.0, stop, clock=source._clock).hint is Hint.DEAD
    assert source.opened == 0


def test_a_microphone_that_breaks_says_so(clip):
    source = Spoken(clip, breaks_after=1.0)
    with pytest.raises(AudioDeviceError, match="has stopped"):
        listen(source, 3.0, threading.Event(), clock=source._clock)
    assert source.opened == 0


# The tones


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 2), (48_000, 8), (44_100, 1)])
def test_each_ear_has_its_tone(rate, channels):
    samples = tones(rate, channels)
    half = len(samples) // 2
    assert samples.shape[1] == channels
    assert np.abs(samples).max() == pytest.approx(0.1, abs=1e-3)
    for part, (ear, hertz) in enumerate(TONES):
        now = samples[part * half : (part + 1) * half]
        column = min(part, channels - 1)
        spectrum = np.abs(np.fft.rfft(now[:, column]))
        assert np.argmax(spectrum) * rate / half == pytest.approx(hertz, abs=2.0), ear
        assert not np.delete(now, column, axis=1).any()
        # It neither begins nor ends with a click.
        assert np.abs(np.diff(now[:, column])).max() < 0.2 * hertz / rate * np.pi


class Card:
    """A card that plays at once what it is given; dead: that never asks."""

    played: list[np.ndarray]

    def __init__(self, channels: int, dead: bool) -> None:
        self.info = SimpleNamespace(name="ear phones")
        self.latency = 0.0
        self.played, self._channels, self._dead = [], channels, dead

    def settings(self, wanted: int) -> tuple[int, int]:
        return 16_000, min(wanted, self._channels)

    def open(self, rate, channels, callback) -> None:
        for _ in range(0 if self._dead else 400):
            block = np.full((160, channels), 9.0, np.float32)
            callback(block, None, None, 0.0)
            self.played.append(block)

    def gone(self) -> bool:
        return self._dead

    def close(self) -> None:
        self._dead = True


@pytest.mark.parametrize("channels", [1, 2])
def test_the_tones_are_played_whole(monkeypatch, channels):
    card = Card(channels, False)
    monkeypatch.setattr(soundcheck, "CardStream", lambda *about: card)
    assert TonePlayer().play(threading.Event()) == channels
    played = np.concatenate(card.played)
    expected = tones(16_000, channels)
    assert np.array_equal(played[: len(expected)], expected)
    assert not played[len(expected) :].any()


def test_a_loudspeaker_that_takes_nothing_says_so(monkeypatch):
    monkeypatch.setattr(soundcheck, "CardStream", lambda *about: Card(2, True))
    with pytest.raises(AudioDeviceError, match="ear phones takes no sound"):
        TonePlayer().play(threading.Event())


def test_two_channels_matter_more_than_the_rate(monkeypatch):
    info = DeviceInfo(0, "card", "ALSA", 0, 8, False, True, native_rate=48_000)
    monkeypatch.setattr(devices, "list_devices", lambda: (info,))
    accepted = {(16_000, 1), (48_000, 2), (48_000, 8)}
    monkeypatch.setattr(
        devices,
        "_refusal",
        lambda index, way, rate, count: None if (rate, count) in accepted else "no",
    )
    card = CardStream(None, "output", time.monotonic)
    assert card.settings() == (16_000, 1)
    assert card.settings(2) == (48_000, 2)
    accepted.remove((48_000, 2))
    assert card.settings(2) == (48_000, 8)
    accepted.clear()
    accepted.add((16_000, 1))
    assert card.settings(2) == (16_000, 1)


# The loopback


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu")


def test_a_loopback_says_what_came_of_it(codec, clip_path):
    found = loop_back(
        codec,
        FileSource(clip_path),
        NullSink(),
        Journal(None),
        threading.Event(),
        seconds=60.0,
        delay=1024,
        iterations=0,
        drain=100.0,
    )
    assert found.spoken >= 3
    assert found.packets < 12  # it ended with the file
    assert 1000.0 < found.rate < 3000.0
    assert found.total is not None and found.total > 1.024
    assert found.delay == 1024


def test_a_loopback_ends_when_it_is_told_to(codec, clip_path):
    stop = threading.Event()
    stop.set()
    found = loop_back(
        codec, FileSource(clip_path), NullSink(), Journal(None), stop, seconds=60.0, delay=1024
    )
    assert found.total is None


def test_a_loopback_without_a_device_fails(codec):
    class Unplugged(Spoken):
        def start(self) -> None:
            raise AudioDeviceError("it is not there")

    with pytest.raises(SottoError, match="it is not there"):
        loop_back(
            codec,
            Unplugged(noise(1.0, -30.0)),
            NullSink(),
            Journal(None),
            threading.Event(),
            seconds=60.0,
            delay=1024,
        )


# The ports


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert listening_port(Address("127.0.0.1", number)) == Port(
            number, "address already in use"
        )
    assert listening_port(Address("127.0.0.1", 0)) == Port(0)
    assert listening_port(Address("192.0.2.1", 4747)).problem == "cannot assign requested address"


# What is said


def test_what_is_found_fits_any_width():
    lines = ("a loudspeaker: " + "word " * 30, "Headset (hw:1,0): 2 in, 2 out")
    finding = Finding("devices", Verdict.NOTE, lines)
    for width in (80, 40, 25):
        text = finding.to_text(width)
        assert text.startswith("devices: note\n")
        assert max(map(len, text.split("\n"))) <= width
        assert "".join(text.split()).endswith("Headset(hw:1,0):2in,2out")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("AirPods of Anna", "AirPods of (user)"),
        ("Zoë's AirPods", "(user)'s AirPods"),
        ("Speaker on anna@nova.example", "Speaker on (user)@(host)"),
        ("tunnel to NOVA, anna", "tunnel to (host), (user)"),
        ("cannot read /home/anna/.config/sotto/key: gone", "cannot read ~/.config/sotto/key: gone"),
        ("cannot load /data/anna/model", "cannot load /data/(user)/model"),
        ("BT 00:1a:7d:Da:71:13", "BT (address)"),
        ("rtp from 192.168.1.7", "rtp from (address)"),
        ("rtp from fe80::1:2", "rtp from (address)"),
        ("annabel and Hannah, casanova", "annabel and Hannah, casanova"),
        ("/home/annabel", "/home/annabel"),
        ("hw:1,0 at 16 kHz, 4:3", "hw:1,0 at 16 kHz, 4:3"),
        ("19.7.0, 2.13.0+cpu", "19.7.0, 2.13.0+cpu"),
    ],
)
def test_a_support_person_learns_no_names(text, hidden):
    names = Anonymous(["anna", "Anna Lind", "x", ""], ["nova"], ["/home/anna", "/"])
    assert names.hidden(text) == hidden
    finding = Finding("devices", Verdict.OK, (text,), {"devices": [{"name": text, "index": 0}]})
    step = to_json([finding], names)["steps"]["devices"]
    assert step["lines"] == [hidden]
    assert step["devices"] == [{"name": hidden, "index": 0}]


def test_this_machine_is_not_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "nova.example.org")
    hidden = this_machine().hidden(f"{tmp_path}/key on nova, on NOVA.example.org")
    assert hidden == "~/key on (host), on (host)"


# The command


def card(**more) -> DeviceInfo:
    values = {"inputs": 1, "outputs": 2, "default_input": True, "default_output": True, **more}
    return DeviceInfo(0, more.pop("name", "card"), "ALSA", native_rate=48_000, **{
        key: values[key] for key in ("inputs", "outputs", "default_input", "default_output")
    })  # fmt: skip


@pytest.fixture
def cards(monkeypatch):
    """set_cards(*devices): what this machine has."""

    def set_cards(*found: DeviceInfo) -> None:
        monkeypatch.setattr(devices, "list_devices", lambda probe=False: found)

    return set_cards


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["check", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_machine_without_cards_fails_and_says_what_to_do(cards, capsys):
    cards()
    sound = ["--only", "devices", "microphone", "tones"]
    status, out, err = run(capsys, *sound)
    assert status == 1 and not err
    assert out.count(": failed\n") == 3
    assert "no microphone (--input none does without)" in out
    assert "--input none or --send-file" in out and "--output none" in out
    status, out, _ = run(capsys, *sound, "--input", "none", "--output", "none")
    assert status == 0
    assert "devices: ok" in out
    assert "microphone: left out\n  --input none" in out
    assert "tones: left out\n  --output none" in out


def test_one_direction_may_be_missing(cards, capsys):
    cards(card(inputs=0))
    assert run(capsys, "--only", "devices")[0] == 1
    assert run(capsys, "--only", "devices", "--input", "none")[0] == 0
    assert run(capsys, "--only", "devices", "--send-file", "talk.wav")[0] == 0


def test_no_sound_system_at_all_is_told(monkeypatch, capsys):
    def missing(probe: bool = False):
        raise AudioDeviceError("no sound: the PortAudio library is missing")

    monkeypatch.setattr(devices, "list_devices", missing)
    monkeypatch.setattr(devices, "sound_system", missing)
    status, out, _ = run(capsys, "--only", "versions", "devices", "--json")
    answer = json.loads(out)
    assert status == 1 and answer["failed"]
    assert answer["steps"]["versions"]["verdict"] == "note"
    assert answer["steps"]["versions"]["portaudio"] == "missing"
    assert answer["steps"]["devices"]["lines"] == ["no sound: the PortAudio library is missing"]


def test_json_is_one_object_without_names(cards, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    monkeypatch.setattr(socket, "gethostname", lambda: "nova")
    cards(DeviceInfo(3, "Anna's ears on nova", "ALSA", 1, 2, True, True, 48_000))
    folder = tmp_path / "anna" / "model"
    status, out, err = run(
        capsys, "--only", "versions", "devices", "ports", "--bind", "127.0.0.1:0", "--json",
        "--model", str(folder),
    )  # fmt: skip
    answer = json.loads(out)
    assert not err
    assert list(answer["steps"]) == ["versions", "devices", "ports"]
    assert answer["steps"]["devices"]["devices"][0]["name"] == "(user)'s ears on (host)"
    assert answer["steps"]["versions"]["verdict"] == "failed" and status == 1
    for name in ("Anna", "anna", "nova", str(tmp_path), "127.0.0.1"):
        assert name not in out


def test_versions_and_models_are_those_in_use(capsys):
    _, out, _ = run(capsys, "--only", "versions", "--json")
    found = json.loads(out)["steps"]["versions"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["models"]["speech"] == SpeechCodec.load("2k", "cpu").model_id
    assert {"sotto", "torch", "libzmq", "portaudio"} <= found.keys()


def test_a_taken_port_fails(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        status, out, _ = run(capsys, "--only", "ports", "--bind", f"127.0.0.1:{number}")
    assert status == 1
    assert f"TCP {number}: not to be had: address already in use" in out
    assert "--bind :PORT takes another port" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nonsense"],
        ["--only", "ports", "--skip", "tones"],
        ["--input", "-"],
        ["--output", "-"],
        ["--input", "none", "--send-file", "talk.wav"],
        ["--seconds", "0"],
        ["--seconds", "1e9"],
        ["--delay", "100"],
    ],
)
def test_wrong_usage_is_told_before_anything_is_tried(arguments, capsys):
    assert run(capsys, *arguments)[0] == 2


def test_steps_can_be_left_out(capsys):
    skipped = [step for step in check.STEPS if step != "ports"]
    status, out, _ = run(capsys, "--skip", *skipped, "--bind", "127.0.0.1:0")
    assert status == 0
    assert out.startswith("ports: ok\n")
    assert out.count(": ok") == 1


def test_the_speed_is_what_calls_measure(monkeypatch, capsys):
    taken = {64: 1.0, 128: 0.5, 256: 0.01}
    asked = []

    def warm_up(codec, delay):
        asked.append(delay)
        return {each: seconds for each, seconds in taken.items() if each >= delay}

    monkeypatch.setattr("stream.call.call.warm_up", warm_up)
    status, out, _ = run(capsys, "--only", "speed", "--delay", "128", "--device", "cpu", "--json")
    found = json.loads(out)["steps"]["speed"]
    assert (status, found["verdict"], found["carried"]) == (0, "note", 256)
    assert asked == [64]
    assert "with --delay 128 a call falls back to 256 ms" in found["lines"]


def test_a_sound_system_that_does_not_answer_holds_nothing_up(monkeypatch, capsys):
    """As with a sound server that is stopped: opening a card then never returns."""
    forever = threading.Event()
    left = []

    def leave(status):
        left.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(check, "_PATIENCE", 0.1)
    monkeypatch.setattr(check, "_leave", leave)
    monkeypatch.setattr(devices, "list_devices", lambda probe=False: forever.wait())
    try:
        status, out, _ = run(capsys, "--only", "devices", "tones", "ports", "--bind", "127.0.0.1:0")
    finally:
        forever.set()
    assert (status, left) == (1, [1])
    assert "devices: failed\n  the sound system does not answer within 0 s" in out
    assert "tones: failed\n  the sound system does not answer\n" in out
    assert "ports: ok" in out


def sotto_check(cards: VirtualSoundCards, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tui", "check", *arguments],
        env={**os.environ, **cards.environment("a"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_cards
def test_on_sound_cards(tmp_path, clip):
    """In a pipe, where nobody is asked anything."""
    said = tmp_path / "said.wav"
    soundfile.write(said, np.tile(clip, 12), SAMPLE_RATE)
    with VirtualSoundCards(["a"]) as cards:
        player = cards.play("a", said)
        recording = cards.record(tmp_path / "rig.wav")
        process = sotto_check(cards, "--only", "microphone", "tones", "--seconds", "3", "--json")
        out, err = process.communicate(timeout=120)
        player.stop()
        recording.stop()
    steps = json.loads(out)["steps"]
    assert not err
    level = steps["microphone"]
    assert level["hint"] in ("fine", "clipping"), level
    assert level["speech_db"] > -45.0
    assert steps["tones"]["verdict"] == "ok", steps["tones"]
    assert process.returncode == 0
    samples, rate = soundfile.read(tmp_path / "rig.wav", always_2d=True)
    heard = samples[:, cards.channel("a", "loudspeaker")]
    blocks = heard[: len(heard) // 4000 * 4000].reshape(-1, 4000)
    loud = blocks[np.abs(blocks).max(axis=1) > 0.02]
    peaks = [int(np.argmax(np.abs(np.fft.rfft(block))) * rate / 4000) for block in loud]
    assert {440, 660} <= set(peaks)
    assert peaks.index(440) < peaks.index(660)


@needs_cards
def test_ctrl_c_ends_it():
    with VirtualSoundCards(["a"]) as cards:
        process = sotto_check(cards, "--only", "ports", "microphone", "--seconds", "60",
                              "--bind", "127.0.0.1:0")  # fmt: skip
        # Until the card is open.
        ours = f'application.process.id = "{process.pid}"'
        listing = ["pactl", "list", "source-outputs"]
        environment = {**os.environ, **cards.environment("a"), "LC_ALL": "C"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (
                ours
                in subprocess.run(listing, env=environment, capture_output=True, text=True).stdout
            ):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert out == ""
    assert err == "sotto: interrupted\n"
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, 0)
        pytest.fail("it is still there")
