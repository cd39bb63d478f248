"""Colours of the call screen, and detection of terminals without colours."""

from __future__ import annotations

import os
from collections.abc import Mapping

from textual.theme import Theme

SOTTO_THEME = Theme(
    name="sotto",
    dark=True,
    primary="#6fb7b0",
    secondary="#8ea7c7",
    accent="#e3c878",
    foreground="#d3d9de",
    background="#101519",
    surface="#161d22",
    panel="#1d262c",
    success="#86c28b",
    warning="#e5b567",
    error="#e57f78",
)


def has_colour(environment: Mapping[str, str] | None = None) -> bool:
    """Whether to draw in colour: not with NO_COLOR set (no-color.org), nor without colours.

    What a terminal without COLORTERM can do is read from the terminfo entry of its TERM.
    """
    known = os.environ if environment is None else environment
    if known.get("NO_COLOR"):
        return False
    if known.get("COLORTERM"):
        return True
    terminal = known.get("TERM", "")
    if not terminal:
        return True
    try:
        import curses

        curses.setupterm(terminal, fd=1)
        return curses.tigetnum("colors") >= 8
    except Exception:  # no curses here, or no such entry: curses.error is not importable then
        return terminal not in ("dumb", "unknown")
