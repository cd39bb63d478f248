"""Audio files and pipes: any readable one as 16 kHz mono, and 16 kHz mono written.

Both directions run block by block in constant memory. Samples are float32, full scale 1. Channels
are averaged, so that the mix is never louder than the loudest, whatever their layout; where they
cancel each other out, the loudest is taken. FFmpeg decodes (`codec.files.decoding`), libsndfile
encodes (`codec.files.libsndfile`), and soxr resamples: its streaming form gives the same samples as
its offline form, without delay.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np

from codec.errors import BadInput
from codec.files import wav
from codec.files.paths import (
    APPLE_DOUBLE,
    PIPE,
    atomic_output,
    display_name,
    is_special,
    open_input,
    os_errors,
)
from codec.signal.samples import SAMPLE_RATE, FloatArray

if TYPE_CHECKING:
    import soxr

    from codec.files.decoding import Bytes, Decoder
    from codec.files.libsndfile import SoundFileSink

MIN_RATE = 1_000
MAX_RATE = 768_000
MAX_SPOOL_BYTES = 4 << 30
# Of the loudest channel's energy, by the square of how many there are: a mean below it is no mean.
_CANCELLED = 0.04
_COPY_BYTES = 1 << 20

Warn = Callable[[str], None]

# Suffix to libsndfile's format and encoding. WAV is written by codec.files.wav, pipes included.
WRITABLE: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"), ".aif": ("AIFF", "PCM_16"), ".aifc": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"), ".snd": ("AU", "PCM_16"), ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"), ".rf64": ("RF64", "PCM_16"), ".voc": ("VOC", "PCM_16"),
    ".sph": ("NIST", "PCM_16"), ".nist": ("NIST", "PCM_16"),
}  # fmt: skip
READABLE = frozenset(WRITABLE) | {
    ".wave", ".bwf", ".iff", ".svx", ".sf", ".pvf", ".avr", ".mp2", ".mp1", ".mpga", ".mpa",
    ".m4a", ".m4b", ".m4r", ".aac", ".adts", ".alac", ".ac3", ".eac3", ".amr", ".awb", ".3gp",
    ".3g2", ".3ga", ".wma", ".asf", ".wmv", ".webm", ".weba", ".mka", ".mkv", ".mp4", ".m4v",
    ".mov", ".qt", ".avi", ".flv", ".ogv", ".ogx", ".spx", ".ape", ".wv", ".tta", ".tak", ".mpc",
    ".dts", ".mlp", ".gsm", ".ra", ".rm", ".qcp", ".shn", ".dsf", ".mpg", ".mpeg", ".vob", ".m2ts",
}  # fmt: skip

# First bytes of media files: of other pipes only so much is read as decides whether they are media.
_MAGIC = (
    b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"fLaC", b"OggS", b"FORM", b"caff", b".snd",
    b"dns.", b"ID3", b"NIST", b"Creative", b"PVF1", b"#!AMR", b"\x1aE\xdf\xa3", b"wvpk", b"MAC ",
    b"\x30\x26\xb2\x75", b"TTA1", b".RMF", b"FLV", b"\0\0\x01\xba",
)  # fmt: skip
# Of these FFmpeg finds all it needs in one go.
_STREAMED = (b"RIFF", b"RF64", b"BW64", b"riff", b"fLaC", b".snd", b"\x1aE\xdf\xa3")


# What MPEG-4 may begin with, behind a length; only its end may say what is in it.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def _has_magic(start: bytes) -> bool:
    # MPEG audio begins with eleven bits that are set, and is layer II or III, or AAC; what begins
    # with FF FE is text. MPEG-4 names its first box, behind a length of four bytes.
    mpeg = len(start) > 2 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0
    mpeg = mpeg and (start[1] & 0x06 in (2, 4) or start[1] & 0xF6 == 0xF0)
    return start.startswith(_MAGIC) or mpeg or (start[:1] == b"\0" and start[4:8] in _BOXES)


def begins_like_audio(start: bytes) -> bool:
    """Whether a pipe's first bytes are those of a format that is known by them."""
    return len(start) >= 12 and _has_magic(start)


def is_audio(start: bytes) -> bool:
    """Whether what begins so can be decoded; takes longer than `begins_like_audio`."""
    from codec.files.decoding import is_media

    return begins_like_audio(start) or is_media(start)


def _at_least(read: Callable[[int], bytes], start: bytes, count: int) -> bytes:
    """`start` and what follows it, until that is `count` bytes or the end."""
    while len(start) < count and (more := read(count - len(start))):
        start += more
    return start


