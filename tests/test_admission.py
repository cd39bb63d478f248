"""Unknown peers and replayed packets: what a listener accepts, and from whom."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import zmq

from stream.link import wire
from stream.link.caller import Caller
from stream.link.events import (
    CallState,
    Joined,
    StateChanged,
)
from stream.link.listener import Listener
from stream.link.session import STALE, WINDOW
from tests.link_peers import (
    GUEST,
    HOST,
    MODEL,
    OPEN,
    FakeCaller,
    audio_of,
    await_that,
    measured,
    raw_dealer,
)


def test_replays_are_rejected_and_reordering_is_not(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
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
            lambda: fake.say(wire.KeyWanted(1)),  # of its own voice
        ):
            spoil()
            rejected += 1
        fake.audio(300)
        fake.audio(300 - WINDOW)  # far behind: too old to tell
        fake.audio(301)
        host.audio(b"packet 301")
        assert len(audio_of(host)) == 2
        assert host.endpoint.rejected(1) == rejected + 1
        assert host.endpoint.rejected(2) == 0


def test_audio_of_long_ago_is_rejected(ends):
    """A capture time far in the past, once the clocks are known."""
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    with raw_dealer(host.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        now = wire.stamp_steps(100.0)
        beat = fake.next(wire.Heartbeat)
        fake.say(wire.Heartbeat(now, wire.Echo(beat.transmit, 0)))
        fake.audio(1, now, wire.age_steps(15.5))
        fake.audio(2, now - wire.stamp_steps(60.0), 0)
        fake.audio(4, now + wire.stamp_steps(60.0), 0)
        fake.say(wire.Heartbeat(now))
        fake.audio(3, now, wire.age_steps(1.0))
        assert host.audio(b"packet 3").captured is not None
        assert len(audio_of(host)) == 1
        assert host.endpoint.rejected(1) == 3


def test_a_recorded_hello_does_not_take_over_a_call(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
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
        back = FakeCaller(dealer, attempt=2)
        assert back.welcome.party == fake.welcome.party
        back.audio(40_000)  # 43 minutes later, by its numbers
        host.audio(b"packet 40000")


def test_a_caller_that_has_gone_before_its_welcome_was_never_there(ends, monkeypatch):
    """Neither a new one, nor one of the call that gives up its new connection at once."""
    send, gone = zmq.Socket.send_multipart, []

    def send_but_welcomes(socket, frames, *args, **kwargs):
        if frames[-1][0] == wire.Type.WELCOME:
            gone.append(frames)
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        return send(socket, frames, *args, **kwargs)

    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    with raw_dealer(port) as dealer, raw_dealer(port) as again, raw_dealer(port) as back:
        monkeypatch.setattr(zmq.Socket, "send_multipart", send_but_welcomes)
        dealer.send(wire.encode(wire.Hello(MODEL, "2k", "ghost", False, b"ghostly!", 1)))
        await_that(lambda: len(gone) == 1)
        monkeypatch.setattr(zmq.Socket, "send_multipart", send)
        fake = FakeCaller(again)
        host.state(CallState.TALKING)
        assert [e.name for e in host.heard if isinstance(e, Joined)] == ["fake"]
        assert [e.state for e in host.heard if isinstance(e, StateChanged)] == [
            CallState.WAITING,
            CallState.TALKING,
        ]
        assert host.endpoint.link().strangers == 1
        monkeypatch.setattr(zmq.Socket, "send_multipart", send_but_welcomes)
        back.send(wire.encode(wire.Hello(MODEL, "2k", "fake", False, b"fakefake", 2)))
        await_that(lambda: len(gone) == 2)
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


def test_a_flood_from_unknown_peers_disturbs_nobody(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    port = host.endpoint.port
    guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    guest.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)
    host.state(CallState.TALKING)
    stop = threading.Event()
    forged = [
        wire.Talk(77).encode(wire.Audio(1, 10**4, 0, b"forged")),
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
            guest.say(b"speech %d" % k, time.monotonic())
            time.sleep(0.1)
        host.audio(b"speech 19")
        stop.set()
        thread.join()
        assert not dealer.poll(100)
    arrived = audio_of(host)
    assert [event.packet for event in arrived] == [b"speech %d" % k for k in range(20)]
    assert max(event.arrived - event.captured for event in arrived) < STALE
    assert not any(isinstance(e, StateChanged) for e in host.heard[4:])
    assert host.endpoint.link().strangers > 100
