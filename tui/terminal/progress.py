"""Progress of commands on stderr, drawn only if that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from codec.signal.samples import SAMPLE_RATE, FloatArray
from tui.terminal.console import Bar


class Progress(Bar):
    """Seconds of audio done, of how many, at what speed; a context manager.

    label: what is being done. total: seconds of audio, None if unknown.
    """

    def __init__(self, label: str, total: float | None) -> None:
        super().__init__(label, total, "{task.completed:.0f} s")
        self._seconds = 0.0
        self._started = time.perf_counter()

    def advance(self, seconds: float) -> None:
        """This much more audio is done."""
        self._seconds += seconds
        speed = self._seconds / max(time.perf_counter() - self._started, 1e-6)
        self.update(self._seconds, f"{speed:.1f}x real time")

    def follow(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """The same blocks [n] of 16 kHz samples, each done when the next one is asked for."""
        for block in blocks:
            yield block
            self.advance(len(block) / SAMPLE_RATE)


class StageProgress(Bar):
    """A bar for each stage of a training in turn; a context manager."""

    def __init__(self) -> None:
        super().__init__("")

    def __enter__(self) -> StageProgress:
        return self  # drawn with the first stage

    def show(self, stage: str, share: float, state: str) -> None:
        """share: of the stage, 0 to 1; the bar goes when the stage is over."""
        if stage != self._label:
            self.__exit__()
            self._label = stage
            super().__enter__()
        self.update(share, state)
        if share >= 1.0:
            self.__exit__()
            self._label = ""
