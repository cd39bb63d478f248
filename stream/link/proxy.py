"""A proxy in front of a ZeroMQ socket without keys: lets whole, short messages pass.

libzmq bounds the size of a frame (ZMQ_MAXMSGSIZE), but not how many frames a message has: it keeps
them all until the last one has come, so whoever may connect may fill the memory. Our messages have
one frame. The proxy reads the frame headers of ZMTP 3 (ZeroMQ RFC 37) on each connection, closes it
when a frame is too long or says that more will follow, and otherwise hands the bytes on through a
Unix socket in a folder that nobody else may enter. It reads nothing more before what it read has
been handed on, so each connection takes a bounded amount of memory and is as slow as the socket
behind; of too many connections the one silent for longest is closed.

libzmq ends the program when it finds no descriptor for a connection on its Unix socket. So each is
handed to it alone, and only while there are some to spare.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from codec.errors import BadStream, SottoError
from stream.link.address import ANY, Address

CONNECTIONS = 64
_PIECE = 4096
_KERNEL_BYTES = 16_384
_FAREWELL = 0.5  # seconds for what was said last to leave
_SPARE = 8  # descriptors that must be left for others before a connection is taken
_SILENT = 3.0  # seconds after which a connection makes room where descriptors are few
_NO_ROOM = 0.05  # seconds before another try, when a connection could not be taken
_LONGEST_SLEEP = 1.0
_NAME = "link"
_LONGEST_PATH = 100  # of a Unix socket: 107 bytes on Linux

_GREETING = 64
_MORE, _LONG, _RESERVED = 1, 2, 0xF8


class FrameReader:
    """Follows one direction of a ZMTP 3 connection. limit: bytes that a frame's body may have."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._greeting = b""
        self._header = b""
        self._body = 0  # bytes of the present frame still to come

    def read(self, data: bytes) -> None:
        """Look at the next bytes. Raises BadStream for what must not be handed on."""
        at = 0
        if len(self._greeting) < _GREETING:
            at = min(_GREETING - len(self._greeting), len(data))
            self._greeting += data[:at]
            self._check_greeting()
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                self._body -= step
                at += step
                continue
            self._header += data[at : at + 1]
            at += 1
            flags = self._header[0]
            if flags & (_MORE | _RESERVED):
                raise BadStream("a message of several frames, or none of ZMTP")
            if len(self._header) == (9 if flags & _LONG else 2):
                self._body = int.from_bytes(self._header[1:], "big")
                self._header = b""
                if self._body > self._limit:
                    raise BadStream(f"a frame of {self._body} bytes")

    def _check_greeting(self) -> None:
        """Older versions have frames of another form."""
        for at, expected in ((0, b"\xff"), (9, b"\x7f")):
            if self._greeting[at : at + 1] not in (b"", expected):
                raise BadStream("not a greeting of ZMTP 3")
        if len(self._greeting) > 10 and self._greeting[10] < 3:
            raise BadStream("an old version of ZMTP")


@dataclass(eq=False)
class _Connection:
    """outer: from the peer; inner: to the socket behind. Bytes not handed on yet.

    heard: when the peer spoke last; taken: the socket behind has accepted it, for it has greeted.
    """

    outer: socket.socket
    inner: socket.socket
    reader: FrameReader
    heard: float
    inward: bytes = b""
    outward: bytes = b""
    taken: bool = False


