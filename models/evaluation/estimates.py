"""Means and pooled ratios over clips, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean or pooled ratio with its 95 % interval; `missing` clips were left out.

    All but `missing` are NaN if no clip is left.
    """

    value: float
    low: float
    high: float
    missing: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def mean(values: Sequence[float]) -> Estimate:
    """The mean of values [n]; NaNs are left out and counted."""
    return ratio(values, [1.0] * len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Ratio of sums over clips, with a percentile-bootstrap interval over the clips.

    For pooled figures such as a phone error rate (errors over phones) or a bit rate (bits over
    seconds). Clips with a NaN in either sequence are left out and counted. Deterministic.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    known = np.isfinite(top) & np.isfinite(bottom)
    missing = int(len(top) - known.sum())
    top, bottom = top[known], bottom[known]
    if not len(top) or bottom.sum() <= 0:
        return Estimate(math.nan, math.nan, math.nan, missing)
    picks = np.random.default_rng(0).integers(0, len(top), (RESAMPLES, len(top)))
    sums = bottom[picks].sum(axis=1)
    ratios = top[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high), missing)
