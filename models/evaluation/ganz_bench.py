"""`sotto bench ganz DIR`: GANZ beside its wavelet baseline over ratios, and compressive sensing.

All on the middle 128x128 pixels of every picture. A ratio is N over the numbers kept: for GANZ the
latents, and 32 bits of their places each where these are chosen; for wavelets the coefficients,
whose places are not counted, as in the paper.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.arguments import add_device, count, positive, positive_count
from codec.console import note
from codec.errors import BadInput
from codec.files.paths import atomic_output
from codec.image.base import ImageCodec
from codec.image.ganz import PIXELS, RATIOS, SIDE
from codec.image.pictures import read_picture
from codec.image.sensing import SenseSettings, Sensor
from codec.image.settings import EncodeSettings
from models.evaluation.command import run_bench
from models.evaluation.rate_quality import psnr
from models.evaluation.wavelets import keep_largest

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp", ".tif", ".tiff")
_RATIOS = (6.0, 10.0, 24.0, 48.0, 96.0, 192.0, 384.0, 768.0)
_SHARES = (0.08, 0.2)
GANZ, FIXED, CODED, WAVELETS = "ganz", "fixed", "coded", "wavelets"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class GanzPoint:
    """One crop through one system at one ratio; bpp: of the file, NaN for wavelets."""

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


def main(argv: Sequence[str]) -> int:
    """Run it; see `run_bench`."""
    return run_bench(_parser(), argv, _run)


def _run(args: argparse.Namespace) -> None:
    crops = middle_crops(args.folder, args.count)
    found: dict[str, list[GanzPoint]] = {}
    sensed: dict[str, list[SensePoint]] = {}
    if args.ratios:
        codec = ImageCodec.load("ganz", args.device)
        for name, pixels in crops.items():
            for system, points in measure(codec, name, pixels, args.ratios, args.iterations):
                found.setdefault(system, []).append(points)
            note(f"{name} coded")
        print(report(found))
    for share in args.sense:
        for prior in args.priors:
            settings = SenseSettings(
                measurements=int(share * PIXELS), prior=prior, steps=args.sense_steps
            )
            sensor = Sensor(settings, args.device)
            for name, pixels in crops.items():
                begun = time.perf_counter()
                picture = sensor.sense(pixels)
                spent = time.perf_counter() - begun
                point = SensePoint(name, share, psnr(pixels, picture), spent)
                sensed.setdefault(prior, []).append(point)
                note(f"{name} recovered from {share:g} N measurements: {point.psnr:.2f} dB")
    if sensed:
        print(sense_report(sensed))
    if args.json is not None:
        data = {
            "compression": {name: [asdict(p) for p in points] for name, points in found.items()},
            "sensing": {name: [asdict(p) for p in points] for name, points in sensed.items()},
        }
        text = json.dumps(data, indent=1).replace("NaN", "null")
        with atomic_output(args.json) as target:
            target.write((text + "\n").encode())
    if args.curves is not None:
        draw_curves(found, args.curves)


def middle_crops(folder: Path, count: int | None) -> dict[str, Pixels]:
    """The middle [128, 128, 3] of the pictures in a folder, by name. Raises BadInput if none."""
    crops: dict[str, Pixels] = {}
    for file in sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES):
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


def measure(
    codec: ImageCodec, name: str, pixels: Pixels, ratios: Sequence[float], steps: int | None
) -> list[tuple[str, GanzPoint]]:
    """One crop [128, 128, 3] through all systems at all ratios."""
    points = []
    for ratio in ratios:
        for system in (GANZ, FIXED, CODED):
            settings = EncodeSettings(
                ratio=ratio, iterations=steps, entropy="range" if system == CODED else None,
                places="fixed" if system == FIXED else None,
            )  # fmt: skip
            begun = time.perf_counter()
            data = codec.encode(pixels, settings)
            spent = time.perf_counter() - begun
            score = psnr(pixels, codec.decode(data))
            bpp = 8.0 * len(data) / (SIDE * SIDE)
            points.append((system, GanzPoint(name, ratio, score, bpp, spent)))
        begun = time.perf_counter()
        drawn = keep_largest(pixels, int(PIXELS / ratio) // 3)
        spent = time.perf_counter() - begun
        points.append((WAVELETS, GanzPoint(name, ratio, psnr(pixels, drawn), math.nan, spent)))
    return points


def report(found: dict[str, list[GanzPoint]]) -> str:
    """A table of means: PSNR of each system over ratios, bits per pixel, times."""
    lines = [
        "ratio  numbers  " + "  ".join(f"{name:>10}" for name in found)
        + "   bpp floats  coded  encode s"
    ]  # fmt: skip
    for ratio in sorted({p.ratio for p in found[GANZ]}):
        means = {name: _mean(points, "psnr", ratio) for name, points in found.items()}
        lines.append(
            f"{ratio:5g}  {int(PIXELS / ratio):7d}  "
            + "  ".join(f"{value:10.2f}" for value in means.values())
            + f"   {_mean(found[GANZ], 'bpp', ratio):10.2f}"
            + f"  {_mean(found[CODED], 'bpp', ratio):5.2f}"
            + f"  {_mean(found[GANZ], 'encode_s', ratio):8.2f}"
        )
    return "\n".join(lines)


def _mean(points: Sequence[GanzPoint], key: str, ratio: float) -> float:
    return float(np.mean([getattr(p, key) for p in points if p.ratio == ratio]))


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


def draw_curves(found: dict[str, list[GanzPoint]], path: str) -> None:
    """Mean PSNR over the ratio, as a PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in found.items():
        ratios = sorted({p.ratio for p in points})
        axes.plot(ratios, [_mean(points, "psnr", r) for r in ratios], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xticks(list(_RATIOS), [f"{r:g}" for r in _RATIOS])
    axes.minorticks_off()
    axes.set_xlabel("ratio: N / numbers kept")
    axes.set_ylabel("PSNR (dB)")
    axes.grid(alpha=0.3)
    if found:
        axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    with atomic_output(path) as file:
        file.write(out.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto bench ganz",
        description="PSNR of the ganz preset and of Daubechies-4 wavelets over compression ratios, "
        "and of compressive sensing, on the middle 128x128 pixels of pictures.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of pictures")
    add("--count", type=positive_count, metavar="N", help="the first N pictures only")
    add("--ratios", type=_numbers(*RATIOS), default=_RATIOS, metavar="R,R,...",
        help="6 to 768 (default: 6,10,24,48,96,192,384,768; none: '')")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of the search")
    add("--sense", type=_numbers(0.001, 1 / 3), default=_SHARES, metavar="S,S,...",
        help="measurements for compressive sensing, M/N (default: 0.08,0.2; none: '')")  # fmt: skip
    add("--priors", type=_names, default=("photo", "ganz"), metavar="NAME,...",
        help="what it knows of pictures: photo, ganz (default: both)")  # fmt: skip
    add("--sense-steps", type=positive_count, metavar="N", help="steps of its search")
    add_device(parser)
    add("--json", metavar="FILE", help="every measurement")
    add("--curves", metavar="PNG", help="PSNR over the ratio")
    return parser


def _numbers(low: float, high: float) -> Callable[[str], tuple[float, ...]]:
    def check(text: str) -> tuple[float, ...]:
        values = tuple(positive(part) for part in text.split(",") if part)
        if not all(low <= value <= high for value in values):
            raise argparse.ArgumentTypeError(f"{text} are not numbers from {low:g} to {high:g}")
        return values

    return check


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part for part in text.split(",") if part)
    if not names or not set(names) <= {"photo", "ganz"}:
        raise argparse.ArgumentTypeError(f"{text}: known are photo and ganz")
    return names
