"""Scores of a trained model folder on clips that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from codec.errors import BadInput
from codec.files.paths import atomic_output
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from codec.speech.presets import DEFAULT_PRESET, find_preset
from models.evaluation import estimates, tables

MAX_SECONDS = 12.0


def evaluate(
    folder: Path,
    clips: Path,
    device: torch.device,
    *,
    count: int = 24,
    iterations: int = 30,
    preset: str = DEFAULT_PRESET,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Code clips with the model in `folder`; returns mean PESQ, STOI, ESTOI and container bits/s.

    Clips are balanced over speakers. Scores that are undefined for a clip are left out of the mean.
    Raises BadInput if there is nothing to score or the scoring packages are missing.
    """
    try:
        from models.evaluation.clips import load_clips
        from models.evaluation.scores import SCORE_KEYS, score
    except ImportError as error:
        raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error
    codec = SpeechCodec(find_preset(preset, folder), device)
    chosen, skipped = load_clips(clips, count, MAX_SECONDS)
    if skipped:
        note(f"{len(skipped)} clips left out, first {next(iter(skipped.values()))}")
    rows = []
    for clip in chosen:
        data = codec.encode(clip.samples, SAMPLE_RATE, iterations=iterations)
        row = score(clip.samples, codec.decode(data), max_lag_s=0.0)
        rows.append(row | {"bits_per_second": 8.0 * len(data) / clip.seconds})
        note(f"{clip.name}: " + ", ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()))
    means = {
        key: estimates.mean([row[key] for row in rows]).value
        for key in (*SCORE_KEYS, "bits_per_second")
    }
    return {"clips": float(len(rows))} | means


def write_scores(scores: dict[str, float], target: Path) -> None:
    """Scores as JSON; undefined ones as null."""
    with atomic_output(target, force=True) as file:
        file.write(tables.to_json({key: round(v, 4) for key, v in scores.items()}).encode())
