"""`sotto bench phase DIR`: our phase beside ltfatpy's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tui.commands.bench import output
from tui.terminal.arguments import amount, positive_count
from tui.terminal.console import Bar, note

if TYPE_CHECKING:
    from tui.commands import Subparsers


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "phase",
        help="analysis, phase slopes and phases beside those of ltfatpy",
        description="How far our analysis, dual window, phase slopes and phases are from those of "
        "ltfatpy, the port of the LTFAT toolbox.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="speech in any format, in any sub-folder")
    add("--clips", type=positive_count, default=24, metavar="N", help="clips to use (24)")
    add("--max-seconds", type=amount("seconds", 0.5, 60), default=15.0, metavar="SECONDS",
        help="longer clips are cropped (15)")  # fmt: skip
    output.add_json(parser, "every measurement; - is stdout")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from models.evaluation import phase
    from models.evaluation.clips import load_clips
    from models.evaluation.tables import console

    output.check(args.folder, args.json, force=args.force)
    clips, skipped = load_clips(args.folder, args.clips, args.max_seconds)
    for name, reason in skipped.items():
        note(f"{name} left out: {reason}")
    points = []
    with Bar("", len(clips), "{task.completed:.0f}/{task.total:.0f}") as bar:
        for done, clip in enumerate(clips):
            bar.describe(clip.name)
            bar.update(done)
            points.append(phase.measure(clip))
    console(output.screen(args.json)).print(phase.report(points))
    output.write_json(phase.as_dict(points), args.json, force=args.force)
    return 0
