"""The manifest of a coded corpus: what became of every file, a line of JSON each.

A line is written before the output gets its name, and names the output's hash: whatever moment a
run is stopped at, an output that stands under its name is one that the manifest knows. Lines are
added only; where a file has several, the last one holds, and the others are dropped when the
manifest is closed.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from codec.errors import BadInput
from codec.files.paths import atomic_output, display_name, is_special, os_errors

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "manifest.jsonl"
_MAX_LINE = 64 << 10
_MAX_LINES = 10_000_000
_PIECE = 1 << 20
# What a first line begins with that a machine did not get to finish.
_BEGINNING = b'{"input": "'
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """What became of a file.

    input: as it was named; hash: SHA-256 of it, "" if it could not be read; output: relative to
    the manifest; output_hash: SHA-256 of that; options: of all options, and of the model, that
    decide what the output is; model: id of the model; bits: of the coded file; seconds: of speech;
    took: seconds of computing; error: why there is no output, else None.
    """

    input: str
    hash: str
    output: str
    output_hash: str
    options: str
    model: str
    bits: int
    seconds: float
    took: float
    error: str | None

    @classmethod
    def parsed(cls, line: bytes) -> Record | None:
        """The record on a line; None if there is none, as where a machine stopped half-way."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict) or not {each.name for each in fields(cls)} <= set(values):
            return None
        record = cls(**{each.name: values[each.name] for each in fields(cls)})
        texts = (record.input, record.output, record.options, record.model)
        usable = all(isinstance(text, str) for text in texts) and all(
            isinstance(text, str) and (not text or _HASH.fullmatch(text))
            for text in (record.hash, record.output_hash)
        )
        usable = usable and (record.error is None or isinstance(record.error, str))
        numbers = (record.bits, record.seconds, record.took)
        return record if usable and all(type(n) in (int, float) for n in numbers) else None

    @property
    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def read_manifest(path: Path) -> dict[str, Record]:
    """The last record of each output, none if there is no manifest; damaged lines are passed over.

    Raises BadInput if the file is no manifest at all, or cannot be read.
    """
    if not os.path.lexists(path):
        return {}
    _refuse_pipe(path)
    records: dict[str, Record] = {}
    foreign = False
    with os_errors("read", path), open(path, "rb") as file:
        lines = itertools.islice(iter(partial(file.readline, _MAX_LINE), b""), _MAX_LINES)
        for line in lines:
            record = Record.parsed(line)
            if record is None:
                foreign |= not _is_torn(line)
            elif line.endswith(b"\n"):
                records[record.output] = record
    if foreign and not records:
        raise BadInput(f"{display_name(path)} is there, and is no manifest of sotto's")
    return records


def _is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a record, which nobody got to finish."""
    text = line.rstrip(b"\n")
    return bool(text) and text[: len(_BEGINNING)] == _BEGINNING[: len(text)] and not _is_json(text)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_pipe(path: Path) -> None:
    """Raise BadInput for a pipe in the place of a manifest, for whose other end we would wait."""
    if is_special(path):
        raise BadInput(f"{display_name(path)} is there, and is no manifest of sotto's")


class Manifest:
    """A manifest that is open to be added to, by one program at a time; a context manager.

    Attribute: records, the last one of each output.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[str, Record] = {}
        self._lines = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        _refuse_pipe(self._path)
        with os_errors("write", self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self._path, "ab")
        try:
            with os_errors("write", self._path):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BadInput(
                        f"another sotto is at work on {display_name(self._path)}"
                    ) from None
                except OSError:  # a file system without locks
                    pass
            self.records = read_manifest(self._path)
            with os_errors("read", self._path):
                self._lines, torn = _lines(self._path)
            if torn:
                with os_errors("write", self._path):
                    file.write(b"\n")
                    file.flush()
                self._lines += 1
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *about: object) -> None:
        assert self._file is not None
        try:
            if self._lines != len(self.records):
                with atomic_output(self._path, force=True) as file:
                    for record in self.records.values():
                        file.write(record.line)
        finally:
            file, self._file = self._file, None
            with os_errors("write", self._path):  # a line that did not fit is tried once more
                file.close()

    def add(self, record: Record) -> None:
        """Write a line, which is on the disk when this returns. Raises BadInput."""
        assert self._file is not None
        with os_errors("write", self._path):
            self._file.write(record.line)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._lines += 1
        self.records[record.output] = record


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex digits. Raises BadInput if it cannot be read."""
    digest = hashlib.sha256()
    with os_errors("read", path), open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def options_hash(command: str, model: str, options: Mapping[str, Any]) -> str:
    """16 hex digits of all that decides what a command makes of a file."""
    text = json.dumps([command, model, options], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(path: Path) -> tuple[int, bool]:
    """How many lines a file has, and whether it ends in the middle of another."""
    count, last = 0, b"\n"
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            count += piece.count(b"\n")
            last = piece[-1:]
    return count, last != b"\n"
