"""What draws the screen on a terminal, also on one that stands still or has gone."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from typing import Any, TextIO

from textual.driver import Driver

_LOOK = 0.2  # seconds between looks whether it still is to be waited for
_PAUSE = 0.01  # seconds after a terminal that had room took nothing all the same


class Terminal:
    """Takes what is to be written on a terminal, and never keeps who writes for good.

    A terminal that stands still is waited for, until `leaving` is set; one that has gone takes
    nothing more, and `gone` says so.
    """

    def __init__(self, file: TextIO, leaving: threading.Event) -> None:
        self._file, self._leaving = file, leaving
        self._way = _way_to(file.fileno())
        self.gone = threading.Event()

    def write(self, text: str) -> int:
        data = text.encode(self._file.encoding or "utf-8", "replace")
        while data and not self.gone.is_set():
            try:
                if select.select([], [self._way], [], _LOOK)[1]:
                    data = data[os.write(self._way, data) :]
                elif self._leaving.is_set():
                    break
            except BlockingIOError:  # less room than its next character takes
                if self._leaving.wait(_PAUSE):
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


def _way_to(descriptor: int) -> int:
    """Another descriptor of a terminal, on which writing never waits; the same where none can be.

    Of its own, since not to wait would hold for all who share the first: the shell as well.
    """
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        return os.open(os.ttyname(descriptor), flags)
    with contextlib.suppress(OSError):  # in a container the name may not be known
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    return descriptor


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
