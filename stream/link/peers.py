"""The file of known peers: the people we talk to, and the keys by which we know them.

One peer per line: `NAME KEY caller` for one that we let in, `NAME KEY listener HOST[:PORT]` for one
that we call (without a port: at any port of that host), followed by `verified` once a person has
made sure of the key. The two are kept apart: a key that may call us is not thereby one that we
connect to, nor the reverse. Somebody who does both has two lines. Lines that begin with `#` are
comments.

Lines of earlier versions, `NAME KEY`, go on being read: a NAME that is `HOST:PORT`, a numeric
address or `localhost` is a listener at that address, any other one a caller.

A name belongs to one key. Names are chosen here, never by the peer: what a caller calls itself is
at most the pattern of the name under which it is recorded when it is trusted unasked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors
from stream.link.address import ANY, Address, parse_address
from stream.link.keys import home, key_bytes, opened, prepared, refuse_writable
from stream.link.wire import harmless

MAX_PEERS = 4096
_LONGEST_FILE = 1 << 20
_LONGEST_NAME = 64
_LONGEST_RECORDED = 32
# Begins with a letter, and has nothing that an address needs.
_NAME = re.compile(r"[^\W\d_][\w+@'\-]*")
# Quotation marks that are, or look like, the one that ends what somebody claims.
_QUOTES = re.compile("[\"\u02ba\u02dd\u02ee\u05f4\u201c-\u201f\u2033\u2034\u2036\u2037\u2057"
    "\u275d\u275e\u301d-\u301f\uff02]|''+")  # fmt: skip
_RESERVED = "localhost"
_VERIFIED = "verified"
_LOOK_INTERVAL = 1.0  # seconds
_LOOKS = 2
_FORM = "NAME KEY, then caller or listener HOST[:PORT]"


class Role(Enum):
    """What a key is trusted for: to call us, or to be called by us."""

    CALLER = "caller"
    LISTENER = "listener"


@dataclass(frozen=True)
class Peer:
    """One line of the file.

    key: the public key in Z85; address: where a listener listens (port 0: any), None for a caller;
    verified: a person has made sure that the key is theirs.
    """

    name: str
    key: str
    address: Address | None = None
    verified: bool = False

    @property
    def role(self) -> Role:
        return Role.CALLER if self.address is None else Role.LISTENER

    @property
    def place(self) -> str:
        """Where a listener listens, HOST[:PORT]; "" of a caller."""
        if self.address is None:
            return ""
        return str(self.address) if self.address.port else self.address.host

    def line(self) -> str:
        """As it is written in the file, without the end of the line."""
        words = [self.name, self.key, self.role.value, self.place, _VERIFIED * self.verified]
        return " ".join(filter(None, words))


def check_name(name: str) -> str:
    """`name`, if a peer may be called so. Raises BadInput: names must not look like addresses."""
    if len(name) > _LONGEST_NAME or harmless(name) != name or not _NAME.fullmatch(name):
        raise BadInput(
            f"{display_name(name[:_LONGEST_NAME])} cannot be a peer's name: that begins with a "
            f"letter and has at most {_LONGEST_NAME} letters, digits, - and _"
        )
    if name.casefold() == _RESERVED:
        raise BadInput(f"{_RESERVED} is an address and cannot be a peer's name")
    return name


def parse_peer(line: str) -> Peer:
    """A line that is neither empty nor a comment. Raises BadInput."""
    words = line.split()
    verified = len(words) > 2 and words[-1] == _VERIFIED
    name, key, *rest = words[: len(words) - verified] + [""] * (len(words) < 2)
    if not key:
        raise BadInput(f"not {_FORM}")
    key_bytes(key)
    if not rest:
        return Peer(name, key, _address_meant(name), verified)
    if rest == [Role.CALLER.value]:
        return Peer(name, key, None, verified)
    if rest[0] == Role.LISTENER.value and len(rest) == 2:
        address = parse_address(rest[1], default_port=0)
        if address.host == ANY:
            raise BadInput("a listener's address names a host")
        return Peer(name, key, address, verified)
    raise BadInput(f"not {_FORM}")


def shown_name(local: str, claimed: str) -> str:
    """Who somebody is, for people: the name we know them by, then in quotes what they say.

    Either may be ""; what is in quotes cannot end them.
    """
    local, claimed = (" ".join(_QUOTES.sub("'", text).split()) for text in (local, claimed))
    quoted = f'"{claimed}"' if claimed and claimed != local else ""
    return " ".join(filter(None, (local, quoted)))


class KnownPeers:
    """The file of known peers.

    Every question reads it again, so that what another program changes counts at once, but what
    has not changed is not parsed again: a full file takes 0.2 s. A file that is not there is an
    empty one. All methods raise BadInput if the file is damaged, naming the
    first line at fault, or if others can write or replace it; those that write, if that fails.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """path: None is the default file."""
        self.path = home() / "known-peers" if path is None else Path(path)
        self._latest: tuple[bytes, list[tuple[str, Peer | None]]] | None = None

    # --- reading ------------------------------------------------------------------------------

    def peers(self) -> tuple[Peer, ...]:
        """Everybody in the file, in its order."""
        return tuple(peer for _, peer in self._read() if peer is not None)

    def caller(self, key: str) -> Peer | None:
        """Who may call us with this key."""
        return next((p for p in self.peers() if p.role is Role.CALLER and p.key == key), None)

    def listener_at(self, host: str, port: int) -> Peer | None:
        """The listener there: the one at `host:port`, else the one at any port of `host`."""
        found: Peer | None = None
        for peer in self.peers():
            address = peer.address
            if address is not None and _same_host(address.host, host):
                if address.port == port:
                    return peer
                if address.port == 0:
                    found = peer
        return found

    def listener_named(self, name: str) -> Peer | None:
        """The listener called `name` here."""
        peers = (p for p in self.peers() if p.role is Role.LISTENER)
        return next((p for p in peers if p.name == name), None)

    # --- writing ------------------------------------------------------------------------------

    def add(self, name: str, key: str, address: Address | None = None) -> Peer:
        """Trust a key because a person says so: as a caller, or as the listener at `address`.

        A listener that is known by this name and key has moved to `address`. Raises BadInput if
        the name is another's, or the key or the address is known by another name.
        """
        key_bytes(key)
        check_name(name)
        new = Peer(name, key, address)
        with self._changing() as lines:
            for at, (_, old) in enumerate(lines):
                if old is None:
                    continue
                if old.role is new.role and (old.name, old.key) == (name, key):
                    new = replace(new, verified=old.verified)
                    lines[at] = (new.line(), new)
                    break
                _check_together(old, new)
                if old.key != key and old.name.casefold() == name.casefold():
                    raise BadInput(f"{name} and {old.name} are too much alike for two people")
                if old.role is new.role and old.key == key:
                    raise BadInput(f"this key is known already, as {old.name}")
            else:
                lines.append((new.line(), new))
            _check_all(lines)
        return new

    def rename(self, name: str, new: str) -> list[Peer]:
        """Call somebody, as caller and as listener, by another name. Raises BadInput if nobody is
        called so, or somebody else by the new name.
        """
        check_name(new)
        with self._changing() as lines:
            key = _about(lines, name)[0].key
            for _, peer in lines:
                if peer and peer.key != key and peer.name.casefold() == new.casefold():
                    raise BadInput(f"{peer.name} is somebody else: forget or rename that one first")
            return _replace(lines, name, lambda peer: replace(peer, name=new))

    def verify(self, name: str, verified: bool = True, key: str | None = None) -> list[Peer]:
        """Say whether a person has made sure of somebody's key.

        key: the one that it is about, if that is known. Raises BadInput if nobody is called so, or
        somebody with another key.
        """
        with self._changing() as lines:
            if key is not None and any(peer.key != key for peer in _about(lines, name)):
                raise BadInput(f"{name} is known by another key now")
            return _replace(lines, name, lambda peer: replace(peer, verified=verified))

    def forget(self, name: str) -> list[Peer]:
        """Trust somebody no longer; returns what was known. Raises BadInput for nobody."""
        with self._changing() as lines:
            gone = _about(lines, name)
            lines[:] = [(line, peer) for line, peer in lines if peer not in gone]
        return gone

    def record_caller(self, claimed: str, key: str) -> Peer:
        """Trust the key of a caller that calls itself `claimed`; returns it as it is recorded."""
        return self._record(Peer(_recorded_name(claimed), key), key)

    def record_listener(self, address: Address, key: str) -> Peer:
        """Trust the key of the listener found at `address`, under that as its name."""
        return self._record(Peer(str(address), key, address), key)

    def _record(self, new: Peer, key: str) -> Peer:
        key_bytes(key)
        with self._changing() as lines:
            peers = [peer for _, peer in lines if peer is not None]
            for old in peers:
                same = old.role is new.role and old.key == key
                if same and (old.address is None or old.address == new.address):
                    return old
            taken = {peer.name.casefold() for peer in peers}
            names = itertools.chain([new.name], (f"{new.name}-{n}" for n in itertools.count(2)))
            if new.role is Role.CALLER:
                new = replace(new, name=next(n for n in names if n.casefold() not in taken))
            lines.append((new.line(), new))
            _check_all(lines)
        return new

    # --- the file -----------------------------------------------------------------------------

    def _read(self) -> list[tuple[str, Peer | None]]:
        """The lines of the file, and who they are about."""
        with os_errors("read", self.path):
            try:
                with opened(self.path) as file:
                    refuse_writable(file.fileno(), self.path)
                    data = file.read(_LONGEST_FILE + 1)
            except FileNotFoundError:
                return []
        latest = self._latest
        if latest is None or latest[0] != data:
            self._latest = latest = data, self._parsed(data)
        return list(latest[1])

    def _parsed(self, data: bytes) -> list[tuple[str, Peer | None]]:
        """The same of the file's bytes."""
        shown = display_name(self.path)
        if len(data) > _LONGEST_FILE:
            raise BadInput(f"{shown} is too long for a file of known peers")
        lines: list[tuple[str, Peer | None]] = []
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            peer = None
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    peer = parse_peer(line)
                except BadInput as error:
                    raise BadInput(f"{shown}, line {number}: {error}") from None
            lines.append((line, peer))
        try:
            _check_all(lines)
        except BadInput as error:
            raise BadInput(f"{shown}: {error}") from None
        return lines

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[tuple[str, Peer | None]]]:
        """The lines, to be changed in place; written when the block ends, whole or not at all."""
        with os_errors("write", self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_writable(None, self.path)
        with locked(self.path.parent):
            lines = self._read()
            before = list(lines)
            yield lines
            if lines == before:
                return
            for line, peer in set(lines) - set(before):
                if peer is not None and parse_peer(line) != peer:
                    raise BadInput(f"{display_name(line)} would be read as somebody else")
            text = "".join(f"{line}\n" for line, _ in lines)
            if len(text.encode()) > _LONGEST_FILE:
                raise BadInput(f"{display_name(self.path)} is full: remove some peers")
            final = Path(os.path.realpath(self.path))  # of a symbolic link, the target is replaced
            with prepared(final, text, 0o600) as temporary, os_errors("write", self.path):
                os.replace(temporary, final)


class TrustWatch:
    """Notices that keys of a running call are not trusted any more.

    A key counts as revoked when two looks, a second apart, have missed it: a file that is just
    being written may be empty, or not there, for a moment.
    """

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}
        self._next_look = -math.inf

    def watch(self, key: str) -> None:
        """Watch a key that is trusted now."""
        self._missed[key] = 0

    def revoked(self, now: float, trusted: Callable[[], Collection[str] | None]) -> list[str]:
        """The keys watched that have been revoked; they are watched no longer.

        now: seconds of a monotonic clock; trusted: asked now and then for the keys that are
        trusted, None while that cannot be told.
        """
        if not self._missed or now < self._next_look:
            return []
        self._next_look = now + _LOOK_INTERVAL
        keys = trusted()
        if keys is None:
            return []
        for key, missed in self._missed.items():
            self._missed[key] = 0 if key in keys else missed + 1
        gone = [key for key, missed in self._missed.items() if missed >= _LOOKS]
        for key in gone:
            del self._missed[key]
        return gone


