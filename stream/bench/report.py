"""Figures of the link's scenarios with their bars, as tables and as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import numpy as np

from codec.packet import CALL_DELAY
from models.evaluation import tables
from models.evaluation.plots import Line, Panel
from stream.bench.course import Course, Sounds
from stream.bench.laboratory import ENDS, Name
from stream.bench.scenarios import Bars, Scenario
from stream.bench.telemetry import Gap

_GAPS_SHOWN = 20
_REPORTED = ("name", "unit", "values", "bar", "beyond", "verdict")

HOW = {
    "latency": "normalised cross-correlation of band envelopes of 3 s of a microphone with the "
    "other end's loudspeaker, both in one recording; windows not found within 4 s are unheard",
    "quality": "PESQ and STOI of the loudspeaker against the microphone, utterance by utterance, "
    "each aligned by itself; offline: the same talk through the codec in one go",
    "phones": "PocketSphinx phone loop, against its own decoding of the microphone",
    "breaks": "energy of the second difference within 1 ms over that of the 8 ms around: its "
    "largest value, against the largest in the same talk coded offline",
    "echo": "power of what comes back to an end that talks alone, over that of the echo in the "
    "other end's microphone, from the sixth second on; PESQ and STOI against what was said",
    "memory": "proportional set size; CPU: user and system time of the process, in cores",
    "columns": "a listens, b calls; a column is about the voice or the process of that end, so "
    "what b received is in column a",
}


@dataclass(frozen=True)
class Figure:
    """One measured value for each end (None: could not be measured).

    bar: the upper limit; beyond: one that would be better still.
    """

    name: str
    unit: str
    values: Mapping[Name, float | None]
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
        # NaN is not within any limit.
        return bool(self.values) and all(
            value is not None and value <= limit for value in self.values.values()
        )


@dataclass
class Result:
    """Outcome of a scenario at a delay (milliseconds of speech in a packet): figures, under- and
    overflows, remarks, or why it could not run; course: what happened when; sounds: by voice, if
    they are wanted."""

    scenario: Scenario
    delay: int = CALL_DELAY
    figures: list[Figure] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    course: Course | None = None
    sounds: dict[Name, Sounds] = field(default_factory=dict)

    def add(
        self,
        name: str,
        unit: str,
        values: Mapping[Name, float | None] | Callable[[Name], float | None],
        bars: Bars = (None, None),
        digits: int = 3,
    ) -> None:
        """Add a figure; values: by end, or what measures an end."""
        if not isinstance(values, Mapping):
            values = {end: values(end) for end in ENDS}
        self.figures.append(Figure(name, unit, values, *bars, digits))


def as_dict(results: Sequence[Result], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured as plain values."""
    return {
        "how": HOW,
        "machine": tables.machine(),
        "setup": about,
        "scenarios": [
            {
                "name": result.scenario.name,
                "delay": result.delay,
                "title": result.scenario.title,
                "failure": result.failure,
                "figures": [
                    {key: getattr(figure, key) for key in _REPORTED} for figure in result.figures
                ],
                "gaps": [vars(gap) for gap in result.gaps],
                "remarks": result.remarks,
                "course": None if result.course is None else asdict(result.course),
                "details": result.details,
            }
            for result in results
        ],
    }


_BY_DELAY = {
    "mouth to ear, 95th percentile": "Mouth to ear, 95th percentile / s",
    "PESQ-WB, through the link": "PESQ-WB through the link",
    "IP bits sent, on the cable": "IP bit/s each way",
}


def panels(results: Sequence[Result]) -> list[Panel]:
    """Delay, quality and wire rate against the speech in a packet; the mean of both ends."""
    found = []
    for name, label in _BY_DELAY.items():
        points = sorted(
            (result.delay, float(np.mean(known)))
            for result in results
            for figure in result.figures
            if figure.name == name
            and (known := [value for value in figure.values.values() if value is not None])
        )
        if points:
            x, y = zip(*points, strict=True)
            ticks = {float(delay): str(delay) for delay in x}
            found.append(Panel([Line("", x, y)], "speech in a packet / ms", label, ticks=ticks))
    return found


def print_result(result: Result, stream: TextIO) -> None:
    """One table for a scenario, then its under- and overflows and remarks."""
    console = tables.console(stream, width=120)
    scenario = result.scenario
    if result.failure is not None:
        name = f"{scenario.name}, {result.delay} ms"
        console.print(f"{name}: could not run: {result.failure}", markup=False)
        return
    title = f"{scenario.name}, {result.delay} ms: {scenario.title}"
    table = tables.table(title, ["figure"], [*ENDS, "bar", "beyond"])
    table.add_column("")
    for figure in result.figures:
        bars = (
            "" if bar is None else tables.number(bar, figure.digits)
            for bar in (figure.bar, figure.beyond)
        )
        table.add_row(
            f"{figure.name} \\[{figure.unit}]" if figure.unit else figure.name,
            *(tables.number(figure.values.get(end), figure.digits) for end in ENDS),
            *bars,
            figure.verdict,
        )
    console.print(table)
    for gap in result.gaps[:_GAPS_SHOWN]:
        console.print(f"  {gap.seconds:8.1f} s  end {gap.end}: {gap.count} {gap.kind}")
    if len(result.gaps) > _GAPS_SHOWN:
        console.print(f"  ... and {len(result.gaps) - _GAPS_SHOWN} more (see --json)")
    for remark in result.remarks:
        console.print(f"  {remark}", markup=False)
    stream.flush()
