"""A dialog that asks for yes or no."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from tui.app.dialogs.dialog import Dialog


class Confirm(Dialog[bool]):
    """Answers True for yes, None for no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,h,enter", "yes", show=False),
        Binding("n", "close", show=False),
    ]

    def __init__(self, title: str, question: str) -> None:
        super().__init__(title, "y yes · n no")
        self._question = question

    def content(self) -> list[Widget]:
        return [Static(self._question, markup=False)]

    def action_yes(self) -> None:
        self.dismiss(True)
