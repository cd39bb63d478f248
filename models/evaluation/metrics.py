"""Objective quality of decoded speech: PESQ (wide- and narrowband), STOI and ESTOI.

Codecs delay what they code and some change its level, and neither is a loss of quality; so the
decoded signal is aligned to the reference and brought to its level before it is scored.

Sources: PESQ is ITU-T P.862 with the mappings of P.862.1 (narrowband) and P.862.2 (wideband); STOI
is Taal et al., IEEE TASLP 19(7), 2011; ESTOI is Jensen & Taal, IEEE/ACM TASLP 24(11), 2016.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pesq as _pesq
import pystoi
from numpy.typing import ArrayLike, NDArray
from scipy.signal import resample_poly

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE

SCORE_KEYS = ("pesq_wb", "pesq_nb", "stoi", "estoi")

MAX_LAG_S = 0.2
# PESQ keeps fixed tables of utterances; half a minute of speech stays far inside them.
MAX_PESQ_S = 30.0

_ENVELOPE_HOP = 16
_ENVELOPE_WINDOW = 256
_ENVELOPE_BANDS = 16
_REFINE_SAMPLES = 32
_REFINE_CORRELATION = 0.5

Samples = NDArray[np.float64]


def score(
    reference: ArrayLike, decoded: ArrayLike, rate: int = SAMPLE_RATE, max_lag_s: float = MAX_LAG_S
) -> dict[str, float]:
    """PESQ-WB, PESQ-NB, STOI and ESTOI of `decoded` against `reference`.

    reference [n], decoded [m]: mono samples at `rate` Hz; m may differ from n. A delay of up to
    `max_lag_s` seconds either way is removed first (0 leaves the signals as they are), and levels
    are matched. Returns the keys of `SCORE_KEYS`; a score that is not defined for this clip (no
    speech in it, or too short) is NaN, so that a mean can leave it out and count it. PESQ hears
    the first 30 s only. Raises BadInput for signals that are empty, not mono or not finite.
    """
    ref, deg = _prepare(reference, rate, "reference"), _prepare(decoded, rate, "decoded signal")
    if max_lag_s > 0:
        deg = shift(deg, delay(ref, deg, max_lag_s))
    deg = match_level(ref, fit_length(deg, len(ref)))
    part = slice(0, int(MAX_PESQ_S * SAMPLE_RATE))
    return {
        "pesq_wb": _pesq_score(ref[part], deg[part], "wb"),
        "pesq_nb": _pesq_score(ref[part], deg[part], "nb"),
        "stoi": _stoi_score(ref, deg, extended=False),
        "estoi": _stoi_score(ref, deg, extended=True),
    }


def delay(reference: ArrayLike, decoded: ArrayLike, max_lag_s: float = MAX_LAG_S) -> int:
    """Samples (at 16 kHz) by which `decoded` lags `reference`; negative when it leads.

    The lag is found on band envelopes (1 ms grid), because parametric and phase-reconstructing
    codecs keep the envelopes and not the waveform; where the waveforms do agree (normalised
    correlation above 0.5) it is refined to the sample. Bounded to ±`max_lag_s`. 0 when either
    signal is constant.
    """
    ref = np.asarray(reference, np.float64)
    deg = np.asarray(decoded, np.float64)
    limit = round(max_lag_s * SAMPLE_RATE)
    if limit <= 0 or not len(ref) or not len(deg) or not np.ptp(ref) or not np.ptp(deg):
        return 0
    steps = limit // _ENVELOPE_HOP
    coarse_curve = _cross_correlation(_envelopes(ref), _envelopes(deg), steps).sum(axis=0)
    coarse = (int(np.argmax(coarse_curve)) - steps) * _ENVELOPE_HOP
    wave = _cross_correlation(ref[None], deg[None], limit)[0]
    wave /= np.linalg.norm(ref) * np.linalg.norm(deg)
    low = max(coarse - _REFINE_SAMPLES, -limit)
    high = min(coarse + _REFINE_SAMPLES, limit)
    near = wave[low + limit : high + limit + 1]
    best = int(np.argmax(np.abs(near)))
    return low + best if abs(near[best]) > _REFINE_CORRELATION else coarse


def shift(samples: Samples, lag: int) -> Samples:
    """Move `samples` earlier by `lag` samples (later if negative, with zeros in front)."""
    if lag >= 0:
        return samples[lag:]
    return np.concatenate([np.zeros(-lag, samples.dtype), samples])


def fit_length(samples: Samples, length: int) -> Samples:
    """Cut `samples` to `length`, or extend with zeros."""
    if len(samples) >= length:
        return samples[:length]
    return np.concatenate([samples, np.zeros(length - len(samples), samples.dtype)])


def match_level(reference: Samples, decoded: Samples) -> Samples:
    """Scale `decoded` to the RMS of `reference`; silence stays silence."""
    level = float(np.sqrt(np.mean(decoded**2)))
    target = float(np.sqrt(np.mean(reference**2)))
    return decoded * (target / level) if level > 0 and target > 0 else decoded


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(hypothesis) + 1))
    for symbol in reference:
        row = edit_row(row, symbol, hypothesis)
    return row[-1]


def edit_row(row: Sequence[int], symbol: str, hypothesis: Sequence[str]) -> list[int]:
    """The next row of the Levenshtein table, after one more reference `symbol`.

    row: [len(hypothesis) + 1] costs of the reference so far against each hypothesis prefix.
    """
    out = [row[0] + 1]
    for j, other in enumerate(hypothesis):
        out.append(min(row[j] + (symbol != other), row[j + 1] + 1, out[j] + 1))
    return out


def mean_interval(
    values: Sequence[float], resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean, 95 % percentile-bootstrap interval and the count of values left out as NaN.

    Returns (mean, low, high, missing); all NaN when no value is left. Deterministic for a seed.
    """
    return ratio_interval(values, [1.0] * len(values), resamples, seed)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float, int]:
    """Ratio of sums over clips, with a 95 % bootstrap interval over the clips.

    For pooled figures such as a phone error rate (errors over phones) or a bit rate (bits over
    seconds). Clips with a NaN in either sequence are left out and counted.
    Returns (ratio, low, high, missing).
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    known = np.isfinite(top) & np.isfinite(bottom)
    missing = int(len(top) - known.sum())
    top, bottom = top[known], bottom[known]
    if not len(top) or bottom.sum() <= 0:
        return math.nan, math.nan, math.nan, missing
    picks = np.random.default_rng(seed).integers(0, len(top), (resamples, len(top)))
    sums = bottom[picks].sum(axis=1)
    ratios = top[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(top.sum() / bottom.sum()), float(low), float(high), missing


def _prepare(samples: ArrayLike, rate: int, what: str) -> Samples:
    array = np.asarray(samples, np.float64)
    if array.ndim != 1 or not array.size:
        raise BadInput(f"the {what} must be mono and not empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise BadInput(f"the {what} has samples that are not finite numbers")
    if rate <= 0:
        raise BadInput(f"the sample rate must be positive, got {rate}")
    if rate != SAMPLE_RATE:
        common = math.gcd(rate, SAMPLE_RATE)
        array = resample_poly(array, SAMPLE_RATE // common, rate // common)
    return array


def _envelopes(samples: Samples) -> Samples:
    """Compressed, centred band envelopes every 1 ms: [bands, steps]."""
    padded = np.pad(samples, _ENVELOPE_WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _ENVELOPE_WINDOW)[::_ENVELOPE_HOP]
    spectra = np.abs(np.fft.rfft(windows * np.hanning(_ENVELOPE_WINDOW), axis=1))[:, 1:-1]
    edges = np.unique(np.geomspace(1, spectra.shape[1] + 1, _ENVELOPE_BANDS + 1).astype(int)) - 1
    bands = np.add.reduceat(spectra, edges[:-1], axis=1)
    # The cube root evens out loud and soft syllables, and does not depend on the level's unit.
    compressed = np.cbrt(bands).T
    return compressed - compressed.mean(axis=1, keepdims=True)


def _cross_correlation(reference: Samples, decoded: Samples, limit: int) -> Samples:
    """sum_n reference[:, n] * decoded[:, n + lag] for lag = -limit..limit: [rows, 2*limit+1]."""
    size = 1 << (max(reference.shape[1], decoded.shape[1]) + limit).bit_length()
    spectrum = np.conj(np.fft.rfft(reference, size)) * np.fft.rfft(decoded, size)
    curve = np.fft.irfft(spectrum, size)
    return np.concatenate([curve[:, size - limit :], curve[:, : limit + 1]], axis=1)


def _pesq_score(reference: Samples, decoded: Samples, mode: str) -> float:
    if not reference.any() or not decoded.any():
        return math.nan
    try:
        return float(_pesq.pesq(SAMPLE_RATE, reference, decoded, mode))
    except _pesq.PesqError:
        # No utterance found in one of the signals, or under a quarter of a second of it.
        return math.nan


def _stoi_score(reference: Samples, decoded: Samples, extended: bool) -> float:
    if not reference.any():
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(reference, decoded, SAMPLE_RATE, extended=extended))
        except (RuntimeWarning, ValueError, IndexError):
            # Under 30 frames (0.4 s) are left once the silent ones are removed.
            return math.nan
