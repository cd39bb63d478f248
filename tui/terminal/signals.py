"""Signals that end a program by unwinding the stack, once critical work is finished."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.training.loop import Run

# From whoever ends the program, and from a terminal that closes.
ENDING = (signal.SIGTERM, signal.SIGHUP)
_AGAIN = 10.0  # seconds from which on a further signal is one of its own
Handler = Callable[[int, "FrameType | None"], None]


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Within the block `handler` gets these signals, save for those that are ignored (nohup).

    Only the main thread can do that; in others nothing happens.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        # None: a handler that is not Python's, and could not be put back.
        alive = [n for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, handler) for number in alive}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Within the block an ending signal unwinds the stack, so that temporary files are removed.

    Those that follow soon are part of the same end: the stack is being unwound already.
    """
    last = -_AGAIN

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _AGAIN:
            last = now
            raise SystemExit(128 + number)

    with handled(ENDING, stop):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end programs, Ctrl-C too, wait for the end of the block: it must be short."""
    waiting: list[int] = []
    try:
        with handled((*ENDING, signal.SIGINT), lambda number, frame: waiting.append(number)):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


@contextlib.contextmanager
def stopping(run: Run) -> Iterator[None]:
    """Within the block the first signal lets the training loop of a run finish its step.

    A second one, or one while no loop runs, ends the program at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if run.loops and not run.signal:
            run.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)

    with handled((*ENDING, signal.SIGINT), stop):
        yield
