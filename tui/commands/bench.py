"""`sotto bench SUBJECT ...`: the benchmark of the codec in `models.bench`, that of the live link in
`stream.bench.bench`."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

from codec.console import note

if TYPE_CHECKING:
    from tui.commands import Subparsers

LINK = "link"
SUBJECTS = ("speech", "image", "ganz", LINK)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "bench",
        help="quality, bitrate and speed against other codecs; latency of the live link",
        description="speech: score the codec and the other codecs that are installed on a "
        "directory of clips. image: the same for pictures. ganz: the ganz preset beside "
        "wavelets, and compressive sensing. link: a call between two processes on "
        "this machine, in good and in bad times. `sotto bench SUBJECT --help` lists the options.",
    )
    parser.add_argument("subject", choices=SUBJECTS, help="what to score")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Only reached without further arguments."""
    return delegate([args.subject])


def delegate(arguments: list[str]) -> int:
    """Hand over everything from the subject on."""
    # Only here: they import torch.
    if arguments and arguments[0] == LINK:
        return _link(arguments[1:])
    return int(importlib.import_module("models.bench").main(arguments))


def _link(arguments: list[str]) -> int:
    try:
        bench = importlib.import_module("stream.bench.bench")
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("codec", "models", "stream"):
            raise
        note(f"{error}: install sotto with its bench extra, sotto[bench]")
        return 1
    return int(bench.main(arguments))
