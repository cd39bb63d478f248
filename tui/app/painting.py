"""Widgets made of a few lines of text, redrawn line by line.

A line is a list of (text, role); a role is the name of a component class, and the style sheet says
how it looks. Lines are compared with those already shown and only changes are drawn, which keeps an
idle call cheap.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.app.figures import fit

Span = tuple[str, str]
Line = list[Span]

ROLES = (
    "text",
    "strong",
    "label",
    "rule",
    "title",
    "key",
    "good",
    "warn",
    "bad",
    "spark",
    "track",
    "peak",
    "meter-low",
    "meter-mid",
    "meter-high",
    "part-frame",
    "part-capture",
    "part-search",
    "part-network",
    "part-playout",
    "part-decode",
    "part-device",
)


def width_of(line: Sequence[Span]) -> int:
    return sum(cell_len(text) for text, _ in line)


def flow(fields: Iterable[Line], width: int, gap: int = 2) -> Line:
    """The fields side by side, as many as fit; the others are left out."""
    line: Line = []
    used = 0
    for field in fields:
        needed = width_of(field)
        if needed == 0:
            continue
        if line:
            needed += gap
        if used + needed > width:
            break
        if line:
            line.append((" " * gap, "text"))
        line += field
        used += needed
    return line


def spread(left: Line, right: Line, width: int, fill: str = " ", role: str = "rule") -> Line:
    """`left` and `right` at the two ends, or `left` alone if both do not fit."""
    room = width - width_of(left) - width_of(right)
    if right and room < 1:
        return spread(left, [], width, fill, role)
    return [*left, (fill * max(room, 0), role), *right]


def heading(title: str, notes: Line, width: int) -> Line:
    """A panel's title: name, a thin rule, and notes at the end."""
    right: Line = [(" ", "text"), *notes] if notes else []
    room = width - width_of(right) - 3
    if room < cell_len(title) and room < 8:
        right, room = [], width - 1
    left: Line = [(fit(title, room), "title"), (" ", "text")]
    return spread(left, right, width, "─")


class Painted(Widget):
    """A widget whose content is `paint`'s lines."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"paint--{role}" for role in ROLES}
    ALLOW_SELECT = False
    can_focus = False

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: list[Line | Strip] = []
        self._strips: dict[int, Strip] = {}
        self._looks: dict[str, Style] = {}

    @abstractmethod
    def paint(self, width: int, height: int) -> Sequence[Line | Strip]:
        """The lines to show in `height` rows of `width` cells."""

    def repaint(self) -> None:
        """Call `paint` and redraw the lines that changed."""
        width, height = self.content_size
        if not width or not height:
            return
        lines = list(self.paint(width, height))[:height]
        before = self._lines
        self._lines = lines
        changed = [
            y
            for y in range(max(len(before), len(lines)))
            if y >= len(before) or y >= len(lines) or before[y] != lines[y]
        ]
        for y in changed:
            self._strips.pop(y, None)
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def look(self, role: str) -> Style:
        """The style of a role."""
        style = self._looks.get(role)
        if style is None:
            style = self._looks[role] = self.get_component_rich_style(f"paint--{role}")
        return style

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._looks.clear()
        self._strips.clear()

    def on_resize(self) -> None:
        self._lines = []
        self._strips.clear()
        self.repaint()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._drawn(y)
        return strip

    def _drawn(self, y: int) -> Strip:
        width = self.content_size.width
        content = self._lines[y] if y < len(self._lines) else []
        if not isinstance(content, Strip):
            content = Strip([Segment(text, self.look(role)) for text, role in content if text])
        return content.adjust_cell_length(width, self.look("text"))
