"""Virtual sound cards: a private PulseAudio whose cards all live in one recording.

There is one real (null) sink, "rig", with a channel for every microphone and every loudspeaker.
The cards are views of its channels, so a single recording of the rig holds everything that was
said and heard, sample by sample beside each other: mouth-to-ear delay is a cross-correlation of
two of its channels, with no clock in between.

    talker ─ NAME_voice (remap sink) ──► rig channel 2k ── NAME_mic (remap source) ──► program
    program ── NAME_speaker (remap sink) ──► rig channel 2k+1
    with rooms: rig channel 2k+1 ── NAME_ear (remap source) ──► room ──► NAME_voice

A card can also have a clock of its own, see `stream.bench.rig.skewed`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from codec.signal.samples import SAMPLE_RATE
from stream.bench.rig import RigError, command, end, prefer
from stream.bench.rig.room import Room
from stream.bench.rig.skewed import SkewedCard

Part = Literal["microphone", "loudspeaker"]

MAX_CARDS = 16  # PulseAudio knows 32 channels
_LATENCY_MS = 10
_ROOM_MS = 100  # an echo that stutters is no room's
_START_SECONDS = 60.0
_LONGEST_HEADER = 256
_TOOLS = ("pulseaudio", "pactl", "paplay", "parecord")


def unavailable() -> str | None:
    """Why there can be no VirtualSoundCards on this machine; None if there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: pulseaudio pulseaudio-utils)"
    return None


class Running:
    """A player or a recording in progress: wait for its end, or stop it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def running(self) -> bool:
        """Whether it still goes on."""
        return self._process.poll() is None

    def wait(self, timeout: float) -> None:
        """Wait until it ends by itself. Raises RigError if it does not."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise RigError(f"still playing after {timeout:g} s") from error

    def stop(self) -> None:
        """End it; a recording is whole afterwards."""
        end(self._process)


