"""The clips of a benchmark: a folder of speech, with speakers and transcripts if known."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput, SottoError
from codec.files.audio import READABLE, AudioReader
from codec.files.paths import display_name, os_errors
from codec.signal.samples import SAMPLE_RATE

MAX_FILES = 100_000
MAX_TABLE_BYTES = 32 << 20
MAX_TABLES = 16
MIN_SECONDS = 0.5

# Tags of up to 35 characters are enough for every language (RFC 5646, section 4.4.1).
_LANGUAGE = re.compile(r"[A-Za-z0-9-]{1,35}")


@dataclass(frozen=True)
class Entry:
    """A clip before it is read.

    text: its English transcript, if one is known; language: a tag such as "en-GB", "" if unknown.
    """

    path: Path
    name: str
    speaker: str
    corpus: str = ""
    text: str | None = None
    language: str = ""


@dataclass(frozen=True)
class Clip:
    """Samples [n] float32 at 16 kHz; text is None if the clip was cropped.

    clean: [n] as it was read, if the samples are those after a condition.
    """

    name: str
    speaker: str
    corpus: str
    samples: NDArray[np.float32]
    text: str | None = None
    language: str = ""
    clean: NDArray[np.float32] | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    @property
    def original(self) -> NDArray[np.float32]:
        """What was said, before any condition: [n]."""
        return self.samples if self.clean is None else self.clean


def find_clips(folder: Path, most: int = MAX_FILES) -> list[Entry]:
    """All audio files under `folder`, by name, with the details that tables give.

    A table is a `.tsv` in the folder or its parent, with a column `file` and any of `speaker`,
    `corpus`, `lang` and `text`. Without one, each sub-folder counts as one speaker, and so does
    each clip at the top level. Raises BadInput if there is no audio, or more than `most` files.
    """
    with os_errors("read", folder):
        if not folder.is_dir():
            raise BadInput(f"{display_name(folder)} is not a folder")
        files = list(islice(_audio_files(folder), most + 1))
    if not files:
        raise BadInput(f"there is no audio in {display_name(folder)}")
    if len(files) > most:
        raise BadInput(f"{display_name(folder)} holds more than {most} audio files")
    rows = _table_rows(folder, {file.name for file in files})
    return [_entry(folder, file, rows.get(file.name, {})) for file in sorted(files)]


def choose(entries: Iterable[Entry], count: int) -> list[Entry]:
    """A subset of at most `count` clips, balanced over speakers; deterministic.

    Clips are taken from the speakers in turn; speakers, and the clips of each, are ordered by a
    hash of their names.
    """
    queues: dict[str, list[Entry]] = {}
    for entry in entries:
        queues.setdefault(entry.speaker, []).append(entry)
    for queue in queues.values():
        queue.sort(key=lambda entry: _hash(entry.name))
    speakers = sorted(queues, key=_hash)
    turns = [
        queues[speaker][turn]
        for turn in range(max((len(queue) for queue in queues.values()), default=0))
        for speaker in speakers
        if turn < len(queues[speaker])
    ]
    return sorted(turns[:count], key=lambda entry: entry.name)


def load(entry: Entry, max_seconds: float) -> Clip:
    """Read a clip as 16 kHz mono, cropped to `max_seconds`.

    Raises BadInput if it cannot be read, is shorter than half a second, or is silent.
    """
    limit = int(max_seconds * SAMPLE_RATE)
    parts: list[NDArray[np.float32]] = []
    length = 0
    with AudioReader(entry.path) as reader:
        for block in reader:
            parts.append(block)
            length += len(block)
            if length > limit:
                break
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        raise BadInput(f"{display_name(entry.name)} is shorter than {MIN_SECONDS} s")
    cropped = len(samples) > limit
    samples = samples[:limit]
    if not samples.any():
        raise BadInput(f"{display_name(entry.name)} is silent")
    text = None if cropped else entry.text
    return Clip(entry.name, entry.speaker, entry.corpus, samples, text, entry.language)


def load_clips(folder: Path, count: int, max_seconds: float) -> tuple[list[Clip], dict[str, str]]:
    """The chosen clips of a folder, and {name: reason} for those that cannot be used."""
    clips: list[Clip] = []
    skipped: dict[str, str] = {}
    for entry in choose(find_clips(folder), count):
        try:
            clips.append(load(entry, max_seconds))
        except SottoError as error:  # noqa: PERF203 - one bad clip must not stop the rest
            skipped[entry.name] = str(error)
    if not clips:
        raise BadInput(
            f"no clip of {display_name(folder)} can be used: {next(iter(skipped.values()))}"
        )
    return clips, skipped


def _audio_files(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in READABLE:
                yield Path(parent, name)


def _entry(folder: Path, file: Path, row: dict[str, str]) -> Entry:
    name = file.relative_to(folder).as_posix()
    speaker = row.get("speaker") or (name if file.parent == folder else file.parent.name)
    language = row.get("lang") or ""
    english = (language or "en").lower().split("-")[0] == "en"
    # A row for a piece of the file is not a transcript of the whole file.
    text = row.get("text") if english and not row.get("start") else None
    tag = language if _LANGUAGE.fullmatch(language) else ""
    return Entry(file, name, speaker, row.get("corpus") or "", text or None, tag)


def _table_rows(folder: Path, wanted: set[str]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    tables = [*sorted(folder.glob("*.tsv")), *sorted(folder.resolve().parent.glob("*.tsv"))]
    for table in tables[:MAX_TABLES]:
        try:
            if table.stat().st_size > MAX_TABLE_BYTES:
                continue
            with open(table, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(
                    file, delimiter="\t", quoting=csv.QUOTE_NONE, restkey="rest", restval=""
                )
                if "file" not in (reader.fieldnames or ()):
                    continue
                for row in reader:
                    name = Path(row["file"]).name
                    if name in wanted:
                        rows.setdefault(name, row)
        except (OSError, UnicodeDecodeError, csv.Error):
            # Clips can be measured without a table.
            continue
    return rows


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
