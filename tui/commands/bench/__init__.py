"""`sotto bench SUBJECT ...`: quality, bit rate and speed beside other codecs; the live link."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tui.commands.bench import ganz, image, link, speech
from tui.terminal.exit_status import extra

if TYPE_CHECKING:
    from tui.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "bench",
        help="quality, bitrate and speed against other codecs; latency of the live link",
        description="`sotto bench SUBJECT --help` lists the options.",
    )
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for module in (speech, image, ganz, link):
        module.add_parser(subjects)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; every `measure` imports what it needs."""
    with extra("bench"):
        status: int = args.measure(args)
    return status
