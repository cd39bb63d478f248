"""Rate-quality curves that others have published for the Kodak pictures; nothing measured here."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from models.evaluation.rate_quality import bd_rate, interpolated, similarity_in_db

_TABLE = "kodak_published.csv"
_KODAK = frozenset(range(1, 25))
_NAME = re.compile(r"kod(?:im|ak)\D*(\d{2})", re.IGNORECASE)
# As in the measured BD-rates, in bits per pixel.
_SPAN = 0.15, 0.8


@dataclass(frozen=True)
class PublishedCurve:
    """Means over the 24 Kodak pictures.

    points: bits per pixel, PSNR in dB over RGB, and MS-SSIM of each setting, NaN if not published;
    source: repository and file that they are from.
    """

    name: str
    source: str
    points: tuple[tuple[float, float, float], ...]

    def at(self, bpp: float) -> tuple[float, float]:
        """PSNR and MS-SSIM, interpolated as those of the measured codecs; NaN outside the curve."""
        psnr, ms_ssim = interpolated(self.points, bpp)
        return psnr, ms_ssim

    def bd_rates(self, curve: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
        """BD-rates of a measured mean curve against this one, by PSNR and by MS-SSIM.

        NaN where the two do not overlap or no score is published.
        """

        def against(column: int) -> float:
            parts = []
            for points in (curve, self.points):
                known = [p for p in points if math.isfinite(p[column])]
                scores = [p[1] if column == 1 else similarity_in_db(p[2]) for p in known]
                parts.append(([p[0] for p in known], scores))
            measured, published = parts
            return bd_rate(*measured, *published, _SPAN)

        return against(1), against(2)


@cache
def published_curves() -> tuple[PublishedCurve, ...]:
    """All curves of the table, in its order."""
    rows: dict[str, list[dict[str, str]]] = {}
    table = files("models.evaluation").joinpath(_TABLE).read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        rows.setdefault(row["codec"], []).append(row)

    def point(row: dict[str, str]) -> tuple[float, float, float]:
        return float(row["bpp"]), float(row["psnr"]), float(row["ms_ssim"] or "nan")

    return tuple(
        PublishedCurve(name, found[0]["source"], tuple(point(row) for row in found))
        for name, found in rows.items()
    )


def is_kodak(names: Sequence[str]) -> bool:
    """Whether the names of picture files are those of the 24 Kodak pictures (kodim01.png, ...).

    A mean over other pictures, or over some of these, is not comparable with what was published.
    """
    numbers = [_NAME.match(Path(name).stem) for name in names]
    found = sorted(int(match[1]) for match in numbers if match)
    return len(names) == len(_KODAK) and found == sorted(_KODAK)
