"""Files and pipes: outputs that appear whole or not at all, and errors in one line.

A regular output is written under a temporary name in its own directory and renamed when whole, so
that an error or an interruption never leaves half a file under the final name. Pipes, terminals
and devices cannot be replaced: they are written directly.

What may be overwritten: a file whose name says that sotto wrote it (OWN_SUFFIXES), and any other
only by force. What a command reads, it never overwrites: `same_file` is asked for that.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from codec.errors import BadInput

PIPE = "-"
# Opened by these names, a file that it is redirected to would be emptied, or replaced by another.
_STANDARD_OUTPUT = frozenset({PIPE, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
# What macOS leaves beside a file on other file systems begins so, and is never what it is called.
APPLE_DOUBLE = "._"
OWN_SUFFIXES = frozenset({".sotto", ".stim"})
_NAMES = 1000  # tried for a file that must be new
_LONGEST_NAME = 255  # bytes


def display_name(path: str | os.PathLike[str]) -> str:
    """A printable name for messages: never a control character, never an encoding error."""
    text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) or "''"


def reason(error: OSError) -> str:
    """The operating system's reason as a short phrase, e.g. 'no space left on device'."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


@contextlib.contextmanager
def os_errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn OSError inside the block into BadInput 'cannot ACTION PATH: reason'.

    BrokenPipeError passes through: when the reader of its output has gone, a command ends quietly.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        names = {PIPE: "standard input" if action == "read" else "standard output"}
        name = names.get(os.fspath(path)) or display_name(path)
        raise BadInput(f"cannot {action} {name}: {reason(error)}") from error


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a pipe ('-', a FIFO), a terminal or a device, and so cannot be renamed."""
    if os.fspath(path) in _STANDARD_OUTPUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def open_input(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file for reading; '-' is standard input, which stays open afterwards.

    Raises BadInput if the path is missing, a directory or not readable, or if standard input is
    a terminal.
    """
    if os.fspath(path) == PIPE:
        if sys.stdin is None or sys.stdin.closed:
            raise BadInput("cannot read standard input: it is closed")
        if sys.stdin.isatty():
            raise BadInput("standard input is a terminal: pipe data into it or name a file")
        yield sys.stdin.buffer
        return
    with os_errors("read", path):
        _refuse_nul(path)
        file = open(path, "rb")  # noqa: SIM115 - closed below, errors are told apart from the body's
    with file:
        yield file


def same_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    """Whether writing `target` would change what is read from `source`.

    Links of either kind lead to the same file, '-' may be redirected to it, and names that differ
    only in the case of letters, or in how accents are composed, are the same to many file systems.
    Pipes and devices are never the same as anything.
    """
    return bool(identities(source) & identities(target, output=True))


def identities(path: str | os.PathLike[str], *, output: bool = False) -> set[tuple[object, ...]]:
    """What a file is known by: files that share one of these are the same (see `same_file`).

    output: '-' is standard output.
    """
    found: set[tuple[object, ...]] = set()
    pipe = os.fspath(path) == PIPE
    with contextlib.suppress(OSError, ValueError):
        status = os.fstat(1 if output else 0) if pipe else os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return found
        found.add((status.st_dev, status.st_ino))
    if not pipe and "\0" not in os.fsdecode(path):
        found.add((folded(os.path.realpath(path)),))
    return found


def folded(path: str | os.PathLike[str]) -> str:
    """A name as file systems compare it to which neither the case of letters nor how accents are
    composed makes a difference.
    """
    return unicodedata.normalize("NFC", os.fsdecode(path)).casefold()


def refuse_replacing(
    path: str | os.PathLike[str], *, force: bool = False, new: bool = False
) -> None:
    """Raise BadInput if there is a file at `path` that must not be replaced.

    A file whose name ends in one of OWN_SUFFIXES may be, unless `new`; any other only by `force`.
    A symbolic link is judged by what it leads to. Pipes and devices are not replaced but written.
    """
    if force or is_special(path) or "\0" in os.fsdecode(path):
        return
    final = Path(os.path.realpath(path))
    with os_errors("write", path):
        if not final.is_file() or (not new and final.suffix.lower() in OWN_SUFFIXES):
            return
    raise BadInput(
        f"cannot write {display_name(path)}: the file exists"
        + ("" if new else " (--force replaces it)")
    )


