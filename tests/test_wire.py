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
from codec.packet import MAX_PACKET
from stream.link import wire
from stream.link.wire import MAX_MESSAGE, decode, encode

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/messages.json").read_text())

parties = st.integers(0, 255)
stamps = st.integers(0, (1 << 48) - 1)
models = st.binary(min_size=8, max_size=8).map(bytes.hex)
eight = st.binary(min_size=8, max_size=8)
keys = st.binary(min_size=32, max_size=32)


def texts(limit):
    return st.text(max_size=limit // 4)


messages = st.one_of(
    st.builds(
        wire.Hello, models, texts(16), texts(64), st.booleans(), eight, st.integers(0, 2**32 - 1)
    ),
    st.builds(wire.Welcome, parties, eight, models, texts(16), texts(64), st.booleans()),
    st.builds(wire.Refuse, st.sampled_from(wire.Refusal), texts(200)),
    st.builds(wire.PartyJoined, parties, keys, texts(16), texts(64)),
    st.builds(wire.PartyLeft, parties, texts(200)),
    st.builds(
        wire.Audio,
        parties,
        st.integers(0, 2**32 - 1),
        stamps,
        st.one_of(
            st.binary(min_size=1, max_size=80), st.sampled_from([bytes(1000), bytes(MAX_PACKET)])
        ),
        st.integers(0, 255),
    ),
    st.builds(wire.Heartbeat, stamps, stamps, stamps),
    st.builds(wire.Preset, parties, texts(16)),
    st.builds(wire.Delay, parties, st.integers(0, 2**32 - 1)),
    st.builds(wire.Bye, texts(200)),
    st.just(wire.Who()),
    st.builds(wire.Key, keys),
)


def from_json(case):
    fields = dict(case["fields"])
    for name in ("nonce", "instance", "key", "packet"):
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    if "code" in fields:
        fields["code"] = wire.Refusal(fields["code"])
    return getattr(wire, case["message"])(**fields)


def sealed(kind, version, session, body):
    """A second implementation of the envelope, from docs/wire.md."""
    data = bytes([kind, version]) + session.to_bytes(4, "big") + body
    return data + struct.pack(">I", binascii.crc32(data))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["message"])
def test_golden_bytes(case):
    message = from_json(case)
    assert encode(message, case["session"]).hex() == case["bytes"]
    assert decode(bytes.fromhex(case["bytes"])) == (case["session"], message)


def test_the_longest_message_holds_the_longest_packet():
    message = wire.Audio(255, 2**32 - 1, 2**48 - 1, b"x" * MAX_PACKET, 255)
    data = encode(message, 2**32 - 1)
    assert len(data) == MAX_MESSAGE
    assert decode(data) == (2**32 - 1, message)
    page = (ROOT / "docs/wire.md").read_text()
    assert f"A message has 10 to {MAX_MESSAGE} bytes" in page
    assert f"codec packet (1 to {MAX_PACKET})" in page


def test_every_type_has_a_golden_message():
    assert sorted({bytes.fromhex(case["bytes"])[0] for case in GOLDEN}) == sorted(wire.Type)


def test_the_examples_on_the_wire_page_are_the_golden_messages():
    page = (ROOT / "docs/wire.md").read_text()
    shown = [
        bytes.fromhex(re.sub(r"\s", "", block)).hex()
        for block in re.findall(r"```message\n(.*?)```", page, re.DOTALL)
    ]
    assert shown == [case["bytes"] for case in GOLDEN]


def test_the_page_alone_suffices_for_a_hello():
    body = bytes(range(8)) + b"\0\0\0\7" + bytes.fromhex("0123456789abcdef") + b"\1"
    body += b"\x022k" + b"\x04" + "Zoë".encode()
    assert decode(sealed(1, 1, 0, body)) == (
        0,
        wire.Hello("0123456789abcdef", "2k", "Zoë", True, bytes(range(8)), 7),
    )


@given(messages, st.integers(0, 2**32 - 1))
def test_round_trip(message, session):
    data = encode(message, session)
    assert len(data) <= MAX_MESSAGE
    assert decode(data) == (session, message)


@given(st.binary(max_size=MAX_MESSAGE + 50))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(BadStream):
        decode(data)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=120))
def test_arbitrary_bodies_are_read_or_refused(kind, version, body):
    data = sealed(kind, version, 5, body)
    try:
        session, message = decode(data)
    except (BadStream, WrongVersion):
        return
    # What was understood says the same again (codes not known are read as OTHER).
    if version == 1 and not (isinstance(message, wire.Refuse) and message.code == 0):
        assert encode(message, session) == data


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["message"])
def test_every_single_bit_flip_is_rejected(case):
    data = bytes.fromhex(case["bytes"])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(BadStream):
            decode(changed)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["message"])
def test_cut_and_extended_messages_are_rejected(case):
    data = bytes.fromhex(case["bytes"])
    for end in range(len(data)):
        with pytest.raises(BadStream):
            decode(data[:end])
    with pytest.raises(BadStream):
        decode(data + b"\0")
    body = data[6:-4]
    if data[0] != wire.Type.AUDIO:  # whose packet takes what is left
        with pytest.raises(BadStream):
            decode(sealed(data[0], 1, 1, body + b"\0"))


def test_another_version_is_told_apart_from_damage():
    with pytest.raises(WrongVersion, match="version 2"):
        decode(sealed(1, 2, 0, b"what version 2 says"))
    refusal = sealed(3, 9, 0, b"\x01\x03why")
    assert decode(refusal) == (0, wire.Refuse(wire.Refusal.WRONG_VERSION, "why"))
    assert decode(sealed(3, 1, 0, b"\xc8\x03why")) == (0, wire.Refuse(wire.Refusal.OTHER, "why"))


@pytest.mark.parametrize(
    "message",
    [
        wire.Hello("0123", "2k", "", False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "x" * 65, False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "\ud800", False, bytes(8), 0),
        wire.Hello("0123456789abcdef", "2k", "", False, bytes(7), 0),
        wire.Audio(0, 1 << 32, 0, b"x"),
        wire.Audio(0, 0, 1 << 48, b"x"),
        wire.Audio(0, 0, 0, b""),
        wire.Audio(256, 0, 0, b"x"),
        wire.Heartbeat(-1, 0, 0),
        wire.Bye("y" * 201),
    ],
    ids=lambda message: str(asdict(message))[:50],
)
def test_what_does_not_fit_is_not_written(message):
    with pytest.raises(BadInput):
        encode(message)


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
