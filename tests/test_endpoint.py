"""Listener and caller on loopback TCP: handshake, voices, clocks, rooms, and how calls end."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from codec.errors import BadInput, SottoError
from stream.link import wire
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import (
    FAULT,
    CallState,
    Joined,
    Left,
    Notice,
    PresetChanged,
    StateChanged,
)
from stream.link.listener import Listener
from tests.link_peers import (
    GUEST,
    HOST,
    MODEL,
    OPEN,
    WAIT,
    audio_of,
    await_that,
    measured,
    raw_dealer,
    reseal,
)


def test_a_call(ends):
    """Handshake, both voices, capture times in each other's clocks, goodbye."""
    host = ends(Listener("127.0.0.1:0", HOST, OPEN, clock=lambda: time.monotonic() + 5000.0))
    host.state(CallState.WAITING)
    assert not host.say(b"nobody", 0.0)
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    assert guest.joined() == Joined(0, "Ann", "1k2", "")  # the caller's preset is adopted
    assert host.joined() == Joined(1, "Bob", "1k2", "")
    measured(host.endpoint, guest.endpoint)
    now = time.monotonic()
    assert guest.say(b"from the guest", now - 0.5)
    assert host.say(b"from the host", now + 5000.0 - 0.25)
    heard = host.audio(b"from the guest")
    assert abs(heard.captured - (now + 5000.0 - 0.5)) < 0.2
    assert heard.captured < heard.arrived
    assert abs(guest.audio(b"from the host").captured - (now - 0.25)) < 0.2
    assert 0.0 <= guest.endpoint.one_way(0) < 0.5
    assert 0.0 <= host.endpoint.one_way(1) < 0.5
    assert guest.endpoint.one_way(9) is None
    assert min(*guest.endpoint.wire_bytes(), *host.endpoint.wire_bytes()) > 60
    guest.endpoint.announce_preset("3k6")
    host.until(lambda e: isinstance(e, Notice) and '"Bob" now uses 3k6' in e.text)
    guest.endpoint.close("tea is ready")
    assert host.until(lambda e: isinstance(e, Left)) == Left(1, "tea is ready")
    guest.state(CallState.ENDED)
    host.forget()
    again = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    again.state(CallState.TALKING)
    host.endpoint.close("good night")
    assert again.until(lambda e: isinstance(e, Left)) == Left(0, "good night")
    assert again.state(CallState.ENDED).reason == "good night"
    assert guest.endpoint.link().strangers == host.endpoint.link().strangers == 0


def test_clocks_may_be_negative(ends):
    def clock():
        return time.monotonic() - 1e7

    host = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True, clock=clock))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN, clock=clock))
    guest.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    captured = clock() - 0.5
    assert guest.say(b"packet", captured)
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
    host = ends(Listener("127.0.0.1:0", HOST, OPEN, clock=clocks["listener"]))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN, clock=clocks["caller"]))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    ours, theirs = (host, guest) if faulty == "listener" else (guest, host)
    broken.set()
    reason = ours.state(CallState.FAILED).reason
    assert reason.startswith("internal error: ")
    assert fault != "raises" or reason == "internal error: RuntimeError: the clock has stopped"
    # Of what it is, with paths perhaps, they learn nothing.
    assert theirs.until(lambda e: isinstance(e, Left)).reason == FAULT
    assert not ours.say(b"packet", 0.0)


