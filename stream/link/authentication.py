"""Authentication by CURVE keys: whom a listener lets in, and whom a caller connects to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import zmq

from codec.errors import BadInput, SottoError
from stream.link.address import Address, is_loopback
from stream.link.keys import KeyPair, authentication_string, fingerprint, key_bytes, key_text
from stream.link.peers import KnownPeers, Peer

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_PER_ROUND = 32
_NEW_AT_ONCE = 3  # unknown keys are trusted, at most, in so many seconds
_NEW_SECONDS = 60.0

# What libzmq's monitor says of handshakes that came to nothing.
FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


@dataclass(frozen=True)
class Security:
    """How a link is secured.

    keys: our key pair, None for an unsecured link; peers: the known peers (None: the default file);
    peer_key: the one peer's key, in Z85; trust_new: accept and record unknown keys; trust_most: how
    many of them a listener accepts until it ends; ring: let a person decide about everybody else
    who calls; insecure: allow an unsecured link beyond this machine.
    """

    keys: KeyPair | None = None
    peers: KnownPeers | None = None
    peer_key: str | None = None
    trust_new: bool = False
    trust_most: int = 1
    ring: bool = False
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.peer_key is not None:
            key_bytes(self.peer_key)
            if self.keys is None:
                raise BadInput("a peer's key was given, but we have none: run sotto keygen")

    @property
    def secured(self) -> bool:
        return self.keys is not None

    @cached_property
    def known(self) -> KnownPeers:
        # One for all questions: only what has changed since the last of them is parsed.
        return KnownPeers() if self.peers is None else self.peers

    @property
    def own_fingerprint(self) -> str:
        return "" if self.keys is None else self.keys.fingerprint

    def code_with(self, key: str) -> str:
        """The authentication string of our key and another; "" without keys."""
        return authentication_string(self.keys.public, key) if self.keys and key else ""

    def caller(self, key: str) -> Peer | None:
        """Who may call us with `key`, by the known peers. A file just being edited knows nobody."""
        try:
            return self.known.caller(key)
        except SottoError:
            return None

    def listener_at(self, host: str, port: int) -> Peer | None:
        """Whom we know there; nobody while the file cannot be read."""
        try:
            return self.known.listener_at(host, port)
        except SottoError:
            return None

    def knows_caller(self, key: str) -> bool:
        """Whether a caller with `key` is let in without having to be trusted first."""
        return key == self.peer_key or self.caller(key) is not None

    def check_reach(self, addresses: Iterable[Address], action: str) -> None:
        """Raise SottoError if an unsecured link would leave this machine without --insecure."""
        if self.secured or self.insecure:
            return
        for address in addresses:
            if not is_loopback(address):
                raise SottoError(
                    f"will not {action} {address} without keys: make a pair with sotto keygen, "
                    "or say --insecure"
                )


class RateLimit:
    """At most `count` times in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._times: deque[float] = deque(maxlen=count)
        self._seconds = seconds

    def allow(self, now: float) -> bool:
        full = len(self._times) == self._times.maxlen
        if full and now - self._times[0] < self._seconds:
            return False
        self._times.append(now)
        return True


class NewKeys:
    """Which unknown keys are trusted unasked: the first ones, and few of them at a time."""

    def __init__(self, most: int) -> None:
        """most: how many in all."""
        self._left = most
        self._limit = RateLimit(_NEW_AT_ONCE, _NEW_SECONDS)

    @property
    def left(self) -> int:
        """How many more may be trusted."""
        return self._left

    def take(self, now: float) -> bool:
        """Whether one more may be trusted now, which is then one less. now: monotonic seconds."""
        if self._left <= 0 or not self._limit.allow(now):
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """The key taken last has not come to be trusted."""
        self._left += 1


class Authenticator:
    """Answers libzmq's question whether a caller's key is welcome (ZeroMQ RFC 27, ZAP).

    Lives in the thread of the socket it guards, and must exist before that one is bound.
    admits(key) decides; refused(fingerprint) is told of every caller sent away.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        admits: Callable[[str], bool],
        refused: Callable[[str], None],
    ) -> None:
        self._admits = admits
        self._refused = refused
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ZAP_ENDPOINT)

    def serve(self) -> None:
        """Answer what has been asked; never blocks."""
        for _ in range(_PER_ROUND):
            try:
                request = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._answer(request))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        if request[:1] == [_ZAP_VERSION] and len(request) == 7 and len(request[6]) == 32:
            key = key_text(request[6])
            if self._admits(key):
                return [_ZAP_VERSION, number, b"200", b"OK", key.encode("ascii"), b""]
            self._refused(fingerprint(key))
        return [_ZAP_VERSION, number, b"400", b"unknown key", b"", b""]


def secure_listener(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    """Let `socket` take CURVE connections only."""
    socket.curve_secretkey = keys.secret.encode("ascii")
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_server = True
    socket.zap_domain = b"sotto"


def secure_caller(socket: zmq.Socket[bytes], keys: KeyPair, listener_key: str) -> None:
    """Let `socket` connect only to the owner of `listener_key`."""
    socket.curve_secretkey = keys.secret.encode("ascii")
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_serverkey = listener_key.encode("ascii")
