"""Overs that are delivered late over loopback TCP: outages, rooms, and who abuses them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import zmq

from stream.link import wire
from stream.link.caller import Caller
from stream.link.events import CallState, Joined, Left, Notice, OverArrived
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
    fake_listener,
    measured,
    raw_dealer,
)
from tests.test_reconnection import Relay

STEPS = 4
BYTES = 60


class Voice:
    """Says overs of packets of four steps, with the key held down or let go."""

    def __init__(self, ear):
        self.ear = ear
        self.over = 0
        self.step = 0
        self.packets = []

    def say(self, packets):
        """Some packets of the present over; how many of them went or were kept."""
        taken = 0
        for k in range(packets):
            first = 0b10100 if self.packets else 0b100
            packet = bytes([first, 3, self.over, k]).ljust(BYTES, b"\7")
            self.packets.append(packet)
            taken += self.ear.endpoint.send(packet, self.step, time.monotonic(), over=self.over)
            self.step += STEPS
        return taken

    def end(self):
        """Let the key go; returns the packets of the over."""
        self.ear.endpoint.end_over(self.over, time.monotonic())
        self.over += 1
        self.step += 20
        packets, self.packets = self.packets, []
        return packets


def overs_of(ear):
    return [event.over for event in ear.heard if isinstance(event, OverArrived)]


def over(ear, packets):
    """The over that holds these packets, once it has arrived."""
    event = ear.until(
        lambda e: (
            isinstance(e, OverArrived) and [piece.packet for piece in e.over.pieces] == packets
        )
    )
    return event.over


def listening(ends, *, room=False):
    return ends(Listener("127.0.0.1:0", HOST, OPEN, room=room))


def calling(ends, port, name="Bob"):
    ear = ends(Caller("127.0.0.1", port, replace(GUEST, name=name), OPEN))
    ear.state(CallState.TALKING)
    return ear


def number_of(ear, name):
    return ear.until(lambda event: isinstance(event, Joined) and event.name == name).party


@pytest.fixture
def cut(ends):
    """A call through a relay: host, guest, the relay, and what says that both know it is cut."""
    host = listening(ends)
    relay = Relay(host.endpoint.port)
    guest = calling(ends, relay.port)
    host.state(CallState.TALKING)
    measured(host.endpoint, guest.endpoint)

    def down():
        for ear in (host, guest):
            ear.forget()
        relay.cut()
        guest.state(CallState.RECONNECTING)
        host.state(CallState.RECONNECTING)

    yield host, guest, relay, down
    relay.close()


@pytest.mark.parametrize("who", ["guest", "host"])
def test_an_over_said_during_an_outage_arrives_whole_soon_after_it(cut, who):
    host, guest, relay, down = cut
    talker, hearer = (guest, host) if who == "guest" else (host, guest)
    voice = Voice(talker)
    down()
    assert voice.say(40) == 40
    packets = voice.end()
    await_that(lambda: talker.endpoint.link().kept == pytest.approx(40 * 0.256))
    assert not audio_of(hearer) and not overs_of(hearer)
    relay.stalled = False
    heard = over(hearer, packets)
    assert [piece.number for piece in heard.pieces] == [STEPS * k for k in range(40)]
    assert not heard.again and not heard.cut
    assert 0.0 < time.monotonic() - heard.ended < WAIT
    await_that(lambda: talker.endpoint.link().kept == 0.0)
    told = talker.until(lambda e: isinstance(e, Notice) and "have arrived" in e.text)
    assert told.text.startswith("10 s of what you said have arrived, ")
    assert not audio_of(hearer)


def test_without_an_over_nothing_is_kept(cut):
    host, guest, relay, down = cut
    down()
    assert not guest.say(b"open microphone", time.monotonic())
    relay.stalled = False
    guest.state(CallState.TALKING)
    assert Voice(guest).say(1)
    assert guest.say(b"here again", time.monotonic())
    host.audio(b"here again")
    assert not overs_of(host)


@pytest.mark.parametrize("before", [True, False])
def test_an_over_of_which_only_a_part_arrived_comes_once_more_and_whole(cut, before):
    host, guest, relay, down = cut
    voice = Voice(guest)
    if before:
        voice.say(5)
        host.audio(voice.packets[-1])
        down()
        voice.say(3)
        packets = voice.end()
        relay.stalled = False
    else:
        down()
        voice.say(3)
        relay.stalled = False
        guest.state(CallState.TALKING)
        voice.say(5)
        host.audio(voice.packets[-1])
        packets = voice.end()
    assert len(over(host, packets).pieces) == 8


def test_what_was_under_way_when_the_connection_broke_comes_late(cut):
    host, guest, relay, down = cut
    relay.stalled = True
    voice = Voice(guest)
    assert voice.say(4) == 4
    packets = voice.end()
    down()
    relay.stalled = False
    assert len(over(host, packets).pieces) == 4


def test_an_over_said_while_the_connection_stands_still_comes_when_it_goes_on(cut):
    """Whether or not both ends have given the connection up meanwhile."""
    host, guest, relay, _ = cut
    relay.stalled = True
    voice = Voice(guest)
    begun = time.monotonic()
    while time.monotonic() < begun + 2.3:
        voice.say(1)
        time.sleep(0.1)
    packets = voice.end()
    relay.stalled = False

    def arrived():
        live = [event.packet for event in audio_of(host)]
        return set(packets) <= {*live, *(p.packet for o in overs_of(host) for p in o.pieces)}

    host.until(lambda _: arrived())
    for found in overs_of(host):
        assert [piece.packet for piece in found.pieces] == packets


def test_overs_come_in_the_order_in_which_they_were_said_and_once(cut):
    host, guest, relay, down = cut
    voice = Voice(guest)
    expected = []
    for _ in range(3):
        down()
        for packets in (3, 30, 1):
            voice.say(packets)
            expected.append(voice.end())
        relay.stalled = False
        over(host, expected[-1])
        found = [[piece.packet for piece in each.pieces] for each in overs_of(host)]
        assert found == expected[-3:]
        guest.state(CallState.TALKING)


def welcome(router, instance):
    """Let a caller in, as a listener of that instance would."""
    assert router.poll(int(1000 * WAIT))
    route, _ = router.recv_multipart()
    message = wire.Welcome(1, instance, MODEL, "2k", "Ann", False)
    router.send_multipart([route, wire.encode(message, 5)])


@pytest.fixture
def left(ends):
    """A caller whose listener has gone, and what another one at the same place listens with."""
    with zmq.Context() as context:
        with context.socket(zmq.ROUTER) as router:
            router.linger = 0
            port = router.bind_to_random_port("tcp://127.0.0.1")
            guest = ends(Caller("127.0.0.1", port, GUEST, OPEN))
            welcome(router, b"instance")
            guest.state(CallState.TALKING)
        guest.state(CallState.RECONNECTING)
        with context.socket(zmq.ROUTER) as router:
            router.linger = 0
            yield guest, router, f"tcp://127.0.0.1:{port}"


def test_without_keys_another_listener_does_not_get_what_the_one_before_did_not(left):
    guest, router, place = left
    voice = Voice(guest)
    assert voice.say(4) == 4
    voice.end()
    router.bind(place)
    welcome(router, b"another!")
    guest.until(lambda e: isinstance(e, Notice) and "have never reached" in e.text)
    await_that(lambda: guest.endpoint.link().kept == 0.0)


def test_what_was_said_before_another_listener_answered_is_not_for_it(left, monkeypatch):
    guest, router, place = left
    said, poll_now = threading.Event(), guest.endpoint._pollers().poll

    class Slow:
        """Of what a poller finds, a message of the listener's comes when all has been said."""

        def poll(self, timeout):
            found = poll_now(timeout)
            if guest.endpoint._socket in dict(found):
                assert said.wait(WAIT)
            return found

    monkeypatch.setattr(guest.endpoint, "_pollers", Slow)
    router.bind(place)
    welcome(router, b"another!")
    time.sleep(0.3)  # for the answer to arrive
    voice = Voice(guest)
    assert voice.say(4) == 4
    voice.end()
    said.set()
    guest.until(lambda e: isinstance(e, Notice) and "have never reached" in e.text)
    await_that(lambda: guest.endpoint.link().kept == 0.0)


