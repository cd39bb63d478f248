"""Recent calls: whom we last spoke with, beside the known peers.

A call a line, the newest first: `SECONDS in|out FINGERPRINT NAME`, where SECONDS count from 1970 in
UTC and NAME is what the other side called itself. The file says nothing of trust, so damage in it
costs no more than its lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codec.files.paths import os_errors
from stream.link.keys import fingerprint, home, opened, prepared
from stream.link.peers import Peer, locked, shown_name

MOST_CALLS = 20
_LONGEST_FILE = 16_384
_LONGEST_NAME = 64
_LATEST = 1 << 40  # seconds; beyond is no time
_FINGERPRINT = len("aaaa-aaaa-aaaa-aaaa")


@dataclass(frozen=True)
class RecentCall:
    """A call. seconds: since 1970, UTC, when it began; outgoing: we called; fingerprint: of the
    other side's key; claimed: what the other side called itself."""

    seconds: int
    outgoing: bool
    fingerprint: str
    claimed: str = ""

    def line(self) -> str:
        """As it is written in the file, without the end of the line."""
        way = "out" if self.outgoing else "in"
        claimed = "".join(c if c.isprintable() else " " for c in self.claimed)[:_LONGEST_NAME]
        return f"{self.seconds} {way} {self.fingerprint} {' '.join(claimed.split())}".rstrip()

    def shown(self, peers: Iterable[Peer]) -> str:
        """Who it was: by the name that the key has among `peers` now, then by its own claim."""
        named = (peer.name for peer in peers if fingerprint(peer.key) == self.fingerprint)
        return shown_name(next(named, ""), self.claimed) or self.fingerprint


class RecentCalls:
    """The file of recent calls."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """path: None is the default file."""
        self.path = home() / "recent-calls" if path is None else Path(path)

    def calls(self) -> tuple[RecentCall, ...]:
        """The newest call with everybody, newest first; what is damaged is left out.

        Raises BadInput if the file cannot be read.
        """
        with os_errors("read", self.path):
            try:
                with opened(self.path) as file:
                    data = file.read(_LONGEST_FILE)
            except FileNotFoundError:
                return ()
        found = map(_parsed, data.decode("utf-8", "replace").split("\n"))
        return tuple(call for call in found if call is not None)[:MOST_CALLS]

    def add(self, call: RecentCall) -> None:
        """Put a call first, in the place of an earlier one with the same party.

        Raises BadInput if it cannot be written.
        """
        with os_errors("write", self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.path.parent):
            others = [each for each in self.calls() if each.fingerprint != call.fingerprint]
            text = "".join(f"{each.line()}\n" for each in (call, *others)[:MOST_CALLS])
            final = Path(os.path.realpath(self.path))
            with prepared(final, text, 0o600) as temporary, os_errors("write", self.path):
                os.replace(temporary, final)


def _parsed(line: str) -> RecentCall | None:
    words = line.split(None, 3)
    if len(words) < 3 or words[1] not in ("in", "out") or len(words[2]) != _FINGERPRINT:
        return None
    seconds, way, key, *claimed = words
    # The file may have been written by anything: what is shown of it must be harmless.
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 14):
        return None
    if int(seconds) > _LATEST or not all(c.isascii() and (c.isalnum() or c == "-") for c in key):
        return None
    name = "".join(claimed)
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        return None
    return RecentCall(int(seconds), way == "out", key, name)
