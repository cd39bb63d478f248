"""Fuzzes the packet and container readers: python -m tests.fuzz_stream --inputs 100000 --seed 0

Each input is one hostile byte string: a damaged container (bits flipped; bytes overwritten, cut
out, inserted, repeated, spliced), a container with valid checksums but invalid contents (random
sequence numbers, foreign models, absurd headers and end records), or noise. For each input the
readers must return a result or a one-line `SottoError`, keep a small buffer, return no more frames
than the bytes can hold, and give the same result however the bytes are split into chunks.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
import zlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from codec import container
from codec.container import (
    MAX_UNSEEN_FRAMES,
    MIN_RECORD,
    ContainerReader,
    ContainerWriter,
    Lost,
    StreamHeader,
    scan,
)
from codec.errors import BadStream, SottoError
from codec.packet import (
    STEPS,
    Kind,
    Packet,
    checksum,
    pack,
    pack_session,
    unpack,
    unpack_session,
)

MODEL_ID = "9f3c5a7e01b2c4d6"
SHORT_ID = 0x9F3C
MAX_BUFFER = (1 << 16) + 2048

_ABSURD: list[object] = [
    None,
    True,
    -1,
    0,
    1,
    1 << 40,
    10**30,
    1e308,
    "",
    "x" * 200,
    "\ud800",
    "\x1b[2J",
    [],
    {},
]


class Trickle:
    """A source that cannot seek and hands out a few bytes at a time."""

    def __init__(self, data: bytes, random_: random.Random) -> None:
        self._data = io.BytesIO(data)
        self._random = random_

    def tell(self) -> int:
        """Bytes handed out."""
        return self._data.tell()

    def read1(self, size: int) -> bytes:
        return self._data.read(min(size, self._random.choice((1, 3, 50, 5000))))

    def read(self, size: int) -> bytes:
        raise AssertionError("the reader must not wait for more than it needs")


def random_bytes(rng: random.Random, most: int) -> bytes:
    return rng.randbytes(rng.randrange(most + 1))


def valid_container(rng: random.Random) -> tuple[bytes, list[Packet]]:
    """A container of a few short frames, and its packets."""
    sink = io.BytesIO()
    steps = rng.choice((16, 16, *STEPS))
    writer = ContainerWriter(sink, StreamHeader("2k", MODEL_ID, frame_samples=1024 * steps))
    stride = 1 if steps == 16 else steps
    packets = [
        Packet(
            i * stride, 3, random_bytes(rng, 30), SHORT_ID, chained=rng.random() < 0.3, steps=steps
        )
        for i in range(rng.randrange(8))
    ]
    for packet in packets:
        writer.write(packet)
    writer.finish(1024 * steps * len(packets))
    return sink.getvalue(), packets


def damage(rng: random.Random, data: bytes) -> bytes:
    """One random change of `data`."""
    changed = bytearray(data)
    at = rng.randrange(len(data) + 1)
    to = min(len(data), at + rng.choice((1, 2, 8, 40, 200)))
    match rng.randrange(7):
        case 0 if at < len(data):
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            changed[at:to] = rng.randbytes(to - at)
        case 2:
            del changed[at:to]
        case 3:
            changed[at:at] = random_bytes(rng, 60)
        case 4:
            changed[at:at] = data[at:to]
        case 5:
            del changed[at:]
        case 6:
            changed[at:to] = bytes(to - at)
    return bytes(changed)


def hostile_packet(rng: random.Random, expected: int) -> bytes:
    """A packet with a right checksum and unlikely contents."""
    sequence = rng.choice((expected, expected + 1, expected + 300, rng.randrange(65536))) % 65536
    model = SHORT_ID if rng.random() < 0.9 else rng.randrange(65536)
    kind = Kind.SPEECH if rng.random() < 0.9 else rng.choice(list(Kind))
    data = pack(Packet(sequence, rng.randrange(256), random_bytes(rng, 20), model, kind))
    if rng.random() < 0.05:
        start = rng.randbytes(6)
        data = start + checksum(data[8:], checksum(start)).to_bytes(2, "big") + data[8:]
    return data


def hostile_steps(rng: random.Random, expected: int, usual: int) -> tuple[bytes, int]:
    """A body of version 2 with a right checksum and unlikely contents, and the number after it."""
    steps = usual if rng.random() < 0.9 else rng.choice(STEPS)
    sequence = rng.choice((expected, expected + steps, expected + 1, rng.randrange(65536))) % 65536
    kind = rng.choice((Kind.SPEECH, Kind.COMFORT_NOISE))
    packet = Packet(
        sequence, rng.randrange(256), random_bytes(rng, 20), SHORT_ID, kind, steps=steps
    )
    body = sequence.to_bytes(2, "big") + pack_session(packet)
    if rng.random() < 0.05:
        body = rng.randbytes(len(body))
    return body + checksum(body).to_bytes(2, "big"), sequence + steps


def hostile_header(rng: random.Random, steps: int) -> bytes:
    """A stream header with a right checksum; most of the time a usable one."""
    values: dict[str, object] = {
        "preset": "2k",
        "model_id": MODEL_ID,
        "kind": "speech",
        "sample_rate": 16000,
        "frame_samples": 1024 * steps,
    }
    draw = rng.random()
    if draw < 0.15:
        values[rng.choice([*values, "other"])] = rng.choice(_ABSURD)
    text = json.dumps(values).encode()
    if draw > 0.9:
        depth = rng.randrange(1024)
        text = rng.choice((b"[" * depth, b"{" + text[1:-1] * 2 + b"}", damage(rng, text)))
    version = (1 if steps == 16 else 2) if rng.random() < 0.95 else rng.randrange(256)
    opening = b"sotto" + bytes([version]) + len(text).to_bytes(2, "big") + text
    return opening + zlib.crc32(opening).to_bytes(4, "big")


def hostile_container(rng: random.Random) -> bytes:
    """Right checksums throughout, wrong contents here and there, garbage between."""
    steps = rng.choice((16, 16, *STEPS))
    parts = [hostile_header(rng, steps)]
    expected = 0
    for _ in range(rng.randrange(12)):
        draw = rng.random()
        if draw < 0.1:
            parts.append(random_bytes(rng, 100))
        elif draw < 0.2:
            total = rng.choice((0, 1024 * steps * expected, (1 << 64) - 1))
            frames = rng.choice((0, expected, expected + 1, (1 << 32) - 1))
            record = container.record_head(20, end=True)
            record += total.to_bytes(8, "big") + frames.to_bytes(4, "big") + rng.randbytes(4)
            parts.append(record + zlib.crc32(record).to_bytes(4, "big"))
        elif steps < 16:
            body, expected = hostile_steps(rng, expected, steps)
            parts.append(container.record_head(len(body)) + body)
        else:
            packet = hostile_packet(rng, expected)
            expected = int.from_bytes(packet[4:6], "big") + 1
            parts.append(container.record_head(len(packet)) + packet)
    return b"".join(parts)


def read_all(source: Any, size: int) -> list[Packet | Lost] | str:
    """Everything in the container, or the reason it has nothing; checks all bounds."""
    try:
        reader = ContainerReader(source)
    except SottoError as reason:
        text = str(reason)
        assert text and text.isprintable(), repr(text)
        return text
    items = []
    for item in reader:
        items.append(item)
        assert source.tell() - reader.container_bytes <= MAX_BUFFER
    lost = sum(item.count for item in items if isinstance(item, Lost))
    assert all(item.count > 0 for item in items if isinstance(item, Lost))
    assert reader.damaged_frames == lost
    assert reader.frames == lost + sum(isinstance(item, Packet) for item in items)
    assert reader.frames <= size // MIN_RECORD + MAX_UNSEEN_FRAMES
    assert reader.container_bytes <= size
    most_samples = reader.header.frame_samples * reader.frames
    assert reader.total_samples is None or reader.total_samples <= most_samples
    assert reader.integrity().isprintable()
    return items


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Try that many inputs; returns counts of what they were. Raises at the first fault."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for index in range(inputs):
        try:
            _fuzz_one(rng, counts)
        except Exception as fault:
            raise AssertionError(f"input {index} of seed {seed}: {fault!r}") from fault
        counts["inputs"] += 1
    return counts


def _fuzz_one(rng: random.Random, counts: Counter[str]) -> None:
    known: set[Packet] | None = None
    draw = rng.random()
    if draw < 0.1:
        data = random_bytes(rng, 200)
        counts["noise"] += 1
    elif draw < 0.5:
        data, packets = valid_container(rng)
        known = set(packets)
        if rng.random() < 0.2:
            other, packets = valid_container(rng)
            known |= set(packets)
            data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
        for _ in range(rng.randrange(4)):
            data = damage(rng, data)
        counts["damaged containers"] += 1
    else:
        data = hostile_container(rng)
        if rng.random() < 0.3:
            data = damage(rng, data)
        counts["hostile containers"] += 1

    unpack_or_refuse(damage(rng, hostile_packet(rng, 0)))
    unpack_session_or_refuse(random_bytes(rng, 1100 if rng.random() < 0.1 else 20))
    at_once = read_all(io.BytesIO(data), len(data))
    assert read_all(Trickle(data, rng), len(data)) == at_once
    if isinstance(at_once, str):
        counts["refused with a reason"] += 1
        return
    counts["readable"] += 1
    if known is not None:
        # Heavy damage may pass a 16-bit checksum once in 65 536 times.
        counts["damage taken for a packet"] += sum(
            isinstance(item, Packet) and item not in known for item in at_once
        )
    info = scan(io.BytesIO(data))
    if rng.random() < 0.1:
        json.dumps(asdict(info))
    assert info.frames == sum(item.count if isinstance(item, Lost) else 1 for item in at_once)


def unpack_or_refuse(data: bytes) -> None:
    try:
        packet = unpack(data)
    except SottoError as reason:
        assert str(reason).isprintable()
    else:
        assert pack(packet) == data


def unpack_session_or_refuse(data: bytes) -> None:
    try:
        packet = unpack_session(data, 5, SHORT_ID)
    except BadStream as reason:
        assert str(reason).isprintable()
    else:
        assert pack_session(packet) == data


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the packet and container readers.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    counts = fuzz(options.inputs, options.seed)
    for name, count in counts.items():
        print(f"{count:9d} {name}")
    print(f"no fault in {counts['inputs']} inputs, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