def test_refusals_have_reasons(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    other = ends(Caller("127.0.0.1", port, replace(GUEST, model_id="0" * 16), OPEN))
    assert "model is 9f3c0a1b2c3d4e5f" in other.state(CallState.REFUSED).reason
    ends(Caller("127.0.0.1", port, GUEST, OPEN)).state(CallState.TALKING)
    before = set(threading.enumerate())
    third = ends(Caller("localhost", port, GUEST, OPEN))
    assert third.state(CallState.REFUSED).reason == "the listener is in another call"
    assert not third.say(b"x", 0.0)
    await_that(lambda: set(threading.enumerate()) <= before)  # its thread has ended


def test_a_caller_of_another_version_is_told(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
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
        caller = ends(Caller("127.0.0.1", reserved.getsockname()[1], GUEST, OPEN, give_up=0.6))
        assert "nobody answers" in caller.endpoint.unreached()
        assert "nobody answers" in caller.state(CallState.FAILED).reason
        assert caller.endpoint.unreached() == ""


def test_a_listener_may_start_after_the_caller(ends):
    with contextlib.closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    caller = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    caller.state(CallState.CONNECTING)
    ends(Listener(f"127.0.0.1:{port}", HOST, OPEN))
    caller.state(CallState.TALKING)


def link_local() -> str:
    """An address of this machine that is known on a link only; skips where there is none."""
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else []:
        number, _, _, kind, _, name = line.split()
        if kind == "20":
            return f"{ipaddress.IPv6Address(int(number, 16))}%{name}"
    pytest.skip("no address that is known on a link only")


def test_a_call_on_a_link(ends):
    host = ends(Listener(f"[{link_local()}]:0", HOST, Security(insecure=True)))
    guest = ends(Caller(link_local(), host.endpoint.port, GUEST, Security(insecure=True)))
    guest.state(CallState.TALKING)


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
        caller = ends(Caller("127.0.0.1", server.getsockname()[1], GUEST, OPEN))
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
        guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
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
        guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
        assert router.poll(int(1000 * WAIT))
        answer = bytearray(wire.encode(wire.Welcome(1, bytes(8), MODEL, "2k", "Ann", False), 5))
        answer[1] = 7
        router.send_multipart([router.recv_multipart()[0], reseal(answer)])
        assert "version 7" in guest.state(CallState.REFUSED).reason


def test_the_port_is_taken(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    second = Listener(f"127.0.0.1:{host.endpoint.port}", HOST, OPEN)
    with pytest.raises(SottoError, match="address already in use"):
        second.start()
    second.close()


def test_a_room(ends):
    """Everybody hears everybody else, once, with capture times in their own clock."""
    offset = 7000.0
    hub = ends(
        Listener(
            "127.0.0.1:0",
            HOST,
            OPEN,
            room=True,
            max_parties=3,
            clock=lambda: time.monotonic() + offset,
        )
    )
    port = hub.endpoint.port
    one = ends(Caller("127.0.0.1", port, replace(GUEST, name="One"), OPEN))
    assert one.joined().preset == "2k"  # the room's
    two = ends(
        Caller(
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
    late = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    assert "the room is full" in late.state(CallState.REFUSED).reason
    await_that(lambda: None not in (hub.endpoint.one_way(1), hub.endpoint.one_way(2)))
    now = time.monotonic()
    one.say(b"one", now - 0.1)
    hub.say(b"hub", now - 0.2 + offset)
    heard = two.audio(b"one")
    assert heard.party == 1
    assert abs(heard.captured - (now - 0.1 + 2.0 * offset)) < 0.3
    assert two.audio(b"hub").party == 0
    assert abs(one.audio(b"hub").captured - (now - 0.2)) < 0.3
    assert hub.audio(b"one").party == 1
    one.endpoint.announce_preset("1k2")
    two.until(lambda e: isinstance(e, Notice) and '"One" now uses 1k2' in e.text)
    assert two.until(lambda e: isinstance(e, PresetChanged)) == PresetChanged(1, "1k2")
    assert hub.until(lambda e: isinstance(e, PresetChanged)) == PresetChanged(1, "1k2")
    one.endpoint.close("off")
    assert two.until(lambda e: isinstance(e, Left)) == Left(1, "off")
    assert b"one" not in [event.packet for event in audio_of(one)]
    hub.endpoint.close("closing time")
    two.until(lambda e: e == Left(0, "closing time"))
    two.state(CallState.ENDED)


class Pausing(Listener):
    """A listener whose I/O thread can be held between what it has read and what it sends."""

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.going = threading.Event()
        self.going.set()
        self.held = threading.Event()

    def _take_requests(self):
        if not self.going.is_set():
            self.held.set()
            assert self.going.wait(WAIT)
        super()._take_requests()


@pytest.mark.parametrize("room", [False, True])
def test_who_hangs_up_while_we_speak_has_left_at_once(ends, room):
    """Sending fails before the goodbye is read: they would be waited for, as if they were lost."""
    host = ends(Pausing("127.0.0.1:0", HOST, OPEN, room=room))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    host.forget()
    host.endpoint.held.clear()
    host.endpoint.going.clear()
    await_that(host.endpoint.held.is_set)
    guest.endpoint.close("good night")
    await_that(lambda: not host.endpoint._proxy._lines)  # the connection has been closed
    assert host.say(b"are you there", 0.0)
    host.endpoint.going.set()
    ended = host.until(lambda e: isinstance(e, (Left, Notice, StateChanged)))
    assert ended == Left(1, "good night")


def test_a_room_takes_eight():
    with pytest.raises(BadInput, match="2 to 8"):
        Listener("127.0.0.1:0", HOST, OPEN, room=True, max_parties=9)