def test_who_is_not_there_any_more_never_gets_it_and_people_are_told(cut):
    host, guest, relay, down = cut
    down()
    Voice(host).say(8)
    host.endpoint.events(0.0)
    voice = Voice(guest)
    voice.say(8)
    voice.end()
    relay.stalled = False
    host.until(lambda e: isinstance(e, OverArrived))
    guest.endpoint.close()
    host.until(lambda e: isinstance(e, Notice) and "have never reached" in e.text)


# --- rooms ----------------------------------------------------------------------------------------


@pytest.fixture
def room(ends):
    """A hub, a guest behind a relay, and another one: their ears, and the relay."""
    hub = listening(ends, room=True)
    relay = Relay(hub.endpoint.port)
    one = calling(ends, relay.port, "one")
    two = calling(ends, hub.endpoint.port, "two")
    number_of(two, "one")
    measured(hub.endpoint, one.endpoint, two.endpoint)
    yield hub, one, two, relay
    relay.close()


def test_in_a_room_everybody_else_gets_an_over_and_who_said_it_does_not(room):
    hub, one, two, relay = room
    relay.cut()
    one.state(CallState.RECONNECTING)
    voice = Voice(one)
    voice.say(20)
    packets = voice.end()
    relay.stalled = False
    assert over(hub, packets).party == number_of(hub, "one")
    assert over(two, packets).party == number_of(two, "one")
    await_that(lambda: one.endpoint.link().kept == 0.0)
    assert not overs_of(one)


