"""--jobs, --ray and --threads: how many workers, where, and with how many threads each."""

from __future__ import annotations

import argparse
import re
import sys

from tui.terminal.arguments import at_most_processors, at_once

LOCAL = "local"  # the address of a Ray of our own
_ADDRESS = re.compile(r"auto|local|(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")


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
        "--ray", nargs="?", const=LOCAL, type=ray_address, metavar="ADDRESS",
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


def ray_address(text: str) -> str:
    """`auto`, `local` or HOST:PORT of a Ray; anything else is refused, as a file's name is."""
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address of Ray: auto, local or HOST:PORT")
    return text
