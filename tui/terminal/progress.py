"""The progress of a command on audio, and its speed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from codec.console import Bar, note
from codec.signal.samples import SAMPLE_RATE, FloatArray

__all__ = ["Progress", "note"]


class Progress:
    """Seconds of audio done, of how many, at what speed; a context manager.

    label: what is being done. total: seconds of audio, None if nobody knows. Draws on stderr,
    and only if that is a terminal.
    """

    def __init__(self, label: str, total: float | None) -> None:
        self._bar = Bar(label, total, "{task.completed:.0f} s")
        self._done = 0.0
        self._started = time.perf_counter()

    def __enter__(self) -> Progress:
        self._started = time.perf_counter()
        self._bar.__enter__()
        return self

    def __exit__(self, *about: object) -> None:
        self._bar.__exit__(*about)

    def advance(self, seconds: float) -> None:
        """This much more audio is done."""
        self._done += seconds
        speed = self._done / max(time.perf_counter() - self._started, 1e-6)
        self._bar.update(self._done, f"{speed:.1f}x real time")

    def follow(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """The same blocks [n] of 16 kHz samples, each done when the next one is asked for."""
        for block in blocks:
            yield block
            self.advance(len(block) / SAMPLE_RATE)

    def describe(self, label: str) -> None:
        """Say what is being done now."""
        self._bar.describe(label)

    def note(self, line: str) -> None:
        """One line on stderr, above the bar if there is one."""
        self._bar.note(line)
