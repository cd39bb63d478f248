"""`sotto bench mushra RESULTS...`: what the listeners of a listening test said."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import BadInput
from codec.files.paths import atomic_output
from tui.commands.bench import output
from tui.terminal.console import note

if TYPE_CHECKING:
    from tui.commands import Subparsers


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "mushra",
        help="the results of a listening test: of MUSHRA, preferences or words",
        description="Screens the listeners of a listening test made by `sotto bench speech DIR "
        "--page OUT --mushra` (or --ab, --words), and prints means, intervals and tests.",
    )
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULTS",
        help="the files (.json) that listeners saved, or folders of them")  # fmt: skip
    output.add_json(parser, "write all figures; - is stdout")
    add("--plot", metavar="FILE", help="draw the ratings of MUSHRA as boxes, as PNG")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Read, print, and write what was asked for."""
    from models.evaluation import listening, plots
    from models.evaluation.sessions import read_panel, result_files

    files = result_files(args.results)
    output.check(
        [*args.results, *files], args.json, args.plot, force=args.force,
        plots=args.plot is not None,
    )  # fmt: skip
    panel = read_panel(files)
    for name, reason in panel.skipped.items():
        note(f"{name} left out: {reason}")
    if args.plot is not None and panel.kind != "mushra":
        raise BadInput("--plot draws ratings of MUSHRA, and these are results of another test")
    found = listening.report(panel)
    found.print(output.screen(args.json))
    output.write_json(found.as_dict(), args.json, force=args.force)
    if args.plot is not None:
        boxes = found.boxes()
        if not boxes:
            raise BadInput("there is nothing to draw: no listener is left")
        with atomic_output(args.plot, force=args.force) as target:
            plots.draw_boxes(
                boxes,
                target,
                y_label="rating",
                bands=listening.BANDS,
                title=panel.sessions[0].title,
            )
    return 0
