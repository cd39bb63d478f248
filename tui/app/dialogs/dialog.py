"""The base of all dialogs: a titled box in the middle, closed by escape."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalGroup
from textual.screen import ModalScreen
from textual.widget import Widget

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer]):
    """Subclasses provide `content`. The answer is None if the dialog is closed without one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", show=False)]

    def __init__(self, title: str, footer: str = "esc close") -> None:
        super().__init__()
        self._title = title
        self._footer = footer

    def compose(self) -> ComposeResult:
        with VerticalGroup(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = self._footer
            yield from self.content()

    @abstractmethod
    def content(self) -> list[Widget]:
        """What is in the box."""

    def action_close(self) -> None:
        self.dismiss(None)
