"""Sinks of a call: a loudspeaker, a pipe, or nothing in real time.

A sink says how much it wants (`room`), takes that much 16 kHz mono float32 (`write`) and says when
the next sample will be in the air (`play_time`, seconds of `time.monotonic`). Nothing here waits:
the mixer looks in every few milliseconds. A sink that breaks says so once, in `error`, and takes
samples in real time from then on.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from abc import abstractmethod
from typing import BinaryIO

import numpy as np
import soxr

from codec.files import wav
from codec.files.paths import PIPE, atomic_output, reason
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.callbacks import Playing
from stream.audio.devices import DEVICE_BUFFER, AudioDeviceError, CardStream, Device
from stream.audio.pacing import Clock, Pacer
from stream.audio.ring import SampleRing

# Seconds between writing and air, of a machine that is not overloaded: the sound card's share, and
# ours, three of its blocks. Where the mixer wakes too late for that, our cushion grows.
BUFFER = DEVICE_BUFFER + 0.015
_HELD = int(BUFFER * SAMPLE_RATE)
_PIPE_SECONDS = 2
# Less than PIPE_BUF (4096 bytes, POSIX at least 512): a pipe that is writable takes it at once.
_PIPE_BYTES = 512


class Sink(Device):
    """Samples on their way to the air; playing begins with the first. A gap is an underrun."""

    @abstractmethod
    def room(self) -> int:
        """How many samples it wants now; 0 is enough for the moment."""

    @abstractmethod
    def write(self, samples: FloatArray) -> None:
        """Append samples [n], full scale 1; never waits, and drops what is far beyond `room`."""

    @abstractmethod
    def play_time(self) -> float:
        """When the next sample written will be in the air, seconds of `time.monotonic`."""

    def silence(self) -> int:
        """How many samples of silence it has played for lack of others, since last asked."""
        return 0


class NullSink(Sink):
    """Samples that nobody hears, in real time: for machines without sound, and for tests."""

    name = "nowhere"
    latency = BUFFER

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._pacer = Pacer(clock=clock)

    def start(self) -> None:
        """Nothing to open: time passes from the first samples on."""

    def stop(self) -> None:
        """Nothing to release."""

    def room(self) -> int:
        # `position` is what was written, `due` how far playing is ahead of that.
        if not self._pacer.started:
            return _HELD
        ahead = self._pacer.due()
        if ahead > 0:
            self.gaps += 1
            self._pacer.forgive(ahead)
            ahead = 0
        return max(0, _HELD + ahead)

    def write(self, samples: FloatArray) -> None:
        if not len(samples):
            return
        if not self._pacer.started:
            self._pacer.start()
        else:
            self.room()
        self._pacer.take(len(samples))

    def play_time(self) -> float:
        return max(self._pacer.time_of(self._pacer.position), self._clock())


class PipeSink(NullSink):
    """Raw samples to standard output: 16-bit little-endian signed, 16 kHz, mono.

    Taken at the machine's clock. A thread writes; a reader that stalls for more than two seconds
    loses samples, one that has gone is told in `error`.

    Raises BadInput when started if standard output is closed or a terminal.
    """

    name = "standard output"

    def __init__(self) -> None:
        super().__init__()
        self._ring = SampleRing(_PIPE_SECONDS * SAMPLE_RATE)
        self._stack = contextlib.ExitStack()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        file = self._stack.enter_context(atomic_output(PIPE))
        self._thread = threading.Thread(
            target=self._pump, args=(file,), name="pipe out", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)
        with contextlib.suppress(OSError):
            self._stack.close()

    def write(self, samples: FloatArray) -> None:
        super().write(samples)
        if self.error is None:
            self._ring.write(samples)

    def _pump(self, file: BinaryIO) -> None:
        """Write what there is until stopped; runs in a thread of its own."""
        try:
            while not (self._stopping.is_set() and not self._ring.available):
                if not self._put(file, wav.to_pcm16(self._ring.read(_PIPE_BYTES // 2))):
                    break
                if not self._ring.available:
                    self._stopping.wait(0.005)
        except BrokenPipeError:
            self.error = "the reader of standard output has gone"
        except OSError as error:
            self.error = f"cannot write standard output: {reason(error)}"

    def _put(self, file: BinaryIO, data: bytes) -> bool:
        """Write `data`; False if the reader stalls while we are to stop."""
        while data:
            if select.select([], [file.fileno()], [], 0.1)[1]:
                data = data[os.write(file.fileno(), data) :]
            elif self._stopping.is_set():
                return False
        return True


class Cushion:
    """How many samples to keep ready: more after each time they ran out, less as that is forgotten.

    least, most: bounds in samples; step: added per underrun. Half a step is taken back for every
    `calm` seconds without one.
    """

    def __init__(self, least: int, most: int, step: int, *, calm: float = 20.0) -> None:
        self.samples = least
        self._least, self._most, self._step, self._calm = least, most, step, calm
        self._underruns = 0
        self._since: float | None = None

    def update(self, underruns: int, now: float) -> int:
        """The samples to keep, given how many underruns there have been until `now` (seconds)."""
        if self._since is None:
            self._since = now
        if underruns > self._underruns:
            grown = self.samples + (underruns - self._underruns) * self._step
            self.samples = min(self._most, grown)
            self._underruns, self._since = underruns, now
        elif now - self._since > self._calm:
            self.samples = max(self._least, self.samples - self._step // 2)
            self._since = now
        return self.samples


class Loudspeaker(Sink):
    """A sound card's output, at 16 kHz or, if it refuses, at its own rate and resampled.

    wanted: index, name, part of a name, None for the default. 25 ms are aimed at between `write`
    and the air, 10 ms of them in the sound system, the rest here; a machine so busy that it runs
    dry gets up to 0.1 s more until it is calm again (see `Cushion`). A sound system that keeps
    underflowing is opened again with twice its share, as often as is needed.

    The callback (`stream.audio.callbacks`) only moves samples out of a ring, and fades out and in
    where they run out and return. All channels get the same.
    Raises AudioDeviceError when made (no such device) or started (busy, unplugged).
    """

    is_card = True
    latency = BUFFER

    def __init__(self, wanted: str | int | None = None, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._card = CardStream(wanted, "output", clock)
        self.name = self._card.info.name
        self._instead = NullSink(clock=clock)

    def start(self) -> None:
        self.rate, channels = self._card.settings()
        least, step = int((BUFFER - DEVICE_BUFFER) * self.rate), self.rate // 100
        self._cushion = Cushion(least, least + 10 * step, step)
        self._playing = Playing(self.rate)
        self._playing.expect(self._card.latency)
        self._resample = None
        if self.rate != SAMPLE_RATE:
            self._resample = soxr.ResampleStream(SAMPLE_RATE, self.rate, 1, "float32", "MQ")
        self._taken16 = 0
        self._silence = 0  # told already
        self._gaps_before = self.gaps
        self._card.open(self.rate, channels, self._playing)
        self._playing.expect(self._card.latency)
        self.latency = self._card.latency + least / self.rate

    def stop(self) -> None:
        self._card.close()

    def room(self) -> int:
        if self._broken():
            return self._instead.room()
        if self._reopened():
            return self.room()
        ran_dry, ring = self._playing.ran_dry, self._playing.ring
        self.gaps = self._gaps_before + ran_dry + self._playing.lost
        # What the sound system lost by itself, more samples of ours would not have saved.
        hold = self._cushion.update(ran_dry, self._clock())
        self.latency = self._card.latency + hold / self.rate
        return max(0, (hold - ring.available) * SAMPLE_RATE // self.rate)

    def write(self, samples: FloatArray) -> None:
        if self._broken():
            self._instead.write(samples)
            return
        self._taken16 += len(samples)
        clean = np.asarray(samples, np.float32)
        if not (len(clean) and np.abs(clean).max() <= 1.0):  # that is false with NaN
            clean = np.clip(np.nan_to_num(clean), -1.0, 1.0)
        if self._resample is not None:
            clean = self._resample.resample_chunk(clean)
        self._playing.ring.write(clean)

    def play_time(self) -> float:
        if self._broken():
            return self._instead.play_time()
        playing, ring = self._playing, self._playing.ring
        # What the resampler holds back has its place after what is in the ring.
        held = self._taken16 * self.rate / SAMPLE_RATE - ring.written - ring.dropped
        when = playing.clock.time_of(ring.written + playing.silent + held)
        return self._clock() + self._card.latency if when is None else max(when, self._clock())

    def silence(self) -> int:
        silence = self._playing.silent * SAMPLE_RATE // self.rate
        more, self._silence = silence - self._silence, silence
        return more

    def _reopened(self) -> bool:
        """Whether the sound system kept underflowing, and has been opened again for that."""
        if not self._card.wants_more(self._playing.lost):
            return False
        self.stop()
        try:
            self.start()
        except AudioDeviceError as error:
            self.error = f"the loudspeaker {self.name} has stopped: {error}"
        return True

    def _broken(self) -> bool:
        if self.error is None and self._card.gone():
            self.error = f"the loudspeaker {self.name} has stopped: nothing can be heard"
        return self.error is not None
