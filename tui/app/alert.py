"""Warnings about the call, shown only while there are any."""

from __future__ import annotations

from stream.call.snapshot import LateOver, Party, Snapshot
from stream.link.events import CallState
from tui.app.figures import clean, wrap
from tui.app.painting import Line, Painted

_MOST_LINES = 3


class Alert(Painted):
    """Up to three lines of warnings."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._texts: tuple[str, ...] = ()

    def show(self, snapshot: Snapshot) -> None:
        texts = alerts(snapshot)
        if texts != self._texts:
            self._texts = texts
            self._fit()
        self.repaint()

    def on_resize(self) -> None:
        self._fit()
        super().on_resize()

    def _fit(self) -> None:
        width = self.content_size.width or self.app.size.width - 2
        self.styles.height = len(self._wrapped(width))
        self.display = bool(self._texts)

    def _wrapped(self, width: int) -> list[str]:
        lines: list[str] = []
        for text in self._texts:
            first, *more = wrap(text, max(width - 2, 8))
            lines += ["▲ " + first, *("  " + line for line in more)]
        return lines[:_MOST_LINES]

    def paint(self, width: int, height: int) -> list[Line]:
        return [[(line, "warn")] for line in self._wrapped(width)]


def shown(party: Party) -> str:
    """What to call somebody."""
    return clean(party.name) or f"party {party.party}"


def late_text(late: LateOver) -> str:
    """What comes late, for people."""
    when = "now playing" if late.playing else "to be played when it is quiet"
    again = ", once more and whole" if late.again else ""
    more = f"; {late.waiting:.0f} s more wait" if late.waiting >= 0.5 else ""
    return f"late: {clean(late.name)}, {late.ago:.0f} s ago{again}: {when}{more}"


def alerts(snapshot: Snapshot) -> tuple[str, ...]:
    """The warnings to show, most urgent first."""
    texts = []
    if snapshot.state is CallState.RECONNECTING:
        reason = clean(snapshot.reason)
        texts.append(f"connection lost, trying again{': ' + reason if reason else ''}")
    if (late := snapshot.late) is not None:
        texts.append(late_text(late))
    if snapshot.link.kept >= 0.5:
        texts.append(f"{snapshot.link.kept:.0f} s of what you said are kept, to arrive late")
    recording = [shown(party) for party in snapshot.listeners if party.recording]
    if recording:
        texts.append(f"{' and '.join(recording)} record{'s' * (len(recording) == 1)} this call")
    if snapshot.overloaded:
        texts.append("overloaded: this machine cannot keep up, so speech will have gaps")
    unheard = [shown(party) for party in snapshot.listeners if not party.heard]
    if unheard:
        names = ", ".join(unheard)
        texts.append(f"this machine cannot decode so many voices at once; not heard: {names}")
    return tuple(texts)
