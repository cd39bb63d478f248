"""The status line: rewritten in place on a terminal, below what is logged."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import termios
import time

from stream.log import Journal
from tui.terminal.status_line import StatusLine


class Terminal(io.StringIO):
    """What was written to a terminal, and what it shows of that."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        lines, column = [""], 0
        for part in re.split(r"(\n|\r|\x1b\[K)", self.getvalue()):
            if part == "\n":
                lines.append("")
                column = 0
            elif part == "\r":
                column = 0
            elif part == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
                column += len(part)
        return lines


def test_log_lines_stand_above_the_status() -> None:
    terminal = Terminal()
    status = StatusLine(terminal)
    status.log.write("waiting\n")
    assert terminal.shown == ["waiting", ""]
    status.show("00:07 connected | out 1950 bit/s")
    status.log.write("ann uses 1k2\nann uses 2k\n")
    assert terminal.shown[1:] == ["ann uses 1k2", "ann uses 2k", "00:07 connected | out 1950 bit/s"]
    status.show("00:08 talking")
    assert terminal.shown[3:] == ["00:08 talking"]
    status.close()
    status.log.write("recorded\n")
    assert terminal.shown[3:] == ["00:08 talking", "recorded", ""]


def test_the_journal_does_not_write_past_it() -> None:
    """It takes a descriptor where it is given one."""
    above, here = pty.openpty()
    fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("4H", 24, 12, 0, 0))
    with os.fdopen(here, "w", encoding="utf-8") as stream, os.fdopen(above, "rb", 0) as seen:
        status = StatusLine(stream)
        status.show("00:07 connected")
        Journal(status.log).info("news")
        written, limit = b"", time.monotonic() + 60
        while written.count(b"00:07 conne") < 2 and time.monotonic() < limit:
            if select.select([seen], [], [], 0.1)[0]:
                written += seen.read(4096)
    # As much of the status as fits on a line of twelve characters.
    parts = rb'\r\x1b\[K(00:07 conne)\r\x1b\[Kt=\S+ level=info msg="news"\r\n(00:07 conne)'
    assert re.fullmatch(parts, written)


def test_elsewhere_every_status_is_a_line() -> None:
    stream = io.StringIO()
    status = StatusLine(stream)
    status.show("00:01 waiting")
    status.log.write("a line\n")
    status.show("00:02 waiting")
    status.close()
    assert stream.getvalue() == "00:01 waiting\na line\n00:02 waiting\n"


def test_a_terminal_that_has_gone_is_no_error() -> None:
    above, here = pty.openpty()
    stream = os.fdopen(here, "w", encoding="utf-8")
    status = StatusLine(stream)
    os.close(above)
    status.show("00:01 waiting")
    status.log.write("a line\n")
    status.close()
    with contextlib.suppress(OSError):
        stream.close()
