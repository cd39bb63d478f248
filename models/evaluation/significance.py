"""Intervals and tests over listeners: Student's t, Wilcoxon's signed ranks, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from models.evaluation.estimates import Estimate

LEVEL = 0.95  # of intervals
_MANY = 200  # differences, whose signs are no longer counted one by one


def student(values: Sequence[float]) -> Estimate:
    """The mean of values [n], one of each listener, with its interval by Student's t.

    The interval is NaN for less than two.
    """
    return student_ratio(values, [1.0] * len(values))


def student_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """A ratio of sums over listeners, [n] each, with its interval by Student's t.

    The variance is that of the linearised ratio (Cochran, Sampling Techniques, section 6.3), which
    for equal denominators is that of a mean. Listeners whose denominator is 0 are left out.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    known = bottom > 0
    missing = int(len(top) - known.sum())
    top, bottom = top[known], bottom[known]
    count = len(top)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, missing)
    value = float(top.sum() / bottom.sum())
    if count < 2:
        return Estimate(value, math.nan, math.nan, missing)
    rests = (top - value * bottom) / bottom.mean()
    error = math.sqrt(float((rests**2).sum()) / (count - 1) / count)
    half = _quantile(count - 1) * error
    return Estimate(value, value - half, value + half, missing)


@lru_cache
def _quantile(freedom: int) -> float:
    """Of Student's t, for an interval to both sides."""
    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))


def holm(values: Sequence[float]) -> list[float]:
    """p of several tests, corrected after Holm (Scandinavian J. Statistics 6, 1979).

    NaNs are no tests, and stay.
    """
    order = sorted((p, place) for place, p in enumerate(values) if not math.isnan(p))
    found = list(values)
    largest = 0.0
    for done, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p))
        found[place] = largest
    return found


def paired_t(gaps: ArrayLike) -> float:
    """p of Student's test that differences [n] are 0 on average; NaN for less than two."""
    values = np.asarray(gaps, np.float64)
    if len(values) < 2:
        return math.nan
    if np.ptp(values) == 0:  # where t is not defined
        return 1.0 if values[0] == 0 else 0.0
    t = values.mean() / (values.std(ddof=1) / math.sqrt(len(values)))
    return 2 * float(special.stdtr(len(values) - 1, -abs(t)))


def signed_ranks(gaps: ArrayLike) -> float:
    """p of Wilcoxon's test that differences [n] are symmetric about 0; NaN for less than two.

    Zeros are left out, and ties share their ranks. Exact, by counting the sums of ranks that
    every choice of signs has; from 200 differences on by the normal distribution.
    """
    values = np.asarray(gaps, np.float64)
    if len(values) < 2:
        return math.nan
    values = values[values != 0]
    if not len(values):
        return 1.0
    if len(values) >= _MANY:
        return float(stats.wilcoxon(values, method="approx").pvalue)
    ranks = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)  # whole, with halves for ties
    total = int(ranks.sum())
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances = 0.5 * (chances + np.concatenate([np.zeros(rank), chances[:-rank]]))
    smaller = int(min(ranks[values > 0].sum(), ranks[values < 0].sum()))
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))
