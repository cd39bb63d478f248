"""Measurements of the two processes of a call.

Their own statistics files, and what they take from the machine, read from /proc (Linux).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors

Snapshot = dict[str, Any]

COUNTERS = (
    "received",
    "lost",
    "late",
    "partly_late",
    "reordered",
    "duplicates",
    "rejected",
    "concealed",
    "stretched",
    "shortened",
)

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Gap:
    """New under- or overflows: at which second of the call, and how many."""

    seconds: float
    end: str
    kind: str
    count: int


def read_snapshots(path: Path) -> list[Snapshot]:
    """The snapshots of a statistics file, oldest first; an incomplete last line is left out.

    Raises BadInput for a file that cannot be read or holds something else.
    """
    with os_errors("read", path):
        lines = path.read_text(encoding="utf-8").split("\n")
    snapshots: list[Snapshot] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            value = json.loads(line)
        except ValueError:
            raise BadInput(f"{display_name(path)}, line {number}: not JSON") from None
        if not isinstance(value, dict):
            raise BadInput(f"{display_name(path)}, line {number}: not an object")
        snapshots.append(value)
    return snapshots


def listener(snapshot: Snapshot) -> Snapshot | None:
    """The first remote party of a snapshot, None if there is none."""
    parties = snapshot["listeners"]
    return parties[0] if parties else None


def arrivals(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """The last values of COUNTERS, zeros if nobody was ever heard."""
    for snapshot in reversed(snapshots):
        if (party := listener(snapshot)) is not None:
            return {name: float(party["arrivals"][name]) for name in COUNTERS}
    return dict.fromkeys(COUNTERS, 0.0)


def sent(snapshots: Sequence[Snapshot]) -> tuple[float | None, float | None]:
    """The frames an end has sent by its last snapshot, and their average bits per second."""
    if not snapshots:
        return None, None
    talker = snapshots[-1]["talker"]
    return float(talker["frames"]), float(talker["rate"]["average"])


def search_steps(snapshots: Sequence[Snapshot]) -> float | None:
    """The median number of search steps of the blocks of speech seen."""
    found = [s["talker"]["steps"] for s in snapshots if s["talker"]["active"]]
    return float(np.median(found)) if found else None


def latencies(snapshots: Sequence[Snapshot]) -> list[float]:
    """The total latencies in seconds that the call itself reports."""
    return [latency for _, latency in latencies_at(snapshots)]


def latencies_at(snapshots: Sequence[Snapshot]) -> list[tuple[float, float]]:
    """When, in seconds of the call, it reported which total latency in seconds."""
    return [
        (float(s["seconds"]), float(party["latency"]["total"]))
        for s in snapshots
        if (party := listener(s)) is not None and party["latency"]["total"] is not None
    ]


def losses(snapshots: Sequence[Snapshot]) -> list[tuple[float, float]]:
    """Every rise of the count of lost packets: at which second of the call, and by how many."""
    found: list[tuple[float, float]] = []
    before = 0.0
    for snapshot in snapshots:
        if (party := listener(snapshot)) is None:
            continue
        if (now := float(party["arrivals"]["lost"])) > before:
            found.append((float(snapshot["seconds"]), now - before))
        before = now
    return found


def gaps(snapshots: Sequence[Snapshot], end: str) -> list[Gap]:
    """Every rise of the counts of capture overflows and playback underruns."""
    found: list[Gap] = []
    before = {"overflow": 0, "underrun": 0}
    for snapshot in snapshots:
        party = listener(snapshot)
        now = {
            "overflow": int(snapshot["talker"]["overflows"]),
            "underrun": before["underrun"] if party is None else party["arrivals"]["underruns"],
        }
        for kind, count in now.items():
            if count > before[kind]:
                found.append(Gap(snapshot["seconds"], end, kind, count - before[kind]))
            before[kind] = count
    return found


@dataclass(frozen=True)
class Usage:
    """At `time` (monotonic): seconds of CPU so far, and bytes of its own (PSS: shared pages count
    in parts)."""

    time: float
    cpu: float
    proportional: int


def usage(pid: int, now: float) -> Usage:
    """The usage of a process. Raises OSError when it is gone."""
    folder = Path("/proc", str(pid))
    # The name in parentheses may hold anything, spaces and parentheses too.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    lines = (folder / "smaps_rollup").read_text().splitlines()
    proportional = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return Usage(now, ticks / _TICKS, 1024 * proportional)


def cpu_share(samples: Sequence[Usage], first: float, last: float) -> float | None:
    """Share of one core's time between two moments; None if there is no pair of samples."""
    inside = [sample for sample in samples if first <= sample.time <= last]
    if len(inside) < 2:
        return None
    return (inside[-1].cpu - inside[0].cpu) / (inside[-1].time - inside[0].time)


def growth(samples: Sequence[Usage], settled: float, span: float = 60.0) -> float | None:
    """Growth in bytes of the PSS of a process since `settled` (monotonic).

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


class UsageMonitor:
    """Samples the usage of processes once a second in a thread of its own; a context manager.

    samples: by name, oldest first; a process that has ended is left alone.
    """

    def __init__(self, pids: Mapping[str, int], interval: float = 1.0) -> None:
        self._pids = dict(pids)
        self._interval = interval
        self.samples: dict[str, list[Usage]] = {name: [] for name in pids}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def __enter__(self) -> UsageMonitor:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, pid in tuple(self._pids.items()):
                self._sample(name, pid)
            if self._stop.wait(self._interval):
                return

    def _sample(self, name: str, pid: int) -> None:
        try:
            self.samples[name].append(usage(pid, time.monotonic()))
        except (OSError, IndexError, ValueError, StopIteration):  # it has just ended
            del self._pids[name]
