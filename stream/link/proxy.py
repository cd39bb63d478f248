"""A proxy in front of a listening ZeroMQ socket: lets whole, short messages of few peers pass.

libzmq takes as many connections as come, though each holds a descriptor before it has said who it
is. The proxy takes a bounded number. Those that are part of the call, as the listener says
(`keep`), are never closed to make room. All others have to become so within some seconds and bytes;
of too many, one of the network (an IPv4 address, 64 bits of an IPv6 one) that has most is closed,
the one silent for longest. All of them together are served slowly: the call has the processor.

libzmq also bounds the size of a frame (ZMQ_MAXMSGSIZE), but not how many frames a message has: it
keeps them all until the last one has come, so whoever may connect may fill the memory. Our messages
have one frame. The proxy reads the frame headers of ZMTP 3 (ZeroMQ RFC 37) on each connection,
closes it when a frame is too long or says that more will follow, and otherwise hands the bytes on
through a Unix socket in a folder that nobody else may enter. CURVE hides whether more will follow;
there the bound on bytes, and on bytes a second of a connection in the call, has the same effect. It
reads nothing more before what it read has been handed on, so each connection takes a bounded amount
of memory and is as slow as the socket behind.

libzmq hears of a connection once the peer has begun as ZMTP does. It ends the program when it finds
no descriptor for a connection on its Unix socket. So each is handed to it alone, and only while
there are some to spare.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import itertools
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from codec.errors import BadStream, SottoError
from stream.link.address import ANY, Address
from stream.link.allowance import Allowance

CONNECTIONS = 64
_PIECE = 4096
_KERNEL_BYTES = 16_384
_FAREWELL = 0.5  # seconds for what was said last to leave
_LAST_WORDS = 5.0  # and to be read of who has gone: a buffer full of it, on however busy a machine
_SPARE = 8  # descriptors that must be left for others before a connection is taken
_SILENT = 3.0  # seconds after which a connection makes room where descriptors are few
_NO_ROOM = 0.05  # seconds before another try, when a connection could not be taken
_BETWEEN = 0.005  # seconds from one connection taken to the next ...
_CROWDED = 0.015  # ... where another had to go for it: taking one costs a call milliseconds
_FIRST_WORDS = 5.0  # seconds for a peer to begin with something
_INTRODUCTIONS = 5.0  # a second, and at once
_UNKNOWN_SECONDS = 15.0  # after which a connection has to be part of the call
_UNKNOWN_BYTES = 32_768  # that it may send before: handshake and HELLO are below 2000
_UNKNOWN_PAUSE = 0.002  # seconds after each piece read of any connection that is not
KNOWN_RATE = 65_536.0  # bytes per second that a connection of the call may send: four voices' most
KNOWN_BURST = 262_144.0  # and at once
_NAME = "link"
_LONGEST_PATH = 100  # of a Unix socket: 107 bytes on Linux

_MAPPED = "::ffff:"  # how a dual-stack socket writes IPv4 addresses
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
    """number: its own; outer: from the peer; host: the peer's address; heard: when it spoke last.

    kept: it is part of the call; unknown: bytes that came while it was not.
    """

    number: int
    outer: socket.socket
    host: str
    heard: float
    kept: bool = False
    unknown: int = 0
    pace: Allowance = field(default_factory=lambda: Allowance(KNOWN_RATE, KNOWN_BURST))


class Introduction(NamedTuple):
    """What a peer may ask before it speaks ZMTP, and the answer, after which it has to go."""

    question: bytes
    answer: bytes


@dataclass(frozen=True)
class Line:
    """A connection of the call. descriptor: of its TCP socket, which the proxy may close."""

    number: int
    descriptor: int


class Proxy:
    """Listens on a TCP port for the ZeroMQ socket that is bound to `endpoint`.

    limit: longest message in bytes, with what CURVE adds; introduction: a question that no ZMTP
    begins with, and what whoever asks it is told. Raises SottoError when made if the port cannot be
    had. failure: why the port is closed, if it is without having been asked to. `keep`,
    `let_go` and `unknown_hosts` may be called from any thread.
    """

    def __init__(
        self,
        address: Address,
        limit: int,
        *,
        introduction: Introduction | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._clock = limit, clock
        self._introduction = introduction
        self._introductions = Allowance(_INTRODUCTIONS, _INTRODUCTIONS)
        self.turned_away = 0  # connections closed for what they sent, or for lack of room
        self.failure: str | None = None
        self._server = listening_socket(address)
        self.port = int(self._server.getsockname()[1])
        self._folder = _private_folder()
        self._path = os.path.join(self._folder, _NAME)
        self.endpoint = f"ipc://{self._path}"
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._lines: dict[int, _Connection] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of _lines, which other threads read
        self._unknown = asyncio.Lock()  # held by whom an unknown peer makes wait
        self._handing = asyncio.Lock()  # held while a connection is handed to the socket behind
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

    def keep(self, descriptor: int | None) -> Line | None:
        """Make a connection part of the call; None if it has gone.

        descriptor: of its accepted end in the socket behind, which a message that came by it names.
        """
        number = _number_of(descriptor)
        with self._lock:
            connection = None if number is None else self._lines.get(number)
            if number is None or connection is None:
                return None
            connection.kept = True
            return Line(number, connection.outer.fileno())

    def let_go(self, line: Line) -> None:
        """A connection is part of the call no more: it has to go, or be kept again, soon."""
        with self._lock:
            connection = self._lines.get(line.number)
            if connection is not None:
                connection.kept, connection.unknown = False, 0

    def unknown_hosts(self) -> set[str]:
        """The addresses from which there are connections that are not part of the call."""
        with self._lock:
            return {each.host for each in self._lines.values() if not each.kept}

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
                outer, address = await self._loop.sock_accept(self._server)
            except OSError:  # it has gone again, or there are no descriptors left
                await self._make_room()
                continue
            while not self._may_open(_SPARE):
                await self._make_room()
            try:
                _prepare_tcp(outer)
            except OSError:
                outer.close()
                self.turned_away += 1
                continue
            crowded = len(self._connections) >= CONNECTIONS
            if crowded:
                self._turn_away_one()
            number, host = next(self._numbers), plain(address[0])
            connection = _Connection(number, outer, host, self._clock())
            with self._lock:
                self._lines[number] = connection
            task = asyncio.create_task(self._hand_on(connection))
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)
            await asyncio.sleep(_CROWDED if crowded else _BETWEEN)

    def _may_open(self, count: int) -> bool:
        """Whether there are so many descriptors left."""
        opened: list[int] = []
        try:
            while len(opened) < count:
                opened.append(os.dup(self._server.fileno()))
        except OSError:
            return False
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return True

    async def _make_room(self) -> None:
        """Close a connection nobody speaks on, or let the newcomer wait."""
        victim = self._victim()
        if victim is not None and self._clock() - self._connections[victim].heard > _SILENT:
            self._turn_away_one()
        await asyncio.sleep(_NO_ROOM)

    def _turn_away_one(self) -> None:
        if (victim := self._victim()) is not None:
            self._turn_away(victim)

    def _turn_away(self, task: asyncio.Task[None]) -> None:
        self.turned_away += 1
        task.cancel()

    def _victim(self) -> asyncio.Task[None] | None:
        """Whose place a newcomer takes, None if all are part of the call."""
        unknown = [
            (task, each.heard, network(each.host))
            for task, each in self._connections.items()
            if not each.kept
        ]
        if not unknown:
            return None
        crowds = Counter(whose for _, _, whose in unknown)
        most = max(crowds.values())
        _, victim = min(
            (heard, n) for n, (_, heard, of) in enumerate(unknown) if crowds[of] == most
        )
        return unknown[victim][0]

    async def _hand_over(self, connection: _Connection) -> tuple[socket.socket, bytes]:
        """Make the socket behind take a connection: our end, and its greeting. Raises OSError."""
        async with self._handing:
            while not self._may_open(1 + _SPARE):
                await self._make_room()
            inner = await self._connect(connection.number)
            try:
                return inner, await self._loop.sock_recv(inner, _PIECE)
            except BaseException:
                inner.close()
                raise

    async def _connect(self, number: int) -> socket.socket:
        """A connection to the socket behind. Raises OSError, also when no descriptor is left.

        Its own end is named by its number, which is how the one accepted behind is recognised.
        """
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            name = os.path.join(self._folder, f"{number:x}")
            inner.bind(name)
            os.unlink(name)  # the kernel remembers it
            await self._loop.sock_connect(inner, self._path)
        except BaseException:
            inner.close()
            raise
        return inner

    async def _hand_on(self, connection: _Connection) -> None:
        """Serve one connection until one of its ends closes it, or its time is over."""
        try:
            if data := await self._first_words(connection):
                await self._both_ways(connection, data)
        except BadStream:
            self.turned_away += 1
        except OSError:  # one of its ends has gone
            pass
        finally:
            with self._lock:
                del self._lines[connection.number]
            connection.outer.close()

    async def _both_ways(self, connection: _Connection, data: bytes) -> None:
        """Hand on what comes from both sides. data: what the peer has begun with.

        Raises BadStream for what must not be handed on, or if it is not part of the call in time.
        """
        reader = FrameReader(self._limit)
        reader.read(data)
        inner, greeting = await self._hand_over(connection)
        inward = asyncio.create_task(self._inward(connection, inner, reader, data))
        outward = asyncio.create_task(self._outward(connection, inner, greeting))
        ways = {inward, outward}
        try:
            while not (done := await self._first_done(ways)) and connection.kept:
                pass
            if not done:
                raise BadStream("not part of the call")
            if outward.done() and outward.exception() is not None:
                # The peer has gone; what it said last, a goodbye perhaps, may not be read yet.
                await asyncio.wait({inward}, timeout=_LAST_WORDS)
            if inward.done():
                inward.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            inner.close()

    async def _first_done(self, ways: set[asyncio.Task[None]]) -> bool:
        """Whether one of these ends within the time that an unknown peer has."""
        timeout, first = _UNKNOWN_SECONDS, asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(ways, timeout=timeout, return_when=first)
        return bool(done)

    async def _inward(
        self, connection: _Connection, inner: socket.socket, reader: FrameReader, data: bytes
    ) -> None:
        """Pass on what comes from the peer; reader: has read `data`, the first of it.

        Raises BadStream for what must not be handed on.
        """
        while data:
            connection.heard = self._clock()
            with contextlib.suppress(OSError):  # closed, but has said goodbye before
                await self._loop.sock_sendall(inner, data)
            await self._wait(connection, len(data))
            data = await self._loop.sock_recv(connection.outer, _PIECE)
            reader.read(data)

    async def _first_words(self, connection: _Connection) -> bytes:
        """What a peer begins with, nothing if that was to ask who we are.

        Raises BadStream if too many ask. Who says nothing is turned away.
        """
        question, answer = (b"", b"") if self._introduction is None else self._introduction
        data = b""
        task = asyncio.current_task()
        assert task is not None
        # Of what is not begun in time there may be a lot: no task for each.
        limit = self._loop.call_later(_FIRST_WORDS, self._turn_away, task)
        try:
            while not data or (len(data) < len(question) and question.startswith(data)):
                most = len(question) - len(data) or _PIECE
                more = await self._loop.sock_recv(connection.outer, most)
                if not more:
                    return b""
                data += more
        finally:
            limit.cancel()
        if data != question:
            return data
        if not self._introductions.take(1.0, self._clock()):
            raise BadStream("too many ask who we are")
        await self._loop.sock_sendall(connection.outer, answer)
        return b""

    async def _wait(self, connection: _Connection, count: int) -> None:
        """After `count` bytes, others' turn. Raises BadStream if there were too many."""
        if connection.kept:
            await asyncio.sleep(connection.pace.owe(count, self._loop.time()))
            return
        connection.unknown += count
        if connection.unknown > _UNKNOWN_BYTES:
            raise BadStream("too much without being part of the call")
        async with self._unknown:
            await asyncio.sleep(_UNKNOWN_PAUSE)

    async def _outward(self, connection: _Connection, inner: socket.socket, data: bytes) -> None:
        """Pass on what comes from the socket behind; data: the first of it."""
        while data:
            await self._loop.sock_sendall(connection.outer, data)
            data = await self._loop.sock_recv(inner, _PIECE)


