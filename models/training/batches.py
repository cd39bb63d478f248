"""Random training frames where they are needed: drawn anew for every step from its number alone.

Every draw is a function of (seed, process, step), so that a resumed run sees what an uninterrupted
one would have, and no state of a random generator has to be kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.signal import analysis
from models.training.frames import FrameShards, change_level

_LEVELS_DB = (-14.0, 6.0)
_SILENT_SHARE = 0.06


class FrameSource:
    """Batches of augmented frames; on a GPU the packed shards live in its memory."""

    def __init__(self, shards: FrameShards, device: torch.device) -> None:
        self.shards, self.device = shards, device
        self._columns: Tensor | None = None
        if device.type == "cuda":
            packed = np.concatenate([np.asarray(shard) for shard in shards.shards])
            self._columns = torch.from_numpy(packed).to(device)

    def batch(self, size: int, random: np.random.Generator) -> Tensor:
        """[size, 128, 128] float32 in [-1, 1] on the device."""
        if self._columns is None:
            self.shards.random = random
            return self.shards.batch(size).to(self.device)
        return draw_frames(self._columns, size, random)


def draw_frames(columns: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """Frames [size, 128, 128] out of packed columns [N, 128] uint8, on the device of the columns.

    Levels and silences as in `FrameShards.batch`. A frame may span two utterances.
    """
    hops = analysis.FRAME_HOPS
    starts = random.integers(0, len(columns) - hops + 1, size)
    gain = random.uniform(*_LEVELS_DB, size).astype(np.float32)
    cut = np.where(random.random(size) < _SILENT_SHARE, random.integers(1, hops, size), 0)
    head = random.random(size) < 0.5
    device = columns.device
    hop = torch.arange(hops, device=device)
    x = columns[torch.from_numpy(starts).to(device)[:, None] + hop].float() / 127.5 - 1.0
    x = change_level(x, torch.from_numpy(gain).to(device))
    edge = torch.from_numpy(cut).to(device)[:, None]
    before = torch.from_numpy(head).to(device)[:, None]
    silent = torch.where(before, hop < edge, (hop >= edge) & (edge > 0))
    return x.masked_fill(silent[..., None], -1.0)


def rate_points(size: int, random: np.random.Generator) -> Tensor:
    """[size] rate points: most at 1, the default preset's; the others anywhere in [0, 2]."""
    r = np.where(random.random(size) < 0.6, 1.0, random.random(size) * 2.0)
    return torch.from_numpy(r.astype(np.float32))
