"""The packet format: golden bytes, round trips, and the rejection of everything else."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BadInput, BadStream, SottoError, WrongVersion
from codec.packet import (
    DELAYS,
    FRAME_STEPS,
    HEADER_BYTES,
    MAX_IMAGE_PAYLOAD,
    MAX_PACKET,
    MAX_PAYLOAD,
    MAX_SESSION_PACKET,
    SESSION_HEADER_BYTES,
    STEPS,
    Entropy,
    Kind,
    Packet,
    checksum,
    pack,
    pack_session,
    short_id,
    unpack,
    unpack_session,
    unwrap_sequence,
)

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/packets.json").read_text())
GOLDEN_SESSION = json.loads((ROOT / "tests/golden/session_packets.json").read_text())

packets = st.builds(
    Packet,
    sequence=st.integers(0, 65535),
    quality=st.integers(0, 255),
    payload=st.binary(max_size=64),
    model_id=st.integers(0, 65535),
    kind=st.sampled_from(Kind),
    entropy=st.sampled_from(Entropy),
    chained=st.booleans(),
)
session_packets = st.builds(
    Packet,
    sequence=st.integers(0, 65535),
    quality=st.integers(0, 255),
    payload=st.binary(max_size=64),
    model_id=st.integers(0, 65535),
    kind=st.sampled_from([Kind.SPEECH, Kind.COMFORT_NOISE]),
    entropy=st.sampled_from(Entropy),
    chained=st.booleans(),
    steps=st.sampled_from(STEPS),
)


def crc16_by_long_division(data: bytes) -> int:
    """The checksum from its definition, bit by bit, sharing nothing with the codec."""
    register = 0xFFFF
    for byte in data:
        for place in range(7, -1, -1):
            carry = register >> 15 ^ (byte >> place & 1)
            register = (register << 1 & 0xFFFF) ^ (0x1021 if carry else 0)
    return register


def pack_by_the_page(sequence, quality, payload, model_id, kind, entropy, chained, version=1):
    """A second implementation, written from docs/format.md."""
    flags = version * 32 + kind * 8 + entropy * 4 + chained * 2
    start = bytes([flags, quality, model_id >> 8, model_id & 255, sequence >> 8, sequence & 255])
    crc = crc16_by_long_division(start + payload)
    return start + bytes([crc >> 8, crc & 255]) + payload


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_bytes(case):
    fields = case["fields"]
    packet = Packet(**{**fields, "payload": bytes.fromhex(fields["payload"])})
    assert pack(packet).hex() == case["bytes"]
    assert unpack(bytes.fromhex(case["bytes"])) == packet


def test_the_example_on_the_format_page_is_the_golden_packet():
    page = (ROOT / "docs/format.md").read_text()
    example = re.search(r"```packet\n(.*?)```", page, re.DOTALL)
    assert example
    assert bytes.fromhex(example[1]).hex() == GOLDEN[0]["bytes"]


@given(packets)
def test_round_trip_and_second_implementation(packet):
    data = pack(packet)
    assert unpack(data) == packet
    assert unpack(memoryview(data)) == packet
    assert len(data) == HEADER_BYTES + len(packet.payload)
    assert data == pack_by_the_page(
        packet.sequence,
        packet.quality,
        packet.payload,
        packet.model_id,
        packet.kind,
        packet.entropy,
        packet.chained,
    )


def test_checksum_check_value():
    assert checksum(b"123456789") == 0x29B1


@settings(max_examples=50, deadline=None)
@given(packets)
def test_every_flipped_bit_is_rejected(packet):
    data = pack(packet)
    for bit in range(8 * len(data)):
        with pytest.raises(BadStream):
            unpack(flipped(data, bit))


def test_every_flipped_bit_of_the_longest_packet_is_rejected():
    data = pack(Packet(7, 1, bytes(i * 37 % 256 for i in range(MAX_PAYLOAD)), 0xBEEF))
    assert len(data) == MAX_PACKET
    for bit in range(8 * len(data)):
        with pytest.raises(BadStream):
            unpack(flipped(data, bit))


def test_all_double_bit_errors_of_a_short_packet_are_rejected():
    data = pack(Packet(1, 2, b"speech", 0x1234))
    for first in range(8 * len(data)):
        once = flipped(data, first)
        for second in range(first):
            with pytest.raises(BadStream):
                unpack(flipped(once, second))


def test_the_polynomial_has_distance_four_at_our_length():
    # x + 1 divides it: all errors of an odd number of bits show. x has an order beyond the
    # length of the longest packet: x^i + x^j is no multiple, so all double errors show.
    polynomial = 0x11021
    assert polynomial.bit_count() % 2 == 0
    power, order = 2, 1
    while power != 1:
        power <<= 1
        power ^= polynomial if power >> 16 else 0
        order += 1
    assert order == 32767
    assert order > 8 * MAX_PACKET


@settings(max_examples=1000)
@given(st.binary(max_size=MAX_PACKET + 8))
def test_arbitrary_bytes_are_a_packet_or_an_error(data):
    try:
        packet = unpack(data)
    except SottoError as reason:
        assert "\n" not in str(reason)
        assert str(reason)
    else:
        assert pack(packet) == data


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, MAX_PACKET + 1, 1 << 20])
def test_impossible_sizes(size):
    with pytest.raises(BadStream, match=f"{size} bytes"):
        unpack(bytes(size))


@pytest.mark.parametrize("version", [0, 2, 7])
def test_intact_packet_of_another_version_says_so(version):
    data = pack_by_the_page(0, 0, b"", 0, 0, 0, 0, version=version)
    with pytest.raises(WrongVersion, match=f"version {version}"):
        unpack(data)


def test_reserved_kind_and_bit_are_refused():
    with pytest.raises(BadStream, match="reserved kind 3"):
        unpack(pack_by_the_page(0, 0, b"", 0, 3, 0, 0))
    start = bytes([0b001_00_0_0_1, 0, 0, 0, 0, 0])
    with pytest.raises(BadStream, match="reserved bit"):
        unpack(start + crc16_by_long_division(start).to_bytes(2, "big"))


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": -1},
        {"sequence": 65536},
        {"quality": 256},
        {"model_id": 65536},
        {"payload": bytes(MAX_PAYLOAD + 1)},
        {"kind": 3},
        {"entropy": 2},
        {"steps": 0},
        {"steps": 3},
        {"steps": 32},
    ],
)
def test_values_that_do_not_fit(fields):
    with pytest.raises(BadInput):
        Packet(**{"sequence": 0, "quality": 0, "payload": b"", "model_id": 0, **fields})


@pytest.mark.parametrize("case", GOLDEN_SESSION, ids=lambda case: case["name"])
def test_golden_bytes_of_the_session_form(case):
    fields = case["fields"]
    packet = Packet(**{**fields, "payload": bytes.fromhex(fields["payload"])})
    assert pack_session(packet).hex() == case["bytes"]
    data = bytes.fromhex(case["bytes"])
    assert unpack_session(data, packet.sequence, packet.model_id) == packet


def test_the_example_of_the_session_form_is_the_golden_packet():
    page = (ROOT / "docs/format.md").read_text()
    example = re.search(r"```session\n(.*?)```", page, re.DOTALL)
    assert example
    assert bytes.fromhex(example[1]).hex() == GOLDEN_SESSION[0]["bytes"]


@given(session_packets)
def test_session_form_round_trip_and_second_implementation(packet):
    data = pack_session(packet)
    for read in (data, bytearray(data), memoryview(data)):
        assert unpack_session(read, packet.sequence, packet.model_id) == packet
    exponent = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4}[packet.steps]
    flags = packet.kind * 64 + packet.entropy * 32 + packet.chained * 16 + exponent * 2
    assert data == bytes([flags, packet.quality]) + packet.payload


@settings(max_examples=1000)
@given(st.binary(max_size=40), st.integers(0, 65535))
def test_arbitrary_bytes_are_a_session_packet_or_an_error(data, sequence):
    try:
        packet = unpack_session(data, sequence, 7)
    except BadStream as reason:
        assert str(reason).isprintable()
    else:
        assert pack_session(packet) == data
        assert (packet.sequence, packet.model_id) == (sequence, 7)


def test_every_header_of_the_session_form():
    """Of the 256 first bytes, those of two kinds, five lengths and no reserved bit are taken."""
    taken = []
    for flags in range(256):
        with suppress(BadStream):
            taken.append(unpack_session(bytes([flags, 9]), 0, 0))
    assert len(taken) == 2 * 2 * 2 * 5
    assert {packet.steps for packet in taken} == set(STEPS)
    assert {packet.kind for packet in taken} == {Kind.SPEECH, Kind.COMFORT_NOISE}


@pytest.mark.parametrize("size", [0, 1, MAX_SESSION_PACKET + 1, 1 << 20])
def test_impossible_sizes_of_the_session_form(size):
    with pytest.raises(BadStream, match=f"{size} bytes"):
        unpack_session(bytes(size), 0, 0)


def test_what_has_no_such_form():
    with pytest.raises(BadInput, match="image"):
        pack_session(Packet(0, 0, b"", 0, Kind.IMAGE))
    for steps in STEPS[:-1]:
        with pytest.raises(BadInput, match=f"{steps} steps"):
            pack(Packet(0, 0, b"", 0, steps=steps))
    longest = Packet(0, 0, bytes(MAX_PAYLOAD), 0, steps=1)
    assert len(pack_session(longest)) == SESSION_HEADER_BYTES + MAX_PAYLOAD == MAX_SESSION_PACKET
    with pytest.raises(BadInput, match="payload"):
        Packet(0, 0, bytes(MAX_IMAGE_PAYLOAD), 0, Kind.COMFORT_NOISE)


def test_pauses_are_told_from_speech():
    assert Packet(0, 0, b"", 0).pause
    assert Packet(0, 0, bytes(10), 0, Kind.COMFORT_NOISE).pause
    assert not Packet(0, 0, b"x", 0, steps=2).pause


def test_delays_are_those_of_the_steps():
    assert DELAYS == (64, 128, 256, 512, 1024)
    assert FRAME_STEPS == 16


def test_short_id():
    assert short_id("beef00112233aa55") == 0xBEEF
    for bad in ("", "beef", "beef00112233aa5g", "0xef00112233aa55", " beef00112233aa5"):
        with pytest.raises(BadInput):
            short_id(bad)


def test_unwrap_sequence_at_the_seams():
    assert unwrap_sequence(65535, 0) == 65536
    assert unwrap_sequence(65536, 65535) == 65535
    assert unwrap_sequence(0, 65535) == -1
    assert unwrap_sequence(131071, 5) == 131077
    assert unwrap_sequence(10, 10) == 10


@given(st.integers(0, 1 << 40), st.integers(-32768, 32767))
def test_unwrap_sequence_recovers_any_near_number(previous, step):
    assert unwrap_sequence(previous, (previous + step) % 65536) == previous + step
