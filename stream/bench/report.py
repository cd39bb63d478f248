"""What the benchmark of the link says: figures with their bars, as tables and as plain values."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from stream.bench.accounting import Gap
from stream.bench.scenarios import Scenario

ENDS = ("a", "b")
_PIPE_WIDTH = 120
_GAPS_SHOWN = 20

HOW = {
    "latency": "normalised cross-correlation of band envelopes of 3 s of a microphone with the "
    "other end's loudspeaker, both in one recording; windows not found within 4 s are unheard",
    "quality": "PESQ and STOI of the loudspeaker against the microphone, utterance by utterance, "
    "each aligned by itself; offline: the same talk through the codec in one go",
    "phones": "PocketSphinx phone loop, against its own decoding of the microphone",
    "breaks": "energy of the second difference within 1 ms over that of the 8 ms around: its "
    "largest value, against the largest in the same talk coded offline",
    "memory": "proportional set size; CPU: user and system time of the process, in cores",
    "columns": "a listens, b calls; a column tells of the voice or the process of that end, so "
    "what b received is in column a",
}


@dataclass(frozen=True)
class Figure:
    """One measured value for each end (None: could not be measured).

    bar: the largest value that will do; beyond: one that would be better still.
    """

    name: str
    unit: str
    values: Mapping[str, float | None]
    bar: float | None = None
    beyond: float | None = None
    digits: int = 3

    @property
    def verdict(self) -> str:
        """ "", "met", "beyond" or "missed"."""
        if self.bar is None:
            return ""
        if self.beyond is not None and self._within(self.beyond):
            return "beyond"
        return "met" if self._within(self.bar) else "missed"

    def _within(self, limit: float) -> bool:
        return bool(self.values) and all(
            value is not None and not math.isnan(value) and value <= limit
            for value in self.values.values()
        )


@dataclass
class Outcome:
    """What came of a scenario: figures, under- and overflows, remarks, or why it could not run."""

    scenario: Scenario
    figures: list[Figure] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


def as_dict(outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured as plain values; what is not finite is None."""
    return {
        "how": HOW,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "setup": dict(about),
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "title": outcome.scenario.title,
                "failure": outcome.failure,
                "figures": [
                    {
                        "name": figure.name,
                        "unit": figure.unit,
                        "values": {key: _plain(value) for key, value in figure.values.items()},
                        "bar": figure.bar,
                        "beyond": figure.beyond,
                        "verdict": figure.verdict,
                    }
                    for figure in outcome.figures
                ],
                "gaps": [vars(gap) for gap in outcome.gaps],
                "remarks": outcome.remarks,
                "details": outcome.details,
            }
            for outcome in outcomes
        ],
    }


def print_outcome(outcome: Outcome, stream: TextIO) -> None:
    """One table for a scenario, then its under- and overflows and remarks."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=_PIPE_WIDTH)
    scenario = outcome.scenario
    if outcome.failure is not None:
        console.print(f"{scenario.name}: could not run: {outcome.failure}", markup=False)
        return
    table = Table(title=f"{scenario.name}: {scenario.title}", title_justify="left")
    table.add_column("figure")
    for head in (*ENDS, "bar", "beyond"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for figure in outcome.figures:
        table.add_row(
            f"{figure.name} [{figure.unit}]".replace("[", "\\[") if figure.unit else figure.name,
            *(_number(figure.values.get(end), figure.digits) for end in ENDS),
            _number(figure.bar, figure.digits) if figure.bar is not None else "",
            _number(figure.beyond, figure.digits) if figure.beyond is not None else "",
            figure.verdict,
        )
    console.print(table)
    for gap in outcome.gaps[:_GAPS_SHOWN]:
        console.print(f"  {gap.seconds:8.1f} s  end {gap.end}: {gap.count} {gap.kind}")
    if len(outcome.gaps) > _GAPS_SHOWN:
        console.print(f"  ... and {len(outcome.gaps) - _GAPS_SHOWN} more (see --json)")
    for remark in outcome.remarks:
        console.print(f"  {remark}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
