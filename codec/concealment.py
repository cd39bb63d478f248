"""Concealment of lost frames: the last sound goes on for a moment and fades into room tone.

Works on decoded log-mel columns, so that the phase reconstruction carries the waveform across the
gap without a click.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec import analysis

FloatArray = NDArray[np.float32]

HOLD_HOPS = 6  # the last sound is held this long (48 ms) ...
FADE_DB_PER_HOP = 1.2  # ... then fades by 150 dB/s
_TAIL_HOPS = 8  # columns averaged into "the last sound"
_DB_PER_UNIT = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0
_NOISE_FADE_DB = 12.0  # each further lost frame lowers the room tone


class Concealer:
    """Remembers the last frame and makes up for lost ones."""

    def __init__(self) -> None:
        silence = np.full((analysis.FRAME_HOPS, analysis.N_MELS), -1.0, np.float32)
        self._last = silence
        self._floor = silence[0]
        self._lost = 0
        self._random = np.random.default_rng(0)

    def heard(self, frame: FloatArray) -> None:
        """Note a received frame, log-mel [FRAME_HOPS, N_MELS]."""
        self._last = frame
        self._floor = np.quantile(frame, 0.1, axis=0).astype(np.float32)
        self._lost = 0

    def lost(self) -> FloatArray:
        """A stand-in for the next frame, log-mel [FRAME_HOPS, N_MELS]."""
        hops = np.arange(analysis.FRAME_HOPS, dtype=np.float32)[:, None]
        room = self._floor - self._lost * _NOISE_FADE_DB / _DB_PER_UNIT
        if self._lost:
            frame = np.repeat(room[None], analysis.FRAME_HOPS, axis=0)
        else:
            sound = self._last[-_TAIL_HOPS:].mean(axis=0)
            fade = np.maximum(hops - HOLD_HOPS, 0.0) * (FADE_DB_PER_HOP / _DB_PER_UNIT)
            frame = np.maximum(sound[None] - fade, room[None])
            frame = np.minimum(frame, np.maximum(sound, room)[None])
        self._lost += 1
        return np.clip(frame, -1.0, 1.0).astype(np.float32)
