"""The container: golden bytes, streaming, and recovery from damaged files."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import container
from codec.container import (
    MAX_SKIP,
    MAX_UNSEEN_FRAMES,
    MIN_RECORD,
    ContainerReader,
    ContainerWriter,
    Lost,
    StreamHeader,
    scan,
)
from codec.errors import BadInput, BadStream, SottoError, WrongModel, WrongVersion
from codec.packet import STEPS, Kind, Packet, checksum, pack, pack_session, unpack
from tests.fuzz_stream import fuzz

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/container.json").read_text())
GOLDEN_BYTES = bytes.fromhex(GOLDEN["bytes"])
GOLDEN_STEPS = json.loads((ROOT / "tests/golden/container_steps.json").read_text())

MODEL_ID = "9f3c5a7e01b2c4d6"
SHORT_ID = 0x9F3C
HEADER = StreamHeader("2k", MODEL_ID)
STEPS_HEADER = StreamHeader("2k", MODEL_ID, frame_samples=2 * 1024)
END_RECORD_BYTES = 24


def packet_of(frame: int, payload: bytes | None = None, **fields) -> Packet:
    if payload is None:
        payload = f"frame {frame}".encode()
    return Packet(frame % 65536, 3, payload, **{"model_id": SHORT_ID, **fields})


def written(packets: list[Packet], total: int | None = None, header=HEADER) -> bytes:
    sink = io.BytesIO()
    writer = ContainerWriter(sink, header)
    for packet in packets:
        writer.write(packet)
    writer.finish(len(packets) * header.frame_samples if total is None else total)
    return sink.getvalue()


def record(packet: Packet) -> bytes:
    if packet.steps == 16:
        data = pack(packet)
    else:
        data = packet.sequence.to_bytes(2, "big") + pack_session(packet)
        data += checksum(data).to_bytes(2, "big")
    return container.record_head(len(data)) + data


def slots(items) -> list[Packet | None]:
    """One entry per frame; None is a lost one."""
    return [
        slot
        for item in items
        for slot in ([None] * item.count if isinstance(item, Lost) else [item])
    ]


def read(data: bytes) -> tuple[ContainerReader, list[Packet | None]]:
    reader = ContainerReader(io.BytesIO(data))
    return reader, slots(reader)


@dataclass(frozen=True)
class Written:
    """A container of six packets."""

    header: StreamHeader
    frames: list[Packet]
    total: int

    @property
    def data(self) -> bytes:
        return written(self.frames, self.total, self.header)

    @property
    def header_bytes(self) -> int:
        return len(container.pack_header(self.header))

    def spans(self) -> list[tuple[int, int]]:
        """(first byte, byte after the last) of the record of each frame."""
        spans, at = [], self.header_bytes
        for packet in self.frames:
            spans.append((at, at + len(record(packet))))
            at = spans[-1][1]
        return spans


FRAMES = [packet_of(i, bytes([i]) * (5 * i % 13)) for i in range(6)]
WHOLE = Written(HEADER, FRAMES, 90_000)
IN_STEPS = Written(
    STEPS_HEADER,
    [packet_of(2 * i, bytes([i]) * (5 * i % 13), steps=2, chained=i % 3 > 0) for i in range(6)],
    11_000,
)
SHORT = WHOLE.data
SHORT_HEADER = WHOLE.header_bytes
both_versions = pytest.mark.parametrize("whole", [WHOLE, IN_STEPS], ids=["frames", "steps"])


def record_spans() -> list[tuple[int, int]]:
    return WHOLE.spans()


def test_golden_bytes():
    sink = io.BytesIO()
    writer = ContainerWriter(sink, StreamHeader(**GOLDEN["header"]))
    for packet in GOLDEN["packets"]:
        writer.write(unpack(bytes.fromhex(packet)))
    writer.finish(GOLDEN["total_samples"])
    assert sink.getvalue().hex() == GOLDEN["bytes"]

    reader, items = read(GOLDEN_BYTES)
    assert reader.header == StreamHeader(**GOLDEN["header"])
    assert [pack(item).hex() for item in items if item] == GOLDEN["packets"]
    assert None not in items
    assert reader.total_samples == GOLDEN["total_samples"]
    assert reader.intact


def test_the_example_on_the_format_page_is_the_golden_container():
    page = (ROOT / "docs/format.md").read_text()
    example = re.search(r"```container\n(.*?)```", page, re.DOTALL)
    assert example
    hex_columns = [line.split("|")[0] for line in example[1].splitlines()]
    assert bytes.fromhex("".join(hex_columns)) == GOLDEN_BYTES


def test_limits_on_the_format_page_are_the_limits():
    page = (ROOT / "docs/format.md").read_text()
    for limit in ("MAX_JSON", "MAX_UNSEEN_FRAMES", "MAX_SKIP", "MIN_RECORD", "MAX_MAGIC_ERRORS"):
        assert f"`{limit}` = {getattr(container, limit)}" in page


def test_record_crc8_check_value():
    assert container.crc8(b"123456789") == 0xF4


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=1024), st.booleans()), max_size=8),
    st.integers(0, 16383),
)
def test_round_trip_and_honest_counts(frames, unused):
    packets = [packet_of(i, data, chained=chained) for i, (data, chained) in enumerate(frames)]
    total = max(0, 16384 * len(packets) - unused)
    data = written(packets, total)
    reader, items = read(data)
    assert items == packets
    assert (reader.frames, reader.damaged_frames, reader.truncated) == (len(packets), 0, False)
    assert reader.total_samples == total
    assert reader.payload_bytes == sum(len(packet.payload) for packet in packets)
    assert reader.packet_bytes == reader.payload_bytes + 8 * len(packets)
    assert reader.container_bytes == len(data)
    framing = reader.header_bytes + 4 * len(packets) + END_RECORD_BYTES
    assert len(data) == reader.packet_bytes + framing
    assert reader.intact


@both_versions
def test_truncation_at_every_byte(whole: Written):
    data, ends = whole.data, [end for _, end in whole.spans()]
    for size in range(len(data)):
        if size < whole.header_bytes:
            with pytest.raises(BadStream):
                ContainerReader(io.BytesIO(data[:size]))
            continue
        reader, items = read(data[:size])
        assert items == whole.frames[: sum(end <= size for end in ends)]
        assert reader.truncated
        assert reader.total_samples is None
        assert not reader.intact


@both_versions
def test_every_flipped_bit_costs_at_most_its_own_frame(whole: Written):
    data, spans = whole.data, whole.spans()
    for bit in range(8 * len(data)):
        at = bit // 8
        changed = bytearray(data)
        changed[at] ^= 1 << bit % 8
        if at < whole.header_bytes:
            with pytest.raises(BadStream, match="damaged"):
                ContainerReader(io.BytesIO(changed))
            continue
        reader, items = read(bytes(changed))
        hit = [i for i, (start, end) in enumerate(spans) if start <= at < end]
        if hit:
            assert items == [None if i in hit else frame for i, frame in enumerate(whole.frames)]
            assert reader.damaged_frames == 1
            assert reader.total_samples == whole.total
        else:
            assert items == whole.frames
            assert reader.truncated
            assert reader.total_samples is None
        assert not reader.intact


@both_versions
def test_every_overwritten_byte_run_costs_only_the_records_it_touches(whole: Written):
    data, spans = whole.data, whole.spans()
    for start in range(whole.header_bytes, spans[-1][1] - 20):
        changed = data[:start] + b"\xd5" * 20 + data[start + 20 :]
        _, items = read(changed)
        for i, (first, end) in enumerate(spans):
            if end <= start or first >= start + 20:
                assert items[i] == whole.frames[i]
        assert len(items) == len(whole.frames)


@both_versions
def test_bytes_removed_or_inserted_at_every_place(whole: Written):
    data, spans = whole.data, whole.spans()
    # A byte that does not occur: inserting a copy of its neighbour would leave a record whole.
    other = bytes([next(value for value in range(256) if value not in data)])
    for at in range(whole.header_bytes, spans[-1][1]):
        hit = next(i for i, (_, end) in enumerate(spans) if at < end)
        for changed in (data[:at] + data[at + 1 :], data[:at] + other + data[at:]):
            reader, items = read(changed)
            between = len(changed) > len(data) and at == spans[hit][0]
            kept = [None if i == hit and not between else f for i, f in enumerate(whole.frames)]
            assert items == kept
            assert reader.skipped_bytes > 0


def test_single_flipped_bit_in_the_version_is_damage_and_a_real_version_is_named():
    future = bytearray(container.pack_header(HEADER)[:-4])
    future[5] = 3
    with pytest.raises(BadStream, match="damaged"):
        ContainerReader(io.BytesIO(bytes(future) + container.pack_header(HEADER)[-4:]))
    data = bytes(future) + zlib.crc32(future).to_bytes(4, "big")
    with pytest.raises(WrongVersion, match="container version 3"):
        ContainerReader(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"so", "ends inside"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sotto stream"),
        (b"fLaC", "not a sotto stream"),
        (b"sotto\x01\xff\xff" + bytes(100), "damaged"),
        (bytes(100), "not a sotto stream"),
    ],
)
def test_what_is_no_container_is_refused_clearly(data, reason):
    with pytest.raises(BadStream, match=reason):
        ContainerReader(io.BytesIO(data))


def header_with(text: bytes, version: int = 1) -> bytes:
    opening = b"sotto" + bytes([version]) + len(text).to_bytes(2, "big") + text
    return opening + zlib.crc32(opening).to_bytes(4, "big")


GOOD = '"preset":"2k","model_id":"9f3c5a7e01b2c4d6","kind":"speech","sample_rate":16000'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 1024,
        "{" + GOOD + "}",
        "{" + GOOD + ',"frame_samples":0}',
        "{" + GOOD + ',"frame_samples":16384.0}',
        "{" + GOOD + ',"frame_samples":true}',
        "{" + GOOD + ',"frame_samples":NaN}',
        "{" + GOOD + ',"frame_samples":1e999}',
        "{" + GOOD + ',"frame_samples":16384,"frame_samples":16384}',
        "{" + GOOD + ',"frame_samples":16384,"other":{}}',
        "{" + GOOD + ',"frame_samples":16384,"other":"\\u001b[2J"}',
        "{" + GOOD.replace("2k", "\\ud800") + ',"frame_samples":16384}',
        "{" + GOOD.replace("9f3c", "9F3C") + ',"frame_samples":16384}',
        "{" + GOOD.replace("speech", "video") + ',"frame_samples":16384}',
    ],
)
def test_headers_with_a_right_checksum_and_wrong_contents(text):
    with pytest.raises(BadStream) as caught:
        ContainerReader(io.BytesIO(header_with(text.encode())))
    assert str(caught.value).isprintable()


def test_header_that_needs_nothing_more_is_accepted():
    reader = ContainerReader(io.BytesIO(header_with(f'{{{GOOD},"frame_samples":16384}}'.encode())))
    assert reader.header == HEADER


@pytest.mark.parametrize("steps", STEPS)
def test_the_version_says_how_long_packets_are(steps):
    text = f'{{{GOOD},"frame_samples":{1024 * steps}}}'.encode()
    right, wrong = (1, 2) if steps == 16 else (2, 1)
    header = ContainerReader(io.BytesIO(header_with(text, right))).header
    assert (header.steps, header.version) == (steps, right)
    with pytest.raises(BadStream, match=f"version {wrong}"):
        ContainerReader(io.BytesIO(header_with(text, wrong)))


@pytest.mark.parametrize("samples", [1, 1023, 1025, 3 * 1024, 2049, 16385])
def test_other_lengths_are_not_for_version_two(samples):
    text = f'{{{GOOD},"frame_samples":{samples}}}'.encode()
    with pytest.raises(BadStream, match="version 2"):
        ContainerReader(io.BytesIO(header_with(text, 2)))
    assert ContainerReader(io.BytesIO(header_with(text, 1))).header.steps == 16


def test_golden_bytes_of_short_packets():
    header, case = StreamHeader(**GOLDEN_STEPS["header"]), GOLDEN_STEPS
    packets = [
        Packet(
            **{**fields, "payload": bytes.fromhex(fields["payload"])}, model_id=SHORT_ID, steps=2
        )
        for fields in case["packets"]
    ]
    assert written(packets, case["total_samples"], header).hex() == case["bytes"]
    reader, items = read(bytes.fromhex(case["bytes"]))
    assert (reader.header, items, reader.intact) == (header, packets, True)
    assert reader.total_samples == case["total_samples"]


def test_the_example_of_short_packets_on_the_format_page_is_golden():
    page = (ROOT / "docs/format.md").read_text()
    example = re.search(r"```steps\n(.*?)```", page, re.DOTALL)
    assert example
    hex_columns = [line.split("|")[0] for line in example[1].splitlines()]
    assert bytes.fromhex("".join(hex_columns)).hex() == GOLDEN_STEPS["bytes"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=1024), st.booleans(), st.booleans()), max_size=8),
    st.sampled_from(STEPS[:-1]),
    st.integers(0, 1023),
)
def test_round_trip_of_short_packets_and_honest_counts(contents, steps, unused):
    kinds = (Kind.SPEECH, Kind.COMFORT_NOISE)
    packets = [
        packet_of(steps * i, data, chained=chained, kind=kinds[noise], steps=steps)
        for i, (data, chained, noise) in enumerate(contents)
    ]
    header = StreamHeader("2k", MODEL_ID, frame_samples=1024 * steps)
    total = max(0, 1024 * steps * len(packets) - unused)
    data = written(packets, total, header)
    reader, items = read(data)
    assert items == packets
    assert reader.intact and reader.total_samples == total
    assert reader.payload_bytes == sum(len(packet.payload) for packet in packets)
    assert reader.packet_bytes == reader.payload_bytes + 2 * len(packets)
    framing = reader.header_bytes + 8 * len(packets) + END_RECORD_BYTES
    assert len(data) == reader.container_bytes == reader.packet_bytes + framing


def test_steps_wrap_in_a_file():
    writer = ContainerWriter(io.BytesIO(), replace(STEPS_HEADER, frame_samples=8 * 1024))
    empty = packet_of(0, b"", steps=8)
    for frame in range(8193):
        writer.write(replace(empty, sequence=8 * frame % 65_536))
    assert writer.frames == 8193


def test_short_packets_that_do_not_belong():
    for packet, reason in (
        (packet_of(0), "16 latent steps"),
        (packet_of(0, steps=4), "4 latent steps"),
        (packet_of(1, steps=2), "expected 0"),
    ):
        with pytest.raises(BadInput, match=reason):
            ContainerWriter(io.BytesIO(), STEPS_HEADER).write(packet)
    with pytest.raises(BadInput, match="2 latent steps"):
        ContainerWriter(io.BytesIO(), HEADER).write(packet_of(0, steps=2))
    good = [packet_of(i, steps=2) for i in (0, 2, 4)]
    for wrong in (packet_of(2, steps=1), packet_of(2, steps=4), packet_of(3, steps=2)):
        head = container.pack_header(STEPS_HEADER)
        reader, items = read(head + b"".join(map(record, (good[0], wrong, good[2]))))
        assert items == [good[0], None, good[2]]
        assert reader.skipped_bytes == len(record(wrong))


def test_a_gap_in_the_steps_is_counted_in_packets():
    packets = [packet_of(2 * i, steps=2) for i in (0, 1, 50, 51)]
    items = list(read(container.pack_header(STEPS_HEADER) + b"".join(map(record, packets)))[1])
    assert [i for i, item in enumerate(items) if item] == [0, 1, 50, 51]


def test_image_stream():
    header = StreamHeader("still", MODEL_ID, "image", 0, 0, {"width": 640, "height": 480})
    packets = [packet_of(i, kind=Kind.IMAGE) for i in range(3)]
    data = written(packets, 0, header)
    reader, items = read(data)
    assert (reader.header, items, reader.total_samples) == (header, packets, 0)
    assert scan(io.BytesIO(data)).total_bits_per_s == 0


def test_sequence_numbers_wrap():
    """The frames before are lost; the bytes in their place account for so many of them."""
    packets = [packet_of(i) for i in range(65_533, 65_540)]
    records = [record(packet) for packet in packets]
    records[3] = records[3][:-1] + b"?"
    data = container.pack_header(HEADER) + bytes(65_533 * MIN_RECORD) + b"".join(records)
    items = list(ContainerReader(io.BytesIO(data)))
    assert items == [Lost(65_533), *packets[:3], Lost(1), *packets[4:]]


def test_sequence_numbers_wrap_when_written():
    writer = ContainerWriter(io.BytesIO(), HEADER)
    empty = packet_of(0, b"")
    for frame in range(65_537):
        writer.write(replace(empty, sequence=frame % 65_536))
    assert writer.frames == 65_537


@pytest.mark.slow
def test_a_day_of_speech():
    count = 84_375
    start = SHORT_HEADER + 12 * 70_000
    data = written([packet_of(i, b"") for i in range(count)])
    reader, items = read(data[:start] + b"?" + data[start + 1 :])
    assert reader.frames == len(items) == count
    assert [i for i, item in enumerate(items) if item is None] == [70_000]


def damaged_stream(*packets: Packet, frames: int | None = None, total: int = 0) -> bytes:
    """A container of these packets, whatever their sequence numbers, and an end record."""
    content = b"".join(pack(packet) for packet in packets)
    end = container.record_head(20, end=True) + total.to_bytes(8, "big")
    end += (len(packets) if frames is None else frames).to_bytes(4, "big")
    end += zlib.crc32(content).to_bytes(4, "big")
    records = b"".join(record(packet) for packet in packets)
    return container.pack_header(HEADER) + records + end + zlib.crc32(end).to_bytes(4, "big")


def test_a_piece_cut_out_leaves_a_gap():
    packets = [packet_of(i) for i in (0, 1, 50, 51)]
    reader, items = read(damaged_stream(*packets, frames=52, total=52 * 16384))
    assert [i for i, item in enumerate(items) if item] == [0, 1, 50, 51]
    assert reader.total_samples == 52 * 16384
    assert reader.damaged_frames == 48


def test_a_lone_wild_sequence_number_is_dropped():
    packets = [packet_of(0), packet_of(9000), packet_of(2), packet_of(3)]
    reader, items = read(damaged_stream(*packets))
    assert items == [packets[0], None, packets[2], packets[3]]
    assert reader.skipped_bytes == len(record(packets[1]))


def test_a_confirmed_jump_is_cut_to_what_can_be_believed():
    packets = [packet_of(i) for i in (0, 9000, 9001, 9002, 20_000, 20_001)]
    reader, items = read(damaged_stream(*packets, frames=20_002, total=20_002 * 16384))
    assert [item for item in items if item] == packets
    assert reader.damaged_frames == MAX_UNSEEN_FRAMES
    # The time line is no longer the original one, so its length is no use either.
    assert reader.total_samples is None
    assert "20002 frames" in reader.integrity()


def test_skipped_bytes_vouch_for_a_longer_gap():
    first, last = packet_of(0), packet_of(1 + 400)
    head = container.pack_header(HEADER)
    reader, items = read(head + record(first) + bytes(400 * 12) + record(last))
    assert items == [first, *[None] * 400, last]
    assert reader.damaged_frames == 400


def test_old_and_repeated_packets_are_dropped():
    packets = [packet_of(i) for i in (0, 1, 2, 0, 1, 2, 3)]
    reader, items = read(damaged_stream(*packets, frames=4))
    assert items == [packets[i] for i in (0, 1, 2, 6)]
    assert reader.damaged_frames == 0
    assert "unreadable" in reader.integrity()


def test_packets_of_other_models_kinds_and_versions_are_damage():
    foreign = packet_of(1, model_id=0xFFFF)
    picture = packet_of(1, kind=Kind.IMAGE)
    noise = packet_of(1, kind=Kind.COMFORT_NOISE)
    for packet, frame in ((foreign, None), (picture, None), (noise, noise)):
        stream = damaged_stream(packet_of(0), packet, packet_of(2), frames=3)
        assert read(stream)[1] == [packet_of(0), frame, packet_of(2)]


@pytest.mark.parametrize(("frames", "total"), [((1 << 32) - 1, 0), (1, 0), (3, (1 << 64) - 1)])
def test_end_record_that_cannot_be_true(frames, total):
    packets = [packet_of(i) for i in range(3)]
    reader, items = read(damaged_stream(*packets, frames=frames, total=total))
    assert items[:3] == packets
    assert len(items) <= 3 + MAX_UNSEEN_FRAMES
    assert reader.total_samples is None
    assert not reader.intact


def test_content_checksum_finds_what_the_packet_checksums_missed():
    end_of_another = damaged_stream(packet_of(0, b"other"))[-END_RECORD_BYTES:]
    reader, items = read(damaged_stream(packet_of(0))[:-END_RECORD_BYTES] + end_of_another)
    assert items == [packet_of(0)]
    assert reader.integrity() == "the content differs from its checksum"


def test_endless_garbage_is_given_up():
    class Endless:
        given = 0

        def __init__(self) -> None:
            self.start = io.BytesIO(container.pack_header(HEADER) + record(packet_of(0)))

        def read1(self, size: int) -> bytes:
            data = self.start.read(size) or b"\xd5" + bytes(size - 1)
            self.given += len(data)
            return data

        read = read1

    source = Endless()
    reader = ContainerReader(source)  # type: ignore[arg-type]
    assert slots(reader) == [packet_of(0)]
    assert reader.truncated
    assert source.given < MAX_SKIP + (1 << 18)


def test_packets_come_out_of_a_pipe_as_they_go_in():
    out, into = os.pipe()
    got, arrived = [], threading.Semaphore(0)

    def listen() -> None:
        with open(out, "rb") as pipe:
            for item in ContainerReader(pipe):
                got.append(item)
                arrived.release()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with open(into, "wb", buffering=0) as pipe:
        writer = ContainerWriter(pipe, HEADER)
        for packet in FRAMES:
            writer.write(packet)
            # The next packet is only written once this one is out.
            assert arrived.acquire(timeout=60)
        writer.finish(0)
    listener.join(timeout=60)
    assert got == FRAMES
    assert not listener.is_alive()


def test_text_and_non_blocking_sources_are_refused():
    with pytest.raises(BadInput, match="binary"):
        ContainerReader(io.StringIO("sotto"))  # type: ignore[arg-type]

    class Dry:
        def read(self, size: int) -> None:
            return None

    with pytest.raises(BadInput, match="non-blocking"):
        ContainerReader(Dry())  # type: ignore[arg-type]


def test_writer_takes_short_writes():
    class Narrow(io.BytesIO):
        def write(self, data) -> int:
            return super().write(data[:7])

    sink = Narrow()
    writer = ContainerWriter(sink, HEADER)
    for packet in FRAMES:
        writer.write(packet)
    writer.finish(90_000)
    assert sink.getvalue() == SHORT


def test_writer_refuses_what_does_not_belong():
    writer = ContainerWriter(io.BytesIO(), HEADER)
    for packet, reason in (
        (packet_of(1), "expected 0"),
        (packet_of(0, model_id=1), "model 0001"),
        (packet_of(0, kind=Kind.IMAGE), "kind image"),
    ):
        with pytest.raises(BadInput, match=reason):
            writer.write(packet)
    writer.write(packet_of(0))
    for total in (-1, 16385):
        with pytest.raises(BadInput, match="do not hold"):
            writer.finish(total)
    writer.finish(16384)
    with pytest.raises(BadInput, match="finished"):
        writer.finish(16384)
    with pytest.raises(BadInput, match="finished"):
        writer.write(packet_of(1))


def test_header_too_long_to_write():
    extra = {f"name{i}": "x" * 60 for i in range(20)}
    with pytest.raises(BadInput, match="exceeds"):
        ContainerWriter(io.BytesIO(), StreamHeader("2k", MODEL_ID, extra=extra))


def test_wrong_model_names_both():
    reader = ContainerReader(io.BytesIO(SHORT))
    reader.require_model(MODEL_ID)
    reader.require_model(MODEL_ID.upper())
    with pytest.raises(WrongModel) as caught:
        reader.require_model("0" * 16, "4k")
    for part in (MODEL_ID, "2k", "0" * 16, "4k"):
        assert part in str(caught.value)


def test_scan():
    info = scan(io.BytesIO(SHORT))
    seconds = 90_000 / 16_000
    assert info.intact and info.integrity == "intact"
    assert (info.frames, info.duration_s, info.container_bytes) == (6, seconds, len(SHORT))
    payload = sum(len(packet.payload) for packet in FRAMES)
    assert info.payload_bits_per_s == pytest.approx(8 * payload / seconds)
    assert info.packet_bits_per_s == pytest.approx(8 * (payload + 48) / seconds)
    assert info.total_bits_per_s == pytest.approx(8 * len(SHORT) / seconds)


def test_scan_of_damage():
    start, _ = record_spans()[3]
    damaged = SHORT[:start] + b"?" + SHORT[start + 1 :]
    assert scan(io.BytesIO(damaged)).integrity.startswith("1 of 6 frames lost, ")
    assert scan(io.BytesIO(damaged)).packet_bits_per_s == pytest.approx(
        8
        * (sum(len(packet.payload) + 8 for packet in FRAMES) - len(FRAMES[3].payload) - 8)
        / (90_000 / 16_000 * 5 / 6)
    )
    cut = scan(io.BytesIO(SHORT[:-1]))
    assert cut.truncated and "truncated" in cut.integrity
    assert cut.duration_s == pytest.approx(6 * 1.024)
    assert scan(io.BytesIO(SHORT + SHORT)).integrity == "intact, followed by other data"
    assert scan(io.BytesIO(written([]))).total_bits_per_s == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_arbitrary_bytes_after_a_valid_header(data):
    for header in (HEADER, STEPS_HEADER):
        _, items = read(container.pack_header(header) + data)
        assert len(items) <= len(data) // MIN_RECORD + MAX_UNSEEN_FRAMES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_arbitrary_bytes(data):
    with pytest.raises(SottoError) as caught:
        ContainerReader(io.BytesIO(data))
    assert str(caught.value).isprintable()


def test_fuzz():
    counts = fuzz(3_000, seed=1)
    assert counts["inputs"] == 3_000
    assert counts["readable"] > 1_000
    assert counts["refused with a reason"] > 500


@pytest.mark.slow
def test_fuzz_long():
    assert fuzz(100_000, seed=2)["inputs"] == 100_000
