"""Packed training frames: shards of 8-bit log-mel columns, and random batches from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BadInput
from codec.signal import analysis

_MAX_INDEX_BYTES = 256 << 20
_DB_PER_UNIT = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0


class FrameShards:
    """Random one-second frames out of `train-NNN.npy` shards (uint8 [columns, 128]) in a folder.

    shards: all of them, by the numbers that `index` (`train.json`) refers to; frames are drawn from
    those that hold one. Raises BadInput when none does, or when a file is damaged.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        paths = sorted(folder.glob("train-*.npy"))
        if not paths:
            raise BadInput(f"no packed shards (train-*.npy) in {folder}")
        self.shards = [_read_shard(path) for path in paths]
        lengths = np.array([len(shard) for shard in self.shards], dtype=np.float64)
        drawn = np.where(lengths >= analysis.FRAME_HOPS, lengths, 0.0)
        if not drawn.any():
            raise BadInput(f"the packed shards in {folder} are all shorter than a frame")
        self.share = drawn / drawn.sum()
        self.columns = int(lengths.sum())
        self.random = np.random.default_rng(seed)
        self.index = _read_index(folder / "train.json")

    def batch(self, size: int, augment: bool = True) -> Tensor:
        """[size, 128, 128] float32 in [-1, 1], at random levels, some with stretches of silence."""
        hops = analysis.FRAME_HOPS
        out = np.empty((size, hops, analysis.N_MELS), np.uint8)
        for row, shard_number in enumerate(
            self.random.choice(len(self.shards), size, p=self.share)
        ):
            shard = self.shards[shard_number]
            start = int(self.random.integers(0, len(shard) - hops + 1))
            out[row] = shard[start : start + hops]
        x = torch.from_numpy(out).float() / 127.5 - 1.0
        if not augment:
            return x
        gain_db = torch.from_numpy(self.random.uniform(-14.0, 6.0, size).astype(np.float32))
        x = change_level(x, gain_db)
        for silenced in np.flatnonzero(self.random.random(size) < 0.06):
            cut = int(self.random.integers(1, hops))
            if self.random.random() < 0.5:
                x[silenced, :cut] = -1.0
            else:
                x[silenced, cut:] = -1.0
        return x


def _read_shard(path: Path) -> NDArray[np.uint8]:
    """Columns [N, 128], left on disk until they are used. Raises BadInput if it is no shard."""
    try:
        # Not np.load, which also opens archives.
        shard: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, OverflowError, EOFError) as error:
        raise BadInput(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if shard.dtype != np.uint8 or shard.ndim != 2 or shard.shape[1] != analysis.N_MELS:
        raise BadInput(f"{path} holds no packed columns; prepare the data again")
    return shard


def _read_index(path: Path) -> list[dict[str, object]]:
    """What `train.json` lists; nothing where there is none. Raises BadInput if it is damaged."""
    if not path.exists():
        return []
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise BadInput(f"{path} is too large")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        raise BadInput(f"{path} is no list of utterances; prepare the data again")
    return index


def change_level(x: Tensor, gain_db: Tensor) -> Tensor:
    """Normalised log-mel frames [B, T, M] at another level ([B] dB), through the soft floor."""
    scale = np.log(10.0) / 20.0
    decibel = x * _DB_PER_UNIT + (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0
    amplitude = torch.exp(decibel * scale).sub_(analysis.FLOOR).clamp_min_(0.0)
    amplitude *= torch.exp(gain_db * scale)[:, None, None]
    decibel = torch.log(amplitude + analysis.FLOOR) / scale
    y = (decibel - (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0) / _DB_PER_UNIT
    return y.clamp_(-1.0, 1.0)
