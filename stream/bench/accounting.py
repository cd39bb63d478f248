"""What the two ends say about themselves: figures from their statistics files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Gap:
    """A counter of under- or overflows that went up: at which second of the call, by how much."""

    seconds: float
    end: str
    kind: str
    count: int


def read_snapshots(path: Path) -> list[Snapshot]:
    """The snapshots of a statistics file, oldest first; a last line half written is left out.

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


def series(snapshots: Sequence[Snapshot], *path: str) -> list[float]:
    """The numbers at a path below the remote party, e.g. "latency", "total"; nulls left out."""
    values: list[float] = []
    for snapshot in snapshots:
        value: Any = listener(snapshot)
        for key in path:
            value = None if value is None else value[key]
        if value is not None:
            values.append(float(value))
    return values


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


def sent_rate(snapshots: Sequence[Snapshot]) -> float | None:
    """Bits of codec packets sent per second of speech, over the call."""
    return float(snapshots[-1]["talker"]["rate"]["average"]) if snapshots else None
