"""Utterances for training the phone recogniser, transcribed or labelled, in batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BadInput
from models.evaluation.phones import transcript_phones
from models.networks.features import SUBSAMPLING
from models.phones import PHONES, TIMIT_PHONES
from models.training.frames import LEVELS_DB, FrameShards, change_level, moved

MAX_COLUMNS = 2048  # 16 s; longer utterances are left out
# Augmentation: ranges of factors; the largest masks in mel bands, and in columns and as a share.
_SPEEDS, _PITCHES = (0.88, 1.12), (0.92, 1.08)
_MASKED_BANDS, _MASKED_COLUMNS = 20, (24, 0.06)
_CLASS = {phone: k + 1 for k, phone in enumerate(PHONES)}
_TIMIT_CLASS = {phone: k + 1 for k, phone in enumerate(TIMIT_PHONES)}


@dataclass(frozen=True)
class Utterance:
    """Columns [start, end) of a shard and the classes of its phones."""

    shard: int
    start: int
    end: int
    speaker: str
    phones: tuple[int, ...]

    @property
    def columns(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Batch:
    """Utterances in the form that CTC takes.

    x: [B, T, 128], padded with silence; steps: output steps of each, on the CPU; phones: classes
    [B, L], padded with 0; lengths: phones of each, on the CPU.
    """

    x: Tensor
    steps: Tensor
    phones: Tensor
    lengths: Tensor


def english_utterances(shards: FrameShards) -> list[Utterance]:
    """The English utterances whose words are all in the dictionary, with first pronunciations.

    Raises BadInput if there are none.
    """
    found = []
    for entry in shards.index:
        text, language = str(entry.get("text") or ""), str(entry.get("lang") or "")
        if not text or language.lower().split("-")[0] != "en":
            continue
        shard, start, end = _place(entry, shards)
        words = transcript_phones(text)
        if not words or end - start > MAX_COLUMNS:
            continue
        phones = tuple(_CLASS[phone] for variants in words for phone in variants[0])
        if phones and _fits(phones, end - start):
            found.append(Utterance(shard, start, end, str(entry.get("speaker") or ""), phones))
    if not found:
        raise BadInput("no transcribed English utterance in the training data")
    return found


def labelled_utterances(shards: FrameShards) -> list[Utterance]:
    """The utterances with phones of `TIMIT_PHONES`, none where the data has transcripts at most.

    Raises BadInput if an index is damaged.
    """
    found = []
    for entry in shards.index:
        names = str(entry.get("phones") or "").split()
        if not names:
            continue
        shard, start, end = _place(entry, shards)
        if not set(names) <= _TIMIT_CLASS.keys():
            raise BadInput("train.json is damaged: unknown phones; prepare the data again")
        phones = tuple(_TIMIT_CLASS[name] for name in names)
        if end - start <= MAX_COLUMNS and _fits(phones, end - start):
            found.append(Utterance(shard, start, end, str(entry.get("speaker") or ""), phones))
    return found


def _fits(phones: tuple[int, ...], columns: int) -> bool:
    return _steps_needed(phones) <= columns // SUBSAMPLING


def _steps_needed(phones: tuple[int, ...]) -> int:
    """Steps that CTC needs: one for each phone, and a blank between two equal ones."""
    return len(phones) + sum(a == b for a, b in pairwise(phones))


def _place(entry: dict[str, object], shards: FrameShards) -> tuple[int, int, int]:
    """(shard, start, end) of an utterance. Raises BadInput if the shards lack these columns."""
    try:
        shard, start, end = (int(str(entry[key])) for key in ("shard", "start", "end"))
    except (KeyError, ValueError) as error:
        raise BadInput(f"train.json is damaged: {error}; prepare the data again") from error
    if not (0 <= shard < len(shards.shards) and 0 <= start < end <= len(shards.shards[shard])):
        raise BadInput("train.json does not fit the packed shards; prepare them again")
    return shard, start, end


def hold_out(
    utterances: list[Utterance], share: float = 0.06
) -> tuple[list[Utterance], list[Utterance]]:
    """Training and held-out utterances; speakers are held out by a hash of their names.

    Raises BadInput if all utterances are of one speaker.
    """
    names = {u.speaker for u in utterances}
    speakers = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(speakers) < 2:
        raise BadInput("the recogniser needs at least two speakers, one of them to be held out")
    held = set(speakers[: max(round(share * len(speakers)), 1)])
    return (
        [u for u in utterances if u.speaker not in held],
        [u for u in utterances if u.speaker in held],
    )


def batches(
    utterances: list[Utterance], columns: int, random: np.random.Generator
) -> list[list[Utterance]]:
    """Batches of one epoch, shuffled: similar lengths, at most `columns` columns with padding."""
    jitter = random.uniform(0.9, 1.1, len(utterances))
    order = np.argsort([u.columns * j for u, j in zip(utterances, jitter, strict=True)])
    groups: list[list[Utterance]] = []
    longest = 0
    for number in order:
        utterance = utterances[int(number)]
        longest = max(longest, utterance.columns)
        if groups and longest * (len(groups[-1]) + 1) <= columns:
            groups[-1].append(utterance)
        else:
            groups.append([utterance])
            longest = utterance.columns
    return [groups[int(k)] for k in random.permutation(len(groups))]


def load_batch(
    shards: FrameShards,
    group: list[Utterance],
    random: np.random.Generator | None,
    device: torch.device,
) -> Batch:
    """A batch of utterances on a device; with `random`, each of them `_augmented`."""
    columns = np.array([u.columns for u in group])
    packed: NDArray[np.uint8] = np.zeros((len(group), int(columns.max()), 128), np.uint8)
    phones = np.zeros((len(group), max(len(u.phones) for u in group)), np.int64)
    for row, u in enumerate(group):
        packed[row, : u.columns] = shards.shards[u.shard][u.start : u.end]
        phones[row, : len(u.phones)] = u.phones
    x = moved(packed, device).float() / 127.5 - 1.0
    if random is not None:
        fewest = np.array([SUBSAMPLING * _steps_needed(u.phones) for u in group])
        x, columns = _augmented(x, columns, fewest, random)
    return Batch(
        F.pad(x, (0, 0, 0, -x.shape[1] % SUBSAMPLING), value=-1.0),
        torch.from_numpy(columns // SUBSAMPLING),
        moved(phones, device),
        torch.tensor([len(u.phones) for u in group]),
    )


def _augmented(
    x: Tensor,
    columns: NDArray[np.int64],
    fewest: NDArray[np.int64],
    random: np.random.Generator,
) -> tuple[Tensor, NDArray[np.int64]]:
    """Utterances x [B, T, 128] of another speed, pitch and level, and their new `columns` [B].

    None gets shorter than `fewest` columns. Parts are masked (SpecAugment, Park et al. 2019).
    """
    count, device = len(columns), x.device
    gain = random.uniform(*LEVELS_DB, count).astype(np.float32)
    x = change_level(x, moved(gain, device))
    speed, pitch = random.uniform(*_SPEEDS, count), random.uniform(*_PITCHES, count)
    stretched = np.maximum(np.rint(columns / speed).astype(np.int64), fewest)
    longest = int(stretched.max())
    # `grid_sample` calls the outer edges of the first and the last column -1 and 1.
    rows = (np.arange(longest) + 0.5) * (columns / stretched)[:, None] * 2.0 / x.shape[1] - 1.0
    bands = (np.arange(128) + 0.5) * pitch[:, None] * 2.0 / 128.0 - 1.0
    down, across = (moved(a.astype(np.float32), device) for a in (rows, bands))
    grid = torch.stack(torch.broadcast_tensors(across[:, None], down[..., None]), -1)
    x = F.grid_sample(x[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    masked = _runs(np.full(count, 128), _MASKED_BANDS, 1.0, random, device)[:, None]
    masked = masked | _runs(stretched, *_MASKED_COLUMNS, random, device)[..., None]
    padding = torch.arange(longest, device=device) >= moved(stretched, device)[:, None]
    return x.masked_fill(masked | padding[..., None], -1.0), stretched


def _runs(
    lengths: NDArray[np.int64],
    most: int,
    share: float,
    random: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """Two random runs of True in each row [B, longest], of `most` places and `share` of its length
    at most."""
    place = torch.arange(int(lengths.max()), device=device)
    found = torch.zeros(len(lengths), len(place), dtype=torch.bool, device=device)
    for _ in range(2):
        length = random.integers(0, np.minimum(most, share * lengths).astype(np.int64) + 1)
        start = moved(random.integers(0, lengths - length + 1), device)[:, None]
        found |= (place >= start) & (place < start + moved(length, device)[:, None])
    return found
