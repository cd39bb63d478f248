"""A dialog that asks for a file name."""

from __future__ import annotations

from textual.widget import Widget
from textual.widgets import Input

from tui.app.dialogs.dialog import Dialog


class AskPath(Dialog[str]):
    """Answers with the path that was typed, or with the suggestion."""

    def __init__(self, title: str, suggestion: str) -> None:
        super().__init__(title, "enter start · esc close")
        self._suggestion = suggestion

    def content(self) -> list[Widget]:
        return [Input(self._suggestion, select_on_focus=False)]

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or self._suggestion)
