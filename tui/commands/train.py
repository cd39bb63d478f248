"""`sotto train SUBJECT`: train the networks of a codec."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tui.corpora.options import add_ray
from tui.terminal.arguments import (
    add_device,
    between,
    count,
    new_folder,
    number,
    positive,
    positive_count,
    whole,
)
from tui.terminal.errors import UsageError
from tui.terminal.outputs import check_outputs

if TYPE_CHECKING:
    from tui.commands import Subparsers

SPEECH_STAGES = ("prepare", "features", "one", "centres", "two", "export")
IMAGE_STAGES = ("train", "export")
_PREPARING = ("prepare", "all")
_RECORDINGS = "a folder of recordings, or of packed shards"
_PHOTOGRAPHS = "a folder of photographs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Train the networks. `sotto train SUBJECT --help` lists the options."
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    _speech(subjects)
    _paper(subjects)
    _image(subjects)
    _image_paper(subjects)
    _ganz(subjects)


def run(args: argparse.Namespace) -> int:
    """Train, once the command line is known to be right."""
    from tui.terminal.exit_status import extra

    if getattr(args, "ray", None) is not None and getattr(args, "stage", "all") not in _PREPARING:
        raise UsageError(f"--ray prepares data, which is no part of --stage {args.stage}")
    out = args.out or args.work / "model"
    read = [args.data, getattr(args, "start", None), getattr(args, "dev", None)]
    check_outputs(read, [out], force=True)
    with extra("train"):
        # Only here: they import torch.
        importlib.import_module("models.folder").refuse_no_model(out)
        training = importlib.import_module("tui.training")
    args.length = _length(args)
    return int(training.SUBJECTS[args.subject](args))


def _speech(subjects: Subparsers) -> None:
    parser = _subject(
        subjects,
        "speech",
        "the speech codec",
        "Train the networks of the speech codec. For several GPUs: "
        "torchrun --nproc-per-node N -m tui train speech ...",
        data=_RECORDINGS,
    )
    add = parser.add_argument
    _add_stages(parser, (*SPEECH_STAGES, "three"))
    parser.set_defaults(stages=SPEECH_STAGES)
    _add_start(parser, "speech; of --stage features: features")
    _add_training(parser, 60.0, 48, "frames per process", note="; `all` shares it out")
    _add_rate(parser, 1.2e-3)
    add("--sliding", type=between(0, 1), default=0.5, metavar="SHARE",
        help="share of each batch coded in short packets, as in a call (default: 0.5)")  # fmt: skip
    add("--adversarial", type=between(0, 100), default=0.01, metavar="W",
        help="weight of the adversarial term, 0 for none (default: 0.01)")  # fmt: skip
    add("--feature-weight", type=between(0, 100), default=0.0, metavar="W",
        help="weight of the feature distance; above 0, `all` trains its network (default: 0)",
        )  # fmt: skip
    add("--search-steps", type=positive_count, default=6, metavar="N",
        help="search steps per batch of stage two (default: 6)")  # fmt: skip
    add("--of", dest="exported", choices=("one", "centres", "two", "three"), metavar="STAGE",
        help="export the networks of this stage, finished or not (default: two, finished)",
        )  # fmt: skip
    add("--dev", type=Path, metavar="DIR",
        help="clips that the training is followed and the exported model scored on")  # fmt: skip
    _add_processes(parser)
    _add_compile(parser)
    _add_result(parser)


def _paper(subjects: Subparsers) -> None:
    title = "the speech preset paper"
    description = "Train the networks of the paper preset."
    parser = _subject(subjects, "paper", title, description, data=_RECORDINGS)
    _add_training(parser, 60.0, 16, "frames per step", whole(2, 4096))
    _add_processes(parser)
    _add_result(parser)


def _image(subjects: Subparsers) -> None:
    parser = _subject(
        subjects,
        "image",
        "the image codec",
        "Train the networks of the image codec. With larger --minutes or --steps than before a "
        "training goes on beyond its end.",
        data=_PHOTOGRAPHS,
    )
    _add_stages(parser, IMAGE_STAGES)
    _add_start(parser, "photo")
    _add_training(parser, 60.0, 6, "crops per step")
    add = parser.add_argument
    _add_crop(parser)
    _add_rate(parser, 1.5e-3)
    add("--hold", type=_below_one, default=0.4, metavar="S",
        help="share of the training at the peak rate, before it falls (default: 0.4)")  # fmt: skip
    add("--examples", type=positive_count, default=96, metavar="N",
        help="crops that the tables are counted on (default: 96)")  # fmt: skip
    add("--search-steps", type=count, default=10, metavar="N",
        help="steps of their search (default: 10)")  # fmt: skip
    _add_compile(parser)
    _add_result(parser)


def _image_paper(subjects: Subparsers) -> None:
    title = "the image preset paper"
    description = "Train the networks of the image preset paper."
    parser = _subject(subjects, "image-paper", title, description, data=_PHOTOGRAPHS)
    _add_training(parser, 60.0, 4, "crops per step", whole(2, 1024))
    _add_crop(parser, 192)
    _add_result(parser)


def _ganz(subjects: Subparsers) -> None:
    parser = _subject(
        subjects,
        "ganz",
        "the generator of the image preset ganz",
        "Train the generator of the ganz image preset on crops of photographs: first as a decoder "
        "of their features, then as a BEGAN.",
        data=_PHOTOGRAPHS,
    )
    _add_stages(parser, IMAGE_STAGES)
    _add_training(parser, 25.0, 8, "crops a step", device="default: auto; export runs on the CPU")
    add = parser.add_argument
    add("--latents", type=whole(1, 8192), default=64, metavar="N",
        help="d_t, of the trained first layer; 64 to 512 in the paper (default: 64)")  # fmt: skip
    add("--places", nargs="+", choices=("chosen", "fixed", "dense"), default=("chosen", "fixed"),
        metavar="PLACES", help="what the random layers reach that the decoder learns from: chosen, "
        "fixed, dense (default: chosen fixed)")  # fmt: skip
    add("--examples", type=positive_count, default=48, metavar="N",
        help="searched crops that the coded form is fitted to (default: 48)")  # fmt: skip
    _add_result(parser)


def _subject(
    subjects: Subparsers, name: str, what: str, description: str, *, data: str
) -> argparse.ArgumentParser:
    """A parser with --data, which `data` explains, and --work."""
    goes_on = "Ctrl-C writes a checkpoint; the same command goes on from it."
    parser = subjects.add_parser(name, help=what, description=f"{description} {goes_on}")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help=data)
    add("--work", type=new_folder, required=True, metavar="DIR", help="checkpoints, log and curves")
    return parser


def _add_stages(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    parser.add_argument(
        "--stage", choices=(*stages, "all"), default="all", help="what to do (default: all)"
    )


def _add_training(
    parser: argparse.ArgumentParser,
    minutes: float,
    batch: int,
    batch_help: str,
    batch_type: Callable[[str], int] = positive_count,
    *,
    note: str = "",
    device: str = "default: auto",
) -> None:
    """The length of the whole training (see `length`), --pause of this run, device and batch."""
    parser.set_defaults(default_minutes=minutes)
    add = parser.add_argument
    add("--minutes", type=positive, metavar="N",
        help=f"length of the whole training{note} (default: {minutes:g})")  # fmt: skip
    add("--steps", type=positive_count, metavar="N", help="its length in steps")
    add("--pause", type=positive, metavar="N",
        help="end this run after N minutes, to be continued")  # fmt: skip
    add_device(parser, device)
    add("--batch", type=batch_type, default=batch, metavar="N",
        help=f"{batch_help} (default: {batch})")  # fmt: skip


class Length(TypedDict):
    """How long the whole training takes, over all its runs."""

    minutes: float | None
    steps: int | None


def _length(args: argparse.Namespace) -> Length:
    """The minutes and steps asked for; without any, the default minutes."""
    unlimited = args.minutes is None and args.steps is None
    return {"minutes": args.default_minutes if unlimited else args.minutes, "steps": args.steps}


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=positive_count, default=2, metavar="N",
                        help="processes that prepare data (default: 2)")  # fmt: skip
    add_ray(parser, "prepare data by the workers of a Ray cluster")


def _add_start(parser: argparse.ArgumentParser, shipped: str) -> None:
    parser.add_argument("--start", type=Path, metavar="MODEL",
        help=f"train on from a model folder, or a shipped one by name ({shipped})")  # fmt: skip


def _add_rate(parser: argparse.ArgumentParser, peak: float) -> None:
    parser.add_argument("--rate", type=positive, default=peak, metavar="R",
                        help=f"peak learning rate (default: {peak * 1e3:g}e-3)")  # fmt: skip


def _add_crop(parser: argparse.ArgumentParser, default: int = 256) -> None:
    parser.add_argument("--crop", type=_crop_side, default=default, metavar="N",
                        help=f"pixels a side (default: {default})")  # fmt: skip


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compile", action="store_true", help="compile the networks (for a GPU)")


def _add_result(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=new_folder, metavar="FOLDER", help="exported model (default: WORK/model)")
    add("--seed", type=count, default=0, metavar="S", help="of all that is random (default: 0)")


def _below_one(text: str) -> float:
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def _crop_side(text: str) -> int:
    """Pixels a side of training crops: whole cells."""
    value = positive_count(text)
    if value % 16 or not 32 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of 16 from 32 to 1024")
    return value
