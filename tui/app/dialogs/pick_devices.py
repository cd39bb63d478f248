"""A dialog to choose the microphone and the loudspeaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Label, OptionList

from stream.audio.devices import DeviceNames
from tui.app.dialogs.choose import marked, name_list
from tui.app.dialogs.dialog import Dialog

Change = Callable[[str], bool]


class PickDevices(Dialog[None]):
    """Two lists. A choice takes effect at once, so that it can be heard."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,left,right", "app.focus_next", show=False),
    ]

    def __init__(
        self,
        devices: DeviceNames,
        current: tuple[str, str],
        set_input: Change,
        set_output: Change,
    ) -> None:
        """current: the names in use; set_input, set_output: whether the change was made."""
        super().__init__("devices", "enter use · tab other list · esc close")
        self._devices = devices
        self._lists = {
            "inputs": (devices.inputs, current[0], set_input),
            "outputs": (devices.outputs, current[1], set_output),
        }

    def content(self) -> list[Widget]:
        widgets: list[Widget] = []
        for name, label in (("inputs", "microphone"), ("outputs", "loudspeaker")):
            names, current, _ = self._lists[name]
            widgets += [Label(label), name_list(names, current, id=name)]
        return widgets

    def show(self, devices: DeviceNames, current: tuple[str, str]) -> None:
        """List the cards there are by now; nothing moves while they are the same."""
        if devices == self._devices:
            return
        self._devices = devices
        found = {"inputs": (devices.inputs, current[0]), "outputs": (devices.outputs, current[1])}
        for name, (names, used) in found.items():
            before, _, change = self._lists[name]
            self._lists[name] = (names, used, change)
            if names == before:
                continue
            options = self.query_one(f"#{name}", OptionList)
            at = options.highlighted
            held = before[at] if at is not None and at < len(before) else ""
            options.set_options(marked(names, used))
            options.highlighted = names.index(held) if held in names else (0 if names else None)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        names, _, change = self._lists[event.option_list.id or ""]
        chosen = names[event.option_index]
        if change(chosen):
            event.option_list.set_options(marked(names, chosen))
            event.option_list.highlighted = event.option_index
