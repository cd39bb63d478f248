"""What a command does with one file, whoever has it done: this program, or a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from codec.signal.samples import SAMPLE_RATE, FloatArray


@dataclass(frozen=True)
class Made:
    """What a job made of a file. bits: of the coded file; model: its id; report: to print."""

    bits: int
    seconds: float
    model: str
    report: str | None = None


class Watch(Protocol):
    """Who sees how a job gets on: `tui.terminal.progress.Progress`, or `Notes` in a worker."""

    def note(self, line: str) -> None:
        """A line for the user."""

    def follow(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """The same blocks [n] of 16 kHz samples."""


# job(input, output, watch, draft): codes a file; draft: see `codec.files.paths.atomic_output`.
Job = Callable[[str, str, Watch, "Path | None"], Made]


class Length:
    """Counts the samples of blocks that pass by."""

    def __init__(self) -> None:
        self.samples = 0

    def of(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        for block in blocks:
            self.samples += len(block)
            yield block

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE
