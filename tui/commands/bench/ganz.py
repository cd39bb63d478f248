"""`sotto bench ganz DIR`: preset ganz beside wavelets, and compressive sensing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tui.commands.bench import output
from tui.commands.bench.options import names, numbers
from tui.terminal.arguments import add_device, count, positive_count
from tui.terminal.console import note

if TYPE_CHECKING:
    from tui.commands import Subparsers

_PRIORS = ("photo", "ganz")
_VARIANTS = ("ganz", "fixed", "coded", "dense", "sgd", "keep", "none")
_PIXELS = 3 * 128 * 128


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
    add("--train", type=Path, metavar="DIR", help="pictures that the generator was trained on")
    add("--other", type=Path, metavar="DIR", help="pictures of another kind (out of domain)")
    add("--count", type=positive_count, metavar="N", help="the first N pictures of each folder")
    add("--ratios", type=numbers(6.0, 768.0), metavar="R,R,...",
        help="6 to 768 (default: 6,10,24,48,96,192,384,768; none: '')")  # fmt: skip
    add("--variants", type=_variants, default=_VARIANTS[:3], metavar="NAME,...",
        help="ganz, fixed, coded, dense, sgd, keep, none: the preset, its --places, and its forms; "
        "keep and none at their only ratio (default: the first three)")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of the search; of sgd, 20 each")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--sense", type=numbers(0.001, 1 / 3), metavar="S,S,...",
        help="measurements for compressive sensing, M/N (default: 0.08,0.2; none: '')")  # fmt: skip
    many.add_argument("--measurements", type=numbers(48, _PIXELS / 3), metavar="M,M,...",
        help="their numbers; 4000,10000 in the paper")  # fmt: skip
    add("--joint", action="store_true", help="measure all colours with one matrix")
    add("--priors", type=_priors, default=_PRIORS, metavar="NAME,...",
        help="what it knows of pictures: photo, ganz (default: both)")  # fmt: skip
    add("--sense-steps", type=positive_count, metavar="N", help="steps of its search")
    add("--model", type=Path, action="append", metavar="FOLDER",
        help="a model of your own in place of the preset's (see `sotto train ganz`); several are "
        "coded with one after the other, the first senses")  # fmt: skip
    add_device(parser)
    output.add_json(parser, "every measurement")
    add("--curves", metavar="PNG", help="PSNR over the ratio")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from codec.device import choose_device
    from codec.image.ganz import GanzCodec
    from codec.image.presets import find_image_preset
    from models.evaluation import ganz

    ratios = ganz.RATIOS if args.ratios is None else args.ratios
    shares = ganz.SHARES if args.sense is None else args.sense
    counts = [int(m) for m in args.measurements or [share * ganz.PIXELS for share in shares]]
    models = args.model or [None]
    folders = {ganz.TRAIN: args.train, ganz.TEST: args.folder, ganz.OTHER: args.other}
    read = [*folders.values(), *models]
    output.check(read, args.json, args.curves, force=args.force, plots=args.curves is not None)
    screen = output.screen(args.json)
    sets = {
        name: ganz.middle_crops(folder, args.count, note)
        for name, folder in folders.items()
        if folder is not None
    }
    found: dict[str, list[ganz.GanzPoint]] = {}
    if ratios:
        device = choose_device(args.device)
        codecs = [GanzCodec(find_image_preset("ganz", model), device) for model in models]
        found = ganz.compress(codecs, sets, ratios, args.variants, steps=args.iterations, note=note)
        print(ganz.report(found), file=screen)
    sensed = ganz.sense(
        sets, counts, args.priors, joint=args.joint, steps=args.sense_steps, device=args.device,
        model=models[0], note=note,
    )  # fmt: skip
    if sensed:
        print(ganz.sense_report(sensed), file=screen)
    output.write_json(ganz.as_dict(found, sensed), args.json, force=args.force)
    if args.curves is not None:
        panels = ganz.panels(found)
        output.draw(panels, args.curves, force=args.force, size=(6 * max(len(panels), 1), 4.5))
    return 0


def _variants(text: str) -> list[str]:
    return names(text, _VARIANTS)


def _priors(text: str) -> list[str]:
    return names(text, _PRIORS)
