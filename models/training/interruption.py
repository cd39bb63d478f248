"""What ends a run before its training: Ctrl-C and SIGTERM as a flag, and the time it was given."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType


class Interruption:
    """What a training loop looks at between two steps, and a command between two stages.

    pause: minutes that the run may take from now on, whatever it does with them; None: what it
    needs.

    Within the block the first signal sets `number`; a second one interrupts at once. A signal
    in the middle of an optimiser step would leave half of the weights updated, so that a checkpoint
    could not be written; hence the flag. It may be entered again and again.
    """

    def __init__(
        self, pause: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.number = 0
        self._clock = clock
        self._deadline = None if pause is None else clock() + 60.0 * pause
        self._before: dict[int, object] = {}

    @property
    def stops(self) -> bool:
        """True once the run is to end: after a signal, or when its time is over."""
        if self.number:
            return True
        return self._deadline is not None and self._clock() >= self._deadline

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
