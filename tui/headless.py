"""A call without a screen: one line of statistics per second, for people or for programs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from codec.files import PIPE, os_errors
from stream.statistics import to_json, to_line

if TYPE_CHECKING:
    from stream.call import Call

INTERVAL = 1.0


@contextlib.contextmanager
def statistics_file(path: str | None) -> Iterator[TextIO | None]:
    """Where JSON lines go: a file that is written as the call goes on, '-' for stdout, or None.

    Raises BadInput when the file cannot be written.
    """
    if path is None:
        yield None
    elif path == PIPE:
        yield sys.stdout
    else:
        with os_errors("write", path):
            file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        with file:
            yield file


def follow(
    call: Call, *, show: bool, statistics: TextIO | None, seconds: float | None = None
) -> None:
    """Until the call is over (or `seconds` have passed): a line each second.

    show: for people, on stderr, rewritten in place on a terminal. statistics: JSON lines.
    """
    terminal = show and sys.stderr is not None and sys.stderr.isatty()
    begun = time.monotonic()
    tick = begun
    over = False
    while not over:
        tick = max(tick + INTERVAL, time.monotonic())
        if seconds is not None:
            tick = min(tick, begun + seconds)
        over = call.wait(max(tick - time.monotonic(), 0.0))
        over = over or (seconds is not None and time.monotonic() - begun >= seconds)
        snapshot = call.snapshot()
        if statistics is not None:
            statistics.write(to_json(snapshot) + "\n")
            statistics.flush()
        if show:
            _show(to_line(snapshot), terminal)
    if terminal:
        _show("\n", False)


def _show(line: str, terminal: bool) -> None:
    """One line on stderr, over the one before on a terminal."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        if terminal:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            sys.stderr.write("\r\x1b[K" + line[: width - 1])
        else:
            sys.stderr.write(line + "\n" if line != "\n" else line)
        sys.stderr.flush()
