"""Bad networks: stalled, cut and restarted connections, and an interface that goes down."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import zmq

from stream.bench.rig import hosts
from stream.bench.rig.hosts import TwoHosts
from stream.link import wire
from stream.link.caller import Caller
from stream.link.events import (
    CallState,
    Joined,
    Left,
    PresetChanged,
)
from stream.link.listener import Listener
from tests.link_peers import (
    GUEST,
    HOST,
    MODEL,
    OPEN,
    WAIT,
    FakeCaller,
    audio_of,
    await_that,
    measured,
    raw_dealer,
)

SOON = 15.0  # seconds; two or three of them on a machine that is not busy


class Relay:
    """A TCP relay that can stall (nothing passes, connections stay) or be cut (none come about)."""

    def __init__(self, port):
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.stalled = False
        self.cutting = threading.Event()
        self.pairs = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.server, selectors.EVENT_READ)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            if self.cutting.is_set():
                while self.pairs:
                    self.drop(next(iter(self.pairs)))
                self.cutting.clear()
            for key, _ in self.selector.select(0.02):
                if self.stalled:
                    time.sleep(0.01)
                elif key.fileobj is self.server:
                    self.accept()
                elif key.fileobj in self.pairs:  # else dropped with its partner just now
                    self.relay(key.fileobj)

    def accept(self):
        here, _ = self.server.accept()
        there = socket.create_connection(("127.0.0.1", self.target))
        for a, b in ((here, there), (there, here)):
            self.pairs[a] = b
            self.selector.register(a, selectors.EVENT_READ)

    def relay(self, source):
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if data:
            with contextlib.suppress(OSError):
                self.pairs[source].sendall(data)
        else:
            self.drop(source)

    def drop(self, source):
        for end in (source, self.pairs.pop(source)):
            self.pairs.pop(end, None)
            self.selector.unregister(end)
            end.close()

    def cut(self):
        self.stalled = True
        self.cutting.set()
        await_that(lambda: not self.cutting.is_set())

    def close(self):
        self.stop.set()
        self.thread.join()
        self.server.close()
        while self.pairs:
            self.drop(next(iter(self.pairs)))


@pytest.fixture
def relayed(ends):
    """A call through a relay."""
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    relay = Relay(host.endpoint.port)
    guest = ends(Caller("127.0.0.1", relay.port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    yield host, guest, relay
    relay.close()


def test_talking_again_soon_after_the_network_is_back(relayed):
    """Nothing passes for a while; sent audio is not played back late."""
    host, guest, relay = relayed
    for ear in (host, guest):
        ear.forget()
    relay.stalled = True
    guest.say(b"stalled", time.monotonic())
    guest.state(CallState.RECONNECTING)
    assert not guest.say(b"nobody hears us", time.monotonic())
    host.state(CallState.RECONNECTING)
    for ear in (host, guest):
        ear.forget()
    back = time.monotonic()
    relay.stalled = False
    guest.state(CallState.TALKING)
    seconds = time.monotonic() - back
    host.state(CallState.TALKING)
    assert seconds < SOON
    assert host.joined().party == 1
    assert guest.say(b"here again", time.monotonic())
    host.audio(b"here again")
    assert guest.endpoint.link().reconnections == 1
    assert not any(isinstance(event, Left) for event in host.heard + guest.heard)


def test_what_a_short_stall_held_back_is_heard(relayed):
    """All of it: no more than one voice, though it comes at once."""
    host, guest, relay = relayed
    count = 10
    relay.stalled = True
    for k in range(count):
        guest.say(b"\0 packet %d" % k, time.monotonic())
        time.sleep(0.064)
    relay.stalled = False
    guest.say(b"\0 the last", time.monotonic())
    host.audio(b"\0 the last")
    said = [b"\0 packet %d" % k for k in range(count)] + [b"\0 the last"]
    assert [event.packet for event in audio_of(host)] == said
    assert host.endpoint.rejected(1) == 0


def test_presets_are_known_again_after_a_lost_connection(relayed):
    """Changed while nothing passes: both ends know afterwards what the other one uses."""
    host, guest, relay = relayed
    assert guest.joined().agreed and host.joined().preset == GUEST.preset
    host.endpoint.announce_preset("3k6")
    change = guest.until(lambda e: isinstance(e, PresetChanged))
    assert change.preset == "3k6"
    host.forget()
    guest.forget()
    relay.cut()
    guest.state(CallState.RECONNECTING)
    guest.endpoint.announce_preset("2k")
    relay.stalled = False
    assert not host.joined().agreed
    host.until(lambda e: isinstance(e, (Joined, PresetChanged)) and e.preset == "2k")
    back = guest.joined()
    assert (back.party, back.agreed) == (change.party, False)
    assert guest.until(lambda e: isinstance(e, PresetChanged)) == change


def test_a_cut_connection_is_dialled_again_at_once(relayed):
    host, guest, relay = relayed
    for ear in (host, guest):
        ear.forget()
    relay.cut()
    # Known at once: it was not the silence that told.
    assert guest.state(CallState.RECONNECTING).reason == "the connection was closed"
    relay.stalled = False
    guest.state(CallState.TALKING)
    host.joined()


def test_a_listener_that_is_restarted_is_another_party(ends):
    def answer(instance, port=0):
        """Welcome one caller, and be gone without a goodbye."""
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 1000
            if port:
                router.bind(f"tcp://127.0.0.1:{port}")
            guest = yield port or router.bind_to_random_port("tcp://127.0.0.1")
            assert router.poll(int(1000 * WAIT))
            welcome = wire.Welcome(1, instance, MODEL, "2k", "Ann", False)
            router.send_multipart([router.recv_multipart()[0], wire.encode(welcome, 5)])
            guest.state(CallState.TALKING)
        yield

    first = answer(b"one time")
    port = next(first)
    guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    first.send(guest)
    party = guest.joined().party
    guest.state(CallState.RECONNECTING)
    guest.forget()
    second = answer(b"and next", port)
    next(second)
    second.send(guest)
    assert guest.joined().party != party
    assert guest.until(lambda e: isinstance(e, Left)) == Left(party, "the listener was restarted")


def test_a_listener_that_keeps_letting_in_and_hanging_up_is_dialled_seldom(ends):
    """Each time as if it had been started again; after 16 times at once, once a second."""
    port, begun = 0, time.monotonic()
    for k in range(19):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 1000
            if port:
                router.bind(f"tcp://127.0.0.1:{port}")
            else:
                port = router.bind_to_random_port("tcp://127.0.0.1")
                guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
            assert router.poll(int(1000 * WAIT))
            welcome = wire.Welcome(1, b"again%03d" % k, MODEL, "2k", "Ann", False)
            router.send_multipart([router.recv_multipart()[0], wire.encode(welcome, 5)])
            guest.state(CallState.TALKING)
            guest.forget()
    assert time.monotonic() - begun > 1.5


def test_a_lost_caller_has_left_after_a_while(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN, patience=0.3))
    with raw_dealer(host.endpoint.port) as dealer:
        FakeCaller(dealer)
        host.state(CallState.TALKING)
    assert host.until(lambda e: isinstance(e, Left)) == Left(1, "the connection was lost")


def test_nothing_grows_when_nobody_listens(relayed):
    """What is sent over a connection that stands still is refused or dropped, and counted."""
    _, guest, relay = relayed
    relay.stalled = True
    taken = 0

    def dropped():
        nonlocal taken
        taken += guest.say(bytes(wire.MAX_PACKET), time.monotonic())
        return guest.endpoint.link().dropped

    await_that(dropped)
    guest.state(CallState.RECONNECTING)
    assert 0 < guest.endpoint.link().dropped <= taken


_LISTENING = """
import sys, time
from stream.link.address import DEFAULT_PORT
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import Offer, StateChanged
from stream.link.listener import Listener
end = Listener(sys.argv[1], Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security(insecure=True))
end.start()
print("ready", flush=True)
while True:
    end.events(1.0)