class VirtualSoundCards:
    """Named sound cards on a PulseAudio of their own; a context manager.

    names: letters, digits and '_'. skewed: cards with a clock of their own, name to parts per
    million by which it is fast; these are not in the rig's recording but keep their own. rooms:
    every microphone of `names` hears its own loudspeaker, see `stream.bench.rig.room`.

    Raises RigError on entering if PulseAudio is missing or does not start.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        skewed: Mapping[str, float] | None = None,
        rooms: bool = False,
    ) -> None:
        self.names = tuple(names)
        self._rooms = rooms
        skews = dict(skewed or {})
        everyone = (*self.names, *skews)
        if len(set(everyone)) != len(everyone) or len(self.names) > MAX_CARDS:
            raise RigError(f"card names must differ, and be at most {MAX_CARDS}")
        if not all(name.isascii() and name.isidentifier() for name in everyone):
            raise RigError("card names are letters, digits and '_'")
        self._skews = skews
        self.skewed: dict[str, SkewedCard] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VirtualSoundCards:
        if (reason := unavailable()) is not None:
            raise RigError(f"no virtual sound cards: {reason}")
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.close()

    def environment(self, card: str) -> dict[str, str]:
        """Variables that make `card` the default sound card of a child process.

        They go on top of os.environ. The user's own ALSA and PulseAudio settings are not read.
        """
        self._known(card)
        return {
            **self._client,
            "PULSE_SINK": f"{card}_speaker",
            "PULSE_SOURCE": f"{card}_mic",
            "ALSA_CONFIG_PATH": str(self._folder / "alsa.conf"),
        }

    def channel(self, card: str, part: Part) -> int:
        """Which channel of `record` holds a card's microphone or loudspeaker."""
        if card not in self.names:
            raise RigError(f"{card} is not one of the rig's cards: {', '.join(self.names)}")
        return 2 * self.names.index(card) + (part == "loudspeaker")

    def play(self, card: str, path: str | os.PathLike[str]) -> Running:
        """Play a file into a card's microphone: any that libsndfile reads, once.

        The first 10 ms may be missing: PulseAudio had already rendered them as silence.
        """
        self._known(card)
        # Far ahead: on a busy machine the server may take a lot at once, and what lacks is silence.
        argv = ["paplay", f"--device={card}_voice", "--latency-msec=1000", os.fspath(path)]
        return self._run(argv)

    def record(self, path: str | os.PathLike[str]) -> Running:
        """Record every channel of the rig into a float WAV file, from now until stopped.

        Returns when the first samples are in the file. Raises RigError if none come.
        """
        count = 2 * len(self.names)
        form = f"--format=float32le --rate={SAMPLE_RATE} --channels={count}"
        argv = f"parecord --device=rig.monitor --file-format=wav {form} --latency-msec=50".split()
        Path(path).unlink(missing_ok=True)
        recording = self._run([*argv, f"--channel-map={_aux(count)}", os.fspath(path)])
        deadline = time.monotonic() + _START_SECONDS
        while not Path(path).exists() or Path(path).stat().st_size < _LONGEST_HEADER:
            if not recording.running or time.monotonic() > deadline:
                raise RigError(f"nothing is recorded into {os.fspath(path)}")
            time.sleep(0.01)
        return recording

    def unplug(self) -> None:
        """Kill the sound server: what programs see when a sound card is unplugged."""
        self._server.kill()
        self._server.wait()

    @property
    def log(self) -> str:
        """The log of the sound server."""
        return (self._folder / "server.log").read_text(errors="replace")

    def _known(self, card: str) -> None:
        if card not in self.names and card not in self._skews:
            raise RigError(f"there is no card {card}")

    def _run(self, argv: list[str]) -> Running:
        return Running(self._started(argv))

    def _started(self, argv: list[str], **files: int) -> subprocess.Popen[bytes]:
        """A client of the server, which is ended with it."""
        nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        streams: dict[str, Any] = {**nowhere, **files}
        process = subprocess.Popen(argv, env={**os.environ, **self._client}, **streams)
        prefer(process.pid)
        self._stack.callback(end, process)
        return process

    def _open_rooms(self) -> None:
        form = f"--raw --format=float32le --rate={SAMPLE_RATE} --channels=1"
        for seed, name in enumerate(self.names):
            recorder = f"parecord {form} --device={name}_ear --latency-msec={_LATENCY_MS}"
            player = f"pacat --playback {form} --device={name}_voice --latency-msec={_ROOM_MS}"
            room = Room(self._started, recorder.split(), player.split(), seed)
            self._stack.callback(room.stop)

    def _start(self) -> None:
        # In /tmp whatever TMPDIR says: the path of a socket has at most 107 characters.
        folder = self._stack.enter_context(tempfile.TemporaryDirectory("", "sotto-rig-", "/tmp"))
        self._folder = Path(folder)
        socket = self._folder / "socket"
        self._client = {
            "PULSE_SERVER": f"unix:{socket}",
            "PULSE_COOKIE": str(self._folder / "cookie"),
            "PULSE_CLIENTCONFIG": str(self._folder / "client.conf"),
        }
        (self._folder / "client.conf").write_text("autospawn = no\nenable-shm = no\n")
        # Complete, not on top of the system's: that one reads the user's ~/.asoundrc.
        (self._folder / "alsa.conf").write_text(
            "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
        )
        for name, ppm in self._skews.items():
            self.skewed[name] = self._stack.enter_context(SkewedCard(name, ppm, self._folder))
        (self._folder / "default.pa").write_text(self._script(socket))
        # It does not write a cookie, pid file or setting anywhere but in the folder.
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "PULSE_RUNTIME_PATH": folder,
            "PULSE_STATE_PATH": folder,
            "DBUS_SESSION_BUS_ADDRESS": "disabled:",
        }
        argv = "pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1 "
        argv += "--disable-shm=yes --realtime=no --high-priority=no --log-level=notice -F"
        with open(self._folder / "server.log", "wb") as log:
            self._server = subprocess.Popen(
                [*argv.split(), str(self._folder / "default.pa")],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        prefer(self._server.pid)
        self._stack.callback(end, self._server)
        self._await_server()
        if "Failed to load module" in self.log:
            raise RigError(f"PulseAudio lacks a module: {self.log.strip()}")
        for card in self.skewed.values():
            card.start()
        # Whoever asks for the shortest latency sets it for all: this keeps the rig's clockwork
        # fine-grained, also before the first program has opened its sound card.
        argv = f"parecord --raw --device=rig.monitor --latency-msec={_LATENCY_MS} {os.devnull}"
        self._run(argv.split())
        if self._rooms:
            self._open_rooms()

    def _script(self, socket: Path) -> str:
        count = 2 * len(self.names)
        lines = [
            f"load-module module-native-protocol-unix socket={socket} auth-anonymous=1",
            f"load-module module-null-sink sink_name=rig format=float32le rate={SAMPLE_RATE} "
            f"channels={max(count, 2)} channel_map={_aux(max(count, 2))}",
        ]
        for k, name in enumerate(self.names):
            views = [
                ("sink", "voice", "rig", 2 * k),
                ("source", "mic", "rig.monitor", 2 * k),
                ("sink", "speaker", "rig", 2 * k + 1),
            ]
            if self._rooms:
                views.append(("source", "ear", "rig.monitor", 2 * k + 1))
            for kind, part, master, channel in views:
                lines.append(
                    f"load-module module-remap-{kind} {kind}_name={name}_{part} master={master} "
                    f"master_channel_map=aux{channel} channels=1 channel_map=mono remix=no"
                )
        for card in self.skewed.values():
            lines += card.modules()
        return "\n".join(lines) + "\n"

    def _await_server(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                command(["pactl", "info"], env={**os.environ, **self._client})
                return
            except RigError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    said = self.log.strip().splitlines()
                    why = said[-1] if said else str(error)
                    raise RigError(f"PulseAudio does not start: {why}") from error
            time.sleep(0.05)


def _aux(count: int) -> str:
    return ",".join(f"aux{k}" for k in range(count))
