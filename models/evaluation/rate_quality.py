"""Rate-quality curves of image codecs, and the Bjøntegaard difference between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True)
class Point:
    """One picture coded by one codec at one setting; times in seconds.

    top1, top5: whether the class that a classifier finds in the original is the first it finds in
    the decoded picture, and among the first five; None without a classifier.
    """

    picture: str
    bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    top1: bool | None = None
    top5: bool | None = None


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of pixels [H, W, 3] in dB, over all colours."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10.0 * float(np.log10(255.0**2 / max(error, 1e-10)))


def similarity_in_db(ms_ssim: float) -> float:
    """MS-SSIM as -10 lg(1 - MS-SSIM), at most 60 dB; NaN stays NaN."""
    return -10.0 * math.log10(max(1.0 - ms_ssim, 1e-6))


def bd_rate(
    rates: list[float],
    scores: list[float],
    base_rates: list[float],
    base_scores: list[float],
    span: tuple[float, float] = (0.0, math.inf),
) -> float:
    """Mean difference in rate at equal score, as a fraction: -0.1 is ten per cent fewer bits.

    Bjøntegaard (2001) with monotone cubic interpolation of log rate over score, on the range of
    scores that both curves reach at rates within `span`. NaN if there is none, or for curves with
    fewer than two points.
    """
    curve, base = _curve(rates, scores), _curve(base_rates, base_scores)
    if curve is None or base is None:
        return float("nan")
    ends = [_reached(c, span) for c in (curve, base)]
    low, high = max(e[0] for e in ends), min(e[1] for e in ends)
    if not high > low:
        return float("nan")
    at = np.linspace(low, high, 200)
    difference = PchipInterpolator(*curve)(at) - PchipInterpolator(*base)(at)
    return float(np.exp(np.mean(difference)) - 1.0)


def _reached(
    curve: tuple[NDArray[np.float64], NDArray[np.float64]], span: tuple[float, float]
) -> tuple[float, float]:
    """The lowest and the highest score of a curve (scores, log rates) at rates within a span."""
    scores, logs = curve
    if np.exp(logs[0]) > span[1] or np.exp(logs[-1]) < span[0]:
        return math.inf, -math.inf
    score = PchipInterpolator(logs, scores)
    low = scores[0] if np.exp(logs[0]) >= span[0] else score(math.log(span[0]))
    high = scores[-1] if np.exp(logs[-1]) <= span[1] else score(math.log(span[1]))
    return float(low), float(high)


def _curve(
    rates: list[float], scores: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Increasing scores and log rates, without points that spend more bits for no better score."""
    x: list[float] = []
    y: list[float] = []
    for k in np.argsort(rates):
        if not x or (scores[k] > x[-1] + 1e-6 and np.log(rates[k]) > y[-1]):
            x.append(scores[k])
            y.append(float(np.log(rates[k])))
    if len(x) < 2:
        return None
    return np.array(x), np.array(y)


def mean_bd_rate(
    curve: list[Point],
    base: list[Point],
    score: str,
    span: tuple[float, float] = (0.15, 0.8),
) -> float:
    """Mean BD-rate of `score` ("psnr" or "ms_ssim") over the pictures, within a span of bits per
    pixel. NaN if no picture has one."""

    def value(p: Point) -> float:
        # In dB, so that the curve is as smooth as that of the other score.
        return p.psnr if score == "psnr" else similarity_in_db(p.ms_ssim)

    found = []
    for name in sorted({p.picture for p in curve} & {p.picture for p in base}):
        a, b = ([p for p in points if p.picture == name] for points in (curve, base))
        found.append(
            bd_rate(
                [p.bpp for p in a], [value(p) for p in a],
                [p.bpp for p in b], [value(p) for p in b], span,
            )
        )  # fmt: skip
    known = [v for v in found if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def means(points: list[Point]) -> tuple[float, float, float]:
    """Mean bits per pixel, PSNR and MS-SSIM."""
    rows = [(p.bpp, p.psnr, p.ms_ssim) for p in points]
    bpp, score, similarity = (float(v) for v in np.mean(rows, axis=0))
    return bpp, score, similarity


def single(points: list[Point]) -> bool:
    """Whether a codec was measured at one setting only."""
    return len({p.picture for p in points}) == len(points)


def _by_setting(points: list[Point]) -> list[list[Point]]:
    """The points of each setting of a codec, whose order is that of their rates."""
    settings: dict[int, list[Point]] = {}
    for name in {p.picture for p in points}:
        of_picture = sorted((p for p in points if p.picture == name), key=lambda p: p.bpp)
        for k, p in enumerate(of_picture):
            settings.setdefault(k, []).append(p)
    return list(settings.values())


def mean_curve(points: list[Point]) -> list[tuple[float, float, float]]:
    """Mean bits per pixel, PSNR and MS-SSIM at each setting of a codec, by rate."""
    return sorted(means(group) for group in _by_setting(points))


def mean_at(points: list[Point], bpp: float) -> tuple[float, float]:
    """Mean PSNR and MS-SSIM at a mean rate of `bpp`, with the same codec setting for all pictures;
    interpolated between settings. NaN outside the curve."""
    score, similarity = interpolated(mean_curve(points), bpp)
    return score, similarity


def agreement_at(points: list[Point], bpp: float) -> tuple[float, float] | None:
    """Shares of pictures whose class is found again first, and among the first five, at a mean rate
    of `bpp`, interpolated as by `mean_at`; at its only setting of a codec with one.

    None without a classifier.
    """
    if any(p.top1 is None or p.top5 is None for p in points):
        return None
    rows = sorted(
        tuple(float(np.mean([getattr(p, key) for p in group])) for key in ("bpp", "top1", "top5"))
        for group in _by_setting(points)
    )
    first, among = rows[0][1:] if len(rows) == 1 else interpolated(rows, bpp)
    return first, among


def interpolated(curve: Sequence[tuple[float, ...]], bpp: float) -> list[float]:
    """The other columns of a curve at a rate, linear over log rate; its rows begin with bits per
    pixel, and rise. NaN outside the curve."""
    rates, *columns = np.array(curve).T
    logs = np.log(rates)
    return [float(np.interp(np.log(bpp), logs, c, math.nan, math.nan)) for c in columns]
