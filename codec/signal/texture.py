"""The fine structure of noise, which drawn spectra lack, put back at no cost in bits.

A generator that is trained to come close draws the mean of what may be there, and mel bands blur
what is left. Harmonics below 2 kHz survive that. Above, where speech is breath, hiss and blurred
harmonics, the drawing is smooth, and no sound has a smooth magnitude: phases that follow from it
line up, and hiss comes out as pulses. So magnitudes are multiplied by a power of those that a real
white noise has under the same transform. Neighbouring columns and bins of these are related as in
a recording, which those of independent random factors are not.

Where a column is voiced, the texture begins higher, so that harmonics keep their shape. Everything
depends on the column, and on its number, alone. docs/texture.md says how this was chosen.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codec.signal import analysis
from codec.signal.analysis import HOP, N_BINS, SAMPLE_RATE, WINDOW
from codec.signal.phase import random_phase
from codec.signal.samples import FloatArray

# Exponent of the noise's magnitudes. With more, PESQ loses twice what Distill-MOS gains.
POWER = 1.0
# The texture begins at the first of these frequencies and is whole at the second.
UNVOICED_HZ = (1500.0, 2500.0)
VOICED_HZ = (2500.0, 4000.0)
# The noise comes round after so many columns: 8.2 s.
LOOP = 1024
# Log magnitude that a texture of exponent q adds on average, found by analysing clips of training
# speakers again: _LEVEL[0] q + _LEVEL[1] q^2. It is taken off.
_LEVEL = (-0.258, 0.219)
_LEAST = 1e-3  # magnitude of the noise, whose mean is 1
_SEED = 7

# Voicing shows in how far the low bands stand out from those above 3.3 kHz, and in how far they
# vary from one to the next, as harmonics do.
LOW, HIGH = slice(2, 44), slice(84, analysis.N_MELS)
_MEDIAN = (analysis.N_MELS - 84) // 2
SMOOTH = 17  # bands that harmonics are compared with
DB = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0  # per unit of a log-mel column
TILT_DB, DETAIL_DB = 8.0, 3.0  # that count as much as each other
EVEN, SLOPE = 4.5, 0.6  # of their sum: as often voiced as not, and how sharp the decision is


def white_noise(count: int, seed: int) -> NDArray[np.float64]:
    """Gaussian noise [count] of variance 1 that depends on the seed alone.

    By the transform of Box and Muller, Annals of Mathematical Statistics 29(2), 1958.
    """
    numbers = np.arange(count, dtype=np.uint64)
    uniform = random_phase(numbers + np.uint64(count), seed) / (2.0 * np.pi) + 0.5
    radius = np.sqrt(-2.0 * np.log1p(-uniform))
    noise: NDArray[np.float64] = radius * np.cos(random_phase(numbers, seed))
    return noise


def first_bin() -> int:
    """The first bin that texture may reach."""
    return int(UNVOICED_HZ[0] / SAMPLE_RATE * analysis.N_FFT) + 1


def endless_noise() -> FloatArray:
    """White noise of variance 1 whose LOOP columns have no beginning and no end."""
    samples = white_noise(LOOP * HOP, _SEED).astype(np.float32)
    return np.concatenate([samples, samples[: WINDOW - HOP]])


@lru_cache(maxsize=1)
def _noise() -> FloatArray:
    """Log magnitudes of an endless noise: [LOOP, N_BINS - first_bin()]."""
    samples = endless_noise()
    magnitudes = np.abs(analysis.stft_columns(samples))[:, first_bin() : -1]
    magnitudes /= magnitudes.mean()
    # The last bin is real, and that of a smooth spectrum as its neighbour.
    return np.log(np.maximum(np.pad(magnitudes, ((0, 0), (0, 1)), "edge"), _LEAST))


@lru_cache(maxsize=1)
def _exponents() -> tuple[FloatArray, FloatArray]:
    """Of the noise in each bin from first_bin() on: where unvoiced, and what voicing adds."""
    hertz = np.arange(first_bin(), N_BINS) * SAMPLE_RATE / analysis.N_FFT
    unvoiced, voiced = (
        POWER * np.clip((hertz - begin) / (whole - begin), 0.0, 1.0)
        for begin, whole in (UNVOICED_HZ, VOICED_HZ)
    )
    return unvoiced.astype(np.float32), (voiced - unvoiced).astype(np.float32)


def voicing(columns: FloatArray) -> FloatArray:
    """How much log-mel columns [n, N_MELS] look voiced, whatever their level: [n], 0..1."""
    low = columns[:, LOW]
    high = np.partition(columns[:, HIGH], _MEDIAN, axis=1)[:, _MEDIAN]
    tilt = low.max(axis=1) - high
    half = SMOOTH // 2
    sums = np.cumsum(np.pad(low, ((0, 0), (half + 1, half)), "edge"), axis=1)
    detail = low - (sums[:, SMOOTH:] - sums[:, :-SMOOTH]) / SMOOTH
    spread = np.sqrt(np.mean(detail * detail, axis=1))
    evidence = tilt * (DB / TILT_DB) + spread * (DB / DETAIL_DB)
    share: FloatArray = 0.5 + 0.5 * np.tanh((evidence - EVEN) / (2.0 * SLOPE))
    return share


def add_texture(magnitudes: FloatArray, columns: FloatArray, first: int) -> FloatArray:
    """Magnitudes [n, N_BINS] of log-mel columns [n, N_MELS], with texture; zeros stay zero.

    first: the number of the first column.
    """
    unvoiced, more = _exponents()
    exponent = unvoiced + voicing(columns)[:, None] * more
    noise = _noise()[np.arange(first, first + len(columns)) % LOOP]
    linear, square = (np.float32(part) for part in _LEVEL)
    factor = np.exp(exponent * (noise - linear - square * exponent))
    textured = magnitudes.copy()
    textured[:, first_bin() :] *= factor
    return textured
