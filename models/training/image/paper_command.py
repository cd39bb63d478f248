"""`sotto train image-paper`: the command line of the training of the paper's image system."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from codec.arguments import add_device, whole
from codec.console import note
from codec.device import choose_device
from models.training import options
from models.training.image.command import crop_side
from models.training.image.paper import PaperImageSettings, train_paper_image
from models.training.image.photographs import Photographs
from models.training.interruption import Interruption

_MINUTES = 25.0


def main(argv: Sequence[str]) -> int:
    """Run it; see `options.run_training`."""
    return options.run_training(_parser(), argv, _run)


def _run(args: argparse.Namespace, interruption: Interruption) -> None:
    device = choose_device(args.device)
    settings = PaperImageSettings(
        minutes=options.length(args, _MINUTES),
        steps=args.steps,
        batch=args.batch,
        seed=args.seed,
    )
    photographs = Photographs(args.data, crop=args.crop, note=note)
    folder, target = args.work / "image-paper", options.result(args)
    identity = train_paper_image(photographs, folder, target, settings, interruption, device)
    if identity is None:
        options.tell_pause(interruption)
    else:
        note(f"model {identity} written to {target}")


def _parser() -> argparse.ArgumentParser:
    parser = options.training_parser(
        "image-paper",
        "Train the networks of the image preset paper.",
        data="a folder of photographs",
    )
    options.add_length(parser, _MINUTES)
    add_device(parser, "default: auto")
    add = parser.add_argument
    add("--batch", type=whole(2, 1024), default=8, metavar="N", help="crops per step (default: 8)")
    add("--crop", type=crop_side, default=256, metavar="N", help="pixels a side (default: 256)")
    options.add_result(parser)
    return parser
