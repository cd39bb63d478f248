"""All keys."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import set_cell_size
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.app.dialogs.dialog import Dialog

KEYS = (
    ("m", "mute the microphone, and open it again"),
    ("t", "push-to-talk: be heard only when you ask for it"),
    ("space", "with push-to-talk: tap to start and stop, or hold"),
    ("p", "another preset: more bits, or fewer"),
    ("d", "microphone and loudspeaker"),
    ("r", "record both sides; again to stop"),
    ("l", "a longer log, and back"),
    ("v", "plain view for a slow terminal, and back"),
    ("PgUp PgDn", "older and newer log lines"),
    ("↑ ↓", "in a room: whose voice is shown"),
    ("i", "details: keys, counts, clocks"),
    ("?", "this help"),
    ("h", "hang up, also with ctrl+q and ctrl+c"),
)


class Help(Dialog[None]):
    """A card of keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q,enter", "close", show=False)]

    def __init__(self) -> None:
        super().__init__("help")

    def content(self) -> list[Widget]:
        rows = [Content.assemble((set_cell_size(key, 11), "$accent"), what) for key, what in KEYS]
        return [Static(Content("\n").join(rows))]
