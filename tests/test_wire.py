"""The link's messages: golden bytes, round trips, and the rejection of everything else."""

from __future__ import annotations

import binascii
import json
import re
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput, BadStream, WrongVersion
from stream.link import wire
from stream.link.wire import MAX_MESSAGE, MAX_PACKET, Echo, Talk, decode, encode

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/messages-2.json").read_text())
HANDSHAKE = [case for case in GOLDEN if case["form"] == "handshake"]
TALK = [case for case in GOLDEN if case["form"] != "handshake"]
SEALED = [case for case in GOLDEN if case["form"] != "secured"]

numbers = st.integers(0, 2**32 - 1)
parties = st.integers(0, 255)
shorts = st.integers(0, 65535)
stamps = st.integers(0, 2**24 - 1)
models = st.binary(min_size=8, max_size=8).map(bytes.hex)
eight = st.binary(min_size=8, max_size=8)
keys = st.binary(min_size=32, max_size=32)
echoes = st.none() | st.builds(Echo, stamps, stamps)
packets = st.one_of(
    st.binary(min_size=1, max_size=80), st.sampled_from([bytes(1000), bytes(MAX_PACKET)])
)


def texts(limit):
    return st.text(max_size=limit // 4)


handshakes = st.one_of(
    st.builds(wire.Hello, models, texts(16), texts(64), st.booleans(), eight, numbers),
    st.builds(wire.Welcome, parties, eight, models, texts(16), texts(64), st.booleans()),
    st.builds(wire.Refuse, st.sampled_from(wire.Refusal), texts(200)),
    st.just(wire.Who()),
    st.builds(wire.Key, keys),
)
messages = st.one_of(
    st.builds(wire.PartyJoined, parties, keys, texts(16), texts(64)),
    st.builds(wire.PartyLeft, parties, texts(200)),
    st.builds(
        wire.Audio,
        st.integers(0, 15),
        st.integers(0, 65535),
        stamps,
        packets,
        st.integers(0, 65535),
        st.none() | st.integers(0, 255),
        echoes,
    ),
    st.builds(wire.Heartbeat, stamps, echoes),
    st.builds(wire.Preset, parties, texts(16)),
    st.builds(wire.Delay, parties, numbers),
    st.builds(wire.Bye, texts(200)),
    st.builds(wire.KeyWanted, parties),
    st.builds(wire.Text, parties, texts(200)),
    st.builds(wire.Recording, parties, st.booleans()),
    st.builds(
        wire.Late,
        parties,
        shorts,
        shorts,
        st.booleans(),
        st.booleans(),
        shorts,
        shorts,
        packets,
    ),
    st.builds(wire.Got, parties, shorts, shorts),
)
talks = st.builds(Talk, st.none() | numbers)


def name_of(case):
    return f"{case['message']}, {case['form']}"


def from_json(case):
    fields = dict(case["fields"])
    for name in ("nonce", "instance", "key", "packet"):
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    if "code" in fields:
        fields["code"] = wire.Refusal(fields["code"])
    if "echo" in fields:
        fields["echo"] = Echo(**fields["echo"])
    return getattr(wire, case["message"])(**fields)


def talk_of(case):
    return Talk(case["session"] if case["form"] == "unsecured" else None)


def read(case, data):
    """What a reader makes of `data` where it expects a message of this form."""
    if case["form"] == "handshake":
        return decode(data)
    return case["session"], talk_of(case).decode(data)


def checked(data):
    """A second implementation of the checksum, from docs/wire.md."""
    return data + struct.pack(">I", binascii.crc32(data))


def sealed(kind, version, session, body):
    """A second implementation of the handshake's envelope."""
    return checked(bytes([kind, version]) + session.to_bytes(4, "big") + body)


@pytest.mark.parametrize("case", GOLDEN, ids=name_of)
def test_golden_bytes(case):
    message = from_json(case)
    data = bytes.fromhex(case["bytes"])
    if case["form"] == "handshake":
        assert encode(message, case["session"]) == data
    else:
        assert talk_of(case).encode(message) == data
    assert read(case, data) == (case["session"], message)


def test_the_longest_message_holds_the_longest_packet():
    echo = Echo(2**24 - 1, 2**24 - 1)
    message = wire.Audio(15, 65535, 2**24 - 1, b"x" * MAX_PACKET, 65535, 255, echo)
    for talk, length in ((Talk(2**32 - 1), MAX_MESSAGE), (Talk(None), MAX_MESSAGE - 8)):
        data = talk.encode(message)
        assert len(data) == length
        assert talk.decode(data) == message
    page = (ROOT / "docs/wire.md").read_text()
    assert f"at most {MAX_MESSAGE} bytes" in page
    assert f"session packet (1 to {MAX_PACKET})" in page


def test_audio_takes_eight_bytes_of_a_secured_link_and_six_more_with_an_echo():
    audio = wire.Audio(1, 2, 3, b"packet", 4)
    assert len(Talk(None).encode(audio)) == 8 + len(b"packet")
    echoing = wire.Audio(1, 2, 3, b"packet", 4, None, Echo(6, 7))
    assert len(Talk(None).encode(echoing)) == 14 + len(b"packet")
    echoing = wire.Audio(1, 2, 3, b"packet", 4, 5, Echo(6, 7))
    assert len(Talk(None).encode(echoing)) == 15 + len(b"packet")


def test_every_type_has_a_golden_message():
    found = {bytes.fromhex(case["bytes"])[0] for case in GOLDEN}
    assert {min(first, wire.Type.AUDIO) for first in found} == set(wire.Type)
    assert {case["form"] for case in TALK if case["message"] == "Audio"} == {
        "secured",
        "unsecured",
    }


def test_the_examples_on_the_wire_page_are_the_golden_messages():
    page = (ROOT / "docs/wire.md").read_text()
    shown = [
        bytes.fromhex(re.sub(r"\s", "", block)).hex()
        for block in re.findall(r"```message\n(.*?)```", page, re.DOTALL)
    ]
    assert shown == [case["bytes"] for case in GOLDEN]


def test_the_page_alone_suffices_for_a_hello_and_for_audio():
    body = bytes(range(8)) + b"\0\0\0\7" + bytes.fromhex("0123456789abcdef") + b"\1"
    body += b"\x022k" + b"\x04" + "Zoë".encode()
    assert decode(sealed(1, 2, 0, body)) == (
        0,
        wire.Hello("0123456789abcdef", "2k", "Zoë", True, bytes(range(8)), 7),
    )
    audio = b"\xe3" + b"\xff\xf0" + b"\0\0\1" + b"\0\4" + b"\5" + b"\0\0\2" + b"\0\0\3" + b"speech"
    message = wire.Audio(3, 65520, 1, b"speech", 4, 5, Echo(2, 3))
    assert Talk(None).decode(audio) == message
    assert Talk(0x01020304).decode(checked(audio[:1] + b"\1\2\3\4" + audio[1:])) == message


@given(handshakes, numbers)
def test_round_trip_of_a_handshake(message, session):
    data = encode(message, session)
    assert len(data) <= MAX_MESSAGE
    assert decode(data) == (session, message)


@given(messages, talks)
def test_round_trip_in_talk(message, talk):
    data = talk.encode(message)
    assert len(data) <= MAX_MESSAGE
    assert talk.decode(data) == message


@given(st.binary(max_size=MAX_MESSAGE + 50), numbers)
def test_arbitrary_bytes_without_a_checksum_are_refused(data, session):
    for reader in (decode, Talk(session).decode):
        with pytest.raises(BadStream):
            reader(data)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=120))
