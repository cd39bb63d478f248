"""Numbers and untrusted text for the screen, of constant width and without control characters.

Figures that change several times a second must not push their neighbours about, so each has a fixed
width for every value it is likely to take.
"""

from __future__ import annotations

from rich.cells import cell_len, chop_cells

ELLIPSIS = "…"
UNKNOWN = "–"
QUIET_DB = -99.0


def clean(text: str) -> str:
    """`text` without control characters and runs of blanks: others may have chosen it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def fit(text: str, width: int) -> str:
    """`text` in at most `width` cells, cut with an ellipsis, between words if there is a choice."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return ELLIPSIS[: max(width, 0)]
    head = chop_cells(text, width - 1)[0]
    space = head.rfind(" ")
    if text[len(head)] != " " and space >= width // 2:
        head = head[:space]
    return head.rstrip(" ,;:(") + ELLIPSIS


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words where that is possible."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and cell_len(line) + 1 + cell_len(word) <= width:
            line += " " + word
            continue
        if line:
            lines.append(line)
        pieces = chop_cells(word, max(width, 1)) or [""]
        lines += pieces[:-1]
        line = pieces[-1]
    return [*lines, line]


def clock(seconds: float) -> str:
    """00:07, 12:34, 1:02:03."""
    whole = max(0, int(seconds))
    hours, minutes = divmod(whole // 60, 60)
    short = f"{minutes:02d}:{whole % 60:02d}"
    return f"{hours}:{short}" if hours else short


def milliseconds(seconds: float | None) -> str:
    """Four cells and the unit: `1024 ms`, `   – ms`."""
    if seconds is None:
        return f"{UNKNOWN:>4} ms"
    return f"{min(seconds * 1e3, 99_999):4.0f} ms"


def decibels(level_db: float) -> str:
    """Six cells: `-18 dB`, `-∞ dB`."""
    value = "-∞" if level_db <= QUIET_DB else f"{level_db + 0.0:.0f}"
    return f"{value:>3} dB"


def bits(rate: float) -> str:
    """Four cells: bits per second up to 9999, above that in thousands."""
    if rate < 9999.5:
        return f"{rate:4.0f}"
    return f"{rate / 1e3:3.0f}k" if rate < 999.5e3 else ">1M "


def cost(value: float) -> str:
    """Five cells with four significant digits, where that is enough."""
    for limit, decimals in ((9.9995, 3), (99.995, 2), (999.95, 1)):
        if abs(value) < limit:
            return f"{value:5.{decimals}f}"
    return f"{value:5.0f}"


def factor(value: float) -> str:
    """`0.56×`: five cells."""
    return f"{value:4.2f}×" if value < 9.995 else f"{min(value, 999):4.0f}×"
