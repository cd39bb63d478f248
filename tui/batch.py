"""A directory of files in, a directory of the same names out, with one bar over all of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from codec.console import note
from codec.errors import BadInput, SottoError
from codec.files.paths import PIPE, display_name, is_special, open_input, os_errors
from tui.terminal.errors import UsageError
from tui.terminal.progress import Progress, Reporter

Process = Callable[[str, str, Reporter], None]
_CONTAINER_SUFFIX = ".sotto"


def check_paths(source: str, target: str, beside: str | None = None) -> None:
    """Raise UsageError if an output would replace its input, or be no place for it.

    beside: a second output, which must not replace the first either.
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
    (`b.flac.sotto`, `b.wav.sotto`). Raises BadInput if there is none, if two would still become the
    same file (`b.flac`, `b.wav` and `b.flac.wav`), or if a directory is unreadable.
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


def run_batch(label: str, pairs: list[tuple[str, str]], process: Process) -> int:
    """Process every pair, going on past bad ones. Returns 1, having named them, if there are any.

    What is wrong with the terminal or the model is wrong with every file, so only SottoError about
    a file is survived.
    """
    measure = stored_seconds if label == "encode" else coded_seconds
    failures: list[str] = []
    with Progress(label, sum(_seconds_or_none(measure, source) for source, _ in pairs)) as progress:
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


def coded_seconds(source: str) -> float | None:
    """Duration of a .sotto file; None for pipes. Raises SottoError if it is none."""
    if is_special(source):
        return None
    from codec.container import scan

    with open_input(source) as file, os_errors("read", source):
        return scan(file).duration_s


def coded_samples(source: str, file: BinaryIO) -> int | None:
    """Samples in an open .sotto file, which is rewound; None for pipes."""
    if is_special(source):
        return None
    from codec.container import scan

    found = scan(file)
    file.seek(0)
    return found.total_samples


def _seconds_or_none(measure: Callable[[str], float | None], source: str) -> float:
    try:
        return measure(source) or 0.0
    except SottoError:
        return 0.0
