"""`sotto bench ganz DIR`: preset ganz beside wavelets, and compressive sensing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tui.commands.bench import output
from tui.commands.bench.options import names, numbers
from tui.terminal.arguments import add_device, count, positive_count
from tui.terminal.console import note
from tui.terminal.options import add_model

if TYPE_CHECKING:
    from tui.commands import Subparsers

_PRIORS = ("photo", "ganz")


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "ganz",
        help="the ganz preset beside wavelets, and compressive sensing",
        description="PSNR of the ganz preset and of Daubechies-4 wavelets over compression ratios, "
        "and of compressive sensing, on the middle 128x128 pixels of pictures.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of pictures")
    add("--count", type=positive_count, metavar="N", help="the first N pictures only")
    add("--ratios", type=numbers(6.0, 768.0), metavar="R,R,...",
        help="6 to 768 (default: 6,10,24,48,96,192,384,768; none: '')")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of the search")
    add("--sense", type=numbers(0.001, 1 / 3), metavar="S,S,...",
        help="measurements for compressive sensing, M/N (default: 0.08,0.2; none: '')")  # fmt: skip
    add("--priors", type=_priors, default=_PRIORS, metavar="NAME,...",
        help="what it knows of pictures: photo, ganz (default: both)")  # fmt: skip
    add("--sense-steps", type=positive_count, metavar="N", help="steps of its search")
    add_model(parser, "sotto train ganz")
    add_device(parser)
    output.add_json(parser, "every measurement")
    add("--curves", metavar="PNG", help="PSNR over the ratio")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from codec.image.base import ImageCodec
    from models.evaluation import ganz

    ratios = ganz.RATIOS if args.ratios is None else args.ratios
    shares = ganz.SHARES if args.sense is None else args.sense
    read = [args.folder, args.model]
    output.check(read, args.json, args.curves, force=args.force, plots=args.curves is not None)
    screen = output.screen(args.json)
    crops = ganz.middle_crops(args.folder, args.count, note)
    found: dict[str, list[ganz.GanzPoint]] = {}
    if ratios:
        codec = ImageCodec.load("ganz", args.device, args.model)
        found = ganz.compress(codec, crops, ratios, steps=args.iterations, note=note)
        print(ganz.report(found), file=screen)
    sensed = ganz.sense(
        crops, shares, args.priors, steps=args.sense_steps, device=args.device, model=args.model,
        note=note,
    )  # fmt: skip
    if sensed:
        print(ganz.sense_report(sensed), file=screen)
    output.write_json(ganz.as_dict(found, sensed), args.json, force=args.force)
    if args.curves is not None:
        output.draw([ganz.panel(found)], args.curves, force=args.force, size=(6, 4.5))
    return 0


def _priors(text: str) -> list[str]:
    return names(text, _PRIORS)
