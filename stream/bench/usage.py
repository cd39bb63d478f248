"""What a process takes from the machine, read from /proc (Linux)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """At `time` (monotonic): seconds of CPU so far; bytes resident, and bytes of its own (PSS:
    shared pages count in parts)."""

    time: float
    cpu: float
    resident: int
    proportional: int


def usage(pid: int, now: float) -> Usage:
    """The usage of a process. Raises OSError when it is gone."""
    folder = Path("/proc", str(pid))
    # The name in parentheses may hold anything, spaces and parentheses too.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = int((folder / "statm").read_text().split()[1]) * _PAGE
    proportional = resident
    for line in (folder / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            proportional = int(line.split()[1]) * 1024
            break
    return Usage(now, ticks / _TICKS, resident, proportional)


def cpu_share(samples: Sequence[Usage], first: float, last: float) -> float | None:
    """Share of one core's time between two moments; None if there is no pair of samples."""
    inside = [sample for sample in samples if first <= sample.time <= last]
    if len(inside) < 2:
        return None
    return (inside[-1].cpu - inside[0].cpu) / (inside[-1].time - inside[0].time)


def growth(samples: Sequence[Usage], settled: float, span: float = 60.0) -> float | None:
    """Bytes of its own that a process has gained since `settled` (monotonic).

    The median of the last `span` seconds against that of the first ones after `settled`; None if
    there are not two separate spans.
    """
    if not samples or samples[-1].time - settled < 2 * span:
        return None
    early = [s.proportional for s in samples if settled <= s.time < settled + span]
    late = [s.proportional for s in samples if s.time > samples[-1].time - span]
    if not early or not late:
        return None
    return float(np.median(late) - np.median(early))


class Watch:
    """Looks at processes once a second in a thread of its own; a context manager.

    samples: by name, oldest first; a process that ends is not asked again.
    """

    def __init__(self, pids: Mapping[str, int], interval: float = 1.0) -> None:
        self._pids = dict(pids)
        self._interval = interval
        self.samples: dict[str, list[Usage]] = {name: [] for name in pids}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, pid in tuple(self._pids.items()):
                self._look(name, pid)
            if self._stop.wait(self._interval):
                return

    def _look(self, name: str, pid: int) -> None:
        try:
            self.samples[name].append(usage(pid, time.monotonic()))
        except (OSError, IndexError, ValueError):  # it has just ended
            del self._pids[name]
