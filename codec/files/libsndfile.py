"""Audio files that libsndfile writes: all but WAV."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO

import numpy as np
import soundfile

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors
from codec.signal.samples import SAMPLE_RATE, FloatArray

_WRITE_FRAMES, _READ_FRAMES = 1 << 13, 1 << 16


class SoundFileSink:
    """16 kHz mono into an open file; form, encoding: libsndfile's names. Raises BadInput.

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
        clean = np.clip(np.nan_to_num(np.asarray(samples, np.float32), nan=0.0), -1.0, 1.0)
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
            while left > 0 and (count := len(written.read(_READ_FRAMES))):
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
        return BadInput(f"cannot write {display_name(self._path)}: {_message(error)}")


def _message(error: Exception) -> str:
    """libsndfile's message without the path and the full stop."""
    text = getattr(error, "error_string", "") or str(error)
    line = (text.splitlines() or ["unknown format"])[0].rstrip(". ")
    return line[:1].lower() + line[1:]
