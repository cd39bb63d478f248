"""`sotto listen`: wait for a voice call."""

from __future__ import annotations

import argparse
from functools import partial

from tui import live
from tui.terminal.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Wait for `sotto call` from another machine and talk, both ways at once."
    parser.add_argument(
        "--bind",
        default="",
        metavar="[ADDRESS][:PORT]",
        help="where to listen (default: everywhere, which takes keys)",
    )
    parser.add_argument("--room", action="store_true", help="up to eight parties hear each other")
    parser.add_argument(
        "--keep", action="store_true", help="wait for the next call when one is over"
    )
    ring = parser.add_argument_group("callers")
    ring.add_argument(
        "--auto-answer",
        action="store_true",
        help="let in who is known at once, and turn all others away, rather than let them ring",
    )
    ring.add_argument(
        "--on-ring",
        metavar="COMMAND",
        help="run this when one rings, with its name in $SOTTO_CALLER and its key in $SOTTO_KEY",
    )
    live.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Listen until the call is over; 0 unless something failed."""
    from stream.link.listener import Listener

    live.check_options(args)
    if args.on_ring and (args.headless or args.auto_answer):
        raise UsageError("--on-ring: nobody rings with --headless or --auto-answer")
    connect = partial(Listener, args.bind, room=args.room)
    return live.run(args, connect, room=args.room, lasting=args.keep)
