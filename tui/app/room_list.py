"""The list of everybody in the room."""

from __future__ import annotations

from rich.cells import set_cell_size
from textual import events
from textual.message import Message

from stream.call.snapshot import Party
from tui.app.figures import clean, decibels, fit
from tui.app.meter import PeakHold, bar
from tui.app.painting import Line, Painted, heading

MOST_LISTED = 8


class RoomList(Painted):
    """One line for each remote party, with its level; one is selected."""

    class Selected(Message):
        """A line was clicked. party: the number of the party in the call."""

        def __init__(self, party: int) -> None:
            super().__init__()
            self.party = party

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._listeners: tuple[Party, ...] = ()
        self._selected = -1
        self._peaks: dict[int, PeakHold] = {}
        self._now = 0.0

    def show(self, listeners: tuple[Party, ...], selected: int, now: float) -> None:
        """selected: a party's number; now: seconds on a monotonic clock."""
        rows = 1 + min(len(listeners), MOST_LISTED)
        if len(listeners) != len(self._listeners):
            self.styles.height = rows
        self._listeners, self._selected, self._now = listeners, selected, now
        present = {listener.party for listener in listeners}
        self._peaks = {party: self._peaks.get(party) or PeakHold() for party in sorted(present)}
        self.repaint()

    def paint(self, width: int, height: int) -> list[Line]:
        notes: Line = [("↑↓ ", "key"), ("select", "label")] if len(self._listeners) > 1 else []
        heard = sum(listener.heard for listener in self._listeners)
        of = f" of {len(self._listeners)}" if heard < len(self._listeners) else ""
        lines = [heading(f"room · {heard}{of} heard", notes, width)]
        return [*lines, *(self._row(listener, width) for listener in self._listeners)]

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1
        if 0 <= index < len(self._listeners):
            self.post_message(self.Selected(self._listeners[index].party))

    def _row(self, listener: Party, width: int) -> Line:
        chosen = listener.party == self._selected
        name_width = min(max(width // 3, 6), 24)
        name = fit(clean(listener.name) or f"party {listener.party}", name_width)
        peak = self._peaks[listener.party].update(listener.level_db, self._now)
        changed = any(each.volume.decibels for each in self._listeners)
        volume = f" {listener.volume.decibels:>+3d}" if listener.volume.decibels else " " * 4
        meter = max(width - name_width - 13 - 4 * changed, 1)
        return [
            ("▸ " if chosen else "  ", "key"),
            (set_cell_size(name, name_width) + " ", "strong" if chosen else "text"),
            *bar(listener.level_db, peak, meter),
            (" " + decibels(listener.level_db), "text"),
            (volume if changed else "", "strong"),
            _mark(listener),
        ]


def _mark(listener: Party) -> tuple[str, str]:
    if not listener.heard or listener.volume.muted:
        return " ✗", "bad"
    return (" ●", "good") if listener.active else (" ○", "label")
