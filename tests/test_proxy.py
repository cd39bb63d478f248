"""The proxy in front of a socket without keys: what it forwards, and what it may cost."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from codec.errors import BadStream, SottoError
from stream.link import proxy
from stream.link.address import Address
from stream.link.allowance import Allowance
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.endpoint import Endpoint
from stream.link.events import CallState, Offer, StateChanged
from stream.link.keys import generate
from stream.link.listener import Listener
from stream.link.proxy import FrameReader, Introduction, Proxy, network, plain
from stream.link.traffic import counted
from stream.link.wire import MAX_MESSAGE

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
WAIT = 60.0  # seconds anything may take on a busy machine
OFFER = Offer("9f3c0a1b2c3d4e5f", "2k", "Ann")
OPEN = Security()


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
    with pytest.raises(BadStream):  # the next frame begins here
        reader.read(b"\x01")


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
def proxied(clock: Callable[[], float] = time.monotonic):
    """A proxy on loopback, and the ROUTER socket behind it."""
    front = Proxy(Address("127.0.0.1", 0), MAX_MESSAGE, clock=clock)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(front.endpoint)
        front.start()
        try:
            yield front, router
        finally:
            front.close()


def closed(peer: socket.socket) -> bool:
    """Whether the other end closes the connection soon."""
    peer.settimeout(WAIT)
    with contextlib.suppress(ConnectionResetError):
        while peer.recv(4096):
            pass
    return True


def test_messages_pass_both_ways_and_a_message_of_several_parts_ends_the_connection():
    with proxied() as (front, router):
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{front.port}")
            for size in (1, 200, 1000, MAX_MESSAGE):
                dealer.send(b"x" * size)
                assert router.poll(int(1000 * WAIT))
                route, message = router.recv_multipart()
                assert len(message) == size
                router.send_multipart([route, message])
                assert dealer.poll(int(1000 * WAIT))
                assert dealer.recv() == message
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            peer.sendall(HANDSHAKE + frame(b"one", flags=1))
            assert closed(peer)
        assert front.turned_away == 1
        assert not router.poll(100)


def test_what_a_peer_said_last_arrives_though_it_reset_the_connection(monkeypatch):
    monkeypatch.setattr(proxy, "_PIECE", 64)
    reading, go_on = threading.Event(), threading.Event()
    go_on.set()

    def clock() -> float:
        """Stands still, and the proxy with it, where `go_on` is not set."""
        reading.set()
        assert go_on.wait(WAIT)
        return 0.0

    with proxied(clock) as (front, router):
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            shake_hands(peer)
            peer.sendall(frame(b"hello"))
            assert router.poll(int(1000 * WAIT))
            route, _ = router.recv_multipart()
            go_on.clear()
            reading.clear()
            peer.sendall(frame(b"wait"))
            assert reading.wait(WAIT)
            peer.sendall(12 * frame(b"x" * 1000) + frame(b"goodbye"))
            for _ in range(20):  # what nobody reads any more
                router.send_multipart([route, b"y" * 1000])
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        go_on.set()
        for expected in (b"wait", *12 * (b"x" * 1000,), b"goodbye"):
            assert router.poll(int(1000 * WAIT))
            assert router.recv_multipart()[1] == expected


def test_the_silent_make_room_for_others(monkeypatch):
    monkeypatch.setattr(proxy, "CONNECTIONS", 4)
    clock = Clock()
    with proxied(clock) as (front, _), contextlib.ExitStack() as stack:

        def peer() -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            made.settimeout(WAIT)
            return made

        def receive(peer: socket.socket, count: int) -> None:
            while count:
                data = peer.recv(count)
                assert data
                count -= len(data)

        # libzmq answers the first 10 bytes of a greeting with its own first 11, and the next with
        # its other 53: who has them all has been heard.
        first, *others = [peer() for _ in range(4)]
        for speaker in others:
            speaker.sendall(GREETING[:10])
            receive(speaker, 11)
        for clock.now, speaker in enumerate([first, *reversed(others)], 1):
            speaker.sendall(GREETING[:11] if speaker is first else GREETING[10:11])
            receive(speaker, 64 if speaker is first else 53)
        peer()
        assert closed(first)
        assert front.turned_away == 1
        clock.now += 1
        first = peer()
        assert closed(others[-1])
        assert front.turned_away == 2


def test_who_is_in_the_call_stays_however_many_come(monkeypatch):
    """Also in silence; and is closed in time when it is in the call no more."""
    monkeypatch.setattr(proxy, "CONNECTIONS", 4)
    with (
        proxied(Clock()) as (front, router),
        contextlib.ExitStack() as stack,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.linger = 0
        dealer.reconnect_ivl = -1
        dealer.connect(f"tcp://127.0.0.1:{front.port}")
        dealer.send(b"hello")
        assert router.poll(int(1000 * WAIT))
        route, message = router.recv_multipart(copy=False)
        line = front.keep(message.get(zmq.SRCFD))
        assert line is not None and counted(line.descriptor) is not None
        assert front.unknown_hosts() == set()
        others = [
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            for _ in range(20)
        ]
        assert all(closed(each) for each in others[:17])
        assert front.turned_away == 17 and front.unknown_hosts() == {"127.0.0.1"}
        router.send_multipart([route, b"welcome"])
        assert dealer.poll(int(1000 * WAIT)) and dealer.recv() == b"welcome"
        dealer.monitor("inproc://seen", zmq.EVENT_DISCONNECTED)
        front.let_go(line)
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
        with context.socket(zmq.PAIR) as monitor:
            monitor.connect("inproc://seen")
            assert monitor.poll(int(1000 * WAIT))
            dealer.disable_monitor()


def test_who_is_not_in_the_call_has_a_time_and_a_number_of_bytes(monkeypatch):
    with proxied() as (front, _):
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            shake_hands(peer)
            with contextlib.suppress(ConnectionError):  # while it sends
                for _ in range(40):
                    peer.sendall(frame(b"x" * 1000))
            assert closed(peer)
        assert front.turned_away == 1
        monkeypatch.setattr(proxy, "_UNKNOWN_SECONDS", 0.2)
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            shake_hands(peer)
            assert closed(peer)
        assert front.turned_away == 2


def shake_hands(peer: socket.socket) -> None:
    """Greet, and wait until libzmq has."""
    peer.settimeout(WAIT)
    peer.sendall(HANDSHAKE)
    answer = b""
    while b"Socket-Type" not in answer:
        answer += peer.recv(4096)


def test_no_network_takes_the_places_of_others():
    networks = {
        "192.0.2.7": "192.0.2.7",
        "::ffff:192.0.2.7": "192.0.2.7",
        "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
        "2001:db8:1:2:ffff::": "2001:db8:1:2::/64",
        "fe80::1%eth0": "fe80::/64",
        "2001:db8:1:3::": "2001:db8:1:3::/64",
    }
    assert {host: network(plain(host)) for host in networks} == networks


def test_who_says_nothing_hears_nothing_and_has_to_go(monkeypatch):
    monkeypatch.setattr(proxy, "_FIRST_WORDS", 0.3)
    with proxied() as (front, _):
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            peer.settimeout(WAIT)
            assert peer.recv(100) == b""
        assert front.turned_away == 1


QUESTION, ANSWER = b"\x0bwho are you", b"the proxy"


@contextlib.contextmanager
def introduced():
    """A proxy that says who it is, at the end of a time of its own."""
    now = [0.0]
    introduction = Introduction(QUESTION, ANSWER)
    limit = MAX_MESSAGE
    front = Proxy(Address("127.0.0.1", 0), limit, introduction=introduction, clock=lambda: now[0])
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(front.endpoint)
        front.start()
        try:
            yield front, router, now
        finally:
            front.close()


def asked(port: int, *pieces: bytes) -> bytes:
    """What is answered to what is said in these pieces, until the connection is closed."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(WAIT)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(0.02)
            while more := peer.recv(100):
                answer += more
    return answer


