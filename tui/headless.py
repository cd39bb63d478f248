"""A call without a screen: one line of statistics per second, for people or for programs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from codec.files.paths import PIPE, display_name, os_errors, reason

if TYPE_CHECKING:
    from stream.call.call import Call
    from stream.call.snapshot import Snapshot
    from tui.terminal.status_line import StatusLine

INTERVAL = 1.0


@contextlib.contextmanager
def statistics_file(path: str | None) -> Iterator[TextIO | None]:
    """Where JSON lines go: a file that is written as the call goes on, '-' for stdout, or None.

    Raises BadInput when the file cannot be opened.
    """
    if path is None or path == PIPE:
        yield None if path is None else sys.stdout
        return
    with os_errors("write", path):
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115
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
) -> None:
    """Until the call is over (or `seconds` have passed): a line each second.

    warn: the call's log; status: for people; statistics: for programs.
    """
    begun = time.monotonic()
    tick = begun
    over = False
    while not over:
        tick = max(tick + INTERVAL, time.monotonic())
        if seconds is not None:
            tick = min(tick, begun + seconds)
        over = call.wait(max(tick - time.monotonic(), 0.0))
        over = over or (seconds is not None and time.monotonic() - begun >= seconds)
        snapshot = call.snapshot()
        if statistics is not None:
            try:
                print(snapshot.to_json(), file=statistics, flush=True)
            except (OSError, ValueError) as error:  # of a full disk, or a reader that has gone
                name = "standard output" if statistics is sys.stdout else statistics.name
                why = reason(error) if isinstance(error, OSError) else str(error)
                warn(f"no more statistics: cannot write {display_name(name)}: {why}")
                statistics = None
        if status is not None:
            status.show(to_line(snapshot))


def to_line(snapshot: Snapshot) -> str:
    """What matters most, for a terminal of 80 columns or more."""
    talker = snapshot.talker
    minutes, seconds = divmod(int(snapshot.seconds), 60)
    parts = [f"{minutes:02d}:{seconds:02d} {snapshot.state.value}"]
    if talker.frames:
        dropped = f" dropped {snapshot.link.dropped}" if snapshot.link.dropped else ""
        rates = f"{talker.rate.now:.0f} bit/s (IP {talker.rate.ip:.0f})"
        parts.append(f"out {talker.delay} ms {rates} {talker.steps} steps{dropped}")
    for party in snapshot.listeners:
        if not party.heard:
            parts.append("in not heard")
            continue
        arrivals, total = party.arrivals, party.latency.total
        preset = f" {party.preset}" if party.preset else ""
        delay = "-" if total is None else f"{1000 * total:.0f} ms"
        if party.grown:
            delay += f" (grown by {1000 * party.grown:.0f})"
        parts.append(
            f"in{preset} {party.rate.now:.0f} bit/s lost {arrivals.lost}"
            f" late {arrivals.late + arrivals.partly_late} delay {delay}"
        )
    return " | ".join(parts)
