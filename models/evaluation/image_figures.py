"""The figures of the image benchmark: rate-quality curves, and crops of every codec."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from codec.errors import BadInput
from codec.files.paths import atomic_output
from codec.image.pictures import read_picture
from models.evaluation.image_systems import ImageSystem
from models.evaluation.rate_quality import Point, mean_at, means, psnr, single

_CROP = 256  # pixels
_LABEL = 22  # pixels above a row


def draw_curves(results: dict[str, list[Point]], path: str) -> None:
    """Mean PSNR and MS-SSIM (in dB) over the mean rate, as a PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for name, points in results.items():
        if single(points):
            rows, style = np.array([means(points)]), "o"
        else:
            low, high = min(p.bpp for p in points), max(p.bpp for p in points)
            rates = np.geomspace(max(low, 0.08), min(high, 1.2), 24)
            rows, style = np.array([(r, *mean_at(points, float(r))) for r in rates]), "-"
        axes[0].plot(rows[:, 0], rows[:, 1], style, label=name)
        axes[1].plot(rows[:, 0], -10.0 * np.log10(1.0 - rows[:, 2]), style, label=name)
    for ax, label in zip(axes, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        ax.set_xlabel("bits per pixel")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        ax.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    with atomic_output(path) as file:
        file.write(out.getvalue())


def draw_crops(systems: list[ImageSystem], files: list[Path], at: float, path: str) -> None:
    """The busiest part of each picture by every codec at most at one rate, as a PNG.

    A row per codec, the originals first; above every crop what it took and its PSNR.
    """
    pictures = [read_picture(str(file)).rgb for file in files]
    places = [_busiest(pixels) for pixels in pictures]
    rows = [[_cell(x[p], f.stem) for x, p, f in zip(pictures, places, files, strict=True)]]
    for system in systems:
        row = []
        for pixels, place in zip(pictures, places, strict=True):
            data = system.encode_at(pixels, at)
            decoded = system.decode(data)
            bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
            label = f"{system.name}  {bpp:.3f} bpp  {psnr(pixels, decoded):.2f} dB"
            row.append(_cell(decoded[place], label))
        rows.append(row)
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG")
    with atomic_output(path) as target:
        target.write(out.getvalue())


def _busiest(pixels: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Where the crop with the strongest edges lies."""
    brightness = pixels.astype(np.float32).mean(axis=2)
    edges = np.abs(np.diff(brightness, axis=0))[:, :-1] + np.abs(np.diff(brightness, axis=1))[:-1]
    sums = np.pad(edges.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = (min(_CROP, n) for n in edges.shape)
    inside = sums[height:, width:] - sums[:-height, width:]
    inside = inside - (sums[height:, :-width] - sums[:-height, :-width])
    top, left = (int(v) for v in np.unravel_index(inside.argmax(), inside.shape))
    return slice(top, top + _CROP), slice(left, left + _CROP)


def _cell(crop: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """A crop on white with its label above."""
    cell = Image.new("RGB", (_CROP + 6, _CROP + _LABEL), "white")
    cell.paste(Image.fromarray(np.ascontiguousarray(crop)), (3, _LABEL))
    ImageDraw.Draw(cell).text((4, 4), label, fill="black", font=ImageFont.load_default(13))
    return np.asarray(cell)
