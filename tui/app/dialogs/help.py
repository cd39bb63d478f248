"""The help dialog: every key and its action."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import set_cell_size
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.app.dialogs.dialog import Dialog
from tui.app.keys import help_rows


class Help(Dialog[None]):
    """A list of all keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q,enter", "close", show=False)]

    def __init__(self) -> None:
        super().__init__("help")

    def content(self) -> list[Widget]:
        rows = [
            Content.assemble((set_cell_size(key, 11), "$accent"), what) for key, what in help_rows()
        ]
        return [Static(Content("\n").join(rows))]
