"""One progress bar on a terminal, nothing at all in a pipe or a log file."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Reporter(Protocol):
    """What a long-running command tells the person in front of it."""

    def advance(self, seconds: float) -> None: ...

    def describe(self, label: str) -> None: ...

    def note(self, line: str) -> None: ...


def note(line: str) -> None:
    """One line on stderr. A stderr nobody reads any more must not stop the work."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"sotto: {one_line(line)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """A library's message of several lines on one."""
    return " ".join(part.strip() for part in text.splitlines())


class Progress:
    """Seconds of audio done, of how many, at what speed; a context manager.

    label: what is being done. total: seconds of audio, None if nobody knows. Draws on stderr,
    and only if that is a terminal.
    """

    def __init__(self, label: str, total: float | None) -> None:
        self._label, self._total = label, total
        self._done = 0.0
        self._started = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._started = time.perf_counter()
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, seconds: float) -> None:
        """This much more audio is done."""
        self._done += seconds
        if self._bar is not None:
            speed = self._done / max(time.perf_counter() - self._started, 1e-6)
            self._bar.update(self._task, completed=self._done, speed=f"{speed:.1f}x real time")

    def describe(self, label: str) -> None:
        """Say what is being done now."""
        if self._bar is not None:
            self._bar.update(self._task, description=_plain(label))

    def note(self, line: str) -> None:
        """One line on stderr, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(
                f"sotto: {one_line(line)}", markup=False, highlight=False, soft_wrap=True
            )
        else:
            note(line)

    def _draw(self) -> None:
        # Only here: in a pipe the time to import it would be wasted.
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} s"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(_plain(self._label), total=self._total, speed="")
        self._bar.start()


def _plain(label: str) -> str:
    """A file name such as '[red].wav' is no markup."""
    from rich.markup import escape

    return escape(label if len(label) <= 40 else label[:18] + "..." + label[-19:])
