"""The keys at the bottom of the screen, which can be clicked too."""

from __future__ import annotations

from textual import events

from stream.call.snapshot import Snapshot
from tui.app.keys import bar_items
from tui.app.painting import Line, Painted, width_of

_GAP = 2


class KeyBar(Painted):
    """As many keys as fit; the help lists them all."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._items: list[tuple[str, str, str]] = []
        self._spans: list[tuple[int, int, str]] = []

    def show(self, snapshot: Snapshot) -> None:
        self._items = bar_items(snapshot)
        self.repaint()

    def paint(self, width: int, height: int) -> list[Line]:
        line: Line = []
        self._spans = []
        at = 0
        for key, name, action in self._items:
            item: Line = [(key, "key"), (" " + name, "label")]
            if at + width_of(item) > width:
                break
            self._spans.append((at, at + width_of(item), action))
            line += [*item, (" " * _GAP, "text")]
            at += width_of(item) + _GAP
        return [line[:-1]]

    async def on_click(self, event: events.Click) -> None:
        x = event.x - self.gutter.left
        for start, end, action in self._spans:
            if start <= x < end:
                await self.app.run_action(f"app.{action}")
