"""Colours of the spectrogram: lightness rises evenly, so that louder always looks brighter.

Made in Oklab (B. Ottosson, "A perceptual color space for image processing", 2020): equal steps of
lightness, hue turning from blue over green to pale yellow, so that it also reads in greys and for
most colour-blind eyes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Lightness, chroma, hue in degrees.
_ANCHORS = np.array(
    [
        (0.21, 0.025, 255.0),
        (0.34, 0.075, 275.0),
        (0.49, 0.105, 240.0),
        (0.64, 0.110, 195.0),
        (0.79, 0.140, 150.0),
        (0.94, 0.130, 105.0),
    ]
)


def colours(levels: int) -> NDArray[np.uint8]:
    """sRGB colours from quiet to loud, shape [levels, 3]."""
    at = np.linspace(0, len(_ANCHORS) - 1, levels)
    lightness, chroma, hue = (
        np.interp(at, np.arange(len(_ANCHORS)), column) for column in _ANCHORS.T
    )
    a = chroma * np.cos(np.radians(hue))
    b = chroma * np.sin(np.radians(hue))
    cones = (
        np.stack(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ]
        )
        ** 3
    )
    linear = np.clip(
        np.array(
            [
                [4.0767416621, -3.3077115913, 0.2309699292],
                [-1.2684380046, 2.6097574011, -0.3413193965],
                [-0.0041960863, -0.7034186147, 1.7076147010],
            ]
        )
        @ cones,
        0.0,
        1.0,
    )
    # IEC 61966-2-1
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded.T).astype(np.uint8)
