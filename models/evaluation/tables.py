"""Tables and JSON of the benchmarks."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from models.evaluation.estimates import Estimate

UNKNOWN = "–"
_ANY_WIDTH = 10_000


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


class Table(rich.table.Table):
    """A table that is never cut: where it does not fit, figures wrap between words; where they
    could not, each has a line to itself."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=_ANY_WIDTH)
        excess = Measurement.get(console, wide, self).maximum - options.max_width
        if excess <= 0:
            yield from super().__rich_console__(console, options)
            return
        spans = [_span(console, wide, column) for column in self.columns]
        if sum(most - least for least, most in spans) < excess:
            yield from self._lines(console)
            return
        before = [column.width for column in self.columns]
        # The last columns give way first. Rich would narrow the widest, and cut their words.
        for column, (least, most) in reversed(list(zip(self.columns, spans, strict=True))):
            column.width = max(least, most - excess)
            excess -= most - column.width
        yield from super().__rich_console__(console, options)
        for column, width in zip(self.columns, before, strict=True):
            column.width = width

    def _lines(self, console: Console) -> Iterator[Text]:
        """The first cell of each row, and below it its other cells, each behind its head."""
        heads, *columns = zip(*([c.header, *c.cells] for c in self.columns), strict=True)
        names = [" ".join(_text(console, head).plain.split()) for head in heads]
        widest = max(map(len, names))
        if self.title is not None:
            yield _text(console, self.title)
        for row in columns:
            first, *rest = (_text(console, cell).plain for cell in row)
            yield Text(first)
            for name, cell in zip(names[1:], rest, strict=True):
                if cell:
                    yield Text(f"  {name:<{widest}}  {cell}")


def _span(console: Console, options: ConsoleOptions, column: rich.table.Column) -> tuple[int, int]:
    """The least width of a column without broken words, and the most that it can use."""
    cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    return most if column.no_wrap else max(cell.minimum for cell in cells), most


def _text(console: Console, cell: Any) -> Text:
    return console.render_str(cell) if isinstance(cell, str) else cell


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
