"""Workers that are processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from codec.errors import SottoError
from models.workers.pool import Died, for_each
from models.workers.worker import Failed, Make, Worker, always

_STILLBORN = 3  # workers in a row that die before they are ready
_GRACE_SECONDS = 1.0  # for temporary files to be removed


@dataclass
class _Process:
    """A worker process and its end of a pipe. task: what it does; ready: whether it can."""

    process: BaseProcess
    pipe: connection.Connection
    ready: bool = False
    task: int | None = None


class Processes:
    """A `Pool` of `count` processes with so many threads each. Started as new programs."""

    def __init__(self, make: Make, count: int, threads: int = 1) -> None:
        self.size = count
        self._make, self._threads = make, threads
        self._stillborn = 0
        self._workers: list[_Process] = []
        try:
            for _ in range(count):
                self._start()
        except BaseException:
            self.close()
            raise

    def room(self) -> bool:
        return any(each.ready and each.task is None for each in self._workers)

    def give(self, number: int, task: Any) -> None:
        worker = next(each for each in self._workers if each.ready and each.task is None)
        worker.task = number
        # One that has just died is found out by `wait`.
        with contextlib.suppress(OSError):
            worker.pipe.send(task)

    def wait(self) -> list[tuple[int, Any]]:
        pipes = {each.pipe: each for each in self._workers}
        ended = []
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]  # type: ignore[index]
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                how = self._bury(worker)
                if worker.task is not None:
                    ended.append((worker.task, Died(how)))
                self._start()
                continue
            if not worker.ready:
                if isinstance(result, Failed):
                    raise SottoError(result.reason)
                worker.ready, self._stillborn = True, 0
                continue
            assert worker.task is not None
            ended.append((worker.task, result))
            worker.task = None
        return ended

    def close(self) -> None:
        workers, self._workers = self._workers, []
        end([worker.process for worker in workers])
        for worker in workers:
            worker.pipe.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        worker = Worker(self._make, self._threads)
        process = context.Process(target=_serve, args=(there, worker), daemon=True)
        with interrupts_blocked():
            process.start()
        there.close()
        self._workers.append(_Process(process, here))

    def _bury(self, worker: _Process) -> str:
        """How a worker ended. Raises SottoError if none of them gets as far as being ready."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise SottoError(f"workers die before they begin, {how}")
        return how


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Programs started within the block never see Ctrl-C, which a terminal sends to all of them;
    it reaches this one afterwards."""
    # The first program to be started would bring the tracker along, which lets interrupts through
    # again once it runs.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: connection.Connection, worker: Worker) -> None:
    """Do tasks until the other end of the pipe is closed."""
    end_in_order()
    with contextlib.suppress(EOFError, OSError):
        pipe.send(worker.begin())
        while True:
            pipe.send(worker.do(pipe.recv()))


def end(processes: Collection[BaseProcess]) -> None:
    """End processes, within a second whatever they do."""
    for process in processes:
        process.terminate()
    try:
        until = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            process.join(max(until - time.monotonic(), 0.0))
    finally:
        for process in processes:
            process.kill()
            process.join()


def end_in_order() -> None:
    """In a process of its own: SIGTERM unwinds the stack, so that temporary files are removed and
    programs that it has started are ended; and so does the end of the program that started it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


class OnProcesses:
    """Calls a function of a module for many items in `count` processes of this machine.

    They are there from the first result that is asked for until there are no more, or nobody asks.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(
        self, function: Callable[[Any], Any], items: Sequence[Any]
    ) -> Generator[Any, None, None]:
        """The results in the order of the items; where there is none, why, as a string."""
        if not items:
            return
        pool = Processes(partial(always, function), min(self._count, len(items)))
        with contextlib.closing(pool):
            for result in for_each(pool, items):
                yield result.reason if isinstance(result, Failed) else result
