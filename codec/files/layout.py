"""What a media file's own structure says of where its sound lies, before FFmpeg sees it.

FFmpeg takes headers at their word and reads the first of several files in one. So lengths that a
recorder never got to write are mended here, tags in front are passed over, and what begins behind
the first file is found: another file, a second chunk of samples, a link of a chained Ogg stream.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

_HEAD_BYTES = 1 << 16
_MOST_CHUNKS = 10_000
_MOST_TAGS = 20
_SEARCHED = 1 << 16
_OGG_HEADER = 27
_XING_WITHIN = 256
_ID3V1_BYTES = 128
_APE_HEADER = 1 << 31
# Lengths from here up mean that the writer did not know.
_UNKNOWN = 1 << 62
_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_W64_FILE, _W64_FORM = b"riff\x2e\x91\xcf\x11", b"wave" + _W64_TAIL
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# What one file may be followed by, if its own chunks have come to an end.
FILES = (b"RIFF", b"RF64", b"BW64", b"fLaC", b"OggS", b"FORM", b"caff", b"riff\x2e\x91")


@dataclass(frozen=True)
class _Chunked:
    """A kind of file in chunks, each with its name and length in front.

    first: where the chunks begin; name, length: sizes of these two in bytes; least: a length that
    says "no samples"; unknown: what FFmpeg reads to the end; whole: the length counts the two;
    align: what chunks are padded to; form, data: names of the chunks of format and samples.
    """

    first: int
    name: int
    length: str
    whole: bool
    align: int
    form: bytes
    data: bytes
    least: int
    unknown: int

    @property
    def front(self) -> int:
        return self.name + struct.calcsize(self.length)


_AIFF = _Chunked(12, 4, ">I", False, 2, b"COMM", b"SSND", 8, 0xFFFFFFFF)
_CAF = _Chunked(8, 4, ">q", False, 1, b"desc", b"data", 4, -1)
_W64 = _Chunked(40, 16, "<Q", True, 8, b"fmt " + _W64_TAIL, b"data" + _W64_TAIL, 24, 1 << 60)


@dataclass(frozen=True)
class Layout:
    """A file within a file: its bytes from `start` on, the first of them replaced by `head`.

    empty: its header says that there are no samples. promised: where the samples end by it, from
    `start`, 0 if it does not say. torn: its last page is not whole. left_out: what follows it is
    no audio. end: where the next one begins, None if there is none; front: what that lacks in
    front, if it is samples alone. without_index: MPEG-4 without the box that tells where its
    sound is.
    """

    start: int = 0
    end: int | None = None
    head: bytes = b""
    front: bytes = b""
    empty: bool = False
    promised: int = 0
    torn: bool = False
    left_out: bool = False
    without_index: bool = False


def layout_of(file: BinaryIO, start: int = 0, front: bytes = b"") -> Layout:
    """The layout of a regular file, or of what begins at `start` in it; leaves it anywhere.

    front: a header that precedes `start`, as in the `Layout` before.
    """
    size = os.fstat(file.fileno()).st_size
    if front and (kind := _kind(front)) is not None:
        return _chunks(file, start, size, kind, front)
    start = _behind_tags(file, start, size)
    head = _read(file, start, 16)
    if head.startswith(b"OggS"):
        return _ogg(file, start, size)
    if head[4:8] in _BOXES:
        return _mpeg4(file, start, size)
    if (kind := _kind(head)) is not None:
        return _chunks(file, start, size, kind, b"")
    if head.startswith(_ASF):
        return _asf(file, start, size)
    if _is_mpeg_frame(head):
        return Layout(start, _next_mpeg(file, start, size))
    return Layout(start, promised=promised_end(_read(file, start, _HEAD_BYTES)))


def mpeg_length(head: bytes) -> tuple[int, int] | None:
    """Frames and bytes that the first frame of an MP3 file says there are, 0 if it does not say.

    None if there is no such frame (VBRI's count neither).
    """
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return None
    flags, frames, length = struct.unpack_from(">III", head, at + 4)
    if not flags & 1:
        return 0, frames if flags & 2 else 0
    return frames, length if flags & 2 else 0


def mended_head(head: bytes) -> tuple[bytes, bool] | None:
    """The beginning of a Sun/NeXT or W64 stream with a length that FFmpeg reads to the end.

    The flag says whether the length was none at all. None: `head` is too short to tell.
    """
    if head[:4] == b".snd":
        if len(head) < 12:
            return None
        if head[8:12] == bytes(4):
            return head[:8] + b"\xff" * 4 + head[12:], True
    elif head.startswith(_W64_FILE):
        at, kind = _W64.first, _W64
        for _ in range(_MOST_CHUNKS):
            if len(head) < at + kind.front:
                return None
            length = struct.unpack_from(kind.length, head, at + kind.name)[0]
            if head.startswith(kind.data, at):
                if kind.least < length < _UNKNOWN:
                    break
                fixed = struct.pack(kind.length, kind.unknown)
                mended = head[: at + kind.name] + fixed + head[at + kind.front :]
                return mended, length <= kind.least
            at += max(-(-length // kind.align) * kind.align, kind.front)
    return head, False


def promised_end(head: bytes) -> int:
    """Where a file ends by its header: AVI, W64, Matroska; 0 if that does not say."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + int(struct.unpack("<I", head[4:8])[0])
    if head.startswith(_W64_FILE):
        at = _W64.first
        while len(head) >= at + _W64.front:
            length = int(struct.unpack_from(_W64.length, head, at + _W64.name)[0])
            if not _W64.least <= length < _UNKNOWN or length == _W64.unknown:
                return 0
            if head.startswith(_W64.data, at):
                return at + length
            at += -(-length // _W64.align) * _W64.align
        return 0
    if head.startswith(_EBML):
        found = _ebml_length(head, 4)
        if found is not None and head.startswith(_SEGMENT, sum(found)):
            at = sum(found) + 4
            segment = _ebml_length(head, at)
            return sum(segment) if segment is not None else 0
    return 0


def _ebml_length(head: bytes, at: int) -> tuple[int, int] | None:
    """Where the contents of an element begin, and how long they are; None if that is unknown."""
    if len(head) <= at or not head[at]:
        return None
    size = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + size], "big") & ((1 << 7 * size) - 1)
    return None if value == (1 << 7 * size) - 1 else (at + size, value)


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _behind_tags(file: BinaryIO, start: int, size: int) -> int:
    """Where a file begins behind ID3 tags, which may be in front of any format."""
    for _ in range(_MOST_TAGS):
        tag = _read(file, start, 10)
        if tag[:3] != b"ID3" or len(tag) < 10 or max(tag[6:]) > 127:
            break
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        behind = start + 10 + length + (10 if tag[5] & 0x10 else 0)
        # A tag as long as the file, or longer, is none.
        start = behind if behind < size else start + 10
    return start


