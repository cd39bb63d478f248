"""The options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from tui.terminal.arguments import add_device, count, positive
from tui.terminal.errors import UsageError

__all__ = ["add_device", "add_encoding", "count", "encoding", "positive"]


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """The options of everything that encodes speech."""
    parser.add_argument("--preset", default="2k", metavar="NAME", help="the model (default: 2k)")
    parser.add_argument(
        "--iterations", type=count, metavar="N", help="steps of the search per frame"
    )
    parser.add_argument(
        "--budget", type=positive, metavar="SECONDS", help="time for the search per frame"
    )
    parser.add_argument(
        "--no-search", action="store_true", help="take the encoder's output as it is"
    )
    parser.add_argument(
        "--entropy", choices=("range", "huffman"), help="the entropy coder (default: the preset's)"
    )
    add_device(parser)


def encoding(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_encoding` as arguments of `SpeechCodec.encoder`.

    Raises UsageError if they contradict each other.
    """
    if args.no_search and (args.iterations is not None or args.budget is not None):
        raise UsageError("--no-search leaves nothing for --iterations or --budget to limit")
    return {
        "iterations": args.iterations,
        "budget": args.budget,
        "search": not args.no_search,
        "entropy": args.entropy,
    }
