"""Mouth-to-ear delay by cross-correlation of what was said with what was heard.

A generative codec keeps band envelopes and not the waveform, so it is envelopes that are compared:
cube roots of band magnitudes on a 1 ms grid, in windows of a few seconds. The correlation is
normalised at every lag, so that a loud syllable elsewhere does not attract it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE

WINDOW = 3.0
STEP = 1.5
LONGEST = 4.0
# Of different speech, the best of 4000 lags reaches 0.5, or 0.7 if both end in a long silence; the
# same speech coded, 0.9 and more.
LEAST_SIMILARITY = 0.7

_HOP = 16
_SPECTRUM = 512
_BANDS = 24
_LOWEST_HZ, _HIGHEST_HZ = 100.0, 7000.0
_GRID = SAMPLE_RATE // _HOP  # envelope values per second
_SPEECH_SHARE = 0.3  # of the whole's power, that a window needs to count as speech

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """One window of what was said: when it began, how much later it was heard (both in seconds),
    and how alike the two are (1: equal)."""

    start: float
    delay: float
    similarity: float


def mouth_to_ear(
    said: Samples,
    heard: Samples,
    *,
    window: float = WINDOW,
    step: float = STEP,
    longest: float = LONGEST,
    least: float = LEAST_SIMILARITY,
) -> tuple[list[Heard], list[float]]:
    """Delays of `heard` [m] behind `said` [n], both 16 kHz with a common time axis.

    Only windows that are mostly speech and whose latest possible echo is inside `heard` are asked.
    Returns (windows that were found, start times of those not heard within `longest` seconds).
    """
    found: list[Heard] = []
    missing: list[float] = []
    for start in speech_windows(said, window, step):
        first, count = round(start * SAMPLE_RATE), round(window * SAMPLE_RATE)
        reach = heard[first : first + count + round(longest * SAMPLE_RATE)]
        if len(reach) < count + round(longest * SAMPLE_RATE):
            continue
        delay, similarity = best_lag(said[first : first + count], reach)
        if similarity >= least:
            found.append(Heard(start, delay, similarity))
        else:
            missing.append(start)
    return found, missing


def best_lag(part: Samples, reach: Samples) -> tuple[float, float]:
    """Where in `reach` [m] the sound `part` [n], n <= m, is found: (seconds, similarity).

    The similarity is the normalised correlation of envelopes, -1 to 1; 0 for silence.
    """
    pattern, field = envelopes(part), envelopes(reach)
    count = pattern.shape[1]
    pattern = pattern - pattern.mean(axis=1, keepdims=True)
    lags = field.shape[1] - count + 1
    if lags < 1 or not pattern.any():
        return 0.0, 0.0
    size = 1 << (field.shape[1] + count).bit_length()
    spectrum = np.fft.rfft(field, size) * np.conj(np.fft.rfft(pattern, size))
    products = np.fft.irfft(spectrum, size)[:, :lags].sum(axis=0)
    energy = (_sums(field**2, count) - _sums(field, count) ** 2 / count).sum(axis=0)[:lags]
    # Windows of digital silence have no shape: they must not win by division.
    floor = 1e-3 * float(energy.max()) + 1e-12
    similarity = products / np.sqrt(np.maximum(energy, floor) * float((pattern**2).sum()))
    at = int(np.argmax(similarity))
    return (at + _vertex(similarity, at)) / _GRID, float(similarity[at])


def envelopes(samples: Samples) -> Floats:
    """Cube roots of band magnitudes on a 1 ms grid: [n] -> [bands, n // 16]."""
    steps = len(samples) // _HOP
    padded = np.pad(np.asarray(samples, np.float32), _SPECTRUM // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SPECTRUM)[::_HOP][:steps]
    shape = np.hanning(_SPECTRUM).astype(np.float32)
    hertz = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 1)
    edges = np.unique(np.round(hertz * _SPECTRUM / SAMPLE_RATE)).astype(np.intp)
    out = np.empty((len(edges) - 1, steps))
    for first in range(0, steps, 4096):
        spectra = np.abs(np.fft.rfft(windows[first : first + 4096] * shape, axis=1))
        bands = np.add.reduceat(spectra[:, : edges[-1]], edges[:-1], axis=1)
        out[:, first : first + 4096] = np.cbrt(bands).T
    return out


def speech_windows(said: Samples, window: float, step: float) -> Iterator[float]:
    """Starts, in seconds, of the windows that hold speech."""
    count, stride = round(window * SAMPLE_RATE), round(step * SAMPLE_RATE)
    power = np.concatenate([[0.0], np.cumsum(np.asarray(said, np.float64) ** 2)])
    firsts = np.arange(0, len(said) - count + 1, stride)
    if not len(firsts) or power[-1] <= 0:
        return
    powers = (power[firsts + count] - power[firsts]) / count
    for first, value in zip(firsts, powers, strict=True):
        if value >= _SPEECH_SHARE * np.median(powers[powers > 1e-3 * powers.max()]):
            yield float(first) / SAMPLE_RATE


def locate(part: Samples, recording: Samples, first: int, last: int) -> tuple[int, float]:
    """Where `part` [n] begins in `recording` if between `first` and `last`, by its waveform.

    For what passed unchanged but for its level. Returns (index, normalised correlation).
    """
    first = max(first, 0)
    reach = np.asarray(recording[first : last + len(part)], np.float64)
    if len(reach) < len(part):
        return first, 0.0
    pattern = np.asarray(part, np.float64)
    size = 1 << (len(reach) + len(part)).bit_length()
    products = np.fft.irfft(np.fft.rfft(reach, size) * np.conj(np.fft.rfft(pattern, size)), size)
    products = products[: len(reach) - len(part) + 1]
    energy = _sums(reach[None] ** 2, len(part))[0]
    floor = 1e-6 * float(energy.max()) + 1e-12
    match = products / np.sqrt(np.maximum(energy, floor) * max(float(pattern @ pattern), 1e-12))
    at = int(np.argmax(match))
    return first + at, float(match[at])


def _sums(values: Floats, count: int) -> Floats:
    """Sums over `count` neighbours along the last axis: [..., n] -> [..., n - count + 1]."""
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    sums: Floats = total[..., count:] - total[..., :-count]
    return sums


def _vertex(values: Floats, at: int) -> float:
    """Where between the grid points the parabola through a maximum and its neighbours peaks."""
    if not 0 < at < len(values) - 1:
        return 0.0
    left, middle, right = values[at - 1 : at + 2]
    bend = left - 2.0 * middle + right
    return 0.0 if bend >= 0 else float(0.5 * (left - right) / bend)
