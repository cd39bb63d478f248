"""The file of known peers: who may call, who is called, and under which names."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from stream.link import keys
from stream.link.address import Address
from stream.link.peers import (
    MAX_PEERS,
    KnownPeers,
    Peer,
    Role,
    TrustWatch,
    check_name,
    parse_peer,
    shown_name,
)

# Always the same: they are in the names of tests.
ONE, TWO, THREE = (keys.key_text(bytes([number]) * 32) for number in (1, 2, 3))
PLACE = Address("ada.example.org", 4747)


@pytest.fixture
def peers(tmp_path: Path) -> KnownPeers:
    return KnownPeers(tmp_path / "sub" / "known-peers")


def test_a_file_that_is_not_there_knows_nobody(peers: KnownPeers) -> None:
    assert peers.peers() == ()
    assert peers.caller(ONE) is None
    assert peers.listener_at("host", 4747) is None
    assert peers.listener_named("host") is None


def test_callers_and_listeners_are_kept_apart(peers: KnownPeers) -> None:
    ada = peers.add("ada", ONE)
    bob = peers.add("bob", TWO, PLACE)
    assert (ada.role, bob.role) == (Role.CALLER, Role.LISTENER)
    assert peers.caller(ONE) == ada
    assert peers.caller(TWO) is None
    assert peers.listener_named("bob") == peers.listener_at("ADA.example.org", 4747) == bob
    assert peers.listener_named("ada") is None
    assert peers.listener_at("ada.example.org", 1) is None
    both = peers.add("ada", ONE, Address("10.0.0.1", 0))
    assert peers.peers() == (ada, bob, both)
    assert peers.path.read_text() == (
        f"ada {ONE} caller\nbob {TWO} listener ada.example.org:4747\nada {ONE} listener 10.0.0.1\n"
    )
    assert stat.S_IMODE(peers.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(peers.path.parent.stat().st_mode) == 0o700
    assert os.listdir(peers.path.parent) == ["known-peers"]


@pytest.mark.parametrize("address", [None, PLACE, Address("::1", 4747), Address("::1", 0)])
@pytest.mark.parametrize("verified", [False, True])
def test_a_line_says_who_it_is_about(address: Address | None, verified: bool) -> None:
    peer = Peer("ada", ONE, address, verified)
    assert parse_peer(peer.line()) == peer


def test_the_files_of_earlier_versions_are_read(peers: KnownPeers) -> None:
    peers.path.parent.mkdir()
    peers.path.write_text(
        f"# mine\n\nbob {ONE}\nhost:4747 {TWO}\n127.0.0.1 {TWO}\n[::1]:99 {THREE}\n"
        f"laptop.local {THREE}\nhost:4747-2 {TWO}\nlocalhost {TWO}"
    )
    assert peers.caller(ONE) == Peer("bob", ONE)
    assert peers.caller(TWO) == Peer("host:4747-2", TWO)
    assert peers.caller(THREE) == Peer("laptop.local", THREE)
    assert peers.listener_at("host", 4747) == Peer("host:4747", TWO, Address("host", 4747))
    for host in ("127.0.0.1", "localhost"):
        found = peers.listener_at(host, 1234)
        assert found is not None and found.key == TWO
    found = peers.listener_at("::1", 99)
    assert found is not None and found.key == THREE
    for host in ("bob", "laptop.local", "host:4747-2"):
        assert peers.listener_at(host, 4747) is None
    before = peers.path.read_text()
    peers.add("new", keys.generate().public)
    assert peers.path.read_text().startswith(before + "\nnew ")


def test_a_port_of_its_own_goes_before_any_port(peers: KnownPeers) -> None:
    peers.add("any", ONE, Address("10.0.0.1", 0))
    peers.add("one", TWO, Address("10.0.0.1", 4800))
    names = [found.name for port in (4747, 4800) if (found := peers.listener_at("10.0.0.1", port))]
    assert names == ["any", "one"]


@pytest.mark.parametrize(
    "line",
    [
        "just-a-name",
        "name short",
        f"name {'#' * 40}",
        "a b c",
        f"a {ONE} neither",
        f"a {ONE} listener",
        f"a {ONE} listener *:4747",
        f"a {ONE} listener host:port",
        f"a {ONE} caller host",
        f"a {ONE} caller verified verified",
        f"a {ONE}\na {TWO}",
        f"a {ONE} listener host:1\nb {TWO} listener HOST:1",
    ],
)
def test_damage_is_found_and_nothing_is_written(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peers"
    path.write_text(f"# fine\n\n{line}\n")
    peers = KnownPeers(path)
    with pytest.raises(BadInput, match="peers"):
        peers.peers()
    with pytest.raises(BadInput):
        peers.add("new", THREE)
    assert path.read_text() == f"# fine\n\n{line}\n"


def test_the_line_at_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    path.write_text(f"# fine\nada {ONE}\nbob short\n")
    with pytest.raises(BadInput, match="line 3"):
        KnownPeers(path).peers()
    path.write_bytes(b"x" * (2 << 20))
    with pytest.raises(BadInput, match="too long"):
        KnownPeers(path).peers()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "host:4747",
        "10.0.0.1",
        "a.b",
        "localhost",
        "LocalHost",
        "::1",
        "2130706433",
        "0x7f000001",
        *("#a", "-a", "a b", "a\n", "a\u202eb", '"a"', "a/b", "a" * 65),
    ],
)
def test_names_that_could_be_taken_for_something_else_are_refused(
    peers: KnownPeers, name: str
) -> None:
    with pytest.raises(BadInput):
        peers.add(name, ONE)
    assert peers.peers() == ()


def test_a_recorded_key_is_never_replaced_or_shadowed(peers: KnownPeers) -> None:
    peers.add("ada", ONE, PLACE)
    for name, address in (
        ("ada", PLACE),
        ("ada", None),
        ("Ada", None),
        ("eve", Address("ADA.example.org.", 4747)),
    ):
        with pytest.raises(BadInput):
            peers.add(name, TWO, address)
    with pytest.raises(BadInput, match="as ada"):
        peers.add("eve", ONE, Address("elsewhere", 4747))
    with pytest.raises(BadInput, match="known by another key"):
        peers.record_listener(PLACE, TWO)
    assert peers.peers() == (Peer("ada", ONE, PLACE),)
    assert peers.add("ada", ONE, Address("elsewhere", 1)) == Peer(
        "ada", ONE, Address("elsewhere", 1)
    )
    assert len(peers.peers()) == 1


@given(st.text(max_size=60))
def test_whatever_a_caller_calls_itself_it_is_recorded_as_a_caller(claimed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        peers = KnownPeers(Path(folder, "known-peers"))
        peer = peers.record_caller(claimed, ONE)
        assert peers.peers() == (peer,)
        assert peer.role is Role.CALLER and check_name(peer.name)


def test_a_claimed_name_is_only_a_pattern(peers: KnownPeers) -> None:
    peers.add("ada", ONE, PLACE)
    named = {
        claimed: peers.record_caller(claimed, keys.generate().public).name
        for claimed in ("Ada", "ada", "host:4747", "127.0.0.1", "Zoë at home", "Анна", "", "#\n")
    }
    assert named == {
        "Ada": "Ada-2",
        "ada": "ada-3",
        "host:4747": "host-4747",
        "127.0.0.1": "caller",
        "Zoë at home": "Zoe-at-home",
        "Анна": "caller-2",
        "": "caller-3",
        "#\n": "caller-4",
    }
    for name in named.values():
        check_name(name)
        assert peers.listener_named(name) is None
    assert peers.record_caller("anything", peers.peers()[1].key).name == "Ada-2"


def test_people_are_shown_by_our_name_for_them_and_their_claim_in_quotes() -> None:
    assert shown_name("ada", "Bob") == 'ada "Bob"'
    assert shown_name("ada", "ada") == shown_name("ada", "") == "ada"
    assert shown_name("", "Bob") == '"Bob"'
    assert shown_name("", "") == ""
    assert shown_name("eve", 'x" is ada  "') == "eve \"x' is ada '\""
    for mark in ("\u201c", "\u201d", "\u2033", "\uff02", "\u02ba", "\u301e", "\u05f4", "''"):
        assert shown_name("", f"x{mark} is ada") == '"x\' is ada"'


@given(st.text(max_size=30))
def test_a_claim_never_leaves_its_quotes(claimed: str) -> None:
    shown = shown_name("eve", claimed)
    assert shown == "eve" or (shown.startswith('eve "') and shown.endswith('"'))
    assert shown.count('"') in (0, 2)


def test_a_key_is_revoked_when_two_looks_in_a_row_miss_it() -> None:
    watch = TrustWatch()
    asked: list[tuple[str, ...]] = []

    def keys_now(*trusted: str) -> Callable[[], tuple[str, ...]]:
        def look() -> tuple[str, ...]:
            asked.append(trusted)
            return trusted

        return look

    assert watch.revoked(0.0, keys_now()) == [] and not asked  # nothing to watch
    watch.watch(ONE)
    watch.watch(TWO)
    assert watch.revoked(0.0, keys_now(ONE, TWO)) == []
    assert watch.revoked(0.9, keys_now()) == [] and len(asked) == 1
    assert watch.revoked(1.0, keys_now(TWO)) == []  # being written
    assert watch.revoked(2.0, keys_now(ONE)) == []
    assert watch.revoked(3.0, lambda: None) == []  # damaged
    assert watch.revoked(4.0, keys_now(ONE)) == [TWO]
    assert watch.revoked(5.0, keys_now()) == []
    assert watch.revoked(6.0, keys_now()) == [ONE]
    assert watch.revoked(7.0, keys_now()) == []


def test_a_listener_is_recorded_by_its_address(peers: KnownPeers) -> None:
    peer = peers.record_listener(Address("::1", 4747), ONE)
    assert peer.name == "[::1]:4747"
    assert peers.record_listener(Address("::1", 4747), ONE) == peer
    assert peers.record_listener(PLACE, ONE).name == "ada.example.org:4747"
    assert [known.key for known in peers.peers()] == [ONE, ONE]
    assert peers.listener_at("::1", 4747) == peer


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
@pytest.mark.parametrize("what", ["file", "folder", "folder of a link"])
def test_a_file_that_others_may_write_is_refused(
    peers: KnownPeers, tmp_path: Path, mode: int, what: str
) -> None:
    peers.add("ada", ONE)
    place = peers.path if what == "file" else peers.path.parent
    if what == "folder of a link":
        peers = KnownPeers(tmp_path / "link")
        peers.path.symlink_to(place / "known-peers")
    place.chmod(mode | 0o111 * place.is_dir())
    with pytest.raises(BadInput) as refused:
        peers.peers()
    assert str(refused.value) == f"others can write {place}: run chmod go-w {place}"
    with pytest.raises(BadInput):
        peers.add("bob", TWO)
    place.chmod(0o755)
    assert peers.peers() == (Peer("ada", ONE),)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_no_link_on_the_way_is_in_a_folder_that_others_may_write(
    peers: KnownPeers, tmp_path: Path, linked: str
) -> None:
    peers.add("ada", ONE)
    between, link = tmp_path / "between", tmp_path / "link"
    between.mkdir()
    (between / "link").symlink_to(peers.path if linked == "file" else peers.path.parent)
    link.symlink_to("between/../between/link")
    far = KnownPeers(link if linked == "file" else link / peers.path.name)
    assert far.peers() == (Peer("ada", ONE),)
    between.chmod(0o777)
    with pytest.raises(BadInput, match=r"others can write .*between: run chmod go-w"):
        far.peers()
    between.chmod(0o1777)  # as /tmp
    far.add("bob", TWO)
    assert len(peers.peers()) == 2


def test_nothing_is_written_where_it_could_not_be_read(peers: KnownPeers) -> None:
    peers.path.parent.mkdir(exist_ok=True)
    peers.path.parent.chmod(0o777)
    with pytest.raises(BadInput, match="others can write"):
        peers.add("ada", ONE)
    assert not peers.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(peers: KnownPeers) -> None:
    peers.add("ada", ONE)
    os.chown(peers.path, 12345, -1)
    with pytest.raises(BadInput, match="another user owns"):
        peers.peers()


def test_the_file_is_not_made_for_others_to_write(peers: KnownPeers) -> None:
    before = os.umask(0)
    try:
        peers.add("ada", ONE)
    finally:
        os.umask(before)
    assert peers.peers() == (Peer("ada", ONE),)


def test_the_file_has_a_limit(peers: KnownPeers) -> None:
    peers.path.parent.mkdir()
    peers.path.write_text("".join(f"p{n} {ONE} caller\n" for n in range(MAX_PEERS)))
    with pytest.raises(BadInput, match="remove some"):
        peers.record_caller("one more", TWO)


def test_programs_that_write_at_once_lose_nothing(peers: KnownPeers) -> None:
    new = [keys.generate().public for _ in range(16)]
    threads = [threading.Thread(target=peers.record_caller, args=("bob", key)) for key in new]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {peer.key for peer in peers.peers()} == set(new)
    assert len({peer.name for peer in peers.peers()}) == 16


def test_what_has_not_changed_is_not_parsed_again(
    peers: KnownPeers, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.add("ada", ONE)
    parsed: list[str] = []

    def counting(line: str) -> Peer:
        parsed.append(line)
        return parse_peer(line)

    monkeypatch.setattr("stream.link.peers.parse_peer", counting)
    for _ in range(3):
        assert peers.caller(ONE) is not None
    before = len(parsed)
    assert before <= 1
    # Of the same length and with the old time: only the bytes differ.
    times = os.stat(peers.path)
    peers.path.write_text(peers.path.read_text().replace(ONE, TWO))
    os.utime(peers.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert peers.caller(ONE) is None and peers.caller(TWO) is not None
    assert len(parsed) == before + 1


def test_no_name_has_what_cannot_be_seen(peers):
    with pytest.raises(BadInput, match="cannot be a peer's name"):
        peers.add("ada\u3164", keys.generate().public)
