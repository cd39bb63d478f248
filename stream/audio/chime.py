"""Soft notes that tell people something beside the voices.

Those with which a call begins say that one is heard from now on, and tell the front end whether the
microphone hears the loudspeaker before anybody has said a word.
"""

from __future__ import annotations

import functools

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray

LEVEL_DB = -30.0  # of each note at its loudest, RMS, dB of full scale
_ATTACK = 0.01  # seconds
_DECAY_DB = 12.0  # over a note


@functools.cache
def notes(*hertz: float, seconds: float) -> FloatArray:
    """Notes that fade, one after another, each of that length: [n] at 16 kHz, not to be written to.

    Between 300 and 2000 Hz small loudspeakers play them, and the echo detector hears them.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = 10.0 ** ((LEVEL_DB - _DECAY_DB * time / seconds) / 20.0) * np.sqrt(2.0)
    envelope *= np.minimum(np.minimum(time, seconds - time) / _ATTACK, 1.0)
    played = [envelope * np.sin(2.0 * np.pi * frequency * time) for frequency in hertz]
    samples = np.concatenate(played).astype(np.float32)
    samples.setflags(write=False)
    return samples


def call_begins() -> FloatArray:
    """A fifth, rising."""
    return notes(587.3, 880.0, seconds=0.16)


def late_begins() -> FloatArray:
    """A fifth, falling: what follows was said a while ago."""
    return notes(660.0, 440.0, seconds=0.09)
