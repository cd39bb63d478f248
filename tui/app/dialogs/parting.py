"""The last dialog of a call, which shows the reason of its end until a key is pressed."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from stream.call.snapshot import Snapshot
from tui.app.call_bar import STATES
from tui.app.dialogs.dialog import Dialog
from tui.app.figures import clean, clock


class Parting(Dialog[bool]):
    """Answers True at the first key."""

    def __init__(self, snapshot: Snapshot) -> None:
        _, word, _ = STATES[snapshot.state]
        super().__init__(f"call {word}", "press any key")
        self._snapshot = snapshot

    def content(self) -> list[Widget]:
        symbol, word, role = STATES[self._snapshot.state]
        style = "$error" if role == "bad" else "$foreground"
        reason = clean(self._snapshot.reason) or f"the call has {word}"
        return [
            Static(Content.assemble((f"{symbol} ", style), reason)),
            Static(Content(f"after {clock(self._snapshot.seconds)}"), classes="quiet"),
        ]

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(True)