def _kind(head: bytes) -> _Chunked | None:
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _AIFF
    if head[:4] == b"caff":
        return _CAF
    return _W64 if head.startswith(_W64_FILE) else None


def _chunks(file: BinaryIO, start: int, size: int, kind: _Chunked, front: bytes) -> Layout:
    """AIFF, CAF and W64: the first samples, and what follows them; front: a header of our own."""
    at, form, head = start, b"", front
    if not front:
        front = _read(file, start, kind.first)
        at += len(front)
        if kind is _AIFF and struct.unpack(">I", front[4:8])[0] < 4:
            front = head = front[:4] + b"\xff" * 4 + front[8:]
    else:
        start -= len(front)
        form = front[kind.first :]
    found, left_out, empty, promised = False, False, False, 0
    for _ in range(_MOST_CHUNKS):
        begin = _read(file, at, kind.front)
        name = begin[: kind.name]
        if len(begin) < kind.front or not all(32 <= byte < 127 for byte in name[:4]):
            left_out = found and any(name)
            break
        if found and name.startswith(FILES):
            return Layout(start, at, head, b"", empty, promised)
        length = int(struct.unpack_from(kind.length, begin, kind.name)[0])
        if name == kind.data:
            if found:
                return Layout(start, at, head, front[: kind.first] + form, empty, promised)
            found = True
            if not kind.least < length < min(_UNKNOWN, kind.unknown % _UNKNOWN):
                before = head or _read(file, start, at - start)
                if len(before) < at - start:
                    before += _read(file, start + len(before), at - start - len(before))
                head = before + name + struct.pack(kind.length, kind.unknown)
                return Layout(start, None, head, empty=0 <= length <= kind.least)
            promised = at - start + length + (0 if kind.whole else kind.front)
        step = length if kind.whole else length + kind.front
        if step < kind.front:
            break
        if name == kind.form and step < _HEAD_BYTES:
            form = _read(file, at, step + -step % kind.align)
        at += step + -step % kind.align
        if at >= size:
            break
    return Layout(start, None, head, b"", empty, promised, left_out=left_out)


