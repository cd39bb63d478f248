"""Spectrograms of a signal before and after coding, one above the other, as a PNG.

Importing this takes matplotlib; where that is not installed it raises BadInput.
"""

from __future__ import annotations

import io

import numpy as np

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE, FloatArray

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error

_WINDOW = 512
_HOP = 128
_FLOOR_DB = -90.0
_MAX_COLUMNS = 2000  # about as many as the picture is wide


def spectrogram(samples: FloatArray) -> FloatArray:
    """Magnitudes in dB, 0 for a full-scale sine: [n] at 16 kHz to [bins, columns]."""
    padded = np.pad(np.asarray(samples, np.float32), _WINDOW // 2)
    hop = max(_HOP, len(samples) // _MAX_COLUMNS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    hann = np.hanning(_WINDOW).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(windows * hann, axis=1)) * (2.0 / hann.sum())
    decibel: FloatArray = 20.0 * np.log10(np.maximum(magnitudes.T, 10.0 ** (_FLOOR_DB / 20.0)))
    return decibel


def spectrograms_png(original: FloatArray, decoded: FloatArray) -> bytes:
    """The picture as a file."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True)
    for ax, samples, title in zip(axes, (original, decoded), ("original", "decoded"), strict=True):
        image = ax.imshow(
            spectrogram(samples),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=_FLOOR_DB,
            vmax=0.0,
            extent=(0.0, len(samples) / SAMPLE_RATE, 0.0, SAMPLE_RATE / 2000),
        )
        ax.set_title(title)
        ax.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
