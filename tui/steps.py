"""A progress bar of a search: share done and how far the cost has fallen."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class StepProgress:
    """A context manager; draws on stderr, and only if that is a terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> StepProgress:
        if sys.stderr is not None and sys.stderr.isatty():
            # Only here: in a pipe the time to import it would be wasted.
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._label, total=1.0, state="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float, cost: float | None, steps: int) -> None:
        """share: done, 0 to 1; cost: best so far, as a share of the start's; steps: taken."""
        if self._bar is not None:
            state = "" if cost is None else f"step {steps}  cost {100 * cost:.1f} %"
            self._bar.update(self._task, completed=share, state=state)
