"""The log of a call: numbered lines for the screen, logfmt lines for files and service managers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from stream.snapshot import LogLine

LEVELS = ("debug", "info", "warning", "error")
_KEPT = 500
_LONGEST = 400


class Journal:
    """A bounded log that any thread may write to and read from."""

    def __init__(
        self,
        sink: TextIO | None = None,
        least: str = "info",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """sink: also write each line at or above the level `least` there, as logfmt."""
        self._lines: deque[LogLine] = deque(maxlen=_KEPT)
        self._sink = sink
        self._least = LEVELS.index(least)
        self._clock = clock
        self._begun = clock()
        self._number = 0
        self._lock = threading.Lock()

    def write(self, level: str, text: str) -> None:
        """Add a line; control characters in `text` are made harmless."""
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]
        with self._lock:
            line = LogLine(self._number, self._clock() - self._begun, level, text)
            self._number += 1
            self._lines.append(line)
            if self._sink is not None and LEVELS.index(level) >= self._least:
                try:
                    self._sink.write(logfmt(line) + "\n")
                    self._sink.flush()
                except (OSError, ValueError):
                    self._sink = None  # whoever read it has gone; the call goes on

    def info(self, text: str) -> None:
        self.write("info", text)

    def warning(self, text: str) -> None:
        self.write("warning", text)

    def error(self, text: str) -> None:
        self.write("error", text)

    def after(self, number: int) -> list[LogLine]:
        """Lines with a number above `number`, oldest first."""
        with self._lock:
            return [line for line in self._lines if line.number > number]


def logfmt(line: LogLine) -> str:
    """`t=12.345 level=info msg="..."`, the text quoted and escaped."""
    quoted = line.text.replace("\\", "\\\\").replace('"', '\\"')
    return f't={line.seconds:.3f} level={line.level} msg="{quoted}"'