def _number_of(descriptor: int | None) -> int | None:
    """Which connection a socket accepted behind is the other end of, None if of none."""
    if descriptor is None:
        return None
    try:
        # It belongs to libzmq, which may close it at any time: it must be let go in any case.
        borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    except (OSError, ValueError):
        return None
    try:
        name = borrowed.getpeername()
        return int(os.path.basename(name), 16) if isinstance(name, str) else None
    except (OSError, ValueError):
        return None
    finally:
        borrowed.detach()


def plain(host: str) -> str:
    """An address without what a dual-stack socket, or a scope, adds to it."""
    return host.removeprefix(_MAPPED).partition("%")[0]


@functools.lru_cache(maxsize=4 * CONNECTIONS)  # asked for each of them when another comes
def network(host: str) -> str:
    """Whose a peer's address is: all of IPv4's, 64 bits of IPv6's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network(f"{host}/64", strict=False))


def cannot_listen(address: Address, number: int | None) -> SottoError:
    """Why a port cannot be bound, by the system's error number."""
    why = os.strerror(number or 0)
    return SottoError(f"cannot listen on {address}: {why[:1].lower()}{why[1:]}")


def listening_socket(address: Address) -> socket.socket:
    """A listening TCP socket that does not block. Raises SottoError."""
    any_ = address.host == ANY
    six = ":" in address.host or (any_ and socket.has_dualstack_ipv6())
    place: tuple[Any, ...] = "", address.port
    try:
        if not any_:  # bind wants the scope as a number of its own
            numeric = socket.AI_NUMERICHOST
            place = socket.getaddrinfo(address.host, address.port, flags=numeric)[0][4]
        server = socket.create_server(
            place,
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
