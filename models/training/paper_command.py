"""`sotto train paper`: the command line of the `paper` family's training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from codec.arguments import count, positive, whole
from codec.errors import SottoError
from models.training.frames import FrameShards
from models.training.paper import PaperSettings, train_paper


def main(argv: Sequence[str]) -> int:
    """Run it; argv without the program and subject. Exit status 0, 1 failed, 2 wrong usage."""
    try:
        args = _parser().parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    settings = PaperSettings(
        minutes=args.minutes, pause=args.pause, batch=args.batch, seed=args.seed
    )
    target: Path = args.out or args.work / "model"
    try:
        identity = train_paper(FrameShards(args.data, args.seed), args.work, target, settings)
    except SottoError as error:
        return _failed(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        _failed("interrupted")
        return 130
    if identity is not None:
        print(f"sotto: model {identity} written to {target}", file=sys.stderr)
    return 0


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


def _failed(reason: str) -> int:
    print(f"sotto: {reason}", file=sys.stderr, flush=True)
    return 1
