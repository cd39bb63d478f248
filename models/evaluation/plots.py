"""Line and box plots as PNG; only drawing them needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Line:
    """Points x, y of one line.

    label: in the legend, "" for none; errors: lengths of the error bars below and above each point;
    notes: text at each point; style: keyword arguments of matplotlib's `Axes.errorbar`.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    errors: tuple[Sequence[float], Sequence[float]] | None = None
    notes: Sequence[str] = ()
    style: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ticks: positions and labels on a logarithmic x axis; None if linear."""

    lines: Sequence[Line]
    x_label: str
    y_label: str = ""
    title: str = ""
    ticks: dict[float, str] | None = None
    log_y: bool = False


@dataclass(frozen=True)
class Box:
    """The spread of values [n] under a label; mean: is marked as well."""

    label: str
    values: Sequence[float]
    mean: float


def draw_boxes(
    boxes: Sequence[Box], file: BinaryIO, *, y_label: str, bands: Sequence[str], title: str = ""
) -> None:
    """Boxes of quartiles with whiskers of 1.5 interquartile ranges, beside each other.

    bands: names of equal parts of the scale from 0 to 100, from below.
    """
    figure = _figure((max(6.0, 1.1 * len(boxes) + 2), 5.5))
    axis = figure.subplots()
    places = range(1, len(boxes) + 1)
    axis.boxplot([box.values for box in boxes], positions=places, widths=0.55)
    axis.plot(places, [box.mean for box in boxes], "D", color="C0", label="mean")
    axis.set_xticks(places, [box.label for box in boxes], rotation=30, ha="right", parse_math=False)
    step = 100 / len(bands)
    for place, name in enumerate(bands):
        axis.axhline(place * step, color="0.85", linewidth=0.8, zorder=0)
        axis.annotate(
            name, (1.01, (place + 0.5) * step), xycoords=("axes fraction", "data"), va="center"
        )
    axis.set_ylim(-2, 102)
    axis.set_ylabel(y_label)
    axis.set_title(title, parse_math=False)
    axis.legend()
    figure.savefig(file, format="png", dpi=110)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw(
    panels: Sequence[Panel],
    file: BinaryIO,
    *,
    size: tuple[float, float],
    columns: int = 1,
    shared_legend: bool = False,
) -> None:
    """Draw panels row by row, in a figure of `size` inches.

    shared_legend: one legend below all panels, where it covers no points, instead of one in each.
    """
    figure = _figure(size)
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel)
        if any(line.label for line in panel.lines) and not shared_legend:
            axis.legend()
    if shared_legend and panels[0].lines:
        names = axes.flat[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside lower center", ncols=10)
    figure.savefig(file, format="png", dpi=110)


def _draw_panel(axis: Any, panel: Panel) -> None:
    for line in panel.lines:
        axis.errorbar(
            line.x, line.y, yerr=line.errors, label=line.label, **{"capsize": 2, **line.style}
        )
        for note, *point in zip(line.notes, line.x, line.y, strict=False):
            color = line.style.get("color")
            axis.annotate(note, point, (0, 6), textcoords="offset points", fontsize=8, color=color)
    if panel.ticks is not None:
        axis.set_xscale("log")
        axis.set_xticks(list(panel.ticks), list(panel.ticks.values()))
        axis.minorticks_off()
    if panel.log_y:
        axis.set_yscale("log")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.set_title(panel.title)
    axis.grid(alpha=0.3)
