"""Waveforms from magnitudes, computed offline."""

from __future__ import annotations

import numpy as np

from codec.signal.phase import PhaseSynthesiser
from codec.signal.samples import FloatArray


def synthesise(magnitudes: FloatArray) -> FloatArray:
    """Samples for magnitudes: [T, N_BINS] -> [T * HOP]."""
    synthesiser = PhaseSynthesiser()
    return np.concatenate([synthesiser.push(magnitudes), synthesiser.finish()])
