"""How far a search is: share done and how far the cost has fallen."""

from __future__ import annotations

from codec.console import Bar


class StepProgress:
    """A context manager; draws on stderr, and only if that is a terminal."""

    def __init__(self, label: str) -> None:
        self._bar = Bar(label)

    def __enter__(self) -> StepProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *about: object) -> None:
        self._bar.__exit__(*about)

    def update(self, share: float, cost: float | None, steps: int) -> None:
        """share: done, 0 to 1; cost: best so far, as a share of the start's; steps: taken."""
        self._bar.update(share, "" if cost is None else f"step {steps}  cost {100 * cost:.1f} %")
