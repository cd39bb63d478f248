"""`sotto train ganz`: the command line of the training of the GANZ generator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from codec.arguments import count, positive, positive_count
from codec.console import note
from models.ganz.nets import SIDE
from models.training.ganz import GanzSettings, GanzTrainer, train_ganz
from models.training.ganz_export import export_ganz_model, trained_generator
from models.training.image.photographs import Photographs
from models.training.interruption import Interruption
from models.training.outcome import status_of

LICENCE = "CC BY-SA 4.0"


def main(argv: Sequence[str]) -> int:
    """Run it; argv without the program and subject. 0, 1 failed, 2 usage, 128 + signal stopped."""
    try:
        args = _parser().parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    interruption = Interruption()
    return status_of(lambda: _run(args, interruption), interruption)


def _run(args: argparse.Namespace, interruption: Interruption) -> None:
    folder: Path = args.work / "ganz"
    photographs = Photographs(args.data, crop=SIDE, note=note)
    minutes = 25.0 if args.minutes is None and args.steps is None else args.minutes
    settings = GanzSettings(
        minutes=minutes, steps=args.steps, pause=args.pause, batch=args.batch, seed=args.seed
    )
    if args.stage != "export" and not train_ganz(
        GanzTrainer(photographs, settings), folder, interruption
    ):
        if not interruption.number:
            note("paused; the same command goes on from the checkpoint")
        return
    if args.stage == "train":
        return
    out: Path = args.out or args.work / "model"
    name = export_ganz_model(
        *trained_generator(folder, settings.shape), photographs, out,
        {"name": "ganz", "licence": LICENCE}, examples=args.examples, seed=args.seed,
    )  # fmt: skip
    note(f"model {name} written to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto train ganz",
        description="Train the generator of the ganz image preset on crops of photographs: first "
        "as a decoder of their features, then as a BEGAN. Ctrl-C writes a checkpoint; the same "
        "command goes on from it.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a folder of photographs")
    add("--work", type=Path, required=True, metavar="DIR", help="checkpoints, log and curves")
    add("--stage", choices=("train", "export", "all"), default="all",
        help="what to do (default: all)")  # fmt: skip
    add("--minutes", type=positive, metavar="N",
        help="length of the whole training (default: 25)")  # fmt: skip
    add("--steps", type=positive_count, metavar="N", help="length of the whole training in steps")
    add("--pause", type=positive, metavar="N",
        help="stop this run after N minutes, to be continued")  # fmt: skip
    add("--batch", type=positive_count, default=8, metavar="N", help="crops a step (default: 8)")
    add("--examples", type=positive_count, default=48, metavar="N",
        help="searched crops that the coded form is fitted to (default: 48)")  # fmt: skip
    add("--out", type=Path, metavar="FOLDER", help="exported model (default: WORK/model)")
    add("--seed", type=count, default=0, metavar="S", help="of all that is random (default: 0)")
    return parser
