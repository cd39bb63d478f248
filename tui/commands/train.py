"""`sotto train speech ...`: the training program in `models.train`."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.commands import Subparsers

SUBJECTS = ("speech", "paper", "image", "image-paper", "ganz")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "train",
        help="train the networks",
        description="Train the networks. `sotto train speech --help` lists the options.",
    )
    parser.add_argument("subject", choices=SUBJECTS, help="what to train")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Only reached without further arguments."""
    return delegate([args.subject])


def delegate(arguments: list[str]) -> int:
    """Hand over everything from the subject on."""
    # Only here: it imports torch.
    return int(importlib.import_module("models.train").main(arguments))
