"""Benchmark of preset ganz: PSNR over ratios compared with wavelets, and compressive sensing.

Both use the middle 128x128 pixels of every picture. A ratio is N over the count of numbers kept:
for GANZ the latents and, if their places are chosen, the places at 32 bits per number; for wavelets
the coefficients without their positions, as in the paper.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pywt
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.image.base import ImageCodec
from codec.image.ganz import PIXELS, SIDE
from codec.image.pictures import read_picture
from codec.image.sensing import SenseSettings, Sensor
from codec.image.settings import EncodeSettings
from models.evaluation.image import find_pictures
from models.evaluation.plots import Line, Panel
from models.evaluation.rate_quality import psnr

RATIOS = (6.0, 10.0, 24.0, 48.0, 96.0, 192.0, 384.0, 768.0)
SHARES = (0.08, 0.2)
PRIORS: tuple[Literal["photo", "ganz"], ...] = ("photo", "ganz")
GANZ, FIXED, CODED, WAVELETS = "ganz", "fixed", "coded", "wavelets"
_WAVELET = "db4"

Pixels = NDArray[np.uint8]
Note = Callable[[str], None]


@dataclass(frozen=True)
class GanzPoint:
    """One crop coded by one codec at one ratio; bpp: of the file, NaN for wavelets."""

    picture: str
    ratio: float
    psnr: float
    bpp: float
    encode_s: float


@dataclass(frozen=True)
class SensePoint:
    """One crop recovered from M = share * N measurements."""

    picture: str
    share: float
    psnr: float
    seconds: float


def middle_crops(folder: Path, count: int | None, note: Note) -> dict[str, Pixels]:
    """The middle [128, 128, 3] of the pictures in a folder, by name. Raises BadInput if none."""
    crops: dict[str, Pixels] = {}
    for file in find_pictures(folder):
        if count is not None and len(crops) >= count:
            break
        picture = read_picture(str(file))
        if min(picture.height, picture.width) < SIDE:
            note(f"{file.name} is smaller than {SIDE}x{SIDE} pixels and left out")
            continue
        top, left = (picture.height - SIDE) // 2, (picture.width - SIDE) // 2
        crops[file.name] = picture.rgb[top : top + SIDE, left : left + SIDE].copy()
    if not crops:
        raise BadInput(f"no pictures of at least {SIDE}x{SIDE} pixels in {folder}")
    return crops


def compress(
    codec: ImageCodec,
    crops: dict[str, Pixels],
    ratios: Sequence[float] = RATIOS,
    *,
    steps: int | None = None,
    note: Note = lambda line: None,
) -> dict[str, list[GanzPoint]]:
    """Code all crops [128, 128, 3] with all codecs at all ratios; returns points by codec."""
    points: dict[str, list[GanzPoint]] = {GANZ: [], FIXED: [], CODED: [], WAVELETS: []}
    for name, pixels in crops.items():
        for ratio in ratios:
            for variant in (GANZ, FIXED, CODED):
                settings = EncodeSettings(
                    ratio=ratio,
                    iterations=steps,
                    entropy="range" if variant == CODED else None,
                    places="fixed" if variant == FIXED else None,
                )
                begun = time.perf_counter()
                data = codec.encode(pixels, settings)
                spent = time.perf_counter() - begun
                score, bpp = psnr(pixels, codec.decode(data)), 8.0 * len(data) / (SIDE * SIDE)
                points[variant].append(GanzPoint(name, ratio, score, bpp, spent))
            begun = time.perf_counter()
            drawn = keep_largest(pixels, int(PIXELS / ratio) // 3)
            spent = time.perf_counter() - begun
            point = GanzPoint(name, ratio, psnr(pixels, drawn), math.nan, spent)
            points[WAVELETS].append(point)
        note(f"{name} coded")
    return points


def sense(
    crops: dict[str, Pixels],
    shares: Sequence[float] = SHARES,
    priors: Sequence[Literal["photo", "ganz"]] = PRIORS,
    *,
    steps: int | None = None,
    device: str = "auto",
    model: Path | None = None,
    note: Note = lambda line: None,
) -> dict[str, list[SensePoint]]:
    """Recover all crops from few measurements; returns points by prior.

    model: a folder to use in place of the shipped weights of the prior ganz.
    """
    points: dict[str, list[SensePoint]] = {}
    for share in shares:
        for prior in priors:
            settings = SenseSettings(measurements=int(share * PIXELS), prior=prior, steps=steps)
            sensor = Sensor(settings, device, model if prior == "ganz" else None)
            for name, pixels in crops.items():
                begun = time.perf_counter()
                picture = sensor.sense(pixels)
                spent = time.perf_counter() - begun
                point = SensePoint(name, share, psnr(pixels, picture), spent)
                points.setdefault(prior, []).append(point)
                note(f"{name} recovered from {share:g} N measurements: {point.psnr:.2f} dB")
    return points


def report(found: dict[str, list[GanzPoint]]) -> str:
    """A table of means: PSNR of each codec over ratios, bits per pixel, times."""
    heads = "  ".join(f"{name:>10}" for name in found)
    lines = [f"ratio  numbers  {heads}   bpp floats  coded  encode s"]
    for ratio in sorted({p.ratio for p in found[GANZ]}):
        scores = "  ".join(f"{_mean(points, 'psnr', ratio):10.2f}" for points in found.values())
        lines.append(
            f"{ratio:5g}  {int(PIXELS / ratio):7d}  {scores}"
            f"   {_mean(found[GANZ], 'bpp', ratio):10.2f}"
            f"  {_mean(found[CODED], 'bpp', ratio):5.2f}"
            f"  {_mean(found[GANZ], 'encode_s', ratio):8.2f}"
        )
    return "\n".join(lines)


def sense_report(sensed: dict[str, list[SensePoint]]) -> str:
    """A table: mean and lowest PSNR of each prior at each share of measurements."""
    lines = [" M/N  prior   mean PSNR  lowest  seconds"]
    for share in sorted({p.share for points in sensed.values() for p in points}):
        for prior, points in sensed.items():
            scores = [p.psnr for p in points if p.share == share]
            seconds = np.mean([p.seconds for p in points if p.share == share])
            lines.append(
                f"{share:4g}  {prior:<6} {np.mean(scores):10.2f} {min(scores):7.2f} {seconds:8.1f}"
            )
    return "\n".join(lines)


def as_dict(
    found: dict[str, list[GanzPoint]], sensed: dict[str, list[SensePoint]]
) -> dict[str, Any]:
    """Every measurement, as plain values."""
    return {
        "compression": {name: [asdict(p) for p in points] for name, points in found.items()},
        "sensing": {name: [asdict(p) for p in points] for name, points in sensed.items()},
    }


def panel(found: dict[str, list[GanzPoint]]) -> Panel:
    """Mean PSNR over the ratio."""
    lines = []
    for name, points in found.items():
        ratios = sorted({p.ratio for p in points})
        scores = [_mean(points, "psnr", ratio) for ratio in ratios]
        lines.append(Line(name, ratios, scores, style={"marker": "o"}))
    ticks = {ratio: f"{ratio:g}" for ratio in RATIOS}
    return Panel(lines, "ratio: N / numbers kept", "PSNR (dB)", ticks=ticks)


def _mean(points: Sequence[GanzPoint], key: str, ratio: float) -> float:
    return float(np.mean([getattr(p, key) for p in points if p.ratio == ratio]))


def keep_largest(pixels: Pixels, count: int) -> Pixels:
    """A picture [H, W, 3] from the `count` largest Daubechies-4 coefficients of each colour.

    The baseline of the GANZ paper (section 3.4): periodic, with as many levels as the sides allow.
    """
    planes = []
    for plane in np.moveaxis(pixels.astype(np.float64), 2, 0):
        with warnings.catch_warnings():
            # PyWavelets warns that this is too deep, but it helps with few coefficients.
            warnings.simplefilter("ignore", UserWarning)
            parts = pywt.wavedec2(plane, _WAVELET, "periodization", _depth(plane.shape))
        values, layout = pywt.coeffs_to_array(parts)
        order = np.argsort(-np.abs(values), axis=None, kind="stable")
        kept = np.zeros_like(values)
        kept.flat[order[:count]] = values.flat[order[:count]]
        parts = pywt.array_to_coeffs(kept, layout, "wavedec2")
        planes.append(pywt.waverec2(parts, _WAVELET, "periodization"))
    whole = np.stack(planes, axis=2)[: pixels.shape[0], : pixels.shape[1]]
    return np.rint(whole.clip(0.0, 255.0)).astype(np.uint8)


def _depth(shape: tuple[int, ...]) -> int:
    depth = 0
    while all(side % (2 << depth) == 0 for side in shape):
        depth += 1
    return max(depth, 1)
