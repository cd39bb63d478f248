"""A dialog to choose one name from a list."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.app.dialogs.dialog import Dialog
from tui.app.figures import clean


class Choose(Dialog[str]):
    """Answers with the chosen name."""

    def __init__(self, title: str, names: Sequence[str], current: str) -> None:
        super().__init__(title, "enter choose · esc close")
        self._names = tuple(names)
        self._current = current

    def content(self) -> list[Widget]:
        return [name_list(self._names, self._current)]

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._names[event.option_index])


def name_list(names: Sequence[str], current: str, *, id: str | None = None) -> OptionList:
    """A list with the current name marked and under the cursor."""
    options = OptionList(*marked(names, current), id=id)
    options.highlighted = names.index(current) if current in names else (0 if names else None)
    return options


def marked(names: Sequence[str], current: str) -> list[Option]:
    return [Option(Content(("● " if name == current else "  ") + clean(name))) for name in names]
