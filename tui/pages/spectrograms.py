"""Spectrograms as small pictures, and the levels that they show."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.signal.samples import FloatArray
from tui.app.colormap import colours

_FLOOR_DB = -90.0
SHOWN_DB = (-82.0, -24.0)  # of a bin, from dark to bright: of speech at its usual level
_WINDOW = 512
_HOP = 128
_MAX_COLUMNS = 2000  # about as many as a picture is wide
_SIZE = (720, 144)
_QUALITY = 55


def spectrogram(samples: NDArray[np.floating]) -> FloatArray:
    """Magnitudes in dB, 0 for a full-scale sine: [n] at 16 kHz to [bins, columns]."""
    padded = np.pad(np.asarray(samples, np.float32), _WINDOW // 2)
    hop = max(_HOP, len(samples) // _MAX_COLUMNS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    hann = np.hanning(_WINDOW).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(windows * hann, axis=1)) * (2.0 / hann.sum())
    decibel: FloatArray = 20.0 * np.log10(np.maximum(magnitudes.T, 10.0 ** (_FLOOR_DB / 20.0)))
    return decibel


def picture(samples: NDArray[np.floating], size: tuple[int, int] = _SIZE) -> bytes:
    """The spectrogram of samples [n] at 16 kHz as WebP of `size` pixels, 0 to 8 kHz upwards."""
    low, high = SHOWN_DB
    levels = (spectrogram(samples) - low) / (high - low)
    grey = Image.fromarray(np.round(255 * np.clip(levels[::-1], 0.0, 1.0)).astype(np.uint8))
    indices = np.asarray(grey.resize(size, Image.Resampling.BOX))
    file = io.BytesIO()
    Image.fromarray(colours(256)[indices]).save(file, "WEBP", quality=_QUALITY, method=2)
    return file.getvalue()
