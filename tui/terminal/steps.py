"""The progress of a picture's search on a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.image.settings import SearchProgress
    from tui.terminal.console import Bar


def show_search(bar: Bar, now: SearchProgress) -> None:
    """Draw the share done, and how far the cost has fallen."""
    cost = "" if now.cost is None else f"step {now.steps}  cost {100 * now.cost:.1f} %"
    bar.update(now.share, cost)
