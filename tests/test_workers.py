"""Workers: every task once, whichever of them dies, and none that outlives who uses them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from codec.errors import SottoError
from models.evaluation.coding import fresh_process
from models.workers.pool import TRIES, Died, for_each, in_order, spread
from models.workers.processes import OnProcesses, Processes
from models.workers.worker import Failed, Worker, always
from tests import corpus_jobs

# --- which worker gets which task ----------------------------------------------------------------


class Scripted:
    """A pool of `workers` that ends what it was given last first; `deaths`: of each task."""

    def __init__(self, workers: int, deaths: dict[int, int] | None = None) -> None:
        self.size, self.deaths = workers, dict(deaths or {})
        self.under_way: list[tuple[int, Any]] = []
        self.given: list[int] = []
        self.most = self.farthest = 0

    def room(self) -> bool:
        return len(self.under_way) < self.size

    def give(self, number: int, task: Any) -> None:
        self.under_way.append((number, task))
        self.given.append(number)
        self.most = max(self.most, len(self.under_way))
        oldest = min(each for each, _ in self.under_way)
        self.farthest = max(self.farthest, number - oldest)

    def wait(self) -> list[tuple[int, Any]]:
        number, task = self.under_way.pop()
        if self.deaths.get(number, 0):
            self.deaths[number] -= 1
            return [(number, Died("by signal 9"))]
        return [(number, task)]

    def close(self) -> None:
        pass


def test_every_task_ends_once_and_no_more_are_under_way_than_workers() -> None:
    pool = Scripted(3)
    results = list(spread(pool, 20, lambda number: f"task {number}"))
    assert sorted(results) == [(n, f"task {n}") for n in range(20)]
    assert pool.most == 3


def test_a_task_whose_worker_dies_is_done_by_another() -> None:
    pool = Scripted(2, {4: 1, 7: TRIES - 1, 9: TRIES})
    results = dict(spread(pool, 12, lambda number: number))
    assert set(results) == set(range(12))
    assert [n for n, result in results.items() if result != n] == [9]
    assert results[9] == Failed("3 workers died of it, the last one by signal 9")
    assert [pool.given.count(n) for n in (3, 4, 7, 9)] == [1, 2, TRIES, TRIES]


def test_tasks_in_order_are_never_far_ahead() -> None:
    pool = Scripted(3)
    results = list(in_order(spread(pool, 30, lambda number: number, ahead=5)))
    assert results == list(range(30))
    assert pool.farthest == 4


def test_few_results_wait_for_their_turn() -> None:
    pool = Scripted(2)
    assert list(for_each(pool, range(30))) == list(range(30))
    assert pool.farthest < 8


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(spread(Scripted(1), 0, lambda number: number)) == []


# --- processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def processes(make: Any, count: int = 2):
    pool = Processes(make, count)
    try:
        yield pool
    finally:
        pool.close()


def test_processes_answer_and_outlive_errors_and_deaths(tmp_path: Path) -> None:
    with processes(corpus_jobs.odd_ones_fail) as pool:
        results = dict(spread(pool, 6, lambda number: number))
    assert results[4] == 4
    assert results[5] == Failed("unexpected ValueError: it is odd")
    (tmp_path / "once").mkdir()
    with processes(partial(corpus_jobs.deadly, str(tmp_path / "once"), 1)) as pool:
        answers = dict(spread(pool, 8, lambda number: number))
    assert sorted(number for number, _ in answers.values()) == list(range(8))
    assert os.getpid() not in {process for _, process in answers.values()}


def test_a_task_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    with processes(partial(corpus_jobs.deadly, str(tmp_path), TRIES)) as pool:
        results = dict(spread(pool, 5, lambda number: number))
    assert results.pop(3) == Failed("3 workers died of it, the last one by signal 9")
    assert sorted(results) == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("make", "reason"),
    [(corpus_jobs.unusable, "there is no model"), (corpus_jobs.stillborn, "before they begin")],
)
def test_workers_that_cannot_begin_end_it_all(make: Any, reason: str) -> None:
    with processes(make) as pool, pytest.raises(SottoError, match=reason):
        list(spread(pool, 3, lambda number: number))


def test_a_worker_limits_its_threads_before_it_loads_anything(monkeypatch) -> None:
    seen: dict[str, str] = {}

    def make() -> Any:
        seen.update(os.environ)
        return lambda task: task

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    worker = Worker(make, 1, gpu=False)
    assert worker.begin() is None
    assert (seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert worker.do(5) == 5


def test_always_needs_nothing() -> None:
    assert always(abs)(-3) == 3


# --- their end -----------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether a process has ended, its parent, too, perhaps."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.fixture
def busy(tmp_path: Path) -> Any:
    """Waits until a worker is in the middle of `corpus_jobs.hang`; (its process, the program that
    it has started)."""

    def wait() -> list[int]:
        limit = time.monotonic() + 60
        while len(told := (tmp_path / "pids").read_text().split()) < 2:
            assert time.monotonic() < limit
            time.sleep(0.02)
        return [int(pid) for pid in told]

    (tmp_path / "pids").touch()
    return wait


@pytest.mark.parametrize("deaf", [False, True])
def test_workers_end_in_the_middle_of_their_tasks(tmp_path: Path, busy: Any, deaf: bool) -> None:
    """With what they have started and left in files, if they hear of it."""
    with processes(partial(always, corpus_jobs.hang), 1) as pool:
        while not pool.room():
            pool.wait()
        pool.give(0, (str(tmp_path), deaf))
        worker, program = busy()
        assert not gone(worker) and not gone(program)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert gone(worker)
    if deaf:
        os.kill(program, signal.SIGKILL)
    else:
        assert gone(program)
        assert sorted(os.listdir(tmp_path)) == ["pids"]


PROGRAM = """
import sys
from models.workers.processes import OnProcesses
from tests.corpus_jobs import hang

