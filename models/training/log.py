"""The log of a training, log.jsonl, and its plot, curves.png."""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from codec.files.paths import atomic_output
from models.evaluation.plots import Line, Panel, draw

Number = float | Tensor  # a tensor of one element

_MAX_LOG_BYTES = 64 << 20
_NOT_CURVES = ("step", "minutes")


class TrainingLog:
    """Means of what the steps report, written to `folder`/log.jsonl every `every` steps.

    folder: None writes nothing, for processes that do not lead.
    """

    def __init__(self, folder: Path | None, every: int = 50) -> None:
        self._folder, self._every = folder, every
        self._values: dict[str, list[Number]] = defaultdict(list)

    def step(self, step: int, minutes: float, values: Mapping[str, Number]) -> None:
        """Add the numbers of one step."""
        self.add(values)
        if step % self._every == 0:
            self.flush(step, minutes)

    def add(self, values: Mapping[str, Number]) -> None:
        """Add numbers to the next line."""
        for name, value in values.items():
            self._values[name].append(value)

    def flush(self, step: int, minutes: float) -> None:
        """Write the means since the last line."""
        values, self._values = self._values, defaultdict(list)
        if self._folder is None or not values:
            return
        means = {}
        for name, told in values.items():
            finite = [value for value in map(float, told) if math.isfinite(value)]
            if finite:
                means[name] = sum(finite) / len(finite)
        if not means:
            return
        entry = {"step": step, "minutes": round(minutes, 3)} | {
            name: float(f"{value:.6g}") for name, value in means.items()
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def curves(self) -> None:
        """Draw curves.png from the log."""
        if self._folder is not None:
            draw_curves(self._folder / "log.jsonl", self._folder / "curves.png")


def cut_log(log: Path, step: int) -> None:
    """Delete the lines after `step`, which a resumed run writes again."""
    if log.exists():
        kept = [entry for entry in read_log(log) if entry["step"] <= step]
        with atomic_output(log, force=True) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in kept).encode())


def read_log(log: Path) -> list[dict[str, float]]:
    """The entries of a log, without damaged lines."""
    if not log.exists() or log.stat().st_size > _MAX_LOG_BYTES:
        return []
    entries = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries


def draw_curves(log: Path, target: Path) -> None:
    """Plot every number of the log over the steps; does nothing without matplotlib."""
    entries = read_log(log)
    names = [n for n in dict.fromkeys(k for e in entries for k in e) if n not in _NOT_CURVES]
    if not names:
        return
    panels = []
    for name in names:
        points = [(e["step"], e[name]) for e in entries if name in e]
        steps, values = zip(*points, strict=True)
        panels.append(Panel([Line("", steps, values, style={"linewidth": 1})], "step", title=name))
    columns = min(3, len(names))
    size = 4.2 * columns, 2.6 * math.ceil(len(names) / columns)
    with contextlib.suppress(ImportError), atomic_output(target, force=True) as file:
        draw(panels, file, size=size, columns=columns)
