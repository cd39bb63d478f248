"""Tasks on workers: how many are under way, and what becomes of one whose worker dies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.workers.worker import Failed

TRIES = 3  # of a task, each on another worker
_AHEAD = 4  # tasks for each worker that may be done before it is their turn


@dataclass(frozen=True)
class Died:
    """The worker ended in the middle of a task. how: what is known of it."""

    how: str


class Pool(Protocol):
    """Workers that do one task at a time each. What dies is replaced.

    size: how many there are.
    """

    size: int

    def room(self) -> bool:
        """Whether a worker waits for a task."""

    def give(self, number: int, task: Any) -> None:
        """Start a task on a worker that waits."""

    def wait(self) -> list[tuple[int, Any]]:
        """Wait until something happens: (number, result, `Failed` or `Died`) of tasks that ended.

        Perhaps none: a worker may have become ready. Raises SottoError if none can be used.
        """

    def close(self) -> None:
        """End all workers at once, whatever they do."""


def spread(
    pool: Pool, count: int, task: Callable[[int], Any], *, ahead: int | None = None
) -> Iterator[tuple[int, Any]]:
    """(number, result or `Failed`) of tasks 0 to count - 1, each once, in the order they end.

    task: makes the task of a number when a worker is there for it, again for another try. ahead:
    how far a task may be ahead of the oldest that has not ended, for who needs them in order.

    A task whose worker dies is tried on another; after the last of `TRIES` it has failed.
    """
    waiting, under_way = deque(range(count)), set[int]()
    deaths = Counter[int]()
    while waiting or under_way:
        _give(pool, waiting, under_way, task, ahead)
        ended = pool.wait()
        results = []
        for number, result in ended:
            under_way.discard(number)
            if isinstance(result, Died):
                deaths[number] += 1
                if deaths[number] < TRIES:
                    waiting.appendleft(number)
                    continue
                result = Failed(f"{TRIES} workers died of it, the last one {result.how}")
            results.append((number, result))
        # Before the caller deals with the results: workers need not wait for that.
        _give(pool, waiting, under_way, task, ahead)
        yield from results


def _give(
    pool: Pool,
    waiting: deque[int],
    under_way: set[int],
    task: Callable[[int], Any],
    ahead: int | None,
) -> None:
    while waiting and pool.room():
        oldest = min(under_way, default=waiting[0])
        if ahead is not None and waiting[0] - oldest >= ahead:
            return
        number = waiting.popleft()
        under_way.add(number)
        pool.give(number, task(number))


def in_order(results: Iterator[tuple[int, Any]]) -> Iterator[Any]:
    """Results by their number: those that end early are kept until it is their turn."""
    early: dict[int, Any] = {}
    turn = 0
    for number, result in results:
        early[number] = result
        while turn in early:
            yield early.pop(turn)
            turn += 1


def for_each(pool: Pool, items: Sequence[Any]) -> Iterator[Any]:
    """The results of tasks, or `Failed`, in their order; few are kept until it is their turn."""
    ahead = _AHEAD * pool.size
    yield from in_order(spread(pool, len(items), items.__getitem__, ahead=ahead))
