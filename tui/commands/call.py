"""`sotto call HOST`: a voice call to a machine where `sotto listen` runs."""

from __future__ import annotations

import argparse
from functools import partial

from tui import live


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Call a machine where `sotto listen` runs and talk, both ways at once."
    parser.add_argument("host", metavar="HOST[:PORT]", help="whom to call")
    parser.add_argument(
        "--stay", action="store_true", help="stay on the line when --send-file is over"
    )
    live.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Call and talk until somebody hangs up; 0 unless the call was refused or failed."""
    from stream.link.address import parse_address
    from stream.link.caller import Caller

    live.check_options(args)
    address = parse_address(args.host)
    connect = partial(Caller, address.host, address.port)
    ends = args.send_file is not None or args.input == live.PIPE
    return live.run(args, connect, hang_up=ends and not args.stay)
