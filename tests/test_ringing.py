"""Callers ring: nothing is heard before a person has answered."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stream.link import keys
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import AudioArrived, CallState, Joined, Left, RingOver, Rings
from stream.link.listener import Listener
from stream.link.peers import KnownPeers
from stream.link.ringing import Answer, Doorbell, Verdict
from stream.log import Journal
from tests.link_peers import GUEST, HOST, await_that
from tui.live import _on_ring


def test_a_doorbell_has_one_caller_at_a_time():
    bell = Doorbell()
    assert bell.answer(Answer.ACCEPT, 0.0) == ""
    assert bell.call("a", 0.0) is Verdict.RINGS
    assert bell.call("b", 1.0) is Verdict.BUSY
    assert bell.call("a", 5.0) is Verdict.WAITS
    assert not bell.given_up(14.0)
    assert bell.given_up(15.1) and not bell.given_up(15.2)
    assert bell.call("b", 16.0) is Verdict.RINGS
    assert bell.answer(Answer.REFUSE, 17.0) == "b"
    assert bell.call("b", 18.0) is Verdict.REFUSED
    assert bell.call("b", 77.1) is Verdict.RINGS


@pytest.mark.parametrize("answer", [Answer.ACCEPT, Answer.REMEMBER])
def test_who_is_accepted_enters_once_and_soon(answer):
    bell = Doorbell()
    bell.call("a", 0.0)
    assert bell.answer(answer, 1.0) == "a"
    assert bell.call("b", 1.5) is Verdict.RINGS
    assert bell.call("a", 2.0) is Verdict.ACCEPTED
    assert bell.enter("a") is (answer is Answer.REMEMBER)
    assert bell.call("a", 3.0) is Verdict.BUSY
    bell.answer(Answer.ACCEPT, 4.0)
    assert bell.call("b", 19.1) is Verdict.RINGS  # too late


def test_many_keys_ring_a_few_times_only():
    bell = Doorbell()
    rung = 0
    for now in range(300):
        rung += bell.call(str(now), float(now)) is Verdict.RINGS
        bell.answer(Answer.REFUSE, float(now))
    assert rung == 5 * 5


def test_those_nobody_knows_keep_nobody_known_from_ringing():
    bell = Doorbell()
    for now in range(5):
        assert bell.call(f"unknown {now}", float(now)) is Verdict.RINGS
        bell.answer(Answer.REFUSE, float(now))
    assert bell.call("unknown", 6.0) is Verdict.BUSY  # they have rung enough
    assert bell.call("known", 7.0, known=True) is Verdict.RINGS
    assert bell.call("other", 8.0, known=True) is Verdict.BUSY
    bell.answer(Answer.REFUSE, 9.0)
    assert bell.call("unknown", 61.0) is Verdict.RINGS
    assert bell.call("other", 62.0, known=True) is Verdict.RINGS
    assert bell.call("unknown", 63.0) is Verdict.BUSY
    assert bell.answer(Answer.REFUSE, 64.0) == "other"


@pytest.fixture
def line(ends, tmp_path):
    """A listener with a person before its screen: its ear, its security, and a caller's."""
    mine, theirs = (keys.generate() for _ in range(2))
    side = Security(mine, KnownPeers(tmp_path / "host"), ring=True)
    guest_side = Security(theirs, KnownPeers(tmp_path / "guest"), peer_key=mine.public)
    return ends(Listener("127.0.0.1:0", HOST, side)), side, guest_side


def call(ends, host, side):
    return ends(Caller("127.0.0.1", host.endpoint.port, GUEST, side, give_up=60.0))


