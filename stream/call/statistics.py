"""Snapshots as JSON lines and as one line of text."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from stream.call.snapshot import Latency, Snapshot, Spectrogram

_DECIMALS = 6


def to_json(snapshot: Snapshot) -> str:
    """One JSON object on one line: all of the snapshot but pictures and histories."""
    return json.dumps(_plain(snapshot), allow_nan=False)


def _plain(value: Any) -> Any:
    """Dataclasses as objects, enums as their names, numbers JSON can hold."""
    if isinstance(value, Enum):
        return value.name.lower()
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(part)
            for field in fields(value)
            if not isinstance(part := getattr(value, field.name), Spectrogram)
            and field.name != "history"
        }
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), _DECIMALS) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def to_line(snapshot: Snapshot) -> str:
    """What matters most, for a terminal of 80 columns or more."""
    talker = snapshot.talker
    minutes, seconds = divmod(int(snapshot.seconds), 60)
    parts = [f"{minutes:02d}:{seconds:02d} {snapshot.state.value}"]
    if talker.frames:
        dropped = f" dropped {snapshot.link.dropped}" if snapshot.link.dropped else ""
        parts.append(f"out {talker.rate.now:.0f} bit/s {talker.steps} steps{dropped}")
    for listener in snapshot.listeners:
        arrivals = listener.arrivals
        if not listener.heard:
            parts.append("in not heard")
            continue
        preset = f" {listener.preset}" if listener.preset else ""
        parts.append(
            f"in{preset} {listener.rate.now:.0f} bit/s lost {arrivals.lost}"
            f" late {arrivals.late + arrivals.partly_late} delay {milliseconds(listener.latency)}"
        )
    return " | ".join(parts)


def milliseconds(latency: Latency) -> str:
    """The mouth-to-ear latency, or a dash."""
    return "-" if latency.total is None else f"{1000 * latency.total:.0f} ms"
