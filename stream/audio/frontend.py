"""What a microphone's sound goes through before it is coded, so that rooms are bearable.

Echo cancellation and noise suppression are those of WebRTC, from the package `livekit`, of which
nothing else is used. They are kept from clean speech by what they cost five clips coded with `2k`
without a search. WebRTC's gain control follows every word: 0.24 PESQ-WB on average, up to 0.5;
`GainControl` follows a talker's level slowly. Noise suppression takes something from speech where
there is no noise: 0.37, up to 0.7; `NoiseSuppressor` uses as much of it as there is noise. Its echo
canceller takes out all below 100 Hz, 0.3 of the clips themselves; it is used while there may be an
echo. The high-pass here costs these 0.07.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter

from codec.errors import SottoError
from codec.signal.analysis import cleaned
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.alignment import BLOCK, Playback, Stamps
from stream.audio.echo import EchoDetector

# Samples by which what comes out is behind what went in, as measured: their blocks overlap.
ECHO_DELAY, NOISE_DELAY = 64, 96
# How far speech is above the noise, dB, where suppression begins, and where it is complete.
CLEAN_DB, NOISY_DB = 28.0, 20.0
NOISE_KEPT = 0.1  # the least share of the noise that stays
_KEPT_RATE = 0.5  # per second, by which that share changes
_FULL_SCALE = np.float32(32767.0)
_PER_UNIT = np.float32(1.0) / _FULL_SCALE
_RAMP = np.linspace(0.0, 1.0, BLOCK, dtype=np.float32)
_SILENT = logging.NullHandler()
_LEARNING = 4 * SAMPLE_RATE
_LONGEST_SILENCE = SAMPLE_RATE


class FrontEndMissing(SottoError):
    """The package that does it is not there, or does not work here."""


class Stage(Protocol):
    """One kind of processing. delay: samples by which its output is behind its input."""

    delay: int

    def process(self, block: FloatArray) -> FloatArray:
        """A block [BLOCK] for a block; raises FrontEndMissing where that fails."""


@dataclass(frozen=True)
class Processing:
    """What is to be done with a microphone's sound."""

    echo_cancellation: bool = True
    noise_suppression: bool = True
    gain_control: bool = True

    def __bool__(self) -> bool:
        return self.echo_cancellation or self.noise_suppression or self.gain_control


