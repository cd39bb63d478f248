"""Measurements on recorded sound: its delay and its gaps.

A generative codec keeps band envelopes and not the waveform, so delays are found on envelopes:
cube roots of band magnitudes on a 1 ms grid, in windows of a few seconds. The correlation is
normalised at every lag, so that a loud syllable elsewhere does not attract it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.scores import ENVELOPE_HOP, envelopes

WINDOW = 3.0
STEP = 1.5
LONGEST_DELAY = 4.0
# Of different speech, the best of 4000 lags reaches 0.5, or 0.7 if both end in a long silence; the
# same speech coded, 0.9 and more.
LEAST_SIMILARITY = 0.7

_SPECTRUM = 512
_BANDS = 24
_LOWEST_HZ, _HIGHEST_HZ = 100.0, 7000.0
_GRID = SAMPLE_RATE // ENVELOPE_HOP  # envelope values per second
_SPEECH_SHARE = 0.3  # of the whole's power, that a window needs to count as speech
_BREAK_SAMPLES = 16  # 1 ms
_AROUND = 128  # 8 ms
_NEGLIGIBLE = 0.03

Floats = NDArray[np.float64]


class Heard(NamedTuple):
    """A window of what was said: when it began, how much later it was heard (both in seconds), and
    how alike the two are (1: equal)."""

    start: float
    delay: float
    similarity: float


class Delays(NamedTuple):
    """The windows of one voice that were heard, and the starts (s) of those that were not."""

    found: list[Heard]
    missing: list[float]

    def percentile(self, share: float) -> float | None:
        values = [item.delay for item in self.found]
        return float(np.percentile(values, share)) if values else None


def mouth_to_ear(
    said: FloatArray,
    heard: FloatArray,
    *,
    window: float = WINDOW,
    step: float = STEP,
    lead: float = 0.0,
    rates: tuple[float, float] = (SAMPLE_RATE, SAMPLE_RATE),
) -> Delays:
    """Delays of `heard` [m] behind `said` [n].

    lead: seconds by which `said` begins before `heard`; rates: samples per second of the two, where
    each has a clock of its own. Only windows that are mostly speech, and whose latest possible echo
    is inside `heard`, are looked for; those not found within LONGEST_DELAY seconds are missing.
    """
    delays = Delays([], [])
    count = round(window * SAMPLE_RATE)
    for start in speech_windows(said, window, step):
        first = round(start * SAMPLE_RATE)
        at = (first / rates[0] - lead) * rates[1]
        whole = math.floor(at + 1e-6)
        last = whole + count + round(LONGEST_DELAY * SAMPLE_RATE)
        if whole < 0 or last > len(heard):
            continue
        delay, similarity = best_lag(said[first : first + count], heard[whole:last])
        if similarity >= LEAST_SIMILARITY:
            delays.found.append(Heard(start, delay - (at - whole) / rates[1], similarity))
        else:
            delays.missing.append(start)
    return delays


def best_lag(part: FloatArray, reach: FloatArray) -> tuple[float, float]:
    """Where in `reach` [m] the sound `part` [n], n <= m, is found: (seconds, similarity).

    The similarity is the normalised correlation of envelopes, -1 to 1; 0 for silence.
    """
    similarity = _correlations(_band_envelopes(part), _band_envelopes(reach), 1e-3)
    if not len(similarity):
        return 0.0, 0.0
    at = int(np.argmax(similarity))
    return (at + _vertex(similarity, at)) / _GRID, float(similarity[at])


def locate(part: FloatArray, recording: FloatArray, first: int, last: int) -> tuple[int, float]:
    """Where `part` [n] begins in `recording` if between `first` and `last`, by its waveform.

    For sound of which only the level has changed. Returns (index, normalised correlation).
    """
    first = max(first, 0)
    reach = np.asarray(recording[first : last + len(part)], np.float64)
    match = _correlations(np.asarray(part, np.float64)[None], reach[None], 1e-6)
    if not len(match):
        return first, 0.0
    at = int(np.argmax(match))
    return first + at, float(match[at])


def speech_windows(said: FloatArray, window: float, step: float) -> Iterator[float]:
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


def sharpest_break(samples: FloatArray) -> tuple[float, int]:
    """The sharpest break in a sound: (how it stands out in dB, at which sample).

    A click is a step or a kink, which stands out in the second difference, as that weighs
    frequencies by their square. Fricatives stand out too, but last longer, so the measure is the
    energy within 1 ms over the mean of the 8 ms before or after, whichever is more. A floor
    relative to the mean of the whole lets a sound begin in silence. Speech has plosives, and coded
    speech is sharper still, so only a comparison with it means anything. -inf for silence, or less
    than 20 ms.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < 320 or not values.any():
        return -math.inf, 0
    energy = np.concatenate([[0.0], np.cumsum(np.diff(values, 2) ** 2)])
    blocks = energy[_BREAK_SAMPLES:] - energy[:-_BREAK_SAMPLES]
    around = (energy[_AROUND:] - energy[:-_AROUND]) * (_BREAK_SAMPLES / _AROUND)
    # Block k covers k .. k + 16; before it lie k - 128 .. k, after it k + 16 .. k + 144.
    middle = blocks[_AROUND : len(blocks) - _AROUND]
    before = around[: len(middle)]
    after = around[_AROUND + _BREAK_SAMPLES :][: len(middle)]
    floor = _NEGLIGIBLE * float(energy[-1]) / len(values) * _BREAK_SAMPLES
    contrast = middle / (np.maximum(before, after) + floor)
    at = int(np.argmax(contrast))
    return 10.0 * math.log10(max(float(contrast[at]), 1e-12)), at + _AROUND


def block_powers(samples: FloatArray) -> FloatArray:
    """Mean power of every 20 ms: [n] -> [n // 320]."""
    return np.mean(samples[: len(samples) // 320 * 320].reshape(-1, 320) ** 2, axis=1)


def active_power(samples: FloatArray) -> float:
    """Mean power of the 20 ms blocks that are within 30 dB of the loudest."""
    blocks = block_powers(np.asarray(samples, np.float64))
    top = float(blocks.max(initial=0.0))
    return float(blocks[blocks >= 1e-3 * top].mean()) if top > 0 else 0.0


def _band_envelopes(samples: FloatArray) -> Floats:
    hertz = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 1)
    edges = np.unique(np.round(hertz * _SPECTRUM / SAMPLE_RATE)).astype(np.intp)
    return envelopes(np.asarray(samples, np.float32), _SPECTRUM, edges).astype(np.float64)


def _correlations(pattern: Floats, field: Floats, floor: float) -> Floats:
    """Normalised correlation of [bands, n] with [bands, m] at every lag: [m - n + 1].

    floor: the least energy of a window as a share of the largest, so that windows of digital
    silence do not win by division.
    """
    count = pattern.shape[1]
    lags = field.shape[1] - count + 1
    if lags < 1:
        return np.zeros(0)
    pattern = pattern - pattern.mean(axis=1, keepdims=True)
    size = 1 << (field.shape[1] + count).bit_length()
    spectrum = np.fft.rfft(field, size) * np.conj(np.fft.rfft(pattern, size))
    products = np.fft.irfft(spectrum, size)[:, :lags].sum(axis=0)
    energy = (_sums(field**2, count) - _sums(field, count) ** 2 / count).sum(axis=0)
    least = floor * float(energy.max()) + 1e-12
    found: Floats = products / np.sqrt(
        np.maximum(energy, least) * max(float((pattern**2).sum()), 1e-12)
    )
    return found


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
