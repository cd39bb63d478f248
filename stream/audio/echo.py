"""Whether a microphone hears its loudspeaker at all.

A canceller that expects an echo where there is none, as with headphones, takes the near talker for
it whenever both talk. So it is asked first whether what was played is found in what is heard.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal import butter, firwin, lfilter

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.alignment import Stamps

_FACTOR = 4  # below 2 kHz is enough to tell
_RATE = SAMPLE_RATE // _FACTOR
_HOP = 256  # samples at that rate: 64 ms
_HOP_SECONDS = _HOP / _RATE
# An echo may come this much before it should (sound cards know their delays roughly) ...
_SOONER = 2 * _HOP
_LATER = 8 * _HOP  # ... or after what was played
_LAGS = _SOONER + _LATER
_SIZE = _LAGS + _HOP  # of transforms: lags below _LAGS do not wrap around
_LOWEST_HZ = 300.0  # below, small loudspeakers play nothing, and two recordings may have one hum
_LOW_PASS = firwin(63, 0.9 / _FACTOR).astype(np.float32)
_HIGH_PASS = butter(2, _LOWEST_HZ, "high", fs=_RATE)
_LOUD_DB = -55.0  # of what is played, for it to count
_AHEAD = 4 * _RATE  # what is to be played, kept at most
_WAITING = 500  # blocks played, for a microphone that stands still

_Spectrum = NDArray[np.complex64]


class EchoDetector:
    """Looks for what was played in what is heard, however late and however reverberated.

    The cross-correlation of both, over the square root of the spectrum of what was played (a
    generalised cross-correlation as of Knapp and Carter, IEEE Trans. ASSP 24, 1976), is estimated
    from two halves of the last seconds, taken in turns. An echo is in both halves at the same lags,
    whatever else is heard in one of them only: the correlation coefficient of the two tells. In 24
    pairs of talks of 30 seconds it rose to 0.18 at most with two people talking at once and no
    echo, to 0.05 with nobody near, and to about 0.2 or more in each with an echo of a synthetic
    room, 10 or 30 dB below what was played, and nobody near. With both talking and an echo of
    -20 dB it tells little: in 18 of the pairs that was given up, for the time that both talk.

    Where it is quiet between the words of who is near, `GainBound` tells sooner: of those pairs,
    without an echo, half fell below FAINT_DB within 3.4 seconds and all within 9.4.

    Attribute echo: whether to expect one. True until it is known to be faint, or to be low after
    SURE seconds of playing without a trace of it.
    """

    SURE = 8.0  # seconds of playing ...
    CALM = 6.0  # ... of which the last ones have left no doubt
    MEMORY = 3.0  # seconds, a time constant
    TURN = 8  # hops for each half
    LOOK = 4  # hops from one look to the next
    FOUND, DOUBTFUL = 0.2, 0.08
    # Gains of an echo of which hardly anything is heard, and of the loudest that the correlation
    # may miss: with both talking, and clocks that wander, it tells little.
    FAINT_DB, LOW_DB = -28.0, -15.0
    # Seconds of playing for which an echo that was found is expected, and first not looked for.
    KEPT, REST = 20.0, 10.0

    def __init__(self) -> None:
        self.echo = True
        # One thread adds to it, and the other alone takes from it.
        self._rendered: deque[tuple[FloatArray, float | None]] = deque(maxlen=_WAITING)
        self._far, self._near = _Track(), _Track()
        self._played = np.zeros(2 * _SIZE, np.float32)  # until _played_end
        self._played_end = 0
        self._heard = np.zeros(0, np.float32)  # not yet a hop
        self._heard_end = 0
        self._hops: deque[tuple[int, FloatArray]] = deque()
        self._keep = math.exp(-_HOP_SECONDS / self.MEMORY)
        bins = rfftfreq(_SIZE, 1.0 / _RATE)
        self._band = bins >= _LOWEST_HZ
        self._cross: list[_Spectrum] = [np.zeros(len(bins), np.complex64) for _ in range(2)]
        self._power = [np.zeros(len(bins), np.float32) for _ in range(2)]
        self._compared = 0
        self._found_at = self._doubted_at = -math.inf
        self._bound = GainBound()

    def render(self, block: FloatArray, at: float | None = None) -> None:
        """What is played, any number of samples at 16 kHz; may be called by another thread than
        `capture`.

        at: when the first sample is in the air, seconds; None: right after what came before.
        """
        self._rendered.append((block, at))

    def capture(self, block: FloatArray, at: float | None = None) -> None:
        """What is heard, as in `render`."""
        while self._rendered:
            for index, samples in self._far.push(*self._rendered.popleft()):
                self._play(index, samples)
        for index, samples in self._near.push(block, at):
            self._hear(index, samples)

    def _hear(self, index: int, samples: FloatArray) -> None:
        """Gather hops, and compare those for which what is played soon is known."""
        if index != self._heard_end:
            self._hops.clear()
            self._heard = samples[:0]
        self._heard = np.concatenate((self._heard, samples))
        self._heard_end = index + len(samples)
        while len(self._heard) >= _HOP:
            hop, self._heard = self._heard[:_HOP], self._heard[_HOP:]
            self._hops.append((self._heard_end - len(self._heard) - _HOP, hop))
        while self._hops and self._hops[0][0] + 2 * _HOP + _SOONER <= self._heard_end:
            self._compare(*self._hops.popleft())

    def _play(self, index: int, samples: FloatArray) -> None:
        """Put samples to their place in time."""
        end = index + len(samples)
        if abs(end - self._played_end) > _AHEAD:
            self._played[:] = 0.0
            self._played_end = end
        elif end > self._played_end:
            moved = end - self._played_end
            self._played = np.concatenate((self._played, np.zeros(moved, np.float32)))[moved:]
            self._played_end = end
        first = len(self._played) - (self._played_end - index)
        if first >= 0:
            self._played[first : first + len(samples)] = samples

    def _around(self, index: int) -> FloatArray:
        """What was played around a hop of what is heard, [_SIZE]; silence where nothing was."""
        last = len(self._played) - (self._played_end - (index + _HOP + _SOONER))
        first = last - _SIZE
        inside = self._played[min(max(first, 0), len(self._played)) : max(last, 0)]
        window = np.zeros(_SIZE, np.float32)
        at = max(-first, 0)
        window[at : at + len(inside)] = inside[: _SIZE - at]
        return window

    def _compare(self, index: int, near: FloatArray) -> None:
        played = self._around(index)
        if float(played @ played) / _SIZE < 10.0 ** (_LOUD_DB / 10.0):
            return
        half = self._compared // self.TURN % 2
        self._compared += 1
        if self._compared * _HOP_SECONDS < self._found_at + self.REST:
            return
        for spectrum in self._cross:
            spectrum *= self._keep
        for power in self._power:
            power *= self._keep
        heard = np.concatenate((np.zeros(_LAGS, np.float32), near))
        self._cross[half] += rfft(heard) * np.conj(rfft(played))
        self._power[half] += np.abs(rfft(played[-_HOP:], _SIZE)) ** 2
        self._bound.update(played, near)
        if self._compared % self.LOOK == 0:
            self._decide()

    def _decide(self) -> None:
        one, other = (
            self._response(cross, power)
            for cross, power in zip(self._cross, self._power, strict=True)
        )
        energy = math.sqrt(float(one @ one) * float(other @ other))
        alike = float(one @ other) / energy if energy > 0.0 else 0.0
        played = self._compared * _HOP_SECONDS
        if alike > self.DOUBTFUL:
            self._doubted_at = played
        if alike > self.FOUND:
            self.echo = True
            self._found_at = played
            self._bound = GainBound()
        elif played >= self._found_at + self.KEPT and (
            self._bound.decibel < self.FAINT_DB
            or (
                self._bound.decibel < self.LOW_DB
                and played >= max(self.SURE, self._doubted_at + self.CALM)
            )
        ):
            self.echo = False

    def _response(self, cross: _Spectrum, power: FloatArray) -> FloatArray:
        """How what is heard follows what was played, [_LAGS], the earliest first."""
        weighted = cross / np.sqrt(power + 0.01 * power.mean() + 1e-12) * self._band
        return np.asarray(irfft(weighted, _SIZE)[:_LAGS])


class GainBound:
    """How loud an echo can be at most, told by the moments in which little is heard.

    An echo of gain g at some lag makes all that is heard at least about g times as loud as what was
    played that long before. So the least of that ratio so far, lag by lag, bounds the gain at each
    lag, and the greatest of these the gain of any echo. What was played counts as loud as it was
    at least in SPAN frames around: clocks of sound cards wander, and rooms reverberate.

    Attribute decibel: that bound on the gain; infinite until there is one for each lag.
    """

    FRAME = 32  # samples at _RATE: 8 ms
    SPAN = 8  # frames
    SMOOTH = 3  # frames of what is heard that are averaged
    NOTHING = 1e-10  # power of what is no sound: a microphone that is switched off, or not yet on
    FORGET_DB = 0.5  # per second

    def __init__(self) -> None:
        self.decibel = math.inf
        self._near = np.full(self.SMOOTH - 1, math.inf)
        self._least = np.full((_SIZE - _HOP) // self.FRAME - self.SPAN + 2, math.inf)
        self._forget = 10.0 ** (self.FORGET_DB / 10.0 * _HOP_SECONDS)

    def update(self, played: FloatArray, near: FloatArray) -> None:
        """What is heard in a hop, [_HOP], and what was played around it, [_SIZE]."""
        powers = self._powers(near)
        powers[powers < self.NOTHING] = math.inf
        self._near = np.concatenate((self._near[-(self.SMOOTH - 1) :], powers))
        heard = sliding_window_view(self._near, self.SMOOTH).mean(1)
        least = sliding_window_view(self._powers(played), self.SPAN).min(1)
        # A row for each frame of what is heard; a column is one lag.
        lags = sliding_window_view(least, len(self._least))
        ratios = heard[:, None] / np.maximum(lags, self.NOTHING)
        self._least = np.minimum(self._least * self._forget, ratios.min(0))
        self.decibel = 10.0 * math.log10(max(float(self._least.max()), self.NOTHING))

    def _powers(self, samples: FloatArray) -> FloatArray:
        frames = samples.reshape(-1, self.FRAME)
        return np.einsum("ij,ij->i", frames, frames) / np.float32(self.FRAME)


class _Track:
    """Blocks at 16 kHz become samples between _LOWEST_HZ and 2 kHz at _RATE, each with an index."""

    AT_ONCE = _FACTOR * _HOP  # a filter takes its time for each call

    def __init__(self) -> None:
        self._stamps = Stamps()
        self._waiting: list[FloatArray] = []
        self._begin = 0  # the place of the first of these
        self._before = np.zeros(len(_LOW_PASS) - 1, np.float32)
        self._high = np.zeros(2)

    def push(self, block: FloatArray, at: float | None) -> Iterator[tuple[int, FloatArray]]:
        """Give what is ready: the index of its first sample, and the samples."""
        end = self._stamps.end
        begin = self._stamps.place(at, len(block))
        if begin != end:
            yield from self._filtered(1)
            self._begin, self._waiting = begin, []
        self._waiting.append(block)
        yield from self._filtered(self.AT_ONCE)

    def _filtered(self, least: int) -> Iterator[tuple[int, FloatArray]]:
        count = sum(map(len, self._waiting)) // _FACTOR
        if count * _FACTOR < max(least, _FACTOR):
            return
        samples = np.concatenate((self._before, *self._waiting))
        kept = len(self._before) + count * _FACTOR
        self._waiting = [samples[kept:]]
        low = np.convolve(samples[:kept], _LOW_PASS, "valid")[::_FACTOR]
        self._before = samples[kept - len(self._before) : kept]
        band, self._high = lfilter(*_HIGH_PASS, low, zi=self._high)
        yield self._begin // _FACTOR, band.astype(np.float32)
        self._begin += count * _FACTOR
