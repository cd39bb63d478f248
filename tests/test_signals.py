"""Signals that end a program: once, unless ignored, and never within a protected section."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytest

from models.training.loop import Run
from tui.terminal.signals import ENDING, handled, stopping, undisturbed, unwinding


@pytest.fixture(autouse=True)
def handlers_as_before():
    numbers = (*ENDING, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", ENDING)
def test_the_stack_is_unwound_once(number: signal.Signals) -> None:
    cleaned = []
    with pytest.raises(SystemExit) as caught, unwinding():
        try:
            signal.raise_signal(number)
        finally:
            for again in ENDING:
                signal.raise_signal(again)
            cleaned.append("whole")
    assert caught.value.code == 128 + number
    assert cleaned == ["whole"]


def test_what_was_swallowed_is_heard_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tui.terminal.signals.time.monotonic", lambda: now[0])
    with unwinding():
        for now[0] in (100.0, 120.0):
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGTERM)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwinding(), undisturbed():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_signals_wait_for_what_must_be_finished(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    finished = []
    with pytest.raises(raised), unwinding(), undisturbed():
        signal.raise_signal(number)
        signal.raise_signal(number)
        finished.append("whole")
    assert finished == ["whole"]


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        with unwinding(), undisturbed():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_handlers_within_handlers() -> None:
    heard: list[str] = []

    def outer(number: int, frame: FrameType | None) -> None:
        heard.append("outer")

    def inner(number: int, frame: FrameType | None) -> None:
        heard.append("inner")

    with handled([signal.SIGTERM], outer):
        with handled([signal.SIGTERM], inner):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert heard == ["inner", "outer"]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_training_loop_finishes_its_step(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    """A second signal ends it at once, and so does one outside loops."""
    run = Run()
    with stopping(run):
        with pytest.raises(raised):
            signal.raise_signal(number)
        signals = [run.signal]
        with run.looping():
            signal.raise_signal(number)
            signals.append(run.signal)
            with pytest.raises(raised):
                signal.raise_signal(number)
    assert signals == [0, number] and run.stops
