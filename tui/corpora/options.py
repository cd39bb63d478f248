"""--jobs, --ray and --threads: how many workers, where, and with how many threads each."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from codec.errors import BadInput
from tui.terminal.arguments import at_most_processors, at_once

if TYPE_CHECKING:
    from models.workers.pool import Pool
    from models.workers.worker import Make

LOCAL = "local"  # the address of a Ray of our own


def add_workers(parser: argparse._ActionsContainer) -> None:
    """The options of commands that can code whole corpora."""
    add = parser.add_argument
    add("--jobs", type=at_once, metavar="N",
        help="code several files at a time, by N processes (with --ray, by N workers at most); a "
        "manifest.jsonl beside the outputs says what became of each, and a run that was stopped "
        "goes on from it")  # fmt: skip
    add_ray(parser, "the same by the workers of a Ray cluster")
    add("--threads", type=at_once, metavar="N",
        help="processor threads for the networks (default: all processors; of workers: 1)",
        )  # fmt: skip


def add_ray(parser: argparse._ActionsContainer, what: str) -> None:
    """--ray, which becomes an address or None."""
    parser.add_argument(
        "--ray", nargs="?", const=LOCAL, type=_address, metavar="ADDRESS",
        help=f"{what}: auto, or HOST:PORT; without an address, of a Ray that is started on this "
        "machine and ended again (put it last)",
    )  # fmt: skip


def many(args: argparse.Namespace) -> bool:
    """Whether workers are asked for."""
    return args.jobs is not None or args.ray is not None


def limit_threads(args: argparse.Namespace) -> None:
    """--threads, where this program itself runs the networks, which are loaded."""
    if args.threads is not None:
        from threadpoolctl import threadpool_limits

        threads = at_most_processors(args.threads)
        threadpool_limits(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


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


def _address(text: str) -> str:
    from tui.corpora.cluster import check_address

    try:
        return check_address(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error
