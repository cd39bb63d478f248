"""Benchmark of preset ganz: PSNR over ratios beside wavelets, and compressive sensing.

Both use the middle 128x128 pixels of every picture, in up to three sets, like the paper's figures:
pictures that the generator was trained on, others like them, and others of another kind. A ratio is
N over the count of numbers kept: for GANZ the latents and, if their places are chosen, the places
at 32 bits per number; for wavelets the coefficients without their positions, as in the paper.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pywt
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.image.ganz import DEFAULT_RATIO, PIXELS, SIDE, GanzCodec
from codec.image.ganz_search import SGD_STEPS
from codec.image.pictures import read_picture
from codec.image.sensing import SenseSettings, Sensor
from codec.image.settings import EncodeSettings
from models.evaluation.image import find_pictures
from models.evaluation.plots import Line, Panel
from models.evaluation.rate_quality import psnr

RATIOS = (6.0, 10.0, 24.0, 48.0, 96.0, 192.0, 384.0, 768.0)
SHARES = (0.08, 0.2)
PRIORS: tuple[Literal["photo", "ganz"], ...] = ("photo", "ganz")
TRAIN, TEST, OTHER = "train", "test", "out-of-domain"  # the sets
GANZ, FIXED, CODED, DENSE, SGD, KEEP, NONE = (
    "ganz",
    "fixed",
    "coded",
    "dense",
    "sgd",
    "keep",
    "none",
)
WAVELETS = "wavelets"
# "dense", "keep" and "none" are the paper's (figure 3): a random, the trained, and no linear layer.
VARIANTS: dict[str, EncodeSettings] = {
    GANZ: EncodeSettings(),
    FIXED: EncodeSettings(places="fixed"),
    CODED: EncodeSettings(entropy="range"),
    DENSE: EncodeSettings(places="dense"),
    SGD: EncodeSettings(places="dense", method="sgd"),
    KEEP: EncodeSettings(places="keep"),
    NONE: EncodeSettings(places="none"),
}
_WAVELET = "db4"

Pixels = NDArray[np.uint8]
Note = Callable[[str], None]


@dataclass(frozen=True)
class GanzPoint:
    """One crop of one set coded by one codec at one ratio; bpp: of the file, NaN for wavelets."""

    pictures: str
    picture: str
    ratio: float
    psnr: float
    bpp: float
    encode_s: float


@dataclass(frozen=True)
class SensePoint:
    """One crop of one set recovered from M = share * N measurements."""

    pictures: str
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
    codecs: Sequence[GanzCodec],
    sets: Mapping[str, dict[str, Pixels]],
    ratios: Sequence[float] = RATIOS,
    variants: Sequence[str] = (GANZ, FIXED, CODED),
    *,
    steps: int | None = None,
    note: Note = lambda line: None,
) -> dict[str, list[GanzPoint]]:
    """Code all crops [128, 128, 3] at all ratios; returns points by codec, wavelets last.

    codecs: with one model each; where there are several, the names say which. variants: of
    `VARIANTS`; those with one number of latents are coded once.
    """
    labels = _labels(codecs)
    points: dict[str, list[GanzPoint]] = {}
    for pictures, crops in sets.items():
        for name, pixels in crops.items():
            for (codec, label), variant in itertools.product(labels, variants):
                key = f"{variant} {label}".rstrip()
                only = codec.form.only_count(VARIANTS[variant].places or "chosen")
                for ratio in ratios if only is None else [None]:
                    settings = replace(VARIANTS[variant], ratio=ratio, iterations=steps)
                    if variant == SGD and steps is not None:
                        settings = replace(settings, iterations=SGD_STEPS * steps)
                    begun = time.perf_counter()
                    data = codec.encode(pixels, settings)
                    spent = time.perf_counter() - begun
                    score, bpp = psnr(pixels, codec.decode(data)), 8.0 * len(data) / SIDE**2
                    kept = PIXELS / only if only is not None else ratio or DEFAULT_RATIO
                    point = GanzPoint(pictures, name, kept, score, bpp, spent)
                    points.setdefault(key, []).append(point)
            note(f"{name} coded")
    points[WAVELETS] = []
    for (pictures, crops), ratio in itertools.product(sets.items(), ratios):
        for name, pixels in crops.items():
            begun = time.perf_counter()
            drawn = keep_largest(pixels, int(PIXELS / ratio) // 3)
            spent = time.perf_counter() - begun
            point = GanzPoint(pictures, name, ratio, psnr(pixels, drawn), math.nan, spent)
            points[WAVELETS].append(point)
    return points


def _labels(codecs: Sequence[GanzCodec]) -> list[tuple[GanzCodec, str]]:
    """Each codec with what tells its model from the others: d_t, or else also the model id."""
    if len(codecs) == 1:
        return [(codecs[0], "")]
    sizes = [codec.model.shape.latents for codec in codecs]
    return [
        (codec, f"d_t={size}" + (f" {codec.model_id[:4]}" if sizes.count(size) > 1 else ""))
        for codec, size in zip(codecs, sizes, strict=True)
    ]


def sense(
    sets: Mapping[str, dict[str, Pixels]],
    counts: Sequence[int],
    priors: Sequence[Literal["photo", "ganz"]] = PRIORS,
    *,
    joint: bool = False,
    steps: int | None = None,
    device: str = "auto",
    model: Path | None = None,
    note: Note = lambda line: None,
) -> dict[str, list[SensePoint]]:
    """Recover all crops from `counts` measurements of each; returns points by prior.

    joint: measure all colours with one matrix; model: a folder to use in place of the shipped
    weights of the prior ganz.
    """
    points: dict[str, list[SensePoint]] = {}
    for count, prior in itertools.product(counts, priors):
        settings = SenseSettings(count, prior, steps=steps, joint=joint)
        sensor = Sensor(settings, device, model if prior == "ganz" else None)
        for pictures, crops in sets.items():
            for name, pixels in crops.items():
                begun = time.perf_counter()
                picture = sensor.sense(pixels)
                spent = time.perf_counter() - begun
                point = SensePoint(pictures, name, settings.share, psnr(pixels, picture), spent)
                points.setdefault(prior, []).append(point)
                note(f"{name} recovered from {count} measurements: {point.psnr:.2f} dB")
    return points


def report(found: dict[str, list[GanzPoint]]) -> str:
    """A table of means: PSNR of each codec at each ratio by set, bits per pixel, times."""
    sets = _sets(found)
    width = max(map(len, found))
    heads = "  ".join(f"{name:>13}" for name in sets)
    lines = [f"ratio  numbers  {'codec':<{width}}  {heads}    bpp  encode s"]
    ratios = sorted({p.ratio for points in found.values() for p in points})
    for ratio, (name, points) in itertools.product(ratios, found.items()):
        here = [p for p in points if p.ratio == ratio]
        if here:
            scores = "  ".join(f"{_mean_psnr(here, each):13.2f}" for each in sets)
            bpp = float(np.mean([p.bpp for p in here]))
            lines.append(
                f"{ratio:5g}  {int(PIXELS / ratio):7d}  {name:<{width}}  {scores}"
                f"  {'' if math.isnan(bpp) else f'{bpp:.2f}':>5}"
                f"  {np.mean([p.encode_s for p in here]):8.2f}"
            )
    return "\n".join(lines)


def sense_report(sensed: dict[str, list[SensePoint]]) -> str:
    """A table: mean PSNR of each prior at each number of measurements by set; lowest; times."""
    sets = _sets(sensed)
    heads = "  ".join(f"{name:>13}" for name in sets)
    lines = [f"    M   M/N  prior  {heads}  lowest  seconds"]
    shares = sorted({p.share for points in sensed.values() for p in points})
    for share, (prior, points) in itertools.product(shares, sensed.items()):
        here = [p for p in points if p.share == share]
        scores = "  ".join(f"{_mean_psnr(here, each):13.2f}" for each in sets)
        lines.append(
            f"{round(share * PIXELS):5d}  {share:.2f}  {prior:<5}  {scores}"
            f"  {min(p.psnr for p in here):6.2f}  {np.mean([p.seconds for p in here]):7.1f}"
        )
    return "\n".join(lines)


def _sets(found: Mapping[str, Sequence[GanzPoint | SensePoint]]) -> list[str]:
    return list(dict.fromkeys(p.pictures for points in found.values() for p in points))


def _mean_psnr(points: Sequence[GanzPoint | SensePoint], pictures: str) -> float:
    return float(np.mean([p.psnr for p in points if p.pictures == pictures]))


def as_dict(
    found: dict[str, list[GanzPoint]], sensed: dict[str, list[SensePoint]]
) -> dict[str, Any]:
    """Every measurement, as plain values."""
    return {
        "compression": {name: [asdict(p) for p in points] for name, points in found.items()},
        "sensing": {name: [asdict(p) for p in points] for name, points in sensed.items()},
    }


def panels(found: dict[str, list[GanzPoint]]) -> list[Panel]:
    """Mean PSNR over the ratio, for each set."""
    ticks = {ratio: f"{ratio:g}" for ratio in RATIOS}
    made = []
    for pictures in _sets(found):
        lines = []
        for name, points in found.items():
            ratios = sorted({p.ratio for p in points})
            scores = [_mean_psnr([p for p in points if p.ratio == r], pictures) for r in ratios]
            lines.append(Line(name, ratios, scores, style={"marker": "o"}))
        made.append(
            Panel(lines, "ratio: N / numbers kept", "PSNR (dB)", title=pictures, ticks=ticks)
        )
    return made


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
