"""`sotto bench image DIR`: rate, quality and times of our image codec and its peers."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from codec.arguments import add_device, count, number, positive, positive_count
from codec.console import note
from codec.errors import BadInput, SottoError
from codec.files import atomic_output
from codec.image.codec import EncodeSettings, ImageCodec
from codec.image.pictures import read_picture
from codec.image.presets import DEFAULT_IMAGE_PRESET, find_image_preset
from models.evaluation.image_systems import PEERS, ImageSystem, own_system, peers
from models.evaluation.rate_quality import Point, mean_at, mean_bd_rate, psnr
from models.image.distance import ms_ssim

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp", ".tif", ".tiff")
_QUALITIES = (15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
_CROP = 192


def main(argv: Sequence[str]) -> int:
    """Run it; argv without the program and subject. 0, 1 failed, 2 usage."""
    try:
        args = _parser().parse_args(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    try:
        _run(args)
    except SottoError as error:
        note(str(error))
        return 1
    except OSError as error:
        note(f"{error.filename or ''}: {error.strerror or error}")
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    files = sorted(p for p in args.folder.glob("*") if p.suffix.lower() in _SUFFIXES)
    files = files[: args.count] if args.count else files
    if not files:
        raise BadInput(f"no pictures in {args.folder}")
    # A preset of one rate is one point: it is measured beside the curve of the default.
    names = {"sotto": args.preset}
    if find_image_preset(args.preset).one_rate:
        names = {"sotto": DEFAULT_IMAGE_PRESET, args.preset: args.preset}
    codecs = {name: ImageCodec.load(preset, args.device) for name, preset in names.items()}
    settings = EncodeSettings(
        iterations=args.iterations, fast=args.fast, search=not args.no_search, tune=args.tune
    )
    # The first call compiles; its time is nobody's.
    ours = [own_system(name, codec, settings, args.qualities) for name, codec in codecs.items()]
    for system in ours:
        system.decode(system.encode(np.zeros((16, 16, 3), np.uint8), system.settings[0]))
    systems = [*ours, *peers(args.peers)]
    results: dict[str, list[Point]] = {system.name: [] for system in systems}
    for file in files:
        pixels = read_picture(str(file)).rgb
        for system in systems:
            results[system.name] += [
                measure(system, setting, file.name, pixels) for setting in system.settings
            ]
        note(f"{file.name} done")
    print(report(results, args.at))
    if args.json is not None:
        data = {name: [asdict(p) for p in points] for name, points in results.items()}
        with atomic_output(args.json) as target:
            target.write((json.dumps(data, indent=1) + "\n").encode())
    if args.curves is not None:
        draw_curves(results, args.curves)
    if args.crops is not None:
        draw_crops(systems, results, files[0], args.at, args.crops)


def measure(system: ImageSystem, setting: float, name: str, pixels: NDArray[np.uint8]) -> Point:
    """One picture [H, W, 3] through one codec."""
    begun = time.perf_counter()
    data = system.encode(pixels, setting)
    encoded = time.perf_counter()
    decoded = system.decode(data)
    ended = time.perf_counter()

    def tensor(x: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(x.copy()).permute(2, 0, 1)[None].double() / 255.0

    return Point(
        name,
        8.0 * len(data) / (pixels.shape[0] * pixels.shape[1]),
        psnr(pixels, decoded),
        float(ms_ssim(tensor(pixels), tensor(decoded))),
        encoded - begun,
        ended - encoded,
    )


def means(points: list[Point]) -> tuple[float, float]:
    """Mean PSNR and MS-SSIM of a codec at its only rate."""
    return float(np.mean([p.psnr for p in points])), float(np.mean([p.ms_ssim for p in points]))


def report(results: dict[str, list[Point]], at: float) -> str:
    """A table: quality at one mean rate, BD-rates of ours against each, mean times."""
    lines = [
        f"{'codec':<8} {'PSNR':>7} {'MS-SSIM':>8}   at {at} bpp on average"
        f"  {'encode s':>9} {'decode s':>9}   BD-rate of sotto: PSNR, MS-SSIM"
    ]
    own = results["sotto"]
    for name, points in results.items():
        alone = len({p.picture for p in points}) == len(points)
        score, similarity = means(points) if alone else mean_at(points, at)
        times = [float(np.mean([getattr(p, key) for p in points]))
                 for key in ("encode_s", "decode_s")]  # fmt: skip
        where = f"at {np.mean([p.bpp for p in points]):.3f} bpp" if alone else ""
        line = (
            f"{name:<8} {score:7.2f} {similarity:8.4f} {where:>22}{times[0]:9.2f} {times[1]:9.2f}"
        )
        if name != "sotto":
            gains = [100.0 * mean_bd_rate(own, points, key) for key in ("psnr", "ms_ssim")]
            line += "   " + ", ".join("none" if math.isnan(g) else f"{g:+.1f} %" for g in gains)
        lines.append(line)
    return "\n".join(lines)


def draw_curves(results: dict[str, list[Point]], path: str) -> None:
    """Mean PSNR and MS-SSIM (in dB) over the mean rate, as a PNG."""
    import io

    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for name, points in results.items():
        if len({p.picture for p in points}) == len(points):
            score, similarity = means(points)
            rate = float(np.mean([p.bpp for p in points]))
            axes[0].plot(rate, score, "o", label=name)
            axes[1].plot(rate, -10.0 * np.log10(1.0 - similarity), "o", label=name)
            continue
        low, high = min(p.bpp for p in points), max(p.bpp for p in points)
        rates = np.geomspace(max(low, 0.08), min(high, 1.2), 24)
        rows = np.array([mean_at(points, float(r)) for r in rates])
        axes[0].plot(rates, rows[:, 0], label=name)
        axes[1].plot(rates, -10.0 * np.log10(1.0 - rows[:, 1]), label=name)
    for ax, label in zip(axes, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        ax.set_xlabel("bits per pixel")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        ax.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    with atomic_output(path) as file:
        file.write(out.getvalue())


def draw_crops(
    systems: list[ImageSystem],
    results: dict[str, list[Point]],
    file: Path,
    at: float,
    path: str,
) -> None:
    """The middle of one picture by every codec at about the same rate, side by side, as a PNG."""
    import io

    pixels = read_picture(str(file)).rgb
    top = max((pixels.shape[0] - _CROP) // 2, 0)
    left = max((pixels.shape[1] - _CROP) // 2, 0)
    shown = [pixels]
    for system in systems:
        own = [p for p in results[system.name] if p.picture == file.name]
        best = min(range(len(own)), key=lambda k: abs(math.log(own[k].bpp / at)))
        shown.append(system.decode(system.encode(pixels, system.settings[best])))
    crops = [x[top : top + _CROP, left : left + _CROP] for x in shown]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(crops, axis=1)).save(out, "PNG")
    with atomic_output(path) as target:
        target.write(out.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto bench image",
        description="Bits per pixel, PSNR, MS-SSIM and times of the image codec and of the peers "
        "that are installed.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of pictures")
    add("--count", type=positive_count, metavar="N", help="the first N pictures only")
    add("--preset", default="photo", metavar="NAME", help="the model (default: photo)")
    add("--qualities", type=_numbers, default=_QUALITIES, metavar="Q,Q,...",
        help="rate points of ours (default: 15,30,...,90)")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of our search")
    add("--fast", action="store_true", help="a few steps only")
    add("--no-search", action="store_true", help="the encoder's output as it is")
    add("--tune", choices=("psnr", "ms-ssim", "visual"), default="psnr")
    add("--peers", type=_names, default=PEERS, metavar="NAME,...",
        help=f"of {', '.join(PEERS)} (default: all that are installed)")  # fmt: skip
    add("--at", type=positive, default=0.29, metavar="B", help="rate of the table (default: 0.29)")
    add_device(parser, "where sotto runs")
    add("--json", metavar="FILE", help="every measurement")
    add("--curves", metavar="PNG", help="rate-quality curves")
    add("--crops", metavar="PNG", help="the middle of the first picture by every codec")
    return parser


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(number(v) for v in text.split(","))
    if not values or not all(0 <= v <= 100 for v in values):
        raise argparse.ArgumentTypeError(f"{text} are not numbers from 0 to 100")
    return values


def _names(text: str) -> tuple[str, ...]:
    names = tuple(v for v in text.split(",") if v)
    if not set(names) <= set(PEERS):
        raise argparse.ArgumentTypeError(f"{text}: known are {', '.join(PEERS)}")
    return names