def looks_like_audio(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix or first bytes are those of audio (it may still be damaged)."""
    name = Path(path).name
    if name.startswith(APPLE_DOUBLE):
        return False
    if Path(name).suffix.lower() in READABLE:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return _has_magic(start) and (start[:4] != b"RIFF" or start[8:12] in (b"WAVE", b"AVI "))


class AudioReader:
    """An audio file or pipe as blocks of 16 kHz mono float32; a context manager.

    path: a file, FIFO or '-' (standard input). live: gives at most so many bytes of that pipe, as
    soon as there are some, and none at its end; they are decoded at once. warn receives at most
    one line each about samples that are not numbers (replaced by 0), samples beyond full scale
    (clipped), channels that cancel each other out, further sound tracks, and what is damaged,
    missing or left out.

    Attributes: name (for messages), duration (seconds, None if the source does not say).

    Raises BadInput, when opened or while read: missing, a directory, not readable, not audio,
    damaged, a rate outside 1..768 kHz, no samples.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        warn: Warn | None = None,
        live: Callable[[int], bytes] | None = None,
    ) -> None:
        self.name = "standard input" if os.fspath(path) == PIPE else display_name(path)
        self._pass_on = warn or (lambda line: warnings.warn(line, RuntimeWarning, stacklevel=4))
        # Of a file that turns out to hold no sound only that is said.
        self._early: list[str] | None = []
        self._not_finite = 0
        self._beyond = 0
        self._peak = 1.0
        self._loudest: int | None = None  # the channel that is taken where the mean is silence
        with contextlib.ExitStack() as stack:
            source = self._source = self._open(path, live, stack)
            stack.callback(source.close)
            self._check_rate()
            if source.empty:
                raise BadInput(f"{self.name} holds no audio (0 samples)")
            self._stack = stack.pop_all()
        early, self._early = self._early, None
        for line in early:
            self._warn(line)
        self.duration = source.seconds

    def _warn(self, line: str) -> None:
        if self._early is None:
            self._pass_on(line)
        else:
            self._early.append(line)

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; standard input stays open."""
        self._stack.close()

    def __iter__(self) -> Iterator[FloatArray]:
        """Blocks [n] of 16 kHz mono samples in [-1, 1], until the end of the source."""
        resample: soxr.ResampleStream | None = None
        rate = SAMPLE_RATE
        frames = given = 0
        while len(block := self._read_block()):
            frames += len(block)
            if self._source.sample_rate != rate:
                if resample is not None:
                    yield from self._last(resample, given)
                self._check_rate()
                rate, given, resample = self._source.sample_rate, 0, None
                if rate != SAMPLE_RATE:
                    resample = _resampler(rate)
            mono = self._to_mono(block)
            if resample is not None:
                mono = _clip(resample.resample_chunk(mono))
            given += len(mono)
            if len(mono):
                yield mono
        if not frames:
            raise BadInput(f"{self.name} holds no audio (0 samples)")
        if resample is not None:
            yield from self._last(resample, given)
        self._report()

    def _last(self, resample: soxr.ResampleStream, given: int) -> Iterator[FloatArray]:
        """What a resampler still holds; given: how many samples it has given."""
        rest = _clip(resample.resample_chunk(np.zeros(0, np.float32), last=True))
        if not given and not len(rest):
            # A few samples at a high rate are less than one at 16 kHz.
            rest = np.zeros(1, np.float32)
        if len(rest):
            yield rest

    def _check_rate(self) -> None:
        rate = self._source.sample_rate
        if not MIN_RATE <= rate <= MAX_RATE:
            raise BadInput(
                f"{self.name} has a sample rate of {rate} Hz; "
                f"{MIN_RATE} to {MAX_RATE} Hz can be read"
            )

    def _open(
        self,
        path: str | os.PathLike[str],
        live: Callable[[int], bytes] | None,
        stack: contextlib.ExitStack,
    ) -> Decoder:
        from codec.files.decoding import Bytes, Decoder  # only here: FFmpeg takes a while to load

        if live is not None:
            data = self._pipe(live, stack, as_it_comes=True)
            return Decoder(data, self.name, self._warn, live=True)
        file = stack.enter_context(open_input(path))
        with os_errors("read", path):
            if is_special(path):
                data = self._pipe(getattr(file, "read1", file.read), stack)
            else:
                data = Bytes.of_file(file)
            if data.size == 0:
                raise BadInput(f"{self.name} is not audio that can be read: it is empty")
            return Decoder(data, self.name, self._warn)

    def _pipe(
        self,
        read: Callable[[int], bytes],
        stack: contextlib.ExitStack,
        *,
        as_it_comes: bool = False,
    ) -> Bytes:
        """A pipe as FFmpeg can read it: as it comes, or by a copy in which it can seek."""
        from codec.files.decoding import PROBED_BYTES, Bytes, is_media

        start = _at_least(read, b"", 12)
        if not start:
            raise BadInput(f"{self.name} is empty")
        seeks = start[4:8] in _BOXES or start.startswith((b"caff", b"FORM"))
        if start.startswith(_STREAMED) or (as_it_comes and not seeks):
            return Bytes.of_pipe(read, start)
        if not _has_magic(start):
            start = _at_least(read, start, PROBED_BYTES)
            if not is_media(start):
                raise BadInput(f"{self.name} is not audio that can be read")
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._spool(start, read, copy)
        return Bytes.of_file(copy)

    def _spool(self, start: bytes, read: Callable[[int], bytes], copy: IO[bytes]) -> None:
        """Copy a pipe to a file, in which FFmpeg can seek."""
        with os_errors("write", "a temporary copy of the input"):
            copy.write(start)
            size = len(start)
            while data := read(_COPY_BYTES):
                size += len(data)
                if size > MAX_SPOOL_BYTES:
                    raise BadInput(
                        f"{self.name} is longer than {MAX_SPOOL_BYTES >> 30} GiB: "
                        "pipe WAV or FLAC, or name the file"
                    )
                copy.write(data)
            copy.flush()
            copy.seek(0)

    def _read_block(self) -> FloatArray:
        with os_errors("read", self.name):
            return self._source.read_block()

    def _to_mono(self, block: FloatArray) -> FloatArray:
        """[n, channels] as stored to [n] finite, within full scale."""
        finite = np.isfinite(block)
        if not finite.all():
            self._not_finite += int(block.size - np.count_nonzero(finite))
            block = np.where(finite, block, np.float32(0.0))
        peak = float(np.abs(block).max())
        if peak > 1.0:
            self._beyond += int(np.count_nonzero(np.abs(block) > 1.0))
            self._peak = max(self._peak, peak)
            block = _clip(block)
        if block.shape[1] == 1:
            return np.ascontiguousarray(block[:, 0])
        mixed: FloatArray = block.mean(axis=1, dtype=np.float32)
        if self._loudest is None or self._loudest >= block.shape[1]:
            energies = np.square(block, dtype=np.float64).sum(axis=0)
            loudest = int(energies.argmax())
            least = _CANCELLED * energies[loudest] / block.shape[1] ** 2
            if np.square(mixed, dtype=np.float64).sum() >= least or energies[loudest] <= 0.0:
                return mixed
            self._loudest = loudest
            self._warn(
                f"{self.name}: the channels cancel each other out; channel {loudest + 1} is taken"
            )
        return np.ascontiguousarray(block[:, self._loudest])

    def _report(self) -> None:
        if self._not_finite:
            self._warn(
                f"{self.name}: {self._not_finite} samples are not numbers; replaced by silence"
            )
        if self._beyond:
            self._warn(
                f"{self.name}: {self._beyond} samples beyond full scale clipped "
                f"(peak {self._peak:.4g})"
            )


def read_audio(path: str | os.PathLike[str], *, warn: Warn | None = None) -> FloatArray:
    """A whole file or pipe, [n] at 16 kHz mono. Raises BadInput as AudioReader does."""
    with AudioReader(path, warn=warn) as reader:
        return np.concatenate(list(reader))


def audio_format(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The format and encoding a path's suffix asks for; pipes and devices get WAV.

    Raises BadInput if the suffix is not one that can be written.
    """
    if is_special(path):
        return WRITABLE[".wav"]
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        known = " ".join(s[1:] for s in WRITABLE)
        what = f"the suffix {display_name(suffix)}" if suffix else "a name without a suffix"
        raise BadInput(f"cannot write {display_name(path)}: {what} is none of {known}")
    return WRITABLE[suffix]


