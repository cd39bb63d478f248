"""`sotto image sense`: a picture from random measurements of it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from tui.terminal.arguments import add_device, between, count, positive_count
from tui.terminal.options import add_model
from tui.terminal.outputs import add_force, check_outputs

if TYPE_CHECKING:
    from tui.commands import Subparsers

_PIXELS = 3 * 128 * 128


def add_sense(actions: Subparsers) -> None:
    """Add the action to those of `sotto image`."""
    parser = actions.add_parser(
        "sense",
        help="recover a picture from random measurements",
        description="Compressive sensing: measure every 128x128 pixels of a picture with a random "
        "Gaussian matrix, forget the picture, and recover it by latent search. Prints M, PSNR and "
        "time.",
    )
    add = parser.add_argument
    add("input", metavar="IN", help="picture file or '-'")
    add("output", metavar="OUT.png", help="any picture format, or '-' for PNG")
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--measurements", type=positive_count, metavar="M", help="of every 128x128 pixels"
    )
    many.add_argument(
        "--ratio-measured", type=between(0.001, 1 / 3), default=0.2, metavar="S",
        help="M/N with N = 49152, up to a third (default: 0.2)",
    )  # fmt: skip
    add("--joint", action="store_true",
        help="one matrix for all colours, as in the paper, up to 10922 measurements")  # fmt: skip
    add("--prior", choices=("photo", "ganz"), help="what is known of pictures (default: ganz)")
    add("--noise", type=between(0.0, 1.0), default=0.0, metavar="S",
        help="standard deviation of their noise; pixels are 0 to 1 (default: 0)")  # fmt: skip
    add("--seed", type=count, default=0, metavar="S", help="of matrix and noise (default: 0)")
    add("--iterations", type=positive_count, metavar="N", help="steps of the search")
    add("--preview", metavar="PNG", help="write original, recovered and difference side by side")
    add_model(parser, "sotto train image")
    add_device(parser)
    add_force(parser)
    parser.set_defaults(run=run_sense)


def run_sense(args: argparse.Namespace) -> int:
    """Measure and recover a picture; 0 on success."""
    import contextlib

    from codec.files.paths import atomic_output
    from codec.image.pictures import (
        Picture,
        left_out,
        picture_bytes,
        read_picture,
        save_format,
    )
    from codec.image.sensing import DEFAULT_PRIOR, SenseSettings, Sensor
    from models.evaluation.rate_quality import psnr
    from tui.preview import preview_png
    from tui.terminal.console import Bar, note
    from tui.terminal.steps import show_search

    check_outputs([args.input, args.model], [args.output, args.preview], force=args.force)
    form = save_format(args.output)
    many = args.measurements
    settings = SenseSettings(
        measurements=int(args.ratio_measured * _PIXELS) if many is None else many,
        prior=args.prior or DEFAULT_PRIOR, noise=args.noise, seed=args.seed,
        steps=args.iterations, joint=args.joint,
    )  # fmt: skip
    picture = read_picture(args.input)
    for line in picture.notes:
        note(line)
    with contextlib.ExitStack() as outputs:
        file = outputs.enter_context(atomic_output(args.output, force=args.force))
        shown = args.preview and outputs.enter_context(
            atomic_output(args.preview, force=args.force)
        )
        begun = time.perf_counter()
        with Bar("sense") as bar:
            sensor = Sensor(settings, args.device, args.model)
            rgb = sensor.sense(picture.rgb, lambda now: show_search(bar, now))
        spent = time.perf_counter() - begun
        image = Picture(rgb).image()
        file.write(picture_bytes(image, form))
        if shown:
            shown.write(preview_png(picture, rgb))
    for line in left_out(image, form):
        note(line)
    line = (
        f"{settings.measurements} measurements of every {_PIXELS} numbers "
        f"(M/N = {settings.share:.3f}): PSNR {psnr(picture.rgb, rgb):.2f} dB in {spent:.1f} s"
    )
    if args.output == "-":
        note(line)
    else:
        print(line)
    return 0
