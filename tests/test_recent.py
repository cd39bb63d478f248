"""Recent calls: written after each, shown with the names we know, bounded and harmless."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from codec.errors import BadInput
from stream.link import keys
from stream.link.address import Address
from stream.link.events import Joined
from stream.link.peers import KnownPeers
from stream.link.recent import MOST_CALLS, RecentCall, RecentCalls
from stream.log import Journal
from tui import live
from tui.cli import main

ADA, RADIO = (keys.generate() for _ in range(2))
NOON = 1_700_000_000


@pytest.fixture
def recent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecentCalls:
    monkeypatch.setenv("SOTTO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    return RecentCalls()


def prints(number: int) -> str:
    return f"aaaa-bbbb-cccc-{number:04d}"


def test_the_newest_stands_first_and_once(recent: RecentCalls) -> None:
    assert recent.calls() == ()
    recent.add(RecentCall(NOON, True, prints(1), "Ada L"))
    recent.add(RecentCall(NOON + 60, False, prints(2)))
    recent.add(RecentCall(NOON + 120, False, prints(1), "Ada"))
    assert recent.calls() == (
        RecentCall(NOON + 120, False, prints(1), "Ada"),
        RecentCall(NOON + 60, False, prints(2)),
    )
    assert stat.S_IMODE(recent.path.stat().st_mode) == 0o600
    assert os.listdir(recent.path.parent) == ["recent-calls"]


def test_there_are_not_many(recent: RecentCalls) -> None:
    for number in range(MOST_CALLS + 5):
        recent.add(RecentCall(NOON + number, False, prints(number)))
    numbers = [int(call.fingerprint[-4:]) for call in recent.calls()]
    assert numbers == list(range(MOST_CALLS + 4, 4, -1))


@pytest.mark.parametrize(
    "claimed", ["a\nb", "\x1b[2J", "x" * 5000, "in out  \t 7", "\u202e", "", "\0", "é" * 64]
)
def test_what_somebody_calls_itself_stays_one_harmless_line(
    recent: RecentCalls, claimed: str
) -> None:
    recent.add(RecentCall(NOON, False, prints(1), claimed))
    recent.add(RecentCall(NOON, False, prints(2), claimed))
    assert len(recent.calls()) == 2
    for call in recent.calls():
        assert call.claimed.isprintable() and len(call.claimed) <= 64


def test_damage_costs_its_lines(recent: RecentCalls) -> None:
    recent.add(RecentCall(NOON, False, prints(1), "Ada"))
    good = recent.path.read_bytes()
    bad = [
        b"",
        b"x",
        b"9" * 5000 + b" in aaaa-bbbb-cccc-0001",
        b"1 up aaaa-bbbb-cccc-0001",
        b"1 in \x1b[2Jaaaa-bbbb-cc",
        b"\xff\xfe\x00",
        b"1 in aaaa-bbbb-cccc-0001 \x1b[2J",
    ]
    recent.path.write_bytes(b"\n".join(bad) + b"\n" + good + b"\n".join(bad))
    assert [call.claimed for call in recent.calls()] == ["Ada"]
    recent.path.write_bytes(good * 100_000)
    assert len(recent.calls()) == MOST_CALLS


def test_a_folder_in_its_place_is_one_line(recent: RecentCalls) -> None:
    recent.path.mkdir(parents=True)
    with pytest.raises(BadInput, match="recent-calls"):
        recent.calls()
    with pytest.raises(BadInput, match="recent-calls"):
        recent.add(RecentCall(NOON, False, prints(1)))
    journal = Journal(None)
    joined(journal, Joined(1, "Ada", "2k", prints(1), code="12345"))
    assert "recent calls: cannot" in journal.after(-1)[0].text


def joined(journal: Journal, *events: Joined, outgoing: bool = False) -> None:
    remember = live.remembering(journal, outgoing=outgoing)
    for event in events:
        remember(event)
    for thread in threading.enumerate():
        if thread.name == "sotto-recent":
            thread.join(60)


def test_who_is_spoken_with_is_remembered(recent: RecentCalls) -> None:
    ada = Joined(1, "Ada", "2k", ADA.fingerprint, code="12345")
    joined(Journal(None), ada, ada)
    (call,) = recent.calls()
    assert (call.fingerprint, call.claimed, call.outgoing) == (ADA.fingerprint, "Ada", False)
    joined(Journal(None), Joined(1, "r", "2k", RADIO.fingerprint, code="1"), outgoing=True)
    assert [call.outgoing for call in recent.calls()] == [True, False]


def test_whom_only_others_vouch_for_is_not(recent: RecentCalls) -> None:
    """The hub of a room, or a call without keys, could fill the list with anybody."""
    flood = [Joined(1 + n % 7, f"n{n}", "2k", prints(n)) for n in range(1000)]
    joined(Journal(None), *flood)
    assert not recent.path.exists()


def test_coming_back_again_and_again_is_written_once(recent: RecentCalls) -> None:
    ada = Joined(1, "Ada", "2k", ADA.fingerprint, code="12345")
    joined(Journal(None), ada)
    before = recent.path.stat()
    remember = live.remembering(Journal(None), outgoing=False)
    remember(ada)
    for _ in range(1000):
        remember(ada)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("sotto-recent") <= 1
    joined(Journal(None))
    assert recent.path.stat().st_ino != before.st_ino  # the first of them


def test_they_are_shown_by_the_names_we_know(
    recent: RecentCalls, capsys: pytest.CaptureFixture[str]
) -> None:
    KnownPeers().add("ada", ADA.public)
    KnownPeers().add("radio", RADIO.public, Address("radio.example.org", 4747))
    recent.add(RecentCall(NOON, True, RADIO.fingerprint, "the radio"))
    recent.add(RecentCall(NOON + 60, False, ADA.fingerprint, "Eve"))
    recent.add(RecentCall(NOON + 120, False, prints(3)))
    assert main(["peers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["", "recent calls:"]
    said = [line.split("  ")[1:] for line in lines[4:]]
    assert said == [
        ["called us", prints(3)],
        ["called us", 'ada "Eve"'],
        ["we called", 'radio "the radio"'],
    ]
    assert main(["peers", "list", "--json"]) == 0
    found = {each["name"]: each["last_call"] for each in json.loads(capsys.readouterr().out)}
    assert found == {"ada": NOON + 60, "radio": NOON}


def test_a_call_without_a_name_shows_whom_to_call(
    recent: RecentCalls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["call"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sotto call: say whom")
    KnownPeers().add("ada", ADA.public)
    KnownPeers().add("radio", RADIO.public, Address("radio.example.org", 4747))
    recent.add(RecentCall(NOON, False, ADA.fingerprint, "Ada"))
    assert main(["call", "--headless"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("radio ") and "ada" in out.rpartition("recent calls:")[2]


@pytest.mark.parametrize("name", ["known-peers", "recent-calls"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "link to a pipe"])
def test_what_is_no_file_is_not_waited_for(recent: RecentCalls, name: str, what: str) -> None:
    """The thread that looks up keys is the one that carries the call."""
    place = recent.path.parent / name
    place.parent.mkdir(mode=0o700)
    if what == "folder":
        place.mkdir(mode=0o700)
    elif what == "device":
        place.symlink_to("/dev/zero")
    else:
        pipe = place if what == "pipe" else place.with_name("pipe")
        os.mkfifo(pipe, 0o600)
        if what != "pipe":
            place.symlink_to(pipe)
    refused: list[str] = []
    asked = threading.Thread(target=_refused, args=(name, refused), daemon=True)
    asked.start()
    asked.join(30.0)
    assert refused and refused[0].startswith(f"cannot read {place}: ")


def _refused(name: str, refused: list[str]) -> None:
    try:
        if name == "known-peers":
            KnownPeers().peers()
        else:
            RecentCalls().calls()
    except BadInput as error:
        refused.append(str(error))
