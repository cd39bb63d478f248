"""`sotto train ganz`: the command line of the training of the GANZ generator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from codec.arguments import add_device, positive_count
from codec.console import note
from codec.device import choose_device
from models.networks.ganz import SIDE
from models.training import options
from models.training.ganz import GanzSettings, GanzTrainer, train_ganz
from models.training.ganz_export import export_ganz_model, trained_generator
from models.training.image.photographs import Photographs
from models.training.interruption import Interruption

LICENCE = "CC BY-SA 4.0"
_MINUTES = 25.0


def main(argv: Sequence[str]) -> int:
    """Run it; see `options.run_training`."""
    return options.run_training(_parser(), argv, _run)


def _run(args: argparse.Namespace, interruption: Interruption) -> None:
    device = choose_device(args.device)
    folder: Path = args.work / "ganz"
    photographs = Photographs(args.data, crop=SIDE, note=note)
    settings = GanzSettings(
        minutes=options.length(args, _MINUTES),
        steps=args.steps,
        batch=args.batch,
        seed=args.seed,
    )
    if args.stage != "export" and not train_ganz(
        GanzTrainer(photographs, settings, device), folder, interruption
    ):
        options.tell_pause(interruption)
        return
    if args.stage == "train":
        return
    if interruption.stops:
        options.tell_pause(interruption)
        return
    out = options.result(args)
    name = export_ganz_model(
        *trained_generator(folder, settings.shape), photographs, out,
        {"name": "ganz", "licence": LICENCE}, examples=args.examples, seed=args.seed,
    )  # fmt: skip
    note(f"model {name} written to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = options.training_parser(
        "ganz",
        "Train the generator of the ganz image preset on crops of photographs: first as a decoder "
        "of their features, then as a BEGAN.",
        data="a folder of photographs",
    )
    options.add_stages(parser, ("train", "export"))
    options.add_length(parser, _MINUTES)
    add_device(parser, "default: auto; export runs on the CPU")
    add = parser.add_argument
    add("--batch", type=positive_count, default=8, metavar="N", help="crops a step (default: 8)")
    add("--examples", type=positive_count, default=48, metavar="N",
        help="searched crops that the coded form is fitted to (default: 48)")  # fmt: skip
    options.add_result(parser)
    return parser
