"""Sound out of any media file or pipe, decoded piece by piece with FFmpeg's libraries (PyAV).

FFmpeg sees bytes and nothing else: no name, no address, no other file. Of its demuxers only those
of media files are allowed, so that nothing a file says (a playlist, a manifest, a list to
concatenate) makes it open another one; what it reads before it knows a format is bounded.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer

from codec.errors import BadInput
from codec.files.layout import FILES, Layout, layout_of, mended_head, mpeg_length, promised_end
from codec.signal.samples import FloatArray

Note = Callable[[str], None]

PROBED_BYTES = 1 << 20
_BLOCK_VALUES = 1 << 16
_BUFFER = 1 << 15
_HEAD_BYTES = 1 << 16
_MOST_CHANNELS = 128
# PyAV finds the end of the list of planes by a null pointer, which follows up to seven only.
_MOST_PLANES = 7
_MOST_BAD = 1000  # packets in a row without any sound among them
_MOST_CHUNKS = 10_000
_MOST_PARTS = 100_000
# Lengths from here up are a streaming writer's placeholder, not the truth about a 32-bit header.
_PLACEHOLDER = 0x7FFF0000
_SEE_DS64 = 0xFFFFFFFF
_WAV_CHUNKS = (b"fmt ", b"data", b"LIST", b"fact", b"bext", b"JUNK", b"cue ", b"PEAK")
# Of what is to be cut off at the end, more is no padding of an encoder.
_MOST_PADDING = 4096
_MPEG1_RATE = 32_000  # least of MPEG-1, whose frames are longer
_MP3_SLACK = 0.25  # seconds that an encoder adds
_FAR = 1 << 63
_SKIP_MANUALLY = 1 << 29  # AV_CODEC_FLAG2_SKIP_MANUAL

# Demuxers of media files that stand alone. Those of playlists, manifests, devices, raw samples and
# pictures are left out.
DEMUXERS = (
    "3gp,aac,ac3,adx,aiff,amr,amrnb,amrwb,ape,asf,asf_o,ast,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,"
    "gsm,iff,ircam,loas,m4a,matroska,mj2,mlp,mov,mp3,mp4,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,"
    "oga,ogg,oma,paf,pvf,qcp,rm,shn,sln,sox,tak,truehd,tta,voc,w64,wav,webm,wsd,wtv,wv,xwma,3g2"
)
_OPTIONS = {
    "format_whitelist": DEMUXERS,
    "protocol_whitelist": "none",
    "probesize": str(PROBED_BYTES),
    "formatprobesize": str(PROBED_BYTES),
    "analyzeduration": "2000000",
    "max_probe_packets": "500",
    "max_streams": "100",
}
# Whose headers say exactly how long the sound is; of others the length is a guess.
_EXACT = frozenset({"flac", "aiff", "au", "caf", "mov", "ogg", "matroska"})
_WAV_OF_ANY_LENGTH = b"RIFF\xff\xff\xff\xffWAVE"
_FLAC = b"fLaC\0\0\0\x22"  # with the head of its first block, which is always the same
# What another file of its kind begins with, in a stream.
_MARKS = (_FLAC, b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00")
_SCALES = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}
# Tags in an unknown encoding are no reason to refuse the sound; from PyAV 19 on they never were.
_ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# What one broken packet raises; the next may be whole.
_BROKEN = (av.error.FFmpegError, ValueError, IndexError)


class Bytes:
    """What FFmpeg reads: bytes taken from a file already, then the rest of it.

    read_some: gives at most so many bytes, none at the end. file: where FFmpeg may go back and
    forth in, if given, within what `layout` says; `start` must be empty then.
    """

    def __init__(
        self,
        read_some: Callable[[int], bytes],
        start: bytes = b"",
        file: BinaryIO | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._read, self._start, self._file = read_some, start, file
        self._mark = next((each for each in _MARKS if start.startswith(each)), b"")
        self.next: bytes | None = None
        self._left: int | None = None
        self._tail, self._position, self._at_end = b"", 0, False
        self.size: int | None = None
        self.wav: WavHead | None = None
        self.layout = layout or Layout(promised=promised_end(start))
        if file is not None:
            end = self.layout.end
            whole = os.fstat(file.fileno()).st_size if end is None else end
            self.size = whole - self.layout.start
            self._seek(0)
            self.head = self.read(_HEAD_BYTES)
            self._seek(0)
            self.seek, self.tell = self._seek, self._tell
        else:
            self.head = start

    @classmethod
    def of_file(cls, file: BinaryIO, start: int = 0, front: bytes = b"") -> Bytes:
        """A regular file, or what begins in it at `start`, behind `front`."""
        layout = layout_of(file, start, front)
        file.seek(layout.start)
        begin = file.read(12)
        if _is_wav(begin) or begin.startswith(_FLAC[:4]):
            # FFmpeg would take the last samples of a WAV file for all there are, if it could seek.
            data = cls.of_pipe(file.read, begin)
            data.size = os.fstat(file.fileno()).st_size - layout.start
            return data
        if begin[:4] == b".snd" and (mended := mended_head(begin)) is not None and mended[1]:
            layout = replace(layout, head=mended[0], empty=True)
        return cls(file.read, file=file, layout=layout)

    @classmethod
    def of_pipe(cls, read_some: Callable[[int], bytes], start: bytes) -> Bytes:
        """A pipe; start: its first bytes, 12 or more if there are so many."""
        if not _is_wav(start):
            while (
                (mended := mended_head(start)) is None
                and len(start) < _HEAD_BYTES
                and (more := read_some(_BUFFER))
            ):
                start += more
            if mended is None:
                return cls(read_some, start)
            head, empty = mended
            return cls(read_some, head, layout=Layout(empty=empty, promised=promised_end(head)))
        while (
            (found := WavHead.find(start)) is None
            and len(start) < PROBED_BYTES
            and (more := read_some(_BUFFER))
        ):
            start += more
        if found is not None and (
            found.unpadded or (found.length is None and start[:4] != b"RIFF")
        ):
            # FFmpeg takes the length in the head of a long file for the truth, whatever it is.
            length = min(found.length or _SEE_DS64, _SEE_DS64)
            form = found.form + b"\0" * (len(found.form) % 2)
            before = _WAV_OF_ANY_LENGTH + form + b"data" + struct.pack("<I", length)
            start = before + start[found.at :]
            found = replace(found, at=len(before))
        data = cls(read_some, start)
        data.wav = found
        return data

    @property
    def ends_at(self) -> int | None:
        """How many bytes there are, if that is known."""
        return self._position if self.size is None and self._at_end else self.size

    def _seek(self, offset: int, whence: int = 0) -> int:
        # An exception would be printed by PyAV; FFmpeg knows a negative number for an error.
        assert self._file is not None and self.size is not None
        try:
            offset += {0: 0, 1: self._tell(), 2: self.size}[whence]
            return self._file.seek(self.layout.start + offset) - self.layout.start
        except (OSError, ValueError, KeyError):
            return -1

    def _tell(self) -> int:
        assert self._file is not None
        return self._file.tell() - self.layout.start

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        if self.next is not None:
            return b""
        if self._left is not None:
            count = min(count, self._left)
            if not count:
                return b""
        if self._file is not None:
            return self._read_file(count)
        if self._start:
            data, self._start = self._start[:count], self._start[count:]
        else:
            data = self._read(count)
            self._at_end |= not data and count > 0
        before = self._tail[1 - len(self._mark) :] if self._mark else b""
        if self._mark and (at := (before + data).find(self._mark, self._position == 0)) >= 0:
            # Another file begins here, of which FFmpeg would lose the first frame or all.
            at -= len(before)
            self.next = data[at:] if at >= 0 else self._tail[at:] + data
            data = data[: max(at, 0)]
        if self._left is not None:
            self._left -= len(data)
        # FFmpeg reads ahead of what it decodes, by no more than its buffer.
        self._tail = (self._tail + data)[-4 * _BUFFER :]
        self._position += len(data)
        return data

    def _read_file(self, count: int) -> bytes:
        assert self.size is not None
        at, head = self._tell(), self.layout.head
        data = self._read(max(0, min(count, self.size - at)))
        return head[at : at + len(data)] + data[max(len(head) - at, 0) :] if at >= 0 else b""

    def only_samples(self) -> None:
        """Leave out the head of a WAV file, and what follows its samples."""
        assert self.wav is not None
        self._start = self._start[self.wav.at :]
        self._left = self.wav.length

    def after(self, position: int) -> Rest | None:
        """All that follows `position` of what cannot seek; None if that is lost."""
        if self.next is not None:
            return Rest(self._read, self.next + self._start)
        behind = self._position - position
        if not 0 <= behind <= len(self._tail):
            return None
        return Rest(self._read, self._tail[len(self._tail) - behind :] + self._start)

    def following(self) -> Bytes | None:
        """What begins behind this in a file that can seek."""
        if self._file is None or self.layout.end is None:
            return None
        return Bytes.of_file(self._file, self.layout.end, self.layout.front)


class Rest:
    """What has not been read yet of a file or pipe."""

    def __init__(self, read_some: Callable[[int], bytes], start: bytes = b"") -> None:
        self._read, self._start = read_some, start

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer only at the end."""
        while len(self._start) < count and (more := self._read(_BUFFER)):
            self._start += more
        return self._start[:count]

    def skip(self, count: int) -> bool:
        """Pass over bytes, of which nothing is kept; False if there are not so many."""
        while count > len(self._start) and (more := self._read(_BUFFER)):
            count -= len(self._start)
            self._start = more
        whole = count <= len(self._start)
        self._start = self._start[count:]
        return whole

    def bytes(self, before: bytes = b"") -> Bytes:
        """All that is left, behind bytes of our own."""
        self.peek(12)
        return Bytes.of_pipe(self._read, before + self._start)


