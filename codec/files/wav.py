"""WAV as a stream: headers read from, and written to, pipes of unknown length.

Programs that write WAV to a pipe cannot go back to fill in the length, so they leave 0, 0x7FFFFFFF,
0xFFFFFFFF or (sox) 0x7FFFF000 less the header there. Such a stream ends where the pipe ends.

Layout of the chunks: IBM and Microsoft, "Multimedia Programming Interface and Data Specifications
1.0" (1991); WAVE_FORMAT_EXTENSIBLE: Microsoft, "Multiple Channel Audio Data and WAVE Files" (2001);
RF64: EBU Tech 3306 (2009).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput

HEADER_BYTES = 44
MAX_DATA_BYTES = 0xFFFFFFFF - HEADER_BYTES
# Written for a length not yet known: the one placeholder that sox, too, reads without a warning.
UNKNOWN_LENGTH = 0x7FFFF000

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# Lengths from here up are a streaming writer's placeholder, never the truth about a pipe.
_PLACEHOLDER = 0x7FFF0000
_SEE_DS64 = 0xFFFFFFFF
_MAX_FMT_BYTES = 4096
_MAX_PREFIX_BYTES = 1 << 20
_SKIP_BYTES = 1 << 16

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class WavFormat:
    """How the samples of a WAV stream are stored.

    encoding is one of u1, i2, i3, i4, f4, f8 (kind and bytes per sample, little endian).
    """

    sample_rate: int
    channels: int
    encoding: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return int(self.encoding[1]) * self.channels


@dataclass(frozen=True)
class WavStream:
    """A WAV stream read up to its `fmt ` chunk.

    prefix: everything read so far; format: None if the samples are compressed.
    """

    prefix: bytes
    format: WavFormat | None
    long_length: int | None


def read_format(start: bytes, read: Read) -> WavStream:
    """Read a RIFF or RF64 stream up to and including its format.

    start: the first 12 bytes, already read. read(n) gives n bytes, fewer only at the end.
    Raises BadInput if this is not WAV, or if its header ends, or grows too long, before its format.
    """
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        raise BadInput("not a WAV stream")
    prefix = start
    long_length = None
    while True:
        head = read(8)
        if len(head) < 8:
            raise BadInput("the WAV header is cut short")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        size += size % 2
        if name == b"data":
            raise BadInput("the WAV header gives no sample format")
        if len(prefix) + size > _MAX_PREFIX_BYTES or (name == b"fmt " and size > _MAX_FMT_BYTES):
            raise BadInput("the WAV header is damaged or too long")
        body = read(size)
        if len(body) < size:
            raise BadInput("the WAV header is cut short")
        prefix += head + body
        if name == b"ds64" and size >= 16:
            long_length = struct.unpack("<Q", body[8:16])[0]
        if name == b"fmt ":
            return WavStream(prefix, parse_format(body), long_length)


def parse_format(body: bytes) -> WavFormat | None:
    """The format in the body of a `fmt ` chunk; None if the samples are compressed.

    Raises BadInput if the chunk contradicts itself.
    """
    if len(body) < 16:
        raise BadInput("the WAV header is damaged")
    tag, channels, sample_rate, _, block, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack("<H", body[24:26])[0]
    if tag not in (_PCM, _FLOAT):
        return None
    kinds = {8: "u1", 16: "i2", 24: "i3", 32: "i4"} if tag == _PCM else {32: "f4", 64: "f8"}
    # 12- and 20-bit samples sit left-justified in whole bytes.
    encoding = kinds.get(-(-bits // 8) * 8)
    if channels == 0 or encoding is None or block != int(encoding[1]) * channels:
        raise BadInput(f"the WAV header is damaged ({channels} channels of {bits} bits)")
    return WavFormat(sample_rate, channels, encoding)


def find_data(read: Read, long_length: int | None) -> int | None:
    """Skip to the samples. Returns their length in bytes, None if they end with the stream.

    Raises BadInput if the stream ends first.
    """
    while True:
        head = read(8)
        if len(head) < 8:
            raise BadInput("the WAV stream holds no samples")
        size: int = struct.unpack("<I", head[4:])[0]
        if head[:4] == b"data":
            if size == _SEE_DS64 and long_length:
                size = long_length
                return size if size < 1 << 62 else None
            return size if 0 < size < _PLACEHOLDER else None
        left = size + size % 2
        while left:
            skipped = len(read(min(left, _SKIP_BYTES)))
            if not skipped:
                raise BadInput("the WAV stream holds no samples")
            left -= skipped


def to_float(data: bytes, form: WavFormat) -> NDArray[np.float32]:
    """Stored samples to [frames, channels] float32, full scale 1; a last part-frame is dropped."""
    data = data[: len(data) // form.frame_bytes * form.frame_bytes]
    if form.encoding == "i3":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2.0**31
    elif form.encoding == "u1":
        values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / 128.0
    else:
        stored = np.frombuffer(data, "<" + form.encoding)
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float32)
        if form.encoding[0] == "i":
            values /= 2.0 ** (8 * stored.itemsize - 1)
    return values.reshape(-1, form.channels)


def to_pcm16(samples: NDArray[np.float32]) -> bytes:
    """Float samples, full scale 1, to 16-bit little-endian; clipped, not-a-number is 0."""
    clean = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    data: bytes = np.clip(np.rint(clean * 32768.0), -32768, 32767).astype("<i2").tobytes()
    return data


def pcm16_header(sample_rate: int, data_bytes: int | None, channels: int = 1) -> bytes:
    """The 44 bytes before 16-bit samples; data_bytes None means not known yet."""
    length = UNKNOWN_LENGTH if data_bytes is None else data_bytes
    riff = length + HEADER_BYTES - 8
    frame = 2 * channels
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, _PCM, channels, sample_rate, frame * sample_rate, frame, 16
    )
    start, end = struct.pack("<4sI4s", b"RIFF", riff, b"WAVE"), struct.pack("<4sI", b"data", length)
    return start + form + end
