"""A level meter with peak hold."""

from __future__ import annotations

from stream.call.snapshot import QUIETEST_DB
from tui.app.painting import Line

LOWEST_DB = -60.0
WARM_DB, HOT_DB = -12.0, -3.0
HOLD_SECONDS = 1.5
FALL_DB_PER_SECOND = 20.0
_EIGHTHS = " ▏▎▍▌▋▊▉"


class PeakHold:
    """The loudest recent level; it is held for a moment and then sinks slowly."""

    def __init__(self) -> None:
        self.level_db = QUIETEST_DB
        self._at = 0.0

    def update(self, level_db: float, now: float) -> float:
        """now: seconds on a clock that never jumps. Returns the held level, dB."""
        sinking = max(0.0, now - self._at - HOLD_SECONDS)
        if level_db >= self.level_db - FALL_DB_PER_SECOND * sinking:
            self.level_db, self._at = level_db, now
            return level_db
        return self.level_db - FALL_DB_PER_SECOND * sinking


def bar(level_db: float, peak_db: float, width: int) -> Line:
    """The meter in `width` cells, -60 dB at the left and full scale at the right.

    The colour shows how close to clipping it is; the figure next to it does without colour.
    """
    filled = _cells(level_db, width)
    whole = int(filled)
    cells = ["█"] * whole
    if whole < width:
        eighth = _EIGHTHS[int((filled - whole) * 8)]
        cells.append(eighth if eighth != " " else "·")
        cells += ["·"] * (width - whole - 1)
    peak = int(_cells(peak_db, width) - 1e-6)
    has_peak = peak_db > LOWEST_DB and whole <= peak < width
    if has_peak:
        cells[peak] = "│"
    line: Line = []
    for at, cell in enumerate(cells):
        if has_peak and at == peak:
            role = "peak"
        elif cell == "·":
            role = "track"
        else:
            role = _zone(LOWEST_DB * (1 - (at + 0.5) / width))
        if line and line[-1][1] == role:
            line[-1] = (line[-1][0] + cell, role)
        else:
            line.append((cell, role))
    return line


def _cells(level_db: float, width: int) -> float:
    return width * min(max((level_db - LOWEST_DB) / -LOWEST_DB, 0.0), 1.0) + 1e-9


def _zone(level_db: float) -> str:
    if level_db >= HOT_DB:
        return "meter-high"
    return "meter-mid" if level_db >= WARM_DB else "meter-low"
