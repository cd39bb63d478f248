"""An unknown peer that floods a port with garbage and idle connections, and counts the replies.

Random bytes over plain TCP, random bytes after a proper ZMTP greeting, and messages of a ZeroMQ
client without a key and of one with a key of its own.

The laboratory starts it as a program of its own, on the other host: see `command`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass

import zmq

GREETING_BYTES = 64
_TICK = 0.01
_STREAMS = 8
_LONGEST = 256
# ZMTP 3.1 (ZeroMQ RFC 37): signature, version, mechanism, as-server, filler.
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"


@dataclass
class Account:
    """Packets the system accepted, connections, greetings (which every ZeroMQ port sends to all),
    bytes received beyond those, messages received, and the most idle connections held at once."""

    packets: int = 0
    connections: int = 0
    greetings: int = 0
    received_bytes: int = 0
    received_messages: int = 0
    idle: int = 0
    seconds: float = 0.0


class GarbageStream:
    """One TCP connection after another, as the other side may close them at any time."""

    def __init__(self, address: tuple[str, int], opening: bytes, account: Account) -> None:
        self._address, self._opening, self._account = address, opening, account
        self._socket: socket.socket | None = None
        self._received = 0

    def send(self, data: bytes) -> None:
        """Send `data`, over a new connection if the last one is gone."""
        try:
            end = self._socket or self._connect()
            with contextlib.suppress(BlockingIOError):  # the listener takes no more
                end.send(data)
                self._account.packets += 1
        except OSError:
            self.close()

    def count(self) -> None:
        """Count what has come."""
        if self._socket is not None:
            try:
                self._count(self._socket)
            except OSError:
                self.close()

    def close(self) -> None:
        """Count what is still there, and hang up."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._count(self._socket)
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        self._socket = end = socket.create_connection(self._address, 1.0)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setblocking(False)
        self._account.connections += 1
        self._received = 0
        end.send(self._opening)
        return end

    def _count(self, end: socket.socket) -> None:
        """Count what has come. Raises OSError once the other side has hung up."""
        with contextlib.suppress(BlockingIOError):
            data = end.recv(65536)
            before, self._received = self._received, self._received + len(data)
            self._account.greetings += before == 0 and len(data) > 0
            self._account.received_bytes += max(self._received - max(before, GREETING_BYTES), 0)
            if not data:
                raise ConnectionResetError


class Crowd:
    """Idle connections to a port; those that the other side closes are made anew."""

    _AT_ONCE = 20  # connections made from one look to the next: others have to get through too

    def __init__(self, address: tuple[str, int], count: int, account: Account) -> None:
        self._address, self._count, self._account = address, count, account
        self._poll = select.poll()
        self._ends: dict[int, socket.socket] = {}
        if count:
            _allow_descriptors(count + 100)

    def tend(self) -> None:
        """Take away what was closed, and make some of what is missing."""
        for number, _ in self._poll.poll(0):
            with contextlib.suppress(BlockingIOError):
                try:
                    gone = not self._ends[number].recv(65536)
                except ConnectionError:
                    gone = True
                if gone:
                    self._poll.unregister(number)
                    self._ends.pop(number).close()
        for _ in range(min(self._count - len(self._ends), self._AT_ONCE)):
            end = socket.socket(socket.AF_INET)
            end.setblocking(False)
            end.connect_ex(self._address)
            self._ends[end.fileno()] = end
            self._poll.register(end, select.POLLIN)
        self._account.idle = max(self._account.idle, len(self._ends))

    def close(self) -> None:
        """Hang up everywhere."""
        for end in self._ends.values():
            end.close()


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:  # negative: no limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard < 0 else min(count, hard), hard))


def greeting(mechanism: bytes) -> bytes:
    """A ZMTP 3.1 client's greeting for a security mechanism, 64 bytes."""
    return _SIGNATURE + b"\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def flood(
    host: str,
    port: int,
    rate: float,
    seconds: float,
    server_key: str | None = None,
    idle: int = 0,
) -> Account:
    """Garbage at `rate` packets per second for `seconds`.

    server_key: the listener's, if known; idle: connections that say nothing, as well.
    """
    account = Account()
    draw = random.Random(0)
    openings = (b"", greeting(b"NULL"), greeting(b"CURVE"))
    streams = [
        GarbageStream((host, port), openings[k % len(openings)], account) for k in range(_STREAMS)
    ]
    context = zmq.Context()
    crowd = Crowd((host, port), idle, account)
    sockets = [_client(context, host, port, None)]
    if server_key is not None:
        sockets.append(_client(context, host, port, server_key))
    garbage = draw.randbytes(1 << 20)
    begun = time.monotonic()
    sent = 0
    try:
        while (now := time.monotonic() - begun) < seconds:
            while sent < rate * now and time.monotonic() - begun < seconds:
                at = draw.randrange(len(garbage) - _LONGEST)
                data = garbage[at : at + 1 + at % (_LONGEST - 1)]
                turn = sent % (_STREAMS + len(sockets))
                if turn < _STREAMS:
                    streams[turn].send(data)
                else:
                    _send(sockets[turn - _STREAMS], data, account)
                sent += 1
            for stream in streams:
                stream.count()
            for client in sockets:
                _receive(client, account)
            crowd.tend()
            time.sleep(_TICK)
        account.seconds = time.monotonic() - begun
    finally:
        crowd.close()
        for stream in streams:
            stream.close()
        for client in sockets:
            client.close(0)
        context.term()
    return account


def command(
    host: str,
    port: int,
    rate: float,
    seconds: float,
    server_key: str | None = None,
    idle: int = 0,
) -> list[str]:
    """The command line of `flood` as a program, which prints its account as a JSON object."""
    arguments = json.dumps([host, port, rate, seconds, server_key, idle])
    return [sys.executable, "-m", __name__, arguments]


def _client(
    context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, server_key: str | None
) -> zmq.Socket[bytes]:
    client = context.socket(zmq.DEALER)
    client.linger = 0
    client.sndhwm = 100
    if server_key is not None:
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.curve_serverkey = server_key.encode("ascii")
    client.connect(f"tcp://{host}:{port}")
    return client


def _send(client: zmq.Socket[bytes], data: bytes, account: Account) -> None:
    with contextlib.suppress(zmq.Again):
        client.send(data, zmq.NOBLOCK)
        account.packets += 1


def _receive(client: zmq.Socket[bytes], account: Account) -> None:
    with contextlib.suppress(zmq.Again):
        while True:
            client.recv_multipart(zmq.NOBLOCK)
            account.received_messages += 1


if __name__ == "__main__":
    os.nice(10)  # it stands for another machine: what it computes must not be taken from the ends
    print(json.dumps(asdict(flood(*json.loads(sys.argv[1])))), flush=True)
