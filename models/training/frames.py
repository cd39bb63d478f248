"""Packed training frames: shards of 8-bit log-mel columns, and random batches from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec import analysis

_DB_PER_UNIT = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0


class FrameShards:
    """Random one-second frames out of `train-NNN.npy` shards (uint8 [columns, 128]) in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        paths = sorted(folder.glob("train-*.npy"))
        if not paths:
            raise FileNotFoundError(f"no packed shards (train-*.npy) in {folder}")
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        lengths = np.array([len(shard) for shard in self.shards], dtype=np.float64)
        self.share = lengths / lengths.sum()
        self.columns = int(lengths.sum())
        self.random = np.random.default_rng(seed)
        index_path = folder / "train.json"
        self.index: list[dict[str, object]] = (
            json.loads(index_path.read_text()) if index_path.exists() else []
        )

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


def change_level(x: Tensor, gain_db: Tensor) -> Tensor:
    """Normalised log-mel frames [B, T, M] at another level ([B] dB), through the soft floor."""
    scale = np.log(10.0) / 20.0
    decibel = x * _DB_PER_UNIT + (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0
    amplitude = torch.exp(decibel * scale).sub_(analysis.FLOOR).clamp_min_(0.0)
    amplitude *= torch.exp(gain_db * scale)[:, None, None]
    decibel = torch.log(amplitude + analysis.FLOOR) / scale
    y = (decibel - (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0) / _DB_PER_UNIT
    return y.clamp_(-1.0, 1.0)
