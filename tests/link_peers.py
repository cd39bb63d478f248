"""Shared by the link's tests: offers, an event listener, and a caller driven by hand."""

from __future__ import annotations

import contextlib
import time

import zmq

from stream.link import wire
from stream.link.authentication import Security, secure_caller
from stream.link.caller import Caller
from stream.link.events import (
    AudioArrived,
    Joined,
    Offer,
    StateChanged,
)

OPEN = Security()


MODEL = "9f3c0a1b2c3d4e5f"


HOST = Offer(MODEL, "2k", "Ann")


GUEST = Offer(MODEL, "1k2", "Bob")


WAIT = 60.0  # seconds anything may take on a busy machine


class Ear:
    """Collects an endpoint's events."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.heard = []
        self.steps = 0  # spoken so far

    def say(self, packet, captured, capture=None):
        """Send a packet of one step."""
        self.steps += 1
        return self.endpoint.send(packet, self.steps - 1, captured, capture)

    def until(self, wanted, timeout=WAIT):
        """The first event, past or to come, for which `wanted(event)` holds."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for event in self.heard[seen:]:
                if wanted(event):
                    return event
            seen = len(self.heard)
            if time.monotonic() > deadline:
                raise AssertionError(f"not in time; heard {self.heard}")
            self.heard += self.endpoint.events(0.05)

    def state(self, state, timeout=WAIT):
        return self.until(lambda e: isinstance(e, StateChanged) and e.state is state, timeout)

    def joined(self, timeout=WAIT):
        return self.until(lambda e: isinstance(e, Joined), timeout)

    def audio(self, packet, timeout=WAIT):
        return self.until(lambda e: isinstance(e, AudioArrived) and e.packet == packet, timeout)

    def forget(self):
        self.heard = []


def await_that(condition):
    """Wait until `condition()` holds; fails if that takes too long."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def measured(*endpoints):
    """Wait until the ends know each other's clocks."""
    await_that(lambda: all(end.link().round_trip is not None for end in endpoints))


def audio_of(ear):
    return [event for event in ear.heard if isinstance(event, AudioArrived)]


@contextlib.contextmanager
def raw_dealer(port, keys=None, listener_key=""):
    """A bare ZeroMQ socket connected to a port, by CURVE if it has keys."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        if keys is not None:
            secure_caller(dealer, keys, listener_key)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        yield dealer


def reseal(message):
    import binascii

    return bytes(message[:-4]) + binascii.crc32(message[:-4]).to_bytes(4, "big")


@contextlib.contextmanager
def fake_listener(ends, *, room=False):
    """A caller in talk with a listener driven by hand: its ear, and what says a message to it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.sndhwm = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
        assert router.poll(int(1000 * WAIT))
        route, _ = router.recv_multipart()
        welcome = wire.Welcome(1, b"instance", MODEL, "2k", "Ann", room)
        router.send_multipart([route, wire.encode(welcome, 5)])
        yield guest, lambda message: router.send_multipart([route, wire.Talk(5).encode(message)])


class FakeCaller:
    """Speaks the protocol by hand."""

    def __init__(self, dealer, nonce=b"fakefake", attempt=1):
        self.dealer = dealer
        self.hello = wire.encode(wire.Hello(MODEL, "2k", "fake", False, nonce, attempt))
        dealer.send(self.hello)
        self.session, welcome = wire.decode(self.receive())
        assert isinstance(welcome, wire.Welcome)
        self.welcome = welcome
        self.talk = wire.Talk(self.session)

    def receive(self):
        assert self.dealer.poll(int(1000 * WAIT))
        return self.dealer.recv()

    def next(self, kind):
        while True:
            message = self.talk.decode(self.receive())
            if isinstance(message, kind):
                return message

    def say(self, message, session=None):
        talk = self.talk if session is None else wire.Talk(session)
        self.dealer.send(talk.encode(message))

    def audio(self, number, transmit=0, age=wire.NO_AGE, packet=None, **how):
        packet = b"packet %d" % number if packet is None else packet
        self.say(wire.Audio(self.welcome.party, number, transmit, packet, age), **how)
