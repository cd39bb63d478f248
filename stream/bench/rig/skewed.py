"""A virtual sound card with a clock of its own.

PulseAudio's pipe sink and pipe source run as fast as their FIFOs are read and written. A thread
does that at 16 kHz times (1 + ppm · 10⁻⁶): to PulseAudio and whoever uses the card it is one whose
crystal is off by so much. What passes through is kept on the card's own clock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.files import wav
from codec.files.audio import read_audio
from codec.signal.samples import SAMPLE_RATE
from stream.bench.rig import prefer

# The smallest pipe is one page. With this many float channels it holds 16 ms, mono would be 64 ms.
_SINK_CHANNELS = 4
_FRAME_BYTES = 4 * _SINK_CHANNELS
_PAGE = 4096
_TICK = 0.004
# By how many samples the server may be late before silence takes their place.
_LATEST = 480
_F_SETPIPE_SZ = 1031


class SkewedCard:
    """The FIFOs of one card and the thread that drives them; a context manager.

    Attributes: name, ppm, position (samples since it began, on its own clock), missed (samples
    PulseAudio did not deliver in time; silence before a program plays counts too).
    """

    def __init__(self, name: str, ppm: float, folder: Path) -> None:
        self.name, self.ppm = name, ppm
        self.position = self.missed = 0
        self._sink, self._source = folder / f"{name}.sink", folder / f"{name}.source"
        self._speech: NDArray[np.float32] = np.zeros(0, np.float32)
        self._lock = threading.Lock()
        self._record: soundfile.SoundFile | None = None
        self._stopping = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SkewedCard:
        os.mkfifo(self._sink, 0o600)
        self._from_sink = self._open(self._sink)
        return self

    def start(self) -> None:
        """Start its clock, once PulseAudio has made the other FIFO (it insists on doing so)."""
        self._to_source = self._open(self._source)
        thread = threading.Thread(target=self._run, name=f"card {self.name}", daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._stopping.set)

    def __exit__(self, *about: object) -> None:
        self._stack.close()
        self.stop_recording()

    def modules(self) -> list[str]:
        """The PulseAudio commands that make the card."""
        aux = ",".join(f"aux{k}" for k in range(_SINK_CHANNELS))
        return [
            f"load-module module-pipe-sink sink_name={self.name}_out file={self._sink} "
            f"format=float32le rate={SAMPLE_RATE} channels={_SINK_CHANNELS} channel_map={aux}",
            f"load-module module-remap-sink sink_name={self.name}_speaker master={self.name}_out "
            "channels=1 channel_map=mono master_channel_map=aux0 remix=no",
            f"load-module module-pipe-source source_name={self.name}_mic file={self._source} "
            f"format=s16le rate={SAMPLE_RATE} channels=1 channel_map=mono",
        ]

    def say(self, path: str | os.PathLike[str]) -> None:
        """Play an audio file into the microphone, from the next sample on."""
        speech = read_audio(path)
        with self._lock:
            self._speech = speech

    @property
    def talking(self) -> bool:
        """Whether the file is still being played."""
        return len(self._speech) > 0

    def start_recording(self, path: str | os.PathLike[str]) -> float:
        """Keep what passes: two channels, microphone and loudspeaker, on the card's clock.

        Returns the moment (monotonic) that the first sample belongs to.
        """
        file = soundfile.SoundFile(path, "w", SAMPLE_RATE, 2, "PCM_16", format="WAV")
        before = self.position
        while self.position == before:
            time.sleep(0.0005)
        began = time.monotonic()
        with self._lock:
            self._record = file
        return began

    def stop_recording(self) -> None:
        """Finish the recording."""
        with self._lock:
            file, self._record = self._record, None
            if file is not None:
                file.close()

    def _open(self, path: Path) -> int:
        # For both directions, so that neither end ever sees the other one gone.
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._stack.callback(os.close, descriptor)
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PAGE)
        return descriptor

    def _run(self) -> None:
        prefer(threading.get_native_id())
        began = time.monotonic()
        rate = SAMPLE_RATE * (1.0 + self.ppm * 1e-6)
        held = b""
        while not self._stopping.wait(_TICK):
            due = int((time.monotonic() - began) * rate) - self.position
            with contextlib.suppress(BlockingIOError):
                while len(held) < due * _FRAME_BYTES:
                    held += os.read(self._from_sink, due * _FRAME_BYTES - len(held))
                    # The pipe may hold less than is due: give PulseAudio its turn to refill it.
                    os.sched_yield()
            whole = len(held) // _FRAME_BYTES
            frames = np.frombuffer(held[: whole * _FRAME_BYTES], "<f4").reshape(-1, _SINK_CHANNELS)
            held = held[whole * _FRAME_BYTES :]
            count = max(whole, due - _LATEST)
            heard = np.zeros(count, np.float32)
            heard[:whole] = frames[:, 0]
            self.missed += count - whole
            said = np.zeros(count, np.float32)
            with self._lock:
                now = self._speech[:count]
                said[: len(now)] = now
                self._speech = self._speech[count:]
                if self._record is not None:
                    self._record.write(np.stack([said, heard], axis=1))
            # Nobody records: the FIFO is full, and what is said is heard by nobody.
            with contextlib.suppress(BlockingIOError):
                os.write(self._to_source, wav.to_pcm16(said))
            self.position += count