@dataclass(frozen=True)
class WavHead:
    """The beginning of a WAV file: its `fmt ` chunk, and the length of its samples in bytes.

    at: where these begin. unpadded: chunks before them lack what FFmpeg expects behind an odd
    length. length: None where a writer that could not go back has left 0 (`empty`)
    or a number near 2^31 or 2^32.
    """

    form: bytes
    length: int | None
    empty: bool
    at: int
    unpadded: bool = False

    def samples(self) -> tuple[str, dict[str, str]] | None:
        """FFmpeg's format of uncompressed samples, and its options; None of compressed ones."""
        if len(self.form) < 24:
            return None
        tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", self.form[8:24])
        if tag == 0xFFFE and len(self.form) >= 34:
            tag = struct.unpack("<H", self.form[32:34])[0]
        kinds = {(1, 8): "u8", (3, 32): "f32le", (3, 64): "f64le"}
        kinds |= {(1, size): f"s{size}le" for size in (16, 24, 32)}
        kind = kinds.get((tag, bits))
        if kind is None or not channels or not 0 < rate < 1 << 31:
            return None
        return kind, {"sample_rate": str(rate), "ch_layout": f"{channels}c"}

    @classmethod
    def find(cls, head: bytes) -> WavHead | None:
        """None if `head` does not reach as far as the samples, or they have no format."""
        at, form, long_length, unpadded = 12, b"", None, False
        while len(head) >= at + 8:
            name, size = head[at : at + 4], struct.unpack("<I", head[at + 4 : at + 8])[0]
            if name == b"data":
                if long_length is not None and size == _SEE_DS64:
                    size = long_length
                known = 0 < size < _PLACEHOLDER or (size == long_length and 0 < size < 1 << 62)
                length = size if known else None
                return cls(form, length, size == 0, at + 8, unpadded) if form else None
            end = at + 8 + size
            # Some writers forget to pad a chunk of odd length.
            padded = size % 2 if head[end : end + 4] not in _WAV_CHUNKS else 0
            body = head[at : end + padded]
            if name == b"fmt ":
                form = body
            elif name == b"ds64" and len(body) >= 24:
                long_length = struct.unpack("<Q", body[16:24])[0]
            at = end + padded
            unpadded |= size % 2 > padded
        return None


