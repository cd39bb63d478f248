"""Inputs and outputs of a command: checks of their paths, and whole directories of them."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from codec.errors import BadInput, SottoError
from codec.files.paths import (
    APPLE_DOUBLE,
    OWN_SUFFIXES,
    PIPE,
    display_name,
    folded,
    is_special,
    os_errors,
)
from tui.terminal.console import note
from tui.terminal.errors import UsageError
from tui.terminal.outputs import check_outputs
from tui.terminal.progress import Progress

_NAMED = 3  # files of many that are named in a line
_NO_SOUND = frozenset({
    ".txt", ".md", ".rst", ".tex", ".rtf", ".doc", ".docx", ".odt", ".pdf", ".html", ".htm",
    ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".xml", ".ini", ".cfg", ".log",
    ".py", ".sh", ".c", ".h", ".js", ".css", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp",
    ".tif", ".tiff", ".svg", ".ico", ".srt", ".vtt", ".lrc", ".cue", ".nfo", ".lab", ".trn",
    ".trans", ".textgrid", ".phn", ".wrd", ".sha256", ".md5",
})  # fmt: skip
_SYSTEM = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "LICENSE", "README", "Makefile"})
_CONTAINER_SUFFIX = ".sotto"


class Work:
    """Which file a command makes of which.

    Attributes: pairs of (input, output); single: it is one file or pipe, named by the user, and not
    a directory of some or several.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        suffix: str,
        *,
        folders: bool = True,
        audio: bool | None = None,
        known: Collection[str] = (),
    ) -> None:
        """Read `input`, `output`, `model` and `force`; outputs in a directory end in `suffix`.

        folders: an input may be a directory; its audio files are meant, or if not `audio` (None:
        where the outputs are audio) its .sotto files, and its tree is mirrored. known: outputs that
        may be there, since whoever would replace one looks at it first.

        Raises UsageError if the two do not fit together, or an input would be overwritten, BadInput
        if another file would be, or an input directory is unreadable or holds no such files.
        """
        sources: list[str] = args.input
        target: str = args.output
        self._audio = suffix == _CONTAINER_SUFFIX if audio is None else audio
        first = sources[0]
        inside = folders and os.path.isdir(first)
        ends = target.endswith(tuple(s for s in (os.sep, os.altsep) if s))
        into = ends or os.path.isdir(target)
        self.single = len(sources) == 1 and not inside and not into
        if self.single:
            self.pairs = [(first, target)]
        else:
            self._check_folder(sources, target, made=ends or (inside and len(sources) == 1))
            found = [pair for source in sources for pair in self._find(source, folders)]
            if len(sources) == 1 and inside:
                found = [(path, name.relative_to(name.parts[0])) for path, name in found]
            self.pairs = _named(found, target, suffix)
        read = [*(source for source, _ in self.pairs), getattr(args, "model", None)]
        check_outputs(read, [made for _, made in self.pairs], force=args.force, known=known)

    def _check_folder(self, sources: list[str], target: str, *, made: bool) -> None:
        """Raise UsageError unless outputs can go into `target`; made: it may be a new folder."""
        shown = display_name(target)
        if PIPE in sources:
            raise UsageError("standard input has no name: give its output one, too")
        if target == PIPE:
            what = "several files go" if len(sources) > 1 else "a directory goes"
            raise UsageError(f"{what} into a directory, not into a pipe")
        if os.path.exists(target) and not os.path.isdir(target):
            several = "several inputs" if len(sources) > 1 else display_name(sources[0])
            raise UsageError(f"{several} cannot go into {shown}, which is no directory")
        if not made and not os.path.isdir(target):
            raise UsageError(
                f"there is no directory {shown} for several inputs ({shown}/ makes it)"
            )

    def _find(self, source: str, folders: bool) -> list[tuple[Path, Path]]:
        """(input, its name in the output directory) of a file, or of all in a directory."""
        if not folders or not os.path.isdir(source):
            return [(Path(source), Path(os.path.basename(os.path.abspath(source))))]
        place = Path(source)
        inside = Path(os.path.basename(os.path.abspath(source)) or "root")
        return [(path, inside / path.relative_to(place)) for path in find(source, self._audio)]


def find(folder: str, audio: bool) -> list[Path]:
    """All audio files, or all .sotto files, below a directory, sorted.

    Says in a line what else there is that might be meant, unless its name says that it is text, a
    picture or an output of sotto's. Links to directories are named and not followed. A directory
    below that cannot be read is among what is found, to fail as a file does that cannot be read.

    Raises BadInput if there are none, or if `folder` itself is unreadable.
    """
    from codec.files.audio import looks_like_audio

    def fail(error: OSError) -> None:
        if error.filename == folder:
            raise error
        found.append(Path(error.filename))

    found: list[Path] = []
    others: list[str] = []
    with os_errors("read", folder):
        for place, below, names in os.walk(folder, onerror=fail):
            linked = [Path(place, name) for name in below if os.path.islink(Path(place, name))]
            others += [display_name(path.relative_to(folder)) + os.sep for path in linked]
            for name in names:
                path = Path(place, name)
                coded = path.suffix.lower() == _CONTAINER_SUFFIX
                coded = coded and not name.startswith(APPLE_DOUBLE)
                if path.is_file() and (looks_like_audio(path) if audio else coded):
                    found.append(path)
                elif _may_be_meant(path, audio):
                    others.append(display_name(path.relative_to(folder)))
    if not found:
        what = "audio files" if audio else f"{_CONTAINER_SUFFIX} files"
        raise BadInput(f"{display_name(folder)} holds no {what}")
    if others:
        note(f"{display_name(folder)}: passed over {_some(sorted(others))}")
    return sorted(found)


