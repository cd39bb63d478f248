"""A dialog that asks for a line of text for the others."""

from __future__ import annotations

from textual.widget import Widget
from textual.widgets import Input

from tui.app.dialogs.dialog import Dialog

_FOOTER = "enter send · esc close"


class Write(Dialog[str]):
    """Answers with what was written, which is not sent while it is too long."""

    def __init__(self, most_bytes: int, draft: str = "") -> None:
        """most_bytes: of UTF-8 in the line; draft: what is there already."""
        super().__init__("write", _FOOTER)
        self._most = most_bytes
        self._draft = draft

    def content(self) -> list[Widget]:
        return [Input(self._draft, select_on_focus=False)]

    def on_input_changed(self, event: Input.Changed) -> None:
        over = self._excess(event.value)
        footer = f"{over} bytes too long · esc close" if over > 0 else _FOOTER
        self.query_one(".box").border_subtitle = footer

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._excess(event.value) > 0:
            return
        self.dismiss(event.value.strip() or None)

    def _excess(self, text: str) -> int:
        return len(text.strip().encode("utf-8", "replace")) - self._most
