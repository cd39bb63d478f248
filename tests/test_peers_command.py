"""`sotto peers`, and `sotto call` by a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream.link import keys
from stream.link.address import Address
from stream.link.peers import KnownPeers
from tui.cli import build_parser, main
from tui.commands.call import known_address

ONE, TWO = (keys.generate() for _ in range(2))


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownPeers:
    monkeypatch.setenv("SOTTO_HOME", str(tmp_path / "home"))
    return KnownPeers()


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["peers", "list", "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_people_are_added_listed_renamed_verified_and_forgotten(
    known: KnownPeers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers"]) == 0
    assert "nobody is known yet" in capsys.readouterr().out
    keys.write_key_pair(TWO, tmp_path / "theirs")
    assert main(["peers", "add", "ada", ONE.public]) == 0
    assert main(["peers", "add", "bob", f"{tmp_path}/theirs.pub", "radio.example.org"]) == 0
    assert main(["peers", "add", "ada", ONE.public, "[::1]:4800"]) == 0
    capsys.readouterr()
    assert main(["peers"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["ada", "bob", "ada"]
    assert shown[0].split()[1:] == [ONE.fingerprint, "not", "verified", "may", "call"]
    assert shown[1].endswith("listens at radio.example.org:4747")
    assert main(["peers", "verify", "ada"]) == 0
    assert main(["peers", "rename", "ada", "Ada-Lovelace"]) == 0
    assert [(p["name"], p["role"], p["address"], p["verified"]) for p in listed(capsys)] == [
        ("Ada-Lovelace", "caller", None, True),
        ("bob", "listener", "radio.example.org:4747", False),
        ("Ada-Lovelace", "listener", "[::1]:4800", True),
    ]
    assert main(["peers", "verify", "--undo", "Ada-Lovelace"]) == 0
    assert not any(p["verified"] for p in listed(capsys))
    assert main(["peers", "forget", "Ada-Lovelace"]) == 0
    assert [p["key"] for p in listed(capsys)] == [TWO.public]
    assert known.caller(ONE.public) is None


def test_verifying_shows_the_code_that_both_screens_show(
    known: KnownPeers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen"]) == 0
    own = keys.read_key_pair(keys.default_key_path())
    known.add("ada", ONE.public)
    capsys.readouterr()
    assert main(["peers", "verify", "ada"]) == 0
    assert keys.authentication_string(own.public, ONE.public) in capsys.readouterr().out


def test_the_rest_of_the_file_stays_as_it_is(known: KnownPeers) -> None:
    known.path.parent.mkdir()
    text = f"# friends\n\n  host:4747   {ONE.public}\nbob {TWO.public}\n# the end"
    known.path.write_text(text)
    assert main(["peers", "verify", "bob"]) == 0
    assert known.path.read_text() == f"{text[:-10]} caller verified\n# the end\n"
    assert main(["peers", "rename", "host:4747", "ada"]) == 0
    found = known.listener_named("ada")
    assert found is not None and found.address == Address("host", 4747)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "localhost:4747", TWO.public], "cannot be a peer's name"),
        (["add", "ada", TWO.public], "known by another key"),
        (["add", "eve", ONE.public], "known already, as ada"),
        (["add", "eve", "no-key"], "cannot read no-key"),
        (["add", "eve", TWO.public, "host:x"], "the port is not a number"),
        (["add", "eve", TWO.public, "host"], "the listener at host:4747 is bob"),
        (["add", "eve", TWO.public, "*"], "a listener's address names a host"),
        (["add", "eve", TWO.public, ""], "a listener's address names a host"),
        (["add", "eve", TWO.public, ":5"], "a listener's address names a host"),
        (["rename", "ada", "bob"], "bob is somebody else"),
        (["rename", "ada", "10.0.0.1"], "cannot be a peer's name"),
        (["rename", "eve", "eva"], "nobody is known as eve"),
        (["verify", "eve"], "nobody is known as eve"),
        (["forget", "ada\x1b[2J"], r"nobody is known as ada\x1b[2J"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    known: KnownPeers, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    known.add("ada", ONE.public)
    known.add("bob", keys.generate().public, Address("host", 4747))
    before = known.path.read_bytes()
    assert main(["peers", *words]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert known.path.read_bytes() == before


def test_a_call_by_name_reaches_listeners_alone(known: KnownPeers) -> None:
    known.add("ada", ONE.public, Address("radio.example.org", 0))
    known.add("bob", TWO.public)
    assert known_address("ada") == Address("radio.example.org", 4747)
    assert known_address("bob") is None
    assert known_address("radio.example.org") is None


def test_a_call_by_name_goes_where_the_name_says(
    known: KnownPeers, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no further than the file of known peers allows, when others can write that."""
    known.add("ada", ONE.public, Address("192.0.2.1", 9))
    known.path.chmod(0o666)
    assert main(["call", "ada", "--headless", "--output", "none", "--input", "none"]) == 1
    assert "chmod go-w" in capsys.readouterr().err


def test_a_key_that_begins_as_options_do_is_a_key(known: KnownPeers) -> None:
    key = next(k for k in iter(lambda: keys.generate().public, None) if k.startswith("-"))
    assert main(["peers", "add", "eve", key]) == 0
    assert build_parser().parse_args(["call", "host", "--peer-key", key]).peer_key == key
    assert main(["peers", "add", "bob", key[:-1]]) == 2
    record = f"--record=/{'a' * 26}.wav"
    assert len(record) == len(key)
    assert build_parser().parse_args(["call", "host", record]).record == record[9:]
