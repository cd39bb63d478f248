"""`sotto train image`: the command line of the training of image models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from codec.arguments import add_device, count, number, positive, positive_count
from codec.console import note
from codec.device import choose_device
from codec.errors import BadInput
from models.model import sizes
from models.networks.photo import PhotoModel, PhotoShape
from models.training import checkpoints, options
from models.training.image.export import export_image_model
from models.training.image.photographs import Photographs
from models.training.image.stage import ImageStage, ImageStageSettings, train_stage
from models.training.image.start import linear_start
from models.training.interruption import Interruption

_START_CROPS = 96
_MINUTES = 60.0
LICENCE = "CC BY-SA 4.0"


def main(argv: Sequence[str]) -> int:
    """Run it; see `options.run_training`."""
    return options.run_training(_parser(), argv, _run)


def _run(args: argparse.Namespace, interruption: Interruption) -> None:
    device = choose_device(args.device)
    folder: Path = args.work / "image"
    photographs = Photographs(args.data, crop=args.crop, note=note)
    if args.stage != "export":
        settings = ImageStageSettings(
            minutes=options.length(args, _MINUTES),
            steps=args.steps,
            batch=args.batch,
            rate=args.rate,
            hold=args.hold,
            seed=args.seed,
        )
        stage = ImageStage(_network(folder, photographs, args.seed), photographs, device, settings)
        if not train_stage(stage, folder, interruption):
            options.tell_pause(interruption)
            return
    if args.stage == "train":
        return
    if interruption.stops:
        options.tell_pause(interruption)
        return
    out = options.result(args)
    about = {"name": "photo", "licence": LICENCE}
    name = export_image_model(
        trained_network(folder), photographs, out, about,
        examples=args.examples, search_steps=args.search_steps, seed=args.seed,
    )  # fmt: skip
    note(f"model {name} written to {out}")


def _network(folder: Path, photographs: Photographs, seed: int) -> PhotoModel:
    """The networks of the newest checkpoint, or new ones at the lapped transform."""
    newest = checkpoints.latest_checkpoint(folder)
    if newest is not None:
        return _shaped(checkpoints.load_checkpoint(newest)[1], newest)

    torch.manual_seed(seed)
    model = PhotoModel(PhotoShape())
    linear_start(model, photographs.batch(_START_CROPS, np.random.default_rng((seed, 1 << 20))))
    return model


def _shaped(numbers: dict[str, object], path: Path) -> PhotoModel:
    try:
        return PhotoModel(PhotoShape(**sizes(numbers)))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {error}") from error


def trained_network(folder: Path) -> PhotoModel:
    """The averaged networks of the newest checkpoint. Raises BadInput if there is none."""
    newest = checkpoints.latest_checkpoint(folder)
    if newest is None:
        raise BadInput(f"{folder} holds no checkpoint: train first")
    tensors, numbers = checkpoints.load_checkpoint(newest)
    model = _shaped(numbers, newest)
    try:
        model.log_prices = [float(v) for v in numbers["log_prices"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{newest} is damaged: {error}") from error
    checkpoints.load_module("average", model, tensors)
    return model.eval()


def _parser() -> argparse.ArgumentParser:
    parser = options.training_parser(
        "image",
        "Train the networks of the image codec. With larger --minutes or --steps than before a "
        "training goes on beyond its end.",
        data="a folder of photographs",
    )
    options.add_stages(parser, ("train", "export"))
    options.add_length(parser, _MINUTES)
    add_device(parser, "default: auto")
    add = parser.add_argument
    add("--batch", type=positive_count, default=6, metavar="N", help="crops per step (default: 6)")
    add("--crop", type=crop_side, default=256, metavar="N", help="pixels a side (default: 256)")
    add("--rate", type=positive, default=1.5e-3, metavar="R",
        help="peak learning rate (default: 1.5e-3)")  # fmt: skip
    add("--hold", type=_below_one, default=0.4, metavar="S",
        help="share of the training at the peak rate, before it falls (default: 0.4)")  # fmt: skip
    add("--examples", type=positive_count, default=96, metavar="N",
        help="crops that the tables are counted on (default: 96)")  # fmt: skip
    add("--search-steps", type=count, default=10, metavar="N",
        help="steps of their search (default: 10)")  # fmt: skip
    options.add_result(parser)
    return parser


def _below_one(text: str) -> float:
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def crop_side(text: str) -> int:
    """Pixels a side of training crops: whole cells."""
    value = positive_count(text)
    if value % 16 or not 32 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of 16 from 32 to 1024")
    return value
