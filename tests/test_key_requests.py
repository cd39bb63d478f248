"""Requests for key packets: who is asked by whom, and how often."""

from __future__ import annotations

import time
from dataclasses import replace

from stream.link import wire
from stream.link.caller import Caller
from stream.link.endpoint import KEY_PAUSE
from stream.link.events import CallState, Joined, KeyWanted
from stream.link.listener import Listener
from tests.link_peers import GUEST, HOST, OPEN, FakeCaller, await_that, raw_dealer


def wanted_of(ear):
    return [event for event in ear.heard if isinstance(event, KeyWanted)]


def wanted(ear):
    """Wait for a request; what was heard before it is forgotten."""
    found = ear.until(lambda e: isinstance(e, KeyWanted))
    ear.forget()
    return found


def meet(*ears):
    for ear in ears:
        ear.state(CallState.TALKING)


def test_a_key_is_wanted_by_who_has_just_come_and_by_who_asks(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    meet(host, guest)
    assert wanted(host) == KeyWanted(1)
    assert wanted(guest) == KeyWanted(0)
    host.endpoint.ask_for_key(1)
    assert wanted(guest) == KeyWanted(0)
    guest.endpoint.ask_for_key(0)
    assert wanted(host) == KeyWanted(1)
    host.endpoint.ask_for_key(5)  # nobody has this number
    guest.endpoint.ask_for_key(5)
    host.endpoint.ask_for_key(1)
    guest.until(lambda e: isinstance(e, KeyWanted))
    assert host.endpoint.rejected(1) == guest.endpoint.rejected(0) == 0


def test_in_a_room_the_hub_asks_for_all_and_merges_their_requests(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one, two, three = (
        ends(Caller("127.0.0.1", hub.endpoint.port, replace(GUEST, name=name), OPEN))
        for name in ("one", "two", "three")
    )
    meet(one, two, three)
    everyone = {"Ann": hub, "one": one, "two": two, "three": three}
    numbers = {}  # by whom, of whom
    for name, ear in everyone.items():
        for other in everyone.keys() - {name}:
            joined = ear.until(lambda e, other=other: isinstance(e, Joined) and e.name == other)
            numbers[name, other] = joined.party
            ear.until(lambda e, joined=joined: e == KeyWanted(joined.party))
    for ear in everyone.values():
        ear.forget()
    began = time.monotonic()
    for _ in range(20):
        one.endpoint.ask_for_key(numbers["one", "two"])
        three.endpoint.ask_for_key(numbers["three", "two"])
        hub.endpoint.ask_for_key(numbers["Ann", "two"])
    assert wanted(two) == KeyWanted(0)
    one.endpoint.ask_for_key(0)
    assert wanted(hub) == KeyWanted(numbers["Ann", "one"])
    # When this has gone its way, so has all that was asked before.
    await_that(lambda: time.monotonic() - began > 4 * KEY_PAUSE)
    one.endpoint.ask_for_key(numbers["one", "three"])
    assert wanted(three) == KeyWanted(0)
    two.heard += two.endpoint.events(0.0)
    assert len(wanted_of(two)) <= 1 + (time.monotonic() - began) / KEY_PAUSE
    for ear in (hub, one):
        ear.heard += ear.endpoint.events(0.0)
        assert wanted_of(ear) == []
    assert all(hub.endpoint.rejected(party) == 0 for party in (1, 2, 3))


def test_when_a_party_comes_back_everybody_else_is_asked(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    port = hub.endpoint.port
    one = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    meet(one)
    with raw_dealer(port) as first, raw_dealer(port) as second:
        gone = FakeCaller(first)
        one.until(lambda e: isinstance(e, Joined) and e.name == "fake")
        one.until(lambda e: e == KeyWanted(gone.welcome.party))
        hub.until(lambda e: e == KeyWanted(gone.welcome.party))
        hub.forget()
        one.forget()
        back = FakeCaller(second, attempt=2)
        assert back.welcome.party == gone.welcome.party
        hub.until(lambda e: e == KeyWanted(back.welcome.party))
        assert wanted(one) == KeyWanted(0)
        assert not any(isinstance(e, Joined) for e in one.heard)


def test_a_flood_of_requests_is_a_few_requests(ends):
    """Of us, and of others through us."""
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    port = hub.endpoint.port
    one = ends(Caller("127.0.0.1", port, GUEST, OPEN))
    meet(one)
    with raw_dealer(port) as dealer:
        fake = FakeCaller(dealer)
        one.until(lambda e: isinstance(e, Joined) and e.name == "fake")
        hub.until(lambda e: isinstance(e, Joined) and e.name == "fake")
        hub.forget()
        one.forget()
        began = time.monotonic()
        for _ in range(500):
            fake.say(wire.KeyWanted(0))
            fake.say(wire.KeyWanted(1))  # the other caller
        fake.say(wire.KeyWanted(9))  # perhaps just gone
        fake.audio(1)
        hub.audio(b"packet 1")
        one.audio(b"packet 1")
        most = 3 + (time.monotonic() - began) / KEY_PAUSE
        assert 1 <= len(wanted_of(hub)) <= most
        assert 1 <= len(wanted_of(one)) <= most
        assert hub.endpoint.rejected(fake.welcome.party) == 0
