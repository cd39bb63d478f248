"""Audio files and pipes: any readable one as 16 kHz mono, and 16 kHz mono written.

Both directions run block by block in constant memory. Samples are float32, full scale 1. Channels
are averaged, so that the mix is never louder than the loudest, whatever their layout. soxr
resamples: its streaming form gives the same samples as its offline form, without delay.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

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
    ".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"), ".aif": ("AIFF", "PCM_16"), ".aifc": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"), ".snd": ("AU", "PCM_16"), ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"), ".rf64": ("RF64", "PCM_16"), ".voc": ("VOC", "PCM_16"),
    ".sph": ("NIST", "PCM_16"), ".nist": ("NIST", "PCM_16"),
}  # fmt: skip
READABLE = frozenset(WRITABLE) | {".wave", ".iff", ".svx", ".sf", ".paf", ".pvf", ".avr"}

# First bytes of formats that libsndfile may read from a copy of a pipe; other pipes are refused at
# once rather than copied to disk without end.
_MAGIC = (
    b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"dns.",
    b"ID3", b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"NIST", b"Creative", b"PVF1",
)  # fmt: skip


def looks_like_audio(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix or first bytes are those of audio (it may still be damaged)."""
    if Path(path).suffix.lower() in READABLE:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_MAGIC) and (start[:4] != b"RIFF" or start[8:12] == b"WAVE")