@contextlib.contextmanager
def atomic_output(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    new: bool = False,
    draft: str | os.PathLike[str] | None = None,
) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without an exception.

    '-' and '/dev/stdout' are standard output; existing pipes and devices are written directly. On
    any exception, KeyboardInterrupt included, the temporary file is removed and `path` stays as it
    was. Of a symbolic link, the target is replaced.

    force, new: what may be replaced, as `refuse_replacing` has it. Where somebody has made a file
    there when the block ends, ours gets the next free name, as in talk-2.wav; unless `new`, which
    expects that, BadInput then says so.

    draft: a name of `new_draft`, under which the whole file is left for `publish`, perhaps by
    another process; `path` must then be no pipe.

    Raises BadInput if the file must not be replaced, or if the operating system refuses (no such
    directory, no permission, no space), BrokenPipeError when a pipe's reader has gone.
    """
    if draft is None and os.fspath(path) in _STANDARD_OUTPUT:
        if sys.stdout is None or sys.stdout.closed:
            raise BadInput("cannot write standard output: it is closed")
        if sys.stdout.isatty():
            raise BadInput("standard output is a terminal: redirect it or name a file")
        with os_errors("write", path), _standard_output() as stream:
            yield stream
            stream.flush()
        return
    if draft is None and is_special(path):
        with os_errors("write", path), open(path, "wb") as device:
            yield device
        return
    refuse_replacing(path, force=force, new=new)
    with os_errors("write", path):
        final = _checked_target(path)
    temporary = new_draft(path) if draft is None else Path(draft)
    try:
        with os_errors("write", path), _create(temporary, like=final) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if draft is None:
            publish(temporary, path, force=force, new=new)
    except BaseException:
        # Missing if it was never created, or if the interruption came right after the rename.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def new_draft(path: str | os.PathLike[str]) -> Path:
    """A name of its own, beside the file at `path`, for what is to become that file."""
    # Short, so that a final name of the longest legal length still works.
    return Path(os.path.realpath(path)).parent / f".sotto-{secrets.token_hex(6)}.part"


def publish(
    draft: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    new: bool = False,
) -> Path:
    """Give a whole file, written as `draft`, the name `path`; see `atomic_output`.

    Returns the file that it became. Raises BadInput as that does.
    """
    with os_errors("write", path):
        final = _checked_target(path)
        if force or (not new and final.suffix.lower() in OWN_SUFFIXES):
            os.replace(draft, final)
            return final
        name = _rename_new(Path(draft), final)
    if not new and name != final:
        raise BadInput(
            f"a file {display_name(path)} has been made meanwhile: "
            f"the output is in {display_name(name)}"
        )
    return name


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    stream = sys.stdout.buffer
    if isinstance(stream, io.RawIOBase):
        # PYTHONUNBUFFERED: what is left may take less than a whole write at a time.
        with open(os.dup(stream.fileno()), "wb") as buffered:
            yield buffered
    else:
        yield stream


def _checked_target(path: str | os.PathLike[str]) -> Path:
    """The file `path` finally names; OSError if a rename there would replace the wrong thing."""
    _refuse_nul(path)
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if final.exists() and not os.access(final, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return final


def _create(temporary: Path, like: Path) -> BinaryIO:
    """A new file with the permissions the file `like` has, or would get if it were created."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = open(os.open(temporary, flags, 0o666), "wb")  # noqa: SIM115 - the caller's to close
    if like.exists():
        os.chmod(temporary, stat.S_IMODE(like.stat().st_mode))
    return file


def _rename_new(temporary: Path, final: Path) -> Path:
    """Give a file a name, or the next free one, and return it; OSError if there is none."""
    for number in range(1, _NAMES):
        stem, suffix = final.stem, (f"-{number}" if number > 1 else "") + final.suffix
        while number > 1 and len(os.fsencode(stem + suffix)) > _LONGEST_NAME:
            stem = stem[:-1]
        name = final.with_name(stem + suffix)
        if name.exists():
            continue
        try:
            os.link(temporary, name)
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            os.replace(temporary, name)
            return name
        temporary.unlink()
        return name
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _refuse_nul(path: str | os.PathLike[str]) -> None:
    if "\0" in os.fsdecode(path):
        raise OSError(errno.EINVAL, "the name holds a zero byte")
