"""Who records says so: to everybody, to whoever comes later, and for nobody else."""

from __future__ import annotations

from dataclasses import replace

from stream.link import wire
from stream.link.caller import Caller
from stream.link.clock import LinkClock
from stream.link.events import CallState, Joined, RecordingChanged
from stream.link.listener import Listener
from stream.link.session import NEWS_BURST, Session
from tests.link_peers import GUEST, HOST, OPEN, FakeCaller, await_that, raw_dealer


def called(ends, port, name, tell=False):
    endpoint = Caller("127.0.0.1", port, replace(GUEST, name=name), OPEN)
    if tell:
        endpoint.tell_recording(True)
    ear = ends(endpoint)
    ear.state(CallState.TALKING)
    return ear


def told(ear, party, on):
    return ear.until(lambda event: event == RecordingChanged(party, on))


def number_of(ear, name):
    return ear.until(lambda event: isinstance(event, Joined) and event.name == name).party


def test_it_is_told_when_a_call_comes_about_and_when_it_begins_and_ends(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    host.endpoint.tell_recording(True)
    guest = called(ends, host.endpoint.port, "Bob", tell=True)
    told(guest, 0, True)
    told(host, 1, True)
    guest.endpoint.tell_recording(False)
    told(host, 1, False)
    host.endpoint.tell_recording(False)
    told(guest, 0, False)
    guest.forget()
    host.endpoint.tell_recording(True)
    told(guest, 0, True)


def test_in_a_room_all_others_are_told_and_who_comes_later_as_well(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    port = hub.endpoint.port
    one, two = called(ends, port, "one"), called(ends, port, "two")
    two.endpoint.tell_recording(True)
    told(hub, number_of(hub, "two"), True)
    told(one, number_of(one, "two"), True)
    hub.endpoint.tell_recording(True)
    told(one, 0, True)
    late = called(ends, port, "late")
    told(late, 0, True)
    told(late, number_of(late, "two"), True)
    two.endpoint.tell_recording(False)
    for ear in (hub, one, late):
        told(ear, number_of(ear, "two"), False)
    assert {e.party for e in late.heard if isinstance(e, RecordingChanged)} == {
        0,
        number_of(late, "two"),
    }
    assert not [e for e in two.heard if isinstance(e, RecordingChanged) and e.party != 0]


def test_nobody_can_say_that_somebody_else_records(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one = called(ends, hub.endpoint.port, "one")
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        own = fake.welcome.party
        for party in (*range(own), *range(own + 1, 256)):
            fake.say(wire.Recording(party, True))
        fake.say(wire.Recording(own, True))
        told(hub, own, True)
        told(one, number_of(one, "fake"), True)
        for ear in (hub, one):
            assert sum(isinstance(event, RecordingChanged) for event in ear.heard) == 1
        assert hub.endpoint.rejected(own) == 255


def test_who_comes_back_is_told_what_has_changed_and_tells_what_has(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one = called(ends, hub.endpoint.port, "one", tell=True)
    hub.endpoint.tell_recording(True)
    told(hub, number_of(hub, "one"), True)
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        fake.say(wire.Recording(fake.welcome.party, True))
        told(one, number_of(one, "fake"), True)
        assert {fake.next(wire.Recording) for _ in range(2)} == {
            wire.Recording(0, True),
            wire.Recording(number_of(hub, "one"), True),
        }
    one.endpoint.tell_recording(False)
    told(hub, number_of(hub, "one"), False)
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer, attempt=2)
        assert {fake.next(wire.Recording) for _ in range(2)} == {
            wire.Recording(0, True),
            wire.Recording(number_of(hub, "one"), False),
        }
        fake.say(wire.Recording(fake.welcome.party, False))
        told(one, number_of(one, "fake"), False)


def test_who_begins_and_ends_without_end_is_passed_on_now_and_then(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one = called(ends, hub.endpoint.port, "one")
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        for k in range(400):
            fake.say(wire.Recording(fake.welcome.party, k % 2 == 0))
        fake.audio(1, packet=b"\0 the end")
        for ear in (hub, one):
            ear.audio(b"\0 the end")
            changes = sum(isinstance(event, RecordingChanged) for event in ear.heard)
            assert NEWS_BURST / 2 <= changes < 100
        await_that(lambda: hub.endpoint.rejected(fake.welcome.party) > 300)


def test_what_finds_no_room_is_told_again_and_only_the_latest_counts():
    sent: list[bytes] = []
    room = [False]

    def transmit(data: bytes) -> bool:
        if room[0]:
            sent.append(data)
        return room[0]

    talk = wire.Talk(None)
    session = Session(None, LinkClock(0.0), transmit, 0.0)
    for on in (True, False, True):
        session.tell(wire.Recording(1, on), 0.0)
    session.tell(wire.Recording(2, True), 0.0)
    assert session.tick(0.0) <= 0.1  # another look comes soon
    room[0] = True
    session.tick(0.1)
    said = [message for data in sent if isinstance(message := talk.decode(data), wire.Recording)]
    assert said == [wire.Recording(1, True), wire.Recording(2, True)]
    sent.clear()
    session.tick(0.2)
    assert not [data for data in sent if isinstance(talk.decode(data), wire.Recording)]
