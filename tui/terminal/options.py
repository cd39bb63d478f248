"""The options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codec.packet import CALL_DELAY, DELAYS, FRAME_STEPS, STEP_MS
from codec.search.methods import METHODS, Method
from tui.terminal.arguments import add_device, at_once, count, positive
from tui.terminal.errors import UsageError

__all__ = [
    "CALL_DELAY", "add_delay", "add_device", "add_encoding", "add_method", "add_model",
    "add_threads", "count", "encoding", "positive",
]  # fmt: skip

FILE_DELAY = STEP_MS * FRAME_STEPS


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """The options of everything that encodes speech."""
    parser.add_argument("--preset", default="2k", metavar="NAME", help="the model (default: 2k)")
    add_model(parser)
    parser.add_argument(
        "--iterations", type=count, metavar="N", help="steps of the search per frame"
    )
    parser.add_argument(
        "--budget", type=positive, metavar="SECONDS", help="time for the search per frame"
    )
    parser.add_argument(
        "--no-search", action="store_true", help="take the encoder's output as it is"
    )
    add_method(parser)
    add_delay(parser, FILE_DELAY)
    parser.add_argument(
        "--packet-limit",
        type=count,
        metavar="BYTES",
        help="the most bytes of a packet, its header included",
    )
    parser.add_argument(
        "--entropy", choices=("range", "huffman"), help="the entropy coder (default: the preset's)"
    )
    add_device(parser)


def add_method(
    parser: argparse._ActionsContainer, more: Sequence[Method] = (), note: str = ""
) -> None:
    """--method of a search, or None; more: methods that `note` explains."""
    parser.add_argument(
        "--method",
        choices=(*METHODS, *more),
        help="how the search descends: mean-field rounding, ADMM with moves of single indices "
        f"(rdoq), ADMM, or plain back-propagation (default: the preset's){note}",
    )


def add_model(parser: argparse._ActionsContainer, training: str = "sotto train speech") -> None:
    """--model, a folder that the command `training` has written, or None."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help=f"a model of your own in place of the preset's (see `{training}`)",
    )


def add_delay(parser: argparse._ActionsContainer, default: int) -> None:
    """--delay, which becomes `delay` in milliseconds."""
    parser.add_argument(
        "--delay",
        type=int,
        choices=DELAYS,
        default=default,
        metavar="MS",
        help=f"speech in a packet: {', '.join(map(str, DELAYS))} ms (default: {default})",
    )


def add_threads(parser: argparse._ActionsContainer) -> None:
    """--threads of a call, or None."""
    parser.add_argument(
        "--threads",
        type=at_once,
        metavar="N",
        help="processor threads for the networks (default: half of the processors)",
    )


def encoding(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_encoding` as arguments of `SpeechCodec.encoder`.

    Raises UsageError if they contradict each other.
    """
    if args.no_search:
        if args.iterations is not None or args.budget is not None:
            raise UsageError("--no-search leaves nothing for --iterations or --budget to limit")
        if args.method is not None:
            raise UsageError("--no-search leaves nothing to do by --method")
    return {
        "iterations": args.iterations,
        "budget": args.budget,
        "search": not args.no_search,
        "method": args.method,
        "entropy": args.entropy,
        "steps": args.delay // STEP_MS,
        "most_bytes": args.packet_limit,
    }
