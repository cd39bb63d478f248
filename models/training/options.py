"""What the commands `sotto train SUBJECT` share: their options, and how they begin and end.

`minutes` and `steps` limit the whole training over all its runs, `pause` the present run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from codec.arguments import count, positive, positive_count
from codec.console import note
from models.training.interruption import Interruption
from models.training.outcome import status_of


def training_parser(subject: str, description: str, *, data: str) -> argparse.ArgumentParser:
    """A parser with --data, which `data` explains, and --work."""
    goes_on = "Ctrl-C writes a checkpoint; the same command goes on from it."
    parser = argparse.ArgumentParser(
        prog=f"sotto train {subject}", description=f"{description} {goes_on}"
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help=data)
    add("--work", type=Path, required=True, metavar="DIR", help="checkpoints, log and curves")
    return parser


def add_stages(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    """--stage: one of them, or all, which is the default."""
    parser.add_argument(
        "--stage", choices=(*stages, "all"), default="all", help="what to do (default: all)"
    )


def add_length(parser: argparse.ArgumentParser, minutes: float, *, note: str = "") -> None:
    """--minutes, --steps and --pause. minutes: the default, see `length`; note: on it."""
    add = parser.add_argument
    add("--minutes", type=positive, metavar="N",
        help=f"length of the whole training{note} (default: {minutes:g})")  # fmt: skip
    add("--steps", type=positive_count, metavar="N", help="its length in steps")
    add("--pause", type=positive, metavar="N",
        help="end this run after N minutes, to be continued")  # fmt: skip


def length(args: argparse.Namespace, minutes: float) -> float | None:
    """The minutes asked for; without any, `minutes`, or None if steps were asked for."""
    if args.minutes is None and args.steps is None:
        return minutes
    return None if args.minutes is None else float(args.minutes)


def add_result(parser: argparse.ArgumentParser) -> None:
    """--out, see `result`, and --seed."""
    add = parser.add_argument
    add("--out", type=Path, metavar="FOLDER", help="exported model (default: WORK/model)")
    add("--seed", type=count, default=0, metavar="S", help="of all that is random (default: 0)")


def result(args: argparse.Namespace) -> Path:
    """The folder of the exported model."""
    return Path(args.out or args.work / "model")


def tell_pause(interruption: Interruption) -> None:
    """Of a training that ended early, unless by a signal, of which the end tells."""
    if not interruption.number:
        note("paused; the same command goes on from the checkpoint")


def run_training(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    work: Callable[[argparse.Namespace, Interruption], None],
) -> int:
    """Read argv, without program and subject, and do the work.

    The time of `add_length`'s --pause begins here. Returns 0, 1 failed, 2 wrong usage, 128 + the
    signal that stopped it.
    """
    try:
        args = parser.parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    interruption = Interruption(args.pause)
    return status_of(lambda: work(args, interruption), interruption)
