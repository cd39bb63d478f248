"""What workers do in the tests of corpora: functions of a module, as other programs need them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from codec.errors import SottoError
from codec.files.paths import atomic_output
from tui.corpora.job import Made, Watch

MODEL = "0123456789abcdef"


def squares() -> Callable[[int], int]:
    return lambda number: number * number


def unusable() -> Callable[[int], int]:
    raise SottoError("there is no model")


def stillborn() -> Callable[[int], int]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def odd_ones_fail() -> Callable[[int], int]:
    def do(number: int) -> int:
        if number % 2:
            raise ValueError("it is\nodd")
        return number

    return do


def deadly(folder: str, times: int) -> Callable[[int], tuple[int, int]]:
    """Task 3 kills its worker, as often as `times`; the others answer with its process."""

    def do(number: int) -> tuple[int, int]:
        if number == 3:
            before = len(list(Path(folder).iterdir()))
            if before < times:
                Path(folder, str(before)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid()

    return do


def halved(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


def blocked(item: object) -> set[int]:
    """The signals that do not reach this process."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def blocked_there(connection: Connection) -> None:
    connection.send(blocked(None))


def hang(task: tuple[str, bool]) -> None:
    """Wait for a program that never ends, with a temporary folder beside a file `pids`.

    task: where, and whether to be deaf to SIGTERM, as in the middle of a long calculation.
    """
    place, deaf = task
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with tempfile.TemporaryDirectory(dir=place), subprocess.Popen(["sleep", "600"]) as program:
        try:
            Path(place, "pids").write_text(f"{os.getpid()} {program.pid}")
            program.wait()
        finally:
            program.kill()


def hang_there(connection: Connection, task: tuple[str, bool]) -> None:
    hang(task)


def hang_later(task: tuple[str, bool] | None) -> None:
    if task is not None:
        hang(task)


class Copier:
    """A job that needs no model: the output is the input, turned round.

    What it does is logged, a line each, in the folder `log`, by process. A file that says "die"
    kills its worker the first time. meet: two workers wait for each other before they begin.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._meeting = args.meet

    def __call__(self, source: str, target: str, watch: Watch, draft: Path | None = None) -> Made:
        log = Path(self._args.log)
        if self._meeting:
            self._meeting = False
            _meet(log / "meeting")
        with open(log / f"{os.getpid()}.log", "a") as file:
            file.write(f"{Path(source).name}\n")
        data = Path(source).read_bytes()
        if data == b"bad":
            raise SottoError(f"{source} is bad")
        with atomic_output(target, force=self._args.force, draft=draft) as sink:
            sink.write(data[::-1])
            died = log / "died"
            if data == b"die" and not died.exists():
                sink.flush()
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        watch.note(f"{source} is turned")
        return Made(8 * len(data), 1.0, MODEL, f"made {Path(target).name}")


def _meet(place: Path) -> None:
    """Wait for the other end of a pipe, whoever makes it."""
    try:
        os.mkfifo(place)
        how = os.O_RDONLY
    except FileExistsError:
        how = os.O_WRONLY
    os.close(os.open(place, how))


def done(log: Path) -> list[str]:
    """The names of the files that workers have begun, sorted."""
    return sorted(name for each in log.glob("*.log") for name in each.read_text().splitlines())


def arguments(**changes: Any) -> argparse.Namespace:
    values = {
        "input": ["in"], "output": "out", "force": False, "jobs": 2, "ray": None, "threads": None,
        "device": "cpu", "log": "log", "meet": False,
    }  # fmt: skip
    return argparse.Namespace(**values | changes)
