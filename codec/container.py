"""The `.sotto` container: packets in a file or a pipe, written and read in one pass.

    stream header  b"sotto", version, JSON length (uint16), JSON, CRC-32 of all that
    records        sync byte, uint16 (bit 15: end record, bits 0-14: body length), CRC-8, body
    body           version 1: a packet in its file form; version 2, for packets of less than a
                   frame: number of the first step (uint16), the packet in its session form, CRC-16
    end record     body: total samples (uint64), frames (uint32), CRC-32 of all packet bytes,
                   CRC-32 of this record so far

All numbers are big-endian. Nothing is ever patched afterwards, so the writer needs no seeking. A
record that does not check out is skipped byte by byte until the next one that does; the sequence
numbers of the packets then tell how many frames are missing. `docs/format.md` has every detail.

Bits are counted honestly: packets (with their headers) and the container around them are separate
numbers, and both are reported.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import RawIOBase
from struct import Struct
from typing import Any, BinaryIO

from codec.errors import (
    GIVE_MODEL,
    BadInput,
    BadStream,
    SottoError,
    WrongModel,
    WrongVersion,
)
from codec.packet import (
    FRAME_STEPS,
    MAX_PACKET,
    SEQUENCE_MODULUS,
    SESSION_HEADER_BYTES,
    STEP_MS,
    STEPS,
    Kind,
    Packet,
    checksum,
    pack,
    pack_session,
    short_id,
    unpack,
    unpack_session,
)
from codec.signal.samples import SAMPLE_RATE

MAGIC = b"sotto"
FRAMES_VERSION = 1  # of pictures, and of speech in whole frames
STEPS_VERSION = 2  # of speech in shorter packets
MAX_JSON = 1024
# A start that differs from the magic by no more bits than this is a damaged magic.
MAX_MAGIC_ERRORS = 4

SYNC = 0xD5
RECORD_HEAD_BYTES = 4
MIN_BODY = 2 + SESSION_HEADER_BYTES + 2  # of a packet without payload, the shorter of both forms
MIN_RECORD = RECORD_HEAD_BYTES + MIN_BODY
_END_FLAG = 0x8000

# The most missing frames per file, 4.4 minutes of speech, that are accepted without skipped bytes
# to account for them, as where a piece was cut out of the file.
MAX_UNSEEN_FRAMES = 256
# After this many bytes without a valid record, the reader gives up.
MAX_SKIP = 16 << 20

_CHUNK = 1 << 16
_OPENING = Struct(">5sBH")
_RECORD_HEAD = Struct(">BH")
_END_BODY = Struct(">QIII")
_STEP_SAMPLES = STEP_MS * SAMPLE_RATE // 1000
_BODY_FRAMING = {FRAMES_VERSION: 0, STEPS_VERSION: 4}  # bytes of a body around its packet
_KINDS = {"speech": (Kind.SPEECH, Kind.COMFORT_NOISE), "image": (Kind.IMAGE,)}
_KEYS = ("preset", "model_id", "kind", "sample_rate", "frame_samples")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_MODEL_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class StreamHeader:
    """The description of a stream, which a decoder needs before the first packet.

    preset: name, 1 to 32 of A-Z a-z 0-9 . _ -; model_id: 16 lower-case hex digits; kind: "speech"
    or "image"; sample_rate in Hz and frame_samples per packet (both 0 for images); extra: further
    named integers or short printable strings. Raises `BadInput` if a value is out of range.
    """

    preset: str
    model_id: str
    kind: str = "speech"
    sample_rate: int = SAMPLE_RATE
    frame_samples: int = FRAME_STEPS * _STEP_SAMPLES
    extra: Mapping[str, int | str] = field(default_factory=dict, hash=False)

    @property
    def steps(self) -> int:
        """Latent steps in a packet of speech."""
        steps, rest = divmod(self.frame_samples, _STEP_SAMPLES)
        return steps if steps in STEPS and not rest else FRAME_STEPS

    @property
    def version(self) -> int:
        """Of the container that this header begins."""
        return FRAMES_VERSION if self.steps == FRAME_STEPS else STEPS_VERSION

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str) or not _NAME.fullmatch(self.preset):
            raise BadInput(f"preset {self.preset!r} is not a name")
        if not isinstance(self.model_id, str) or not _MODEL_ID.fullmatch(self.model_id):
            raise BadInput(f"model id {self.model_id!r} is not 16 lower-case hex digits")
        if not isinstance(self.kind, str) or self.kind not in _KINDS:
            raise BadInput(f"stream kind {self.kind!r} is neither speech nor image")
        least = 0 if self.kind == "image" else 1
        most = 0 if self.kind == "image" else 1 << 20
        for name in ("sample_rate", "frame_samples"):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise BadInput(f"{name} {value!r} of a stream of kind {self.kind} is out of range")
        for name, value in self.extra.items():
            short_text = isinstance(value, str) and len(value) <= 64 and value.isprintable()
            number = type(value) is int and abs(value) < 1 << 53
            if not _NAME.fullmatch(name) or name in _KEYS or not (short_text or number):
                raise BadInput(f"header entry {name!r} is neither a short text nor a number")

    def require_model(self, model_id: str, preset: str | None = None) -> None:
        """Raise `WrongModel` unless the stream was coded with this model (16 hex digits)."""
        if self.model_id != model_id.lower():
            ours = f" (preset {preset})" if preset else ""
            raise WrongModel(
                f"the stream was coded with model {self.model_id} (preset {self.preset}), "
                f"the model at hand is {model_id.lower()}{ours}: {GIVE_MODEL}"
            )


@dataclass(frozen=True)
class Lost:
    """`count` consecutive frames that could not be read, at least 1."""

    count: int


@dataclass(frozen=True)
class StreamInfo:
    """Sizes, rates and state of a whole container.

    Rates are in bits per second of audio: payload and packet rates over the frames that were read,
    the total rate (every byte of the container) over the whole duration.
    """

    header: StreamHeader
    frames: int
    damaged_frames: int
    truncated: bool
    total_samples: int | None
    duration_s: float
    payload_bytes: int
    packet_bytes: int
    container_bytes: int
    payload_bits_per_s: float
    packet_bits_per_s: float
    total_bits_per_s: float
    intact: bool
    integrity: str


def _crc8_table(polynomial: int = 0x07) -> bytes:
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & 0x80 else 0)) & 0xFF
        table.append(value)
    return bytes(table)


_CRC8 = _crc8_table()


def crc8(data: bytes) -> int:
    """CRC-8/SMBUS: polynomial 0x07, Hamming distance 4 up to 119 data bits."""
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def record_head(length: int, end: bool = False) -> bytes:
    """The RECORD_HEAD_BYTES before a record's body of `length` bytes."""
    head = _RECORD_HEAD.pack(SYNC, length | (_END_FLAG if end else 0))
    return head + bytes([crc8(head)])


