"""A status line on standard error, rewritten in place on a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from typing import TextIO, cast

_CLEAR = "\r\x1b[K"


class StatusLine:
    """How things are, on `stream`, and above it on a terminal what is written to `log`.

    Elsewhere each status is a line of its own and `log` is the stream itself. Any thread may write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._status = ""
        self._lock = threading.Lock()
        self.log = cast(TextIO, _Above(self)) if self._terminal else stream

    def show(self, text: str) -> None:
        """This is how things are now."""
        if self._terminal:
            text = text[: self._room()]
        with self._lock:
            self._status = text if self._terminal else ""
            self._write(_CLEAR + text if self._terminal else text + "\n")

    def close(self) -> None:
        """The last status stays; what is written from now on comes below it."""
        with self._lock:
            if self._status:
                self._write("\n")
            self._status = ""

    def above(self, lines: str) -> None:
        """Write whole lines to a terminal."""
        with self._lock:
            self._write((_CLEAR + lines if self._status else lines) + self._status)

    def _room(self) -> int | None:
        """How many characters fit on a line; None if the terminal does not say."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return None
        return columns - 1 if columns > 0 else None

    def _write(self, text: str) -> None:
        # A terminal that has gone must not end a call.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class _Above(io.TextIOBase):
    """A stream of whole lines without a descriptor, so that nobody writes past the status line."""

    def __init__(self, status: StatusLine) -> None:
        self._status = status

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._status.above(text)
        return len(text)
