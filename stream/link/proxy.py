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

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from codec.errors import BadStream, SottoError
from stream.link.address import ANY, Address

CONNECTIONS = 64
_PIECE = 4096
_KERNEL_BYTES = 16_384
_FAREWELL = 0.5  # seconds for what was said last to leave
_SPARE = 8  # descriptors that must be left for others before a connection is taken
_SILENT = 3.0  # seconds after which a connection makes room where descriptors are few
_NO_ROOM = 0.05  # seconds before another try, when a connection could not be taken
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
    """outer: from the peer; inner: to the socket behind; heard: when the peer spoke last.

    taken: the socket behind has accepted it, for it has greeted.
    """

    outer: socket.socket
    inner: socket.socket
    heard: float
    taken: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="sotto-proxy", daemon=True)

    def start(self) -> None:
        """Let callers in; the socket behind must be bound by now."""
        self._thread.start()

    def close(self) -> None:
        """Close the port and, once what was said has been handed on, every connection."""
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._closing.set)
        if self._thread.is_alive():
            self._thread.join(5.0)
        else:
            self._release()

    # --- the proxy's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # whoever waits for callers must learn of it, whatever it is
            text = " ".join(str(error).split())
            self.failure = f"port closed by an internal error: {type(error).__name__}: {text}"
        finally:
            self._release()

    def _release(self) -> None:
        self._loop.close()
        self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _serve(self) -> None:
        """Accept connections until asked to close, then wait a moment for what was said last."""
        accepting = asyncio.create_task(self._accept())
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({accepting, closing}, return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():
                accepting.result()  # raises what went wrong
            accepting.cancel()
            if self._connections:
                await asyncio.wait(self._connections, timeout=_FAREWELL)
        finally:
            tasks = [accepting, closing, *self._connections]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                outer, _ = await self._loop.sock_accept(self._server)
            except OSError:  # it has gone again, or there are no descriptors left
                await self._make_room()
                continue
            while not self._may_open(1 + _SPARE):
                await self._make_room()
            try:
                _prepare_tcp(outer)
                inner = await self._connect()
            except OSError:
                outer.close()
                self.turned_away += 1
                continue
            if len(self._connections) >= CONNECTIONS:
                self._turn_away_most_silent()
            connection = _Connection(outer, inner, self._clock())
            task = asyncio.create_task(self._hand_on(connection))
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)
            await connection.taken.wait()

    def _may_open(self, count: int) -> bool:
        """Whether there are so many descriptors left."""
        with contextlib.ExitStack() as opened:
            try:
                for _ in range(count):
                    opened.callback(os.close, os.dup(self._server.fileno()))
            except OSError:
                return False
        return True

    async def _make_room(self) -> None:
        """Close a connection nobody speaks on, or let the newcomer wait."""
        if self._connections:
            silent = self._clock() - min(item.heard for item in self._connections.values())
            if silent > _SILENT:
                self._turn_away_most_silent()
        await asyncio.sleep(_NO_ROOM)

    def _turn_away_most_silent(self) -> None:
        self.turned_away += 1
        min(self._connections, key=lambda task: self._connections[task].heard).cancel()

    async def _connect(self) -> socket.socket:
        """A connection to the socket behind. Raises OSError, also when no descriptor is left."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            await self._loop.sock_connect(inner, self._path)
        except BaseException:
            inner.close()
            raise
        return inner

    async def _hand_on(self, connection: _Connection) -> None:
        """Serve one connection until one of its ends closes it."""
        inward = asyncio.create_task(self._inward(connection))
        outward = asyncio.create_task(self._outward(connection))
        ways = {inward, outward}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if outward.done() and outward.exception() is not None:
                # The peer has gone; what it said last, a goodbye perhaps, may not be read yet.
                await asyncio.wait({inward}, timeout=_FAREWELL)
            self.turned_away += inward.done() and isinstance(inward.exception(), BadStream)
        finally:
            connection.taken.set()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            connection.outer.close()
            connection.inner.close()

    async def _inward(self, connection: _Connection) -> None:
        """Pass on what comes from the peer. Raises BadStream for what must not be handed on."""
        reader = FrameReader(self._limit)
        await connection.taken.wait()
        while data := await self._loop.sock_recv(connection.outer, _PIECE):
            reader.read(data)
            connection.heard = self._clock()
            with contextlib.suppress(OSError):  # closed, but has said goodbye before
                await self._loop.sock_sendall(connection.inner, data)
            await asyncio.sleep(0)  # others' turn, however fast this one is

    async def _outward(self, connection: _Connection) -> None:
        while data := await self._loop.sock_recv(connection.inner, _PIECE):
            connection.taken.set()
            await self._loop.sock_sendall(connection.outer, data)


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
