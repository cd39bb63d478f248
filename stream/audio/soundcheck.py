"""Trying a microphone and a loudspeaker before a call: levels with a hint, and a tone in each ear.

`LevelCheck` and `tones` are given samples and numbers alone; `listen` and `TonePlayer` drive them
on devices, for a bounded time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from codec.signal.analysis import cleaned
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.devices import AudioDeviceError, CardCallback, CardStream
from stream.audio.frontend import BLOCK, NOISY_DB, GainControl, HighPass, TalkerLevel
from stream.audio.pacing import Clock
from stream.audio.sources import Source

SETTLE = 0.3  # seconds at the beginning that tell nothing: cards pop when they are opened
SILENT_DB = -84.0  # peaks of a microphone that hears at all are above: two steps of 16 bits
# What gain control cannot raise to the usual level.
QUIET_DB = GainControl.TARGET_DB - GainControl.RANGE_DB[1]
_LEAST_SPEECH = 0.5  # seconds
_CLIPPED = 0.99  # of full scale
_CLIPPED_SAMPLES = 16  # beside others as loud
_READ = SAMPLE_RATE // 20

# (ear, Hz): they differ, so that ears can be told apart where both hear both.
TONES = (("left", 440.0), ("right", 660.0))
TONE_SECONDS, _TONE_PAUSE, _TONE_FADE = 0.8, 0.3, 0.02
_TONE_PEAK = 0.1  # -20 dB: nobody is to be startled
_MARGIN = 8.0  # seconds beyond its length that playing may take


class Hint(Enum):
    """What there is to say of a microphone."""

    FINE = "fine"
    DEAD = "no sound"
    SILENT = "silent"
    NO_SPEECH = "no speech"
    CLIPPING = "clipping"
    QUIET = "too quiet"
    NOISY = "noisy"


@dataclass(frozen=True)
class MicrophoneLevel:
    """What a microphone heard.

    seconds: of sound; peak_db, noise_db: highest sample, and quietest 20 ms lately, dB of full
    scale; speech_db: average power of speech, None where nobody spoke; clipped: samples at full
    scale beside others.
    """

    seconds: float
    peak_db: float
    noise_db: float
    speech_db: float | None
    clipped: int

    @property
    def hint(self) -> Hint:
        """The most pressing of what there is to say."""
        if not self.seconds:
            return Hint.DEAD
        if self.peak_db < SILENT_DB:
            return Hint.SILENT
        if self.clipped >= _CLIPPED_SAMPLES:
            return Hint.CLIPPING
        if self.speech_db is None:
            return Hint.NO_SPEECH
        if self.speech_db < QUIET_DB:
            return Hint.QUIET
        if self.speech_db - self.noise_db < NOISY_DB:
            return Hint.NOISY
        return Hint.FINE


class LevelCheck:
    """Measures what a microphone hears, without its first SETTLE seconds and without rumble."""

    def __init__(self) -> None:
        self._skip = round(SETTLE * SAMPLE_RATE)
        self._high_pass = HighPass()
        self._talker = TalkerLevel()
        self._held = np.zeros(0, np.float32)
        self._count = self._clipped = 0
        self._peak = self._latest = 0.0

    @property
    def latest_db(self) -> float:
        """Peak of what came last, dB of full scale."""
        return _decibel(self._latest)

    def push(self, samples: FloatArray) -> None:
        """Samples [n] at 16 kHz, full scale 1, any number."""
        skipped = min(self._skip, len(samples))
        self._skip -= skipped
        samples = cleaned(samples[skipped:])
        if not len(samples):
            return
        self._count += len(samples)
        loud = np.abs(samples) >= _CLIPPED
        self._clipped += int(np.count_nonzero(loud[1:] & loud[:-1]))
        samples = self._high_pass.process(samples)
        self._latest = float(np.abs(samples).max())
        self._peak = max(self._peak, self._latest)
        held = np.concatenate((self._held, samples))
        whole = len(held) // BLOCK * BLOCK
        self._held = held[whole:]
        for block in held[:whole].reshape(-1, BLOCK):
            self._talker.update(block)

    def result(self) -> MicrophoneLevel:
        """What was heard so far."""
        talker = self._talker
        return MicrophoneLevel(
            seconds=self._count / SAMPLE_RATE,
            peak_db=_decibel(self._peak),
            noise_db=talker.floor_db,
            speech_db=talker.speech_db if talker.seconds >= _LEAST_SPEECH else None,
            clipped=self._clipped,
        )


def listen(
    source: Source,
    seconds: float,
    stop: threading.Event,
    heard: Callable[[float, float], None] = lambda level_db, left: None,
    *,
    clock: Clock = time.monotonic,
) -> MicrophoneLevel:
    """What `source` hears in so many seconds; fewer, if `stop` is set.

    heard(peak of the last moment in dB, seconds left). Raises AudioDeviceError if it cannot be
    opened or breaks.
    """
    check = LevelCheck()
    with source:
        end = clock() + seconds + SETTLE
        while (left := end - clock()) > 0.0 and not stop.is_set() and not source.ended:
            samples, _ = source.read(_READ, min(left, _READ / SAMPLE_RATE))
            if source.error is not None:
                raise AudioDeviceError(source.error)
            check.push(samples)
            heard(check.latest_db, left)
    return check.result()


def tones(rate: int, channels: int) -> FloatArray:
    """A tone in the left ear, then one in the right: [n, channels] at `rate` Hz.

    With one channel both tones are in that; further channels stay silent.
    """
    count, fade = round(TONE_SECONDS * rate), round(_TONE_FADE * rate)
    envelope = np.minimum(np.arange(count), np.arange(count)[::-1])
    envelope = np.minimum(envelope / fade, 1.0)
    pause = np.zeros((round(_TONE_PAUSE * rate), channels), np.float32)
    parts = []
    for ear, (_, hertz) in enumerate(TONES):
        part = np.zeros((count, channels), np.float32)
        wave = np.sin(2.0 * np.pi * hertz * np.arange(count) / rate)
        part[:, min(ear, channels - 1)] = _TONE_PEAK * envelope * wave
        parts += [part, pause]
    return np.concatenate(parts)


class _Playback(CardCallback):
    """Plays samples [n, channels] once; `at` is how many it has played."""

    calls = 0

    def __init__(self, samples: FloatArray) -> None:
        self.samples, self.at = samples, 0

    def __call__(self, block: FloatArray, times: Any, status: Any, now: float) -> None:
        part = self.samples[self.at : self.at + len(block)]
        block[: len(part)] = part
        block[len(part) :] = 0.0
        self.at += len(part)
        self.calls += 1


class TonePlayer:
    """Plays the tones on a sound card.

    wanted: index, name, part of a name, None for the default. Raises AudioDeviceError when made if
    there is no such device. Attribute name: the card's.
    """

    def __init__(self, wanted: str | int | None = None, *, clock: Clock = time.monotonic) -> None:
        self._card = CardStream(wanted, "output", clock)
        self.name = self._card.info.name
        self._clock = clock

    def play(
        self,
        stop: threading.Event,
        playing: Callable[[str], None] = lambda ear: None,
    ) -> int:
        """Play both tones, or less if `stop` is set; returns the card's channels, 1 or more.

        playing(ear): that ear's turn has come. Raises AudioDeviceError.
        """
        rate, channels = self._card.settings(len(TONES))
        samples = tones(rate, channels)
        playback = _Playback(samples)
        turn = len(samples) / len(TONES)
        self._card.open(rate, channels, playback)
        try:
            latest = -1
            deadline = self._clock() + len(samples) / rate + _MARGIN
            while playback.at < len(samples) and not stop.is_set():
                if self._card.gone() or self._clock() > deadline:
                    raise AudioDeviceError(f"the loudspeaker {self.name} takes no sound")
                now = int(playback.at / turn)
                if now != latest:
                    latest = now
                    playing(TONES[now][0])
                stop.wait(0.02)
            stop.wait(self._card.latency)
        finally:
            self._card.close()
        return channels


def _decibel(amplitude: float) -> float:
    return 20.0 * math.log10(max(amplitude, 1e-5))
