"""What is said in a benchmark: clips of speech in a row, with pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE
from models.evaluation.clips import Clip, load_clips

Samples = NDArray[np.float32]

MAX_CLIP_SECONDS = 12.0
_PAUSE = 0.6
_LEAD = 0.5
_PEAK = 0.7


@dataclass(frozen=True)
class Utterance:
    """One clip of a talk: samples first..last of it (last excluded)."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Talk:
    """samples [n] at 16 kHz, and where in them the utterances are."""

    samples: Samples
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def write(self, path: Path) -> Path:
        """Store the talk as a WAV file."""
        soundfile.write(path, self.samples, SAMPLE_RATE, "FLOAT")
        return path


def read_clips(folder: Path, count: int = 24) -> list[Clip]:
    """Up to `count` clips of a folder, at most MAX_CLIP_SECONDS each. Raises BadInput."""
    clips, _ = load_clips(folder, count, MAX_CLIP_SECONDS)
    return clips


def talk(clips: Sequence[Clip], seconds: float, first: int = 0) -> Talk:
    """The clips in turn from number `first` on, again from the start if need be, for `seconds`.

    At least one clip, whole clips only; each is brought to the same peak. Raises BadInput if there
    are none.
    """
    if not clips:
        raise BadInput("there are no clips to be said")
    parts = [np.zeros(round(_LEAD * SAMPLE_RATE), np.float32)]
    utterances: list[Utterance] = []
    length = len(parts[0])
    pause = np.zeros(round(_PAUSE * SAMPLE_RATE), np.float32)
    number = first
    while True:
        clip = clips[number % len(clips)]
        if utterances and length + len(clip.samples) > seconds * SAMPLE_RATE:
            break
        peak = float(np.abs(clip.samples).max())
        utterances.append(Utterance(clip.name, length, length + len(clip.samples)))
        parts += [(clip.samples * (_PEAK / peak)).astype(np.float32), pause]
        length += len(clip.samples) + len(pause)
        number += 1
    return Talk(np.concatenate(parts), tuple(utterances))


def room_noise(seconds: float, level_db: float = -66.0, seed: int = 0) -> Talk:
    """Nobody speaks: quiet noise with the slope of a room's, level in dB of full scale (RMS)."""
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE / count, 50.0))
    noise = np.fft.irfft(spectrum, count)
    noise *= 10 ** (level_db / 20) / np.sqrt(np.mean(noise**2))
    return Talk(noise.astype(np.float32), ())
