"""What was heard, judged: quality and phones per utterance, and breaks in the sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE
from models.evaluation import metrics, phones
from stream.bench.alignment import LONGEST, best_lag, locate
from stream.bench.material import Talk

Samples = NDArray[np.float32]

SCORES = ("pesq_nb", "pesq_wb", "stoi")
_MARGIN = round(0.25 * SAMPLE_RATE)
_STRAYING = round(2.0 * SAMPLE_RATE)  # a player that starts a clip late, against the one before
_SAME = 0.9
_BREAK_SAMPLES = 16  # 1 ms
_AROUND = 128  # 8 ms
_NEGLIGIBLE = 0.03


@dataclass(frozen=True)
class Judged:
    """One utterance as it was heard: seconds of delay, the scores, phone errors and phones."""

    name: str
    start: float
    delay: float
    similarity: float
    scores: dict[str, float]
    phone_errors: int
    phones: int


def find_talk(talk: Talk, recording: Samples, limit: float = 20.0) -> list[int]:
    """Where in `recording` each utterance of the talk begins; those not there are -1.

    limit: seconds within which the first begins. The recording is of the microphone: the waveform
    is unchanged but for level.
    """
    starts: list[int] = []
    offset: int | None = None
    for utterance in talk.utterances:
        part = talk.samples[utterance.first : utterance.last]
        if offset is None:
            at, match = locate(part, recording, 0, round(limit * SAMPLE_RATE))
        else:
            expected = utterance.first + offset
            at, match = locate(part, recording, expected - _STRAYING, expected + _STRAYING)
        if match >= _SAME:
            offset = at - utterance.first
        starts.append(at if match >= _SAME else -1)
    return starts


def judge(
    talk: Talk,
    starts: Sequence[int],
    said: Samples,
    heard: Samples,
    *,
    longest: float = LONGEST,
    with_phones: bool = False,
) -> list[Judged]:
    """Every utterance found at `starts` of `said`, against what of it is in `heard`.

    Each is aligned by itself; PESQ takes care of changes of the delay inside. `said` and `heard`
    have a common time axis.
    """
    judged: list[Judged] = []
    for utterance, start in zip(talk.utterances, starts, strict=True):
        length = utterance.last - utterance.first
        reach = heard[max(start, 0) : start + length + round(longest * SAMPLE_RATE)]
        if start < _MARGIN or len(reach) < length + round(longest * SAMPLE_RATE):
            continue
        reference = said[start - _MARGIN : start + length + _MARGIN]
        delay, similarity = best_lag(said[start : start + length], reach)
        first = start + round(delay * SAMPLE_RATE)
        decoded = heard[first - _MARGIN : first + length + _MARGIN]
        scores = metrics.score(reference, decoded, max_lag_s=0.0) if decoded.any() else {}
        errors = count = 0
        if with_phones:
            original = phones.decode_phones(reference)
            errors, count = phones.phone_errors(original, phones.decode_phones(decoded))
        judged.append(
            Judged(
                utterance.name,
                start / SAMPLE_RATE,
                delay,
                similarity,
                {key: scores.get(key, math.nan) for key in SCORES},
                errors,
                count,
            )
        )
    return judged


def mean_score(judged: Sequence[Judged], key: str) -> float:
    """The mean of a score over utterances; NaN if it is defined for none."""
    values = [item.scores[key] for item in judged if math.isfinite(item.scores[key])]
    return float(np.mean(values)) if values else math.nan


def phone_error_rate(judged: Sequence[Judged]) -> float:
    """Phone errors over phones, of all utterances; NaN without phones."""
    total = sum(item.phones for item in judged)
    return sum(item.phone_errors for item in judged) / total if total else math.nan


def sharpest_break(samples: Samples) -> tuple[float, int]:
    """The sharpest break in a sound: (how it stands out in dB, at which sample).

    A click is a step or a kink: the second difference of a sound, which weighs frequencies by
    their square, shows it before all else. So do hisses, but they last: what counts is the energy
    within 1 ms over the mean of the 8 ms before or after, whichever is more. What is negligible
    against the whole's mean does not count, so that a sound may begin in silence. Speech has
    plosives, and coded speech is sharper still: only the comparison with it says anything.
    -inf for silence, or less than 20 ms.
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


def active_power(samples: Samples) -> float:
    """Mean power of the 20 ms blocks that are within 30 dB of the loudest."""
    count = len(samples) // 320
    if not count:
        return 0.0
    blocks = np.mean(
        np.asarray(samples[: 320 * count], np.float64).reshape(count, 320) ** 2, axis=1
    )
    top = float(blocks.max())
    return float(blocks[blocks >= 1e-3 * top].mean()) if top > 0 else 0.0
