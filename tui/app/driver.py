"""What draws the screen on a terminal, also on one that stands still or has gone."""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import Any, TextIO

from textual.driver import Driver

_PIECE = 256  # bytes that a terminal ready for more takes at once
_LOOK = 0.2  # seconds between looks whether it still is to be waited for


class Terminal:
    """Takes what is to be written on a terminal, and never keeps who writes for good.

    A terminal that stands still is waited for, until `leaving` is set; one that has gone takes
    nothing more, and `gone` says so.
    """

    def __init__(self, file: TextIO, leaving: threading.Event) -> None:
        self._file, self._leaving = file, leaving
        self.gone = threading.Event()

    def write(self, text: str) -> int:
        data = text.encode(self._file.encoding or "utf-8", "replace")
        while data and not self.gone.is_set():
            try:
                if select.select([], [self.fileno()], [], _LOOK)[1]:
                    data = data[os.write(self.fileno(), data[:_PIECE]) :]
                elif self._leaving.is_set():
                    break
            except (OSError, ValueError):
                self.gone.set()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()


class BoundedDriver(Driver):
    """To be put before a driver for terminals of Unix: it writes by a Terminal.

    Textual's own thread ends when the terminal has gone, and whoever writes then waits for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.leaving = threading.Event()
        self._file: Any = Terminal(self._file, self.leaving)

    @property
    def gone(self) -> bool:
        """Whether there is no terminal any more."""
        return self._file.gone.is_set()


def bounded(driver: type[Driver]) -> type[Driver]:
    """The driver as a BoundedDriver, if it is one for terminals of Unix."""
    if sys.platform == "win32":
        return driver
    from textual.drivers.linux_driver import LinuxDriver

    if not issubclass(driver, LinuxDriver):
        return driver
    return type("BoundedLinuxDriver", (BoundedDriver, driver), {})
