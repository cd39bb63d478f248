"""A call without a screen: one line of statistics per second, for people or for programs."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from codec.errors import SottoError
from codec.files.paths import PIPE, display_name, os_errors, reason

if TYPE_CHECKING:
    from stream.call.call import Call
    from stream.call.snapshot import Snapshot
    from tui.terminal.status_line import StatusLine

INTERVAL = 1.0
_LOOK = 0.2  # seconds between looks whether somebody is there to be written to
_READ = 4096


@contextlib.contextmanager
def statistics_file(path: str | None) -> Iterator[TextIO | None]:
    """Where JSON lines go: a file that is written as the call goes on, '-' for stdout, or None.

    What is in the file stays: lines are added to it.

    Raises BadInput when the file cannot be opened.
    """
    if path is None or path == PIPE:
        yield None if path is None else sys.stdout
        return
    with os_errors("write", path):
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    try:
        yield file
    finally:
        # What could not be written is tried again, and has been complained of.
        with contextlib.suppress(OSError):
            file.close()


def follow(
    call: Call,
    warn: Callable[[str], None],
    *,
    status: StatusLine | None = None,
    statistics: TextIO | None = None,
    seconds: float | None = None,
    most_bytes: int | None = None,
) -> None:
    """Until the call is over (or `seconds` have passed): a line each second.

    warn: the call's log; status: for people; statistics: for programs; most_bytes: how long a file
    of those may become.
    """
    begun = time.monotonic()
    tick = begun
    over = False
    while not over:
        tick = max(tick + INTERVAL, time.monotonic())
        if seconds is not None:
            tick = min(tick, begun + seconds)
        over = call.wait(max(tick - time.monotonic(), 0.0))
        if not over and seconds is not None and time.monotonic() - begun >= seconds:
            call.run_out()
            over = True
        snapshot = call.snapshot()
        if statistics is not None and (why := _add(snapshot.to_json(), statistics, most_bytes)):
            warn(f"no more statistics: {why}")
            statistics = None
        if status is not None:
            status.show(to_line(snapshot))


def say(call: Call, text: str, warn: Callable[[str], None]) -> None:
    """Write a line to the others once somebody is there, or each line of standard input if `text`
    is '-'; returns at once. warn: told of lines that cannot be sent.
    """
    lines = iter([text])
    if text == PIPE:
        lines = iter(()) if sys.stdin is None else _lines_of(sys.stdin.fileno())
    # Nobody waits for it: it may be waiting for a line that never comes.
    threading.Thread(
        target=write_lines, args=(call, lines, warn), name="sotto-lines", daemon=True
    ).start()


def write_lines(call: Call, lines: Iterator[str], warn: Callable[[str], None]) -> None:
    """Write each line to the others, as fast as they take them, until the call is over."""
    from stream.link.events import CallState
    from stream.link.session import WRITER_SPARES, text_allowance

    allowance = text_allowance(WRITER_SPARES + 1.0)
    for line in lines:
        while call.snapshot().state is not CallState.TALKING:
            if call.wait(_LOOK):
                return
        if call.wait(allowance.owe(1.0, time.monotonic())):
            return
        try:
            call.send_text(line)
        except SottoError as error:
            warn(str(error))


def _lines_of(descriptor: int) -> Iterator[str]:
    """The lines of a pipe or terminal, empty ones left out, and the ends of very long ones."""
    # Past the buffer of the file, which a thread that waits in there keeps from being closed.
    left, data = b"", b"\n"
    while data:
        try:
            data = os.read(descriptor, _READ)
        except OSError:
            data = b""
        *whole, left = (left + (data or b"\n")).split(b"\n")
        left = left[:_READ]
        yield from filter(None, (line.decode("utf-8", "replace").strip() for line in whole))


def _add(line: str, statistics: TextIO, most_bytes: int | None) -> str:
    """Write a line; why it cannot be, "" if it can."""
    name = "standard output" if statistics is sys.stdout else statistics.name
    try:
        if most_bytes is not None:
            about = os.fstat(statistics.fileno())
            if stat.S_ISREG(about.st_mode) and about.st_size + len(line) >= most_bytes:
                return f"{display_name(name)} is full: it has {about.st_size / 2**20:.1f} MiB"
        print(line, file=statistics, flush=True)
    except (OSError, ValueError) as error:  # of a full disk, or a reader that has gone
        why = reason(error) if isinstance(error, OSError) else str(error)
        return f"cannot write {display_name(name)}: {why}"
    return ""


def to_line(snapshot: Snapshot) -> str:
    """What matters most, for a terminal of 80 columns or more."""
    talker = snapshot.talker
    minutes, seconds = divmod(int(snapshot.seconds), 60)
    parts = [f"{minutes:02d}:{seconds:02d} {snapshot.state.value}"]
    if talker.frames:
        dropped = f" dropped {snapshot.link.dropped}" if snapshot.link.dropped else ""
        rates = f"{talker.rate.now:.0f} bit/s (IP {talker.rate.ip:.0f})"
        parts.append(f"out {talker.delay} ms {rates} {talker.steps} steps{dropped}")
    if snapshot.link.kept >= 0.5:
        parts.append(f"kept {snapshot.link.kept:.0f} s")
    if (late := snapshot.late) is not None:
        parts.append(f"late: {late.name}, {late.ago:.0f} s ago")
    for party in snapshot.listeners:
        recording = " (records)" if party.recording else ""
        if not party.heard:
            parts.append(f"in not heard{recording}")
            continue
        arrivals, total = party.arrivals, party.latency.total
        preset = f" {party.preset}" if party.preset else ""
        delay = "-" if total is None else f"{1000 * total:.0f} ms"
        if party.grown:
            delay += f" (grown by {1000 * party.grown:.0f})"
        parts.append(
            f"in{preset} {party.rate.now:.0f} bit/s lost {arrivals.lost}"
            f" late {arrivals.late + arrivals.partly_late} delay {delay}{recording}"
        )
    return " | ".join(parts)
