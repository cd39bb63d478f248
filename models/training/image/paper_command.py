"""`sotto train image-paper`: the command line of the training of the paper's image system."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from codec.arguments import count, positive, positive_count, whole
from codec.console import note
from models.training.image.command import crop_side
from models.training.image.paper import PaperImageSettings, train_paper_image
from models.training.image.photographs import Photographs
from models.training.outcome import status_of

_MINUTES = 25.0


def main(argv: Sequence[str]) -> int:
    """Run it; argv without the program and subject. Exit status 0, 1 failed, 2 wrong usage."""
    try:
        args = _parser().parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    settings = PaperImageSettings(
        minutes=_MINUTES if args.minutes is None and args.steps is None else args.minutes,
        steps=args.steps,
        pause=args.pause,
        batch=args.batch,
        seed=args.seed,
    )
    target: Path = args.out or args.work / "model"
    photographs = Photographs(args.data, crop=args.crop, note=note)
    identity = train_paper_image(photographs, args.work / "image-paper", target, settings)
    if identity is not None:
        note(f"model {identity} written to {target}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto train image-paper",
        description="Train the networks of the image preset paper. Ctrl-C writes a checkpoint; the "
        "same command goes on from it.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a folder of photographs")
    add("--work", type=Path, required=True, metavar="DIR", help="checkpoints, log and curves")
    add("--minutes", type=positive, metavar="N", help="length (default: 25)")
    add("--steps", type=positive_count, metavar="N", help="length in steps")
    add("--pause", type=positive, metavar="N", help="stop after N minutes, to be continued")
    add("--batch", type=whole(2, 1024), default=8, metavar="N", help="crops per step (default: 8)")
    add("--crop", type=crop_side, default=256, metavar="N", help="pixels a side (default: 256)")
    add("--seed", type=count, default=0, metavar="S", help="of all that is random (default: 0)")
    add("--out", type=Path, metavar="FOLDER", help="exported model (default: WORK/model)")
    return parser