def test_who_asks_is_told_who_we_are_and_nothing_else():
    with introduced() as (front, router, _):
        assert asked(front.port, QUESTION) == ANSWER
        assert asked(front.port, QUESTION[:1], QUESTION[1:5], QUESTION[5:]) == ANSWER
        assert front.turned_away == 0
        assert asked(front.port, QUESTION[:-1] + b"!") == b""
        assert asked(front.port, QUESTION[:-1] + b"! and then some") == b""
        assert asked(front.port, b"GET / HTTP/1.1\r\n\r\n") == b""
        assert not router.poll(100)
        # A ZeroMQ socket is handed on as ever.
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{front.port}")
            dealer.send(b"hello")
            assert router.poll(int(1000 * WAIT))
            assert router.recv_multipart()[1] == b"hello"


def test_introductions_are_rate_limited():
    with introduced() as (front, _, now):
        answers = [asked(front.port, QUESTION) for _ in range(8)]
        assert answers == 5 * [ANSWER] + 3 * [b""]
        assert front.turned_away == 3
        now[0] += 0.4
        assert [asked(front.port, QUESTION) for _ in range(3)] == [ANSWER, ANSWER, b""]


def test_a_pace_is_kept_but_for_a_burst():
    pace = Allowance(10.0, 20.0)
    assert pace.owe(20.0, 5.0) == 0.0
    assert pace.owe(10.0, 5.0) == 1.0
    assert pace.owe(0.0, 6.0) == 0.0
    assert pace.owe(5.0, 4.0) == 0.5  # a clock that is set back gives nothing
    assert pace.owe(20.0, 100.0) == 0.0


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        return float(self.now)


