"""`sotto call HOST`: a voice call to a machine where `sotto listen` runs."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from codec.errors import BadInput
from tui import live
from tui.terminal.errors import UsageError

if TYPE_CHECKING:
    from stream.link.address import Address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Call a machine where `sotto listen` runs and talk, both ways at once."
    parser.add_argument(
        "host",
        metavar="NAME|HOST[:PORT]",
        nargs="?",
        help="whom to call: a name of `sotto peers`, or where (without: shows the latest calls)",
    )
    parser.add_argument(
        "--stay", action="store_true", help="stay on the line when --send-file is over"
    )
    live.add_options(parser)
    parser.set_defaults(run=run)


def known_address(name: str) -> Address | None:
    """Where the listener is that is known by this name; None if there is none.

    Raises BadInput if the known peers cannot be read.
    """
    from stream.link.address import DEFAULT_PORT, Address
    from stream.link.peers import KnownPeers

    peer = KnownPeers().listener_named(name)
    if peer is None or peer.address is None:
        return None
    return Address(peer.address.host, peer.address.port or DEFAULT_PORT)


def show_whom() -> None:
    """Print whom we last spoke with, and else whom we could call."""
    from stream.link.peers import KnownPeers, Role
    from stream.link.recent import RecentCalls
    from tui.commands.peers import as_text, recent_as_text

    peers, calls = KnownPeers().peers(), RecentCalls().calls()
    listeners = [peer for peer in peers if peer.role is Role.LISTENER]
    if listeners:
        print(as_text(listeners))
    if calls:
        print(recent_as_text(calls, peers))


def run(args: argparse.Namespace) -> int:
    """Call and talk until somebody hangs up; 0 unless the call was refused or failed."""
    from stream.link.address import parse_remote
    from stream.link.caller import Caller

    live.check_options(args)
    if args.host is None:
        show_whom()
        raise UsageError("say whom: a name of `sotto peers`, or HOST[:PORT]")
    address = known_address(args.host) if not args.insecure else None
    try:
        address = address or parse_remote(args.host)
    except BadInput as error:
        raise UsageError(f"{error}: NAME or HOST[:PORT] is wanted") from error
    connect = partial(Caller, address.host, address.port)
    ends = args.send_file is not None or args.input == live.PIPE
    return live.run(args, connect, hang_up=ends and not args.stay)
