"""A dialog to compare the authentication string with somebody."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from stream.call.snapshot import Party
from tui.app.dialogs.dialog import Dialog
from tui.app.figures import clean


class Compare(Dialog[bool]):
    """Answers True if a person says that the code is the same on both screens.

    Only one key says so: it is remembered, and nobody is to say it by accident.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", show=False),
        Binding("n", "close", show=False),
    ]

    def __init__(self, party: Party) -> None:
        super().__init__("compare", "y the same · n not")
        self._name = clean(party.name) or "the other side"
        self._code = clean(party.code)

    def content(self) -> list[Widget]:
        ask = f"Let {self._name} read you the code on their screen, in a voice that you know:"
        warning = (
            "Is it the same? Then their key is verified, now and in later calls. If it is another, "
            "somebody sits between you: hang up."
        )
        code = Content.assemble((self._code, "bold"))
        return [Static(Content("\n").join([Content(ask), code, Content(warning)]))]

    def action_yes(self) -> None:
        self.dismiss(True)
