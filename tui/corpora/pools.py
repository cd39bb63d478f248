"""The workers that the options of a command ask for."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tui.terminal.arguments import at_most_processors

if TYPE_CHECKING:
    from models.workers.pool import Pool
    from models.workers.worker import Make


@contextlib.contextmanager
def workers(
    args: argparse.Namespace, make: Make, tasks: int, note: Callable[[str], None]
) -> Iterator[Pool]:
    """The workers that --jobs, --ray, --threads and --device ask for, for so many tasks."""
    threads = args.threads or 1
    if args.ray is None:
        from models.workers.processes import Processes

        pool: Pool = Processes(make, min(args.jobs, tasks), at_most_processors(threads))
        try:
            yield pool
        finally:
            pool.close()
        return
    with on_ray(args.ray, make, tasks, note, args.jobs, threads, args.device) as pool:
        yield pool


@contextlib.contextmanager
def on_ray(
    address: str,
    make: Make,
    tasks: int,
    note: Callable[[str], None],
    jobs: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Iterator[Any]:
    """Workers of a Ray cluster, at most `jobs`."""
    from tui.corpora.cluster import Cluster, ray_at

    most = min(jobs or tasks, tasks)
    with ray_at(address, threads * min(jobs or os.cpu_count() or 1, most)) as ray:
        pool = Cluster(ray, make, threads=threads, device=device, most=most, note=note)
        try:
            yield pool
        finally:
            pool.close()


class OnRay:
    """Calls a function of a module for many items on a Ray cluster.

    Ray is started or joined when the first results are asked for, so that nobody waits for it who
    turns out not to need it. note: gets lines for the user.
    """

    def __init__(self, address: str, note: Callable[[str], None], device: str = "cpu") -> None:
        self._address, self._note, self._device = address, note, device

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """The results in the order of the items; where there is none, why, as a string."""
        from models.workers.pool import for_each
        from models.workers.worker import Failed, always

        if not items:
            return
        make, count = partial(always, function), len(items)
        with on_ray(self._address, make, count, self._note, device=self._device) as pool:
            for result in for_each(pool, items):
                yield result.reason if isinstance(result, Failed) else result
