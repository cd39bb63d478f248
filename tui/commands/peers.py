"""`sotto peers`: whom we know, by which names and keys."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.link.keys import KeyPair
    from stream.link.peers import Peer
    from stream.link.recent import RecentCall
    from tui.commands import Subparsers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "The people we talk to: who may call us, and whom `sotto call NAME` reaches. Without an "
        "action, list them, and the latest calls."
    )
    parser.set_defaults(run=run_list, json=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = _action(actions, "list", run_list, "everybody, with their keys' fingerprints")
    listing.add_argument("--json", action="store_true", help="for programs")
    add = _action(actions, "add", run_add, "trust a key, before a first call or after one")
    add.add_argument("name", metavar="NAME", help="what we call its owner")
    add.add_argument("key", metavar="KEY", help="the public key, or a file that holds it")
    add.add_argument(
        "address",
        metavar="HOST[:PORT]",
        nargs="?",
        help="where they listen, for us to call (default: they may call us)",
    )
    rename = _action(actions, "rename", run_rename, "call somebody by another name")
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new", metavar="NEW")
    verify = _action(
        actions, "verify", run_verify, "say that you have compared the code of a call with them"
    )
    verify.add_argument("name", metavar="NAME")
    verify.add_argument("--undo", action="store_true", help="say that it has to be compared again")
    verify.add_argument("--key", metavar="FILE", help="our key (default: the one keygen made)")
    forget = _action(
        actions, "forget", run_forget, "trust a key no longer; a call with its owner ends"
    )
    forget.add_argument("name", metavar="NAME")


def _action(
    actions: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def run_list(args: argparse.Namespace) -> int:
    """List everybody; 0."""
    from stream.link.peers import KnownPeers
    from stream.link.recent import RecentCalls

    peers = KnownPeers().peers()
    calls = RecentCalls().calls()
    if args.json:
        latest = {call.fingerprint: call for call in calls}
        print(json.dumps([_plain(peer, latest) for peer in peers], indent=2))
        return 0
    print(as_text(peers) if peers else "nobody is known yet: sotto peers add NAME KEY")
    if calls:
        print(f"\n{recent_as_text(calls, peers)}")
    return 0


def run_add(args: argparse.Namespace) -> int:
    """Trust a key; 0 once it is written."""
    from stream.link.address import parse_address
    from stream.link.keys import read_public_key
    from stream.link.peers import KnownPeers

    key = read_public_key(args.key)
    address = None if args.address is None else parse_address(args.address)
    peer = KnownPeers().add(args.name, key, address)
    print(as_text([peer]))
    return 0


def run_rename(args: argparse.Namespace) -> int:
    """Change a name; 0 once it is written."""
    from stream.link.peers import KnownPeers

    print(as_text(KnownPeers().rename(args.name, args.new)))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Mark a key as compared; 0 once it is written."""
    from stream.link.peers import KnownPeers

    peers = KnownPeers().verify(args.name, not args.undo)
    print(as_text(peers))
    keys = _own_keys(args.key)
    if keys is not None:
        from stream.link.keys import authentication_string

        print(f"code  {authentication_string(keys.public, peers[0].key)}")
    return 0


def run_forget(args: argparse.Namespace) -> int:
    """Take somebody out; 0 once it is written."""
    from stream.link.peers import KnownPeers

    print(
        "\n".join(f"forgot {line}" for line in as_text(KnownPeers().forget(args.name)).split("\n"))
    )
    return 0


def as_text(peers: Sequence[Peer]) -> str:
    """A line for each: name, role, fingerprint, whether it is verified."""
    from codec.files.paths import display_name
    from stream.link.keys import fingerprint

    rows = []
    for peer in peers:
        role = "may call" if peer.address is None else f"listens at {peer.place}"
        verified = "verified" if peer.verified else "not verified"
        rows.append((display_name(peer.name), fingerprint(peer.key), verified, display_name(role)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def recent_as_text(calls: Sequence[RecentCall], peers: Sequence[Peer]) -> str:
    """A line for each call, newest first: when, in which direction, with whom."""
    from codec.files.paths import display_name

    lines = ["recent calls:"]
    for call in calls:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(call.seconds))
        way = "we called" if call.outgoing else "called us"
        lines.append(f"{when}  {way}  {display_name(call.shown(peers))}")
    return "\n".join(lines)


def _plain(peer: Peer, latest: Mapping[str, RecentCall]) -> dict[str, object]:
    from stream.link.keys import fingerprint

    call = latest.get(fingerprint(peer.key))
    return {
        "name": peer.name,
        "role": peer.role.value,
        "address": peer.place or None,
        "key": peer.key,
        "fingerprint": fingerprint(peer.key),
        "verified": peer.verified,
        "last_call": None if call is None else call.seconds,
    }


def _own_keys(path: str | None) -> KeyPair | None:
    from stream.link.keys import default_key_path, read_key_pair

    if path is None and not default_key_path().exists():
        return None
    return read_key_pair(path or default_key_path())
