"""Keys on a connection: who is admitted, who is trusted, and what both sides are told."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import pytest

from codec.errors import SottoError
from stream.link import keys, wire
from stream.link.address import Address
from stream.link.authentication import NewKeys, RateLimit, Security
from stream.link.caller import Caller
from stream.link.events import (
    CallState,
    Joined,
    Left,
    Notice,
    StateChanged,
    Verified,
)
from stream.link.listener import Listener
from stream.link.peers import KnownPeers, Role, parse_peer
from tests.link_peers import (
    GUEST,
    HOST,
    MODEL,
    OPEN,
    WAIT,
    await_that,
    raw_dealer,
)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "*:0"])
def test_without_keys_only_loopback(bind):
    endpoint = Listener(bind, HOST, OPEN)
    with pytest.raises(SottoError, match="--insecure"):
        endpoint.start()
    endpoint.close()
    insecure = Listener(bind, HOST, Security(insecure=True))
    insecure.start()
    insecure.close()
    caller = Caller("192.0.2.1", 4747, GUEST, OPEN)
    with pytest.raises(SottoError, match="--insecure"):
        caller.start()


@pytest.fixture
def people(tmp_path):
    """Security of the host and the guest, who do not know each other yet."""
    return tuple(
        Security(keys.generate(), KnownPeers(tmp_path / name)) for name in ("host", "guest")
    )


def test_a_secured_call(ends, people):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest_side.known.add("ann", host_side.keys.public, Address("127.0.0.1", 0))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    assert guest.joined().fingerprint == host_side.keys.fingerprint
    assert host.joined().fingerprint == guest_side.keys.fingerprint
    assert host.say(b"secret", time.monotonic())
    guest.audio(b"secret")
    assert guest.endpoint.link().secured
    assert guest.endpoint.link().own_fingerprint == guest_side.keys.fingerprint


def test_a_key_is_verified_from_either_end_as_the_known_peers_do_it(ends, people):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host_side.known.add("eve", keys.generate().public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest_side.known.add("ann", host_side.keys.public, Address("127.0.0.1", 0))
    guest_side.known.add("ann", host_side.keys.public)  # who calls us, too
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    for ear, side in ((host, host_side), (guest, guest_side)):
        joined = ear.joined()
        assert joined.code and not joined.verified
        for party, code in ((joined.party, ""), (joined.party, joined.code[1:]), (9, joined.code)):
            with pytest.raises(SottoError, match="not the code of anybody"):
                ear.endpoint.verify(party, code)
        assert not any(peer.verified for peer in side.known.peers())
        ear.endpoint.verify(joined.party, joined.code)
        assert ear.until(lambda event: isinstance(event, Verified)) == Verified(joined.party)
        key = (guest_side if side is host_side else host_side).keys.public
        assert all(peer.verified == (peer.key == key) for peer in side.known.peers())
    guest.endpoint.close()
    again = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    assert again.joined().verified


@pytest.mark.parametrize("side", [0, 1], ids=["listener", "caller"])
def test_what_another_program_says_of_a_key_counts_during_the_call(ends, people, side):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest_side.known.add("ann", host_side.keys.public, Address("127.0.0.1", 0))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    ear, name = ((host, "bob"), (guest, "ann"))[side]
    party = ear.joined().party
    elsewhere = KnownPeers(people[side].known.path)
    for verified in (True, False):
        ear.forget()
        elsewhere.verify(name, verified)
        seen = ear.until(lambda event: isinstance(event, Verified), 10.0)
        assert seen == Verified(party, verified)
        time.sleep(1.1)  # said once
        ear.heard += ear.endpoint.events(0.0)
        assert sum(isinstance(event, Verified) for event in ear.heard) == 1


def test_nobody_is_verified_who_is_not_known(ends, people):
    host_side, guest_side = people
    host_side = replace(host_side, peer_key=guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest_side = replace(guest_side, peer_key=host_side.keys.public)
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    for ear, side in ((host, host_side), (guest, guest_side)):
        joined = ear.joined()
        with pytest.raises(SottoError, match="not among the known peers"):
            ear.endpoint.verify(joined.party, joined.code)
        assert not side.known.path.exists()


def test_of_others_in_a_room_the_hub_s_word_alone_is_no_code(ends, people, tmp_path):
    host_side, guest_side = people
    other_keys = keys.generate()
    other_side = Security(
        other_keys, KnownPeers(tmp_path / "other"), peer_key=host_side.keys.public
    )
    host_side.known.add("bob", guest_side.keys.public)
    host_side.known.add("cyd", other_keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side, room=True))
    guest_side = replace(guest_side, peer_key=host_side.keys.public)
    guest_side.known.add("cyd", other_keys.public)
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    other = ends(Caller("127.0.0.1", host.endpoint.port, replace(GUEST, name="Cyd"), other_side))
    other.state(CallState.TALKING)
    cyd = guest.until(lambda event: isinstance(event, Joined) and event.name == "Cyd")
    assert cyd.fingerprint == other_keys.fingerprint and not cyd.code
    code = guest_side.code_with(other_keys.public)
    for said in ("", code):
        with pytest.raises(SottoError, match="not the code"):
            guest.endpoint.verify(cyd.party, said)
    assert not any(peer.verified for peer in guest_side.known.peers())


def test_a_key_that_has_changed_meanwhile_is_not_verified(tmp_path):
    known = KnownPeers(tmp_path / "known")
    known.add("ann", keys.generate().public)
    with pytest.raises(SottoError, match="another key now"):
        known.verify("ann", key=keys.generate().public)
    assert not known.peers()[0].verified


def test_both_ends_show_one_code_and_say_secured_only_once_connected(ends, people):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    host.state(CallState.WAITING)
    assert not host.endpoint.link().secured
    assert host.endpoint.link().own_fingerprint == host_side.keys.fingerprint
    port = host.endpoint.port
    guest_side.known.path.write_text(
        f"ann {host_side.keys.public} listener 127.0.0.1:{port} verified\n"
    )
    guest = ends(Caller("127.0.0.1", port, GUEST, guest_side))
    here, there = host.joined(), guest.joined()
    assert (here.verified, there.verified) == (False, True)
    code = keys.authentication_string(host_side.keys.public, guest_side.keys.public)
    assert here.code == there.code == code
    assert host.endpoint.link().secured and guest.endpoint.link().secured
    guest.endpoint.close()
    host.until(lambda e: isinstance(e, Left))
    await_that(lambda: not host.endpoint.link().secured)


@pytest.mark.parametrize("secured", [False, True])
def test_the_longest_packet_goes_both_ways(ends, people, secured):
    host_side, guest_side = people
    if not secured:
        host_side = guest_side = OPEN
    else:
        host_side.known.add("bob", guest_side.keys.public)
        guest_side.known.add("ann", host_side.keys.public, Address("127.0.0.1", 0))
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    packet = bytes(range(256)) * 4 + b"\2\0"
    assert len(packet) == wire.MAX_PACKET
    for one, other in ((host, guest), (guest, host)):
        one.state(CallState.TALKING)
        assert one.say(packet, time.monotonic())
        other.audio(packet)


def test_an_unknown_key_is_reported_on_both_sides(ends, people):
    host_side, guest_side = people
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    guest = ends(
        Caller(
            "127.0.0.1",
            host.endpoint.port,
            GUEST,
            replace(guest_side, peer_key=host_side.keys.public),
        )
    )
    shown = guest_side.keys.fingerprint
    assert f"does not know our key {shown}" in guest.state(CallState.REFUSED).reason
    host.until(lambda e: isinstance(e, Notice) and shown in e.text)
    assert not any(isinstance(event, Joined) for event in host.heard)


def test_a_listener_with_another_key_is_reported_on_both_sides(ends, people):
    host_side, guest_side = people
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    expected = keys.generate().public
    guest = ends(
        Caller("127.0.0.1", host.endpoint.port, GUEST, replace(guest_side, peer_key=expected))
    )
    reason = guest.state(CallState.REFUSED).reason
    assert "not the expected one" in reason
    assert keys.fingerprint(expected) in reason
    host.until(lambda e: isinstance(e, Notice) and "another key" in e.text)


def test_a_caller_without_keys_is_not_let_in(ends, people):
    host = ends(Listener("127.0.0.1:0", HOST, people[0]))
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, OPEN))
    assert "key" in guest.state(CallState.REFUSED).reason
    assert not any(isinstance(event, Joined) for event in host.endpoint.events(0.1))


def test_trust_on_first_use(ends, people):
    host_side, guest_side = (replace(side, trust_new=True) for side in people)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    port = host.endpoint.port
    guest = ends(Caller("127.0.0.1", port, GUEST, guest_side))
    guest.state(CallState.TALKING)
    host.state(CallState.TALKING)
    assert guest_side.known.listener_at("127.0.0.1", port).key == host_side.keys.public
    (bob,) = host_side.known.peers()
    assert (bob.name, bob.key, bob.role) == ("Bob", guest_side.keys.public, Role.CALLER)
    guest.endpoint.close()
    host.endpoint.close()
    # Known now: no trust needed. And another key at that address is not taken for it.
    ends(Listener(f"127.0.0.1:{port}", HOST, people[0]))
    ends(Caller("127.0.0.1", port, GUEST, people[1])).state(CallState.TALKING)


@pytest.mark.parametrize("claim", ["127.0.0.1:{port}", "127.0.0.1", "localhost", "Ann", "ann"])
def test_no_name_that_a_caller_gives_itself_makes_it_a_listener(ends, people, claim):
    """It is let in under the address of a listener that its victim calls later."""
    victim, attacker = people
    real = ends(Listener("127.0.0.1:0", HOST, replace(attacker, trust_new=True)))
    port = real.endpoint.port
    friend = keys.generate().public
    victim.known.add("Ann", friend, Address("example.org", 4747))
    host = ends(Listener("127.0.0.1:0", HOST, replace(victim, trust_new=True)))
    evil = replace(GUEST, name=claim.format(port=port))
    attack = replace(attacker, peer_key=victim.keys.public)
    ends(Caller("127.0.0.1", host.endpoint.port, evil, attack)).state(CallState.TALKING)
    host.until(lambda e: isinstance(e, Notice) and "is now trusted" in e.text)
    assert victim.known.listener_at("127.0.0.1", port) is None
    assert victim.known.listener_at("localhost", port) is None
    assert victim.known.listener_named("Ann").key == friend
    assert victim.known.caller(attacker.keys.public).name.casefold() not in (claim, "ann")
    for name in ("127.0.0.1", "localhost"):
        caller = Caller(name, port, GUEST, victim)
        with pytest.raises(SottoError, match="is not known"):
            caller.start()


def test_a_peer_is_not_shown_by_the_name_of_another(ends, people):
    """Eve, who is known, calls herself Ann, who is known too; and so on the other side."""
    host_side, guest_side = people
    host_side.known.add("Ann", keys.generate().public)
    host_side.known.add("Eve", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", replace(HOST, name="Bob"), host_side))
    port = host.endpoint.port
    guest_side.known.add("Mallory", host_side.keys.public, Address("127.0.0.1", port))
    guest = ends(Caller("127.0.0.1", port, replace(GUEST, name='Ann" "'), guest_side))
    assert host.joined().shown == "Eve \"Ann' '\""
    assert guest.joined().shown == 'Mallory "Bob"'
    assert host.state(CallState.TALKING).reason.startswith("Eve ")
    assert guest.state(CallState.TALKING).reason == 'connected to Mallory "Bob"'
    await_that(lambda: host.endpoint.link().peer.startswith("Eve "))
    guest.endpoint.announce_preset("3k6")
    host.until(lambda e: isinstance(e, Notice) and e.text.startswith("Eve ") and "3k6" in e.text)


def test_a_key_is_trusted_for_one_role_alone(ends, people):
    """Whom we call may not for that reason call us, nor are we to call who may call us."""
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public, Address("127.0.0.1", 0))
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    knowing = replace(guest_side, peer_key=host_side.keys.public)
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, knowing))
    assert "does not know our key" in guest.state(CallState.REFUSED).reason
    guest_side.known.add("ann", host_side.keys.public)
    caller = Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side)
    with pytest.raises(SottoError, match="is not known"):
        caller.start()


def connected(ends, people):
    """A secured call of two who know each other: (host's ear, guest's ear)."""
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    port = host.endpoint.port
    guest_side.known.add("ann", host_side.keys.public, Address("127.0.0.1", port))
    guest = ends(Caller("127.0.0.1", port, GUEST, guest_side))
    for ear in (host, guest):
        ear.state(CallState.TALKING)
    return host, guest


def rewrite(known, old, new):
    known.path.write_text(known.path.read_text().replace(old, new))


@pytest.mark.parametrize("how", ["removed", "commented out", "changed", "another role"])
def test_a_caller_whose_key_is_not_trusted_any_more_is_put_out(ends, people, how):
    host, guest = connected(ends, people)
    known, key = people[0].known, people[1].keys.public
    if how == "removed":
        known.path.unlink()
    elif how == "commented out":
        rewrite(known, "bob", "# bob")
    elif how == "changed":
        rewrite(known, key, keys.generate().public)
    else:
        rewrite(known, "caller", "listener example.org")
    begun = time.monotonic()
    left = host.until(lambda e: isinstance(e, Left))
    assert "known peers" in left.reason
    host.until(lambda e: isinstance(e, Notice) and e.text.startswith("the key of bob "))
    assert "known peers" in guest.state(CallState.ENDED).reason
    assert time.monotonic() - begun < 5.0
    again = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, people[1]))
    assert "does not know our key" in again.state(CallState.REFUSED).reason


@pytest.mark.parametrize("how", ["removed", "changed", "another role"])
def test_a_call_to_a_listener_that_is_not_trusted_any_more_ends(ends, people, how):
    host, guest = connected(ends, people)
    known = people[1].known
    if how == "removed":
        known.path.write_text("")
    elif how == "changed":
        rewrite(known, people[0].keys.public, keys.generate().public)
    else:
        known.path.write_text(f"ann {people[0].keys.public} caller\n")
    assert "known peers" in guest.state(CallState.ENDED).reason
    assert "known peers" in host.until(lambda e: isinstance(e, Left)).reason


def test_who_is_put_out_cannot_come_back_on_the_connection_it_has(ends, people):
    """The handshake, where the key was asked for, is behind it."""
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, replace(host_side, trust_new=True)))
    with raw_dealer(host.endpoint.port, guest_side.keys, host_side.keys.public) as dealer:
        hello = wire.Hello(MODEL, "2k", "Bob", False, bytes(8), 1)
        dealer.send(wire.encode(hello))
        assert isinstance(wire.decode(received(dealer))[1], wire.Welcome)
        host.joined()
        host_side.known.path.unlink()
        host.until(lambda e: isinstance(e, Left))
        for attempt, nonce in ((2, bytes(8)), (1, b"another!")):
            dealer.send(wire.encode(replace(hello, nonce=nonce, attempt=attempt)))
        answers: list[bytes] = []
        while len(answers) < 2:
            data = received(dealer)
            if data[:1] == bytes([wire.Type.REFUSE]):
                answers.append(data)
        assert all(b"known peers" in data for data in answers)
    assert host_side.known.peers() == ()
    assert sum(isinstance(event, Joined) for event in host.heard) == 1


def received(dealer):
    assert dealer.poll(60_000)
    return dealer.recv()


def test_one_new_key_is_trusted_and_no_more(ends, people):
    """Many keys, one after another: each would have been let in at once, and for good."""
    host_side = replace(people[0], trust_new=True)
    host = ends(Listener("127.0.0.1:0", replace(HOST, room=True), host_side, room=True))
    port = host.endpoint.port
    knowing = replace(people[1], peer_key=host_side.keys.public)
    ends(Caller("127.0.0.1", port, replace(GUEST, room=True), knowing)).state(CallState.TALKING)
    for _ in range(5):
        other = replace(knowing, keys=keys.generate())
        refused = ends(Caller("127.0.0.1", port, replace(GUEST, room=True), other))
        assert "does not know our key" in refused.state(CallState.REFUSED).reason
    assert [peer.key for peer in host_side.known.peers()] == [people[1].keys.public]


def test_as_many_new_keys_as_allowed_are_trusted_though_not_at_once(ends, people):
    host_side = replace(people[0], trust_new=True, trust_most=100)
    host = ends(Listener("127.0.0.1:0", replace(HOST, room=True), host_side, room=True))
    refused = 0
    for _ in range(6):
        side = Security(keys.generate(), people[1].peers, peer_key=host_side.keys.public)
        guest = ends(Caller("127.0.0.1", host.endpoint.port, replace(GUEST, room=True), side))
        answer = guest.until(
            lambda e: isinstance(e, StateChanged) and e.state is not CallState.CONNECTING
        )
        refused += answer.state is CallState.REFUSED and "too many new" in answer.reason
    assert refused == 3
    assert len(host_side.known.peers()) == 3


def test_new_keys_are_counted_and_their_rate_is_bounded():
    new = NewKeys(5)
    taken = [t for t in range(0, 300, 10) if new.take(float(t))]
    assert taken == [0, 10, 20, 60, 70] and new.left == 0
    assert not NewKeys(0).take(0.0)


def test_a_file_that_others_may_write_lets_nobody_in(ends, people):
    """Found out at the start, or, where it comes to be so later, said in the log."""
    host, guest = connected(ends, people)
    people[0].known.path.chmod(0o666)
    notice = host.until(lambda e: isinstance(e, Notice) and "others can write" in e.text)
    assert notice.level == "error"
    guest.endpoint.close()
    again = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, people[1]))
    again.state(CallState.REFUSED)
    with pytest.raises(SottoError, match="chmod go-w"):
        Listener("127.0.0.1:0", HOST, people[0]).start()
    people[1].known.path.chmod(0o666)
    with pytest.raises(SottoError, match="chmod go-w"):
        Caller("127.0.0.1", host.endpoint.port, GUEST, people[1]).start()


def test_asking_again_and_again_parses_the_known_peers_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SOTTO_HOME", str(tmp_path))
    people = KnownPeers()
    for number in range(20):
        people.add(f"friend-{number}", keys.generate().public)
    parsed = []

    def counting(line):
        parsed.append(line)
        return parse_peer(line)

    monkeypatch.setattr("stream.link.peers.parse_peer", counting)
    side = Security(keys.generate())  # as calls have it: the default file
    for _ in range(50):  # whoever connects has one looked up
        assert not side.knows_caller(keys.generate().public)
    assert len(parsed) == 20


def test_who_was_let_in_by_the_command_line_stays(ends, people):
    host_side, guest_side = people
    host_side.known.add("bob", guest_side.keys.public)
    host = ends(Listener("127.0.0.1:0", HOST, replace(host_side, peer_key=guest_side.keys.public)))
    guest_side = replace(guest_side, peer_key=host_side.keys.public)
    guest = ends(Caller("127.0.0.1", host.endpoint.port, GUEST, guest_side))
    guest.state(CallState.TALKING)
    host.joined()
    host_side.known.path.unlink()
    with pytest.raises(AssertionError):
        host.until(lambda e: isinstance(e, Left), 3.0)


def test_a_changed_key_is_refused(ends, people):
    host_side, guest_side = (replace(side, trust_new=True) for side in people)
    host = ends(Listener("127.0.0.1:0", HOST, host_side))
    port = host.endpoint.port
    guest_side.known.record_listener(Address("127.0.0.1", port), keys.generate().public)
    guest = ends(Caller("127.0.0.1", port, GUEST, guest_side))
    assert "has changed" in guest.state(CallState.REFUSED).reason


def test_an_unknown_listener_needs_trust(people):
    guest = Caller("127.0.0.1", 4747, GUEST, people[1])
    with pytest.raises(SottoError, match="--trust-new"):
        guest.start()


def test_an_introduction_holds_the_key_and_is_given_only_to_new_callers(ends, people):
    """On the port for calls: who asks before ZMTP is told, where new callers are taken."""

    def answer(host):
        with socket.create_connection(("127.0.0.1", host.endpoint.port)) as peer:
            peer.settimeout(WAIT)
            peer.sendall(wire.encode(wire.Who()))
            with contextlib.suppress(ConnectionError):
                return b"".join(iter(lambda: peer.recv(100), b""))
        return b""

    told = wire.encode(wire.Key(keys.key_bytes(people[0].keys.public)))
    assert answer(ends(Listener("127.0.0.1:0", HOST, replace(people[0], trust_new=True)))) == told
    assert answer(ends(Listener("127.0.0.1:0", HOST, replace(people[0], ring=True)))) == told
    assert answer(ends(Listener("127.0.0.1:0", HOST, people[0]))) == b""
    assert answer(ends(Listener("127.0.0.1:0", HOST, replace(OPEN, trust_new=True)))) == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n and so on, for longer than a key would be",
        wire.encode(wire.Key(bytes(32)))[:-1],
        wire.encode(wire.Key(bytes(32)))[:-1] + b"?",
        wire.encode(wire.Who()).ljust(42, b"\0"),
    ],
    ids=["nothing", "http", "cut", "damaged", "no key"],
)
def test_what_is_no_introduction_is_said_and_asked_for_again(ends, people, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        port = server.getsockname()[1]
        guest = ends(Caller("127.0.0.1", port, GUEST, replace(people[1], trust_new=True)))
        for _ in range(2):
            with server.accept()[0] as asking:
                asking.settimeout(WAIT)
                assert asking.recv(100) == wire.encode(wire.Who())
                asking.sendall(answer)
        assert not people[1].known.path.exists() or not people[1].known.peers()
        guest.endpoint.close()


def test_a_caller_that_gives_up_waits_for_no_introduction(ends, people):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        port = server.getsockname()[1]
        security = replace(people[1], trust_new=True)
        guest = ends(Caller("127.0.0.1", port, GUEST, security, give_up=0.2))
        with server.accept()[0]:
            reason = guest.state(CallState.FAILED).reason
    assert f"no key is shown at 127.0.0.1:{port}" in reason and "--peer-key" in reason


def test_a_rate_limit_counts_any_span_of_time():
    limit = RateLimit(3, 2.0)
    times = (-1.0, -0.5, 0.0, 0.9, 1.1, 1.2, 1.5, 1.9, 2.1)
    assert [t for t in times if limit.allow(t)] == [-1.0, -0.5, 0.0, 1.1, 1.5, 2.1]
