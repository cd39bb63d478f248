"""A small graph in block characters."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values from zero to the largest of them; blanks where there are none yet."""
    latest = list(values)[-width:] if width > 0 else []
    top = max(latest, default=0.0)
    drawn = "".join(
        _BLOCKS[min(int(max(value, 0.0) / top * len(_BLOCKS)), len(_BLOCKS) - 1)]
        if top > 0
        else "▁"
        for value in latest
    )
    return drawn.rjust(max(width, 0))
