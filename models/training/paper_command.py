"""`sotto train paper`: the command line of the `paper` family's training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from codec.arguments import add_device, whole
from codec.console import note
from codec.device import choose_device
from models.training import options
from models.training.frames import FrameShards
from models.training.interruption import Interruption
from models.training.paper import PaperSettings, train_paper

_MINUTES = 20.0


def main(argv: Sequence[str]) -> int:
    """Run it; see `options.run_training`."""
    return options.run_training(_parser(), argv, _run)


def _run(args: argparse.Namespace, interruption: Interruption) -> None:
    device = choose_device(args.device)
    settings = PaperSettings(
        minutes=options.length(args, _MINUTES),
        steps=args.steps,
        batch=args.batch,
        seed=args.seed,
    )
    shards = FrameShards(args.data, args.seed)
    target = options.result(args)
    identity = train_paper(
        shards, args.work, target, settings, interruption=interruption, device=device
    )
    if identity is None:
        options.tell_pause(interruption)
    else:
        note(f"model {identity} written to {target}")


def _parser() -> argparse.ArgumentParser:
    parser = options.training_parser(
        "paper",
        "Train the networks of the paper preset.",
        data="a folder of packed shards",
    )
    options.add_length(parser, _MINUTES)
    add_device(parser, "default: auto")
    parser.add_argument(
        "--batch",
        type=whole(2, 4096),
        default=32,
        metavar="N",
        help="frames per step (default: 32)",
    )
    options.add_result(parser)
    return parser
