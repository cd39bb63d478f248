"""The log of a call: lines for the screen, and logfmt for files and service managers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

LEVELS = ("debug", "info", "said", "warning", "error")
_SAID = "said"  # the level of what people write to each other
KEPT_LINES = 500
_KEPT_SAID = 200  # of them: what people write pushes out nothing else
_LONGEST = 400
_AT_ONCE = 12  # lines of one kind that others may cause
_NEXT_SECONDS = 60.0  # and seconds to each further one: 500 last for a working day
_KINDS = 64
_QUEUED = 1000  # lines that may wait for a slow reader of the sink
_PAUSE = 0.05  # seconds before another try on a pipe that does not block and is full


@dataclass(frozen=True)
class LogLine:
    """One line of the call's log. number: counts up from 0; level: one of LEVELS."""

    number: int
    seconds: float
    level: str
    text: str


class Lines:
    """The latest lines of a log: KEPT_LINES, and of those that people write _KEPT_SAID."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=KEPT_LINES)
        self._said = 0

    def __iter__(self) -> Iterator[LogLine]:
        return iter(self._lines)

    def append(self, line: LogLine) -> None:
        """Add a line; the oldest one that is too many goes."""
        if line.level == _SAID and self._said == _KEPT_SAID:
            oldest = next(at for at, kept in enumerate(self._lines) if kept.level == _SAID)
            del self._lines[oldest]
            self._said -= 1
        if len(self._lines) == KEPT_LINES:
            self._said -= self._lines.popleft().level == _SAID
        self._lines.append(line)
        self._said += line.level == _SAID


class Floodgate:
    """Which of the lines that others cause reach the log: some at once, then one now and then.

    Of every kind, that is: who fills the log with one leaves the rest of it alone. Of more than
    `kinds` the one longest not seen is forgotten.
    """

    def __init__(
        self, at_once: int = _AT_ONCE, seconds: float = _NEXT_SECONDS, kinds: int = _KINDS
    ) -> None:
        self._at_once, self._seconds, self._most = at_once, seconds, kinds
        self._kinds: dict[str, tuple[float, float, int]] = {}  # lines left, as of when; left out

    def admit(self, kind: str, text: str, now: float) -> str | None:
        """The line as it is to be written, None if it is left out. now: seconds."""
        left, since, missing = self._kinds.pop(kind, (float(self._at_once), now, 0))
        left = min(left + max(now - since, 0.0) / self._seconds, float(self._at_once))
        if len(self._kinds) >= self._most:
            del self._kinds[next(iter(self._kinds))]
        if left < 1.0:
            self._kinds[kind] = left, now, missing + 1
            return None
        self._kinds[kind] = left - 1.0, now, 0
        return f"{text} ({missing} lines like this left out)" if missing else text


class Journal:
    """A bounded log that any thread may write to and read from, and that nobody waits for."""

    def __init__(
        self,
        sink: TextIO | None = None,
        least: str = "info",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """sink: also write each line at or above the level `least` there, as logfmt."""
        self._lines = Lines()
        self._writer = None if sink is None else _Writer(sink)
        self._least = LEVELS.index(least)
        self._clock = clock
        self._begun = clock()
        self._number = 0
        self._floodgate = Floodgate()
        self._lock = threading.Lock()

    def write(self, level: str, text: str) -> None:
        """Add a line; control characters in `text` are made harmless."""
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]
        with self._lock:
            line = LogLine(self._number, self._clock() - self._begun, level, text)
            self._number += 1
            self._lines.append(line)
            if self._writer is not None and LEVELS.index(level) >= self._least:
                self._writer.put(line)

    def info(self, text: str) -> None:
        self.write("info", text)

    def said(self, text: str) -> None:
        """Add what somebody has written."""
        self.write(_SAID, text)

    def warning(self, text: str) -> None:
        self.write("warning", text)

    def error(self, text: str) -> None:
        self.write("error", text)

    def caused(self, kind: str, level: str, text: str) -> None:
        """Add a line that others can cause, unless there were many of its kind: see Floodgate."""
        with self._lock:
            admitted = self._floodgate.admit(kind, text, self._clock())
        if admitted is not None:
            self.write(level, admitted)

    def after(self, number: int) -> list[LogLine]:
        """Lines with a number above `number`, oldest first."""
        with self._lock:
            return [line for line in self._lines if line.number > number]

    def close(self, seconds: float) -> None:
        """Wait until the sink has all lines, for so long at most; later ones it does not get."""
        if self._writer is not None:
            self._writer.close(seconds)


class _Writer:
    """Writes lines to a sink in a thread of its own, as whoever reads them may stop doing so.

    It writes to a duplicate of the sink's descriptor, past its buffer: a thread blocked in there
    would keep the sink from being closed, and the program from ending.
    """

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        try:
            self._descriptor: int | None = os.dup(sink.fileno())
        except (OSError, ValueError):
            self._descriptor = None  # in memory, or closed already
        self._waiting: list[LogLine] = []
        self._lost = 0  # lines after those that wait
        self._busy = self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sotto-log", daemon=True)
        self._thread.start()

    def put(self, line: LogLine) -> None:
        """Have a line written, unless too many are waiting."""
        with self._changed:
            if self._over:
                return
            if len(self._waiting) < _QUEUED and not self._lost:
                self._waiting.append(line)
            else:
                self._lost += 1
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Wait for what is to be written, and end the thread unless it stands still."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or not (self._waiting or self._busy), seconds)
            self._over = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while lines := self._take():
                self._write("".join(logfmt(line) + "\n" for line in lines))
        except (OSError, ValueError):
            pass  # whoever read it has gone; the call goes on
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            if self._descriptor is not None:
                os.close(self._descriptor)

    def _take(self) -> list[LogLine]:
        """Wait for lines; none when there will be no more."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._waiting)
            lines, self._waiting = self._waiting, []
            if self._lost:
                text = f"{self._lost} lines are missing here: these were not read in time"
                lines.append(LogLine(lines[-1].number + 1, lines[-1].seconds, "warning", text))
                self._lost = 0
            self._busy = True
            return [] if self._over else lines

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._sink.write(text)
            self._sink.flush()
            return
        data = text.encode(self._sink.encoding or "utf-8", "backslashreplace")
        while data and not self._over:
            data = data[self._write_some(self._descriptor, data) :]

    def _write_some(self, descriptor: int, data: bytes) -> int:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            time.sleep(_PAUSE)
            return 0


def logfmt(line: LogLine) -> str:
    """`t=12.345 level=info msg="..."`, the text quoted and escaped."""
    quoted = line.text.replace("\\", "\\\\").replace('"', '\\"')
    return f't={line.seconds:.3f} level={line.level} msg="{quoted}"'