def test_arbitrary_bodies_of_a_handshake_are_read_or_refused(kind, version, body):
    data = sealed(kind, version, 5, body)
    try:
        session, message = decode(data)
    except (BadStream, WrongVersion):
        return
    # What was understood says the same again (codes not known are read as OTHER).
    if version == 2 and not (isinstance(message, wire.Refuse) and message.code == 0):
        assert encode(message, session) == data


@given(st.integers(0, 255), st.binary(max_size=120) | st.sampled_from([bytes(MAX_MESSAGE)]))
def test_arbitrary_bodies_in_talk_are_read_or_refused(first, body):
    """CURVE vouches for where bytes come from, not for sense."""
    for talk, data in (
        (Talk(None), bytes([first]) + body),
        (Talk(5), checked(bytes([first]) + b"\0\0\0\5" + body)),
    ):
        try:
            message = talk.decode(data)
        except BadStream:
            continue
        assert talk.encode(message) == data


@pytest.mark.parametrize("case", SEALED, ids=name_of)
def test_every_single_bit_flip_is_rejected(case):
    data = bytes.fromhex(case["bytes"])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(BadStream):
            read(case, changed)


@pytest.mark.parametrize("case", GOLDEN, ids=name_of)
def test_cut_and_extended_messages_are_rejected(case):
    data = bytes.fromhex(case["bytes"])
    # Of an unsealed one, a shorter packet or no echo is a message too.
    loose = case["message"] in ("Audio", "Heartbeat", "Late") and case["form"] == "secured"
    for end in range(1 if loose else len(data)):
        with pytest.raises(BadStream):
            read(case, data[:end])
    if not loose:
        with pytest.raises(BadStream):
            read(case, data + b"\0")
    if case["message"] not in ("Audio", "Late") and case["form"] != "secured":
        with pytest.raises(BadStream):
            read(case, checked(data[:-4] + b"\0"))


