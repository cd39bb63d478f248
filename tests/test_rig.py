"""The test rig: correctly wired virtual sound cards, and two hosts joined by a cable."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream.bench.rig import RigError, hosts, soundcard
from stream.bench.rig.hosts import TwoHosts
from stream.bench.rig.soundcard import VirtualSoundCards

needs_cards = pytest.mark.skipif(
    soundcard.unavailable() is not None, reason=soundcard.unavailable() or "cards are there"
)
needs_hosts = pytest.mark.skipif(
    hosts.unavailable() is not None, reason=hosts.unavailable() or "hosts are there"
)

LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 7777))
print("ready", flush=True)
client, _ = server.accept()
print(client.recv(100).decode(), flush=True)
"""
SAY = """
import socket, sys
socket.create_connection((sys.argv[1], 7777), timeout=60).sendall(b"hello")
"""

PATIENCE = 120.0  # seconds; only a machine that is busy needs more than a few

# A closed port of a host that can be reached refuses at once.
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 1), timeout=0.5)
except ConnectionRefusedError:
    sys.exit(0)
except OSError:
    sys.exit(1)
"""


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0.0, 0.1, int(16_000 * seconds))
    return values.astype(np.float32)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that comes true soon even on a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs_cards
def test_each_voice_reaches_its_own_microphone_only(tmp_path):
    talk = tmp_path / "talk.wav"
    soundfile.write(talk, noise(0.5), 16_000, "FLOAT")
    with VirtualSoundCards(["alice", "bob"]) as cards:
        recording = cards.record(tmp_path / "all.wav")
        cards.play("bob", talk).wait(PATIENCE)
        # What was played last is recorded 0.3 s later: 4 channels of 4 bytes.
        recorded, late = tmp_path / "all.wav", 4 * 4 * 4800
        size = recorded.stat().st_size
        until(lambda: recorded.stat().st_size >= size + late)
        recording.stop()
        folder = Path(cards.environment("bob")["ALSA_CONFIG_PATH"]).parent
        assert folder.exists()
        bob = cards.channel("bob", "microphone")
    assert not folder.exists()
    heard, rate = soundfile.read(tmp_path / "all.wav")
    assert rate == 16_000
    assert heard.shape[1] == 4
    # Nothing in between: what was said is there to the last bit, its very beginning excepted.
    said = noise(0.5)[800:]
    at = int(np.argmax(np.correlate(heard[:, bob], said, "valid")))
    assert np.abs(heard[at : at + len(said), bob] - said).max() < 1e-6
    assert not np.delete(heard, bob, axis=1).any()


@needs_cards
def test_the_card_is_the_default_of_a_child_process():
    with VirtualSoundCards(["alice"]) as cards:
        done = subprocess.run(
            [sys.executable, "-m", "tui", "devices"],
            env={**os.environ, **cards.environment("alice")},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "><" in done.stdout
    assert "in 16 44.1 48; out 16 44.1 48" in done.stdout
    assert done.stderr == ""


@needs_cards
def test_the_server_goes_after_an_exception():
    with pytest.raises(KeyError), VirtualSoundCards(["alice"]) as cards:
        path = cards.environment("alice")["PULSE_SERVER"].removeprefix("unix:")
        raise KeyError
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError):
        client.connect(path)


@needs_cards
def test_a_skewed_card_runs_on_its_own_clock(tmp_path):
    talk = tmp_path / "talk.wav"
    soundfile.write(talk, noise(0.5), 16_000, "FLOAT")
    # A skew far beyond any crystal's, to be seen within seconds on a busy machine.
    with VirtualSoundCards([], skewed={"fast": 500_000.0}) as cards:
        card = cards.skewed["fast"]
        from_time, from_position = time.monotonic(), card.position
        card.start_recording(tmp_path / "fast.wav")
        until(lambda: card.position >= from_position + 24_000)
        env = {**os.environ, **cards.environment("fast")}
        ear = tmp_path / "ear.wav"
        argv = ["parecord", "--device=fast_mic", "--channels=1", "--rate=16000", str(ear)]
        listener = subprocess.Popen(argv, env=env)
        player = subprocess.Popen(["paplay", "--device=fast_speaker", str(talk)], env=env)
        player.wait(PATIENCE)
        card.say(talk)
        until(lambda: not card.talking)
        said = card.position
        until(lambda: card.position >= said + 7200)
        listener.terminate()
        listener.wait(PATIENCE)
        seconds, samples = time.monotonic() - from_time, card.position - from_position
        card.stop_recording()
    assert samples / seconds == pytest.approx(24_000, rel=0.2)
    both, _ = soundfile.read(tmp_path / "fast.wav")
    for heard in (*both.T, soundfile.read(ear)[0]):
        # A busy machine may tear a hole into what this clock demands; half of it shows the wiring.
        assert np.correlate(heard, noise(0.5), "valid").max() > 0.3 * 80.0


def test_bad_card_names_are_refused():
    for names in (["a", "a"], ["a b"], ["x"] * 20, [f"c{k}" for k in range(17)]):
        with pytest.raises(RigError):
            VirtualSoundCards(names)


@needs_hosts
def test_hosts_talk_until_the_cable_is_pulled():
    with TwoHosts() as pair:
        address = pair.addresses["a"]
        server = pair.run("a", [sys.executable, "-c", LISTEN, address], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        assert pair.run("b", [sys.executable, "-c", SAY, address]).wait(PATIENCE) == 0
        assert server.stdout.readline() == b"hello\n"

        def reached() -> bool:
            argv = [sys.executable, "-c", PROBE, address]
            return pair.run("b", argv).wait(PATIENCE) == 0

        until(reached)
        pair.link_down()
        assert not reached()
        pair.link_up()
        until(reached)


@needs_hosts
def test_hosts_leave_nothing_behind():
    with pytest.raises(KeyError), TwoHosts() as pair:
        process = pair.run("a", ["sleep", "100"])
        names = set(pair.namespaces.values())
        raise KeyError
    assert process.poll() is not None
    assert not names & set(os.listdir("/run/netns"))
