"""Inputs and outputs of a command: checks of their paths, and whole directories of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from codec.errors import BadInput, SottoError
from codec.files.paths import PIPE, display_name, is_special, os_errors
from tui.terminal.console import note
from tui.terminal.errors import UsageError
from tui.terminal.progress import Progress

_CONTAINER_SUFFIX = ".sotto"


def check_paths(source: str, target: str, beside: str | None = None) -> None:
    """Raise UsageError if an output would replace its input, or cannot hold it.

    beside: a second output, which must not replace the first one either.
    """
    if beside is not None:
        check_paths(source, beside)
        if os.path.realpath(beside) == os.path.realpath(target):
            raise UsageError(f"two outputs are the same file: {display_name(target)}")
    if PIPE in (source, target):
        if source == PIPE or not os.path.isdir(source):
            return
        raise UsageError("a directory goes into a directory, not into a pipe")
    if os.path.isdir(source):
        if os.path.exists(target) and not os.path.isdir(target):
            raise UsageError(
                f"{display_name(source)} is a directory, {display_name(target)} is not"
            )
        return
    if os.path.isfile(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise UsageError("input and output are the same file")


def mirrored(source: str, target: str, *, audio: bool, suffix: str) -> list[tuple[str, str]]:
    """(input, output) of every audio file, or every .sotto file, below `source`, sorted.

    `a/b.flac` becomes `a/b` + suffix; where two inputs differ only in their suffix, both keep it
    (`b.flac.sotto`, `b.wav.sotto`). Raises BadInput if there are no such files, if two would still
    become the same file (`b.flac`, `b.wav` and `b.flac.wav`), or if a directory is unreadable.
    """
    from codec.files.audio import looks_like_audio

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    with os_errors("read", source):
        for folder, _, names in os.walk(source, onerror=fail):
            for name in names:
                path = Path(folder, name)
                coded = path.suffix.lower() == _CONTAINER_SUFFIX
                if path.is_file() and (looks_like_audio(path) if audio else coded):
                    found.append(path)
    if not found:
        what = "audio files" if audio else f"{_CONTAINER_SUFFIX} files"
        raise BadInput(f"{display_name(source)} holds no {what}")
    found.sort()
    stems = Counter(path.with_suffix("") for path in found)
    sources: dict[str, str] = {}
    for path in found:
        stem = path if stems[path.with_suffix("")] > 1 else path.with_suffix("")
        relative = stem.relative_to(source)
        output = str(Path(target, relative.parent, relative.name + suffix))
        other = sources.setdefault(output, str(path))
        if other != str(path):
            raise BadInput(
                f"{display_name(other)} and {display_name(path)} would both become "
                f"{display_name(output)}"
            )
    return [(path, output) for output, path in sources.items()]


def run_batch(
    label: str,
    pairs: list[tuple[str, str]],
    seconds: Callable[[str], float | None],
    process: Callable[[str, str, Progress], None],
) -> int:
    """Call `process(input, output, progress)` for every pair, continuing after files that fail.

    seconds: duration of an input. Returns 1, after naming the files that failed, if there are any.
    Errors other than SottoError are not of one file alone, so they end the batch.
    """
    failures: list[str] = []
    with Progress(label, sum(_or_zero(seconds, source) for source, _ in pairs)) as progress:
        for number, (source, target) in enumerate(pairs, 1):
            progress.describe(f"{label} {number}/{len(pairs)} {display_name(Path(source).name)}")
            try:
                with os_errors("write", target):
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                process(source, target, progress)
            except SottoError as error:
                text = str(error)
                name = display_name(source)
                failures.append(text if name in text else f"{name}: {text}")
    if not failures:
        return 0
    for failure in failures:
        note(failure)
    note(f"{len(failures)} of {len(pairs)} files failed")
    return 1


def stored_seconds(source: str) -> float | None:
    """Duration of an audio file; None for pipes. Raises BadInput if it is no audio."""
    if is_special(source):
        return None
    from codec.files.audio import AudioReader

    with AudioReader(source) as reader:
        return reader.duration


def _or_zero(seconds: Callable[[str], float | None], source: str) -> float:
    try:
        return seconds(source) or 0.0
    except SottoError:
        return 0.0