def test_in_a_room_who_was_away_gets_what_the_hub_said_and_others_had_to_send_late(room):
    hub, one, two, relay = room
    relay.cut()
    one.state(CallState.RECONNECTING)
    hub.until(lambda e: isinstance(e, Notice) and e.text.startswith('lost "one"'))
    voice = Voice(hub)
    voice.say(10)
    packets = voice.end()
    two.audio(packets[-1])  # who is there hears it at once, and once
    relay.stalled = False
    assert over(one, packets).party == 0
    assert not overs_of(two)


def test_nobody_can_send_an_over_for_somebody_else(ends):
    hub = listening(ends, room=True)
    one = calling(ends, hub.endpoint.port, "one")
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        own = fake.welcome.party
        for party in (*range(own), *range(own + 1, 256)):
            fake.say(wire.Late(party, 0, 0, True, False, 0, 0, b"\x04\x03not mine"))
        fake.say(wire.Late(own, 0, 0, True, False, 0, 0, b"\x04\x03mine"))
        assert over(hub, [b"\x04\x03mine"]).party == own
        assert over(one, [b"\x04\x03mine"])
        assert len(overs_of(hub)) == len(overs_of(one)) == 1
        assert hub.endpoint.rejected(own) == 255
        assert fake.next(wire.Got) == wire.Got(own, 0, 1)


def test_a_flood_of_overs_is_bounded_and_the_others_lose_nothing(ends):
    """New overs, overs without end, numbers used again, packets of any length."""
    hub = listening(ends, room=True)
    one = calling(ends, hub.endpoint.port, "one")
    two = calling(ends, hub.endpoint.port, "two")
    number_of(two, "one")
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        own = fake.welcome.party
        said = []
        for k in range(2000):
            kind = k % 4
            late = wire.Late(own, k, 0, True, False, k % 65536, 0, b"\x08\x03" + bytes(k % 200))
            if kind == 1:
                late = replace(late, over=1, index=k // 4, last=False, number=16 * k % 65536)
            elif kind == 2:
                late = replace(late, over=0)
            elif kind == 3:
                late = replace(late, last=False, index=k % 3)
            fake.say(late)
            if k % 50 == 0:
                packet = b"\0\3live %d" % k  # of one step
                said.append(packet)
                one.say(packet, time.monotonic())
        for packet in said:
            two.audio(packet)
        await_that(lambda: hub.endpoint.rejected(own) > 300)
        hub.audio(said[-1])
        steps = sum(each.steps for each in overs_of(hub))
        assert steps < 1100 + WAIT * 1.05 / 0.064
        assert two.endpoint.rejected(number_of(two, "one")) == 0


def test_a_listener_may_answer_anything(ends):
    with fake_listener(ends) as (guest, say):
        guest.state(CallState.TALKING)
        for count in (0, 1, 65535):
            say(wire.Got(1, 0, count))
        voice = Voice(guest)
        voice.say(2)
        voice.end()
        say(wire.Got(1, 0, 1))
        say(wire.Got(0, 3, 7))
        say(wire.Late(0, 0, 0, True, False, 5, 0, b"\x04\x03late"))
        say(wire.Late(9, 0, 0, True, False, 5, 0, b"\x04\x03of nobody"))
        assert over(guest, [b"\x04\x03late"]).party % 16 == 0
        await_that(lambda: guest.endpoint.rejected(guest.joined().party) == 1)


def test_a_party_that_leaves_in_the_middle_of_an_over_is_heard_as_far_as_it_came(ends):
    host = listening(ends)
    with raw_dealer(host.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        own = fake.welcome.party
        for index in range(3):
            packet = b"\x04\x03%d" % index
            fake.say(wire.Late(own, 4, index, False, False, STEPS * index, 0, packet))
        fake.say(wire.Bye("gone"))
        host.until(lambda e: isinstance(e, Left))
    (found,) = overs_of(host)
    assert found.cut and len(found.pieces) == 3
