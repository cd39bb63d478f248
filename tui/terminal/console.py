"""Lines and one progress bar on stderr; the bar is drawn on a terminal only."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


def note(line: str) -> None:
    """One line on stderr. A stderr that is closed must not stop the work."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(_said(line), file=sys.stderr, flush=True)


def _said(text: str) -> str:
    """A message of several lines on one, whose signs no terminal takes for commands."""
    line = " ".join(part.strip() for part in text.splitlines())
    return "sotto: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class Bar:
    """How much of something is done; a context manager.

    label: what is being done. total: how much there is to do, None if nobody knows. done: how the
    amount done is written, in rich's fields of a task.
    """

    def __init__(
        self, label: str, total: float | None = 1.0, done: str = "{task.percentage:.0f}%"
    ) -> None:
        self._label, self._total, self._done = label, total, done
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw()
        return self

    def __exit__(self, *about: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done: float, state: str = "") -> None:
        """This much of the total is done; `state` says more beside it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, state=state)

    def describe(self, label: str) -> None:
        """Say what is being done now."""
        if self._bar is not None:
            self._bar.update(self._task, description=_plain(label))

    def note(self, line: str) -> None:
        """One line on stderr, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(
                _said(line), markup=False, emoji=False, highlight=False, soft_wrap=True
            )
        else:
            note(line)

    def _draw(self) -> None:
        # Only here: in a pipe the time to import it would be wasted.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(self._done),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(_plain(self._label), total=self._total, state="")
        self._bar.start()


def _plain(label: str) -> str:
    """A file name such as '[red].wav' is no markup, and a long one leaves room for the bar."""
    from rich.markup import escape

    return escape(label if len(label) <= 40 else label[:18] + "..." + label[-19:])