"""


_CALLING = """
import sys, time
from stream.link.address import DEFAULT_PORT
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import Offer, StateChanged
from stream.link.listener import Listener
offer = Offer("9f3c0a1b2c3d4e5f", "2k", "Bob")
end = Caller(sys.argv[1], DEFAULT_PORT, offer, Security(insecure=True))
end.start()
while True:
    for event in end.events(0.05):
        if isinstance(event, StateChanged):
            print(event.state.name, time.monotonic(), flush=True)
"""


@pytest.mark.parametrize(
    ("outage", "side"),
    [(4.0, "a"), pytest.param(10.0, "b", marks=pytest.mark.slow)],
)
def test_an_interface_goes_down_and_comes_back(outage, side):
    if hosts.unavailable() is not None:
        pytest.skip(hosts.unavailable() or "")
    with TwoHosts() as two:
        said: dict[str, Any] = {}
        programs: tuple[tuple[hosts.Host, str], ...] = (("a", _LISTENING), ("b", _CALLING))
        for end, code in programs:
            argv = [sys.executable, "-c", code, two.addresses["a"]]
            said[end] = two.run(end, argv, stdout=subprocess.PIPE).stdout
            if end == "a":
                assert said[end].readline() == b"ready\n"

        def next_state():
            word, when = said["b"].readline().decode().split()
            return word, float(when)

        assert next_state()[0] == "CONNECTING"
        assert next_state()[0] == "TALKING"
        two.link_down(side)
        down = time.monotonic()
        assert next_state()[0] == "RECONNECTING"
        time.sleep(max(down + outage - time.monotonic(), 0.0))
        up = time.monotonic()
        two.link_up(side)
        word, again = next_state()
        assert word == "TALKING"
        assert again - up < SOON