def _may_be_meant(path: Path, audio: bool) -> bool:
    """Whether a file that is no input might be taken for one."""
    suffix = path.suffix.lower()
    if not audio:
        return suffix == _CONTAINER_SUFFIX
    return suffix not in _NO_SOUND | OWN_SUFFIXES and path.name not in _SYSTEM


def _named(found: list[tuple[Path, Path]], target: str, suffix: str) -> list[tuple[str, str]]:
    """(input, output) of (input, its name in `target`), whose suffix is replaced.

    Where two inputs differ only in their suffix, both keep it (`b.flac.sotto`, `b.wav.sotto`).
    Outputs that many file systems would take for one, since they differ only in the case of letters
    or in how accents are composed, are numbered (`A.sotto`, `a-2.sotto`), and a line says so.

    Raises BadInput if two would still become the same file (`b.flac`, `b.wav` and `b.flac.wav`).
    """
    stems = Counter(str(Path(name).with_suffix("")) for name in {folded(name) for _, name in found})
    sources, outputs = [], []
    known: dict[Path, Path] = {}  # the input of each name
    first: dict[str, Path] = {}  # the name that an output was first made of
    for path, name in dict.fromkeys(found):
        stem = name.with_suffix("")
        if stems[folded(stem)] > 1:
            stem = name
        output = str(Path(target, stem.parent, stem.name + suffix))
        other = name if name in known else first.setdefault(output, name)
        if name in known or folded(other) != folded(name):
            raise BadInput(
                f"{display_name(known[other])} and {display_name(path)} would both become "
                f"{display_name(output)}"
            )
        known[name] = path
        sources.append(str(path))
        outputs.append(output)
    return list(zip(sources, _numbered(outputs, suffix), strict=True))


def _numbered(outputs: list[str], suffix: str) -> list[str]:
    """The same names in the same order, numbered where one is `folded` another before it."""
    taken, seen = set(map(folded, outputs)), set[str]()
    names, changed = [], []
    for name in outputs:
        if (key := folded(name)) in seen:
            stem, number = name.removesuffix(suffix), 2
            while (key := folded(name := f"{stem}-{number}{suffix}")) in taken:
                number += 1
            taken.add(key)
            changed.append(display_name(name))
        seen.add(key)
        names.append(name)
    if changed:
        note(
            f"{_some(changed)}: numbered, since names that differ only in the case of letters are "
            "the same file to many systems"
        )
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def run_batch(
    label: str,
    pairs: list[tuple[str, str]],
    seconds: Callable[[str], float | None],
    process: Callable[[str, str, Progress], object],
) -> int:
    """Call `process(input, output, progress)` for every pair, continuing after files that fail.

    seconds: duration of an input. Returns 1, after naming the files that failed, if there are any.
    Errors other than SottoError are not of one file alone, so they end the batch.
    """
    failures, written = Failures(len(pairs)), Written()
    with Progress(label, sum(_or_zero(seconds, source) for source, _ in pairs)) as progress:
        for number, (source, target) in enumerate(pairs, 1):
            progress.describe(f"{label} {number}/{len(pairs)} {display_name(Path(source).name)}")
            try:
                with os_errors("write", target):
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                written.refuse(target)
                process(source, target, progress)
                written.add(target, source)
            except SottoError as error:
                failures.add(source, str(error))
    return failures.status()


class Failures:
    """The files of a batch of `total` that failed, and why."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lines: list[str] = []

    def add(self, source: str, reason: str) -> None:
        """This one failed."""
        name = display_name(source)
        self._lines.append(reason if name in reason else f"{name}: {reason}")

    def status(self) -> int:
        """The exit status; names the files that failed if there are any."""
        for line in self._lines:
            note(line)
        if self._lines and self._total > 1:
            note(f"{len(self._lines)} of {self._total} files failed")
        return 1 if self._lines else 0


class Written:
    """The files that a batch has written: two names may be one to a file system all the same."""

    def __init__(self) -> None:
        self._sources: dict[tuple[int, int], str] = {}

    def refuse(self, target: str) -> None:
        """Raise BadInput where an output would replace another one."""
        here = _identity(target)
        if here is not None and (other := self._sources.get(here)):
            raise BadInput(f"would replace {display_name(target)}, made of {other}")

    def add(self, target: str, source: str) -> None:
        """This output has been made of that input."""
        if (here := _identity(target)) is not None:
            self._sources[here] = display_name(source)


def stored_seconds(source: str) -> float | None:
    """Duration of an audio file; None for pipes. Raises BadInput if it is no audio."""
    if is_special(source):
        return None
    from codec.files.audio import AudioReader

    with AudioReader(source) as reader:
        return reader.duration


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _or_zero(seconds: Callable[[str], float | None], source: str) -> float:
    try:
        return seconds(source) or 0.0
    except SottoError:
        return 0.0
