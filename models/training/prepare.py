"""Preparation of training data: packs recordings into shards of 8-bit log-mel columns.

`train-NNN.npy` holds uint8 columns [N, 128] of many utterances, at most 30 MiB; `train.json` lists
for each utterance its shard, columns, speaker, language, corpus and transcript.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput, SottoError
from codec.files.audio import AudioReader
from codec.files.paths import atomic_output
from codec.signal import analysis

SHARD_BYTES = 30 << 20
SHORTEST = 2048  # samples: an eighth of a second
_LONGEST_FILE = 4 * 3600 * analysis.SAMPLE_RATE
_MAX_TABLE_BYTES = 256 << 20
_COLUMNS = ("file", "start", "end", "speaker", "lang", "corpus", "text")
_LEAD = (analysis.WINDOW - analysis.HOP) // 2


@dataclass(frozen=True)
class Prepared:
    """Utterances and hours packed, shards written, and the files left out with reasons."""

    utterances: int
    hours: float
    shards: int
    skipped: dict[str, str]


Row = dict[str, str]
Packed = tuple[Row, NDArray[np.uint8]]


def read_table(data: Path) -> dict[str, list[Row]]:
    """The rows of `train.tsv` by file. Raises BadInput if the table cannot be used."""
    table = data / "train.tsv"
    if not table.is_file():
        raise BadInput(f"{data} has no train.tsv")
    if table.stat().st_size > _MAX_TABLE_BYTES:
        raise BadInput(f"{table} is too large")
    files: dict[str, list[Row]] = {}
    try:
        with open(table, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [name for name in _COLUMNS[:3] if name not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(f"{table} lacks the column {missing[0]!r}")
            for line, row in enumerate(reader, 2):
                entry = {name: row.get(name) or "" for name in _COLUMNS}
                if not (entry["start"].isdecimal() and entry["end"].isdecimal()):
                    raise BadInput(f"{table}:{line}: start and end must be sample numbers")
                if Path(entry["file"]).name != entry["file"] or not entry["file"]:
                    raise BadInput(f"{table}:{line}: {entry['file']!r} is not a plain file name")
                files.setdefault(entry["file"], []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{table}: {error}") from error
    if not files:
        raise BadInput(f"{table} lists no utterances")
    return files


def prepare(
    data: Path,
    target: Path,
    *,
    processes: int = 2,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Pack `data/train/*` into shards in `target`; files that cannot be read are skipped.

    The files are shuffled, so every shard is a fair sample. `train.json` is written last: a folder
    without it is incomplete. Raises BadInput if nothing could be packed.
    """
    files = read_table(data)
    names = sorted(files)
    random.Random(seed).shuffle(names)
    target.mkdir(parents=True, exist_ok=True)
    for old in (target / "train.json", *target.glob("train-*.npy")):
        old.unlink(missing_ok=True)
    jobs = [(data / "train" / name, files[name]) for name in names]
    index: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    shard: list[NDArray[np.uint8]] = []
    room = max(shard_bytes - 4096, 1 << 14) // analysis.N_MELS  # columns; less the header
    size = number = columns = 0

    def flush() -> None:
        nonlocal shard, size, number
        if shard:
            with atomic_output(target / f"train-{number:03d}.npy") as file:
                np.save(file, np.concatenate(shard))
            shard, size, number = [], 0, number + 1

    for done, (name, packed, trouble) in enumerate(_packed(jobs, processes), 1):
        if trouble:
            skipped[name] = trouble
        for row, all_columns in packed:
            pieces = np.split(all_columns, range(room, len(all_columns), room))
            for piece in pieces:
                if size + len(piece) > room:
                    flush()
                columns_at = {"shard": number, "start": size, "end": size + len(piece)}
                entry = columns_at | {k: row[k] for k in _COLUMNS[3:]}
                if len(pieces) > 1:
                    entry["text"] = ""  # which words are in which piece is unknown
                index.append(entry)
                shard.append(piece)
                size, columns = size + len(piece), columns + len(piece)
        progress(done, len(jobs))
    flush()
    if not index:
        reason = next(iter(skipped.values()), "no utterance is long enough")
        raise BadInput(f"nothing in {data} could be packed: {reason}")
    with atomic_output(target / "train.json") as file:
        file.write(json.dumps(index).encode())
    hours = columns * analysis.HOP / analysis.SAMPLE_RATE / 3600
    return Prepared(len(index), hours, number, skipped)


def _packed(
    jobs: list[tuple[Path, list[Row]]], processes: int
) -> Iterator[tuple[str, list[Packed], str]]:
    if processes <= 1:
        yield from map(pack_file, jobs)
        return
    # Not forked: that is unsafe once a process has run torch or numba threads.
    with multiprocessing.get_context("spawn").Pool(processes, _ignore_interrupts) as pool:
        yield from pool.imap(pack_file, jobs, chunksize=4)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def pack_file(job: tuple[Path, list[Row]]) -> tuple[str, list[Packed], str]:
    """(name, utterances as uint8 columns, the reason why nothing could be read or "")."""
    path, rows = job
    try:
        samples = _read(path)
    except (SottoError, OSError) as error:
        return path.name, [], str(error)
    packed = []
    for row in rows:
        piece = samples[int(row["start"]) : int(row["end"])]
        if len(piece) >= SHORTEST:
            x = analysis.log_mel(np.pad(piece, (_LEAD, _LEAD)))
            packed.append((row, np.round((x + 1.0) * 127.5).astype(np.uint8)))
    return path.name, packed, ""


def _read(path: Path) -> NDArray[np.float32]:
    parts, length = [], 0
    with AudioReader(path) as reader:
        for block in reader:
            parts.append(block)
            length += len(block)
            if length > _LONGEST_FILE:
                raise BadInput(f"{path.name} is longer than four hours")
    if not parts:
        raise BadInput(f"{path.name} is empty")
    return np.concatenate(parts)
