"""The page of `sotto bench link`: calls over time, their figures and bars, and how they sounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from models.evaluation import tables
from stream.bench import report
from stream.bench.course import Course
from stream.bench.laboratory import ENDS, Name
from stream.bench.report import Figure, Result
from tui.pages import sounds
from tui.pages.site import Site

_RESULTS = "results.json"
_VERSIONS = {"said": "said", "heard": "heard", "offline": "coded offline"}
# Columns of the overview: the figure, its head, digits.
_OVERVIEW = (
    ("mouth to ear, median", "median / s", 3),
    ("mouth to ear, 95th percentile", "95th percentile / s", 3),
    ("PESQ-WB, through the link", "PESQ-WB", 2),
    ("IP bits sent, on the cable", "IP / bit/s", 0),
    ("CPU, share of a core", "CPU", 2),
)


class LinkPage:
    """Takes results while others are still measured, and writes the page when all are there."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._results: list[Result] = []
        self._players: list[list[dict[str, Any]]] = []
        self._clips = 0

    def add(self, result: Result) -> None:
        """Add a result, and store its sounds, which are then taken out of it."""
        players = []
        for end, found in result.sounds.items():
            signals = {"said": found.said, "heard": found.heard}
            if found.offline is not None:
                signals["offline"] = found.offline
            name = f"{self._clips:03d}"
            self._clips += 1
            self._site.write(f"sound/{name}.js", sounds.script(name, signals))
            versions = [(key, _VERSIONS[key]) for key in signals]
            delay = f"{found.delay:.3f}"
            players.append({"end": end, "clip": name, "versions": versions, "delay": delay})
        result.sounds = {}
        self._results.append(result)
        self._players.append(players)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the tables, the curves and everything else. about: how both ends were run."""
        site = self._site
        site.write(_RESULTS, tables.to_json(report.as_dict(self._results, about)))
        site.add_assets(
            "base.css",
            "charts.css",
            "link.css",
            "vendor",
            "charts.js",
            "sounds.js",
            "player.js",
            "link.js",
        )
        runs = [
            _run(number, result, players)
            for number, (result, players) in enumerate(
                zip(self._results, self._players, strict=True), 1
            )
        ]
        by_delay = _by_delay(self._results)
        courses = {
            str(run["number"]): _course(result.course)
            for run, result in zip(runs, self._results, strict=True)
            if result.course is not None
        }
        site.render(
            "link.html",
            title="Calls, measured",
            runs=runs,
            heads=[head for _, head, _ in _OVERVIEW],
            ends=ENDS,
            by_delay=by_delay,
            data={"courses": courses, "by_delay": by_delay},
            how={name: text for name, text in report.HOW.items() if name != "columns"},
            about=about,
            machine=tables.machine(),
            results=_RESULTS,
        )


def _by_delay(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Curves over the delay, of the scenario that was tried at most delays; none of one point."""
    names = [result.scenario.name for result in results]
    most = max(dict.fromkeys(names), key=names.count, default="")
    charts = []
    for panel in report.panels([each for each in results if each.scenario.name == most]):
        (line,) = panel.lines
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        if len(points) > 1:
            drawn = {"name": most, "own": True, "line": True, "points": points}
            charts.append({"x": panel.x_label, "y": panel.y_label, "lines": [drawn]})
    return charts


def _run(number: int, result: Result, players: list[dict[str, Any]]) -> dict[str, Any]:
    """A result as text for the template."""
    known = {figure.name: figure for figure in result.figures}
    overview = [
        _worse(known[name], digits) if name in known else "" for name, _, digits in _OVERVIEW
    ]
    judged = [figure for figure in result.figures if figure.verdict]
    missed = [figure.name for figure in judged if figure.verdict == "missed"]
    course = result.course
    return {
        "number": number,
        "name": result.scenario.name,
        "title": result.scenario.title,
        "delay": result.delay,
        "failure": result.failure,
        "overview": overview,
        "judged": len(judged),
        "missed": missed,
        "figures": [_row(figure) for figure in result.figures],
        "gaps": [] if course is None else [_moment(asdict(gap)) for gap in course.gaps],
        "remarks": result.remarks,
        "players": players,
        "windows": [] if course is None else _windows(course),
        "events": [] if course is None else _events(course),
    }


def _row(figure: Figure) -> dict[str, Any]:
    def text(value: float | None) -> str:
        return "" if value is None else tables.number(value, figure.digits)

    return {
        "name": figure.name,
        "unit": figure.unit,
        "values": [text(figure.values.get(end)) for end in ENDS],
        "bar": text(figure.bar),
        "beyond": text(figure.beyond),
        "verdict": figure.verdict,
    }


def _worse(figure: Figure, digits: int) -> str:
    """Both voices, a / b."""
    return " / ".join(tables.number(figure.values.get(end), digits) for end in ENDS)


def _moment(gap: dict[str, Any]) -> dict[str, Any]:
    return {**gap, "seconds": f"{gap['seconds']:.1f}"}


def _windows(course: Course) -> list[dict[str, Any]]:
    """The curve as a table: by moment, the delay of each voice."""
    rows: dict[float, dict[Name, str]] = {}
    for end in ENDS:
        for at, delay in course.delays.get(end, []):
            rows.setdefault(round(at, 1), {})[end] = f"{delay:.3f}"
        for at in course.unheard.get(end, []):
            rows.setdefault(round(at, 1), {})[end] = "not heard"
    return [
        {"at": f"{at:.1f}", "delays": [row.get(end, "") for end in ENDS]}
        for at, row in sorted(rows.items())
    ]


def _events(course: Course) -> list[str]:
    """What is marked in the curve, in words."""
    found = []
    if course.outage is not None:
        found.append("The link was down from {:.1f} s to {:.1f} s.".format(*course.outage))
    if course.flood is not None:
        found.append("Garbage came from {:.1f} s to {:.1f} s.".format(*course.flood))
    for end in ENDS:
        if lost := sum(count for _, count in course.lost.get(end, [])):
            packets = "packet" if lost == 1 else "packets"
            found.append(f"{lost:.0f} {packets} of voice {end} were lost.")
    return found


def _course(course: Course) -> dict[str, Any]:
    """A course as plain values for assets/link.js."""
    values: dict[str, Any] = tables.finite(asdict(course))
    return values