def _parse_record_head(head: bytes) -> tuple[int, bool]:
    """(body length, is the end record); length 0 if no record starts with these bytes."""
    if len(head) < RECORD_HEAD_BYTES or head[0] != SYNC or head[3] != crc8(head[:3]):
        return 0, False
    length = int.from_bytes(head[1:3], "big")
    if length == _END_FLAG | _END_BODY.size:
        return _END_BODY.size, True
    return (length if MIN_BODY <= length <= MAX_PACKET else 0), False


def _pack_body(packet: Packet, version: int) -> bytes:
    if version == FRAMES_VERSION:
        return pack(packet)
    body = packet.sequence.to_bytes(2, "big") + pack_session(packet)
    return body + checksum(body).to_bytes(2, "big")


def _unpack_body(body: bytes, version: int, model_id: int) -> Packet:
    """Inverse of `_pack_body`. Raises BadStream or WrongVersion."""
    if version == FRAMES_VERSION:
        return unpack(body)
    if checksum(body[:-2]) != int.from_bytes(body[-2:], "big"):
        raise BadStream("packet is damaged: its checksum does not match")
    return unpack_session(body[2:-2], int.from_bytes(body[:2], "big"), model_id)


def pack_header(header: StreamHeader) -> bytes:
    """The opening bytes of a container. Raises `BadInput` if they exceed the limit."""
    values = {name: getattr(header, name) for name in _KEYS} | dict(header.extra)
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    if len(text) > MAX_JSON:
        raise BadInput(f"stream header of {len(text)} bytes exceeds the limit of {MAX_JSON}")
    opening = _OPENING.pack(MAGIC, header.version, len(text)) + text
    return opening + zlib.crc32(opening).to_bytes(4, "big")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a repeated name would mean different things to different readers."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("repeated name")
    return values


