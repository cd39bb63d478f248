"""`sotto bench SUBJECT ...`: quality, bit rate and speed beside other codecs; the live link."""

from __future__ import annotations

import argparse

from tui.commands.bench import ganz, image, link, mushra, phase, speech
from tui.terminal.exit_status import extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "`sotto bench SUBJECT --help` lists the options."
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for module in (speech, image, ganz, phase, link, mushra):
        module.add_parser(subjects)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; every `measure` imports what it needs."""
    with extra("bench"):
        status: int = args.measure(args)
    return status
