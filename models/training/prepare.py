"""Preparation of training data: packs recordings into shards of 8-bit log-mel columns.

The recordings are those that a table `train.tsv` lists, or all audio files of a folder. TIMIT is
known by its layout (`models.training.timit`): its core test set goes into a folder of its own.
`train-NNN.npy` holds uint8 columns [N, 128] of many utterances, at most 30 MiB; `train.json` lists
for each utterance its shard, columns, speaker, language, corpus and transcript.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput, SottoError
from codec.files.audio import AudioReader
from codec.files.paths import atomic_output, display_name, os_errors
from codec.signal import analysis
from models.elsewhere import Elsewhere
from models.evaluation.clips import Entry, find_clips
from models.training import timit
from models.workers.processes import OnProcesses

CORE_TEST_FOLDER = "core-test"  # beside the shards, with shards of its own
SHARD_BYTES = 30 << 20
SHORTEST = 2048  # samples: an eighth of a second
_LONGEST_HOURS = 4
_LONGEST_FILE = _LONGEST_HOURS * 3600 * analysis.SAMPLE_RATE
_PIECE = 60 * analysis.SAMPLE_RATE  # of a recording without a table, which may be of hours
_MOST_FILES = 2_000_000
_MAX_TABLE_BYTES = 256 << 20
_COLUMNS = ("file", "start", "end", "speaker", "lang", "corpus", "text")
_LEAD = (analysis.WINDOW - analysis.HOP) // 2


@dataclass(frozen=True)
class Prepared:
    """Utterances and hours packed, shards written, and the files left out with reasons.

    skipped: also files of which only the beginning could be used.
    """

    utterances: int
    hours: float
    shards: int
    skipped: dict[str, str]


Row = dict[str, str]
Packed = tuple[Row, NDArray[np.uint8]]
PackedFile = tuple[str, list[Packed], str]  # as `pack_file` returns it


@dataclass(frozen=True)
class Recording:
    """A file and its utterances.

    whole: they are not cut from it, but are all of it; labels: the file of its phones, if it has
    one; core_test: nothing may be trained on it.
    """

    name: str
    path: Path
    rows: list[Row]
    whole: bool = False
    labels: Path | None = None
    core_test: bool = False


def recordings(data: Path) -> list[Recording]:
    """What is to be packed, by name: what `train.tsv` lists, or TIMIT, or every audio file.

    Without `train.tsv`, speakers and transcripts are those of `find_clips`. Raises BadInput if the
    folder or its table cannot be used.
    """
    with os_errors("read", data):
        listed = (data / "train.tsv").exists()
    if listed:
        files = read_table(data)
        return [Recording(name, data / "train" / name, files[name]) for name in sorted(files)]
    corpus = timit.find_timit(data)
    if corpus is not None:
        return [_labelled(each) for each in timit.sentences(corpus)]
    clips = find_clips(data, _MOST_FILES)
    return [Recording(each.name, each.path, [_row(each)], whole=True) for each in clips]


def _labelled(sentence: timit.Sentence) -> Recording:
    row = {
        "file": sentence.name, "speaker": sentence.speaker, "corpus": "TIMIT", "lang": "en",
        "text": "",
    }  # fmt: skip
    return Recording(sentence.name, sentence.path, [row], True, sentence.labels, sentence.core_test)


def _row(clip: Entry) -> Row:
    return {
        "file": clip.name, "speaker": clip.speaker, "corpus": clip.corpus,
        "text": clip.text or "", "lang": "en" if clip.text else "",
    }  # fmt: skip


def read_table(data: Path) -> dict[str, list[Row]]:
    """The rows of `train.tsv` by file. Raises BadInput if the table cannot be used."""
    table = data / "train.tsv"
    if not table.is_file():
        raise BadInput(f"{table} is not a file")
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
    elsewhere: Elsewhere | None = None,
) -> Prepared:
    """Pack the recordings of a folder into shards in `target`; unreadable files are skipped.

    elsewhere: calls a function of this module for many recordings on other machines, in place of
    `processes` of this one.

    The files are shuffled, so every shard is a fair sample. `train.json` is written last: a folder
    without it is incomplete. Raises BadInput if nothing could be packed.
    """
    # Absolute: other machines run in other folders.
    jobs = recordings(data if elsewhere is None else data.absolute())
    random.Random(seed).shuffle(jobs)
    training = [job for job in jobs if not job.core_test]
    held = [job for job in jobs if job.core_test]
    shutil.rmtree(target / CORE_TEST_FOLDER, ignore_errors=True)
    skipped: dict[str, str] = {}

    def more(done: int, total: int) -> None:
        progress(len(held) + done, len(jobs))

    if held:
        apart = target / CORE_TEST_FOLDER
        packed = _packed(held, processes, elsewhere)
        skipped = _pack(data, held, packed, apart, shard_bytes, progress).skipped
    packed = _packed(training, processes, elsewhere)
    done = _pack(data, training, packed, target, shard_bytes, more)
    return replace(done, skipped={**skipped, **done.skipped})


def _pack(
    data: Path,
    jobs: list[Recording],
    recorded: Iterable[PackedFile],
    target: Path,
    shard_bytes: int,
    progress: Callable[[int, int], None],
) -> Prepared:
    """Pack recordings of `data` in this order; recorded: what `pack_file` made of each."""
    target.mkdir(parents=True, exist_ok=True)
    for old in (target / "train.json", *target.glob("train-*.npy")):
        old.unlink(missing_ok=True)
    index: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    shard: list[NDArray[np.uint8]] = []
    room = max(shard_bytes - 4096, 1 << 14) // analysis.N_MELS  # columns; less the header
    size = number = columns = 0

    def flush() -> None:
        nonlocal shard, size, number
        if shard:
            with atomic_output(target / f"train-{number:03d}.npy", force=True) as file:
                np.save(file, np.concatenate(shard))
            shard, size, number = [], 0, number + 1

    for done, (name, packed, trouble) in enumerate(recorded, 1):
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
                elif row.get("phones"):
                    entry["phones"] = row["phones"]
                index.append(entry)
                shard.append(piece)
                size, columns = size + len(piece), columns + len(piece)
        progress(done, len(jobs))
    flush()
    if not index:
        reason = next(
            (f"{display_name(name)}: {why}" for name, why in skipped.items()),
            "no utterance is long enough",
        )
        raise BadInput(f"nothing in {data} could be packed: {reason}")
    with atomic_output(target / "train.json", force=True) as file:
        file.write(json.dumps(index).encode())
    hours = columns * analysis.HOP / analysis.SAMPLE_RATE / 3600
    return Prepared(len(index), hours, number, skipped)


def _packed(
    jobs: list[Recording], processes: int, elsewhere: Elsewhere | None
) -> Iterator[PackedFile]:
    if elsewhere is None and processes <= 1:
        yield from map(pack_file, jobs)
        return
    elsewhere = elsewhere or OnProcesses(processes)
    for job, result in zip(jobs, elsewhere(pack_file, jobs), strict=True):
        yield (job.name, [], result) if isinstance(result, str) else result


def pack_file(job: Recording) -> PackedFile:
    """(name, utterances as uint8 columns, why nothing or not all could be used or "")."""
    packed: list[Packed] = []
    trouble = ""
    try:
        if job.labels is not None:
            (row,) = job.rows
            phones = " ".join(timit.read_phones(job.labels))
            sphere = timit.is_sphere(job.path)
            samples = timit.read_sphere(job.path) if sphere else _read(job.path)
            if len(samples) >= SHORTEST:
                packed.append(({**row, "phones": phones}, _columns(samples)))
        elif job.whole:
            trouble = _pack_whole(job, packed)
        else:
            samples = _read(job.path)
            for row in job.rows:
                piece = samples[int(row["start"]) : int(row["end"])]
                if len(piece) >= SHORTEST:
                    packed.append((row, _columns(piece)))
    except (SottoError, OSError) as error:
        return job.name, [], str(error)
    return job.name, packed, trouble


def _pack_whole(job: Recording, packed: list[Packed]) -> str:
    """Pack a recording piece by piece; returns why not all of it could be used, or ""."""
    (row,) = job.rows
    untold = {**row, "text": ""}  # which words are in which piece is unknown
    parts: list[NDArray[np.float32]] = []
    held, length, loud = 0, 0, False
    with AudioReader(job.path) as reader:
        for block in reader:
            parts.append(block)
            loud = loud or bool(block.any())
            held, length = held + len(block), length + len(block)
            while held >= _PIECE + SHORTEST:  # what remains can be packed too
                samples = np.concatenate(parts)
                packed.append((untold, _columns(samples[:_PIECE])))
                parts, held = [samples[_PIECE:]], held - _PIECE
            if length > _LONGEST_FILE:
                return f"only its first {_LONGEST_HOURS} hours are used"
    if length < SHORTEST or not loud:
        packed.clear()
        return "it is silent" if length >= SHORTEST else "it is shorter than an eighth of a second"
    packed.append((untold if packed else row, _columns(np.concatenate(parts))))
    return ""


def _columns(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit log-mel columns [N, 128] of samples."""
    x = analysis.log_mel(np.pad(samples, (_LEAD, _LEAD)))
    return np.round((x + 1.0) * 127.5).astype(np.uint8)


def _read(path: Path) -> NDArray[np.float32]:
    parts, length = [], 0
    with AudioReader(path) as reader:
        for block in reader:
            parts.append(block)
            length += len(block)
            if length > _LONGEST_FILE:
                raise BadInput(f"{path.name} is longer than {_LONGEST_HOURS} hours")
    if not parts:
        raise BadInput(f"{path.name} is empty")
    return np.concatenate(parts)
