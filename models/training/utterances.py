"""Utterances for training the phone recogniser, transcribed or labelled, in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BadInput
from models.evaluation.phones import transcript_phones
from models.networks.features import SUBSAMPLING
from models.phones import PHONES, TIMIT_PHONES
from models.training.frames import LEVELS_DB, FrameShards, change_level

MAX_COLUMNS = 2048  # 16 s; longer utterances are left out
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

    x: [B, T, 128], padded with silence; steps: output steps of each; phones: of all utterances,
    concatenated; lengths: phones of each.
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
    """CTC needs a step for each phone, and a blank between two equal ones."""
    needed = len(phones) + sum(a == b for a, b in pairwise(phones))
    return needed <= columns // SUBSAMPLING


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
    shards: FrameShards, group: list[Utterance], random: np.random.Generator | None
) -> Batch:
    """A batch of utterances; with `random`, at random levels and with parts masked."""
    longest = max(u.columns for u in group)
    longest += -longest % SUBSAMPLING
    packed: NDArray[np.uint8] = np.zeros((len(group), longest, 128), np.uint8)
    for row, u in enumerate(group):
        packed[row, : u.columns] = shards.shards[u.shard][u.start : u.end]
    x = torch.from_numpy(packed).float() / 127.5 - 1.0
    if random is not None:
        gain = random.uniform(*LEVELS_DB, len(group)).astype(np.float32)
        x = change_level(x, torch.from_numpy(gain))
        for row, utterance in enumerate(group):
            for rows, bands in _masks(utterance.columns, random):
                x[row, rows, bands] = -1.0
    return Batch(
        x,
        torch.tensor([u.columns // SUBSAMPLING for u in group]),
        torch.tensor([phone for u in group for phone in u.phones]),
        torch.tensor([len(u.phones) for u in group]),
    )


def _masks(columns: int, random: np.random.Generator) -> Iterator[tuple[slice, slice]]:
    """A range of mel bands and a run of columns, lighter than SpecAugment (Park et al. 2019)."""
    width = int(random.integers(0, 17))
    low = int(random.integers(0, 128 - width))
    yield slice(0, columns), slice(low, low + width)
    length = int(random.integers(0, min(columns // 20, 24) + 1))
    start = int(random.integers(0, columns - length + 1))
    yield slice(start, start + length), slice(0, 128)
