"""Both ends of a connection on loopback TCP: handshake, clocks, strangers, and bad networks."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import zmq

from codec.errors import BadInput, SottoError
from codec.packet import MAX_PACKET
from stream.bench.rig import hosts
from stream.bench.rig.hosts import TwoHosts
from stream.link import keys, wire
from stream.link.address import Address, is_loopback, look_up, parse_address
from stream.link.events import CallState, EventQueue
from stream.link.impairment import Impaired, parse_impairment
from stream.link.session import STALE
from stream.link.transport import (
    AudioArrived,
    Joined,
    Left,
    Notice,
    Offer,
    PresetChanged,
    Security,
    StateChanged,
    dial,
    listen,
)

OPEN = Security()
MODEL = "9f3c0a1b2c3d4e5f"
HOST = Offer(MODEL, "2k", "Ann")
GUEST = Offer(MODEL, "1k2", "Bob")
WAIT = 8.0  # seconds anything may take on a busy machine


class Ear:
    """Collects an endpoint's events."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.heard = []

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


@pytest.fixture
def ends():
    """start(endpoint) -> Ear; everything is closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(endpoint):
            stack.callback(endpoint.close)
            endpoint.start()
            return Ear(endpoint)

        yield start


def measured(*endpoints):
    """Wait until the ends know each other's clocks."""
    deadline = time.monotonic() + WAIT
    while any(end.link().round_trip is None for end in endpoints):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def audio_of(ear):
    return [event for event in ear.heard if isinstance(event, AudioArrived)]


# --- the call -------------------------------------------------------------------------------------


def test_a_call(ends):
    """Handshake, both voices, capture times in each other's clocks, goodbye."""
    host = ends(listen("127.0.0.1:0", HOST, OPEN, clock=lambda: time.monotonic() + 5000.0))
    host.state(CallState.WAITING)
    assert not host.endpoint.send(b"nobody", 0.0)
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    assert guest.joined() == Joined(0, "Ann", "1k2", "")  # the caller's preset is adopted
    assert host.joined() == Joined(1, "Bob", "1k2", "")
    measured(host.endpoint, guest.endpoint)
    now = time.monotonic()
    assert guest.endpoint.send(b"from the guest", now - 0.5)
    assert host.endpoint.send(b"from the host", now + 5000.0 - 0.25)
    heard = host.audio(b"from the guest")
    assert abs(heard.captured - (now + 5000.0 - 0.5)) < 0.2
    assert heard.captured < heard.arrived
    assert abs(guest.audio(b"from the host").captured - (now - 0.25)) < 0.2
    assert 0.0 <= guest.endpoint.one_way(0) < 0.5
    assert 0.0 <= host.endpoint.one_way(1) < 0.5
    assert guest.endpoint.one_way(9) is None
    assert min(*guest.endpoint.wire_bytes(), *host.endpoint.wire_bytes()) > 60
    guest.endpoint.announce_preset("3k6")
    host.until(lambda e: isinstance(e, Notice) and "Bob now uses 3k6" in e.text)
    guest.endpoint.close("tea is ready")
    assert host.until(lambda e: isinstance(e, Left)) == Left(1, "tea is ready")
    guest.state(CallState.ENDED)
    host.forget()
    again = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    again.state(CallState.TALKING)
    host.endpoint.close("good night")
    assert again.until(lambda e: isinstance(e, Left)) == Left(0, "good night")
    assert again.state(CallState.ENDED).reason == "good night"
    assert guest.endpoint.link().strangers == host.endpoint.link().strangers == 0


def test_clocks_may_be_negative(ends):
    def clock():
        return time.monotonic() - 1e7

    host = ends(listen("127.0.0.1:0", HOST, OPEN, room=True, clock=clock))
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN, clock=clock))
    guest.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    captured = clock() - 0.5
    assert guest.endpoint.send(b"packet", captured)
    assert host.audio(b"packet").captured == pytest.approx(captured, abs=0.2)