class Proxy:
    """Listens on a TCP port for the ZeroMQ socket that is bound to `endpoint`.

    limit: longest message in bytes. Raises SottoError when made if the port cannot be had. failure:
    why the port is closed, if it is without having been asked to.
    """

    def __init__(
        self, address: Address, limit: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._clock = limit, clock
        self.turned_away = 0  # connections closed for what they sent, or for lack of room
        self.failure: str | None = None
        self._server = _listen(address)
        self.port = int(self._server.getsockname()[1])
        self._folder = _private_folder()
        self._path = os.path.join(self._folder, _NAME)
        self.endpoint = f"ipc://{self._path}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._awake, self._wake = socket.socketpair()
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._connections: dict[socket.socket, _Connection] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sotto-proxy", daemon=True)

    def start(self) -> None:
        """Let callers in; the socket behind must be bound by now."""
        self._thread.start()

    def close(self) -> None:
        """Close the port and, once what was said has been handed on, every connection."""
        self._closing.set()
        with contextlib.suppress(OSError):  # closed when the thread has ended
            self._wake.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(5.0)
        else:
            self._release()

    # --- the proxy's thread -------------------------------------------------------------------

    def _run(self) -> None:
        deadline: float | None = None
        try:
            while True:
                now = self._clock()
                if self._closing.is_set():
                    deadline = now + _FAREWELL if deadline is None else deadline
                    if now > deadline or not self._connections:
                        return
                for key, events in self._selector.select(self._prepare()):
                    end = key.fileobj
                    if end is self._server:
                        self._accept()
                    elif end is self._awake:
                        self._selector.unregister(end)  # woken once, to close
                    elif isinstance(end, socket.socket) and end in self._connections:
                        self._serve(self._connections[end], end, events)
        except Exception as error:  # whoever waits for callers must learn of it, whatever it is
            text = " ".join(str(error).split())
            self.failure = f"the port is closed: {type(error).__name__}: {text}"
        finally:
            self._release()

    def _prepare(self) -> float:
        """Ask for what can be handed on; returns how long there may be nothing to do."""
        taken = all(item.taken for item in self._connections.values())
        self._watch(self._server, selectors.EVENT_READ if taken else 0)
        for item in dict.fromkeys(self._connections.values()):
            outer = selectors.EVENT_WRITE if item.outward else 0
            inner = selectors.EVENT_WRITE if item.inward else 0
            if item.taken and not item.inward:
                outer |= selectors.EVENT_READ
            if not item.outward:
                inner |= selectors.EVENT_READ
            self._watch(item.outer, outer)
            self._watch(item.inner, inner)
        return _FAREWELL / 10 if self._closing.is_set() else _LONGEST_SLEEP

    def _watch(self, end: socket.socket, events: int) -> None:
        known = self._selector.get_map().get(end.fileno())
        if known is None:
            if events:
                self._selector.register(end, events)
        elif not events:
            self._selector.unregister(end)
        elif known.events != events:
            self._selector.modify(end, events)

    def _accept(self) -> None:
        if not self._may_open(2 + _SPARE):
            self._make_room()
            return
        try:
            outer, _ = self._server.accept()
        except OSError:
            self._closing.wait(_NO_ROOM)  # it has gone again, or there are no descriptors left
            return
        try:
            _prepare_tcp(outer)
            inner = self._connect()
        except OSError:
            outer.close()
            self.turned_away += 1
            return
        if len(self._connections) >= 2 * CONNECTIONS:
            self._turn_away(self._most_silent())
        item = _Connection(outer, inner, FrameReader(self._limit), self._clock())
        self._connections[outer] = self._connections[inner] = item

    def _may_open(self, count: int) -> bool:
        """Whether there are so many descriptors left."""
        with contextlib.ExitStack() as opened:
            try:
                for _ in range(count):
                    opened.callback(os.close, os.dup(self._server.fileno()))
            except OSError:
                return False
        return True

    def _make_room(self) -> None:
        """Close a connection nobody speaks on, or let the newcomer wait."""
        if self._connections and self._clock() - self._most_silent().heard > _SILENT:
            self._turn_away(self._most_silent())
        else:
            self._closing.wait(_NO_ROOM)

    def _most_silent(self) -> _Connection:
        return min(self._connections.values(), key=lambda item: item.heard)

    def _connect(self) -> socket.socket:
        """A connection to the socket behind. Raises OSError, also when no descriptor is left."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            inner.connect(self._path)
        except OSError:
            inner.close()
            raise
        return inner

    def _serve(self, item: _Connection, end: socket.socket, events: int) -> None:
        try:
            if end is item.outer:
                if events & selectors.EVENT_WRITE:
                    item.outward = item.outward[end.send(item.outward) :]
                if events & selectors.EVENT_READ:
                    data = end.recv(_PIECE) or _over()
                    item.reader.read(data)
                    item.inward, item.heard = data, self._clock()
            else:
                if events & selectors.EVENT_WRITE:
                    self._hand_in(item)
                if events & selectors.EVENT_READ:
                    item.outward = end.recv(_PIECE) or _over()
                    item.taken = True
        except BlockingIOError:
            pass
        except BadStream:
            self._turn_away(item)
        except OSError:
            self._drop(item)

    def _hand_in(self, item: _Connection) -> None:
        """Pass on what came from outside. A socket that has closed has said goodbye before."""
        try:
            item.inward = item.inward[item.inner.send(item.inward) :]
        except BlockingIOError:
            pass
        except OSError:
            item.inward = b""

    def _turn_away(self, item: _Connection) -> None:
        self.turned_away += 1
        self._drop(item)

    def _drop(self, item: _Connection) -> None:
        for end in (item.outer, item.inner):
            self._connections.pop(end, None)
            if end.fileno() in self._selector.get_map():
                self._selector.unregister(end)
            end.close()

    def _release(self) -> None:
        for item in dict.fromkeys(self._connections.values()):
            self._drop(item)
        self._selector.close()
        for end in (self._server, self._awake, self._wake):
            end.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _over() -> bytes:
    """The connection has been closed by one of its ends."""
    raise ConnectionResetError


def cannot_listen(address: Address, number: int | None) -> SottoError:
    """Why a port cannot be bound, by the system's error number."""
    why = os.strerror(number or 0)
    return SottoError(f"cannot listen on {address}: {why[:1].lower()}{why[1:]}")


def _listen(address: Address) -> socket.socket:
    """A listening TCP socket. Raises SottoError."""
    any_ = address.host == ANY
    six = ":" in address.host or (any_ and socket.has_dualstack_ipv6())
    try:
        server = socket.create_server(
            ("" if any_ else address.host, address.port),
            family=socket.AF_INET6 if six else socket.AF_INET,
            dualstack_ipv6=any_ and six,
        )
    except OSError as error:
        raise cannot_listen(address, error.errno) from None
    server.setblocking(False)
    return server


def _prepare_tcp(outer: socket.socket) -> None:
    """As libzmq's own sockets are set: see stream.link.endpoint."""
    outer.setblocking(False)
    outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        outer.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BYTES)
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        with contextlib.suppress(AttributeError):
            outer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _private_folder() -> str:
    """A folder that only we may enter, with a short name."""
    folder = tempfile.mkdtemp(prefix="sotto-")
    if len(folder) <= _LONGEST_PATH - len("/" + _NAME):
        return folder
    os.rmdir(folder)
    return tempfile.mkdtemp(prefix="sotto-", dir="/tmp")