def _is_wav(start: bytes) -> bool:
    return start[:4] in (b"RIFF", b"RF64", b"BW64") and start[8:12] == b"WAVE"


class Decoder:
    """The sound of a file or pipe in blocks [frames, channels] as stored, full scale 1.

    name: for messages; note receives lines about what is left out or damaged; live: blocks are
    short, and begin with the first samples.

    Attributes: sample_rate, which may change from block to block; seconds, None if nobody knows.

    Raises BadInput if this is no sound that can be decoded.
    """

    def __init__(self, data: Bytes, name: str, note: Note, *, live: bool = False) -> None:
        self._bytes, self._name, self._note = data, name, note
        self._stack = contextlib.ExitStack()
        self._live = live
        self._block_values = 1 if live else _BLOCK_VALUES
        self._bad = 0
        self._total = 0.0
        self._skipped = False
        self._blocks = self._decode()
        self._open(data)
        self.sample_rate: int = self._context.sample_rate
        # A decoder knows better than the header (HE-AAC), but only once there is a frame.
        self._held: list[FloatArray] = []
        first = next(self._blocks, None)
        self._empty = first is None
        if first is not None:
            self._held.append(first)

    @property
    def empty(self) -> bool:
        """Whether there is no sound at all."""
        return self._empty

    def read_block(self) -> FloatArray:
        """The next block of `sample_rate`; [0, channels] at the end."""
        if self._held:
            return self._held.pop()
        block = next(self._blocks, None)
        return np.zeros((0, 1), np.float32) if block is None else block

    def close(self) -> None:
        """Release the decoder; the file stays open, for whoever opened it."""
        self._stack.close()

    def _open(self, data: Bytes) -> None:
        self._stack.close()
        self._bytes = data
        form, options = None, dict(_OPTIONS)
        if data.wav is not None and self._live and (samples := data.wav.samples()):
            # FFmpeg would first look for other formats in 64 KiB of what WAV holds.
            data.only_samples()
            form, more = samples
            options |= {"format_whitelist": form, **more}
        elif data.wav is not None and data.wav.length is None:
            options["ignore_length"] = "1"
        try:
            container = self._stack.enter_context(
                av.open(
                    data,
                    format=form,
                    options=options,
                    buffer_size=_BUFFER,
                    **_ANY_TAGS,
                    io_open=_refuse_open,
                )
            )
        except _BROKEN as error:
            why = ": the index of its sound is missing" if data.layout.without_index else ""
            raise BadInput(f"{self._name} is not audio that can be read{why}") from error
        assert isinstance(container, InputContainer)
        self._container = container
        self._form = container.format.name.split(",")[0]
        streams = [s for s in container.streams if s.type == "audio"]
        known = [s for s in streams if isinstance(s.codec_context, AudioCodecContext)]
        if not known:
            what = "in a format that cannot be read" if streams else "but no sound"
            kinds = "sound" if streams else ", ".join(
                sorted({str(s.type) for s in container.streams}) or ["nothing"]
            )  # fmt: skip
            raise BadInput(f"{self._name} is not audio that can be read: it holds {kinds} {what}")
        self._stream = known[0]
        self._context: Any = known[0].codec_context
        if len(streams) > 1:
            self._note(f"{self._name}: holds {len(streams)} sound tracks; the first is read")
        context: Any = self._context
        # FFmpeg cuts short files of Vorbis off too early: it takes the first block, which gives no
        # samples, for sound.
        self._vorbis = self._form == "ogg" and context.name == "vorbis"
        # In CAF it cuts a last frame that is short already.
        self._short = self._form == "caf" and context.name == "alac"
        if self._vorbis or self._short:
            context.flags2 |= _SKIP_MANUALLY
        # Threads would hold back frames, and a decoder of sound has no use for them.
        context.thread_count = 1
        if context.channels > _MOST_CHANNELS:
            raise BadInput(f"{self._name} has {context.channels} channels")
        self.seconds = self._stored_seconds()

    def _stored_seconds(self) -> float | None:
        stream, wav = self._stream, self._bytes.wav
        if wav is not None:
            context = self._context
            rate = context.bit_rate
            if bits := re.match(r"pcm_[suf](\d+)", context.name):
                rate = context.sample_rate * context.channels * int(bits[1])
            return 8.0 * wav.length / rate if wav.length and rate else None
        if self._form == "matroska" and len(self._container.streams) == 1:
            stored = self._container.duration
            return stored / av.time_base if stored is not None and 0 < stored < 1e15 else None
        if stream.duration is None or stream.time_base is None or stream.duration <= 0:
            return None
        seconds = float(stream.duration * stream.time_base)
        return seconds if 0 < seconds < 1e9 else None

    def _decode(self) -> Iterator[FloatArray]:
        """Blocks of all parts of a file, one behind the other."""
        for _ in range(_MOST_PARTS):
            yield from self._part()
            if not self._open_following():
                break
        if self._bad:
            places = "place" if self._bad == 1 else "places"
            self._note(f"{self._name}: damaged in {self._bad} {places}; the rest is read")

    def _open_following(self) -> bool:
        """Go on to what begins behind the last part; False if there is nothing more to read."""
        for _ in range(_MOST_PARTS):
            following = self._following()
            if following is None:
                break
            try:
                self._open(following)
            except BadInput:
                if not self._skipped:
                    there = f"what follows {self._total:.1f} s"
                    self._note(f"{self._name}: {there} is not audio; left out")
                self._skipped, self._bytes, self._form = True, following, ""
                continue
            return True
        return False

    def _part(self) -> Iterator[FloatArray]:
        """Blocks of one part, whose length is added to `_total`."""
        expected, wav = self.seconds, self._bytes.wav
        if (wav.empty if wav is not None else self._bytes.layout.empty) and self._bytes.size:
            self._note(f"{self._name}: its header says that it is empty; read to the end")
        held: list[FloatArray] = []
        values = rate = 0
        seconds = 0.0
        self._end = 0
        for frame in self._cut(expected):
            try:
                block = _to_float(frame)
            except _BROKEN:
                self._bad += 1
                continue
            if held and (frame.sample_rate, block.shape[1]) != (rate, held[0].shape[1]):
                yield self._joined(held, rate)
                held, values = [], 0
            rate = frame.sample_rate
            seconds += len(block) / rate
            held.append(block)
            values += block.size
            if values >= self._block_values:
                yield self._joined(held, rate)
                held, values = [], 0
        if held:
            yield self._joined(held, rate)
        self._total += seconds
        slack = 0.1 if self._form == "matroska" else 0.02  # its length includes what is cut off
        if expected is not None and expected - seconds > slack and self._is_exact():
            there = f"{seconds:.1f} of {expected:.1f} s"
            self._note(f"{self._name}: only {there} can be read; the rest is missing or damaged")
        elif self._bytes.layout.torn or self._promised() > (self._bytes.ends_at or _FAR):
            self._note(f"{self._name}: its end is missing; {seconds:.1f} s can be read")
        if self._bytes.layout.left_out:
            self._note(f"{self._name}: what follows its sound is not audio; left out")

    def _promised(self) -> int:
        """Where the part ends by its header; 0 if that does not say."""
        wav = self._bytes.wav
        if wav is not None and not self._is_exact():
            return wav.at + (wav.length or 0)
        return self._bytes.layout.promised

    def _cut(self, expected: float | None) -> Iterator[Any]:
        """Frames without an encoder's padding at the end, where FFmpeg leaves that in."""
        if expected is None or not (self._form == "mov" or self._vorbis or self._short):
            yield from self._frames()
            return
        frames = 0
        beyond: list[Any] = []
        over = 0
        for frame in self._frames():
            frames += frame.samples
            if frames <= round(expected * frame.sample_rate) or over > _MOST_PADDING:
                yield frame
                continue
            beyond.append(frame)
            over += frame.samples
            if over > _MOST_PADDING:  # another part begins here
                yield from beyond
        if 0 < over <= _MOST_PADDING:
            first = beyond[0]
            room = round(expected * first.sample_rate) - (frames - over)
            if room > 0:
                yield _First(first, room)

    def _is_exact(self) -> bool:
        """Whether the length of the file is what its header says, not a guess of FFmpeg's."""
        if self._bytes.wav is not None:
            return str(self._context.name).startswith("pcm")
        if self._form == "mp3":
            told = mpeg_length(self._bytes.head)
            if told is None or not told[0] or self.seconds is None:
                return b"VBRI" in self._bytes.head
            # FFmpeg does not believe it where the file is longer, and guesses.
            rate = self._context.sample_rate
            frame = 1152 if rate >= _MPEG1_RATE else 576
            return abs(told[0] * frame / rate - self.seconds) < _MP3_SLACK
        return self._form in _EXACT

    def _joined(self, held: list[FloatArray], rate: int) -> FloatArray:
        self.sample_rate = rate
        return np.concatenate(held) if len(held) > 1 else held[0]

    def _frames(self) -> Iterator[Any]:
        """Decoded frames; what cannot be decoded is counted and passed over."""
        bad, first = 0, True
        while bad < _MOST_BAD:
            try:
                for packet in self._container.demux(self._stream):
                    started = self._vorbis and (first or _begins(packet))
                    first = False
                    if packet.pos is not None and packet.size:
                        self._end = max(self._end, packet.pos + packet.size)
                    try:
                        for frame in packet.decode():
                            bad = 0
                            if isinstance(frame, av.AudioFrame) and frame.samples and not started:
                                yield frame
                    except (av.error.EOFError, av.error.BlockingIOError):
                        pass
                    except _BROKEN:
                        self._bad += bad == 0
                        bad += 1
                        if bad >= _MOST_BAD:
                            return
                return
            except av.error.EOFError:  # noqa: PERF203 - what comes next may be whole
                return
            except _BROKEN:
                self._bad += bad == 0
                bad += 1

    def _following(self) -> Bytes | None:
        """What begins behind a part: further samples, another file, a link of an Ogg stream."""
        if (following := self._bytes.following()) is not None:
            return following
        if self._bytes.next is None and (self._form != "wav" or not self._end):
            return None
        rest = self._bytes.after(self._end)
        if rest is None:
            return None
        if self._end % 2 and rest.peek(1) == b"\0":
            rest.skip(1)
        for _ in range(_MOST_CHUNKS):
            start = rest.peek(12)
            name = start[:4]
            if len(start) < 8 or not name.strip(b"\0"):
                return None
            if start.startswith(FILES):
                return rest.bytes()
            if name == b"data" and self._bytes.wav is not None:
                return rest.bytes(_WAV_OF_ANY_LENGTH + self._bytes.wav.form)
            if not all(32 <= byte < 127 for byte in name):
                self._note(f"{self._name}: what follows its sound is not audio; left out")
                return None
            size = struct.unpack("<I", start[4:8])[0]
            if not rest.skip(8 + size):
                self._note(f"{self._name}: what follows its sound is not whole; left out")
                return None
            if size % 2 and rest.peek(1) == b"\0":
                rest.skip(1)
        return None


