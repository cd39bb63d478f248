"""Sources of a call: a microphone, an audio file played in real time, a pipe, or silence.

All give 16 kHz mono float32 samples as they fall due, together with the moment (seconds of
`time.monotonic`) at which the last of them was in the air. A source that breaks says so once, in
`error`, and gives silence in real time from then on: a call outlives its microphone.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
import soxr

from codec.errors import BadInput, SottoError
from codec.files.audio import AudioReader, begins_like_audio, is_audio
from codec.files.paths import PIPE, display_name, open_input, reason
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.callbacks import Recording
from stream.audio.devices import AudioDeviceError, CardStream, Device
from stream.audio.pacing import Clock, Pacer
from stream.audio.ring import SampleRing

Sleep = Callable[[float], None]

# Reading threads look this often for new samples. A lock-free callback cannot wake them.
POLL = 0.002
BLOCK = SAMPLE_RATE // 100
# How far whoever reads may fall behind before samples are lost (microphone) or wait (others).
BEHIND = 4.0
# As much of a pipe as is looked at before a call.
_CHECKED = 1 << 16
_MOST_NOTES = 20
_RAW = "raw samples take --raw"
_NOTHING: tuple[FloatArray, float] = (np.zeros(0, np.float32), 0.0)


class Source(Device):
    """Samples as they fall due.

    Attributes: ended (no more will come), notes (what else there is to say, taken by who reads).
    """

    def __init__(self, *, clock: Clock = time.monotonic, sleep: Sleep = time.sleep) -> None:
        super().__init__(clock=clock)
        self.ended = False
        self.notes: deque[str] = deque(maxlen=_MOST_NOTES)
        self._sleep = sleep
        self._latest = 0.0

    @abstractmethod
    def _take(self, most: int) -> tuple[FloatArray, float]:
        """What there is now, at most `most` samples, and the time of its last one."""

    def read(self, max_samples: int, timeout: float) -> tuple[FloatArray, float]:
        """Wait up to `timeout` seconds for samples.

        Returns (samples [n], 0 <= n <= max_samples, time of the last of them in the air). With
        n = 0 the time is that of the last sample given before. Times never go back.
        """
        deadline = self._clock() + timeout
        while True:
            samples, when = self._take(max_samples)
            left = deadline - self._clock()
            if len(samples) or left <= 0.0:
                self._latest = max(self._latest, when)
                return samples, self._latest
            self._sleep(min(POLL, left))


class Silence(Source):
    """Silence in real time, for whoever only listens."""

    name = "nothing"

    def __init__(self, *, clock: Clock = time.monotonic, sleep: Sleep = time.sleep) -> None:
        super().__init__(clock=clock, sleep=sleep)
        self._pacer = Pacer(clock=clock)

    def start(self) -> None:
        self._pacer.start()

    def stop(self) -> None:
        self.ended = True

    def _take(self, most: int) -> tuple[FloatArray, float]:
        due = 0 if self.ended else min(self._pacer.due(), most)
        if due < min(BLOCK, most):
            return _NOTHING
        self._pacer.take(due)
        return np.zeros(due, np.float32), self._pacer.time_of(self._pacer.position)


class FileSource(Source):
    """An audio file, played in real time.

    path: anything `codec.files` reads. Samples wait for whoever reads late; after more than BEHIND
    seconds time stands still for the file, which counts as a gap.

    Raises BadInput when made or started if the file cannot be read; damage further on ends it,
    with `error` set.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        super().__init__(clock=clock, sleep=sleep)
        self._reader = AudioReader(path, warn=self.notes.append)
        self.name = display_name(path)
        self._blocks: Iterator[FloatArray] = iter(self._reader)
        self._left = _NOTHING[0]
        self._pacer = Pacer(clock=clock)

    def start(self) -> None:
        self._left = next(self._blocks)
        self._pacer.start()

    def stop(self) -> None:
        self.ended = True
        self._reader.close()

    def _take(self, most: int) -> tuple[FloatArray, float]:
        due = self._pacer.due()
        late = due - int(BEHIND * SAMPLE_RATE)
        if late > 0:
            self._pacer.forgive(late)
            self.gaps += 1
            due -= late
        # Not sample by sample: a reader that asks often would get crumbs.
        if self.ended or due < min(BLOCK, most):
            return _NOTHING
        count = min(due, most)
        pieces = [self._left]
        have = len(self._left)
        while have < count and (block := self._next()) is not None:
            pieces.append(block)
            have += len(block)
        samples = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        self._left = samples[count:]
        samples = samples[:count]
        self._pacer.take(len(samples))
        self.ended = have < count
        return samples, self._pacer.time_of(self._pacer.position)

    def _next(self) -> FloatArray | None:
        try:
            return next(self._blocks, None)
        except SottoError as error:
            self.error = str(error)
            return None


