"""Audio files and pipes at the edge: anything readable in as 16 kHz mono, and 16 kHz mono out.

Both directions run block by block in constant memory. Samples are float32, full scale 1.
Channels are averaged: never louder than the loudest, whatever the channels' layout. Resampling is
soxr's (its streaming form gives the very samples its offline form does, and no delay).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
import soxr

from codec.errors import BadInput
from codec.files import wav
from codec.files.paths import (
    PIPE,
    atomic_output,
    display_name,
    is_special,
    open_input,
    os_errors,
)
from codec.signal.samples import SAMPLE_RATE, FloatArray

MIN_RATE = 1_000
MAX_RATE = 768_000
MAX_SPOOL_BYTES = 4 << 30
_BLOCK_VALUES = 1 << 16
_COPY_BYTES = 1 << 20
_WRITE_FRAMES = 1 << 13

Warn = Callable[[str], None]

# Suffix to libsndfile's format and encoding. WAV is written by codec.files.wav, pipes included.
WRITABLE: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".aifc": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".voc": ("VOC", "PCM_16"),
    ".sph": ("NIST", "PCM_16"),
    ".nist": ("NIST", "PCM_16"),
}
READABLE = frozenset(WRITABLE) | {".wave", ".iff", ".svx", ".sf", ".paf", ".pvf", ".avr"}

# First bytes of what libsndfile may read from a copy of a pipe; anything else is refused at once
# rather than copied to disk without end.
_MAGIC = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"riff",
    b"fLaC",
    b"OggS",
    b"FORM",
    b"caff",
    b".snd",
    b"dns.",
    b"ID3",
    b"\xff\xfb",
    b"\xff\xfa",
    b"\xff\xf3",
    b"\xff\xf2",
    b"NIST",
    b"Creative",
    b"PVF1",
)


def looks_like_audio(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix or first bytes say audio (it may still be damaged)."""
    if Path(path).suffix.lower() in READABLE:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_MAGIC) and (start[:4] != b"RIFF" or start[8:12] == b"WAVE")


class _Source(Protocol):
    """Blocks of stored samples [frames, channels]; an empty block is the end."""

    sample_rate: int
    channels: int
    frames: int | None

    def read_block(self) -> FloatArray: ...

    def close(self) -> None: ...