@pytest.mark.parametrize("fault", ["raises", "is no number"])
@pytest.mark.parametrize("faulty", ["listener", "caller"])
def test_an_error_of_our_own_is_reported_on_both_sides(ends, faulty, fault):
    broken = threading.Event()

    def clock():
        if not broken.is_set():
            return time.monotonic()
        if fault == "raises":
            raise RuntimeError("the clock\nhas stopped")
        return float("nan")

    clocks = {"listener": time.monotonic, "caller": time.monotonic, faulty: clock}
    host = ends(listen("127.0.0.1:0", HOST, OPEN, clock=clocks["listener"]))
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN, clock=clocks["caller"]))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    ours, theirs = (host, guest) if faulty == "listener" else (guest, host)
    broken.set()
    reason = ours.state(CallState.FAILED).reason
    assert reason.startswith("internal error: ")
    assert fault != "raises" or reason == "internal error: RuntimeError: the clock has stopped"
    assert theirs.until(lambda e: isinstance(e, Left)).reason == reason
    assert not ours.endpoint.send(b"packet", 0.0)


def test_refusals_have_reasons(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    other = ends(dial("127.0.0.1", port, replace(GUEST, model_id="0" * 16), OPEN))
    assert "model is 9f3c0a1b2c3d4e5f" in other.state(CallState.REFUSED).reason
    ends(dial("127.0.0.1", port, GUEST, OPEN)).state(CallState.TALKING)
    third = ends(dial("localhost", port, GUEST, OPEN))
    assert third.state(CallState.REFUSED).reason == "the listener is in another call"
    assert not third.endpoint.send(b"x", 0.0)
    third.endpoint._thread.join(WAIT)
    assert not third.endpoint._thread.is_alive()


def test_a_caller_of_another_version_is_told(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    with raw_dealer(host.endpoint.port) as dealer:
        hello = bytearray(wire.encode(wire.Hello(MODEL, "2k", "", False, bytes(8), 1)))
        hello[1] = 7
        dealer.send(reseal(hello))
        assert dealer.poll(int(1000 * WAIT))
        _, refusal = wire.decode(dealer.recv())
    assert isinstance(refusal, wire.Refuse)
    assert refusal.code is wire.Refusal.WRONG_VERSION
    assert "version 7" in refusal.reason


def test_nobody_there(ends):
    with contextlib.closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        caller = ends(dial("127.0.0.1", reserved.getsockname()[1], GUEST, OPEN, give_up=0.6))
        assert "nobody answers" in caller.state(CallState.FAILED).reason


def test_a_listener_may_start_after_the_caller(ends):
    with contextlib.closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    caller = ends(dial("127.0.0.1", port, GUEST, OPEN))
    time.sleep(0.5)
    ends(listen(f"127.0.0.1:{port}", HOST, OPEN))
    caller.state(CallState.TALKING)


def test_something_else_answers(ends):
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    other, _ = server.accept()
                    other.send(b"SSH-2.0-OpenSSH_9.2\r\n" * 4)
                    other.close()

        threading.Thread(target=greet, daemon=True).start()
        caller = ends(dial("127.0.0.1", server.getsockname()[1], GUEST, OPEN))
        assert "protocol" in caller.state(CallState.REFUSED).reason
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("first", ["damaged", "meaningless"])
def test_after_an_answer_that_is_none_the_caller_dials_again(ends, first):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        welcome = wire.Welcome(1, b"instance", MODEL, "2k", "Ann", False)
        answer = bytearray(wire.encode(welcome, 5))
        if first == "damaged":
            answer[7] ^= 1
        else:
            answer[2:6] = bytes(4)
            answer = bytearray(reseal(answer))
        guest = ends(dial("127.0.0.1", port, GUEST, OPEN))
        for said in (bytes(answer), wire.encode(welcome, 5)):
            assert router.poll(int(1000 * WAIT))
            route, hello = router.recv_multipart()
            router.send_multipart([route, said])
        guest.state(CallState.TALKING)
        assert isinstance(said_last := wire.decode(hello)[1], wire.Hello)
        assert said_last.attempt == 2
        assert [e.state for e in guest.heard if isinstance(e, StateChanged)] == [
            CallState.CONNECTING,
            CallState.TALKING,
        ]


def test_an_answer_of_another_version_ends_the_call(ends):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        guest = ends(dial("127.0.0.1", port, GUEST, OPEN))
        assert router.poll(int(1000 * WAIT))
        answer = bytearray(wire.encode(wire.Welcome(1, bytes(8), MODEL, "2k", "Ann", False), 5))
        answer[1] = 7
        router.send_multipart([router.recv_multipart()[0], reseal(answer)])
        assert "version 7" in guest.state(CallState.REFUSED).reason


def test_the_port_is_taken(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    second = listen(f"127.0.0.1:{host.endpoint.port}", HOST, OPEN)
    with pytest.raises(SottoError, match="address already in use"):
        second.start()
    second.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host", Address("host", 4747)),
        ("host:1", Address("host", 1)),
        (":5", Address("*", 5)),
        ("[::1]:5", Address("::1", 5)),
        ("::1", Address("::1", 4747)),
        ("[::1]", Address("::1", 4747)),
        ("*", Address("*", 4747)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["h:", "h:x", "h:70000", "[::1", "[::1]5", "a b", "h:-1", "x" * 300]
)
def test_what_is_no_address(text):
    with pytest.raises(BadInput):
        parse_address(text)


def test_loopback():
    assert all(is_loopback(address) for address in look_up(Address("localhost", 1)))
    assert not is_loopback(Address("*", 1))
    with pytest.raises(BadInput, match="cannot find the host"):
        look_up(Address("nowhere.invalid", 1))


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "*:0"])
def test_without_keys_only_loopback(bind):
    endpoint = listen(bind, HOST, OPEN)
    with pytest.raises(SottoError, match="--insecure"):
        endpoint.start()
    endpoint.close()
    insecure = listen(bind, HOST, Security(insecure=True))
    insecure.start()
    insecure.close()
    caller = dial("192.0.2.1", 4747, GUEST, OPEN)
    with pytest.raises(SottoError, match="--insecure"):
        caller.start()


@pytest.fixture
def people(tmp_path):
    """Security of the host and the guest, who do not know each other yet."""
    return tuple(
        Security(keys.generate(), keys.KnownPeers(tmp_path / name)) for name in ("host", "guest")
    )


def test_a_secured_call(ends, people):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    guest_side.known.add("127.0.0.1", host_side.keys.public)
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    assert guest.joined().fingerprint == host_side.keys.fingerprint
    assert host.joined().fingerprint == guest_side.keys.fingerprint
    assert host.endpoint.send(b"secret", time.monotonic())
    guest.audio(b"secret")
    assert guest.endpoint.link().secured
    assert guest.endpoint.link().own_fingerprint == guest_side.keys.fingerprint


@pytest.mark.parametrize("secured", [False, True])
def test_the_longest_packet_goes_both_ways(ends, people, secured):
    host_side, guest_side = people
    if not secured:
        host_side = guest_side = OPEN
    else:
        host_side.known.add("bob", guest_side.keys.public)
        guest_side.known.add("127.0.0.1", host_side.keys.public)
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    packet = bytes(range(256)) * 4 + b"longest!"
    assert len(packet) == MAX_PACKET
    for one, other in ((host, guest), (guest, host)):
        one.state(CallState.TALKING)
        assert one.endpoint.send(packet, time.monotonic())
        other.audio(packet)


def test_an_unknown_key_is_reported_on_both_sides_within_two_seconds(ends, people):
    host_side, guest_side = people
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    guest = ends(
        dial(
            "127.0.0.1",
            host.endpoint.port,
            GUEST,
            replace(guest_side, peer_key=host_side.keys.public),
        )
    )
    shown = guest_side.keys.fingerprint
    assert f"does not know our key {shown}" in guest.state(CallState.REFUSED, 2.0).reason
    host.until(lambda e: isinstance(e, Notice) and shown in e.text, 2.0)
    assert not any(isinstance(event, Joined) for event in host.heard)


def test_a_listener_with_another_key_is_reported_on_both_sides(ends, people):
    host_side, guest_side = people
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    expected = keys.generate().public
    guest = ends(
        dial("127.0.0.1", host.endpoint.port, GUEST, replace(guest_side, peer_key=expected))
    )
    reason = guest.state(CallState.REFUSED, 2.0).reason
    assert "not the expected one" in reason
    assert keys.fingerprint(expected) in reason
    host.until(lambda e: isinstance(e, Notice) and "another key" in e.text, 2.0)


def test_a_caller_without_keys_is_not_let_in(ends, people):
    host = ends(listen("127.0.0.1:0", HOST, people[0]))
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    assert "key" in guest.state(CallState.REFUSED).reason
    assert not any(isinstance(event, Joined) for event in host.endpoint.events(0.1))


def test_trust_on_first_use(ends, people):
    host_side, guest_side = (replace(side, trust_new=True) for side in people)
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    port = host.endpoint.port
    guest = ends(dial("127.0.0.1", port, GUEST, guest_side))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    assert guest_side.known.key_of("127.0.0.1", port) == host_side.keys.public
    assert host_side.known.entries() == {"Bob": guest_side.keys.public}
    guest.endpoint.close()
    host.endpoint.close()
    # Known now: no trust needed. And another key at that address is not taken for it.
    ends(listen(f"127.0.0.1:{port}", HOST, people[0]))
    ends(dial("127.0.0.1", port, GUEST, people[1])).state(CallState.TALKING)


def test_a_changed_key_is_refused(ends, people):
    host_side, guest_side = (replace(side, trust_new=True) for side in people)
    host = ends(listen("127.0.0.1:0", HOST, host_side))
    port = host.endpoint.port
    guest_side.known.add(f"127.0.0.1:{port}", keys.generate().public)
    guest = ends(dial("127.0.0.1", port, GUEST, guest_side))
    assert "has changed" in guest.state(CallState.REFUSED).reason


def test_an_unknown_listener_needs_trust(people):
    guest = dial("127.0.0.1", 4747, GUEST, people[1])
    with pytest.raises(SottoError, match="--trust-new"):
        guest.start()


def test_introductions_are_rate_limited_and_hold_only_the_key(ends, people):
    host = ends(listen("127.0.0.1:0", HOST, replace(people[0], trust_new=True)))
    with raw_dealer(host.endpoint.port + 1) as dealer:
        for _ in range(20):
            dealer.send(wire.encode(wire.Who()))
            dealer.send(b"garbage")
        time.sleep(0.7)
        answers = []
        while dealer.poll(50):
            answers.append(dealer.recv())
    assert 1 <= len(answers) <= 5
    assert set(answers) == {wire.encode(wire.Key(keys.key_bytes(people[0].keys.public)))}


# --- strangers, replays ---------------------------------------------------------------------------


@contextlib.contextmanager
def raw_dealer(port):
    """A bare ZeroMQ socket connected to a port."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"tcp://127.0.0.1:{port}")
        yield dealer


def reseal(message):
    import binascii

    return bytes(message[:-4]) + binascii.crc32(message[:-4]).to_bytes(4, "big")


class FakeCaller:
    """Speaks the protocol by hand."""

    def __init__(self, dealer, nonce=b"fakefake", attempt=1):
        self.dealer = dealer
        self.hello = wire.encode(wire.Hello(MODEL, "2k", "fake", False, nonce, attempt))
        dealer.send(self.hello)
        self.session, self.welcome = self.next(wire.Welcome)

    def next(self, kind):
        while True:
            assert self.dealer.poll(int(1000 * WAIT))
            session, message = wire.decode(self.dealer.recv())
            if isinstance(message, kind):
                return session, message

    def say(self, message, session=None):
        self.dealer.send(wire.encode(message, self.session if session is None else session))

    def audio(self, sequence, captured=0, **how):
        packet = b"packet %d" % sequence
        self.say(wire.Audio(self.welcome.party, sequence, captured, packet), **how)


def test_replays_are_rejected_and_reordering_is_not(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    with raw_dealer(host.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        for sequence in (1, 2, 5, 3, 4):
            fake.audio(sequence)
        host.audio(b"packet 4")
        assert [event.packet[-1:] for event in audio_of(host)] == [b"1", b"2", b"5", b"3", b"4"]
        host.forget()
        rejected = 0
        for spoil in (
            lambda: fake.audio(3),  # again
            lambda: fake.audio(6, session=fake.session ^ 1),  # another session
            lambda: fake.say(wire.Audio(0, 7, 0, b"as the host")),
            lambda: fake.say(wire.Audio(3, 7, 0, b"as a third")),
            lambda: dealer.send(b"garbage"),
            lambda: dealer.send(fake.hello),
            lambda: fake.say(wire.Delay(1, 5)),
        ):
            spoil()
            rejected += 1
        fake.audio(200)
        fake.audio(100)  # far behind: too old to tell
        fake.audio(201)
        host.audio(b"packet 201")
        assert len(audio_of(host)) == 2
        assert host.endpoint.rejected(1) == rejected + 1
        assert host.endpoint.rejected(2) == 0


def test_audio_of_long_ago_is_rejected(ends):
    """A capture time far in the past, once the clocks are known."""
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    with raw_dealer(host.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        now = 10**9
        _, beat = fake.next(wire.Heartbeat)
        fake.say(wire.Heartbeat(now, beat.transmit, now))
        fake.audio(1, captured=now - 60 * 10**6)
        fake.audio(2, captured=now + 60 * 10**6)
        fake.audio(3, captured=now - 10**6)
        assert host.audio(b"packet 3").captured is not None
        assert len(audio_of(host)) == 1
        assert host.endpoint.rejected(1) == 2


def test_a_recorded_hello_does_not_take_over_a_call(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    with raw_dealer(port) as dealer, raw_dealer(port) as thief:
        fake = FakeCaller(dealer)
        thief.send(fake.hello)
        assert not thief.poll(300)
        fake.audio(1)
        host.audio(b"packet 1")
        assert host.endpoint.link().strangers == 1
    # With the next attempt number the same nonce is the same caller, back on a new connection.
    with raw_dealer(port) as dealer:
        assert FakeCaller(dealer, attempt=2).welcome.party == fake.welcome.party


def test_a_caller_that_has_gone_before_its_welcome_was_never_there(ends, monkeypatch):
    """Neither a new one, nor one of the call that gives up its new connection at once."""
    send, unsaid = zmq.Socket.send_multipart, []

    def gone(*args, **kwargs):
        unsaid.append(args)
        raise zmq.ZMQError(zmq.EHOSTUNREACH)

    def await_unsaid(count):
        deadline = time.monotonic() + WAIT
        while len(unsaid) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    with raw_dealer(port) as dealer, raw_dealer(port) as again, raw_dealer(port) as back:
        monkeypatch.setattr(zmq.Socket, "send_multipart", gone)
        dealer.send(wire.encode(wire.Hello(MODEL, "2k", "ghost", False, b"ghostly!", 1)))
        await_unsaid(1)
        monkeypatch.setattr(zmq.Socket, "send_multipart", send)
        fake = FakeCaller(again)
        host.state(CallState.TALKING)
        assert [e.name for e in host.heard if isinstance(e, Joined)] == ["fake"]
        assert [e.state for e in host.heard if isinstance(e, StateChanged)] == [
            CallState.WAITING,
            CallState.TALKING,
        ]
        assert host.endpoint.link().strangers == 1
        fake.next(wire.Heartbeat)
        ticked = threading.Event()

        def tick(now):  # sends nothing
            ticked.set()
            return now + 0.1

        monkeypatch.setattr(host.endpoint, "_tick", tick)
        assert ticked.wait(WAIT)
        monkeypatch.setattr(zmq.Socket, "send_multipart", gone)
        back.send(wire.encode(wire.Hello(MODEL, "2k", "fake", False, b"fakefake", 2)))
        await_unsaid(2)
        monkeypatch.setattr(zmq.Socket, "send_multipart", send)
        fake.audio(1)
        host.audio(b"packet 1")
        assert host.endpoint.link().reconnections == 0
        assert len([e for e in host.heard if isinstance(e, Joined)]) == 1


def flood(dealer, stop, what):
    """About 10 000 messages per second until stopped; returns the number sent."""
    sent = 0
    begun = time.monotonic()
    while not stop.is_set():
        for _ in range(50):
            with contextlib.suppress(zmq.Again):
                dealer.send(what[sent % len(what)], zmq.NOBLOCK)
            sent += 1
        time.sleep(max(begun + sent / 10_000 - time.monotonic(), 0.0))
    return sent


def test_a_flood_from_strangers_disturbs_nobody(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    guest = ends(dial("127.0.0.1", port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    host.state(CallState.TALKING)
    stop = threading.Event()
    forged = [
        wire.encode(wire.Audio(1, 10**6, 0, b"forged"), 77),
        os.urandom(200),
        b"",
        wire.encode(wire.Hello(MODEL, "2k", "", False, bytes(8), 1))[:-1],
        b"\1" + os.urandom(60),
        os.urandom(3000),
    ]
    with (
        raw_dealer(port) as dealer,
        contextlib.closing(socket.create_connection(("127.0.0.1", port))) as tcp,
    ):
        thread = threading.Thread(target=flood, args=(dealer, stop, forged[:-1]))
        thread.start()
        for k in range(20):
            with contextlib.suppress(OSError):
                tcp.send(os.urandom(500))
            guest.endpoint.send(b"speech %d" % k, time.monotonic())
            time.sleep(0.1)
        host.audio(b"speech 19")
        stop.set()
        thread.join()
        assert not dealer.poll(100)
    arrived = audio_of(host)
    assert [event.packet for event in arrived] == [b"speech %d" % k for k in range(20)]
    assert max(event.arrived - event.captured for event in arrived) < 1.0
    assert not any(isinstance(e, StateChanged) for e in host.heard[3:])
    assert host.endpoint.link().strangers > 100


# --- bad networks ---------------------------------------------------------------------------------


class Proxy:
    """A TCP relay that can stall (nothing passes, connections stay) or be cut (none come about)."""

    def __init__(self, port):
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.stalled = False
        self.pairs = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.server, selectors.EVENT_READ)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
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
        time.sleep(0.1)
        while self.pairs:
            self.drop(next(iter(self.pairs)))

    def close(self):
        self.stop.set()
        self.thread.join()
        self.server.close()
        while self.pairs:
            self.drop(next(iter(self.pairs)))


@pytest.fixture
def proxied(ends):
    """A call through a proxy."""
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    proxy = Proxy(host.endpoint.port)
    guest = ends(dial("127.0.0.1", proxy.port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    yield host, guest, proxy
    proxy.close()


def test_talking_again_soon_after_the_network_is_back(proxied):
    """Nothing passes for a while; sent audio is not played back late."""
    host, guest, proxy = proxied
    for ear in (host, guest):
        ear.forget()
    proxy.stalled = True
    taken = 0
    for k in range(50):
        taken += guest.endpoint.send(b"stalled %d" % k, time.monotonic())
        time.sleep(0.1)
    assert taken < 50  # it is known by now that nobody hears us
    guest.state(CallState.RECONNECTING)
    host.state(CallState.RECONNECTING)
    for ear in (host, guest):
        ear.forget()
    back = time.monotonic()
    proxy.stalled = False
    guest.state(CallState.TALKING)
    seconds = time.monotonic() - back
    host.state(CallState.TALKING)
    assert seconds < 3.0
    assert host.joined().party == 1
    assert guest.endpoint.send(b"here again", time.monotonic())
    host.audio(b"here again")
    assert guest.endpoint.link().reconnections == 1
    assert not any(isinstance(event, Left) for event in host.heard + guest.heard)


def test_a_short_stall_is_not_followed_by_stale_audio(proxied):
    host, guest, proxy = proxied
    host.forget()
    proxy.stalled = True
    for k in range(18):
        guest.endpoint.send(b"stalled %d" % k, time.monotonic())
        time.sleep(0.1)
    proxy.stalled = False
    guest.endpoint.send(b"fresh", time.monotonic())
    host.audio(b"fresh")
    ages = [e.arrived - e.captured for e in audio_of(host) if e.captured is not None]
    assert max(ages) < STALE + 1.5


def test_presets_are_known_again_after_a_lost_connection(proxied):
    """Changed while nothing passes: both ends know afterwards what the other one uses."""
    host, guest, proxy = proxied
    assert guest.joined().agreed and host.joined().preset == GUEST.preset
    host.endpoint.announce_preset("3k6")
    change = guest.until(lambda e: isinstance(e, PresetChanged))
    assert change.preset == "3k6"
    host.forget()
    guest.forget()
    proxy.cut()
    guest.state(CallState.RECONNECTING)
    guest.endpoint.announce_preset("2k")
    proxy.stalled = False
    assert not host.joined().agreed
    host.until(lambda e: isinstance(e, (Joined, PresetChanged)) and e.preset == "2k")
    back = guest.joined()
    assert (back.party, back.agreed) == (change.party, False)
    assert guest.until(lambda e: isinstance(e, PresetChanged)) == change


def test_a_cut_connection_is_dialled_again_at_once(proxied):
    host, guest, proxy = proxied
    for ear in (host, guest):
        ear.forget()
    proxy.cut()
    guest.state(CallState.RECONNECTING, 2.0)
    proxy.stalled = False
    guest.state(CallState.TALKING, 3.0)
    host.joined()


def test_a_listener_that_is_restarted_is_another_party(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN))
    guest = ends(dial("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    first = guest.joined().party
    guest.forget()
    # Without a goodbye, as if it had crashed.
    host.endpoint._say_bye = lambda reason: None
    host.endpoint.close()
    guest.state(CallState.RECONNECTING)
    ends(listen(f"127.0.0.1:{host.endpoint.port}", HOST, OPEN))
    guest.state(CallState.TALKING)
    assert guest.joined().party != first
    assert guest.until(lambda e: isinstance(e, Left)).party == first


def test_a_lost_caller_has_left_after_a_while(ends):
    host = ends(listen("127.0.0.1:0", HOST, OPEN, patience=0.3))
    with raw_dealer(host.endpoint.port) as dealer:
        FakeCaller(dealer)
        host.state(CallState.TALKING)
    assert host.until(lambda e: isinstance(e, Left)) == Left(1, "the connection was lost")


def test_nothing_grows_when_nobody_listens(proxied):
    """Ten minutes' worth of packets, pushed at once, over a connection that stands still."""
    _, guest, proxy = proxied
    proxy.stalled = True
    deadline = time.monotonic() + WAIT
    sent = refused = 0
    while sent + refused < 1200:
        assert time.monotonic() < deadline
        if guest.endpoint.send(bytes(1032), time.monotonic()):
            sent += 1
        else:
            refused += 1
            time.sleep(0.0005)
    talk = guest.endpoint._talk
    assert talk is None or talk.waiting <= 24
    assert guest.endpoint.unsent() > 0
    assert len(guest.endpoint._outgoing) <= 16


def test_the_event_queue_is_bounded_and_keeps_what_matters():
    queue = EventQueue()
    for k in range(5000):
        queue.put(AudioArrived(0, b"", None, float(k)))
    queue.put(Left(0, "bye"))
    events = queue.take(0.0)
    assert len(events) < 1000
    assert events[-1] == Left(0, "bye")
    assert queue.dropped > 4000
    assert queue.take(0.0) == []


# --- rooms ----------------------------------------------------------------------------------------


def test_a_room(ends):
    """Everybody hears everybody else, once, with capture times in their own clock."""
    offset = 7000.0
    hub = ends(
        listen(
            "127.0.0.1:0",
            HOST,
            OPEN,
            room=True,
            max_parties=3,
            clock=lambda: time.monotonic() + offset,
        )
    )
    port = hub.endpoint.port
    one = ends(dial("127.0.0.1", port, replace(GUEST, name="One"), OPEN))
    assert one.joined().preset == "2k"  # the room's
    two = ends(
        dial(
            "127.0.0.1",
            port,
            replace(GUEST, name="Two"),
            OPEN,
            clock=lambda: time.monotonic() + 2.0 * offset,
        )
    )
    two.until(lambda e: isinstance(e, Joined) and e.name == "One" and e.party == 1)
    one.until(lambda e: isinstance(e, Joined) and e.name == "Two" and e.party == 2)
    measured(hub.endpoint, one.endpoint, two.endpoint)
    late = ends(dial("127.0.0.1", port, GUEST, OPEN))
    assert "the room is full" in late.state(CallState.REFUSED).reason
    deadline = time.monotonic() + WAIT
    while hub.endpoint.one_way(1) is None or hub.endpoint.one_way(2) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    now = time.monotonic()
    one.endpoint.send(b"one", now - 0.1)
    hub.endpoint.send(b"hub", now - 0.2 + offset)
    heard = two.audio(b"one")
    assert heard.party == 1
    assert abs(heard.captured - (now - 0.1 + 2.0 * offset)) < 0.3
    assert two.audio(b"hub").party == 0
    assert abs(one.audio(b"hub").captured - (now - 0.2)) < 0.3
    assert hub.audio(b"one").party == 1
    one.endpoint.announce_preset("1k2")
    two.until(lambda e: isinstance(e, Notice) and "One now uses 1k2" in e.text)
    assert two.until(lambda e: isinstance(e, PresetChanged)) == PresetChanged(1, "1k2")
    assert hub.until(lambda e: isinstance(e, PresetChanged)) == PresetChanged(1, "1k2")
    one.endpoint.close("off")
    assert two.until(lambda e: isinstance(e, Left)) == Left(1, "off")
    assert b"one" not in [event.packet for event in audio_of(one)]
    hub.endpoint.close("closing time")
    two.until(lambda e: e == Left(0, "closing time"))
    two.state(CallState.ENDED)


def test_a_room_takes_eight():
    with pytest.raises(BadInput, match="2 to 8"):
        listen("127.0.0.1:0", HOST, OPEN, room=True, max_parties=9)


# --- a simulated bad network ----------------------------------------------------------------------


class Script:
    """An endpoint that delivers a list of events, then nothing."""

    def __init__(self, events, clock):
        self.script = events
        self.clock = clock

    def events(self, timeout):
        self.clock.now += timeout
        taken, self.script = self.script, []
        return taken


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def impaired(text, count=400):
    clock = Clock()
    arriving = [AudioArrived(0, b"%d" % k, float(k), float(k)) for k in range(count)]
    script: Any = Script([*arriving, Left(0, "")], clock)
    channel = Impaired(script, parse_impairment(text), clock)
    out = []
    while clock.now < count + 20:
        out += channel.events(1.0)
    return channel, [event for event in out if isinstance(event, AudioArrived)]


def test_impairment_loses_delays_and_doubles():
    channel, heard = impaired("loss=0.1,burst=2,jitter=2.5,duplicate=0.05,seed=3")
    again, same = impaired("seed=3,duplicate=0.05,jitter=2.5,burst=2,loss=0.1")
    assert heard == same
    assert channel.lost == again.lost
    assert 15 <= channel.lost <= 80
    assert 5 <= channel.duplicated <= 50
    assert len(heard) == 400 - channel.lost + channel.duplicated
    numbers = [int(event.packet) for event in heard]
    assert numbers != sorted(numbers)
    assert all(0.0 <= event.arrived - event.captured <= 2.5 for event in heard)
    assert [event.arrived for event in heard] == sorted(event.arrived for event in heard)


def test_no_impairment_changes_nothing():
    _, heard = impaired("", 50)
    assert [event.packet for event in heard] == [b"%d" % k for k in range(50)]
    assert all(event.arrived == event.captured for event in heard)


@pytest.mark.parametrize(
    "text",
    [
        "loss",
        "loss=2",
        "loss=x",
        "loss=0.1,loss=0.1",
        "foo=1",
        "jitter=-1",
        "burst=0",
        "loss=nan",
        "loss=0.9,burst=1",
        "jitter=inf",
        "seed=1.5",
    ],
)
def test_impairments_that_make_no_sense(text):
    with pytest.raises(BadInput):
        parse_impairment(text)


# --- a real interface going down ------------------------------------------------------------------

_LISTENING = """
import sys, time
from stream.link.transport import *
end = listen(sys.argv[1], Offer("9f3c0a1b2c3d4e5f", "2k", "Ann"), Security(insecure=True))
end.start()
print("ready", flush=True)
while True:
    end.events(1.0)
"""
_CALLING = """
import sys, time
from stream.link.transport import *
offer = Offer("9f3c0a1b2c3d4e5f", "2k", "Bob")
end = dial(sys.argv[1], DEFAULT_PORT, offer, Security(insecure=True))
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
    if not hosts.available():
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
        assert again - up < 3.0