def test_incomplete_heads_of_audio_and_echoes_are_rejected():
    talk = Talk(None)
    audio = talk.encode(wire.Audio(1, 2, 3, b"p", 4, 5, Echo(6, 7)))
    for end in range(len(audio)):
        with pytest.raises(BadStream):
            talk.decode(audio[:end])
    beat = talk.encode(wire.Heartbeat(3, Echo(6, 7)))
    for end in range(len(beat)):
        if end != 4:
            with pytest.raises(BadStream):
                talk.decode(beat[:end])
    with pytest.raises(BadStream):
        talk.decode(beat + b"\0")


def test_audio_of_reserved_bits_or_too_long_is_rejected():
    talk = Talk(None)
    audio = talk.encode(wire.Audio(1, 2, 3, b"x" * MAX_PACKET))
    with pytest.raises(BadStream, match="reserved"):
        talk.decode(bytes([audio[0] | 0x10]) + audio[1:])
    with pytest.raises(BadStream, match="cannot have 1027 bytes"):
        talk.decode(audio + b"x")


@pytest.mark.parametrize("case", TALK, ids=name_of)
def test_messages_in_talk_are_not_taken_for_a_handshake_nor_of_another_session(case):
    data = bytes.fromhex(case["bytes"])
    with pytest.raises((BadStream, WrongVersion)):
        decode(data)
    with pytest.raises(BadStream):
        Talk(case["session"] ^ 1).decode(data)


def test_another_version_is_told_apart_from_damage():
    with pytest.raises(WrongVersion, match="version 3"):
        decode(sealed(1, 3, 0, b"what version 3 says"))
    refusal = sealed(3, 9, 0, b"\x01\x03why")
    assert decode(refusal) == (0, wire.Refuse(wire.Refusal.WRONG_VERSION, "why"))
    assert decode(sealed(3, 2, 0, b"\xc8\x03why")) == (0, wire.Refuse(wire.Refusal.OTHER, "why"))


def test_version_one_is_refused_in_words_it_reads():
    """Bytes of version 1, whose REFUSE differs by nothing but the version that it names."""
    hello = bytes.fromhex(
        "0101000000000102030405060708000000019f3c0a1b2c3d4e5f0002326b045a6fc3ab652ad97d"
    )
    with pytest.raises(WrongVersion, match=r"speaks version 1 of the protocol, this .* version 2"):
        decode(hello)
    why = "the listener is in another call"
    refusal = encode(wire.Refuse(wire.Refusal.BUSY, why))
    of_version_one = sealed(3, 1, 0, b"\3" + bytes([len(why)]) + why.encode())
    assert refusal[2:-4] == of_version_one[2:-4]
    assert decode(of_version_one) == decode(refusal)