def _parse_header_json(text: bytes) -> StreamHeader:
    try:
        values = json.loads(text.decode("ascii"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise BadStream("the stream header is not valid JSON") from None
    if not isinstance(values, dict) or any(name not in values for name in _KEYS):
        raise BadStream(f"the stream header does not name all of {', '.join(_KEYS)}")
    known = {name: values.pop(name) for name in _KEYS}
    try:
        return StreamHeader(**known, extra=values)
    except BadInput as reason:
        raise BadStream(f"the stream header is not usable: {reason}") from None


class ContainerWriter:
    """Writes one container, front to back.

    The packets of a container are consecutive, numbered from 0 in packets (version 1) or latent
    steps (version 2). Raises `BadInput` for a packet that does not belong in this stream; lets
    `OSError` through from `fileobj`.

    Attributes: header; frames, size: packets and bytes written so far.
    """

    def __init__(self, fileobj: BinaryIO, header: StreamHeader) -> None:
        self.header = header
        self.frames = self.size = 0
        self._sink = fileobj
        self._model_id = short_id(header.model_id)
        self._content_crc = 0
        self._finished = False
        self._put(pack_header(header))

    def write(self, packet: Packet) -> None:
        """Append the packet of the next frame."""
        if self._finished:
            raise BadInput("the stream is finished: no packet can be added")
        if packet.model_id != self._model_id:
            raise BadInput(
                f"frame {self.frames} was coded with model {packet.model_id:04x}..., "
                f"the stream is for model {self.header.model_id}"
            )
        if packet.kind not in _KINDS[self.header.kind]:
            raise BadInput(
                f"frame {self.frames} is of kind {packet.kind.name.lower()}, "
                f"the stream is of kind {self.header.kind}"
            )
        if packet.steps != self.header.steps:
            raise BadInput(
                f"frame {self.frames} holds {packet.steps} latent steps, "
                f"the packets of this stream {self.header.steps}"
            )
        expected = self.frames * _stride(self.header) % SEQUENCE_MODULUS
        if packet.sequence != expected:
            raise BadInput(
                f"frame {self.frames} carries sequence number {packet.sequence}, "
                f"expected {expected}"
            )
        body = _pack_body(packet, self.header.version)
        self._put(record_head(len(body)) + body)
        self._content_crc = zlib.crc32(body, self._content_crc)
        self.frames += 1

    def finish(self, total_samples: int) -> None:
        """Write the end record: the decoded stream is trimmed to `total_samples`.

        Does not close the file. Raises `BadInput` if the frames written do not hold that many.
        """
        if self._finished:
            raise BadInput("the stream is finished already")
        if not 0 <= total_samples <= self.frames * self.header.frame_samples:
            raise BadInput(f"{self.frames} frames do not hold {total_samples} samples")
        self._finished = True
        record = record_head(_END_BODY.size, end=True) + _END_BODY.pack(
            total_samples, self.frames, self._content_crc, 0
        )
        self._put(record[:-4] + zlib.crc32(record[:-4]).to_bytes(4, "big"))

    def _put(self, data: bytes) -> None:
        self.size += len(data)
        view = memoryview(data)
        while view:
            # Unbuffered files may take less than all; buffered ones need not say how much.
            written = self._sink.write(bytes(view))
            view = view[len(view) if written is None else written :]


class _Window:
    """Lookahead over a source that cannot seek; holds at most two chunks."""

    def __init__(self, source: BinaryIO) -> None:
        # `read1` and raw `read` return what is available, so that a packet in a pipe need not
        # wait until a whole chunk has arrived.
        self._partial = hasattr(source, "read1") or isinstance(source, RawIOBase)
        self._read = getattr(source, "read1", source.read)
        self._buffer = bytearray()
        self.taken = 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the source."""
        while len(self._buffer) < size:
            chunk = self._read(_CHUNK if self._partial else size - len(self._buffer))
            if chunk is None:
                raise BadInput("the source is in non-blocking mode and has no data")
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise BadInput("the source is not opened in binary mode")
            if not chunk:
                break
            self._buffer += chunk
        return bytes(self._buffer[:size])

    def take(self, size: int) -> None:
        """Consume `size` bytes that were peeked at."""
        del self._buffer[:size]
        self.taken += size

    def skip_to(self, byte: int) -> int:
        """Skip the next byte and on to `byte`, within the buffer; returns the bytes skipped."""
        at = self._buffer.find(byte, 1)
        skipped = len(self._buffer) if at < 0 else at
        self.take(skipped)
        return skipped


def _read_header(window: _Window) -> StreamHeader:
    """Consume the stream header."""
    opening = window.peek(_OPENING.size)
    if not opening:
        raise BadStream("the stream is empty")
    start = opening[: len(MAGIC)]
    wrong = int.from_bytes(start, "big") ^ int.from_bytes(MAGIC[: len(start)], "big")
    if wrong.bit_count() > MAX_MAGIC_ERRORS:
        raise BadStream("this is not a sotto stream")
    if len(opening) < _OPENING.size:
        raise BadStream("the stream ends inside its header")
    _, version, length = _OPENING.unpack(opening)
    damaged = BadStream("the stream header is damaged, so the rest cannot be decoded")
    if length > MAX_JSON:
        raise damaged
    size = _OPENING.size + length + 4
    block = window.peek(size)
    if len(block) < size:
        raise BadStream("the stream ends inside its header, or its header is damaged")
    if wrong or zlib.crc32(block[:-4]) != int.from_bytes(block[-4:], "big"):
        raise damaged
    # After the checksum: before it, another version may be a flipped bit.
    if version not in (FRAMES_VERSION, STEPS_VERSION):
        raise WrongVersion(
            f"the stream is of container version {version}, "
            f"this program reads versions {FRAMES_VERSION} and {STEPS_VERSION}"
        )
    header = _parse_header_json(block[_OPENING.size : -4])
    if version != header.version:
        raise BadStream(f"packets of that length are not for container version {version}")
    window.take(size)
    return header


@dataclass(frozen=True)
class _EndRecord:
    total_samples: int
    frames: int
    content_crc: int


class ContainerReader:
    """Reads one container, front to back, with bounded memory.

    Iterating yields the frames in order, each as a `Packet` or within a `Lost(count)`. For a gap in
    the sequence numbers:

    - It is accepted if the bytes skipped before it can have held that many records (`MIN_RECORD`
      bytes each), plus up to `MAX_UNSEEN_FRAMES` per container that left no bytes behind.
    - A packet beyond that is put aside, as RTP receivers do (RFC 3550, appendix A.1). If the next
      packet continues it, both count and the gap is cut to the accepted length; if not, it is
      dropped, as is a packet from before the expected one.

    So n bytes never yield more than n / MIN_RECORD + MAX_UNSEEN_FRAMES frames.

    Attributes, final once iteration has ended: `frames` (read and lost), `damaged_frames` (lost),
    `total_samples` (None without a trustworthy end record), `truncated` (no end record found),
    `header_bytes` (stream header), `packet_bytes` (with packet headers), `payload_bytes`,
    `skipped_bytes` (outside of usable records), and the properties below.

    Raises `BadStream` if the stream header is damaged, `WrongVersion` if it is of another version.
    """

    def __init__(self, fileobj: BinaryIO) -> None:
        self._window = _Window(fileobj)
        self.header = _read_header(self._window)
        self.header_bytes = self._window.taken
        self.frames = 0
        self.damaged_frames = 0
        self.total_samples: int | None = None
        self.truncated = True
        self.packet_bytes = 0
        self.payload_bytes = 0
        self.skipped_bytes = 0
        self._since = 0  # bytes skipped since the last used record
        self._model_id = short_id(self.header.model_id)
        self._stride = _stride(self.header)
        self._expected = 0  # sequence number of the next frame
        self._unseen = MAX_UNSEEN_FRAMES
        self._content_crc = 0
        self._end: _EndRecord | None = None
        self._items = self._read_items()

    def __iter__(self) -> Iterator[Packet | Lost]:
        return self._items

    @property
    def container_bytes(self) -> int:
        """Bytes so far: stream header, records and skipped bytes."""
        return self._window.taken

    @property
    def intact(self) -> bool:
        """Whether nothing is damaged or missing; final once iteration has ended."""
        return self.integrity() == "intact"

    def integrity(self) -> str:
        """The faults in one line, or "intact"."""
        faults = []
        if self.damaged_frames:
            faults.append(f"{self.damaged_frames} of {self.frames} frames lost")
        if self.skipped_bytes:
            faults.append(f"{self.skipped_bytes} bytes unreadable")
        if self._end is None:
            faults.append("truncated (no end record)")
        elif self.total_samples is None:
            faults.append(f"the end record tells of {self._end.frames} frames")
        elif self._end.content_crc != self._content_crc and not faults:
            faults.append("the content differs from its checksum")
        return ", ".join(faults) or "intact"

    def require_model(self, model_id: str, preset: str | None = None) -> None:
        """Raise `WrongModel` unless the stream was coded with this model (16 hex digits)."""
        self.header.require_model(model_id, preset)

    def has_trailing_data(self) -> bool:
        """Whether bytes follow the end record. On a pipe, waits for them."""
        return bool(self._window.peek(1))

    def _read_items(self) -> Iterator[Packet | Lost]:
        aside: tuple[bytes, Packet] | None = None
        for body, record in self._records():
            if isinstance(record, _EndRecord):
                self._drop(aside)
                yield from self._finish(record)
                return
            if aside and record.sequence == self._after(aside[1]):
                yield from self._lose(self._accepted_gap())
                yield self._accept(*aside)
            else:
                self._drop(aside)
            aside = None
            ahead = (record.sequence - self._expected) % SEQUENCE_MODULUS
            gap, between = divmod(ahead, self._stride)
            if between:  # none of this stream's numbers
                self._drop((body, record))
            elif gap <= self._accepted_gap():
                yield from self._lose(gap)
                yield self._accept(body, record)
            elif ahead < SEQUENCE_MODULUS // 2:
                aside = body, record
            else:
                self._drop((body, record))
        self._drop(aside)

    def _records(self) -> Iterator[tuple[bytes, Packet | _EndRecord]]:
        """The intact records, as (body, parsed body); all other bytes are skipped."""
        window = self._window
        while self._since <= MAX_SKIP:
            head = window.peek(RECORD_HEAD_BYTES)
            if not head:
                return
            length, end = _parse_record_head(head)
            block = window.peek(RECORD_HEAD_BYTES + length) if length else b""
            record = self._parse(block, length, end)
            if record is None:
                # Not past the record: its length may be part of the damage.
                self._skip(window.skip_to(SYNC))
            else:
                window.take(len(block))
                yield block[RECORD_HEAD_BYTES:], record

    def _parse(self, block: bytes, length: int, end: bool) -> Packet | _EndRecord | None:
        body = block[RECORD_HEAD_BYTES:]
        if not length or len(body) < length:
            return None
        if end:
            total_samples, frames, content_crc, crc = _END_BODY.unpack(body)
            intact = crc == zlib.crc32(block[:-4])
            return _EndRecord(total_samples, frames, content_crc) if intact else None
        try:
            packet = _unpack_body(body, self.header.version, self._model_id)
        except SottoError:
            return None
        # A packet of another model, kind or length is the result of damage.
        ours = packet.model_id == self._model_id and packet.kind in _KINDS[self.header.kind]
        return packet if ours and packet.steps == self.header.steps else None

    def _skip(self, size: int) -> None:
        self.skipped_bytes += size
        self._since += size

    def _drop(self, unusable: tuple[bytes, Packet] | None) -> None:
        if unusable:
            self._skip(RECORD_HEAD_BYTES + len(unusable[0]))

    def _accepted_gap(self) -> int:
        """The most missing frames that are accepted here."""
        return self._since // MIN_RECORD + self._unseen

    def _lose(self, count: int) -> Iterator[Lost]:
        self._unseen -= max(0, count - self._since // MIN_RECORD)
        self._since = 0
        if count:
            self.frames += count
            self.damaged_frames += count
            yield Lost(count)

    def _accept(self, body: bytes, packet: Packet) -> Packet:
        self.frames += 1
        self.packet_bytes += len(body) - _BODY_FRAMING[self.header.version]
        self.payload_bytes += len(packet.payload)
        self._content_crc = zlib.crc32(body, self._content_crc)
        self._expected = self._after(packet)
        return packet

    def _after(self, packet: Packet) -> int:
        """The sequence number that follows a packet's."""
        return (packet.sequence + self._stride) % SEQUENCE_MODULUS

    def _finish(self, end: _EndRecord) -> Iterator[Lost]:
        """Frames missing before the end record, and whether it agrees with what was read."""
        yield from self._lose(min(max(0, end.frames - self.frames), self._accepted_gap()))
        self.truncated = False
        self._end = end
        fits = end.total_samples <= self.frames * self.header.frame_samples
        if fits and end.frames == self.frames:
            self.total_samples = end.total_samples


def _stride(header: StreamHeader) -> int:
    """By how much the sequence numbers of its packets grow."""
    return 1 if header.version == FRAMES_VERSION else header.steps


def scan(fileobj: BinaryIO) -> StreamInfo:
    """Read a whole container and describe it. Raises what `ContainerReader` raises."""
    reader = ContainerReader(fileobj)
    deque(reader, maxlen=0)
    header = reader.header
    samples = reader.total_samples
    if samples is None:
        samples = reader.frames * header.frame_samples
    duration = samples / header.sample_rate if header.sample_rate else 0.0
    read = reader.frames - reader.damaged_frames
    read_duration = duration * read / reader.frames if reader.frames else 0.0

    def rate(size: int, seconds: float) -> float:
        return 8 * size / seconds if seconds else 0.0

    integrity = reader.integrity()
    if not reader.truncated and reader.has_trailing_data():
        integrity += ", followed by other data"
    return StreamInfo(
        header=header,
        frames=reader.frames,
        damaged_frames=reader.damaged_frames,
        truncated=reader.truncated,
        total_samples=reader.total_samples,
        duration_s=duration,
        payload_bytes=reader.payload_bytes,
        packet_bytes=reader.packet_bytes,
        container_bytes=reader.container_bytes,
        payload_bits_per_s=rate(reader.payload_bytes, read_duration),
        packet_bits_per_s=rate(reader.packet_bytes, read_duration),
        total_bits_per_s=rate(reader.container_bytes, duration),
        intact=reader.intact,
        integrity=integrity,
    )