class _SoundFileSource:
    """Whatever libsndfile reads, from a regular file."""

    def __init__(self, descriptor: int, name: str) -> None:
        # A descriptor: soundfile cannot encode every file name, and the file stays the one opened.
        self._name = name
        try:
            self._file = soundfile.SoundFile(descriptor, closefd=False)
        except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
            raise BadInput(f"{name} is not audio that can be read: {_libsndfile(error)}") from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        frames: int = self._file.frames
        # Formats without a length in the header claim the largest number there is.
        self.frames = frames if 0 <= frames < 1 << 60 else None
        self._block = max(1, _BLOCK_VALUES // self.channels)

    def read_block(self) -> FloatArray:
        try:
            block: FloatArray = self._file.read(self._block, "float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadInput(f"{self._name} is damaged: {_libsndfile(error)}") from error
        return block

    def close(self) -> None:
        self._file.close()


class _WavPipeSource:
    """Uncompressed WAV from a pipe, its length taken from the header only if it can be true."""

    def __init__(self, pipe: BinaryIO, header: wav.WavStream, form: wav.WavFormat) -> None:
        self._pipe, self._form = pipe, form
        length = wav.find_data(pipe.read, header.long_length)
        self.sample_rate, self.channels = form.sample_rate, form.channels
        self.frames = None if length is None else length // form.frame_bytes
        self._left = length
        self._block_bytes = max(1, _BLOCK_VALUES // 4 // form.channels) * form.frame_bytes

    def read_block(self) -> FloatArray:
        wanted = self._block_bytes if self._left is None else min(self._block_bytes, self._left)
        data = self._pipe.read(wanted)
        if self._left is not None:
            self._left -= len(data)
        return wav.to_float(data, self._form)

    def close(self) -> None:
        """The pipe belongs to whoever opened it."""


class AudioReader:
    """Any audio file or pipe as blocks of 16 kHz mono float32; a context manager.

    path: a file, FIFO or '-' (standard input). warn receives at most one line each about samples
    that are not numbers (replaced by 0) and samples beyond full scale (clipped).

    Attributes: name (for messages), source_rate (Hz) and channels as stored, duration (seconds,
    None if the source does not say), seconds_read.

    Raises BadInput, when opened or while read: missing, a directory, not readable, not audio,
    damaged, a rate outside 1..768 kHz, no samples.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sample_rate: int = SAMPLE_RATE,
        warn: Warn | None = None,
    ) -> None:
        self.name = "standard input" if os.fspath(path) == PIPE else display_name(path)
        self._rate = sample_rate
        self._warn = warn or (lambda line: warnings.warn(line, RuntimeWarning, stacklevel=3))
        self._stack = contextlib.ExitStack()
        try:
            self._source = self._open(path)
            self._stack.callback(self._source.close)
            self._check()
        except BaseException:
            self._stack.close()
            raise
        self.source_rate, self.channels = self._source.sample_rate, self._source.channels
        frames = self._source.frames
        self.duration = None if frames is None else frames / self.source_rate
        self.seconds_read = 0.0
        self._not_finite = 0
        self._beyond = 0
        self._peak = 1.0

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; standard input stays open."""
        self._stack.close()

    def __iter__(self) -> Iterator[FloatArray]:
        """Blocks [n] of 16 kHz mono samples in [-1, 1], until the end of the source."""
        resample = None
        if self.source_rate != self._rate:
            resample = soxr.ResampleStream(self.source_rate, self._rate, 1, "float32", "HQ")
        frames = given = 0
        while len(block := self._read_block()):
            frames += len(block)
            self.seconds_read = frames / self.source_rate
            mono = self._to_mono(block)
            if resample is not None:
                mono = _clip(resample.resample_chunk(mono))
            given += len(mono)
            if len(mono):
                yield mono
        if not frames:
            raise BadInput(f"{self.name} holds no audio (0 samples)")
        if resample is not None:
            rest = _clip(resample.resample_chunk(np.zeros(0, np.float32), last=True))
            if not given and not len(rest):
                # A handful of samples at a high rate is less than one at 16 kHz.
                rest = np.zeros(1, np.float32)
            if len(rest):
                yield rest
        self._report()

    def _open(self, path: str | os.PathLike[str]) -> _Source:
        file = self._stack.enter_context(open_input(path))
        if is_special(path):
            with os_errors("read", path):
                return self._open_pipe(file)
        return _SoundFileSource(file.fileno(), self.name)

    def _open_pipe(self, pipe: BinaryIO) -> _Source:
        start = pipe.read(12)
        if not start:
            raise BadInput(f"{self.name} is empty")
        if not start.startswith(_MAGIC):
            raise BadInput(
                f"{self.name} is not audio that can be read from a pipe (WAV, FLAC, "
                "Ogg, MP3, AIFF, AU or CAF)"
            )
        if start[8:12] == b"WAVE" and start[:4] in (b"RIFF", b"RF64"):
            try:
                header = wav.read_format(start, pipe.read)
                if header.format is not None:
                    return _WavPipeSource(pipe, header, header.format)
            except BadInput as error:
                raise BadInput(f"{self.name}: {error}") from error
            start = header.prefix
        return _SoundFileSource(self._spool(start, pipe), self.name)

    def _spool(self, start: bytes, pipe: BinaryIO) -> int:
        """Copy a pipe to a nameless file, since libsndfile must seek. Returns its descriptor."""
        copy = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        with os_errors("write", "a temporary copy of the input"):
            copy.write(start)
            size = len(start)
            while data := pipe.read(_COPY_BYTES):
                size += len(data)
                if size > MAX_SPOOL_BYTES:
                    raise BadInput(
                        f"{self.name} is longer than {MAX_SPOOL_BYTES >> 30} GiB: "
                        "pipe uncompressed WAV, or name the file"
                    )
                copy.write(data)
            copy.flush()
            copy.seek(0)
        return copy.fileno()

    def _check(self) -> None:
        if not MIN_RATE <= self._source.sample_rate <= MAX_RATE:
            raise BadInput(
                f"{self.name} has a sample rate of {self._source.sample_rate} Hz; "
                f"{MIN_RATE} to {MAX_RATE} Hz can be read"
            )
        if self._source.frames == 0:
            raise BadInput(f"{self.name} holds no audio (0 samples)")

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
        return mixed

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


class AudioWriter:
    """Mono audio into a file, in the format its suffix names, or into a pipe as 16-bit WAV.

    A context manager: the file appears under its name when the block ends well, and not at all
    otherwise. Raises BadInput when made (unknown suffix, no such directory, no permission) and
    while written (no space); BrokenPipeError when a pipe's reader has gone.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE) -> None:
        form, encoding = audio_format(path)
        self._path = path
        self._stack = contextlib.ExitStack()
        file = self._stack.enter_context(atomic_output(path))
        try:
            if form == "WAV":
                self._sink: _WavSink | _SoundFileSink = _WavSink(file, path, sample_rate)
            else:
                self._sink = _SoundFileSink(file, path, sample_rate, form, encoding)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> AudioWriter:
        return self

    def write(self, samples: FloatArray) -> None:
        """Append samples [n], full scale 1; beyond is clipped, not-a-number is 0."""
        with os_errors("write", self._path):
            self._sink.write(samples)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._sink.abandon()
            self._stack.__exit__(kind, error, trace)
            return
        try:
            with os_errors("write", self._path):
                self._sink.finish()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.close()


class _WavSink:
    """16-bit WAV; the header gets its lengths at the end if the output can seek."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike[str], sample_rate: int) -> None:
        self._file, self._path, self._rate = file, path, sample_rate
        self._bytes = 0
        self._seekable = not is_special(path)
        file.write(wav.pcm16_header(sample_rate, None))

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
            self._file.write(wav.pcm16_header(self._rate, self._bytes))

    def abandon(self) -> None:
        """Nothing is held besides the file."""


class _SoundFileSink:
    """Whatever libsndfile writes, into an open file.

    libsndfile gets a descriptor rather than the Python file: an interruption inside a callback
    from C would be printed and forgotten. It keeps some errors to itself (a full disk while the
    encoder is flushed on closing), so the end of the file is read back before it counts as whole.
    """

    def __init__(
        self,
        file: BinaryIO,
        path: str | os.PathLike[str],
        sample_rate: int,
        form: str,
        encoding: str,
    ) -> None:
        self._output, self._path = file, path
        self._frames = 0
        try:
            self._file = soundfile.SoundFile(
                file.fileno(), "w", sample_rate, 1, encoding, format=form, closefd=False
            )
        except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
            raise self._failure(error) from error

    def write(self, samples: FloatArray) -> None:
        clean = _clip(np.nan_to_num(np.asarray(samples, np.float32), nan=0.0))
        # In small pieces: the Vorbis encoder puts a whole write on the stack.
        for start in range(0, len(clean), _WRITE_FRAMES):
            piece = clean[start : start + _WRITE_FRAMES]
            try:
                self._file.write(piece)
            except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
                raise self._failure(error) from error
            self._frames += len(piece)

    def finish(self) -> None:
        try:
            self._file.close()
            os.lseek(self._output.fileno(), 0, os.SEEK_SET)
            if self._frames and not self._ends_well():
                raise RuntimeError("the end of the file was not written")
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise self._failure(error) from error
        os.lseek(self._output.fileno(), 0, os.SEEK_END)

    def _ends_well(self) -> bool:
        with soundfile.SoundFile(self._output.fileno(), closefd=False) as written:
            if written.format != "MP3":
                written.seek(self._frames - 1)
                return len(written.read(1)) == 1
            # The MP3 decoder complains on stderr when it starts in the middle.
            left = self._frames
            while left > 0 and (count := len(written.read(_BLOCK_VALUES))):
                left -= count
            return left <= 0

    def abandon(self) -> None:
        with contextlib.suppress(soundfile.SoundFileError, RuntimeError):
            self._file.close()

    def _failure(self, error: Exception) -> BadInput:
        """libsndfile says only 'System error'; a write of our own tells which."""
        descriptor = self._output.fileno()
        with os_errors("write", self._path):
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, bytes(1 << 16))
        return BadInput(f"cannot write {display_name(self._path)}: {_libsndfile(error)}")


def _clip(samples: FloatArray) -> FloatArray:
    return np.clip(samples, np.float32(-1.0), np.float32(1.0))


def _libsndfile(error: Exception) -> str:
    """libsndfile's own words, without the path it repeats and the full stop."""
    text = getattr(error, "error_string", "") or str(error)
    line = (text.splitlines() or ["unknown format"])[0].rstrip(". ")
    return line[:1].lower() + line[1:]
