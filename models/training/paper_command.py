"""`sotto train paper`: the command line of the `paper` family's training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from codec.arguments import count, positive, whole
from codec.console import note
from models.training.frames import FrameShards
from models.training.outcome import status_of
from models.training.paper import PaperSettings, train_paper


def main(argv: Sequence[str]) -> int:
    """Run it; argv without the program and subject. Exit status 0, 1 failed, 2 wrong usage."""
    try:
        args = _parser().parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    settings = PaperSettings(
        minutes=args.minutes, pause=args.pause, batch=args.batch, seed=args.seed
    )
    target: Path = args.out or args.work / "model"
    identity = train_paper(FrameShards(args.data, args.seed), args.work, target, settings)
    if identity is not None:
        note(f"model {identity} written to {target}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto train paper",
        description="Train the networks of the paper preset. Ctrl-C writes a checkpoint; the same "
        "command goes on from it.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a folder of packed shards")
    add("--work", type=Path, required=True, metavar="DIR", help="checkpoints, log and curves")
    add("--minutes", type=positive, default=20.0, metavar="N", help="length (default: 20)")
    add("--pause", type=positive, metavar="N", help="stop after N minutes, to be continued")
    add(
        "--batch",
        type=whole(2, 4096),
        default=32,
        metavar="N",
        help="frames per step (default: 32)",
    )
    add("--seed", type=count, default=0, metavar="S", help="of all that is random (default: 0)")
    add("--out", type=Path, metavar="FOLDER", help="exported model (default: WORK/model)")
    return parser
