"""The speech of a measured call: clips in a row, and their scores as they arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation import phones, scores
from models.evaluation.clips import Clip, load_clips
from stream.bench.signals import LONGEST_DELAY, best_lag, locate

SCORES = ("pesq_nb", "pesq_wb", "stoi")
_MAX_CLIP_SECONDS = 12.0
_PAUSE = 0.6
_LEAD = 0.5
_PEAK = 0.7
_MARGIN = round(0.25 * SAMPLE_RATE)
_STRAYING = round(2.0 * SAMPLE_RATE)  # a player that starts a clip late, against the one before
_SAME = 0.9


@dataclass(frozen=True)
class Utterance:
    """One clip of a talk: samples first..last of it (last excluded)."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Talk:
    """samples [n] at 16 kHz, and where in them the utterances are."""

    samples: FloatArray
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def write(self, path: Path) -> Path:
        """Store the talk as a WAV file."""
        soundfile.write(path, self.samples, SAMPLE_RATE, "FLOAT")
        return path


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance as it was heard: seconds of delay, the scores, phone errors and phones."""

    name: str
    start: float
    delay: float
    similarity: float
    scores: dict[str, float]
    phone_errors: int
    phones: int


def read_clips(folder: Path, count: int = 24) -> list[Clip]:
    """Up to `count` clips of a folder, at most 12 s each. Raises BadInput."""
    clips, _ = load_clips(folder, count, _MAX_CLIP_SECONDS)
    return clips


def talk(clips: Sequence[Clip], seconds: float, first: int = 0) -> Talk:
    """A talk of at most `seconds`: the clips in turn from number `first` on, repeated if need be.

    It has whole clips only, at least one, all with the same peak. Raises BadInput without clips.
    """
    if not clips:
        raise BadInput("there are no clips to play")
    parts = [np.zeros(round(_LEAD * SAMPLE_RATE), np.float32)]
    utterances: list[Utterance] = []
    length = len(parts[0])
    pause = np.zeros(round(_PAUSE * SAMPLE_RATE), np.float32)
    for clip in islice(cycle(clips), first % len(clips), None):
        last = length + len(clip.samples)
        if utterances and last > seconds * SAMPLE_RATE:
            break
        peak = float(np.abs(clip.samples).max())
        utterances.append(Utterance(clip.name, length, last))
        parts += [(clip.samples * (_PEAK / peak)).astype(np.float32), pause]
        length = last + len(pause)
    return Talk(np.concatenate(parts), tuple(utterances))


def turns(clips: Sequence[Clip], seconds: float, alone: float) -> tuple[Talk, Talk]:
    """What two say who take turns, then both talk: first one for `alone` seconds, then the other,
    then both for the rest of `seconds`. Raises BadInput without clips.
    """
    found = []
    for turn in (0, 1):
        first = turn * (len(clips) // 2)
        own = talk(clips, alone, first)
        both = talk(clips, seconds - 2.0 * alone, first + len(own.utterances))
        found.append(_joined([(turn * alone, own), (2.0 * alone, both)]))
    return found[0], found[1]


def _joined(parts: Sequence[tuple[float, Talk]]) -> Talk:
    """One talk of several, which begin at so many seconds."""
    firsts = [round(start * SAMPLE_RATE) for start, _ in parts]
    samples = np.zeros(firsts[-1] + len(parts[-1][1].samples), np.float32)
    utterances: list[Utterance] = []
    for first, (_, part) in zip(firsts, parts, strict=True):
        samples[first : first + len(part.samples)] += part.samples
        utterances += [
            Utterance(each.name, each.first + first, each.last + first) for each in part.utterances
        ]
    return Talk(samples, tuple(utterances))


def room_noise(seconds: float, level_db: float = -66.0, seed: int = 0) -> Talk:
    """A talk without speech: noise with the spectral slope of a room, RMS in dB of full scale."""
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE / count, 50.0))
    noise = np.fft.irfft(spectrum, count)
    noise *= 10 ** (level_db / 20) / np.sqrt(np.mean(noise**2))
    return Talk(noise.astype(np.float32), ())


def find_talk(talk: Talk, recording: FloatArray, limit: float = 20.0) -> list[int]:
    """The sample of `recording` at which each utterance of the talk begins; -1 if it does not.

    The recording is of the microphone, where only the level differs. limit: seconds within which
    the first utterance begins.
    """
    starts: list[int] = []
    offset: int | None = None
    for utterance in talk.utterances:
        part = talk.samples[utterance.first : utterance.last]
        first, last = 0, round(limit * SAMPLE_RATE)
        if offset is not None:
            first, last = (utterance.first + offset + off for off in (-_STRAYING, _STRAYING))
        at, match = locate(part, recording, first, last)
        if match >= _SAME:
            offset = at - utterance.first
        starts.append(at if match >= _SAME else -1)
    return starts


def score_talk(
    talk: Talk,
    starts: Sequence[int],
    said: FloatArray,
    heard: FloatArray,
    *,
    longest: float = LONGEST_DELAY,
    with_phones: bool = False,
) -> list[UtteranceScore]:
    """Scores of the utterances that begin at `starts` in `said`, as they were `heard`.

    Each is aligned by itself; PESQ follows changes of the delay within it. `said` and `heard` have
    a common time axis. longest: the longest delay in seconds.
    """
    scored: list[UtteranceScore] = []
    for utterance, start in zip(talk.utterances, starts, strict=True):
        length = utterance.last - utterance.first
        reach = heard[max(start, 0) : start + length + round(longest * SAMPLE_RATE)]
        if start < _MARGIN or len(reach) < length + round(longest * SAMPLE_RATE):
            continue
        reference = said[start - _MARGIN : start + length + _MARGIN]
        delay, similarity = best_lag(said[start : start + length], reach)
        first = start + round(delay * SAMPLE_RATE)
        decoded = heard[first - _MARGIN : first + length + _MARGIN]
        found = scores.score(reference, decoded, max_lag_s=0.0) if decoded.any() else {}
        errors = count = 0
        if with_phones:
            original = phones.decode_phones(reference)
            errors, count = phones.phone_errors(original, phones.decode_phones(decoded))
        scored.append(
            UtteranceScore(
                utterance.name,
                start / SAMPLE_RATE,
                delay,
                similarity,
                {key: found.get(key, math.nan) for key in SCORES},
                errors,
                count,
            )
        )
    return scored


def mean_score(scored: Sequence[UtteranceScore], key: str) -> float:
    """The mean of a score over utterances; NaN if it is defined for none."""
    values = [item.scores[key] for item in scored if math.isfinite(item.scores[key])]
    return float(np.mean(values)) if values else math.nan


def phone_error_rate(scored: Sequence[UtteranceScore]) -> float:
    """Phone errors over phones, of all utterances; NaN without phones."""
    total = sum(item.phones for item in scored)
    return sum(item.phone_errors for item in scored) / total if total else math.nan
