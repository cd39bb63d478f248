"""A call between two real processes, each with a sound card and, where possible, a host of its own.

End "a" listens and end "b" calls. Both are the `sotto` command of this Python, without a screen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.errors import SottoError
from codec.packet import CALL_DELAY
from codec.signal.samples import SAMPLE_RATE
from stream.bench.rig import end as end_process
from stream.bench.rig import hosts as rig_hosts
from stream.bench.rig.hosts import TwoHosts
from stream.bench.rig.soundcard import Part, VirtualSoundCards
from stream.bench.telemetry import Snapshot, read_snapshots
from stream.link import keys

Name = Literal["a", "b"]
ENDS: tuple[Name, Name] = ("a", "b")
PORT = 7788
LOOPBACK = "127.0.0.1"

_ROOT = Path(__file__).resolve().parents[2]
_CONNECT_SECONDS = 180.0
_STOP_SECONDS = 60.0
_POLL = 0.1


class LaboratoryError(SottoError):
    """A call did not come about, or ended before it was over."""


@dataclass(frozen=True)
class Setup:
    """How both ends are run. front_end: whether microphones have theirs."""

    preset: str = "2k"
    delay: int = CALL_DELAY
    iterations: int | None = None
    tail: float | None = None
    threads: int | None = 1
    impair: str = ""
    front_end: bool = True

    def options(self, name: Name) -> list[str]:
        """The options that both commands take."""
        options = ["--headless", "--name", name]
        settings = asdict(self)
        if not settings.pop("front_end"):
            parts = ("echo-cancellation", "noise-suppression", "gain-control")
            options += [f"--no-{part}" for part in parts]
        for option, value in settings.items():
            if value not in (None, ""):
                options += [f"--{option}", str(value)]
        return options


@dataclass(frozen=True)
class End:
    """One of the two processes, with the files it writes; errors: its stderr."""

    name: Name
    process: subprocess.Popen[bytes]
    statistics: Path
    log: Path
    errors: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def snapshots(self) -> list[Snapshot]:
        """Its statistics so far."""
        return read_snapshots(self.statistics) if self.statistics.exists() else []

    def clock(self) -> float | None:
        """The moment (monotonic) at which the seconds of its statistics began; None without any."""
        if not (snapshots := self.snapshots()):
            return None
        # The last of them was written when it was taken.
        written = self.statistics.stat().st_mtime + time.monotonic() - time.time()
        return written - float(snapshots[-1]["seconds"])

    def state(self) -> str:
        """The state of its latest snapshot, "" before the first."""
        snapshots = self.snapshots()
        return str(snapshots[-1]["state"]) if snapshots else ""

    def check_running(self) -> None:
        """Raises LaboratoryError if it has ended."""
        if not self.running:
            status = self.process.returncode
            raise LaboratoryError(
                f"end {self.name} has ended with status {status}: {self.last_error()}"
            )

    def last_error(self) -> str:
        """The last line it wrote on stderr."""
        said = self.errors.read_text(errors="replace").strip()
        return said.rpartition("\n")[2].strip()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Ask it to end; returns its exit status and how many seconds that took.

        Raises LaboratoryError if it does not end within a minute (it is killed then).
        """
        begun = time.monotonic()
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            status = self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            end_process(self.process)
            raise LaboratoryError(f"end {self.name} does not stop") from None
        return status, time.monotonic() - begun