class _SoundFileSource:
    """What libsndfile reads from a regular file, in blocks [frames, channels]; empty at the end."""

    def __init__(self, descriptor: int, name: str) -> None:
        # A descriptor, because soundfile cannot encode every file name.
        self._name = name
        try:
            self._file = soundfile.SoundFile(descriptor, closefd=False)
        except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
            raise BadInput(f"{name} is not audio that can be read: {_libsndfile(error)}") from error
        self.sample_rate: int = self._file.samplerate
        frames: int = self._file.frames
        # Formats without a length in the header claim the largest number there is.
        self.frames = frames if 0 <= frames < 1 << 60 else None
        self._block = max(1, _BLOCK_VALUES // self._file.channels)

    def read_block(self) -> FloatArray:
        try:
            block: FloatArray = self._file.read(self._block, "float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadInput(f"{self._name} is damaged: {_libsndfile(error)}") from error
        return block

    def close(self) -> None:
        self._file.close()


class _WavPipeSource:
    """Uncompressed WAV from a pipe; the header's length counts only if it can be true."""

    def __init__(self, pipe: BinaryIO, header: wav.WavStream, form: wav.WavFormat) -> None:
        self._pipe, self._form = pipe, form
        length = wav.find_data(pipe.read, header.long_length)
        self.sample_rate = form.sample_rate
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
        """The pipe stays open, for whoever opened it."""


class AudioReader:
    """An audio file or pipe as blocks of 16 kHz mono float32; a context manager.

    path: a file, FIFO or '-' (standard input). warn receives at most one line each about samples
    that are not numbers (replaced by 0) and samples beyond full scale (clipped).

    Attributes: name (for messages), duration (seconds, None if the source does not say).

    Raises BadInput, when opened or while read: missing, a directory, not readable, not audio,
    damaged, a rate outside 1..768 kHz, no samples.
    """

    def __init__(self, path: str | os.PathLike[str], *, warn: Warn | None = None) -> None:
        self.name = "standard input" if os.fspath(path) == PIPE else display_name(path)
        self._warn = warn or (lambda line: warnings.warn(line, RuntimeWarning, stacklevel=3))
        self._not_finite = 0
        self._beyond = 0
        self._peak = 1.0
        with contextlib.ExitStack() as stack:
            source = self._source = self._open(path, stack)
            stack.callback(source.close)
            if not MIN_RATE <= source.sample_rate <= MAX_RATE:
                raise BadInput(
                    f"{self.name} has a sample rate of {source.sample_rate} Hz; "
                    f"{MIN_RATE} to {MAX_RATE} Hz can be read"
                )
            if source.frames == 0:
                raise BadInput(f"{self.name} holds no audio (0 samples)")
            self._stack = stack.pop_all()
        self.duration = None if source.frames is None else source.frames / source.sample_rate

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; standard input stays open."""
        self._stack.close()

    def __iter__(self) -> Iterator[FloatArray]:
        """Blocks [n] of 16 kHz mono samples in [-1, 1], until the end of the source."""
        resample = None
        if self._source.sample_rate != SAMPLE_RATE:
            rates = self._source.sample_rate, SAMPLE_RATE
            resample = soxr.ResampleStream(*rates, 1, "float32", "HQ")
        frames = given = 0
        while len(block := self._read_block()):
            frames += len(block)
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
                # A few samples at a high rate are less than one at 16 kHz.
                rest = np.zeros(1, np.float32)
            if len(rest):
                yield rest
        self._report()

    def _open(
        self, path: str | os.PathLike[str], stack: contextlib.ExitStack
    ) -> _SoundFileSource | _WavPipeSource:
        file = stack.enter_context(open_input(path))
        if is_special(path):
            with os_errors("read", path):
                return self._open_pipe(file, stack)
        return _SoundFileSource(file.fileno(), self.name)

    def _open_pipe(
        self, pipe: BinaryIO, stack: contextlib.ExitStack
    ) -> _SoundFileSource | _WavPipeSource:
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
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._spool(start, pipe, copy)
        return _SoundFileSource(copy.fileno(), self.name)

    def _spool(self, start: bytes, pipe: BinaryIO, copy: IO[bytes]) -> None:
        """Copy a pipe to a file, in which libsndfile can seek."""
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


@contextlib.contextmanager
def audio_output(
    path: str | os.PathLike[str], *, force: bool = False
) -> Iterator[_WavSink | _SoundFileSink]:
    """16 kHz mono into a file, in the format of its suffix, or into a pipe as 16-bit WAV.

    Samples [n], full scale 1, go to `write`: beyond is clipped, not-a-number is 0. The file appears
    under its name when the block ends well, and not at all otherwise. force: replace a file that is
    there. Raises BadInput when opened (unknown suffix, a file that is there, no such directory, no
    permission) and while written (no space); BrokenPipeError when a pipe's reader has gone.
    """
    form, encoding = audio_format(path)
    with atomic_output(path, force=force) as file:
        wave = form == "WAV"
        sink = _WavSink(file, path) if wave else _SoundFileSink(file, path, form, encoding)
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


class _SoundFileSink:
    """The formats that libsndfile writes, into an open file.

    libsndfile gets a descriptor rather than the Python file: an interruption inside a callback
    from C would be printed and forgotten. It hides some errors (a full disk while the encoder is
    flushed on closing), so the end of the file is read back before it counts as whole.
    """

    def __init__(
        self, file: BinaryIO, path: str | os.PathLike[str], form: str, encoding: str
    ) -> None:
        self._output, self._path = file, path
        self._frames = 0
        try:
            self._file = soundfile.SoundFile(
                file.fileno(), "w", SAMPLE_RATE, 1, encoding, format=form, closefd=False
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
        """The reason of libsndfile's 'System error', which a write of our own finds out."""
        descriptor = self._output.fileno()
        with os_errors("write", self._path):
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, bytes(1 << 16))
        return BadInput(f"cannot write {display_name(self._path)}: {_libsndfile(error)}")


def _clip(samples: FloatArray) -> FloatArray:
    return np.clip(samples, np.float32(-1.0), np.float32(1.0))


def _libsndfile(error: Exception) -> str:
    """libsndfile's message without the path and the full stop."""
    text = getattr(error, "error_string", "") or str(error)
    line = (text.splitlines() or ["unknown format"])[0].rstrip(". ")
    return line[:1].lower() + line[1:]
