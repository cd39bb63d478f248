"""Benchmark of image codecs: rate, quality and times of sotto and of the installed peers."""

from __future__ import annotations

import contextlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from codec.device import choose_device
from codec.errors import BadInput, SottoError
from codec.files.paths import APPLE_DOUBLE, display_name
from codec.image.base import ImageCodec
from codec.image.pictures import read_picture
from codec.image.presets import DEFAULT_IMAGE_PRESET, find_image_preset
from codec.image.settings import EncodeSettings
from models.evaluation.classifiers import Classifier, agreement, load_classifier
from models.evaluation.image_codecs import PEERS, MeasuredCodec, own_codec, peers
from models.evaluation.image_results import OURS, UNSEARCHED, Results
from models.evaluation.rate_quality import Point, psnr, single
from models.networks.image_distance import ms_ssim
from models.workers.pool import for_each
from models.workers.processes import Processes
from models.workers.worker import Failed

if TYPE_CHECKING:
    from codec.image.presets import Tune
    from codec.search.methods import Method

# From below 0.15 to above 0.8 bits per pixel, on average for photographs like Kodak's.
QUALITIES = (14.0, 26.0, 38.0, 50.0, 62.0, 80.0)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp", ".tif", ".tiff")
_SHOWN_SIDE = 1024  # pixels
_CROP = 256  # pixels
_LABEL = 22  # pixels above a row of crops


@dataclass(frozen=True)
class Settings:
    """The codecs that are measured, and how; small, so that every process can load its own.

    model: a folder in place of the preset's own; qualities: rate points of sotto; at: bits per
    pixel of the table; classifier: a name or a file for `load_classifier`.
    """

    preset: str = DEFAULT_IMAGE_PRESET
    model: Path | None = None
    qualities: Sequence[float] = QUALITIES
    iterations: int | None = None
    fast: bool = False
    search: bool = True
    method: Method | None = None
    tune: Tune = "psnr"
    peers: Sequence[str] = PEERS
    at: float = 0.29
    device: str = "auto"
    classifier: str | None = None

    def load(self) -> list[MeasuredCodec]:
        """Load and warm up sotto's codecs, then the installed peers."""
        settings = EncodeSettings(
            iterations=self.iterations, fast=self.fast, search=self.search, tune=self.tune,
            method=self.method,
        )  # fmt: skip
        # A preset with one rate is a single point, measured along with the default's curve.
        one_rate = find_image_preset(self.preset).one_rate
        default = DEFAULT_IMAGE_PRESET if one_rate else self.preset
        codec = ImageCodec.load(default, self.device, None if one_rate else self.model)
        ours = [own_codec(OURS, codec, settings, self.qualities)]
        if settings.search:
            unsearched = replace(settings, search=False, fast=False, iterations=None)
            ours.append(own_codec(UNSEARCHED, codec, unsearched, self.qualities))
        ours.append(own_codec("sotto --bpp", codec, settings, [self.at], "bpp"))
        if settings.search and not settings.fast and settings.iterations is None:
            fast = replace(settings, fast=True)
            ours.append(own_codec("sotto --fast", codec, fast, [self.at], "bpp"))
        if one_rate:
            other = ImageCodec.load(self.preset, self.device, self.model)
            ours.append(own_codec(self.preset, other, settings, self.qualities))
        for each in ours:
            # The first call compiles, which must not be timed.
            grey = np.full((64, 64, 3), 128, np.uint8)
            each.decode(each.encode(grey, max(each.settings[0], 1.0)))
        return [*ours, *peers(self.peers)]

    def load_classifier(self) -> Classifier | None:
        """Load the classifier that was asked for. Raises BadInput."""
        return None if self.classifier is None else load_classifier(self.classifier)

    def default_jobs(self) -> int:
        """Pictures at a time: one per processor, or one if a GPU is used."""
        return 1 if choose_device(self.device).type == "cuda" else os.cpu_count() or 1


