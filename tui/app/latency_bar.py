"""The mouth-to-ear latency and its parts, as a bar to scale."""

from __future__ import annotations

from stream.call.snapshot import Latency
from tui.app.figures import milliseconds
from tui.app.painting import Line, Painted, heading, spread

PARTS = ("frame", "capture", "search", "network", "playout", "decode", "device")
# Neighbours differ without colour too.
_INKS = dict(zip(PARTS, "█▒▓░▓▒█", strict=True))
_SCALE_STEP = 0.25
_SHORTEST_SCALE = 0.5


class LatencyBar(Painted):
    """A bar with a legend beneath it."""

    def __init__(self, *, colour: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self._colour = colour
        self._latency = Latency()
        self._round_trip: float | None = None
        self._grown = 0.0

    def show(self, latency: Latency, round_trip: float | None, grown: float) -> None:
        """grown: seconds of it that were not there before, 0 where that is nothing unusual."""
        self._latency, self._round_trip, self._grown = latency, round_trip, grown
        self.repaint()

    def paint(self, width: int, height: int) -> list[Line]:
        notes: Line = [
            ("round trip ", "label"),
            (milliseconds(self._round_trip), "text"),
            ("   mouth to ear ", "label"),
            (milliseconds(self._latency.total), "strong"),
        ]
        if self._grown:
            notes.append((f"  ▲ {milliseconds(self._grown).strip()} more", "warn"))
        column = width // len(PARTS)
        if column < 10:  # too narrow for a legend: the bar and the total must do
            return [heading("latency", notes, width), self._bar(width)]
        names: Line = []
        values: Line = []
        for part in PARTS:
            ink = "■" if self._colour else _INKS[part]
            names += [(ink, f"part-{part}"), (f" {part}".ljust(column - 1), "label")]
            text = f"  {milliseconds(getattr(self._latency, part))}"
            values.append((text.ljust(column), "text"))
        return [heading("latency", notes, width), self._bar(width), names, values]

    def _bar(self, width: int) -> Line:
        cells = shares(self._latency, width)
        line: Line = [
            (("█" if self._colour else _INKS[part]) * cells[part], f"part-{part}")
            for part in PARTS
            if cells[part]
        ]
        return spread(line, [], width, "·", "track")


def shares(latency: Latency, width: int) -> dict[str, int]:
    """Cells of each part in a bar of `width`: to scale, but nothing measured is invisible."""
    seconds = {part: max(getattr(latency, part) or 0.0, 0.0) for part in PARTS}
    total = sum(seconds.values())
    scale = max(_SHORTEST_SCALE, -(-total // _SCALE_STEP) * _SCALE_STEP)
    cells: dict[str, int] = {}
    drawn, elapsed = 0, 0.0
    for part in PARTS:
        elapsed += seconds[part]
        # From the running sum, so that rounding does not pile up.
        end = min(round(elapsed / scale * width), width)
        cells[part] = max(end - drawn, 1 if seconds[part] else 0)
        drawn += cells[part]
    cells["frame"] = max(cells["frame"] - max(drawn - width, 0), 0)
    return cells
