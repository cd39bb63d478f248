"""A party that sends more than one voice: bounded, counted, and no harm to what others hear."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest
import zmq

from stream.link import keys, wire
from stream.link.authentication import Security, secure_caller
from stream.link.caller import Caller
from stream.link.events import AudioArrived, CallState, Joined, Left, Notice, PresetChanged
from stream.link.listener import Listener
from stream.link.peers import KnownPeers
from stream.link.session import (
    BURST,
    MESSAGE_BURST,
    MESSAGE_RATE,
    NEWS_BURST,
    NEWS_SECONDS,
    RATE,
    STALE,
)
from stream.link.wire import STEP_SECONDS
from tests.link_peers import (
    GUEST,
    HOST,
    MODEL,
    OPEN,
    WAIT,
    FakeCaller,
    audio_of,
    await_that,
    fake_listener,
    measured,
    raw_dealer,
)

SPEECH = 40  # packets of the shortest kind that somebody else says meanwhile


def attack(fake, stop, rate, steps):
    """Session packets of so many steps, `rate` a second, until stopped; returns how many."""
    head = bytes([steps.bit_length() - 1 << 1, 0])
    sent, begun = 0, time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(zmq.Again):
            packet = head + b"attack"
            data = fake.talk.encode(wire.Audio(fake.welcome.party, sent * steps % 65536, 0, packet))
            fake.dealer.send(data, zmq.NOBLOCK)
        sent += 1
        if sent % 10 == 0:
            time.sleep(max(begun + sent / rate - time.monotonic(), 0.0))
    return sent


def steps_of(events, party):
    return sum(
        wire.packet_steps(event.packet)
        for event in events
        if isinstance(event, AudioArrived) and event.party == party
    )


@pytest.mark.parametrize(
    ("rate", "steps"), [(100, 1), (100, 16), (8000, 1)], ids=["often", "long", "as fast as it can"]
)
def test_a_member_that_sends_too_much_is_heard_as_one_voice_and_others_without_a_gap(
    ends, rate, steps
):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    port = hub.endpoint.port
    one, two = (
        ends(Caller("127.0.0.1", port, replace(GUEST, name=name), OPEN)) for name in ("one", "two")
    )
    for ear in (one, two):
        ear.state(CallState.TALKING)
    measured(hub.endpoint, one.endpoint, two.endpoint)
    speaker = one.until(lambda e: isinstance(e, Joined) and e.name == "two").party
    stop = threading.Event()
    with raw_dealer(port) as dealer:
        fake = FakeCaller(dealer)
        hostile = fake.welcome.party
        began = time.monotonic()
        thread = threading.Thread(target=attack, args=(fake, stop, rate, steps))
        thread.start()
        for k in range(SPEECH):
            two.say(b"\0 speech %d" % k, time.monotonic())
            time.sleep(STEP_SECONDS)
        one.audio(b"\0 speech %d" % (SPEECH - 1))
        stop.set()
        thread.join()
        hub.audio(b"\0 speech %d" % (SPEECH - 1))
        most = BURST + RATE * (time.monotonic() - began)
    said = [b"\0 speech %d" % k for k in range(SPEECH)]
    for ear in (one, hub):
        heard = [event for event in audio_of(ear) if event.packet.startswith(b"\0 speech")]
        assert [event.packet for event in heard] == said
        assert max(event.arrived - event.captured for event in heard) < STALE
        assert 0 < steps_of(ear.heard, hostile) <= most
    assert hub.endpoint.rejected(hostile) > 10
    assert hub.endpoint.rejected(speaker) == 0


def test_a_listener_that_sends_too_much_is_heard_as_one_voice(ends):
    with fake_listener(ends) as (guest, say):
        began = time.monotonic()
        count = 500
        for number in range(count):
            audio = wire.Audio(wire.HUB, number, 0, b"\0 packet")
            say(audio)
        party = guest.joined().party
        while len(audio_of(guest)) + guest.endpoint.rejected(party) < count:
            guest.heard += guest.endpoint.events(0.05)
            assert time.monotonic() - began < WAIT
        assert BURST <= len(audio_of(guest)) <= BURST + RATE * (time.monotonic() - began)


def test_a_member_that_changes_its_preset_without_end_is_passed_on_now_and_then(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    port = hub.endpoint.port
    one = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    one.state(CallState.TALKING)
    with raw_dealer(port) as dealer:
        fake = FakeCaller(dealer)
        began = time.monotonic()
        for k in range(400):
            fake.say(wire.Preset(fake.welcome.party, ("1k2", "2k")[k % 2]))
        fake.audio(1, packet=b"\0 the end")
        one.audio(b"\0 the end")
        hub.audio(b"\0 the end")
        most = NEWS_BURST + (time.monotonic() - began) / NEWS_SECONDS
    for ear in (hub, one):
        changes = [e for e in ear.heard if isinstance(e, PresetChanged)]
        assert NEWS_BURST <= len(changes) <= most
    assert hub.endpoint.rejected(fake.welcome.party) == 400 - len(changes)


def test_a_member_that_says_anything_without_end_is_not_read_to_the_end(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        dealer.sndhwm = 0
        count = 2 * int(MESSAGE_BURST)
        for k in range(count):
            fake.say(wire.Heartbeat(k))
        began = time.monotonic()
        least = count - MESSAGE_BURST - 50
        while hub.endpoint.rejected(fake.welcome.party) < least - MESSAGE_RATE * (
            time.monotonic() - began
        ):
            assert time.monotonic() - began < WAIT
            time.sleep(0.01)
        fake.audio(1)  # which it is still heard with, some time after
        while not audio_of(hub):
            hub.heard += hub.endpoint.events(0.05)
            assert time.monotonic() - began < WAIT
            fake.audio(1)


def test_a_listener_that_names_others_without_end_is_believed_now_and_then(ends):
    with fake_listener(ends, room=True) as (guest, say):
        began = time.monotonic()
        for _ in range(400):
            for message in (
                wire.PartyJoined(2, wire.NO_KEY, "2k", "nobody"),
                wire.PartyLeft(2, "gone"),
            ):
                say(message)
        audio = wire.Audio(wire.HUB, 1, 0, b"\0 packet")
        say(audio)
        guest.audio(b"\0 packet")
        most = 7 * (NEWS_BURST + (time.monotonic() - began) / NEWS_SECONDS)
        news = [e for e in guest.heard if isinstance(e, (Joined, Left))]
        assert 7 * NEWS_BURST <= len(news) <= most + 1


def test_a_key_that_comes_and_goes_without_end_is_let_in_now_and_then(ends, tmp_path):
    ours, theirs = keys.generate(), keys.generate()
    peers = KnownPeers(tmp_path / "peers")
    peers.add("bob", theirs.public)
    hub = ends(Listener("127.0.0.1:0", HOST, Security(ours, peers), room=True))
    began = time.monotonic()
    refused = tries = 0
    with zmq.Context() as context:
        while refused < 5:
            tries += 1
            assert tries < NEWS_BURST + WAIT
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 500
                secure_caller(dealer, theirs, ours.public)
                dealer.connect(f"tcp://127.0.0.1:{hub.endpoint.port}")
                hello = wire.Hello(MODEL, "2k", "Bob", False, tries.to_bytes(8, "big"), 1)
                dealer.send(wire.encode(hello))
                if not dealer.poll(300):
                    refused += 1
                    continue
                dealer.recv()
                dealer.send(wire.Talk(None).encode(wire.Bye("back soon")))
    hub.heard += hub.endpoint.events(0.2)
    came = [e for e in hub.heard if isinstance(e, Joined)]
    assert len(came) <= NEWS_BURST + (time.monotonic() - began) / NEWS_SECONDS


def test_those_who_are_refused_use_up_nothing_of_the_log_of_those_who_are_there(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    with raw_dealer(hub.endpoint.port) as dealer, raw_dealer(hub.endpoint.port) as other:
        fake = FakeCaller(dealer)
        hello = wire.Hello("0" * 16, "2k", "eve", False, b"12345678", 1)
        for _ in range(30):
            other.send(wire.encode(hello))
        await_that(lambda: hub.endpoint.link().strangers >= 30)
        fake.say(wire.Preset(fake.welcome.party, "1k2"))
        about = hub.until(lambda e: isinstance(e, Notice) and "now uses 1k2" in e.text)
    assert str(fake.welcome.party) in about.kind  # whatever its name is
    assert sum(isinstance(e, Notice) for e in hub.heard) <= 11