def _check_all(lines: list[tuple[str, Peer | None]]) -> None:
    """Raise BadInput if two lines contradict each other, or there are too many."""
    peers = [peer for _, peer in lines if peer is not None]
    if len(peers) > MAX_PEERS:
        raise BadInput(f"more than {MAX_PEERS} peers: remove some")
    names: dict[str, Peer] = {}
    places: dict[tuple[str, int], Peer] = {}
    for peer in peers:
        _check_together(names.setdefault(peer.name, peer), peer)
        if peer.address is not None:
            place = _canonical(peer.address.host), peer.address.port
            _check_together(places.setdefault(place, peer), peer)


def _check_together(old: Peer, new: Peer) -> None:
    """Raise BadInput if one key would take the place of another."""
    if old.key == new.key:
        return
    if old.name == new.name:
        raise BadInput(f"{old.name} is known by another key: forget that one first")
    if old.address is None or new.address is None or old.address.port != new.address.port:
        return
    if _same_host(old.address.host, new.address.host):
        raise BadInput(f"the listener at {new.place} is {old.name}, known by another key")


def _about(lines: list[tuple[str, Peer | None]], name: str) -> list[Peer]:
    """The lines about somebody. Raises BadInput if there are none."""
    found = [peer for _, peer in lines if peer is not None and peer.name == name]
    if not found:
        raise BadInput(f"nobody is known as {display_name(name)}: sotto peers lists who is")
    return found


