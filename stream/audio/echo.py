"""Whether a microphone hears its loudspeaker at all.

A canceller that expects an echo where there is none, as with headphones, takes the near talker for
it whenever both talk. So it is asked first whether what was played is found in what is heard.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal import firwin, lfilter

from codec.signal.samples import SAMPLE_RATE, FloatArray

_FACTOR = 4  # below 2 kHz is enough to tell
_RATE = SAMPLE_RATE // _FACTOR
_HOP = 256  # samples at that rate: 64 ms
_LAGS = 3200  # in which an echo may come, with what the pairing adds: 0.8 s
_SIZE = _LAGS + _HOP  # of transforms: lags below _LAGS do not wrap around
_LOWEST_HZ = 150.0  # below, two recordings may have the same hum
_FILTER = firwin(63, 0.9 / _FACTOR).astype(np.float32)
_ONE = np.ones(1, np.float32)
_SILENCE = np.zeros(SAMPLE_RATE // 100, np.float32)
_LOUD_DB = -55.0  # of what is played, for it to count
_HOP_SECONDS = _HOP / _RATE

_Spectrum = NDArray[np.complex64]


class EchoDetector:
    """Looks for what was played in what is heard, however late and however reverberated.

    The cross-correlation of both, over the square root of the spectrum of what was played (a
    generalised cross-correlation as of Knapp and Carter, IEEE Trans. ASSP 24, 1976), is estimated
    from two halves of the last seconds, taken in turns. An echo is in both halves at the same lags,
    whatever else is heard in one of them only: the correlation coefficient of the two tells. In 17
    pairs of talks it rose to 0.17 with two people talking at once and no echo, to 0.06 with nobody
    near, and to 0.5 and more with an echo of a synthetic room and nobody near, 10 to 30 dB below
    what was played, with hardly a doubt after SURE seconds.

    Attribute echo: whether to expect one. True until SURE seconds have been played without a trace
    of it.
    """

    SURE = 8.0  # seconds of playing ...
    CALM = 6.0  # ... of which the last ones have left no doubt
    MEMORY = 3.0  # seconds, a time constant
    TURN = 8  # hops for each half
    LOOK = 4  # hops from one look to the next
    FOUND, DOUBTFUL = 0.2, 0.08
    KEPT = 20.0  # seconds of playing for which an echo that was found is expected
    # Blocks of either side that wait for the other's, which come when threads have time: many at
    # once. If there are more, the other side stood still, or had not begun, and they are forgotten.
    WAITING = 60
    BEHIND = 10  # blocks played later that what is heard is paired with, since threads differ

    def __init__(self) -> None:
        self.echo = True
        # One thread adds to the first, and the other alone takes from it.
        self._far: deque[FloatArray] = deque(maxlen=self.WAITING)
        self._near: deque[FloatArray] = deque(self.BEHIND * [_SILENCE])
        self._pairs: list[tuple[FloatArray, FloatArray]] = []  # not yet a hop
        self._count = 0  # samples of these
        self._states = [np.zeros(len(_FILTER) - 1, np.float32) for _ in range(2)]
        self._played = np.zeros(_SIZE, np.float32)
        self._keep = math.exp(-_HOP_SECONDS / self.MEMORY)
        bins = rfftfreq(_SIZE, 1.0 / _RATE)
        self._band = bins >= _LOWEST_HZ
        self._cross: list[_Spectrum] = [np.zeros(len(bins), np.complex64) for _ in range(2)]
        self._power = [np.zeros(len(bins), np.float32) for _ in range(2)]
        self._hops = 0
        self._found_at = self._doubted_at = -math.inf

    def render(self, block: FloatArray) -> None:
        """What is played, [160] at 16 kHz. May be called by another thread than `capture`."""
        self._far.append(block)

    def capture(self, block: FloatArray) -> None:
        """What is heard, [160]."""
        if max(len(self._near), len(self._far)) >= self.WAITING:
            self._begin()
        self._near.append(block)
        while self._far and self._near:
            self._take(self._far.popleft(), self._near.popleft())

    def _begin(self) -> None:
        """Pair anew what comes from now on."""
        self._far.clear()
        self._near.clear()
        self._near.extend(self.BEHIND * [_SILENCE])

    def _take(self, far: FloatArray, near: FloatArray) -> None:
        self._pairs.append((far, near))
        self._count += len(far)
        if self._count < _FACTOR * _HOP:
            return
        hops: list[FloatArray] = []
        rest: list[FloatArray] = []
        for side, blocks in enumerate(zip(*self._pairs, strict=True)):
            samples = np.concatenate(blocks)
            hop, left = samples[: _FACTOR * _HOP], samples[_FACTOR * _HOP :]
            low, self._states[side] = lfilter(_FILTER, _ONE, hop, zi=self._states[side])
            hops.append(low[::_FACTOR])
            rest.append(left)
        self._pairs = [(rest[0], rest[1])]
        self._count = len(rest[0])
        self._played = np.concatenate((self._played[_HOP:], hops[0]))
        self._compare(*hops)

    def _compare(self, far: FloatArray, near: FloatArray) -> None:
        loud = float(self._played @ self._played) / len(self._played)
        if loud < 10.0 ** (_LOUD_DB / 10.0):
            return
        half = self._hops // self.TURN % 2
        self._hops += 1
        for spectrum in self._cross:
            spectrum *= self._keep
        for power in self._power:
            power *= self._keep
        heard = np.concatenate((np.zeros(_LAGS, np.float32), near))
        self._cross[half] += rfft(heard) * np.conj(rfft(self._played))
        self._power[half] += np.abs(rfft(far, _SIZE)) ** 2
        if self._hops % self.LOOK == 0:
            self._decide()

    def _decide(self) -> None:
        one, other = (
            self._response(cross, power)
            for cross, power in zip(self._cross, self._power, strict=True)
        )
        energy = math.sqrt(float(one @ one) * float(other @ other))
        alike = float(one @ other) / energy if energy > 0.0 else 0.0
        played = self._hops * _HOP_SECONDS
        if alike > self.DOUBTFUL:
            self._doubted_at = played
        if alike > self.FOUND:
            self.echo = True
            self._found_at = played
        elif played >= max(self.SURE, self._found_at + self.KEPT, self._doubted_at + self.CALM):
            self.echo = False

    def _response(self, cross: _Spectrum, power: FloatArray) -> FloatArray:
        """How what is heard follows what was played, [_LAGS]."""
        weighted = cross / np.sqrt(power + 0.01 * power.mean() + 1e-12) * self._band
        return np.asarray(irfft(weighted, _SIZE)[:_LAGS])
