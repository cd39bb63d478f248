"""The page of `sotto bench image`: figures, curves, and every picture before and after coding."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.evaluation import tables
from models.evaluation.image import Comparison, Settings
from models.evaluation.image_results import Results, Row
from models.evaluation.rate_quality import similarity_in_db, single
from tui.pages.site import Site

AMPLIFICATION = 8  # of the difference view, by assets/image.css
_RESULTS = "results.json"
_OWN = "sotto"


class ImagePage:
    """Takes the pictures while they are measured, and writes the page when all is known."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pictures: list[dict[str, Any]] = []

    def show(self, comparison: Comparison) -> None:
        """Add a picture. Its pixels are stored losslessly, and not kept."""
        number = len(self._pictures) + 1
        height, width = comparison.original.shape[:2]
        plates = [_plate("original")]
        for each in comparison.decoded:
            plate = _plate(each.codec, each.bpp, each.psnr, each.ms_ssim)
            plates.append(plate)
        parts = [comparison.original, *(each.pixels for each in comparison.decoded)]
        for k, (plate, pixels) in enumerate(zip(plates, parts, strict=True)):
            plate["file"] = f"pictures/{number:03d}-{k}.webp"
            self._site.write(plate["file"], lossless(pixels))
        whole = (width, height) == (comparison.width, comparison.height)
        self._pictures.append(
            {
                "name": comparison.picture,
                "width": comparison.width,
                "height": comparison.height,
                "shown_width": width,
                "shown_height": height,
                "corner": None if whole else (comparison.left, comparison.top),
                "plates": plates,
            }
        )

    def finish(self, results: Results, settings: Settings) -> None:
        """Write the table, the curves and everything else."""
        own = {name for name in results.points if name.startswith(_OWN) or name == "encoder"}
        own |= {settings.preset} & set(results.points)
        machine = tables.machine()
        # Names, not where the files lie.
        judge = settings.classifier and Path(settings.classifier).name
        model = settings.model and settings.model.name
        about = {**asdict(settings), "model": model, "classifier": judge}
        site = self._site
        site.write(
            _RESULTS,
            tables.to_json({"setup": about, "machine": machine, **results.as_dict()}),
        )
        site.add_assets("base.css", "charts.css", "image.css", "vendor", "charts.js", "image.js")
        curves = results.curves()
        published = {_published(curve.name): list(curve.points) for curve in results.published}
        site.render(
            "image.html",
            title="Pictures, before and after",
            at=f"{results.at:g}",
            rows=[{**_cells(row), "own": row.codec in own} for row in results.rows()],
            gain=_number(results.search_gain(), 2),
            curves={
                name: [(f"{r:.3f}", _number(p, 2), _number(m, 4)) for r, p, m in curve]
                for name, curve in (curves | published).items()
            },
            sources={curve.name: curve.source for curve in results.published},
            data={
                "charts": charts(results, curves, own),
                "amplification": AMPLIFICATION,
            },
            pictures=self._pictures,
            amplification=AMPLIFICATION,
            settings=settings,
            classifier=judge,
            timed=len({p.picture for p in next(iter(results.timed.values()))}),
            machine=machine,
            results=_RESULTS,
        )


def lossless(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [h, w, 3] as a lossless WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=50, method=2)
    return file.getvalue()


def charts(
    results: Results, curves: dict[str, list[tuple[float, float, float]]], own: set[str]
) -> list[dict[str, Any]]:
    """The curves as plain values for assets/charts.js: PSNR and MS-SSIM, both in dB, over rate."""
    shown: list[tuple[str, bool, Sequence[tuple[float, float, float]]]]
    shown = [(name, single(results.points[name]), curve) for name, curve in curves.items()]
    shown += [(_published(curve.name), False, curve.points) for curve in results.published]
    made = []
    for column, label in ((1, "PSNR / dB"), (2, "MS-SSIM / dB")):
        lines = []
        for name, alone, curve in shown:
            points = [
                (row[0], row[1] if column == 1 else similarity_in_db(row[2])) for row in curve
            ]
            lines.append(
                {
                    "name": name,
                    "own": name in own,
                    "line": not alone,
                    "points": [[round(x, 5), round(y, 4)] for x, y in points if math.isfinite(y)],
                }
            )
        made.append({"lines": lines, "x": "bits per pixel", "y": label})
    return made


def _published(name: str) -> str:
    return f"{name} (published)"


def _plate(
    codec: str, bpp: float = math.nan, psnr: float = math.nan, ms_ssim: float = math.nan
) -> dict[str, Any]:
    return {
        "codec": codec,
        "bpp": _number(bpp, 3),
        "psnr": _number(psnr, 2),
        "ms_ssim": _number(ms_ssim, 4),
    }


def _cells(row: Row) -> dict[str, Any]:
    """A row of the table as text."""
    gains = seen = None
    if row.agreement is not None:
        seen = [_number(100.0 * share, 0) for share in row.agreement]
    if row.bd_rates is not None:
        gains = [_number(100.0 * gain, 1, "+") for gain in row.bd_rates]
    return {
        "codec": _published(row.codec) if row.published else row.codec,
        "published": row.published,
        "bpp": _number(row.bpp, 4),
        "psnr": _number(row.psnr, 2),
        "ms_ssim": _number(row.ms_ssim, 4),
        "encode": _number(row.encode_s, 2),
        "decode": _number(row.decode_s, 2),
        "seen": seen,
        "gains": gains,
    }


def _number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus, or "" if it is not known."""
    return f"{value:{sign}.{digits}f}".replace("-", "−") if math.isfinite(value) else ""
