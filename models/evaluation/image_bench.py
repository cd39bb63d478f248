"""`sotto bench image DIR`: rate, quality and times of our image codec and its peers."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codec.arguments import add_device, count, number, positive, positive_count
from codec.console import note
from codec.device import choose_device
from codec.errors import BadInput, SottoError
from codec.files.paths import atomic_output
from codec.image.base import ImageCodec
from codec.image.pictures import read_picture
from codec.image.presets import DEFAULT_IMAGE_PRESET, find_image_preset
from codec.image.settings import EncodeSettings
from models.evaluation.command import run_bench
from models.evaluation.image_figures import draw_crops, draw_curves
from models.evaluation.image_systems import (
    PEERS,
    ImageSystem,
    own_system,
    peers,
    rate_system,
)
from models.evaluation.rate_quality import Point, mean_at, mean_bd_rate, means, psnr, single
from models.networks.image_distance import ms_ssim

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp", ".tif", ".tiff")
# From below 0.15 to above 0.8 bits per pixel, in the mean of photographs like Kodak's.
_QUALITIES = (24.0, 38.0, 52.0, 66.0, 80.0, 96.0)
_SHOWN = 3  # pictures in the sheet of crops
_ALONE = "encoder"  # ours without the search


def main(argv: Sequence[str]) -> int:
    """Run it; see `run_bench`."""
    return run_bench(_parser(), argv, _run)


def _run(args: argparse.Namespace) -> None:
    files = sorted(p for p in args.folder.glob("*") if p.suffix.lower() in _SUFFIXES)
    files = files[: args.count] if args.count else files
    if not files:
        raise BadInput(f"no pictures in {args.folder}")
    plan = Systems(args)
    own = plan.load()
    results: dict[str, list[Point]] = {system.name: [] for system in own}
    jobs = min(args.jobs or _own_jobs(args.device), len(files))
    for file, found in zip(files, _measured(files, own, plan, jobs), strict=True):
        for name, points in found.items():
            results[name] += points
        note(f"{file.name} done")
    # Beside each other they wait for each other: times are those of pictures alone.
    timed = results
    if jobs > 1:
        timed = {s.name: _timed(s, results[s.name], files[: args.timed], args.at) for s in own}
    print(report(results, timed, args.at))
    if args.json is not None:
        parts = {"points": results, "timed": timed}
        data = {
            part: {name: [asdict(p) for p in points] for name, points in found.items()}
            for part, found in parts.items()
        }
        with atomic_output(args.json) as target:
            target.write((json.dumps(data, indent=1) + "\n").encode())
    if args.curves is not None:
        draw_curves(results, args.curves)
    if args.crops is not None:
        shown = [s for s in own if s.span is not None or (single(results[s.name]))]
        draw_crops(shown, files[:_SHOWN], args.at, args.crops)


def _own_jobs(device: str) -> int:
    """Pictures at a time, unless told: one per processor; a card is not for many processes."""
    return 1 if choose_device(device).type == "cuda" else os.cpu_count() or 1


@dataclass(frozen=True)
class Systems:
    """The codecs that a command line asks for; small, so that every process can load its own."""

    args: argparse.Namespace

    def load(self) -> list[ImageSystem]:
        """Ours, then the peers that are installed; everything is compiled afterwards."""
        args = self.args
        settings = EncodeSettings(
            iterations=args.iterations, fast=args.fast, search=not args.no_search, tune=args.tune
        )
        # A preset of one rate is one point: it is measured beside the curve of the default.
        one_rate = find_image_preset(args.preset).one_rate
        default = DEFAULT_IMAGE_PRESET if one_rate else args.preset
        codec = ImageCodec.load(default, args.device)
        ours = [own_system("sotto", codec, settings, args.qualities)]
        if settings.search:
            alone = replace(settings, search=False, fast=False, iterations=None)
            ours.append(own_system(_ALONE, codec, alone, args.qualities))
        ours.append(rate_system("sotto --bpp", codec, settings, args.at))
        if settings.search and not settings.fast and settings.iterations is None:
            fast = replace(settings, fast=True)
            ours.append(rate_system("sotto --fast", codec, fast, args.at))
        if one_rate:
            other = ImageCodec.load(args.preset, args.device)
            ours.append(own_system(args.preset, other, settings, args.qualities))
        for system in ours:
            # The first call compiles; its time is nobody's.
            grey = np.full((64, 64, 3), 128, np.uint8)
            system.decode(system.encode(grey, max(system.settings[0], 1.0)))
        return [*ours, *peers(args.peers)]


_systems: list[ImageSystem] = []  # of a worker process


def _start_worker(plan: Systems) -> None:
    torch.set_num_threads(1)
    _systems[:] = plan.load()


def _by_worker(file: Path) -> dict[str, list[Point]]:
    return _picture(file, _systems)


def _measured(
    files: list[Path], own: list[ImageSystem], plan: Systems, jobs: int
) -> Iterator[dict[str, list[Point]]]:
    """Every codec at every setting, picture by picture; with several jobs each on one thread."""
    if jobs == 1:
        yield from (_picture(file, own) for file in files)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (plan,)) as pool:
        try:
            yield from pool.map(_by_worker, files)
        except BrokenProcessPool:
            raise SottoError("a measuring process died; fewer --jobs need less memory") from None


def _picture(file: Path, systems: list[ImageSystem]) -> dict[str, list[Point]]:
    pixels = read_picture(str(file)).rgb
    return {
        system.name: [measure(system, s, file.name, pixels) for s in system.settings]
        for system in systems
    }


def _timed(system: ImageSystem, points: list[Point], files: list[Path], at: float) -> list[Point]:
    """A few pictures alone, at the setting whose mean rate is nearest to `at`."""
    count = len(system.settings)
    rates = [float(np.mean([p.bpp for p in points[k::count]])) for k in range(count)]
    nearest = min(range(count), key=lambda k: abs(math.log(rates[k] / at)))
    return [
        measure(system, system.settings[nearest], f.name, read_picture(str(f)).rgb) for f in files
    ]


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


def report(results: dict[str, list[Point]], timed: dict[str, list[Point]], at: float) -> str:
    """A table: quality at one mean rate, BD-rates of ours against each, mean times."""
    lines = [
        f"{'codec':<13} {'bpp':>6} {'PSNR':>6} {'MS-SSIM':>7}   encode  decode   "
        "BD-rate of sotto: PSNR, MS-SSIM"
    ]
    own = results["sotto"]
    for name, points in results.items():
        rate, score, similarity = means(points) if single(points) else (at, *mean_at(points, at))
        times = [float(np.mean([getattr(p, key) for p in timed[name]]))
                 for key in ("encode_s", "decode_s")]  # fmt: skip
        line = (
            f"{name:<13} {rate:6.4f} {score:6.2f} {similarity:7.4f} {times[0]:6.2f} s "
            f"{times[1]:5.2f} s"
        )
        if name != "sotto" and not single(points):
            gains = [100.0 * mean_bd_rate(own, points, key) for key in ("psnr", "ms_ssim")]
            line += "   " + ", ".join("none" if math.isnan(g) else f"{g:+.1f} %" for g in gains)
        lines.append(line)
    if _ALONE in results:
        gain = mean_at(own, at)[0] - mean_at(results[_ALONE], at)[0]
        if not math.isnan(gain):
            lines.append(f"the search gains {gain:.2f} dB at {at:g} bpp")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto bench image",
        description="Bits per pixel, PSNR, MS-SSIM and times of the image codec and of the peers "
        "that are installed.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of pictures")
    add("--count", type=positive_count, metavar="N", help="the first N pictures only")
    add("--preset", default="photo", metavar="NAME",
        help="the model (default: photo); one of a single rate is measured beside the default's "
        "curve")  # fmt: skip
    qualities = ",".join(f"{q:g}" for q in _QUALITIES)
    add("--qualities", type=_numbers, default=_QUALITIES, metavar="Q,Q,...",
        help=f"rate points of ours (default: {qualities})")  # fmt: skip
    add("--iterations", type=count, metavar="N", help="steps of our search")
    add("--fast", action="store_true", help="a few steps only")
    add("--no-search", action="store_true", help="the encoder's output as it is")
    add("--tune", choices=("psnr", "ms-ssim", "visual"), default="psnr")
    add("--peers", type=_names, default=PEERS, metavar="NAME,...",
        help=f"of {', '.join(PEERS)}, or none (default: all that are installed)")  # fmt: skip
    add("--at", type=positive, default=0.29, metavar="B", help="rate of the table (default: 0.29)")
    add_device(parser, "where sotto runs")
    add("--json", metavar="FILE", help="every measurement")
    add("--curves", metavar="PNG", help="rate-quality curves")
    add("--crops", metavar="PNG", help="crops of the first pictures by every codec")
    add("--jobs", type=positive_count, metavar="N",
        help="pictures at a time (default: one per processor; on a GPU one)")  # fmt: skip
    add("--timed", type=positive_count, default=3, metavar="N",
        help="pictures whose times are taken, alone (default: 3)")  # fmt: skip
    return parser


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(number(v) for v in text.split(","))
    if not values or not all(0 <= v <= 100 for v in values):
        raise argparse.ArgumentTypeError(f"{text} are not numbers from 0 to 100")
    return values


def _names(text: str) -> tuple[str, ...]:
    names = tuple(v for v in text.split(",") if v and text != "none")
    if not set(names) <= set(PEERS):
        raise argparse.ArgumentTypeError(f"{text}: known are {', '.join(PEERS)}")
    return names
