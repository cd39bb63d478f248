"""Tables and JSON of the benchmarks."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.evaluation.estimates import Estimate

UNKNOWN = "–"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with status 1; the command line has its own status for this.
        raise BrokenPipeError


def console(stream: TextIO, width: int = 160) -> Console:
    """A console on a stream; width: in characters, if the stream is not a terminal."""
    found = _Console(file=stream, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = width
    return found


def table(title: str, labels: Sequence[str], figures: Sequence[str]) -> Table:
    """An empty table: columns of labels, then of figures, which are aligned to the right."""
    made = Table(title=title, title_justify="left")
    for head in labels:
        made.add_column(head, no_wrap=True)
    for head in figures:
        made.add_column(head, justify="right")
    return made


def plain(text: str) -> Text:
    """A name for a cell, whatever it holds: none of it is markup."""
    return Text(text)


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A number for a table, or a dash."""
    known = value is not None and math.isfinite(value)
    return f"{value:{sign}.{digits}f}" if known else UNKNOWN


def estimate(value: Estimate, digits: int, sign: str = "") -> str:
    """An estimate and half its interval for a table, or a dash."""
    if not math.isfinite(value.value):
        return UNKNOWN
    half = f"{value.half_width:.{digits}f}".lstrip("0") or "0"
    return f"{number(value.value, digits, sign)} ±{half}"


def to_json(values: Any) -> str:
    """Plain values as JSON; numbers that are not finite become null."""
    return json.dumps(finite(values), indent=1, allow_nan=False) + "\n"


def flat(point: Any) -> dict[str, Any]:
    """A dataclass as plain values, with those of its `scores` beside its other fields."""
    values = asdict(point)
    scores = values.pop("scores")
    return {**values, **scores}


def machine() -> dict[str, Any]:
    """The machine that a benchmark runs on, for its JSON."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def finite(value: Any) -> Any:
    """Plain values with null for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