@dataclass(frozen=True)
class Shown:
    """A picture as one codec decodes it: figures of the whole, pixels [h, w, 3] of a part."""

    codec: str
    bpp: float
    psnr: float
    ms_ssim: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """A picture of width x height pixels, coded by every codec at or below one rate, to be seen.

    original [h, w, 3]: what is shown of it, the part at `left`, `top`; decoded: the same part.
    """

    picture: str
    width: int
    height: int
    left: int
    top: int
    original: NDArray[np.uint8]
    decoded: list[Shown]


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name. Raises BadInput if there are none."""
    files = sorted(
        file
        for file in folder.glob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(APPLE_DOUBLE)
    )
    if not files:
        raise BadInput(f"no pictures in {folder}")
    return files


def run(
    files: Sequence[Path],
    settings: Settings,
    *,
    jobs: int | None = None,
    timed: int = 3,
    done: Callable[[str], None] = lambda name: None,
    show: Callable[[Comparison], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Results:
    """Measure all codecs on all pictures, `jobs` at a time; done: called with each picture's name.

    timed: pictures that are timed one at a time afterwards, if there are several jobs; show: gets
    each picture as the codecs decode it, which are not kept; tell: gets notes on how a picture was
    read. Raises SottoError if a picture cannot be measured.
    """
    classifier = settings.load_classifier()  # what is wrong with it is found before all else
    codecs = settings.load()
    jobs = min(jobs or settings.default_jobs(), len(files))
    points: dict[str, list[Point]] = {codec.name: [] for codec in codecs}
    measured = _measured(files, _Tools(codecs, classifier), settings, jobs, show is not None)
    for file, (found, comparison, notes) in zip(files, measured, strict=True):
        for line in notes:
            tell(line)
        for name, part in found.items():
            points[name] += part
        if show is not None and comparison is not None:
            show(comparison)
        done(file.name)
    # Jobs slow each other down, so a few pictures are timed alone.
    alone = points
    if jobs > 1:
        alone = {c.name: _timed(c, points[c.name], files[:timed], settings.at) for c in codecs}
    return Results(codecs, points, alone, settings.at)


@dataclass(frozen=True)
class _Tools:
    """What a process measures with."""

    codecs: list[MeasuredCodec]
    classifier: Classifier | None


# The points of every codec, what is to be seen, and notes on how the picture was read.
_Measured = tuple[dict[str, list[Point]], Comparison | None, list[str]]


def _opened(settings: Settings, at: float | None) -> Callable[[Path], _Measured]:
    """In a worker: what measures a picture."""
    tools = _Tools(settings.load(), settings.load_classifier())
    return partial(_picture, tools=tools, at=at)


def _measured(
    files: Sequence[Path],
    tools: _Tools,
    settings: Settings,
    jobs: int,
    shown: bool,
) -> Iterator[_Measured]:
    """Every codec at every setting, picture by picture; several jobs run on one thread each."""
    at = settings.at if shown else None
    if jobs == 1:
        yield from (_picture(file, tools, at) for file in files)
        return
    with contextlib.closing(Processes(partial(_opened, settings, at), jobs)) as pool:
        for file, result in zip(files, for_each(pool, files), strict=True):
            if isinstance(result, Failed):
                raise SottoError(f"{display_name(file)} was not measured: {result.reason}")
            yield result


def _picture(file: Path, tools: _Tools, at: float | None) -> _Measured:
    """All points of a picture, and how it looks at a rate; at: None if nobody looks."""
    picture = read_picture(str(file))
    pixels, notes = picture.rgb, picture.notes
    points: dict[str, list[Point]] = {}
    whole = slice(0, None), slice(0, None)
    place = whole if at is None else _busiest(pixels, _SHOWN_SIDE)
    shown = []
    classifier = tools.classifier
    seen = None if classifier is None else classifier.ranking(pixels)
    for codec in tools.codecs:
        points[codec.name] = found = []
        for setting in codec.settings:
            point, decoded = _code(codec, setting, file.name, pixels)
            if classifier is not None and seen is not None:
                top1, top5 = agreement(seen, classifier.ranking(decoded))
                point = replace(point, top1=top1, top5=top5)
            found.append(point)
        if at is None:
            continue
        if codec.span is not None:
            data = codec.encode_at(pixels, at)
            decoded = codec.decode(data)
            scores = _bits_per_pixel(data, pixels), *_likeness(pixels, decoded)
        elif len(found) == 1:
            scores = point.bpp, point.psnr, point.ms_ssim
        else:  # a curve without a rate of its own; the same codec is measured at `at`, too
            continue
        shown.append(Shown(codec.name, *scores, np.ascontiguousarray(decoded[place])))
    if at is None:
        return points, None, notes
    (height, width), (top, left) = pixels.shape[:2], (each.start for each in place)
    original = np.ascontiguousarray(pixels[place])
    comparison = Comparison(file.name, width, height, left, top, original, shown)
    return points, comparison, notes


def _timed(
    codec: MeasuredCodec, points: list[Point], files: Sequence[Path], at: float
) -> list[Point]:
    """Measure a few pictures alone, at the setting whose mean rate is nearest to `at`."""
    count = len(codec.settings)
    rates = [float(np.mean([p.bpp for p in points[k::count]])) for k in range(count)]
    nearest = min(range(count), key=lambda k: abs(math.log(rates[k] / at)))
    return [
        measure(codec, codec.settings[nearest], f.name, read_picture(str(f)).rgb) for f in files
    ]


def measure(codec: MeasuredCodec, setting: float, name: str, pixels: NDArray[np.uint8]) -> Point:
    """Code and decode one picture [H, W, 3] with one codec."""
    return _code(codec, setting, name, pixels)[0]


def _code(
    codec: MeasuredCodec, setting: float, name: str, pixels: NDArray[np.uint8]
) -> tuple[Point, NDArray[np.uint8]]:
    """The measurements of one picture [H, W, 3], and the picture decoded."""
    begun = time.perf_counter()
    data = codec.encode(pixels, setting)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    ended = time.perf_counter()
    likeness = _likeness(pixels, decoded)
    rate = _bits_per_pixel(data, pixels)
    return Point(name, rate, *likeness, encoded - begun, ended - encoded), decoded


def _likeness(pixels: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR and MS-SSIM."""

    def tensor(x: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(x.copy()).permute(2, 0, 1)[None].double() / 255.0

    return psnr(pixels, decoded), float(ms_ssim(tensor(pixels), tensor(decoded)))


def _bits_per_pixel(data: bytes, pixels: NDArray[np.uint8]) -> float:
    return 8.0 * len(data) / (pixels.shape[0] * pixels.shape[1])


def crops(results: Results, files: Sequence[Path]) -> bytes:
    """The busiest part of each picture, coded by every codec at or below one rate, as a PNG.

    A row per codec, the originals first; each crop is labelled with its rate and PSNR.
    """
    pictures = [read_picture(str(file)).rgb for file in files]
    places = [_busiest(pixels) for pixels in pictures]
    rows = [[_cell(x[p], f.stem) for x, p, f in zip(pictures, places, files, strict=True)]]
    for codec in results.codecs:
        if codec.span is None and not single(results.points[codec.name]):
            continue
        row = []
        for pixels, place in zip(pictures, places, strict=True):
            data = codec.encode_at(pixels, results.at)
            decoded = codec.decode(data)
            label = (
                f"{codec.name}  {_bits_per_pixel(data, pixels):.3f} bpp  "
                f"{psnr(pixels, decoded):.2f} dB"
            )
            row.append(_cell(decoded[place], label))
        rows.append(row)
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG")
    return out.getvalue()


def _busiest(pixels: NDArray[np.uint8], side: int = _CROP) -> tuple[slice, slice]:
    """The position of the crop of up to side x side pixels with the strongest edges."""
    if pixels.shape[0] <= side and pixels.shape[1] <= side:
        return slice(0, pixels.shape[0]), slice(0, pixels.shape[1])
    brightness = pixels.astype(np.float32).mean(axis=2)
    edges = np.abs(np.diff(brightness, axis=0))[:, :-1] + np.abs(np.diff(brightness, axis=1))[:-1]
    sums = np.pad(edges.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = (min(side, n) for n in edges.shape)
    inside = sums[height:, width:] - sums[:-height, width:]
    inside = inside - (sums[height:, :-width] - sums[:-height, :-width])
    top, left = (int(v) for v in np.unravel_index(inside.argmax(), inside.shape))
    return slice(top, top + side), slice(left, left + side)


def _cell(crop: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """A crop on white with its label above."""
    cell = Image.new("RGB", (_CROP + 6, _CROP + _LABEL), "white")
    cell.paste(Image.fromarray(np.ascontiguousarray(crop)), (3, _LABEL))
    ImageDraw.Draw(cell).text((4, 4), label, fill="black", font=ImageFont.load_default(13))
    return np.asarray(cell)
