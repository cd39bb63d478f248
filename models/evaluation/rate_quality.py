"""Rate-quality curves of still picture codecs, and Bjøntegaard's difference between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True)
class Point:
    """One picture through one codec at one setting; times in seconds."""

    picture: str
    bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio of pixels [H, W, 3] in dB, over all colours."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10.0 * float(np.log10(255.0**2 / max(error, 1e-10)))


def bd_rate(
    rates: list[float], scores: list[float], base_rates: list[float], base_scores: list[float]
) -> float:
    """Mean difference in rate at equal score, as a share: -0.1 is ten per cent fewer bits.

    Bjøntegaard (2001) with monotone cubic interpolation of log rate over score, on the range of
    scores both curves have. NaN where they have none, or fewer than two points.
    """
    curve, base = _curve(rates, scores), _curve(base_rates, base_scores)
    if curve is None or base is None:
        return float("nan")
    low = max(curve[0][0], base[0][0])
    high = min(curve[0][-1], base[0][-1])
    if high <= low:
        return float("nan")
    at = np.linspace(low, high, 200)
    difference = PchipInterpolator(*curve)(at) - PchipInterpolator(*base)(at)
    return float(np.exp(np.mean(difference)) - 1.0)


def _curve(
    rates: list[float], scores: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Scores, rising, and log rates; points that give no better score for more bits left out."""
    order = np.argsort(rates)
    x: list[float] = []
    y: list[float] = []
    for k in order:
        if not x or scores[k] > x[-1] + 1e-6:
            x.append(scores[k])
            y.append(float(np.log(rates[k])))
    if len(x) < 2:
        return None
    return np.array(x), np.array(y)


def within(points: list[Point], low: float, high: float) -> list[Point]:
    """The points of a curve in a range of rates, and the next one on either side."""
    ordered = sorted(points, key=lambda p: p.bpp)
    inside = [k for k, p in enumerate(ordered) if low <= p.bpp <= high]
    if not inside:
        return ordered
    return ordered[max(inside[0] - 1, 0) : inside[-1] + 2]


def mean_bd_rate(
    curve: list[Point], base: list[Point], score: str, low: float = 0.15, high: float = 0.8
) -> float:
    """Mean over the pictures of the BD-rate of `score` ("psnr" or "ms_ssim")."""

    def value(p: Point) -> float:
        # In dB, so that the curve is as smooth as that of the other score.
        return p.psnr if score == "psnr" else -10.0 * float(np.log10(max(1.0 - p.ms_ssim, 1e-6)))

    found = []
    for name in sorted({p.picture for p in curve} & {p.picture for p in base}):
        a = within([p for p in curve if p.picture == name], low, high)
        b = within([p for p in base if p.picture == name], low, high)
        found.append(
            bd_rate(
                [p.bpp for p in a], [value(p) for p in a],
                [p.bpp for p in b], [value(p) for p in b],
            )
        )  # fmt: skip
    known = [v for v in found if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def mean_at(points: list[Point], bpp: float) -> tuple[float, float]:
    """Mean PSNR and MS-SSIM over the pictures when the mean rate is `bpp`, each codec setting the
    same for all pictures; interpolated between settings. NaN outside of the curve."""
    settings: dict[int, list[Point]] = {}
    for name in {p.picture for p in points}:
        for k, p in enumerate(sorted((p for p in points if p.picture == name), key=_rate)):
            settings.setdefault(k, []).append(p)
    rows = sorted(
        (
            float(np.mean([p.bpp for p in group])),
            float(np.mean([p.psnr for p in group])),
            float(np.mean([p.ms_ssim for p in group])),
        )
        for group in settings.values()
    )
    rates = [r[0] for r in rows]
    if not rates[0] <= bpp <= rates[-1]:
        return float("nan"), float("nan")
    log = np.log(rates)
    return (
        float(np.interp(np.log(bpp), log, [r[1] for r in rows])),
        float(np.interp(np.log(bpp), log, [r[2] for r in rows])),
    )


def _rate(p: Point) -> float:
    return p.bpp