@pytest.mark.parametrize("answer", [Answer.ACCEPT, Answer.REMEMBER])
def test_nothing_is_heard_before_a_person_accepts(ends, line, answer):
    host, side, guest_side = line
    guest = call(ends, host, guest_side)
    rings = host.until(lambda e: isinstance(e, Rings))
    assert rings == Rings('"Bob"', guest_side.keys.fingerprint)
    assert not host.say(b"overheard", 0.0)  # the line is closed
    assert not any(isinstance(e, (Joined, AudioArrived)) for e in host.heard + guest.heard)
    assert side.known.peers() == ()
    host.endpoint.answer(answer)
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    assert [peer.name for peer in side.known.peers()] == ["Bob"] * (answer is Answer.REMEMBER)


def test_who_is_refused_is_told_and_does_not_ring_again(ends, line):
    host, _, guest_side = line
    guest = call(ends, host, guest_side)
    host.until(lambda e: isinstance(e, Rings))
    host.endpoint.answer(Answer.REFUSE)
    assert guest.state(CallState.REFUSED).reason == "the listener does not take the call"
    call(ends, host, guest_side).state(CallState.REFUSED)
    assert sum(isinstance(e, Rings) for e in host.heard + host.endpoint.events(0.1)) == 1


def test_who_was_accepted_for_one_call_rings_for_the_next(ends, line):
    host, side, guest_side = line
    for _ in range(2):
        guest = call(ends, host, guest_side)
        host.until(lambda e: isinstance(e, Rings))
        host.endpoint.answer(Answer.ACCEPT)
        guest.state(CallState.TALKING)
        guest.endpoint.close()
        host.state(CallState.TALKING)
        await_that(lambda: not host.endpoint.link().secured)
        host.endpoint.events(0.0)
        host.forget()
    assert side.known.peers() == ()


def test_who_gives_up_rings_no_more(ends, line):
    host, _, guest_side = line
    guest = call(ends, host, guest_side)
    host.until(lambda e: isinstance(e, Rings))
    guest.endpoint.close()
    assert host.until(lambda e: isinstance(e, RingOver)).reason == "the caller has given up"


def test_an_answer_lets_in_nobody_else(ends, line, tmp_path):
    """Who rang goes, another one rings, and then comes what a person said to the first."""
    host, side, guest_side = line
    side.known.add("robert", guest_side.keys.public)
    mallory = replace(guest_side, keys=keys.generate(), peers=KnownPeers(tmp_path / "mallory"))
    first = call(ends, host, mallory)
    about_mallory = host.until(lambda e: isinstance(e, Rings))
    guest = call(ends, host, guest_side)  # whom we know, and who need not wait for the other
    about_bob = host.until(lambda e: isinstance(e, Rings) and e.known)
    assert host.until(lambda e: isinstance(e, RingOver)).reason == "somebody known calls"
    host.endpoint.answer(Answer.ACCEPT, about_mallory)
    assert first.state(CallState.REFUSED).reason == "another caller is ringing"
    assert not any(isinstance(e, Joined) for e in host.heard + host.endpoint.events(0.2))
    host.endpoint.answer(Answer.ACCEPT, about_bob)
    guest.state(CallState.TALKING)
    assert host.joined().local == "robert"


def test_known_callers_ring_too_and_are_let_in_at_once_where_nobody_is_asked(ends, line):
    host, side, guest_side = line
    side.known.add("robert", guest_side.keys.public)
    guest = call(ends, host, guest_side)
    rings = host.until(lambda e: isinstance(e, Rings))
    assert rings == Rings('robert "Bob"', guest_side.keys.fingerprint, known=True)
    assert not any(isinstance(e, (Joined, AudioArrived)) for e in host.heard + guest.heard)
    host.endpoint.answer(Answer.ACCEPT)
    guest.state(CallState.TALKING)
    guest.endpoint.close()
    unasked = ends(Listener("127.0.0.1:0", HOST, replace(side, ring=False)))
    call(ends, unasked, guest_side).state(CallState.TALKING)
    assert not any(isinstance(e, Rings) for e in unasked.heard)


