"""A dialog for an incoming call of somebody who is not known."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from stream.link.events import Rings
from stream.link.ringing import Answer
from tui.app.dialogs.dialog import Dialog
from tui.app.figures import clean


class Ring(Dialog[Answer]):
    """Answers with what is to be done about the caller; closing it refuses."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "answer('ACCEPT')", show=False),
        Binding("r", "answer('REMEMBER')", show=False),
        Binding("n", "answer('REFUSE')", show=False),
    ]

    def __init__(self, ringing: Rings) -> None:
        super().__init__("incoming call", "a accept · r accept, remember · n no")
        self.ringing = ringing

    def content(self) -> list[Widget]:
        name = clean(self.ringing.name) or "somebody"
        lines = (
            f"{name} calls. Nobody known has this key:",
            clean(self.ringing.fingerprint),
            "Nothing is heard, and your microphone is closed, until you accept.",
        )
        return [Static("\n".join(lines), markup=False)]

    def action_answer(self, name: str) -> None:
        self.dismiss(Answer[name])

    def action_close(self) -> None:
        self.dismiss(Answer.REFUSE)
