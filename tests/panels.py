"""Panels of listeners that are simulated, as the pages of listening tests would save their answers.

Every listener has a leaning of their own, another for each system, and rates no trial like the one
before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLIPS = [f"clip-{k}.flac" for k in range(8)]
REFERENCE = {"role": "reference", "name": "original"}
ANCHORS = [{"role": "anchor", "name": f"{kilohertz} kHz low-pass"} for kilohertz in ("3.5", "7")]

Scores = Callable[[int], Sequence[float]]


def identity(*parts: object) -> str:
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()


def result(kind: str, trials: Sequence[Any], conditions: Sequence[Any], **changes: Any) -> Any:
    """A whole result as plain values; changes: of its fields."""
    values = {
        "sotto": "listening test",
        "form": 1,
        "test": {"id": identity(kind), "kind": kind, "title": "speech"},
        "session": identity(kind, changes.get("listener", "Ada")),
        "listener": "Ada",
        "planned": len(trials),
        "conditions": list(conditions),
        "trials": list(trials),
    }
    return {**values, **changes}


def mushra(
    listener: str, systems: Sequence[str], scores: Scores, clips: Sequence[str] = CLIPS
) -> Any:
    """Ratings; scores: of a clip's place, of the reference, both anchors and then the systems."""
    conditions = [REFERENCE, *ANCHORS, *({"role": "system", "name": name} for name in systems)]
    trials = [
        {
            "clip": clip,
            "ratings": [
                {"condition": place, "score": score} for place, score in enumerate(scores(k))
            ],
        }
        for k, clip in enumerate(clips)
    ]
    return result("mushra", trials, conditions, listener=listener)


def attentive(means: Mapping[str, float], rng: np.random.Generator) -> Scores:
    """The scores of somebody who listens; means: of the systems, over all such people."""
    leaning = rng.normal(0, 5)
    tastes = rng.normal(0, 4, len(means))

    def scores(clip: int) -> list[float]:
        own = np.array(list(means.values())) + leaning + tastes + rng.normal(0, 7, len(means))
        reference = 100.0 if rng.random() < 0.9 else float(rng.integers(91, 100))
        low = float(np.clip(rng.normal(35, 9), 0, 100))
        middle = float(np.clip(rng.normal(75, 5), 0, 90))
        return [reference, low, middle, *np.clip(own, 0, 100).round(1).tolist()]

    return scores


def panel(means: Mapping[str, float], count: int, seed: int) -> list[Any]:
    """The results of so many attentive listeners."""
    rng = np.random.default_rng(seed)
    return [mushra(f"listener {k}", list(means), attentive(means, rng)) for k in range(count)]


def save(results: Sequence[Any], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{k:03}.json" for k in range(len(results))]
    for file, values in zip(files, results, strict=True):
        file.write_text(json.dumps(values))
    return files
