"""The log of the call, which can be scrolled back."""

from __future__ import annotations

from collections.abc import Iterable

from textual import events

from stream.log import Lines, LogLine
from tui.app.figures import clean, clock, wrap
from tui.app.painting import Line, Painted, heading

_MARKS = {
    "debug": (" ", "label"),
    "info": ("·", "label"),
    "said": ("»", "key"),
    "warning": ("▲", "warn"),
}
_TEXT_ROLES = {"debug": "label", "said": "strong"}
_ERROR = ("✗", "bad")


class LogView(Painted):
    """Lines are wrapped between words; the newest is at the bottom."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._entries = Lines()
        self._wrapped: list[Line] = []
        self._wrapped_width = -1
        self._back = 0
        self.last_number = -1

    def add(self, entries: Iterable[LogLine]) -> bool:
        """Append lines that are newer than the last; whether there were any."""
        before = self.last_number
        for entry in entries:
            if entry.number > self.last_number:
                self._entries.append(entry)
                self.last_number = entry.number
        if self.last_number == before:
            return False
        shown, self._wrapped_width = len(self._wrapped), -1
        if self._back:  # hold still what is being read
            self._rewrap(self.content_size.width)
            self._back += max(len(self._wrapped) - shown, 0)
        self.repaint()
        return True

    def scroll_pages(self, pages: int) -> None:
        """Negative: towards older lines."""
        page = max(self.content_size.height - 2, 1)
        self._back = min(max(self._back - pages * page, 0), max(len(self._wrapped) - page - 1, 0))
        self.repaint()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.scroll_pages(-1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.scroll_pages(1)

    def paint(self, width: int, height: int) -> list[Line]:
        self._rewrap(width)
        rows = height - 1
        end = max(len(self._wrapped) - self._back, 0)
        notes: Line = [(f"▼ {self._back} newer", "warn")] if self._back else []
        return [heading("log", notes, width), *self._wrapped[max(end - rows, 0) : end]]

    def _rewrap(self, width: int) -> None:
        if width == self._wrapped_width:
            return
        self._wrapped_width = width
        self._wrapped = [line for entry in self._entries for line in _lines(entry, width)]


def _lines(entry: LogLine, width: int) -> list[Line]:
    mark, role = _MARKS.get(entry.level, _ERROR)
    stamp = f"{clock(entry.seconds):>7} "
    text_role = _TEXT_ROLES.get(entry.level, "text")
    first, *more = wrap(clean(entry.text), max(width - len(stamp) - 2, 8))
    indent = " " * (len(stamp) + 2)
    return [
        [(stamp, "label"), (mark + " ", role), (first, text_role)],
        *([(indent, "text"), (line, text_role)] for line in more),
    ]
