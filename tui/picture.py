"""Spectrograms of a signal before and after coding, one above the other, as a PNG.

Importing this takes matplotlib; where that is not installed it raises BadInput.
"""

from __future__ import annotations

import io

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE, FloatArray
from tui.app.colormap import colours
from tui.pages.spectrograms import SHOWN_DB, spectrogram

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error


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
            cmap=ListedColormap(colours(256) / 255),
            vmin=SHOWN_DB[0],
            vmax=SHOWN_DB[1],
            extent=(0.0, len(samples) / SAMPLE_RATE, 0.0, SAMPLE_RATE / 2000),
        )
        ax.set_title(title)
        ax.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB", extend="both")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
