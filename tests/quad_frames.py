"""Latents that mostly are at rest, and tables of their quads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codec.entropy.quads import ESCAPE, QuadCounts
from models.training.quad_rate import quads_of, whole_counts

STEPS, CHANNELS, LEVELS, REST = 14, 6, 9, 4


def frame(seed: int, steps: int = STEPS) -> NDArray[np.int8]:
    """Latents [steps, CHANNELS], more at rest in later channels."""
    random = np.random.default_rng(seed)
    drawn = random.laplace(0.0, 1.0 / np.arange(1, CHANNELS + 1), (steps, CHANNELS))
    return np.clip(drawn.round() + REST, 0, LEVELS - 1).astype(np.int8)


def maps(count: int) -> torch.Tensor:
    """Frames as maps [count, CHANNELS, 1, 16]."""
    return torch.from_numpy(np.stack([frame(seed, 16).T[:, None] for seed in range(count)]))


def even() -> QuadCounts:
    """Counts of quads and pairs that all occurred once."""
    return QuadCounts(np.ones(ESCAPE + 1, np.int64), np.ones((LEVELS, LEVELS), np.int64), REST)


COUNTS = whole_counts(*even().counted(quads_of(maps(60))), REST)