if __name__ == "__main__":
    list(OnProcesses(1)(hang, [(sys.argv[1], False)]))
"""


def test_workers_end_when_their_program_is_killed(tmp_path: Path, busy: Any) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as running:
        pids = busy()
        running.kill()
    limit = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < limit
        time.sleep(0.02)
    while sorted(os.listdir(tmp_path)) != ["pids", "program.py"]:
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_process_that_is_left_ends(tmp_path: Path, busy: Any) -> None:
    with pytest.raises(KeyError), fresh_process(corpus_jobs.hang_there, (str(tmp_path), False)):
        pids = busy()
        raise KeyError
    assert all(map(gone, pids))
    assert sorted(os.listdir(tmp_path)) == ["pids"]


def test_results_that_nobody_asks_for_end_the_workers(tmp_path: Path, busy: Any) -> None:
    results = OnProcesses(2)(corpus_jobs.hang_later, [None, (str(tmp_path), False)])
    assert next(results) is None
    pids = busy()
    results.close()
    assert all(map(gone, pids))


def test_workers_never_see_an_interrupt() -> None:
    (blocked,) = OnProcesses(1)(corpus_jobs.blocked, [None])
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with fresh_process(corpus_jobs.blocked_there) as connection:
        assert signal.SIGINT in connection.recv()


FIRST = """
import sys
from models.workers.processes import OnProcesses
from tests.corpus_jobs import blocked

if __name__ == "__main__":
    print(*map(int, next(OnProcesses(1)(blocked, [None]))))
"""


def test_nor_does_the_first_worker_of_a_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FIRST)
    root = Path(__file__).resolve().parents[1]
    blocked = subprocess.check_output(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": str(root)}, text=True, timeout=60,
    )  # fmt: skip
    assert str(int(signal.SIGINT)) in blocked.split()


def test_results_come_in_order_and_failures_as_reasons() -> None:
    results = list(OnProcesses(2)(corpus_jobs.halved, [4, 3, 8]))
    assert results == [2, "unexpected ValueError: 3 is odd", 4]
    assert list(OnProcesses(2)(corpus_jobs.halved, [])) == []
