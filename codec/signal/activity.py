"""Voice activity: which frames hold speech, and which may be sent as comfort noise.

Every 10 ms the energies of a few bands are compared with their floors, which follow the quietest
tenth of a second of the last seconds (minimum statistics: Martin, IEEE Trans. Speech and Audio
Processing 9(5), 2001, in a simple form). Sound well over the floor in some of the bands, for longer
than a click, is taken for speech: what is unclear is sent. So steady noise of any level is noise,
after the seconds that the floors need to find it, and until then counts as speech.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import pairwise

import numpy as np

from codec.signal.analysis import FRAME_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray

STEP = 160  # samples between two looks: 10 ms
_WINDOW = 320
_FFT = 512
# Without the lowest octaves, where mains hum and rumble are.
EDGES_HZ = (150, 350, 600, 900, 1300, 1800, 2500, 3400, 4700, 7800)
_BANDS = len(EDGES_HZ) - 1
_SMOOTH = 3  # looks averaged into the energies that are judged
_SLOW = 10  # looks averaged into the energies that the floors follow
_SLOT = 50  # looks whose minimum is kept together
_SLOTS = 10  # such minima that count: 5 s
_TRUSTED_SLOTS = 5  # until so many are known, a floor is taken to be the quietest possible
_TOP = 3  # bands that have to be over their floors together
_RISE_DB = 7.0  # ... by so much on average
_QUIETEST_DB = -78.0  # sound of all bands together below this, in dB of full scale, is silence
_CLICK = 7  # looks; what is over sooner is no speech
_ONSET = 2  # looks at the end of the frame that may be the beginning of a word
_MARGIN = 5  # looks before and, where they are known, after the frame that count as its own
_FRAME = FRAME_SAMPLES / STEP
_HISTORY = int(6 * _FRAME)
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
    """Takes samples as they come; says whether a frame's span holds speech. Not thread safe."""

    def __init__(self) -> None:
        self._held = np.zeros(0, np.float32)
        self._pushed = 0  # samples
        self._looks = 0
        self._recent: deque[FloatArray] = deque(maxlen=_SLOW)  # band powers
        self._minimum = np.full(_BANDS, np.inf)  # of the present slot
        self._minima: deque[FloatArray] = deque(maxlen=_SLOTS)
        self._speech: deque[bool] = deque(maxlen=_HISTORY)

    @property
    def pushed(self) -> int:
        """Samples taken so far."""
        return self._pushed

    def push(self, samples: FloatArray) -> None:
        """Take 16 kHz mono samples [n], full scale 1. What is not finite counts as silence."""
        samples = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        self._pushed += len(samples)
        held = np.concatenate([self._held, samples])
        count = max((len(held) - _WINDOW) // STEP + 1, 0)
        self._held = held[count * STEP :].copy()
        if count == 0:
            return
        window, bands = _weights()
        cut = np.lib.stride_tricks.sliding_window_view(held, _WINDOW)[::STEP][:count]
        power = np.abs(np.fft.rfft(cut * window, _FFT, axis=1)) ** 2 @ bands
        for row in power:
            self._look(row)

    def frame_active(self, end: int | None = None) -> bool:
        """Whether the frame that ends `end` samples after the start holds speech.

        end: by default the last sample pushed; up to two frames before it. The 50 ms before the
        frame count as its own, and so do those after it as far as they have been pushed. After
        speech, one frame more is active. Raises ValueError for any other end.
        """
        end = self._pushed if end is None else end
        if not max(self._pushed - 2 * FRAME_SAMPLES, 0) <= end <= self._pushed:
            raise ValueError(f"no frame that is known ends at sample {end}")
        behind = max(self._looks - (end // STEP + _MARGIN), 0)
        speech = list(self._speech)
        speech = speech[: len(speech) - behind]
        speech = speech[-int(2 * _FRAME + 2 * _MARGIN) :]
        run = longest = 0
        for one in speech:
            run = run + 1 if one else 0
            longest = max(longest, run)
        return longest >= _CLICK or run >= _ONSET

    def _look(self, power: FloatArray) -> None:
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
        self._looks += 1
        if self._looks % _SLOT == 0:
            self._minima.append(self._minimum.astype(np.float32))
            self._minimum = np.full(_BANDS, np.inf)

    def _floor(self) -> FloatArray:
        if len(self._minima) < _TRUSTED_SLOTS:
            return np.zeros(_BANDS, np.float32)
        floor: FloatArray = np.min([*self._minima, self._minimum], axis=0).astype(np.float32)
        return floor
