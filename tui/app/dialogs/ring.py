"""A dialog for an incoming call."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from stream.link.events import Rings
from stream.link.ringing import Answer
from tui.app.dialogs.dialog import Dialog
from tui.app.figures import clean


def _always() -> bool:
    return True


class Ring(Dialog[Answer]):
    """Answers with what is to be done about the caller; closing it refuses.

    meant: whether the key just pressed can be meant for us, and not for what somebody was typing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "answer('ACCEPT')", show=False),
        Binding("r", "answer('REMEMBER')", show=False),
        Binding("n", "answer('REFUSE')", show=False),
    ]

    def __init__(self, ringing: Rings, meant: Callable[[], bool] = _always) -> None:
        self._may_remember = bool(ringing.fingerprint) and not ringing.known
        remember = "r accept, remember · " if self._may_remember else ""
        super().__init__("incoming call", f"a accept · {remember}n no")
        self.ringing = ringing
        self._meant = meant
        self._told = False

    def content(self) -> list[Widget]:
        name = clean(self.ringing.name) or "somebody"
        if self.ringing.known:
            lines = [f"{name} calls."]
        elif self.ringing.fingerprint:
            who = f"{name} calls. Nobody known has this key:"
            lines = [who, clean(self.ringing.fingerprint)]
        else:
            lines = [f"{name} calls, without a key: it may be anybody."]
        lines.append("Nothing is heard, and your microphone is closed, until you accept.")
        return [Static("\n".join(lines), markup=False)]

    def action_answer(self, name: str) -> None:
        if not self._meant():
            if not self._told:
                self._told = True
                self.notify("you were typing: wait a second, then answer")
        elif Answer[name] is not Answer.REMEMBER or self._may_remember:
            self.dismiss(Answer[name])

    def action_close(self) -> None:
        self.dismiss(Answer.REFUSE)