def _replace(
    lines: list[tuple[str, Peer | None]], name: str, change: Callable[[Peer], Peer]
) -> list[Peer]:
    """Change the lines about somebody; returns the new ones. Raises BadInput if there are none."""
    _about(lines, name)
    changed = []
    for at, (_, peer) in enumerate(lines):
        if peer is not None and peer.name == name:
            new = change(peer)
            lines[at] = (new.line(), new)
            changed.append(new)
    return changed


def _recorded_name(claimed: str) -> str:
    """A name for somebody nobody has named, after what it calls itself."""
    plain = unicodedata.normalize("NFKD", claimed).encode("ascii", "ignore").decode("ascii")
    words = re.findall(r"[A-Za-z0-9]+", plain)
    name = "-".join(words)[:_LONGEST_RECORDED].strip("-")
    try:
        return check_name(name)
    except BadInput:
        return "caller"


def _address_meant(name: str) -> Address | None:
    """The address that the name in an unmarked line is, None if it is a caller's."""
    if ":" not in name and name.casefold() != _RESERVED and not _is_number(name):
        return None
    try:
        address = parse_address(name, default_port=0)
    except BadInput:
        return None
    return None if address.host == ANY else address


def _is_number(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _canonical(host: str) -> str:
    """`host` so that different spellings of a numeric address, or of case, are the same."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    return host.casefold().rstrip(".")


def _same_host(one: str, other: str) -> bool:
    return _canonical(one) == _canonical(other)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other programs from changing files of the folder meanwhile, where the system can."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with os_errors("write", folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