class Laboratory:
    """Sound cards and hosts "a" and "b"; a context manager.

    folder: for everything that is written; skewed: by how many ppm the clock of each card is fast;
    they then keep recordings of their own instead of the common one; rooms: each microphone hears
    its own loudspeaker. Where the machine allows it, each end is in a network namespace of its own.

    Raises RigError on entering where sound cards cannot be had.
    """

    def __init__(
        self, folder: Path, *, skewed: Mapping[str, float] | None = None, rooms: bool = False
    ) -> None:
        self.folder = folder
        self.cards = VirtualSoundCards([] if skewed else list(ENDS), skewed=skewed, rooms=rooms)
        self.hosts: TwoHosts | None = TwoHosts() if rig_hosts.unavailable() is None else None
        self.address = (LOOPBACK, PORT)
        self.pairs: dict[Name, keys.KeyPair] = {}

    def __enter__(self) -> Laboratory:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.cards)
            if self.hosts is not None:
                stack.enter_context(self.hosts)
                self.address = (self.hosts.addresses["a"], PORT)
            else:
                self.address = (LOOPBACK, _free_port())
            for name in ENDS:
                self.pairs[name] = keys.generate()
                keys.write_key_pair(self.pairs[name], self.key_file(name), force=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.close()

    def key_file(self, name: Name) -> Path:
        return self.folder / f"{name}.key"

    def start(self, name: Name, setup: Setup, peer_key: str | None = None) -> End:
        """Start one end; peer_key: the other one's public key if not the true one."""
        other = ENDS[1 - ENDS.index(name)]
        host, port = self.address
        where = (
            ["listen", "--bind", f"{host}:{port}"] if name == "a" else ["call", f"{host}:{port}"]
        )
        files = [self.folder / f"{name}.{kind}" for kind in ("jsonl", "log", "err")]
        for path in files:
            path.unlink(missing_ok=True)
        statistics, log, errors = files
        argv = [sys.executable, "-m", "tui.cli", *where, *setup.options(name)]
        argv += ["--stats-json", str(statistics), "--log", str(log)]
        known = peer_key or self.pairs[other].public
        # With =: a key may begin with a dash.
        argv += ["--key", str(self.key_file(name)), f"--peer-key={known}"]
        with open(errors, "wb") as error_file:
            process = self.run(name, argv, stdout=subprocess.DEVNULL, stderr=error_file)
        return End(name, process, *files)

    def run(self, name: Name, argv: Sequence[str], **files: Any) -> subprocess.Popen[bytes]:
        """Start a program on the host, with the sound card and the settings folder of an end.

        It is ended with the laboratory.
        """
        path = os.environ.get("PYTHONPATH", "")
        env = {
            **self.cards.environment(name),
            "PYTHONPATH": os.pathsep.join(part for part in (str(_ROOT), path) if part),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            keys.HOME: str(self.folder / f"home-{name}"),
        }
        if self.hosts is not None:
            return self.hosts.run(name, argv, env, **files)
        process: subprocess.Popen[bytes] = subprocess.Popen(
            argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, **files
        )
        self._stack.callback(end_process, process)
        return process

    def connect(self, setup: Setup) -> tuple[End, End]:
        """Both ends, talking to each other. Raises LaboratoryError if it does not come to that."""
        a = self.start("a", setup)
        b = self.start("b", setup)
        await_state((a, b), "talking", _CONNECT_SECONDS)
        return a, b


def await_state(ends: Sequence[End], state: str, timeout: float) -> None:
    """Wait until all ends are in a state, which is known up to a second late.

    Raises LaboratoryError if they are not in time.
    """
    deadline = time.monotonic() + timeout
    while not all(end.state() == state for end in ends):
        for end in ends:
            end.check_running()
        if time.monotonic() > deadline:
            states = ", ".join(f"{end.name}: {end.state() or 'no statistics yet'}" for end in ends)
            raise LaboratoryError(f"not {state} after {timeout:g} s ({states})")
        time.sleep(_POLL)


class Recording:
    """The common recording of all microphones and loudspeakers; a context manager.

    It also finds out when it began: the file can never be ahead of time, so the smallest lag seen
    bounds that moment, which is late by the recorder's least latency (some 10 ms), never early.
    """

    def __init__(self, cards: VirtualSoundCards, path: Path) -> None:
        self._cards, self._path = cards, path
        self._frame_bytes = 4 * 2 * len(cards.names)
        self._began = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="recording", daemon=True)

    def __enter__(self) -> Recording:
        self._running = self._cards.record(self._path)
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._stop.set()
        self._thread.join()
        self._running.stop()

    @property
    def began(self) -> float:
        """The moment of `time.monotonic` that sample 0 of the recording belongs to."""
        return self._began

    @property
    def seconds(self) -> float:
        """How many seconds are in the file so far."""
        return self._path.stat().st_size / self._frame_bytes / SAMPLE_RATE

    def channels(self) -> dict[tuple[Name, Part], NDArray[np.float32]]:
        """All channels of the finished recording, each [n] at 16 kHz."""
        with soundfile.SoundFile(self._path) as file:
            samples = file.read(dtype="float32", always_2d=True)
        parts: tuple[Part, Part] = ("microphone", "loudspeaker")
        return {
            (name, part): np.ascontiguousarray(samples[:, self._cards.channel(name, part)])
            for name in ENDS
            for part in parts
        }

    def _follow(self) -> None:
        while not self._stop.wait(0.05):
            if (seconds := self.seconds) > 0.05:
                self._began = min(self._began, time.monotonic() - seconds)


def _free_port() -> int:
    """A TCP port of the loopback interface that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