@contextlib.contextmanager
def audio_output(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    draft: str | os.PathLike[str] | None = None,
) -> Iterator[_WavSink | SoundFileSink]:
    """16 kHz mono into a file, in the format of its suffix, or into a pipe as 16-bit WAV.

    Samples [n], full scale 1, go to `write`: beyond is clipped, not-a-number is 0. The file appears
    under its name when the block ends well, and not at all otherwise. force: replace a file that is
    there; draft: as in `atomic_output`. Raises BadInput when opened (unknown suffix, a file that is
    there, no such directory, no permission) and while written (no space); BrokenPipeError when a
    pipe's reader has gone.
    """
    form, encoding = audio_format(path)
    with atomic_output(path, force=force, draft=draft) as file:
        sink: _WavSink | SoundFileSink
        if form == "WAV":
            sink = _WavSink(file, path)
        else:
            from codec.files.libsndfile import SoundFileSink  # only here: WAV does without

            sink = SoundFileSink(file, path, form, encoding)
        try:
            yield sink
        except BaseException:
            sink.abandon()
            raise
        sink.finish()


class _WavSink:
    """16-bit WAV; the header gets its lengths at the end if the output can seek."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike[str]) -> None:
        self._file, self._path = file, path
        self._bytes = 0
        self._seekable = not is_special(path)
        file.write(wav.pcm16_header(SAMPLE_RATE, None))

    def write(self, samples: FloatArray) -> None:
        data = wav.to_pcm16(samples)
        self._bytes += len(data)
        if self._seekable and self._bytes > wav.MAX_DATA_BYTES:
            raise BadInput(
                f"cannot write {display_name(self._path)}: a WAV file ends at 4 GiB; "
                "write .w64, .caf or .flac"
            )
        self._file.write(data)

    def finish(self) -> None:
        if self._seekable:
            self._file.seek(0)
            self._file.write(wav.pcm16_header(SAMPLE_RATE, self._bytes))

    def abandon(self) -> None:
        """Nothing to release."""


def _resampler(rate: int) -> soxr.ResampleStream:
    import soxr  # only here: decoding does without

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")


def _clip(samples: FloatArray) -> FloatArray:
    return np.clip(samples, np.float32(-1.0), np.float32(1.0))
