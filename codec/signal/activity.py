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

from codec.signal.activity_kernel import decide
from codec.signal.analysis import FRAME_SAMPLES, cleaned
from codec.signal.samples import SAMPLE_RATE, FloatArray

STEP = 160  # samples between two decisions: 10 ms
_WINDOW = 320
_FFT = 512
# Without the lowest octaves, which hold mains hum and rumble.
EDGES_HZ = (150, 350, 600, 900, 1300, 1800, 2500, 3400, 4700, 7800)
_BANDS = len(EDGES_HZ) - 1
_SLOW = 10  # steps averaged into the energies that the floors follow
_SLOTS = 10  # minima that make a floor: 5 s
_CLICK = 7  # steps; shorter sounds are not speech
_ONSET = 2  # steps at the end of the frame that may be the beginning of a word
_MARGIN = 5  # steps before the frame that count as its own
_HISTORY = int(2 * (FRAME_SAMPLES / STEP + _MARGIN))


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
        decide.load()  # not while sound is waiting
        self._held = np.zeros(0, np.float32)
        self._waiting: list[FloatArray] = []
        self._steps = 0
        self._recent = np.zeros((_SLOW, _BANDS))  # band powers
        self._minimum = np.full(_BANDS, np.inf)  # of the present slot
        self._minima = np.full((_SLOTS, _BANDS), np.inf)
        self._speech: deque[bool] = deque(maxlen=_HISTORY)

    def push(self, samples: FloatArray) -> None:
        """Take 16 kHz mono samples [n], full scale 1. NaN and infinities count as silence.

        They are looked at when somebody asks: together they cost less than bite by bite.
        """
        self._waiting.append(np.array(samples, np.float32))

    def _look(self) -> None:
        """Decide about what has come."""
        held = np.concatenate([self._held, *map(cleaned, self._waiting)])
        self._waiting.clear()
        count = max((len(held) - _WINDOW) // STEP + 1, 0)
        self._held = held[count * STEP :].copy()
        if count == 0:
            return
        window, bands = _weights()
        cut = np.lib.stride_tricks.sliding_window_view(held, _WINDOW)[::STEP][:count]
        spectra = np.fft.rfft(cut * window, _FFT, axis=1)  # 64-bit with NumPy 1
        power = (np.abs(spectra) ** 2 @ bands).astype(np.float32, copy=False)
        speech = np.empty(count, np.bool_)
        decide(
            power, self._steps, self._recent, self._minimum, self._minima, speech, np.empty(_BANDS)
        )
        self._steps += count
        self._speech.extend(speech.tolist())

    def frame_active(self) -> bool:
        """Whether the frame that ends with the last sample holds speech.

        The 50 ms before the frame count as its own; after speech, one more frame is active.
        """
        if self._waiting:
            self._look()
        run = longest = 0
        for speech in self._speech:
            run = run + 1 if speech else 0
            longest = max(longest, run)
        return longest >= _CLICK or run >= _ONSET
