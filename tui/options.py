"""Values of command-line options, checked while the command line is read."""

from __future__ import annotations

import argparse
import math

from tui.errors import UsageError


def count(text: str) -> int:
    """A whole number, at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not least <= value <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not between {least} and 1000000000")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def burst(text: str) -> float:
    """A finite number, at least 1."""
    value = _number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def add_device(parser: argparse._ActionsContainer) -> None:
    """--device, where a network runs."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs"
    )


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


def check_encoding(args: argparse.Namespace) -> None:
    """Raise UsageError if the options of `add_encoding` contradict each other."""
    if args.no_search and (args.iterations is not None or args.budget is not None):
        raise UsageError("--no-search leaves nothing for --iterations or --budget to limit")
