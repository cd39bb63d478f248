"""The mel scale of Slaney's Auditory Toolbox (1998): linear up to 1 kHz, logarithmic above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HERTZ_PER_MEL = 200.0 / 3.0
_BEND_HERTZ = 1000.0
_BEND_MEL = _BEND_HERTZ / _HERTZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0  # 27 mels from 1 kHz to 6.4 kHz


def frequencies(count: int, low: float, high: float) -> NDArray[np.float64]:
    """`count` frequencies from `low` to `high`, Hz, at equal distances in mel."""
    mels = np.linspace(_mel(low), _mel(high), count)
    above = _BEND_HERTZ * np.exp(_LOG_STEP * (mels - _BEND_MEL))
    return np.where(mels < _BEND_MEL, _HERTZ_PER_MEL * mels, above)


def triangles(
    count: int, low: float, high: float, hertz: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Overlapping triangles with unit peaks at the frequencies `hertz` [n]: [count, n].

    Each rises from the peak of the one before it and falls to that of the one after it; the first
    rises from `low`, the last falls to `high`.
    """
    corners = frequencies(count + 2, low, high)[:, None]
    widths = np.diff(corners, axis=0)
    rising = (hertz - corners[:-2]) / widths[:-1]
    falling = (corners[2:] - hertz) / widths[1:]
    return np.maximum(np.minimum(rising, falling), 0.0)


def _mel(hertz: float) -> float:
    if hertz < _BEND_HERTZ:
        return hertz / _HERTZ_PER_MEL
    return _BEND_MEL + float(np.log(hertz / _BEND_HERTZ)) / _LOG_STEP