def test_who_has_no_key_rings(ends):
    """And another one that calls meanwhile does not get in with what was said to the first."""
    host = ends(Listener("127.0.0.1:0", HOST, Security(ring=True)))
    first = call(ends, host, Security())
    assert host.until(lambda e: isinstance(e, Rings)) == Rings('"Bob"', "")
    second = call(ends, host, Security())
    assert second.state(CallState.REFUSED).reason == "another caller is ringing"
    host.endpoint.answer(Answer.ACCEPT)
    first.state(CallState.TALKING)
    first.endpoint.close()
    host.state(CallState.TALKING)
    host.until(lambda e: isinstance(e, Left))
    host.forget()
    third = call(ends, host, Security())
    host.until(lambda e: isinstance(e, Rings))
    host.endpoint.answer(Answer.REFUSE)
    third.state(CallState.REFUSED)


def test_in_a_room_only_the_unknown_ring(ends, line):
    _, side, guest_side = line
    room = ends(Listener("127.0.0.1:0", HOST, side, room=True))
    guest = ends(Caller("127.0.0.1", room.endpoint.port, replace(GUEST, room=True), guest_side))
    assert not room.until(lambda e: isinstance(e, Rings)).known
    room.endpoint.answer(Answer.REMEMBER)
    guest.state(CallState.TALKING)
    guest.endpoint.close()
    room.until(lambda e: isinstance(e, Left))
    room.forget()
    again = ends(Caller("127.0.0.1", room.endpoint.port, replace(GUEST, room=True), guest_side))
    again.state(CallState.TALKING)
    assert not any(isinstance(e, Rings) for e in room.heard + room.endpoint.events(0.0))


def test_without_a_person_nobody_rings(ends, line):
    _, side, guest_side = line
    host = ends(Listener("127.0.0.1:0", HOST, replace(side, ring=False)))
    assert "does not know our key" in call(ends, host, guest_side).state(CallState.REFUSED).reason


def test_a_name_reaches_the_command_as_a_value_only(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    command = f'echo "$SOTTO_CALLER $SOTTO_KEY" > {heard}.part; mv {heard}.part {heard}'
    run = _on_ring(command, Journal())
    assert run is not None
    run(Rings(f'"$(touch {tmp_path}/evil); touch {tmp_path}/evil"', "aaaa"))
    await_that(heard.exists)
    assert heard.read_text() == f'"$(touch {tmp_path}/evil); touch {tmp_path}/evil" aaaa\n'
    assert not (tmp_path / "evil").exists()
    assert _on_ring(None, Journal()) is None


def test_commands_that_do_not_end_become_no_crowd(tmp_path: Path) -> None:
    """Strangers may ring all day, and fill neither the machine nor the log."""
    begun, going = tmp_path / "begun", tmp_path / "going"
    begun.touch()
    going.touch()
    journal = Journal()
    run = _on_ring(f"echo >> {begun}; while [ -e {going} ]; do sleep 0.05; done", journal)
    assert run is not None
    for _ in range(100):
        run(Rings("eve", "aaaa"))
    await_that(lambda: len(begun.read_text()) == 4)
    assert len(journal.after(-1)) == 12
    going.unlink()

    def runs_again() -> bool:
        run(Rings("eve", "aaaa"))
        return len(begun.read_text()) > 4

    await_that(runs_again)


def test_no_name_keeps_a_command_from_running(tmp_path: Path) -> None:
    """Also where the locale's encoding has no letters for it."""
    heard = tmp_path / "heard"
    program = (
        "from tui.live import _on_ring; from stream.log import Journal\n"
        "from stream.link.events import Rings\n"
        f"_on_ring('printf %s \"$SOTTO_CALLER\" > {heard}.part; mv {heard}.part {heard}',"
        " Journal())(Rings('\\u0416\\U0001f600', 'aaaa'))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **ascii_only})
    await_that(heard.exists)
    assert heard.read_text("utf-8") == "\u0416\U0001f600"
