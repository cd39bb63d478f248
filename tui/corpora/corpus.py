"""A corpus: all files of a command, coded by workers, with a manifest of what became of each.

A worker writes an output under a name that is nobody's; this program, and no other, adds the line
to the manifest and then gives the file its own name. So whatever is stopped, whenever, a file is
done once: what has its name is in the manifest, and what is in the manifest, from the same input,
options and model, is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from codec.errors import BadInput, SottoError
from codec.files.paths import (
    display_name,
    is_special,
    new_draft,
    os_errors,
    publish,
    refuse_replacing,
)
from codec.signal.samples import FloatArray
from models.workers.pool import spread
from models.workers.worker import Do, Failed
from tui.batch import Failures, Work, Written
from tui.corpora.job import Job, Made
from tui.corpora.manifest import NAME, Manifest, Record, file_hash, options_hash, read_manifest
from tui.corpora.options import LOCAL
from tui.corpora.pools import workers
from tui.terminal.console import Bar
from tui.terminal.errors import UsageError
from tui.terminal.signals import undisturbed

_MOST_NOTES = 20  # of a file


@dataclass(frozen=True)
class Coding:
    """What a command does with files, as workers are told it.

    command: its name; make: a function of a module that makes the `Job` from `args`; model: the id
    of the model, "" where each file names its own; options: that decide what an output is.
    """

    command: str
    make: Callable[[argparse.Namespace], Job]
    args: argparse.Namespace
    model: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A file to code. before: its line in the manifest, if it is done already, as it seems."""

    source: str
    target: str
    draft: Path
    force: bool
    before: Record | None


@dataclass(frozen=True)
class Coded:
    """A coded file, or one that is still as its line says, which is `before`. notes: lines for the
    user; took: seconds."""

    hash: str
    output_hash: str = ""
    made: Made | None = None
    before: Record | None = None
    notes: tuple[str, ...] = ()
    took: float = 0.0


@dataclass(frozen=True)
class Unreadable(Failed):
    """A file that could not be coded, and its hash, if it could be read at all."""

    hash: str = ""
    notes: tuple[str, ...] = ()


