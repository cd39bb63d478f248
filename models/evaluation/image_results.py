"""What the benchmark of image codecs found: table, curves, plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TextIO

import numpy as np

from models.evaluation import tables
from models.evaluation.image_codecs import MeasuredCodec
from models.evaluation.plots import Line, Panel
from models.evaluation.published import PublishedCurve, is_kodak, published_curves
from models.evaluation.rate_quality import (
    Point,
    agreement_at,
    mean_at,
    mean_bd_rate,
    mean_curve,
    means,
    similarity_in_db,
    single,
)

OURS, UNSEARCHED = "sotto", "encoder"


@dataclass(frozen=True)
class Row:
    """A codec in the table: its means, seconds per picture, and the BD-rates of sotto against it by
    PSNR and by MS-SSIM (fractions; None where it is no curve).

    published: by others, not measured here; then there are no times. agreement: the shares of
    pictures that a classifier takes for what their originals are, at first and in five guesses;
    None without a classifier.
    """

    codec: str
    bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    bd_rates: tuple[float, float] | None
    published: bool = False
    agreement: tuple[float, float] | None = None


@dataclass(frozen=True)
class Results:
    """All points of every codec by name; timed: those of a few pictures measured alone."""

    codecs: list[MeasuredCodec]
    points: dict[str, list[Point]]
    timed: dict[str, list[Point]]
    at: float

    @cached_property
    def published(self) -> Sequence[PublishedCurve]:
        """Curves of others to compare with, if the pictures are those of Kodak; else none."""
        names = {p.picture for points in self.points.values() for p in points}
        return published_curves() if is_kodak(sorted(names)) else ()

    def as_dict(self) -> dict[str, Any]:
        """Every measurement, and what others published for these pictures, as plain values."""
        found: dict[str, Any] = {
            part: {name: [asdict(p) for p in points] for name, points in found.items()}
            for part, found in (("points", self.points), ("timed", self.timed))
        }
        if self.published:
            found["published"] = [asdict(curve) for curve in self.published]
        return found

    def rows(self) -> list[Row]:
        """Quality of every codec at one mean rate, BD-rates of sotto against it, mean times; the
        published ones last."""
        rows, own = [], self.points[OURS]
        for name, points in self.points.items():
            found = means(points) if single(points) else (self.at, *mean_at(points, self.at))
            encode_s, decode_s = (
                float(np.mean([getattr(p, key) for p in self.timed[name]]))
                for key in ("encode_s", "decode_s")
            )
            gains = None
            if name != OURS and not single(points):
                gains = mean_bd_rate(own, points, "psnr"), mean_bd_rate(own, points, "ms_ssim")
            seen = agreement_at(points, self.at)
            rows.append(Row(name, *found, encode_s, decode_s, gains, agreement=seen))
        mean = mean_curve(own)
        for curve in self.published:
            scores, gains = curve.at(self.at), curve.bd_rates(mean)
            rows.append(Row(curve.name, self.at, *scores, math.nan, math.nan, gains, True))
        return rows

    def search_gain(self) -> float:
        """By how many dB the search raises the PSNR at the table's rate; NaN where unknown."""
        if UNSEARCHED not in self.points:
            return math.nan
        searched, first = (self.points[name] for name in (OURS, UNSEARCHED))
        return mean_at(searched, self.at)[0] - mean_at(first, self.at)[0]

    def print(self, stream: TextIO) -> None:
        """Print the rows as a table, and what the search gains."""
        rows = self.rows()
        classified = any(row.agreement is not None for row in rows)
        table = tables.table(
            f"Means at {self.at:g} bpp, and BD-rates of sotto",
            ["codec"],
            [
                "bpp", "PSNR\ndB", "MS-SSIM", "encode\ns", "decode\ns",
                *(("top-1\n%", "top-5\n%") if classified else ()), "by PSNR\n%", "by MS-SSIM\n%",
            ],
        )  # fmt: skip
        for row in rows:
            shares = (row.agreement or (None, None)) if classified else ()
            table.add_row(
                f"{row.codec} (published)" if row.published else row.codec,
                tables.number(row.bpp, 4),
                tables.number(row.psnr, 2),
                tables.number(row.ms_ssim, 4),
                *(tables.number(seconds, 2) for seconds in (row.encode_s, row.decode_s)),
                *(tables.number(_percent(share), 0) for share in shares),
                *(tables.number(_percent(gain), 1, "+") for gain in row.bd_rates or (None, None)),
            )
        console = tables.console(stream)
        console.print(table)
        if not math.isnan(gain := self.search_gain()):
            console.print(f"the search gains {gain:.2f} dB at {self.at:g} bpp")

    def curves(self) -> dict[str, list[tuple[float, float, float]]]:
        """Of every codec the mean rate, PSNR and MS-SSIM at each of its settings."""
        return {name: mean_curve(points) for name, points in self.points.items()}

    def panels(self) -> list[Panel]:
        """Mean PSNR and MS-SSIM (in dB) over the mean rate."""
        lines: tuple[list[Line], list[Line]] = ([], [])
        for name, points in self.points.items():
            if single(points):
                rows, style = [means(points)], {"linestyle": "none", "marker": "o"}
            else:
                low, high = min(p.bpp for p in points), max(p.bpp for p in points)
                rates = np.geomspace(max(low, 0.08), min(high, 1.2), 24).tolist()
                rows, style = [(rate, *mean_at(points, rate)) for rate in rates], {}
            rates, scores, similarities = zip(*rows, strict=True)
            in_db = [similarity_in_db(s) for s in similarities]
            lines[0].append(Line(name, rates, scores, style=style))
            lines[1].append(Line(name, rates, in_db, style=style))
        for curve in self.published:
            rates, scores, similarities = zip(*curve.points, strict=True)
            in_db = [similarity_in_db(s) for s in similarities]
            dashed = {"linestyle": "--", "linewidth": 1.0}
            for part, values in zip(lines, (scores, in_db), strict=True):
                if np.isfinite(values).any():
                    part.append(Line(f"{curve.name}, published", rates, values, style=dashed))
        return [
            Panel(part, "bits per pixel", label)
            for part, label in zip(lines, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True)
        ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share