def is_media(start: bytes) -> bool:
    """Whether a file that begins so is one that can be decoded."""
    nothing: Note = lambda line: None  # noqa: E731
    try:
        decoder = Decoder(Bytes.of_pipe(io.BytesIO(start).read, b""), "", nothing)
    except BadInput:
        return False
    decoder.close()
    return not decoder.empty


@dataclass(frozen=True)
class _First:
    """The first samples of a frame."""

    frame: Any
    samples: int

    @property
    def sample_rate(self) -> int:
        return int(self.frame.sample_rate)


def _begins(packet: Any) -> bool:
    """Whether an Ogg packet is the first of a link, which brings the comments along."""
    return any(side.data_type == "strings_metadata" for side in packet.iter_sidedata())


def _to_float(frame: Any) -> FloatArray:
    """[frames, channels] float32 of a decoded frame, full scale 1."""
    if isinstance(frame, _First):
        return _to_float(frame.frame)[: frame.samples]
    if frame.format.is_planar and frame.layout.nb_channels > _MOST_PLANES:
        packed = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate)
        values = np.concatenate([each.to_ndarray() for each in packed.resample(frame)], axis=1)
        values = values.reshape(-1, frame.layout.nb_channels)
    else:
        values = frame.to_ndarray()
        values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    kind = values.dtype.str[1:]
    if kind == "f4":
        return np.ascontiguousarray(values, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        floats: FloatArray = values.astype(np.float32)
    if kind == "u1":
        floats -= 128.0
    if kind in _SCALES:
        floats /= np.float32(_SCALES[kind])
    return floats


def _refuse_open(url: str, flags: int, options: dict[str, str]) -> Any:
    """Nothing that a file names is opened."""
    raise PermissionError("a media file names another one")
