"""A stranger who pelts a port with garbage, and tells what it got back.

    python -m stream.bench.unknown_peer HOST PORT --rate 10000 --seconds 20

Random bytes over plain TCP, random bytes after a proper ZMTP greeting, and messages of a ZeroMQ
client without a key and of one with a key of its own. Prints one JSON object: packets the system
accepted, connections, bytes received beyond the greeting, messages received.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import Sequence
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
    """What was sent and what came back. Greetings are what every ZeroMQ port says to anybody."""

    packets: int = 0
    connections: int = 0
    greetings: int = 0
    received_bytes: int = 0
    received_messages: int = 0
    seconds: float = 0.0


class Pelter:
    """One TCP connection after the other, closed by the other side as often as it likes."""

    def __init__(self, address: tuple[str, int], opening: bytes, account: Account) -> None:
        self._address, self._opening, self._account = address, opening, account
        self._socket: socket.socket | None = None
        self._received = 0

    def throw(self, data: bytes) -> None:
        """Send `data`, over a new connection if the last one is gone."""
        if self._socket is None:
            try:
                self._socket = socket.create_connection(self._address, 1.0)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.setblocking(False)
                self._account.connections += 1
                self._received = 0
                self._socket.send(self._opening)
            except OSError:
                self.close()
                return
        try:
            self._socket.send(data)
            self._account.packets += 1
        except BlockingIOError:
            pass  # a full pipe: whoever listens takes no more
        except OSError:
            self.close()
            return
        self._listen()

    def close(self) -> None:
        """Read what is still there, and hang up."""
        if self._socket is not None:
            self._listen()
        self._drop()

    def _listen(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._drop()
            return
        before, self._received = self._received, self._received + len(data)
        self._account.greetings += before == 0 and len(data) > 0
        self._account.received_bytes += max(self._received - max(before, GREETING_BYTES), 0)
        if not data:
            self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def greeting(mechanism: bytes) -> bytes:
    """A ZMTP 3.1 client's greeting for a security mechanism, 64 bytes."""
    return _SIGNATURE + b"\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def pelt(
    address: tuple[str, int], rate: float, seconds: float, server_key: str | None = None
) -> Account:
    """Garbage at `rate` packets per second for `seconds`; server_key: the listener's, if known."""
    account = Account()
    draw = random.Random(0)
    openings = (b"", greeting(b"NULL"), greeting(b"CURVE"))
    pelters = [Pelter(address, openings[k % len(openings)], account) for k in range(_STREAMS)]
    context = zmq.Context()
    sockets = [_client(context, address, None)]
    if server_key is not None:
        sockets.append(_client(context, address, server_key))
    begun = time.monotonic()
    thrown = 0
    try:
        while (now := time.monotonic() - begun) < seconds:
            while thrown < rate * now and time.monotonic() - begun < seconds:
                data = draw.randbytes(draw.randrange(1, _LONGEST))
                turn = thrown % (_STREAMS + len(sockets))
                if turn < _STREAMS:
                    pelters[turn].throw(data)
                else:
                    _exchange(sockets[turn - _STREAMS], data, account)
                thrown += 1
            time.sleep(_TICK)
        account.seconds = time.monotonic() - begun
    finally:
        for pelter in pelters:
            pelter.close()
        for client in sockets:
            client.close(0)
        context.term()
    return account


def _client(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, int], server_key: str | None
) -> zmq.Socket[bytes]:
    client = context.socket(zmq.DEALER)
    client.linger = 0
    client.sndhwm = 100
    if server_key is not None:
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.curve_serverkey = server_key.encode("ascii")
    client.connect(f"tcp://{address[0]}:{address[1]}")
    return client


def _exchange(client: zmq.Socket[bytes], data: bytes, account: Account) -> None:
    with contextlib.suppress(zmq.Again):
        client.send(data, zmq.NOBLOCK)
        account.packets += 1
    with contextlib.suppress(zmq.Again):
        client.recv_multipart(zmq.NOBLOCK)
        account.received_messages += 1


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="stranger", description="Pelt a port with garbage.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=10_000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--server-key", help="the listener's public key")
    options = parser.parse_args(argv)
    account = pelt((options.host, options.port), options.rate, options.seconds, options.server_key)
    print(json.dumps(asdict(account)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