def test_a_proxy_that_breaks_ends_the_listener_with_the_reason(monkeypatch):
    def broken(server: socket.socket) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(socket.socket, "accept", broken)
    host = Listener("127.0.0.1:0", OFFER, Security())
    host.start()
    try:
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


def test_only_who_begins_as_zmtp_does_reaches_the_socket_behind():
    front = Proxy(Address("127.0.0.1", 0), MAX_MESSAGE)
    with contextlib.closing(front), socket.socket(socket.AF_UNIX) as server:
        server.bind(front.endpoint.removeprefix("ipc://"))
        server.listen()
        server.settimeout(WAIT)
        front.start()
        address = ("127.0.0.1", front.port)
        with socket.create_connection(address), socket.create_connection(address) as peer:
            assert asked(front.port, b"GET / HTTP/1.1\r\n\r\n") == b""
            peer.sendall(HANDSHAKE)
            with server.accept()[0] as behind:
                behind.sendall(b"greeting")
                behind.settimeout(WAIT)
                assert behind.recv(1) == HANDSHAKE[:1]
                assert len(front.unknown_hosts()) == 1
        assert front.turned_away == 1


def test_what_a_socket_says_before_it_closes_is_handed_on(monkeypatch):
    """Also when it did not read any more what was said to it meanwhile."""
    monkeypatch.setattr(proxy, "_LAST_WORDS", 0.5)
    front = Proxy(Address("127.0.0.1", 0), MAX_MESSAGE)
    with contextlib.closing(front), socket.socket(socket.AF_UNIX) as server:
        server.bind(front.endpoint.removeprefix("ipc://"))
        server.listen()
        server.settimeout(WAIT)
        front.start()
        with socket.create_connection(("127.0.0.1", front.port)) as peer:
            peer.settimeout(WAIT)
            peer.sendall(HANDSHAKE)
            behind, _ = server.accept()
            behind.sendall(b"greeting")
            assert peer.recv(100) == b"greeting"
            assert behind.recv(1) == HANDSHAKE[:1]
            behind.sendall(b"goodbye")
            peer.sendall(frame(b"a heartbeat"))
            behind.close()
            assert peer.recv(100) == b"goodbye"
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(100) == b""


