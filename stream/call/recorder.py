"""Both sides of a call in one WAV file: what we sent on the left, what we received on the right.

The two directions come from two threads and two clocks. Each block says when its first sample was
in the air, so the two stay side by side for hours: a gap is filled with silence, and clock drift
is taken up one sample at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from codec.errors import BadInput, SottoError
from codec.files import wav
from codec.files.paths import (
    atomic_output,
    display_name,
    is_special,
    new_draft,
    os_errors,
    publish,
    reason,
)
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.ring import SampleRing

FRAME_BYTES = 4
# The limit of a 32-bit length; at 16 kHz it comes after 18 hours.
MAX_FRAMES = wav.MAX_DATA_BYTES // FRAME_BYTES
_HOLD_SECONDS = 8
# One direction waits this long for the other before silence is put in its place.
_WAIT = 1.0
_INTERVAL = 0.25
_JUMP = SAMPLE_RATE // 10
_SLACK = SAMPLE_RATE // 100


class _Track:
    """One direction: samples put where their time says they belong."""

    def __init__(self) -> None:
        self._ring = SampleRing(_HOLD_SECONDS * SAMPLE_RATE)
        # Silence the file went on with instead of waiting; only the writing thread adds to it.
        self._absent = 0
        self._begun = False

    @property
    def available(self) -> int:
        return self._ring.available

    def push(self, samples: FloatArray, position: int) -> None:
        """Samples [n] whose first one belongs at `position` of the file."""
        gap = position - (self._ring.written + self._absent)
        begun, self._begun = self._begun, True
        if gap > (_JUMP if begun else 0):
            self._ring.write(np.zeros(min(gap, self._ring.room), np.float32))
        elif gap < (-_JUMP if begun else 0):
            samples = samples[-gap:]
        elif gap > _SLACK:
            self._ring.write(samples[:1])
        elif gap < -_SLACK:
            samples = samples[1:]
        self._ring.write(samples)

    def pull(self, count: int) -> FloatArray:
        """`count` samples; silence for those that are not there."""
        out = np.zeros(count, np.float32)
        self._absent += count - self._ring.read_into(out)
        return out


class Recorder:
    """Writes a call to a WAV file, 16 kHz, 16 bit: left us, right them.

    The file is written under a temporary name beside `path` (.sotto-*.part) and gets its own when
    `stop` finds it whole; nothing that has that name is ever replaced: `name`, for people, then
    says which one it got. Its header is brought up to date every quarter of a second, so that even
    a crash leaves a temporary file that plays. Recording ends by itself before the format's 4 GiB
    are full, after `max_frames`, when nothing more can be written, or when the file is removed;
    `error` then says so and what was recorded stays, if it can.

    `sent` and `received` never wait and may be called from different threads.
    clock: seconds, of the same clock as the times of the blocks.
    Raises BadInput when started: not a .wav name, a file that exists, no such directory, no
    permission.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_frames: int = MAX_FRAMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._limit, self._clock = path, min(max_frames, MAX_FRAMES), clock
        self.name = display_name(path)
        self.error: str | None = None
        self.frames = 0
        self._sent, self._received = _Track(), _Track()
        self._draft = new_draft(path)
        self._stack = contextlib.ExitStack()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0

    def start(self) -> None:
        """Open the file; time 0 of the recording is now."""
        _check_name(self._path)
        file = self._stack.enter_context(atomic_output(self._path, new=True, draft=self._draft))
        with os_errors("write", self._path):
            _write_at(file.fileno(), _header(0), 0)
        self._began = self._clock()
        self._thread = threading.Thread(
            target=self._run, args=(file,), name="recorder", daemon=True
        )
        self._thread.start()

    def sent(self, samples: FloatArray, time_of_last: float) -> None:
        """Our samples [n]; time_of_last: when the last was at the microphone, monotonic."""
        self._push(self._sent, samples, time_of_last - len(samples) / SAMPLE_RATE)

    def received(self, samples: FloatArray, time_of_first: float) -> None:
        """Their samples [n]; time_of_first: when the first is in the air, monotonic."""
        self._push(self._received, samples, time_of_first)

    def stop(self) -> None:
        """Write the rest and give the file its name; may be called twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        thread.join()
        try:
            self._stack.close()
            final = publish(self._draft, self._path, new=True)
            if final.name != Path(self._path).name:  # somebody has made a file of that name
                self.name = display_name(Path(self._path).with_name(final.name))
        except (SottoError, OSError) as error:
            if self.error is None:
                self._fail(error)
            with contextlib.suppress(OSError):
                self._draft.unlink()

    def _push(self, track: _Track, samples: FloatArray, when: float) -> None:
        if len(samples) and self.error is None and self._thread is not None:
            track.push(samples, round((when - self._began) * SAMPLE_RATE))

    def _run(self, file: BinaryIO) -> None:
        """Move samples to the file until stopped; runs in a thread of its own."""
        last = False
        while not last and self.error is None:
            last = self._stopping.wait(_INTERVAL)
            ready = (self._sent.available, self._received.available)
            patience = int((self._clock() - self._began - _WAIT) * SAMPLE_RATE) - self.frames
            count = max(ready) if last else max(min(ready), patience)
            try:
                if not os.fstat(file.fileno()).st_nlink:
                    raise FileNotFoundError(errno.ENOENT, "its file or folder has been removed")
                self._append(file.fileno(), count)
            except OSError as error:
                self._fail(error)
                # What the header promises is there; half a block after it would be in the way.
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), _offset(self.frames))

    def _append(self, descriptor: int, count: int) -> None:
        """Without a buffer in between: what cannot be written would be tried again for ever."""
        count = min(count, self._limit - self.frames)
        while count > 0:
            block = min(count, SAMPLE_RATE)
            both = np.stack([self._sent.pull(block), self._received.pull(block)], axis=1)
            # The samples first: the header never promises what is not there.
            _write_at(descriptor, wav.to_pcm16(both), _offset(self.frames))
            _write_at(descriptor, _header(self.frames + block), 0)
            self.frames += block
            count -= block
        if self.frames >= self._limit:
            hours = self.frames / SAMPLE_RATE / 3600
            self.error = f"the recording {self.name} is full after {hours:.1f} hours and has ended"

    def _fail(self, error: Exception) -> None:
        why = reason(error) if isinstance(error, OSError) else str(error)
        self.error = f"recording to {self.name} has ended: {why}"


def check_recordable(path: str | os.PathLike[str]) -> None:
    """Raises BadInput where a Recorder could not start; what is at `path` stays as it is."""
    _check_name(path)
    with contextlib.suppress(_Enough), atomic_output(path, new=True):
        raise _Enough


class _Enough(Exception):
    """Nothing is to be written after all."""


def _check_name(path: str | os.PathLike[str]) -> None:
    if is_special(path) or not os.fsdecode(path).lower().endswith(".wav"):
        raise BadInput(f"cannot record to {display_name(path)}: only .wav files can be recorded")


def _header(frames: int) -> bytes:
    return wav.pcm16_header(SAMPLE_RATE, frames * FRAME_BYTES, channels=2)


def _offset(frames: int) -> int:
    return wav.HEADER_BYTES + frames * FRAME_BYTES


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