class PipeSource(Source):
    """Sound from standard input ('-') or a FIFO: any audio that `codec.files` reads.

    raw: samples instead, 16-bit little-endian signed, 16 kHz, mono.

    A thread reads the pipe into a bounded ring and waits when that is full; samples are given no
    faster than real time, so that a file fed to the pipe is played at its own speed. A pipe that
    pauses is silent meanwhile: nothing is given. The time of a sample is that of its reading.

    What is no audio ends it (`error`), as it would be noise; `check` finds that out beforehand.
    Raises BadInput when started if the pipe cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str] = PIPE, *, raw: bool = False) -> None:
        super().__init__()
        self._path, self._raw = path, raw
        self.name = "standard input" if os.fspath(path) == PIPE else display_name(path)
        self._seen = b""
        self._ring = SampleRing(2 * SAMPLE_RATE)
        self._pacer = Pacer()
        self._stack = contextlib.ExitStack()
        self._opened: BinaryIO | None = None
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self, seconds: float) -> None:
        """Raise BadInput if what the pipe begins with, within so many seconds, is no audio."""
        if self._raw:
            return
        pipe = self._open().fileno()
        deadline = self._clock() + seconds
        whole = False
        while not whole and not begins_like_audio(self._seen):
            left = deadline - self._clock()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return  # more may come
            data = os.read(pipe, _CHECKED)
            self._seen += data
            whole = not data or len(self._seen) >= _CHECKED
        if whole and not is_audio(self._seen):
            what = "is not audio that can be read" if self._seen else "is empty"
            raise BadInput(f"{self.name} {what} ({_RAW})")

    def _open(self) -> BinaryIO:
        if self._opened is None:
            self._opened = self._stack.enter_context(open_input(self._path))
        return self._opened

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._pump, args=(self._open().fileno(),), name="pipe in", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self.ended = True
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._stack.close()

    def _take(self, most: int) -> tuple[FloatArray, float]:
        available = 0 if self.ended else self._ring.available
        if not available:
            # Asked again: the last samples may have come between the two questions.
            self.ended = self.ended or (self._finished.is_set() and not self._ring.available)
            return _NOTHING
        if not self._pacer.started:
            self._pacer.start()
        due = self._pacer.due()
        # A pause of the pipe is not made up for by a rush afterwards.
        if (late := due - max(available, 2 * BLOCK)) > 0:
            self._pacer.forgive(late)
            due -= late
        if due < min(BLOCK, most, available):
            return _NOTHING
        samples = self._ring.read(min(due, most))
        self._pacer.take(len(samples))
        return samples, self._clock()

    def _pump(self, descriptor: int) -> None:
        """Read until the end of the pipe; runs in a thread of its own."""
        try:
            for block in self._samples(descriptor):
                while len(block) and not self._stopping.is_set():
                    block = block[self._ring.write(block[: self._ring.room]) :]
                    if len(block):
                        self._stopping.wait(0.02)
                if self._stopping.is_set():
                    break
        except (SottoError, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            self.error = why if self.name in why else f"{self.name}: {why}"
        finally:
            self._finished.set()

    def _samples(self, pipe: int) -> Iterator[FloatArray]:
        """Blocks [n] of 16 kHz mono samples. Raises BadInput for what is no audio."""
        some = partial(self._some, pipe)
        if not self._raw:
            with AudioReader(self._path, warn=self.notes.append, live=some) as reader:
                yield from reader
            return
        held = b""
        while data := some(2 * BLOCK):
            held += data
            whole = len(held) // 2 * 2
            yield np.frombuffer(held[:whole], "<i2").astype(np.float32) / np.float32(32768.0)
            held = held[whole:]

    def _some(self, pipe: int, most: int) -> bytes:
        """At least one byte as soon as there is one, b"" at the end or when asked to stop."""
        if self._seen:
            data, self._seen = self._seen[:most], self._seen[most:]
            return data
        while not self._stopping.is_set():
            if select.select([pipe], [], [], 0.2)[0]:
                return os.read(pipe, most)
        return b""


class Microphone(Source):
    """A sound card's input, at 16 kHz or, if it refuses, at its own rate and resampled.

    wanted: index, name, part of a name, None for the default. All channels are averaged.

    The callback (`stream.audio.callbacks`) copies into a ring; all else happens in `read`.
    Raises AudioDeviceError when made (no such device) or started (busy, unplugged).
    """

    is_card = True

    def __init__(self, wanted: str | int | None = None, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._card = CardStream(wanted, "input", self._clock)
        self.name = self._card.info.name
        self._silence = Silence(clock=clock)

    def start(self) -> None:
        self.rate, channels = self._card.settings()
        self._recording = Recording(self.rate, BEHIND)
        self._gaps_before = self.gaps
        self._resample = None
        if self.rate != SAMPLE_RATE:
            # MQ: beyond 16 bits exact, and holds back 15 ms where HQ holds back 21.
            self._resample = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, "float32", "MQ")
        self._left = _NOTHING[0]
        self._given = 0
        self._card.open(self.rate, channels, self._recording)
        self.latency = self._card.latency

    def stop(self) -> None:
        self._card.close()

    def _take(self, most: int) -> tuple[FloatArray, float]:
        if self.error is not None:
            return self._silence._take(most)
        recording = self._recording
        lost, ring = recording.lost, recording.ring
        self.gaps = self._gaps_before + lost
        if self._card.wants_more(lost):
            return self._reopened()
        if not ring.available:
            if self._card.gone():
                self.error = f"the microphone {self.name} has stopped: silence is sent instead"
                self._silence.start()
            return _NOTHING
        if self._resample is None:
            samples = ring.read(most)
        else:
            more = self._resample.resample_chunk(ring.read(most * self.rate // SAMPLE_RATE))
            samples = np.concatenate([self._left, more])
            samples, self._left = samples[:most], samples[most:]
        self._given += len(samples)
        when = recording.clock.time_of(self._given * (self.rate / SAMPLE_RATE))
        # Never in the future, whatever the card says.
        now = self._clock()
        return samples, now if when is None else min(when, now)

    def _reopened(self) -> tuple[FloatArray, float]:
        """Open the card again; there is nothing of it yet."""
        self.stop()
        try:
            self.start()
        except AudioDeviceError as error:
            self.error = f"the microphone {self.name} has stopped: {error}"
            self._silence.start()
        return _NOTHING
