"""A folder of recordings: one WAV file for each over of each speaker, ours included.

What a speaker says is cut into overs where it is silent; what came late is an over as it is. Each
is kept in memory until it is over and then written whole, by a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from codec.errors import BadInput, SottoError
from codec.files import wav
from codec.files.paths import atomic_output, display_name, os_errors, reason
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.limiter import Limiter

MOST_FILES = 10_000  # of one call
LONGEST = 120.0  # seconds of a file: who says more goes on in another one
SILENCE = 1.5  # seconds without speech that end an over
_TAIL = 0.4  # of them that are kept
_LEAST = 0.2  # seconds of speech that are worth a file
_NAMES = 1000  # tried for overs of the same second and speaker
_LOOK_SECONDS = 0.5
_GONE = 2.5  # seconds without a sample after which a speaker is gone
_MOST_WAITING = 64 << 20  # bytes of samples that wait for a slow disk
_LONGEST_NAME = 32
_BYTES = 2  # of a sample in a file


class Cutter:
    """Cuts what one speaker says into overs. lead: seconds before the first sign of speech that
    belong to it, as it is noticed so late."""

    def __init__(self, lead: float) -> None:
        self._lead = round(lead * SAMPLE_RATE)
        self._limiter = Limiter()
        self._parts: deque[FloatArray] = deque()
        self._count = 0
        self._speech = self._silent = 0  # samples of speech so far, and since the last of it
        self._began = 0.0  # when the first of the parts was in the air

    def push(
        self, samples: FloatArray, active: bool, when: float
    ) -> tuple[float, FloatArray] | None:
        """The next samples [n]; returns an over that has ended, and when it began.

        active: whether they are speech; when: seconds at which the first is in the air.
        """
        if not len(samples):
            return None
        if not self._parts:
            self._began = when
        self._parts.append(self._limiter.process(samples))
        self._count += len(samples)
        if active:
            self._speech, self._silent = self._speech + len(samples), 0
        elif self._speech:
            self._silent += len(samples)
        else:
            while self._parts and self._count - len(self._parts[0]) >= self._lead:
                gone = self._parts.popleft()
                self._count -= len(gone)
                self._began += len(gone) / SAMPLE_RATE
            return None
        if self._silent >= SILENCE * SAMPLE_RATE or self._count >= LONGEST * SAMPLE_RATE:
            return self.finish()
        return None

    def finish(self) -> tuple[float, FloatArray] | None:
        """What has been said since the last over ended, if that is one."""
        worth = self._speech >= _LEAST * SAMPLE_RATE
        found = np.concatenate(self._parts) if worth else None
        kept = self._count - max(self._silent - round(_TAIL * SAMPLE_RATE), 0)
        self._parts.clear()
        self._count = self._speech = self._silent = 0
        return None if found is None else (self._began, found[:kept])


@dataclass
class _Speaker:
    name: str
    cutter: Cutter
    heard_at: float


class OverFiles:
    """Writes overs into a folder, as `20261126T193012Z-ann.wav`: when it began, and whose it is.

    Overs that came late have `-late` in their names, and the time at which they were said. No file
    is replaced. Recording ends by itself, with `error` saying why, when the files of this call take
    `most_bytes`, or are `most_files`.

    clock: seconds, of the same clock as the times of the samples; today: seconds of the epoch.
    Raises BadInput when started where nothing can be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        most_bytes: int | None = None,
        most_files: int = MOST_FILES,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
    ) -> None:
        self._folder = Path(folder)
        self.name = display_name(folder)
        self._most_bytes, self._most_files = most_bytes, most_files
        self._clock, self._today = clock, today
        self.error: str | None = None
        self.files = self.bytes = 0
        self._speakers: dict[Hashable, _Speaker] = {}
        self._waiting: deque[tuple[str, FloatArray]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the folder, if it is not there, and begin."""
        with os_errors("write", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise BadInput(f"cannot write {self.name}: permission denied")
        self._thread = threading.Thread(target=self._run, name="sotto-overs", daemon=True)
        self._thread.start()

    def push(
        self,
        speaker: Hashable,
        name: str,
        samples: FloatArray,
        active: bool,
        when: float,
        lead: float = 0.2,
    ) -> None:
        """What somebody says, block by block; never waits. See `Cutter`.

        speaker: whoever it is; name: for people.
        """
        with self._changed:
            if self._stopping or self.error is not None:
                return
            known = self._speakers.get(speaker)
            if known is not None and known.name != name:
                self._end(known)  # somebody else has this number now
                known = None
            if known is None:
                known = self._speakers[speaker] = _Speaker(name, Cutter(lead), 0.0)
            known.heard_at = self._clock()
            if (over := known.cutter.push(samples, active, when)) is not None:
                self._add(name, *over)

    def late(self, name: str, samples: FloatArray, ended: float) -> None:
        """An over that came late. ended: when its last sample was said."""
        with self._changed:
            if not self._stopping and self.error is None:
                clean = Limiter().process(samples)
                self._add(name, ended - len(samples) / SAMPLE_RATE, clean, late=True)

    def stop(self) -> None:
        """Write what is not written yet; may be called twice."""
        with self._changed:
            if not self._stopping:
                for speaker in self._speakers.values():
                    self._end(speaker)
            self._speakers.clear()
            self._stopping = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _end(self, speaker: _Speaker) -> None:
        if (over := speaker.cutter.finish()) is not None:
            self._add(speaker.name, *over)

    def _add(self, name: str, began: float, samples: FloatArray, *, late: bool = False) -> None:
        if self._waiting_bytes + samples.nbytes > _MOST_WAITING:
            self.error = f"recording to {self.name} has ended: the disk is too slow"
            return
        said = self._today() - (self._clock() - began)
        date = datetime.fromtimestamp(max(said, 0.0), timezone.utc)
        stem = f"{date:%Y%m%dT%H%M%SZ}-{_harmless(name)}{'-late' if late else ''}"
        self._waiting.append((stem, samples))
        self._waiting_bytes += samples.nbytes
        self._changed.notify_all()

    # --- the writing thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping, _LOOK_SECONDS)
                self._end_who_has_gone()
                if not self._waiting:
                    if self._stopping:
                        return
                    continue
                stem, samples = self._waiting.popleft()
                self._waiting_bytes -= samples.nbytes
            if self.error is None:
                try:
                    self._write(stem, samples)
                except (SottoError, OSError) as error:
                    why = reason(error) if isinstance(error, OSError) else str(error)
                    self.error = f"recording to {self.name} has ended: {why}"

    def _end_who_has_gone(self) -> None:
        now = self._clock()
        for key, speaker in list(self._speakers.items()):
            if now - speaker.heard_at > _GONE:
                self._end(speaker)
                del self._speakers[key]

    def _write(self, stem: str, samples: FloatArray) -> None:
        size = wav.HEADER_BYTES + _BYTES * len(samples)
        if self._most_bytes is not None and self.bytes + size > self._most_bytes:
            self.error = f"{self.name} is full: its overs take {self.bytes / 2**20:.1f} MiB"
            return
        if self.files >= self._most_files:
            self.error = f"{self.name} is full: {self.files} overs are in it"
            return
        data = wav.pcm16_header(SAMPLE_RATE, _BYTES * len(samples)) + wav.to_pcm16(samples)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(atomic_output(self._free(stem), new=True))
            file.write(data)
        self.files += 1
        self.bytes += size

    def _free(self, stem: str) -> Path:
        """A name that no file has; should one get it before ours is whole, ours gets the next."""
        for number in range(1, _NAMES):
            path = self._folder / (f"{stem}-{number}.wav" if number > 1 else f"{stem}.wav")
            if not os.path.lexists(path):
                return path
        raise BadInput(f"too many files are called {stem}")


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises BadInput where overs could not be written; makes nothing."""
    path = Path(folder)
    with os_errors("write", path):
        there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"cannot record overs to {display_name(path)}: no folder to write to")


def _harmless(name: str) -> str:
    """What of a name may be part of a file's: letters and digits of ASCII, and dashes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST_NAME].strip("-") or "somebody"
