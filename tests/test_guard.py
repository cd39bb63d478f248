"""The door in front of a socket without keys: what passes, what does not, and what it may cost."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import zmq

from codec.errors import BadStream, SottoError
from stream.link import proxy
from stream.link.address import Address
from stream.link.events import CallState
from stream.link.proxy import FrameReader, Guard
from stream.link.transport import Endpoint, Offer, Security, StateChanged, dial, listen
from stream.link.wire import MAX_MESSAGE

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
WAIT = 20.0
OFFER = Offer("9f3c0a1b2c3d4e5f", "2k", "Ann")


def frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


HANDSHAKE = GREETING + frame(READY, 4)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_whole_messages_may_come_in_any_pieces(step):
    reader = FrameReader(MAX_MESSAGE)
    data = HANDSHAKE + frame(b"hello") + frame(b"x" * MAX_MESSAGE) + frame(b"") + frame(b"end")
    for at in range(0, len(data), step):
        reader.read(data[at : at + step])
    assert reader.frames == 5


@pytest.mark.parametrize(
    "data",
    [
        HANDSHAKE + frame(b"", flags=1),
        HANDSHAKE + frame(b"part", flags=1),
        HANDSHAKE + frame(b"x" * (MAX_MESSAGE + 1)),
        HANDSHAKE + b"\x02" + b"\xff" * 8,
        HANDSHAKE + b"\x10",
        b"GET / HTTP/1.1\r\n",
        GREETING[:10] + b"\x01" + GREETING[11:],
        b"\x01\x00",  # ZMTP 1.0
    ],
    ids=["empty part", "part", "long", "huge", "flags", "http", "zmtp 2", "zmtp 1"],
)
@pytest.mark.parametrize("step", [1, 4096])
def test_what_does_not_pass(data, step):
    reader = FrameReader(MAX_MESSAGE)
    with pytest.raises(BadStream):
        for at in range(0, len(data), step):
            reader.read(data[at : at + step])


@contextlib.contextmanager
def guarded():
    """A guard on loopback, and the ROUTER socket behind it."""
    door = Guard(Address("127.0.0.1", 0), MAX_MESSAGE)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(door.endpoint)
        door.start()
        try:
            yield door, router
        finally:
            door.close()


def closed(stranger: socket.socket) -> bool:
    """Whether the other end closes the connection soon."""
    stranger.settimeout(WAIT)
    with contextlib.suppress(ConnectionResetError):
        while stranger.recv(4096):
            pass
    return True


def test_messages_pass_both_ways_and_a_message_of_several_parts_ends_the_connection():
    with guarded() as (door, router):
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{door.port}")
            for size in (1, 200, 1000, MAX_MESSAGE):
                dealer.send(b"x" * size)
                assert router.poll(int(1000 * WAIT))
                route, message = router.recv_multipart()
                assert len(message) == size
                router.send_multipart([route, message])
                assert dealer.poll(int(1000 * WAIT))
                assert dealer.recv() == message
        with socket.create_connection(("127.0.0.1", door.port)) as stranger:
            stranger.sendall(HANDSHAKE + frame(b"one", flags=1))
            assert closed(stranger)
        assert door.turned_away == 1
        assert not router.poll(100)


def test_the_silent_make_room_for_others(monkeypatch):
    monkeypatch.setattr(proxy, "CONNECTIONS", 4)
    with guarded() as (door, _), contextlib.ExitStack() as stack:

        def stranger() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", door.port)))

        first, *others = [stranger() for _ in range(4)]
        for other in others:
            other.sendall(GREETING[:10])
            assert other.recv(10)  # libzmq's own greeting: it has been let in
        time.sleep(0.2)
        others[0].sendall(GREETING[10:11])
        time.sleep(0.2)
        stranger()
        assert closed(first)
        assert door.turned_away == 1
        others[0].settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            assert others[0].recv(4096)


def test_a_door_that_breaks_ends_the_listener_with_the_reason(monkeypatch):
    def broken(door: Guard) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(Guard, "_accept", broken)
    host = listen("127.0.0.1:0", OFFER, Security())
    host.start()
    try:
        with socket.create_connection(("127.0.0.1", host.port)):
            assert "RuntimeError: no idea" in reason_of(host, CallState.FAILED)
    finally:
        host.close()


def reason_of(end: Endpoint, state: CallState) -> str:
    """Wait for a state; why it came about."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        for event in end.events(0.1):
            if isinstance(event, StateChanged) and event.state is state:
                return event.reason
    raise AssertionError(f"not {state}")


