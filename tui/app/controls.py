"""The interface of a call that the screen uses."""

from __future__ import annotations

from typing import Protocol

from stream.audio.devices import DeviceNames
from stream.call.snapshot import Snapshot
from stream.log import LogLine


class Controls(Protocol):
    """A call as the screen sees it.

    Every method returns at once and may be called from any thread. Each may raise SottoError, whose
    line is shown; the screen goes on.
    """

    def snapshot(self) -> Snapshot: ...

    def log_lines(self, after: int) -> list[LogLine]:
        """Log lines numbered above `after`, oldest first; a bounded number of them."""
        ...

    def set_muted(self, muted: bool) -> None: ...

    def set_push_to_talk(self, on: bool) -> None: ...

    def talk(self, on: bool) -> None:
        """With push-to-talk: start or stop sending what the microphone hears."""
        ...

    def set_preset(self, name: str) -> None: ...

    def devices(self) -> DeviceNames:
        """The sound cards last seen; starts another look for new ones."""
        ...

    def devices_seen(self) -> DeviceNames | None:
        """The sound cards last seen, without another look."""
        ...

    def set_input(self, name: str) -> None: ...

    def set_output(self, name: str) -> None: ...

    def set_recording(self, path: str | None) -> None:
        """Record both sides to a new WAV file; None ends the recording."""
        ...

    def hang_up(self) -> None: ...
