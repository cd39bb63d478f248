"""Bytes of IP packets: what the kernel counts, and what is estimated where it does not."""

from __future__ import annotations

import os
import socket
import sys
import threading

import pytest
import zmq

from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.endpoint import descriptor_of
from stream.link.events import CallState
from stream.link.keys import generate
from stream.link.listener import Listener
from stream.link.peers import KnownPeers
from stream.link.traffic import SEGMENT, Estimate, Traffic, counted, envelope
from tests.link_peers import GUEST, HOST, OPEN, await_that, measured

TRIP = 0.02

counting = pytest.mark.skipif(sys.platform != "linux", reason="nobody counts here")


def test_an_envelope_is_that_of_zmtp_and_curve():
    assert envelope(75, secured=False) == 75 + 2
    assert envelope(75, secured=True) == 75 + 35
    assert envelope(222, secured=True) == 222 + 35
    assert envelope(223, secured=True) == 223 + 42  # a frame of more than 255 bytes


def test_the_envelope_is_what_libzmq_writes():
    """Read off the cable: greeting and handshake, then two messages of different length."""
    lengths = (75, 223)
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
        socket.create_server(("127.0.0.1", 0)) as server,
        context.socket(zmq.ROUTER) as router,
    ):
        dealer.linger = router.linger = 0
        public, secret = zmq.curve_keypair()
        router.curve_server, router.curve_secretkey = True, secret
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        dealer.curve_serverkey = public
        dealer.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        near, _ = server.accept()
        far = socket.create_connection(("127.0.0.1", port))
        seen: list[int] = []

        def pump(source, target, note):
            while data := source.recv(65536):
                note(len(data))
                target.sendall(data)

        threads = [
            threading.Thread(target=pump, args=pair, daemon=True)
            for pair in ((near, far, seen.append), (far, near, lambda count: None))
        ]
        for thread in threads:
            thread.start()
        dealer.send(b"hello")
        assert router.poll(60_000)
        router.recv_multipart()
        for length in lengths:
            before = sum(seen)
            dealer.send(bytes(length))
            assert router.poll(60_000)
            router.recv_multipart()
            assert sum(seen) - before == envelope(length, secured=True)
        for end in (near, far):
            end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

        near.close()
        far.close()


def test_estimate_of_packets_that_are_acknowledged_alone():
    one = Estimate()
    for k in range(10):
        one.sent(100, k, TRIP)
        one.received(80, k + 0.5, TRIP)
    assert one.total(20.0, TRIP) == (10 * (100 + 52 + 52), 10 * (80 + 52 + 52))


def test_estimate_of_acknowledgements_that_ride_on_data():
    """They answer within the 40 ms for which TCP waits; we do not."""
    one = Estimate()
    for k in range(10):
        one.sent(100, k, TRIP)
        one.received(80, k + TRIP + 0.03, TRIP)
    assert one.total(20.0, TRIP) == (10 * (100 + 52 + 52), 10 * (80 + 52))
    two = Estimate()
    for k in range(10):
        two.received(100, k, TRIP)
        two.sent(80, k + 0.03, TRIP)
    assert two.total(20.0, TRIP) == (10 * (80 + 52), 10 * (100 + 52 + 52))


def test_estimate_of_what_crosses_on_the_way():
    """What was sent before ours arrived cannot acknowledge it."""
    one = Estimate()
    one.sent(100, 0.0, TRIP)
    one.received(80, 0.5 * TRIP, TRIP)
    assert one.total(1.0, TRIP) == (100 + 52 + 52, 80 + 52 + 52)


def test_estimate_of_long_messages():
    one = Estimate()
    one.sent(SEGMENT + 1, 0.0, TRIP)
    assert one.total(1.0, TRIP) == (SEGMENT + 1 + 2 * 52, 52)


def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


@counting
def test_the_kernel_counts_every_byte_and_segment():
    near, far = connected()
    with near, far:
        before = counted(near.fileno())
        assert before is not None
        near.sendall(b"x" * 100)
        assert len(far.recv(1000)) == 100

        def passed():
            now = counted(near.fileno())
            return now is not None and [b - a for a, b in zip(before, now, strict=True)]

        await_that(lambda: passed() == [152, 52])  # the packet, its acknowledgement
        assert near.fileno() >= 0  # still ours
    assert counted(near.fileno()) is None


@counting
def test_a_descriptor_that_means_something_else_by_now_is_not_asked():
    near, far = connected()
    traffic = Traffic(True, near.fileno())
    near.sendall(b"x" * 100)
    known = traffic.total(0.0, TRIP)
    assert known[0] > 152
    other, another = connected()
    with near, far, other, another:
        os.dup2(other.fileno(), near.fileno())
        another.sendall(b"y" * 10_000)
        assert traffic.total(1.0, TRIP) == known


def test_what_nobody_counts_is_estimated():
    a, b = socket.socketpair()
    with a, b:
        traffic = Traffic(True, a.fileno())
        traffic.sent(75, 0.0, None)
        assert traffic.total(1.0, None) == (75 + 35 + 52, 52)
    assert descriptor_of(zmq.Frame(b"of no connection")) is None


@pytest.mark.parametrize("secured", [True, False])
def test_a_call_says_what_it_takes_of_the_network(ends, tmp_path, secured):
    host_side = guest_side = OPEN
    if secured:
        mine, yours = generate(), generate()
        host_side = Security(mine, KnownPeers(tmp_path / "a"), peer_key=yours.public)
        guest_side = Security(yours, KnownPeers(tmp_path / "b"), peer_key=mine.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    assert host.endpoint.ip_bytes() == guest.endpoint.ip_bytes() == (0, 0)
    for ear in (host, guest):
        ear.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    packet = b"x" * 500
    count = 20
    for _ in range(count):
        guest.say(packet, 0.0)
    least = count * (len(packet) + 8 + (42 if secured else 17))
    await_that(lambda: host.endpoint.ip_bytes()[1] > least)
    await_that(lambda: guest.endpoint.ip_bytes()[0] > least)
    for ear in (host, guest):
        sent, received = ear.endpoint.ip_bytes()
        on_zmq = ear.endpoint.wire_bytes()
        assert sent > on_zmq[0] - 100 and received > on_zmq[1] - 100
    if secured and sys.platform == "linux":
        # Both kernels' counts of one connection, as soon as nothing is under way.
        def agree():
            there = host.endpoint.ip_bytes()[::-1]
            return all(
                abs(a - b) < 700 for a, b in zip(there, guest.endpoint.ip_bytes(), strict=True)
            )

        await_that(agree)
    before = guest.endpoint.ip_bytes()
    host.endpoint.close()
    guest.state(CallState.ENDED)
    assert guest.endpoint.ip_bytes() >= before
