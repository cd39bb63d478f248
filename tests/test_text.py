"""Lines of text in a call: who hears them, what becomes of hostile ones, and of too many."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from queue import Queue

import pytest

from codec.errors import BadInput
from stream.link import keys, wire
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import CallState, Joined, TextArrived
from stream.link.listener import Listener
from stream.link.peers import KnownPeers
from stream.link.session import TEXT_BURST, TEXT_SECONDS, WRITER_SPARES, text_allowance
from stream.log import KEPT_LINES, Journal
from tests.fake_call import FakeCall, Scene
from tests.link_peers import (
    GUEST,
    HOST,
    OPEN,
    FakeCaller,
    audio_of,
    fake_listener,
    raw_dealer,
)
from tui import headless


def texts_of(ear):
    return [event for event in ear.heard if isinstance(event, TextArrived)]


def text(ear, words):
    return ear.until(lambda event: isinstance(event, TextArrived) and event.text == words)


def called(ends, port, name, **how):
    ear = ends(Caller("127.0.0.1", port, replace(GUEST, name=name), OPEN, **how))
    ear.state(CallState.TALKING)
    return ear


@pytest.mark.parametrize("secured", [False, True])
def test_what_one_writes_the_other_reads(ends, tmp_path, secured):
    host_keys, guest_keys = keys.generate(), keys.generate()
    ours = theirs = OPEN
    if secured:
        ours = Security(host_keys, KnownPeers(tmp_path / "a"), peer_key=guest_keys.public)
        theirs = Security(guest_keys, KnownPeers(tmp_path / "b"), peer_key=host_keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, ours))
    assert not host.endpoint.send_text("nobody is there")
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, theirs))
    for ear in (host, guest):
        ear.state(CallState.TALKING)
    assert guest.endpoint.send_text("  tea?\n")
    assert text(host, "tea?") == TextArrived(1, "tea?")
    assert host.endpoint.send_text("é" * 100)
    assert text(guest, "é" * 100).party == 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "nothing"),
        (" \t\n", "nothing"),
        ("\x1b\u202e", "nothing"),
        ("é" * 101, "and this one 202"),
    ],
)
def test_a_line_that_is_none_is_not_sent(ends, line, why):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    called(ends, host.endpoint.port, "Bob")
    host.state(CallState.TALKING)
    with pytest.raises(BadInput, match=why):
        host.endpoint.send_text(line)


def test_in_a_room_a_line_says_who_wrote_it_and_nobody_writes_for_another(ends):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one, two = (called(ends, hub.endpoint.port, name) for name in ("one", "two"))
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        numbers = {
            ear: {ear.until(lambda e, n=n: isinstance(e, Joined) and e.name == n).party: n
                  for n in names}
            for ear, names in ((hub, ("one", "two", "fake")), (one, ("Ann", "two", "fake")))
        }  # fmt: skip
        for party in (*range(fake.welcome.party), *range(fake.welcome.party + 1, 256)):
            fake.say(wire.Text(party, "I am somebody else"))
        fake.say(wire.Text(fake.welcome.party, "I am fake"))
        for ear in (hub, one):
            assert numbers[ear][text(ear, "I am fake").party] == "fake"
            assert not [e for e in texts_of(ear) if "somebody" in e.text]
        assert hub.endpoint.rejected(fake.welcome.party) == 255
        assert two.endpoint.send_text("I am two")
        for ear in (hub, one):
            assert numbers[ear][text(ear, "I am two").party] == "two"
        assert fake.next(wire.Text).text == "I am two"
        assert hub.endpoint.send_text("I am Ann")
        assert numbers[one][text(one, "I am Ann").party] == "Ann"
        assert not [e for e in texts_of(two) if e.text == "I am two"]  # no echo


@pytest.mark.parametrize("member", [False, True])
def test_a_hostile_line_is_harmless_where_it_arrives(ends, member):
    """From whoever is at the other end of the connection, or through the hub."""
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    ear = called(ends, hub.endpoint.port, "one") if member else hub
    with raw_dealer(hub.endpoint.port) as dealer:
        fake = FakeCaller(dealer)
        for line in ("\x1b\x07", "", "\u2028\u200f"):
            fake.say(wire.Text(fake.welcome.party, line))
        fake.say(wire.Text(fake.welcome.party, "\x1b]0;title\x07a\r\nb\u202ec\u2066d\x9b\u200b"))
        event = ear.until(lambda event: isinstance(event, TextArrived))
    assert event.text == "]0;title a  b c d"
    assert hub.endpoint.rejected(fake.welcome.party) == 3


@pytest.mark.parametrize("as_often", ["once", "anew"])
def test_of_a_flood_of_lines_a_few_are_read_and_nobody_else_suffers(ends, as_often):
    hub = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    one, two = (called(ends, hub.endpoint.port, name) for name in ("one", "two"))
    began = time.monotonic()
    for nonce in range(1 if as_often == "once" else 6):
        with raw_dealer(hub.endpoint.port) as dealer:
            fake = FakeCaller(dealer, nonce=bytes([nonce]) * 8)
            for k in range(300):
                fake.say(wire.Text(fake.welcome.party, f"flood {nonce} {k}"))
            two.say(b"\0 speech %d" % nonce, time.monotonic())
            fake.audio(nonce, packet=b"\0 the end %d" % nonce)
            for ear in (one, hub):
                ear.audio(b"\0 the end %d" % nonce)
                ear.audio(b"\0 speech %d" % nonce)
            fake.say(wire.Bye("back soon"))
    two.endpoint.send_text("and I?")
    most = TEXT_BURST + (time.monotonic() - began) / TEXT_SECONDS
    for ear in (one, hub):
        assert text(ear, "and I?")
        flood = [event for event in texts_of(ear) if event.text.startswith("flood")]
        assert TEXT_BURST <= len(flood) <= most + 1
        assert len(audio_of(ear)) >= 2


def test_a_listener_that_invents_parties_is_no_better_off(ends):
    """Sixteen numbers, however often their owners change."""
    with fake_listener(ends, room=True) as (guest, say):
        began = time.monotonic()
        for k in range(40):
            joined = wire.PartyJoined(2, wire.NO_KEY, "2k", f"nobody {k}")
            say(joined)
            for n in range(10):
                line = wire.Text(2, f"line {k} {n}")
                say(line)
        audio = wire.Audio(wire.HUB, 1, 0, b"\0 packet")
        say(audio)
        guest.audio(b"\0 packet")
        most = TEXT_BURST + (time.monotonic() - began) / TEXT_SECONDS
        assert TEXT_BURST <= len(texts_of(guest)) <= most


def test_who_writes_much_is_told_and_of_what_is_sent_nothing_is_lost(ends):
    host = ends(Listener("127.0.0.1:0", HOST, OPEN))
    guest = called(ends, host.endpoint.port, "Bob")
    sent = 0
    with pytest.raises(BadInput, match="wait a few seconds"):
        while True:
            assert guest.endpoint.send_text(f"line {sent}")
            sent += 1
    assert sent >= TEXT_BURST - WRITER_SPARES
    text(host, f"line {sent - 1}")
    assert len(texts_of(host)) == sent


def test_the_allowances_of_who_writes_and_who_reads_fit_together():
    writer, reader = text_allowance(WRITER_SPARES), text_allowance()
    for second in range(600):
        if writer.take(1.0, 1.001 * second):  # its clock is fast
            assert reader.take(1.0, second)


def test_what_people_write_leaves_the_rest_of_the_log_alone():
    journal = Journal()
    for k in range(100):
        journal.info(f"news {k}")
    for k in range(2000):
        journal.said(f"flood {k}")
    lines = journal.after(-1)
    assert [line.text for line in lines if line.level == "info"] == [
        f"news {k}" for k in range(100)
    ]
    assert lines[-1].text == "flood 1999"
    assert len(lines) < KEPT_LINES
    for k in range(2000):
        journal.info(f"news {k}")
    journal.said("once more")
    assert len(journal.after(-1)) == KEPT_LINES
    assert "once more" in [line.text for line in journal.after(-1)]


class Slow(FakeCall):
    """A call that comes about after a while, and is over when told so."""

    def __init__(self) -> None:
        super().__init__(Scene(CallState.CONNECTING))
        self.over = threading.Event()
        self.looks = 0

    def snapshot(self):
        self.looks += 1
        if self.looks > 3:
            self.scene = Scene(CallState.TALKING)
        return super().snapshot()

    def wait(self, timeout):
        return self.over.wait(min(timeout, 0.01))


def test_lines_wait_for_somebody_to_read_them():
    call = Slow()
    headless.write_lines(call, iter(["one", "two"]), pytest.fail)
    assert call.calls == [("send_text", "one"), ("send_text", "two")]


def test_a_line_that_cannot_be_sent_is_said_and_the_next_one_is():
    call, warnings = Slow(), Queue[str]()
    call.fails = "no such thing"
    headless.write_lines(call, iter(["one", "two"]), warnings.put)
    assert [warnings.get_nowait() for _ in range(2)] == ["no such thing"] * 2


def test_lines_for_a_call_that_is_over_are_nobodys():
    call = Slow()
    call.over.set()
    headless.write_lines(call, iter(["one"]), pytest.fail)
    assert call.calls == []


def test_lines_come_from_a_pipe_as_they_are_written():
    reading, writing = os.pipe()
    lines = headless._lines_of(reading)
    os.write(writing, "tea?\n\n  \nÜ".encode())
    assert next(lines) == "tea?"
    os.write(writing, b"ber\r\n" + b"x" * 20_000 + b"\n\xff\nlast")
    assert next(lines) == "Über"
    long = next(lines)
    assert 0 < len(long) <= 2 * 4096 and set(long) == {"x"}
    os.close(writing)
    assert list(lines) == ["\ufffd", "last"]
    os.close(reading)