def _mpeg4(file: BinaryIO, start: int, size: int) -> Layout:
    at, index = start, False
    for _ in range(_MOST_CHUNKS):
        begin = _read(file, at, 16)
        if len(begin) < 8:
            break
        name, length = begin[4:8], struct.unpack(">I", begin[:4])[0]
        if length == 1 and len(begin) == 16:
            length = struct.unpack(">Q", begin[8:])[0]
        if name == b"ftyp" and at > start:
            return Layout(start, at, without_index=not index)
        index |= name in (b"moov", b"moof")
        at += length
        if length < 8 or at >= size:
            break
    return Layout(start, without_index=not index)


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether this is the header of a frame of MPEG audio, of layer II or III."""
    return (
        len(head) > 3
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08  # a version that does not exist
        and head[1] & 0x06 in (2, 4)
        and 0 < head[2] >> 4 < 15
        and head[2] & 0x0C != 0x0C
    )


def _next_mpeg(file: BinaryIO, start: int, size: int) -> int | None:
    """Where an MP3 file ends that says how long it is, if another one follows it."""
    told = mpeg_length(_read(file, start, _XING_WITHIN))
    if told is None or not told[1]:
        return None
    at = start + told[1]
    for _ in range(_MOST_TAGS):
        begin = _read(file, at, 32)
        if begin.startswith(b"TAG"):
            at += _ID3V1_BYTES
        elif begin.startswith(b"APETAGEX") and len(begin) == 32:
            length, _, flags = struct.unpack_from("<III", begin, 12)
            at += length + (32 if flags & _APE_HEADER else 0)
        else:
            break
    following = begin.startswith(b"ID3") or _is_mpeg_frame(begin)
    return at if following and at < size else None


def _asf(file: BinaryIO, start: int, size: int) -> Layout:
    at = start
    for _ in range(_MOST_CHUNKS):
        begin = _read(file, at, 24)
        if len(begin) < 24:
            break
        if begin.startswith(_ASF) and at > start:
            return Layout(start, at)
        length = struct.unpack("<Q", begin[16:])[0]
        at += length
        if length < 24 or at >= size:
            break
    return Layout(start)


def _ogg(file: BinaryIO, start: int, size: int) -> Layout:
    """A link of an Ogg stream; the next begins with pages that say so, behind others."""
    inside, at, torn = False, start, False
    while at < size:
        page = _read(file, at, _OGG_HEADER + 255)
        if page[:4] != b"OggS" or len(page) < _OGG_HEADER or page[4] or page[5] > 7:
            torn = b"OggS".startswith(page[:4]) and at + _OGG_HEADER > size
            at = _next_page(file, at + 1, size)
            continue
        if not page[5] & 2:
            inside = True
        elif inside:
            return Layout(start, at)
        segments = page[_OGG_HEADER : _OGG_HEADER + page[26]]
        at += _OGG_HEADER + page[26] + sum(segments)
        torn = at > size
    return Layout(start, torn=torn)


def _next_page(file: BinaryIO, at: int, size: int) -> int:
    while at < size:
        data = _read(file, at, _SEARCHED + 3)
        found = data.find(b"OggS")
        if found >= 0:
            return at + found
        at += _SEARCHED
    return size