class Notes:
    """Keeps what a job has to say, for `Coded`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        if len(self.lines) < _MOST_NOTES:
            self.lines.append(line)

    def follow(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        return iter(blocks)


def opened(coding: Coding) -> Do:
    """In a worker: what does a `Task`."""
    return partial(_code, coding.make(coding.args), coding.model)


def _code(job: Job, model: str, task: Task) -> Coded | Failed:
    notes, begun, found = Notes(), time.perf_counter(), ""
    try:
        state = _state(task.source)
        found = file_hash(task.source)
        before = task.before
        if before is not None and before.hash == found and _holds(task.target, before):
            return Coded(found, before=before)
        refuse_replacing(task.target, force=task.force)
        made = job(task.source, task.target, notes, task.draft)
        if model and made.model != model:
            raise SottoError(f"coded with model {made.model} on a machine that has no {model}")
        if _state(task.source) != state:
            raise BadInput(f"{display_name(task.source)} has changed while it was read")
        written = file_hash(task.draft)
    except SottoError as error:
        _remove(task.draft)
        return Unreadable(str(error), found, tuple(notes.lines))
    except BaseException:
        _remove(task.draft)
        raise
    took = time.perf_counter() - begun
    return Coded(found, written, made, None, tuple(notes.lines), took)


def _state(path: str) -> tuple[int, int]:
    with os_errors("read", path):
        found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _holds(target: str, record: Record) -> bool:
    """Whether an output is there and is still what its line says."""
    try:
        return file_hash(target) == record.output_hash
    except SottoError:
        return False


def _remove(draft: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(draft)


def work_of(args: argparse.Namespace, suffix: str, audio: bool | None = None) -> Work:
    """The files of a command for `code_corpus`: outputs that a manifest knows are not in the way.

    Raises what `Work` raises, and UsageError for a single file or a pipe.
    """
    known = set()
    if os.path.isdir(args.output):
        records = read_manifest(Path(args.output, NAME))
        known = {str(Path(args.output, name)) for name, each in records.items() if not each.error}
    work = Work(args, suffix, audio=audio, known=known)
    if work.single:
        raise UsageError("--jobs and --ray are for several inputs, or a directory of them")
    if any(is_special(path) for pair in work.pairs for path in pair):
        raise UsageError("--jobs and --ray read and write files, no pipes or devices")
    return work


def code_corpus(work: Work, coding: Coding) -> int:
    """Code all files that are not done yet. Returns 1, after naming those that failed, if any."""
    args, folder = coding.args, coding.args.output
    key = options_hash(coding.command, coding.model, coding.options)
    sizes = {source: _size(source) for source, _ in work.pairs}
    # The longest first, so that no worker is left alone with one at the end.
    pairs = sorted(work.pairs, key=lambda pair: -sizes[pair[0]])
    plain = {name: value for name, value in vars(args).items() if name != "run"}
    make = partial(opened, replace(coding, args=argparse.Namespace(**plain)))
    failures, written = Failures(len(pairs)), Written()
    with (
        Manifest(Path(folder, NAME)) as manifest,
        _Progress(coding.command, sizes) as progress,
        workers(args, make, len(pairs), progress.note) as pool,
    ):
        drafts: dict[int, Path] = {}
        # Machines of a cluster run in folders of their own.
        place = str if args.ray in (None, LOCAL) else os.path.abspath

        def task(number: int) -> Task:
            source, target = pairs[number]
            with contextlib.suppress(OSError):  # the worker says what is wrong
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            if number in drafts:
                _remove(drafts[number])  # of a worker that died
            drafts[number] = new_draft(target)
            names = place(source), place(target)
            before = manifest.records.get(_name(folder, target))
            if before is not None and (before.error is not None or before.options != key):
                before = None
            return Task(*names, drafts[number], args.force, before)

        try:
            for number, result in spread(pool, len(pairs), task):
                source, target = pairs[number]
                notes = getattr(result, "notes", ())
                if isinstance(result, Coded):
                    failed = _settle(
                        result, source, target, drafts[number], manifest, written, key, args
                    )
                else:
                    failed = result
                    _remove(drafts[number])
                    record = _failed(source, _name(folder, target), key, coding.model, failed)
                    with undisturbed():
                        manifest.add(record)
                del drafts[number]
                for line in notes:
                    progress.note(line)
                if failed is not None:
                    failures.add(source, failed.reason)
                elif result.made is not None and result.made.report is not None:
                    print(result.made.report, flush=True)
                progress.more(source, result)
        finally:
            # Only then nobody writes drafts any more.
            pool.close()
            for draft in drafts.values():
                _remove(draft)
    if progress.unchanged:
        progress.note(f"{progress.unchanged} of {len(pairs)} files had been done before")
    return failures.status()


def _settle(
    result: Coded,
    source: str,
    target: str,
    draft: Path,
    manifest: Manifest,
    written: Written,
    key: str,
    args: argparse.Namespace,
) -> Failed | None:
    """Take a coded file into the manifest and give it its name; why not, if that cannot be."""
    made, name = result.made, _name(args.output, target)
    if made is None:
        written.add(target, source)
        return None
    with undisturbed():
        try:
            written.refuse(target)
            if not draft.is_file():
                raise BadInput(
                    f"what a worker wrote is not in {display_name(draft.parent)}: inputs and "
                    "outputs must be in folders that all machines share"
                )
            manifest.add(
                Record(
                    source, result.hash, name, result.output_hash, key, made.model, made.bits,
                    round(made.seconds, 6), round(result.took, 3), None,
                )
            )  # fmt: skip
            publish(draft, target, force=args.force)
            written.add(target, source)
        except SottoError as error:
            _remove(draft)
            failed = Unreadable(str(error), result.hash)
            manifest.add(_failed(source, name, key, made.model, failed))
            return failed
    return None


def _failed(source: str, name: str, key: str, model: str, failed: Failed) -> Record:
    found = failed.hash if isinstance(failed, Unreadable) else ""
    return Record(source, found, name, "", key, model, 0, 0.0, 0.0, failed.reason)


class _Progress(Bar):
    """The share of the inputs' bytes that is done, how many files, and how fast."""

    def __init__(self, label: str, sizes: dict[str, int]) -> None:
        super().__init__(label, float(sum(sizes.values())) or 1.0)
        self._sizes, self._bytes, self._files = sizes, 0.0, 0
        self._seconds, self._begun = 0.0, time.perf_counter()
        self.unchanged = 0

    def more(self, source: str, result: Any) -> None:
        """This file is done."""
        self._files += 1
        self._bytes += self._sizes[source]
        if isinstance(result, Coded):
            self.unchanged += result.made is None
            self._seconds += result.made.seconds if result.made is not None else 0.0
        speed = self._seconds / max(time.perf_counter() - self._begun, 1e-6)
        self.update(self._bytes, f"{self._files}/{len(self._sizes)} files  {speed:.1f}x real time")


def _size(source: str) -> int:
    try:
        return os.path.getsize(source)
    except OSError:
        return 0


def _name(folder: str, target: str) -> str:
    """The name of an output in the manifest of its folder."""
    return os.path.relpath(target, folder)