class FrontEnd:
    """Processes a microphone's 16 kHz mono samples, in blocks of 10 ms inside.

    One thread calls `capture`, and one may call `render` at the same time. `held` is what keeps
    time stamps right: how many samples have gone in that have not come out. Attributes: enabled
    (False lets the samples pass as they are, with the same delay), error (why it passes them from
    now on, None while all is well).

    Raises FrontEndMissing when made, where the package cannot be imported.
    """

    def __init__(
        self, wanted: Processing | None = None, stages: Sequence[Stage] | None = None
    ) -> None:
        """wanted: what to do (None: everything); stages: instead of those that this makes."""
        wanted = Processing() if wanted is None else wanted
        self.enabled = True
        self.error: str | None = None
        self._detector: EchoDetector | None = None
        self._echo: EchoCanceller | None = None
        if stages is None:
            if wanted.echo_cancellation:
                self._detector = EchoDetector()
                self._echo = EchoCanceller(self._detector)
            made: list[Stage] = []
            if wanted.echo_cancellation or wanted.noise_suppression:
                made.append(HighPass())
            if self._echo is not None:
                made.append(self._echo)
            if wanted.noise_suppression:
                made.append(NoiseSuppressor())
            if wanted.gain_control:
                made.append(GainControl())
            stages = made
        self._stages = tuple(stages)
        self.delay = sum(stage.delay for stage in self._stages)
        self._near = np.zeros(0, np.float32)  # waits until it is a block
        self._heard = Stamps()
        self._playback = Playback()
        self._dry = Delay(self.delay)
        self._was_enabled = True

    @property
    def held(self) -> int:
        """Samples that have gone in and not come out: less than a block, and the delay."""
        return len(self._near) + self.delay

    def needed(self, count: int) -> int:
        """How many samples have to go in until `count` more have come out; `count` > 0."""
        return -(-count // BLOCK) * BLOCK - len(self._near)

    def capture(self, samples: FloatArray, at: float | None = None) -> FloatArray:
        """What the microphone heard, any number of samples; returns what is ready of it.

        at: when the first was in the air, seconds; None: right after what came before.
        """
        samples = cleaned(samples)
        begin = self._heard.place(at, len(samples)) - len(self._near)
        if self._detector is not None and self.error is None:
            self._detector.capture(samples, at)
        near = np.concatenate((self._near, samples))
        count = len(near) // BLOCK
        self._near = near[count * BLOCK :].copy()
        blocks = [
            self._block(near[first : first + BLOCK], begin + first)
            for first in range(0, count * BLOCK, BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def render(self, samples: FloatArray, at: float | None = None, silence: int = 0) -> None:
        """What the loudspeaker is given, any number of samples; at: as in `capture`.

        silence: samples that it played before these, for lack of others. They tell exactly by how
        much an echo comes later, where stamps err by more than a canceller can bear.
        """
        if self._echo is None or self._detector is None or self.error is not None:
            return
        samples = cleaned(samples)
        if 0 < silence <= _LONGEST_SILENCE:  # else stamps tell well enough
            samples = np.concatenate((np.zeros(silence, np.float32), samples))
            at = None if at is None else at - silence / SAMPLE_RATE
        self._detector.render(samples, at)
        self._playback.render(samples, at)

    def _block(self, block: FloatArray, index: int) -> FloatArray:
        """A block for a block; index: of its first sample."""
        dry = self._dry.process(block)
        if self.error is not None:
            return dry
        try:
            if self._echo is not None:
                self._echo.render(self._playback.block(index + BLOCK))
            for stage in self._stages:  # those that are switched off keep what they have learnt
                block = stage.process(block)
        except FrontEndMissing as error:
            self.error = str(error)
            return dry
        before, self._was_enabled = self._was_enabled, self.enabled
        if before == self._was_enabled:
            return block if before else dry
        old, new = (block, dry) if before else (dry, block)
        return old + _RAMP * (new - old)


def check_available() -> None:
    """Raise FrontEndMissing where WebRTC's processing cannot be had."""
    _Module()


def denoised(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """The same sound with noise and rumble lowered; neither longer nor later.

    The first seconds are gone through twice, since they tell how much noise there is. Raises
    FrontEndMissing.
    """
    front_end = FrontEnd(Processing(echo_cancellation=False, gain_control=False))
    blocks = iter(blocks)
    first: list[FloatArray] = []
    while sum(map(len, first)) < _LEARNING and (block := next(blocks, None)) is not None:
        first.append(block)
    for block in first:
        front_end.capture(block[:_LEARNING])
    early = front_end.held  # samples of that which are still inside
    given = taken = 0
    end = np.zeros(front_end.delay + BLOCK, np.float32)
    for block in chain(first, blocks, [end]):
        given += 0 if block is end else len(block)
        ready = front_end.capture(block)
        if front_end.error is not None:
            raise FrontEndMissing(front_end.error)
        skipped = min(early, len(ready))
        early -= skipped
        ready = ready[skipped : skipped + given - taken]
        taken += len(ready)
        yield ready


class Delay:
    """Blocks `delay` samples later."""

    def __init__(self, delay: int) -> None:
        self._held = np.zeros(delay, np.float32)

    def process(self, block: FloatArray) -> FloatArray:
        both = np.concatenate((self._held, block))
        self._held = both[len(block) :]
        return both[: len(block)]


class HighPass:
    """Takes out rumble, and the beginning of the hum of mains: Butterworth of second order."""

    delay = 0
    CUT_HZ = 50.0

    def __init__(self) -> None:
        self._filter = butter(2, self.CUT_HZ, "high", fs=SAMPLE_RATE)
        self._state = np.zeros(2)

    def process(self, block: FloatArray) -> FloatArray:
        filtered, self._state = lfilter(*self._filter, block, zi=self._state)
        return np.asarray(filtered, np.float32)


class EchoCanceller:
    """Takes what the loudspeaker plays out of what the microphone hears.

    Where nothing has been played lately but a pause, or nothing of it is heard, there is nothing to
    take out, and the sound stays as it is: WebRTC's canceller always takes what is below 100 Hz as
    well, and, while both talk, much of who is near (2.4 of 4.6 PESQ-WB without any echo). Nor does
    it run meanwhile, which halves what the front end takes of a processor: time stands still for
    it, on both sides. Raises FrontEndMissing when made.
    """

    delay = ECHO_DELAY
    QUIET_DB = -60.0  # echo of less is not heard
    TAIL = 100  # blocks after which an echo has come and gone

    def __init__(self, detector: EchoDetector) -> None:
        """detector: told by its owner what is played and heard."""
        self._module: _Module | None = self._new_module()
        self._detector = detector
        self._dry = Delay(self.delay)
        self._left = 0  # blocks in which there may be an echo
        self._running = self._used = False

    def process(self, block: FloatArray) -> FloatArray:
        dry = self._dry.process(block)
        if self._detector.echo and self._module is None:
            self._module = self._new_module()
        wanted = self._left > 0 and self._detector.echo
        self._left = max(self._left - 1, 0)
        clean = dry
        if self._module is not None and (wanted or self._running):
            clean = self._module.process(block)
        if not self._detector.echo:
            self._module = None
        # Not in its first block, where what it held back is from before it stood still.
        before, self._used = self._used, wanted and self._running
        self._running = wanted
        if before != self._used:
            return dry + (_RAMP if self._used else 1.0 - _RAMP) * (clean - dry)
        return clean if self._used else dry

    def render(self, block: FloatArray) -> None:
        """What the loudspeaker is given, [BLOCK]."""
        if _decibel(float(block @ block) / len(block)) > self.QUIET_DB:
            self._left = self.TAIL
        module = self._module  # another thread may take it away
        if module is not None and (self._left or self._running):
            module.render(block)

    @staticmethod
    def _new_module() -> _Module:
        return _Module(echo_cancellation=True)


class TalkerLevel:
    """How loud somebody talks, and how loud it is meanwhile: levels in dB of full scale.

    floor_db: the quietest 20 ms of the last seconds. speech_db: average power of the last seconds
    that were well above that; `seconds` says of how many.
    """

    _USUAL_DB = -30.0
    _AVERAGE = 3.0  # seconds
    _ABOVE_DB = 12.0
    _QUIETEST_DB = -60.0
    _SLOT, _SLOTS = 50, 5  # blocks whose minimum is kept together, and such minima: 2.5 s

    def __init__(self) -> None:
        self.seconds = 0.0
        self.floor_db = -100.0
        self._speech = 0.0
        self._before = 0.0
        self._blocks = 0
        self._minimum = math.inf
        self._minima: deque[float] = deque(maxlen=self._SLOTS)

    @property
    def speech_db(self) -> float:
        return _decibel(self._speech) if self.seconds else self._USUAL_DB

    def update(self, block: FloatArray) -> bool:
        """Take a block [BLOCK]; returns whether it seems to be speech."""
        power = float(block @ block) / len(block)
        level = _decibel((power + self._before) / 2.0)
        self._before = power
        self._blocks += 1
        self._minimum = min(self._minimum, level)
        self.floor_db = min((*self._minima, self._minimum))
        if self._blocks % self._SLOT == 0:
            self._minima.append(self._minimum)
            self._minimum = math.inf
        if level < max(self.floor_db + self._ABOVE_DB, self._QUIETEST_DB):
            return False
        seconds = len(block) / SAMPLE_RATE
        self.seconds = min(self.seconds + seconds, self._AVERAGE)
        self._speech += (power - self._speech) * seconds / self.seconds
        return True


class NoiseSuppressor:
    """Lowers steady noise where there is any.

    Raises FrontEndMissing when made.
    """

    delay = NOISE_DELAY

    def __init__(self) -> None:
        self._module = _Module(noise_suppression=True)
        self._dry = Delay(self.delay)
        self._level = TalkerLevel()
        self._kept = 1.0

    def process(self, block: FloatArray) -> FloatArray:
        dry = self._dry.process(block)
        self._level.update(block)
        above = self._level.speech_db - self._level.floor_db
        share = min(max((above - NOISY_DB) / (CLEAN_DB - NOISY_DB), 0.0), 1.0)
        wished = NOISE_KEPT + share * (1.0 - NOISE_KEPT)
        step = _KEPT_RATE * len(block) / SAMPLE_RATE
        before = self._kept
        if before == wished == 1.0:
            return dry
        clean = self._module.process(block)
        self._kept += min(max(wished - before, -step), step)
        return clean + (before + (self._kept - before) * _RAMP) * (dry - clean)


class GainControl:
    """Brings a talker to a usual level, slowly, and only while somebody talks."""

    delay = 0
    TARGET_DB = -26.0  # of speech, dB of full scale
    RANGE_DB = (-12.0, 18.0)
    PEAK_DB = -1.0  # what the loudest peak of speech is raised to at most
    _RATE_DB = 3.0  # per second
    _FIRST = 0.5  # seconds of speech before anything is changed
    _FORGET_DB = 0.5  # per second, by which the loudest peak is forgotten

    def __init__(self) -> None:
        self._level = TalkerLevel()
        self._peak_db = -100.0
        self._gain_db = 0.0

    def process(self, block: FloatArray) -> FloatArray:
        before = self._gain_db
        if self._level.update(block):
            seconds = len(block) / SAMPLE_RATE
            peak_db = _decibel(float(np.abs(block).max()) ** 2)
            self._peak_db = max(self._peak_db - self._FORGET_DB * seconds, peak_db)
            if self._level.seconds > self._FIRST:
                least, most = self.RANGE_DB
                wished = min(self.TARGET_DB - self._level.speech_db, self.PEAK_DB - self._peak_db)
                step = self._RATE_DB * seconds
                change = min(max(wished, least), most) - before
                self._gain_db += min(max(change, -step), step)
        if before == self._gain_db == 0.0:
            return block
        first, last = 10.0 ** (before / 20.0), 10.0 ** (self._gain_db / 20.0)
        return block * (np.float32(first) + np.float32(last - first) * _RAMP)


class _Module:
    """WebRTC's audio processing, with some of its parts."""

    def __init__(
        self,
        *,
        echo_cancellation: bool = False,
        noise_suppression: bool = False,
    ) -> None:
        try:
            from livekit.rtc import AudioFrame, AudioProcessingModule
        except Exception as error:  # not only ImportError: it loads a library of its own
            raise FrontEndMissing(
                "no echo cancellation and noise suppression: the Python package livekit"
                f" cannot be used ({type(error).__name__})"
            ) from error
        logging.getLogger("livekit").addHandler(_SILENT)  # or Python writes on the screen
        self._frame, self._far = (AudioFrame.create(SAMPLE_RATE, 1, BLOCK) for _ in range(2))
        self._pcm, self._far_pcm = (
            np.frombuffer(frame.data, np.int16) for frame in (self._frame, self._far)
        )
        self._module = AudioProcessingModule(
            echo_cancellation=echo_cancellation,
            noise_suppression=noise_suppression,
        )

    def process(self, block: FloatArray) -> FloatArray:
        """A block [BLOCK] for a block. Raises FrontEndMissing where the library fails."""
        _to_pcm(block, self._pcm)
        _ask(self._module.process_stream, self._frame)
        return self._pcm * _PER_UNIT

    def render(self, block: FloatArray) -> None:
        """What the loudspeaker is given, [BLOCK]. Raises FrontEndMissing."""
        _to_pcm(block, self._far_pcm)
        _ask(self._module.process_reverse_stream, self._far)


def _ask(function: Callable[[Any], None], argument: object) -> None:
    """Call the library; whatever goes wrong there is FrontEndMissing."""
    try:
        function(argument)
    except Exception as error:
        raise FrontEndMissing(f"echo cancellation and noise suppression stop: {error}") from error


def _to_pcm(samples: FloatArray, out: NDArray[np.int16]) -> None:
    scaled = np.minimum(np.maximum(samples * _FULL_SCALE, -_FULL_SCALE), _FULL_SCALE)
    np.rint(scaled, out=out, casting="unsafe")


def _decibel(power: float) -> float:
    return 10.0 * math.log10(max(power, 1e-10))