@pytest.mark.parametrize(
    "message",
    [
        wire.Hello("0123", "2k", "", False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "x" * 65, False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "\ud800", False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "", False, bytes(7), 0),
    ],
    ids=lambda message: str(asdict(message))[:50],
)
def test_a_handshake_that_does_not_fit_is_not_written(message):
    with pytest.raises(BadInput):
        encode(message)


@pytest.mark.parametrize(
    "message",
    [
        wire.Audio(0, 1 << 16, 0, b"x"),
        wire.Audio(0, 0, 1 << 24, b"x"),
        wire.Audio(0, 0, 0, b""),
        wire.Audio(0, 0, 0, b"x" * (MAX_PACKET + 1)),
        wire.Audio(16, 0, 0, b"x"),
        wire.Audio(0, 0, 0, b"x", 1 << 16),
        wire.Audio(0, 0, 0, b"x", 0, 256),
        wire.Audio(0, 0, 0, b"x", 0, 0, Echo(0, 1 << 24)),
        wire.Heartbeat(-1),
        wire.KeyWanted(256),
        wire.Bye("y" * 201),
        wire.Text(1, "y" * 201),
    ],
    ids=lambda message: str(asdict(message))[:70],
)
def test_what_does_not_fit_is_not_written(message):
    for talk in (Talk(None), Talk(7)):
        with pytest.raises(BadInput):
            talk.encode(message)


@given(st.text(max_size=100), st.integers(0, 64))
def test_clipped_text_fits_and_is_printable(text, limit):
    short = wire.clipped(text, limit)
    assert len(short.encode()) <= limit
    assert short.isprintable()


@pytest.mark.parametrize(
    ("seconds", "heard"),
    [
        (None, None),
        (0.0, 0.0),
        (0.0181, 0.018),
        (-1.0, 0.0),
        (0.508, 0.508),
        (0.51, None),
        (9, None),
    ],
)
def test_capture_delays_go_over_the_wire_in_steps_of_two_milliseconds(seconds, heard):
    assert wire.capture_seconds(wire.capture_steps(seconds)) == (
        heard if heard is None else pytest.approx(heard)
    )


@pytest.mark.parametrize(
    ("seconds", "heard"),
    [(None, None), (-0.1, 0.0), (0.3001, 0.3), (15.0, 15.0), (16.5, 16.3835), (1e9, 16.3835)],
)
def test_ages_go_over_the_wire_in_quarters_of_a_millisecond(seconds, heard):
    assert wire.age_seconds(wire.age_steps(seconds)) == (
        heard if heard is None else pytest.approx(heard)
    )


@pytest.mark.parametrize(("logarithm", "steps"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (7, 16)])
def test_a_packet_says_how_many_steps_it_holds(logarithm, steps):
    for others in (0x00, 0xF1):
        assert wire.packet_steps(bytes([others | logarithm << 1, 42]) + b"payload") == steps


@pytest.mark.parametrize(
    ("hostile", "seen"),
    [
        ("Z" + "\u0351\u0338" * 40, "Z\u0351\u0338\u0351\u0338"),  # piled up
        (
            "A\u20dd\u0489" * 3 + "\u20dd" * 9,
            "A\u20dd\u0489" * 2 + "A" + "\u20dd\u0489\u20dd\u20dd",
        ),
        ("\u0338eve \u0338\u0351x", "eve x"),  # they would stand on what is before
        ("ada\u3164", "ada"),
        ("\u115f\u2800\uffa0\u1160", ""),
        ("a\u034fd\ufe0fa\U000e0100", "ada"),
        ("ada\u200b\u2060\u202e\ud800", "ada"),
        ("e\u0301a\u0308 \u0e01\u0e34\u0e48 \u05e9\u05c1\u05b8", None),  # marks that belong there
        ("\u0928\u092e\u0938\u094d\u0924\u0947 \u6f22\u5b57 \U0001f600", None),
    ],
)
def test_marks_and_what_cannot_be_seen_are_harmless(hostile, seen):
    assert wire.harmless(hostile) == (hostile if seen is None else seen)
    assert wire.clipped(hostile) == wire.harmless(hostile)
