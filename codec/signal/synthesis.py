"""Log-mel columns to samples: mel bands to bins, texture, phase reconstruction, overlap-add."""

from __future__ import annotations

import numpy as np

from codec.signal import analysis
from codec.signal.comfort_noise import noise_spectra
from codec.signal.phase import PhaseSynthesiser
from codec.signal.samples import FloatArray
from codec.signal.texture import add_texture


class SpeechSynthesiser:
    """Columns in, samples out, as `PhaseSynthesiser` (whose `variable` this is)."""

    def __init__(self, variable: bool = False) -> None:
        self._phase = PhaseSynthesiser(variable=variable)
        self._column = 0

    def push(self, columns: FloatArray) -> FloatArray:
        """Normalised log-mel columns [n, N_MELS] to the samples that became ready."""
        magnitudes = analysis.mel_to_magnitudes(analysis.denormalise(columns))
        first, self._column = self._column, self._column + len(columns)
        return self._phase.push(add_texture(magnitudes, columns, first))

    def push_noise(self, levels: FloatArray) -> FloatArray:
        """Smooth log-mel levels [n, N_MELS] of noise to the samples that became ready, in a
        fraction of the time of `push`. For a `variable` synthesiser."""
        first, self._column = self._column, self._column + len(levels)
        return self._phase.push_spectra(noise_spectra(levels, first))

    def finish(self) -> FloatArray:
        """The samples still inside; afterwards the synthesiser is as new."""
        self._column = 0
        return self._phase.finish()


def synthesise_columns(columns: FloatArray) -> FloatArray:
    """All samples of log-mel columns: [T, N_MELS] -> [T * HOP]."""
    synthesiser = SpeechSynthesiser()
    return np.concatenate([synthesiser.push(columns), synthesiser.finish()])
