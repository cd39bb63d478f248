"""`sotto bench image DIR`: rate, quality and times of the image codec and its peers."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tui.commands.bench import output
from tui.commands.bench.options import names, numbers, settings
from tui.terminal.arguments import add_device, at_once, count, positive, positive_count
from tui.terminal.console import note
from tui.terminal.options import add_method, add_model

if TYPE_CHECKING:
    from tui.commands import Subparsers

_SHOWN = 3  # pictures in the sheet of crops


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "image",
        help="the image codec and the others that are installed, on a folder of pictures",
        description="Bits per pixel, PSNR, MS-SSIM and times of the image codec and of the peers "
        "that are installed.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of pictures")
    add("--count", type=positive_count, metavar="N", help="the first N pictures only")
    add("--preset", metavar="NAME",
        help="the model (default: photo); one of a single rate is measured beside the default's "
        "curve")  # fmt: skip
    add("--qualities", type=numbers(0, 100, least=1), metavar="Q,Q,...",
        help="rate points of ours (default: 14,26,38,50,62,80)")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of our search")
    add("--fast", action="store_true", help="a few steps only")
    add("--no-search", action="store_false", dest="search", help="the encoder's output as it is")
    add_method(parser)
    add("--tune", choices=("psnr", "ms-ssim", "visual"),
        help="what our search minimises (default: psnr)")  # fmt: skip
    add("--peers", type=_peers, metavar="NAME,...",
        help="of jpeg, webp, avif, jxl, hevc, or none (default: those installed)")  # fmt: skip
    add("--classifier", metavar="NAME",
        help="compare the classes of originals and decoded pictures: efficientnet-lite0, or a file "
        "of VGG-16's weights as torchvision has them (its own file, or .safetensors)")  # fmt: skip
    add("--at", type=positive, metavar="B", help="rate of the table (default: 0.29)")
    add_model(parser, "sotto train image")
    add_device(parser, "where sotto runs")
    output.add_json(parser, "every measurement")
    add("--curves", metavar="PNG", help="rate-quality curves")
    add("--crops", metavar="PNG", help="crops of the first pictures by every codec")
    output.add_page(parser, "figures, curves, pictures before and after")
    add("--jobs", type=at_once, metavar="N",
        help="pictures at a time; fewer need less memory (default: one per processor; on a GPU "
        "one)")  # fmt: skip
    add("--timed", type=positive_count, default=3, metavar="N",
        help="pictures whose times are taken, alone (default: 3)")  # fmt: skip
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from models.evaluation import image
    from tui.pages.image import ImagePage

    files = args.json, args.curves, args.crops
    plots = args.curves is not None
    read = [args.folder, args.model, args.classifier]
    output.check(read, *files, force=args.force, plots=plots, page=args.page)
    pictures = image.find_pictures(args.folder)[: args.count]
    chosen = settings(image.Settings, args)
    with contextlib.ExitStack() as stack:
        page = None
        if args.page is not None:
            page = ImagePage(stack.enter_context(output.new_page(args.page, force=args.force)))
        results = image.run(
            pictures,
            chosen,
            jobs=args.jobs,
            timed=args.timed,
            done=lambda name: note(f"{name} done"),
            show=None if page is None else page.show,
            tell=note,
        )
        results.print(output.screen(args.json))
        output.write_json(results.as_dict(), args.json, force=args.force)
        if args.curves is not None:
            output.draw(results.panels(), args.curves, force=args.force, size=(11, 5), columns=2)
        if args.crops is not None:
            output.write(image.crops(results, pictures[:_SHOWN]), args.crops, force=args.force)
        if page is not None:
            page.finish(results, chosen)
    return 0


def _peers(text: str) -> list[str]:
    from models.evaluation.image_codecs import PEERS

    return [] if text == "none" else names(text, PEERS)
