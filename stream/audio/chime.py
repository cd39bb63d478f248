"""Two soft notes with which a call begins.

They say that one is heard from now on, and tell the front end whether the microphone hears the
loudspeaker before anybody has said a word.
"""

from __future__ import annotations

import functools

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray

NOTES_HZ = (587.3, 880.0)  # a fifth, where small loudspeakers and the echo detector are at home
NOTE_SECONDS = 0.16
LEVEL_DB = -30.0  # of each note at its loudest, RMS, dB of full scale
_ATTACK = 0.01  # seconds
_DECAY_DB = 12.0  # over a note


@functools.cache
def chime() -> FloatArray:
    """The notes, [n] at 16 kHz; not to be written to."""
    time = np.arange(round(NOTE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = 10.0 ** ((LEVEL_DB - _DECAY_DB * time / NOTE_SECONDS) / 20.0) * np.sqrt(2.0)
    envelope *= np.minimum(np.minimum(time, NOTE_SECONDS - time) / _ATTACK, 1.0)
    notes = [envelope * np.sin(2.0 * np.pi * frequency * time) for frequency in NOTES_HZ]
    samples = np.concatenate(notes).astype(np.float32)
    samples.setflags(write=False)
    return samples
