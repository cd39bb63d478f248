"""Running measurements of one direction of a call: level, bit rate, recent spectrogram, load."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.call.snapshot import NO_SPECTROGRAM, QUIETEST_DB, Rate, Spectrogram

STEP_SECONDS = 0.064
RATE_STEPS = 16  # over which rates are averaged
HISTORY = 120  # such averages kept
RECENT_COLUMNS = 512  # 4 s of spectrogram
_LEVEL_SECONDS = 0.1
_LOAD_SECONDS = 5.0


class LevelMeter:
    """Peak of the last tenth of a second. One thread writes, any may read."""

    def __init__(self) -> None:
        self._peaks: deque[tuple[int, float]] = deque(maxlen=64)
        self._heard = 0

    def push(self, samples: FloatArray) -> None:
        """Samples [n] at 16 kHz, full scale 1."""
        if len(samples):
            self._heard += len(samples)
            self._peaks.append((self._heard, float(np.abs(samples).max())))

    def decibel(self) -> float:
        """dB of full scale, at least QUIETEST_DB."""
        since = self._heard - _LEVEL_SECONDS * SAMPLE_RATE
        peak = max((peak for end, peak in tuple(self._peaks) if end > since), default=0.0)
        return max(20.0 * math.log10(max(peak, 1e-9)), QUIETEST_DB)


class ColumnHistory:
    """The latest columns of a spectrogram. One thread writes, any may read."""

    def __init__(self) -> None:
        self._recent: deque[FloatArray] = deque(maxlen=RECENT_COLUMNS)
        self._total = 0
        self._lock = threading.Lock()

    def push(self, columns: Sequence[FloatArray] | FloatArray) -> None:
        """Log-mel columns [n, N_MELS]."""
        with self._lock:
            self._recent.extend(columns)
            self._total += len(columns)

    def snapshot(self) -> Spectrogram:
        with self._lock:
            recent, total = list(self._recent), self._total
        return Spectrogram(np.stack(recent), total) if recent else NO_SPECTROGRAM


class RateMeter:
    """Bits of packets, per second of the speech they stand for. For one writer and any readers."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, float]] = deque()  # (steps, bits) of the last second
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._bits = 0.0
        self._steps = self._shown = 0
        self._now = 0.0

    def push(self, packet_bytes: int, steps: int) -> None:
        """Note a packet for so many latent steps, header included; of 0 bytes if none was sent."""
        self._bits += 8.0 * packet_bytes
        self._steps += steps
        self._recent.append((steps, 8.0 * packet_bytes))
        span = sum(each for each, _ in self._recent)
        while span - self._recent[0][0] >= RATE_STEPS:
            span -= self._recent.popleft()[0]
        bits = sum(each for _, each in self._recent)
        self._now = bits / (span * STEP_SECONDS)
        while self._steps - self._shown >= RATE_STEPS:
            self._shown += RATE_STEPS
            self._history.append(self._now)

    def snapshot(self, wire: float = 0.0, ip: float = 0.0) -> Rate:
        """wire, ip: bit/s of the transport and of IP packets, measured elsewhere."""
        average = self._bits / (self._steps * STEP_SECONDS) if self._steps else 0.0
        return Rate(self._now, average, tuple(self._history), wire, ip)


class Throughput:
    """Bit/s over the last few seconds of a growing byte counter."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._marks: deque[tuple[float, int]] = deque(maxlen=256)

    def update(self, now: float, total_bytes: int) -> float:
        """Note the counter at `now` seconds; returns the rate."""
        marks = self._marks
        if not marks or now - marks[-1][0] > self._window / 100:
            marks.append((now, total_bytes))
        while len(marks) > 2 and now - marks[1][0] > self._window:
            marks.popleft()
        span = now - marks[0][0]
        return 8.0 * (total_bytes - marks[0][1]) / span if span > 0.1 else 0.0


class LoadMeter:
    """Share of the time a thread has been busy lately. One thread writes, any may read."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=4096)

    def push(self, begun: float, ended: float) -> None:
        """Note a span of work, in monotonic seconds."""
        self._spans.append((begun, ended))
        while self._spans[0][1] < ended - _LOAD_SECONDS:
            self._spans.popleft()

    def share(self, now: float) -> float:
        """0..1 over the last few seconds."""
        since = now - _LOAD_SECONDS
        recent = ((begun, end) for begun, end in tuple(self._spans) if end > since)
        busy = sum(min(end, now) - max(begun, since) for begun, end in recent)
        return max(busy, 0.0) / _LOAD_SECONDS
