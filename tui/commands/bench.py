"""`sotto bench speech DIR ...`: the benchmark program in `models.bench`."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.commands import Subparsers

SUBJECTS = ("speech",)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "bench",
        help="quality, bitrate and speed against other codecs",
        description="Score the codec and the other codecs that are installed on a directory of "
        "clips. `sotto bench speech --help` lists the options.",
    )
    parser.add_argument("subject", choices=SUBJECTS, help="what to score")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Only reached without further arguments."""
    return delegate([args.subject])


def delegate(arguments: list[str]) -> int:
    """Hand over everything from the subject on."""
    # Only here: it imports torch.
    return int(importlib.import_module("models.bench").main(arguments))
