"""A loudspeaker and a microphone in one room, on simulated time: threads stall when a test says so.

The sink and the source are the real ones; only the sound card behind them is simulated. What comes
out is therefore the same on a busy machine and on an idle one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.signal import fftconvolve

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio import sinks, sources
from stream.audio.frontend import FrontEnd
from stream.audio.sinks import Loudspeaker
from stream.audio.sources import Microphone

_TICK = 0.001
_BLOCK = 80  # samples that a callback takes
_READY = 240  # samples in the sound system's hands, if it is called in time
_CHUNK = 640  # samples at most that are read at once


@dataclass(frozen=True)
class Timing:
    """How threads and clocks behave.

    mixer, reader, card: (stalls a second, their mean length in seconds) of the thread that plays,
    of the one that reads, and of the sound system's own; jitter: seconds by which the card's time
    stamps err; unknown: seconds of delay that they do not tell; apart: ppm by which the
    microphone's clock is faster than the loudspeaker's; early: samples that are written beyond the
    room there is.
    """

    mixer: tuple[float, float] = (0.0, 0.0)
    reader: tuple[float, float] = (0.0, 0.0)
    card: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.003
    unknown: float = 0.02
    apart: float = 0.0
    early: int = 0


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Stalling:
    """A thread that runs every `period` seconds, unless it stalls."""

    def __init__(
        self, period: float, stalls: tuple[float, float], random: np.random.Generator
    ) -> None:
        self._period, (self._rate, self._mean), self._random = period, stalls, random
        self.next = 0.0

    def due(self, now: float) -> bool:
        if now < self.next:
            return False
        wait = self._period
        if self._rate and self._random.random() < self._rate * self._period:
            wait += self._random.exponential(self._mean)
        self.next = now + wait
        return True


class _Card:
    """What a sink or a source opens: its stream, with a clock of its own."""

    latency = 0.01

    def __init__(self) -> None:
        self.info = SimpleNamespace(name="simulated")
        self.callback: Callable[..., None] | None = None

    def settings(self, channels: int = 1) -> tuple[int, int]:
        return SAMPLE_RATE, 1

    def open(self, rate: int, channels: int, callback: Callable[..., None]) -> None:
        self.callback = callback

    def close(self) -> None:
        self.callback = None

    def wants_more(self, lost: int) -> bool:
        return False

    def gone(self) -> bool:
        return False


@dataclass(frozen=True)
class Heard:
    """microphone: what it heard; cleaned: what the front end made of it. Both [n], in step."""

    microphone: FloatArray
    cleaned: FloatArray

    def left_db(self, first: float, last: float) -> float:
        """Power of what is left over that of what was heard, from `first` to `last` seconds."""
        part = slice(*(round(at * SAMPLE_RATE) for at in (first, last)))
        heard, left = (
            float(np.mean(np.square(each[part], dtype=np.float64)))
            for each in (self.microphone, self.cleaned)
        )
        return 10.0 * float(np.log10((left + 1e-12) / (heard + 1e-12)))


def play(
    far: FloatArray,
    near: FloatArray,
    response: FloatArray,
    front_end: FrontEnd,
    timing: Timing,
    seed: int,
) -> Heard:
    """Play `far` [n] in a room whose microphone also hears `near` [n]."""
    clock, random = Clock(), np.random.default_rng(seed)
    cards = {"input": _Card(), "output": _Card()}
    with pytest.MonkeyPatch.context() as patch:
        for module in (sinks, sources):
            patch.setattr(module, "CardStream", lambda _, direction, __: cards[direction])
        loudspeaker, microphone = Loudspeaker(clock=clock), Microphone(clock=clock)
        loudspeaker.start()
        microphone.start()
    return _Room(cards, loudspeaker, microphone, clock, random, timing).run(
        far, near, response, front_end
    )


class _Room:
    def __init__(
        self,
        cards: dict[str, _Card],
        loudspeaker: Loudspeaker,
        microphone: Microphone,
        clock: Clock,
        random: np.random.Generator,
        timing: Timing,
    ) -> None:
        self._output, self._input = cards["output"].callback, cards["input"].callback
        self._loudspeaker, self._microphone = loudspeaker, microphone
        self._clock, self._random, self._timing = clock, random, timing

    def run(
        self, far: FloatArray, near: FloatArray, response: FloatArray, front_end: FrontEnd
    ) -> Heard:
        timing, begun = self._timing, self._clock.now
        mixer = _Stalling(0.005, timing.mixer, self._random)
        reader = _Stalling(0.02, timing.reader, self._random)
        server = _Stalling(0.005, timing.card, self._random)
        count = len(near)
        air = np.zeros(count + SAMPLE_RATE, np.float32)  # what the loudspeaker makes of time
        heard = np.zeros(count, np.float32)
        written = recorded = given = 0
        echo = _Echo(air, response)
        cleaned: list[FloatArray] = []
        late = round(timing.unknown * SAMPLE_RATE)
        while recorded < count - _BLOCK:
            self._clock.now += _TICK
            passed = self._clock.now - begun
            played = int(passed * SAMPLE_RATE)
            if server.due(passed):
                written = max(written, played)  # else it has run dry, and was silent
                while written < played + _READY:
                    out = np.zeros((_BLOCK, 1), np.float32)
                    self._call(self._output, out, (written - played) / SAMPLE_RATE)
                    place = written + late
                    air[place : place + _BLOCK] = out[: max(len(air) - place, 0), 0]
                    written += _BLOCK
                ready = min(int(passed * SAMPLE_RATE * (1.0 + 1e-6 * timing.apart)), count)
                while recorded + _BLOCK <= ready:
                    part = slice(recorded, recorded + _BLOCK)
                    heard[part] = near[part] + echo.at(recorded, 1.0 + 1e-6 * timing.apart)
                    recorded += _BLOCK
                    age = (ready - recorded + _BLOCK) / SAMPLE_RATE
                    self._call(self._input, heard[part, None], age)
            if mixer.due(passed):
                room = self._loudspeaker.room()
                if room >= 64:
                    room += timing.early
                    at, silence = self._loudspeaker.play_time(), self._loudspeaker.silence()
                    said = np.zeros(room, np.float32)
                    said[: len(far) - given] = far[given : given + room]
                    given = min(given + room, len(far))
                    self._loudspeaker.write(said)
                    front_end.render(said, at, silence)
            if reader.due(passed):
                while True:
                    samples, when = self._microphone.read(_CHUNK, 0.0)
                    if not len(samples):
                        break
                    begin = when - len(samples) / SAMPLE_RATE
                    cleaned.append(front_end.capture(samples, begin))
        out = np.concatenate(cleaned)[front_end.delay :]
        return Heard(heard[: len(out)], out)

    def _call(self, callback: Any, samples: FloatArray, seconds: float) -> None:
        """Call back as PortAudio does; seconds: to the air, or since."""
        seconds = max(seconds + self._random.uniform(-1.0, 1.0) * self._timing.jitter, 1e-3)
        times = SimpleNamespace(
            currentTime=0.0, outputBufferDacTime=seconds, inputBufferAdcTime=-seconds
        )
        flags = SimpleNamespace(output_underflow=False, input_overflow=False)
        callback(samples, times, flags, self._clock.now)


class _Echo:
    """What a room answers, as a microphone with a clock of its own samples it."""

    def __init__(self, air: FloatArray, response: FloatArray) -> None:
        self._air, self._response = air, response

    def at(self, first: int, speed: float) -> FloatArray:
        """The next samples [_BLOCK], from the microphone's sample `first` on."""
        places = (first + np.arange(_BLOCK)) / speed
        begin = int(places[0]) - len(self._response)
        part = self._air[max(begin, 0) : int(places[-1]) + 3]
        sound = fftconvolve(part, self._response)[: len(part)]
        known = np.arange(max(begin, 0), max(begin, 0) + len(part))
        return np.interp(places, known, sound).astype(np.float32)
