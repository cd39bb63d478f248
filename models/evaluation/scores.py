"""Objective quality of decoded speech: PESQ (wide- and narrowband), STOI, ESTOI and phone errors.

Delay and level do not count as quality: the decoded signal is aligned with the reference and scaled
to its level before it is scored.

Sources: PESQ is ITU-T P.862 with the mappings of P.862.1 (narrowband) and P.862.2 (wideband); STOI
is Taal et al., IEEE TASLP 19(7), 2011; ESTOI is Jensen & Taal, IEEE/ACM TASLP 24(11), 2016.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pesq as _pesq
import pystoi
from numpy.typing import ArrayLike, NDArray

from codec.errors import BadInput, SottoError
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.elsewhere import Elsewhere
from models.evaluation import phones
from models.evaluation.clips import Clip
from models.evaluation.coding import Coding, Step
from models.workers.processes import OnProcesses

SCORE_KEYS = ("pesq_wb", "pesq_nb", "stoi", "estoi")

MAX_LAG_S = 0.2
# PESQ has fixed tables of utterances; half a minute of speech is well within their limits.
MAX_PESQ_S = 30.0

ENVELOPE_HOP = 16
_ENVELOPE_WINDOW = 256
_ENVELOPE_BANDS = 16
_REFINE_SAMPLES = 32
_REFINE_CORRELATION = 0.5

Samples = NDArray[np.floating]


def score(
    reference: ArrayLike, decoded: ArrayLike, max_lag_s: float = MAX_LAG_S
) -> dict[str, float]:
    """PESQ-WB, PESQ-NB, STOI and ESTOI of `decoded` against `reference`.

    reference [n], decoded [m]: mono samples at 16 kHz; m may differ from n. A delay of up to
    `max_lag_s` seconds either way is removed first, and levels are matched. Returns the keys of
    `SCORE_KEYS`, NaN for a score that is undefined (no speech, or too short). PESQ uses the first
    30 s only. Raises BadInput for signals that are empty, not mono or not finite.
    """
    ref, deg = aligned(reference, decoded, max_lag_s)
    part = slice(0, int(MAX_PESQ_S * SAMPLE_RATE))
    return {
        "pesq_wb": _pesq_score(ref[part], deg[part], "wb"),
        "pesq_nb": _pesq_score(ref[part], deg[part], "nb"),
        "stoi": _stoi_score(ref, deg, extended=False),
        "estoi": _stoi_score(ref, deg, extended=True),
    }


def aligned(
    reference: ArrayLike, decoded: ArrayLike, max_lag_s: float = MAX_LAG_S
) -> tuple[Samples, Samples]:
    """Reference and decoded signal, the latter without its delay, at the length and level of the
    former: [n] and [m] at 16 kHz -> twice [n] float64. Raises BadInput as `score` does.
    """
    ref, deg = _checked(reference, "reference"), _checked(decoded, "decoded signal")
    if max_lag_s > 0:
        deg = shift(deg, delay(ref, deg, max_lag_s))
    deg = deg[: len(ref)]
    return ref, match_level(ref, np.pad(deg, (0, len(ref) - len(deg))))


def delay(reference: ArrayLike, decoded: ArrayLike, max_lag_s: float = MAX_LAG_S) -> int:
    """Samples (at 16 kHz) by which `decoded` lags `reference`; negative when it leads.

    The lag is found on band envelopes (1 ms grid), since generative codecs do not keep the
    waveform; if the waveforms do agree (normalised correlation above 0.5) it is refined to the
    sample. Bounded to ±`max_lag_s`; 0 if either signal is constant.
    """
    ref = np.asarray(reference, np.float64)
    deg = np.asarray(decoded, np.float64)
    limit = round(max_lag_s * SAMPLE_RATE)
    if limit <= 0 or not len(ref) or not len(deg) or not np.ptp(ref) or not np.ptp(deg):
        return 0
    steps = limit // ENVELOPE_HOP
    curve = _cross_correlation(_centred_envelopes(ref), _centred_envelopes(deg), steps).sum(axis=0)
    coarse = (int(np.argmax(curve)) - steps) * ENVELOPE_HOP
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


def match_level(reference: Samples, decoded: Samples) -> Samples:
    """Scale `decoded` to the RMS of `reference`; silence stays silence."""
    level = float(np.sqrt(np.mean(decoded**2)))
    target = float(np.sqrt(np.mean(reference**2)))
    return decoded * (target / level) if level > 0 and target > 0 else decoded


def _checked(samples: ArrayLike, what: str) -> Samples:
    array = np.asarray(samples, np.float64)
    if array.ndim != 1 or not array.size:
        raise BadInput(f"the {what} must be mono and not empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise BadInput(f"the {what} has samples that are not finite numbers")
    return array


def envelopes(samples: Samples, window: int, edges: NDArray[np.int_]) -> Samples:
    """Cube roots of band magnitudes every 16 samples (1 ms): [n] -> [bands, n // 16].

    edges: [bands + 1] bins of the spectrum of `window` samples. The cube root evens out loud and
    soft syllables. Computed in the precision of the samples.
    """
    padded = np.pad(samples, window // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::ENVELOPE_HOP]
    shape = np.hanning(window).astype(samples.dtype)
    spectra = np.abs(np.fft.rfft(windows[: len(samples) // ENVELOPE_HOP] * shape, axis=1))
    bands = np.add.reduceat(spectra[:, : edges[-1]], edges[:-1], axis=1)
    return np.cbrt(bands).T


def _centred_envelopes(samples: Samples) -> Samples:
    bins = _ENVELOPE_WINDOW // 2
    edges = np.unique(np.geomspace(1, bins, _ENVELOPE_BANDS + 1).astype(np.intp))
    found = envelopes(samples, _ENVELOPE_WINDOW, edges)
    return found - found.mean(axis=1, keepdims=True)


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


@dataclass(frozen=True)
class Figure:
    """A figure that is no mean of `SCORE_KEYS`: the mean over clips of their scores by `key`.

    head: of its column in a table; over: the key of the denominators, for a ratio of sums; digits:
    after the point.
    """

    key: str
    head: str
    over: str | None = None
    digits: int = 2


@dataclass(frozen=True)
class ClipResult:
    """One codec on one clip. Phone counts are NaN if there is no reference."""

    clip: str
    seconds: float
    payload_bits: int
    total_bits: int
    encode_s: float
    decode_s: float
    phone_errors: float
    phones: float
    text_phone_errors: float
    text_phones: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class CodecResult:
    """One codec on all clips, in their order.

    line: the plot line that it belongs to; figures: what the scores hold besides `SCORE_KEYS`.
    """

    name: str
    line: str
    clips: Sequence[ClipResult]
    peak_bytes: int | None = None
    figures: Sequence[Figure] = ()


def score_codings(
    codings: Sequence[Coding],
    clips: Sequence[Clip],
    *,
    workers: int = 2,
    with_phones: bool = True,
    step: Step = lambda name: None,
    elsewhere: Elsewhere | None = None,
) -> list[CodecResult]:
    """Score everything that was coded against the clips, after all timing is done.

    Phones are compared with those of the original, which clips of the same name share. workers:
    processes to use; 0 scores in this one; elsewhere: scores on other machines instead. Raises
    SottoError if a clip cannot be scored.
    """
    # Codec -1 stands for the originals, of which only phones are recognised.
    work: dict[tuple[int, int], _Work] = {}
    first = {clip.name: c for c, clip in reversed(list(enumerate(clips)))}
    if with_phones:
        work = {(-1, c): (None, clips[c].original, True) for c in first.values()}
    for k, coding in enumerate(codings):
        for c, coded in enumerate(coding.coded):
            work[k, c] = clips[c].samples, coded.decoded, with_phones
    scored: dict[tuple[int, int], _Scored] = {}
    if elsewhere is None and workers:
        elsewhere = OnProcesses(workers)
    for key, value in _scored(work, elsewhere):
        scored[key] = value
        step("scoring")
    return [
        CodecResult(
            coding.name,
            coding.line,
            [
                ClipResult(
                    clip.name,
                    clip.seconds,
                    coded.payload_bits,
                    coded.total_bits,
                    coded.encode_s,
                    coded.decode_s,
                    *_phone_counts(clip.text, scored.get((-1, first[clip.name])), scored[k, c]),
                    scored[k, c][0],
                )
                for c, (clip, coded) in enumerate(zip(clips, coding.coded, strict=True))
            ],
            coding.peak_bytes,
        )
        for k, coding in enumerate(codings)
    ]


_Work = tuple[FloatArray | None, FloatArray, bool]  # reference, decoded, with phones
_Scored = tuple[dict[str, float], list[str]]  # scores and phones


def _score_one(work: _Work) -> _Scored:
    reference, decoded, with_phones = work
    values = {} if reference is None else score(reference, decoded)
    return values, phones.decode_phones(decoded) if with_phones else []


def _scored(
    work: dict[tuple[int, int], _Work], elsewhere: Elsewhere | None
) -> Iterator[tuple[tuple[int, int], _Scored]]:
    if elsewhere is None:
        for key, item in work.items():
            yield key, _score_one(item)
        return
    for key, result in zip(work, elsewhere(_score_one, list(work.values())), strict=True):
        if isinstance(result, str):
            raise SottoError(f"a clip could not be scored: {result}")
        yield key, result


def _phone_counts(
    text: str | None, original: _Scored | None, decoded: _Scored
) -> tuple[float, float, float, float]:
    """Errors and phones against the original's, then against a transcript; NaN if unknown."""
    if original is None:
        return math.nan, math.nan, math.nan, math.nan
    unknown = math.nan, math.nan
    errors = phones.phone_errors(original[1], decoded[1]) if original[1] else unknown
    return *errors, *((phones.transcript_errors(text, decoded[1]) if text else None) or unknown)
