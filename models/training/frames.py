"""Packed training frames: shards of 8-bit log-mel columns, and random batches from them.

Every batch depends only on a random generator, which trainings seed from the seed and the step: a
resumed run draws what an uninterrupted one would have, without storing a generator's state.
"""

from __future__ import annotations

import json
import math
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
_MIDDLE_DB = (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0
_PER_DB = math.log(10.0) / 20.0
LEVELS_DB = (-14.0, 6.0)
_SILENT_SHARE = 0.06


class FrameShards:
    """Random one-second frames from `train-NNN.npy` shards (uint8 [columns, 128]) in a folder.

    shards: all of them, numbered as in `index` (`train.json`); frames are drawn from those that are
    long enough; folder: where they are. Raises BadInput if none is, or if a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("train-*.npy"))
        if not paths:
            raise BadInput(f"no packed shards (train-*.npy) in {folder}")
        self.shards = [_read_shard(path) for path in paths]
        lengths = np.array([len(shard) for shard in self.shards], dtype=np.float64)
        drawn = np.where(lengths >= analysis.FRAME_HOPS, lengths, 0.0)
        if not drawn.any():
            raise BadInput(f"the packed shards in {folder} are all shorter than a frame")
        self._share = drawn / drawn.sum()
        self.columns = int(lengths.sum())
        self.folder = folder
        self.index = _read_index(folder / "train.json")

    def batch(self, size: int, random: np.random.Generator, augment: bool = True) -> Tensor:
        """[size, 128, 128] float32 in [-1, 1], at random levels, some partly silenced."""
        hops = analysis.FRAME_HOPS
        out = np.empty((size, hops, analysis.N_MELS), np.uint8)
        for row, number in enumerate(random.choice(len(self.shards), size, p=self._share)):
            shard = self.shards[number]
            start = int(random.integers(0, len(shard) - hops + 1))
            out[row] = shard[start : start + hops]
        x = torch.from_numpy(out).float() / 127.5 - 1.0
        if not augment:
            return x
        gain_db = torch.from_numpy(random.uniform(*LEVELS_DB, size).astype(np.float32))
        x = change_level(x, gain_db)
        for silenced in np.flatnonzero(random.random(size) < _SILENT_SHARE):
            cut = int(random.integers(1, hops))
            part = slice(None, cut) if random.random() < 0.5 else slice(cut, None)
            x[silenced, part] = -1.0
        return x


class FrameSource:
    """Batches of augmented frames; for a GPU the packed shards are kept in its memory."""

    def __init__(self, shards: FrameShards, device: torch.device) -> None:
        self._shards, self._device = shards, device
        self._columns: Tensor | None = None
        if device.type == "cuda":
            packed = np.concatenate([np.asarray(shard) for shard in shards.shards])
            self._columns = torch.from_numpy(packed).to(device)

    def batch(self, size: int, random: np.random.Generator) -> Tensor:
        """[size, 128, 128] float32 in [-1, 1] on the device."""
        if self._columns is None:
            return self._shards.batch(size, random).to(self._device)
        return draw_frames(self._columns, size, random)


def draw_frames(columns: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """Frames [size, 128, 128] from packed columns [N, 128] uint8, on the device of the columns.

    Levels and silences as in `FrameShards.batch`. A frame may span two utterances.
    """
    hops = analysis.FRAME_HOPS
    starts = random.integers(0, len(columns) - hops + 1, size)
    gain = random.uniform(*LEVELS_DB, size).astype(np.float32)
    cut = np.where(random.random(size) < _SILENT_SHARE, random.integers(1, hops, size), 0)
    head = random.random(size) < 0.5
    device = columns.device
    hop = torch.arange(hops, device=device)
    x = columns[moved(starts, device)[:, None] + hop].float() / 127.5 - 1.0
    x = change_level(x, moved(gain, device))
    edge = moved(cut, device)[:, None]
    before = moved(head, device)[:, None]
    silent = torch.where(before, hop < edge, (hop >= edge) & (edge > 0))
    return x.masked_fill(silent[..., None], -1.0)


def moved(numbers: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Numbers drawn on the CPU, on a device; does not wait for what CUDA still has to do."""
    tensor = torch.as_tensor(numbers)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rate_points(size: int, random: np.random.Generator) -> Tensor:
    """Rate points [size]: most at 1, the default preset's; the others uniform in [0, 2]."""
    r = np.where(random.random(size) < 0.6, 1.0, random.random(size) * 2.0)
    return torch.from_numpy(r.astype(np.float32))


def _read_shard(path: Path) -> NDArray[np.uint8]:
    """Columns [N, 128], memory-mapped. Raises BadInput if the file is not a shard."""
    try:
        # Not np.load, which also opens archives.
        shard: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, OverflowError, EOFError) as error:
        raise BadInput(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if shard.dtype != np.uint8 or shard.ndim != 2 or shard.shape[1] != analysis.N_MELS:
        raise BadInput(f"{path} holds no packed columns; prepare the data again")
    return shard


def _read_index(path: Path) -> list[dict[str, object]]:
    """The entries of `train.json`, none if it is missing. Raises BadInput if it is damaged."""
    if not path.exists():
        return []
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise BadInput(f"{path} is too large")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        raise BadInput(f"{path} is not a list of utterances; prepare the data again")
    return index


def amplitudes(x: Tensor) -> Tensor:
    """Mel magnitudes of normalised log-mel frames of any shape; -1 maps to 0."""
    decibel = x * _DB_PER_UNIT + _MIDDLE_DB
    return (torch.exp(decibel * _PER_DB) - analysis.FLOOR).clamp_min(0.0)


def log_amplitudes(magnitudes: Tensor) -> Tensor:
    """Normalised log-mel frames in [-1, 1] of mel magnitudes, through the soft floor."""
    decibel = torch.log(magnitudes + analysis.FLOOR) / _PER_DB
    return ((decibel - _MIDDLE_DB) / _DB_PER_UNIT).clamp(-1.0, 1.0)


def change_level(x: Tensor, gain_db: Tensor) -> Tensor:
    """Normalised log-mel frames [B, T, M] at another level ([B] dB), through the soft floor."""
    return log_amplitudes(amplitudes(x) * torch.exp(gain_db * _PER_DB)[:, None, None])