def test_what_a_socket_says_before_it_closes_is_handed_on():
    """Also when it did not read any more what was said to it meanwhile."""
    door = Guard(Address("127.0.0.1", 0), MAX_MESSAGE)
    try:
        stranger, outer = socket.socketpair()
        inner, behind = socket.socketpair()
        item = proxy._Connection(outer, inner, FrameReader(MAX_MESSAGE), 0.0, taken=True)
        item.inward = b"a heartbeat"
        door._connections[outer] = door._connections[inner] = item
        behind.sendall(b"goodbye")
        behind.close()
        door._serve(inner, selectors.EVENT_WRITE | selectors.EVENT_READ)
        door._serve(outer, selectors.EVENT_WRITE)
        door._serve(inner, selectors.EVENT_READ)
        stranger.settimeout(WAIT)
        assert stranger.recv(100) == b"goodbye"
        assert stranger.recv(100) == b""
        stranger.close()
    finally:
        door.close()


def test_a_taken_port_is_said_and_nothing_is_left_behind():
    with guarded() as (door, _):
        folder = os.path.dirname(door.endpoint.removeprefix("ipc://"))
        assert os.stat(folder).st_mode & 0o077 == 0
        with pytest.raises(SottoError, match="address already in use"):
            Guard(Address("127.0.0.1", door.port), MAX_MESSAGE)
    assert not os.path.exists(folder)


# A listener in a process of its own, so that its memory is its own; says its port and, at the end,
# by how many megabytes it has grown.
LISTENER = """
import sys
from stream.link.transport import Offer, Security, listen
host = listen("127.0.0.1:0", Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security(insecure=True))
host.start()
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 / 1e6
before = resident()
print(host.port, flush=True)
sys.stdin.readline()
print(resident() - before, host.link().strangers, flush=True)
host.close()
"""


@contextlib.contextmanager
def listener(program: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A listener in a process of its own, and its port, which is the first thing it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def gets_through(port: int) -> bool:
    """Whether a call comes about."""
    caller = dial("127.0.0.1", port, OFFER, Security())
    caller.start()
    try:
        reason_of(caller, CallState.TALKING)
    finally:
        caller.close()
    return True


# One that may open a few files more than it has open, and is then out of descriptors.
POOR = """
import os, resource, sys
from stream.link.transport import Offer, Security, listen
host = listen("127.0.0.1:0", Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security())
host.start()
most = len(os.listdir("/proc/self/fd")) + 13
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
print(host.port, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_call_goes_through_after_strangers_took_every_descriptor():
    with listener(POOR) as (_, port):
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                time.sleep(0.01)
            time.sleep(0.3)
        assert gets_through(port)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("endless", [b"", b"x" * 200], ids=["empty parts", "parts"])
def test_a_message_without_end_takes_no_memory_and_a_call_goes_through(endless):
    part = frame(endless, flags=1)
    block = part * (65_536 // len(part))
    attempts = 0
    with listener(LISTENER) as (process, port):
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            attempts += 1
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5.0) as stranger,
            ):
                stranger.sendall(HANDSHAKE)
                while time.monotonic() < until:
                    stranger.sendall(block)
        assert gets_through(port)
        out, _ = process.communicate("\n", timeout=WAIT)
    grown, strangers = out.split()
    assert attempts > 3
    assert float(grown) < 10.0  # without a guard: about 80 MB a second
    assert int(strangers) >= 3
