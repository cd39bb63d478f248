"""Voice activity detection: frames without speech may be sent as comfort noise.

Every 10 ms the energies of a few bands are compared with their floors, which follow the quietest
tenth of a second of the last seconds (minimum statistics: Martin, IEEE Trans. Speech and Audio
Processing 9(5), 2001, in a simple form). Sound well above the floor in some of the bands, for
longer than a click, counts as speech, and so does every doubtful case. Steady noise of any level is
noise once the floors have found it, and speech during the seconds until then.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import pairwise

import numpy as np

from codec.signal.analysis import FRAME_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray

STEP = 160  # samples between two decisions: 10 ms
_WINDOW = 320
_FFT = 512
# Without the lowest octaves, which hold mains hum and rumble.
EDGES_HZ = (150, 350, 600, 900, 1300, 1800, 2500, 3400, 4700, 7800)
_BANDS = len(EDGES_HZ) - 1
_SMOOTH = 3  # steps averaged into the energies that are compared with the floors
_SLOW = 10  # steps averaged into the energies that the floors follow
_SLOT = 50  # steps whose minimum is kept together
_SLOTS = 10  # minima that make a floor: 5 s
_TRUSTED_SLOTS = 5  # minima that must be known before a floor is above the lowest possible
_TOP = 3  # bands that have to exceed their floors together
_RISE_DB = 7.0  # ... by this much on average
_QUIETEST_DB = -78.0  # all bands together below this, in dB of full scale, are silence
_CLICK = 7  # steps; shorter sounds are not speech
_ONSET = 2  # steps at the end of the frame that may be the beginning of a word
_MARGIN = 5  # steps before the frame that count as its own
_HISTORY = int(2 * (FRAME_SAMPLES / STEP + _MARGIN))
_EMPTY = 1e-12


@lru_cache(maxsize=1)
def _weights() -> tuple[FloatArray, FloatArray]:
    """The window, and the bands' weights [_FFT / 2 + 1, _BANDS] that give powers (mean squares)."""
    window = np.hanning(_WINDOW + 1)[:-1]
    frequency = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
    bands = np.stack(
        [(frequency >= low) & (frequency < high) for low, high in pairwise(EDGES_HZ)],
        axis=1,
    )
    scale = 2.0 / (_FFT * np.sum(window**2))
    return window.astype(np.float32), (bands * scale).astype(np.float32)


class ActivityDetector:
    """Takes samples as they come; tells whether the last frame holds speech. Not thread safe."""

    def __init__(self) -> None:
        self._held = np.zeros(0, np.float32)
        self._steps = 0
        self._recent: deque[FloatArray] = deque(maxlen=_SLOW)  # band powers
        self._minimum = np.full(_BANDS, np.inf)  # of the present slot
        self._minima: deque[FloatArray] = deque(maxlen=_SLOTS)
        self._speech: deque[bool] = deque(maxlen=_HISTORY)

    def push(self, samples: FloatArray) -> None:
        """Take 16 kHz mono samples [n], full scale 1. NaN and infinities count as silence."""
        samples = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        held = np.concatenate([self._held, samples])
        count = max((len(held) - _WINDOW) // STEP + 1, 0)
        self._held = held[count * STEP :].copy()
        if count == 0:
            return
        window, bands = _weights()
        cut = np.lib.stride_tricks.sliding_window_view(held, _WINDOW)[::STEP][:count]
        power = np.abs(np.fft.rfft(cut * window, _FFT, axis=1)) ** 2 @ bands
        for row in power:
            self._step(row)

    def frame_active(self) -> bool:
        """Whether the frame that ends with the last sample holds speech.

        The 50 ms before the frame count as its own; after speech, one more frame is active.
        """
        run = longest = 0
        for speech in self._speech:
            run = run + 1 if speech else 0
            longest = max(longest, run)
        return longest >= _CLICK or run >= _ONSET

    def _step(self, power: FloatArray) -> None:
        self._recent.append(power)
        recent = list(self._recent)
        now = np.mean(recent[-_SMOOTH:], axis=0)
        self._follow(np.mean(recent, axis=0) if len(recent) == _SLOW else now)
        rise = 10.0 * np.log10((now + _EMPTY) / (self._floor() + _EMPTY))
        over = float(np.mean(np.sort(rise)[-_TOP:]))
        loud = 10.0 * np.log10(float(now.sum()) + _EMPTY) > _QUIETEST_DB
        self._speech.append(bool(loud and over > _RISE_DB))

    def _follow(self, slow: FloatArray) -> None:
        self._minimum = np.minimum(self._minimum, slow)
        self._steps += 1
        if self._steps % _SLOT == 0:
            self._minima.append(self._minimum.astype(np.float32))
            self._minimum = np.full(_BANDS, np.inf)

    def _floor(self) -> FloatArray:
        if len(self._minima) < _TRUSTED_SLOTS:
            return np.zeros(_BANDS, np.float32)
        floor: FloatArray = np.min([*self._minima, self._minimum], axis=0).astype(np.float32)
        return floor
