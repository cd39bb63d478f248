"""How a benchmark begins and ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from models.training.outcome import status_of


def run_bench(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    work: Callable[[argparse.Namespace], None],
) -> int:
    """Read argv, without program and subject, and do the work.

    Returns 0, 1 failed, 2 wrong usage, 130 interrupted.
    """
    try:
        args = parser.parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    return status_of(lambda: work(args))