def test_a_taken_port_is_said_and_nothing_is_left_behind():
    with proxied() as (front, _):
        folder = os.path.dirname(front.endpoint.removeprefix("ipc://"))
        assert os.stat(folder).st_mode & 0o077 == 0
        with pytest.raises(SottoError, match="address already in use"):
            Proxy(Address("127.0.0.1", front.port), MAX_MESSAGE)
    assert not os.path.exists(folder)


# One with keys that lets its caller's in, and may open so many files; says at the end how many
# connections it has turned away.
SECURED = """
import resource, sys
from stream.link.authentication import Security
from stream.link.events import Offer
from stream.link.keys import KeyPair
from stream.link.peers import KnownPeers
from stream.link.listener import Listener
resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))
ours = Security(KeyPair(*KEYS), peer_key=CALLER, peers=KnownPeers("/nonexistent/peers"))
host = Listener("127.0.0.1:0", Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), ours)
host.start()
print(host.port, flush=True)
sys.stdin.readline()
print(host.link().strangers, host.link().reconnections, flush=True)
host.close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_strangers_take_no_descriptors_of_a_listener_with_keys():
    """Far more connections than it may have files: the call goes on, and another comes about."""
    most, count = 280, 400
    host, guest = generate(), generate()
    program = SECURED.replace("MOST", str(most)).replace("CALLER", repr(guest.public))
    program = program.replace("KEYS", repr((host.public, host.secret)))
    greeting = GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0"))
    ours = Security(guest, peer_key=host.public)
    with listener(program) as (process, port), contextlib.ExitStack() as stack:
        caller = Caller("127.0.0.1", port, OFFER, ours)
        stack.callback(caller.close)
        caller.start()
        reason_of(caller, CallState.TALKING)
        for _ in range(count):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT))
            peer.sendall(greeting)
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < most
        events = caller.events(3.0)
        assert not any(isinstance(event, StateChanged) for event in events)
        assert caller.link().reconnections == 0
        caller.close()
        assert gets_through(port, ours)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        turned_away, reconnections = map(int, process.stdout.readline().split())
        assert turned_away >= count - proxy.CONNECTIONS and reconnections == 0


# A listener in a process of its own, so that its memory is its own; says its port and, at the end,
# by how many megabytes it has grown.
LISTENER = """
import sys
from stream.link.authentication import Security
from stream.link.events import Offer
from stream.link.listener import Listener
host = Listener("127.0.0.1:0", Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security(insecure=True))
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


def gets_through(port: int, security: Security = OPEN) -> bool:
    """Whether a call comes about."""
    caller = Caller("127.0.0.1", port, OFFER, security)
    caller.start()
    try:
        reason_of(caller, CallState.TALKING)
    finally:
        caller.close()
    return True


# One that may open a few files more than it has open, and is then out of descriptors.
POOR = """
import os, resource, sys
from stream.link.authentication import Security
from stream.link.events import Offer
from stream.link.listener import Listener
host = Listener("127.0.0.1:0", Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security())
host.start()
most = len(os.listdir("/proc/self/fd")) + 13
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
print(host.port, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_call_goes_through_after_unknown_peers_took_every_descriptor():
    with listener(POOR) as (process, port):
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            deadline = time.monotonic() + WAIT
            while len(os.listdir(f"/proc/{process.pid}/fd")) < before + 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert gets_through(port)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("endless", [b"", b"x" * 200], ids=["empty parts", "parts"])
def test_a_message_without_end_takes_no_memory_and_a_call_goes_through(endless):
    part = frame(endless, flags=1)
    block = part * (65_536 // len(part))
    attempts = 0
    with listener(LISTENER) as (process, port):
        begun = time.monotonic()
        while attempts < 3 or time.monotonic() < begun + 2.0:
            attempts += 1
            assert time.monotonic() < begun + WAIT
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), WAIT) as peer,
            ):
                peer.sendall(HANDSHAKE)
                while time.monotonic() < begun + WAIT:  # it is cut off long before
                    peer.sendall(block)
        assert gets_through(port)
        out, _ = process.communicate("\n", timeout=WAIT)
    grown, turned_away = out.split()
    assert float(grown) < 10.0  # without a proxy: about 80 MB a second
    assert int(turned_away) >= 3
