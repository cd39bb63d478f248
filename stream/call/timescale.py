"""Playing a little faster or slower, by leaving out or adding single spectrogram columns.

Columns are 8 ms apart and get their phases after this, so a column more or less leaves no seam.
Columns are chosen where it is heard least: quiet ones first, then those that resemble their
neighbours; never at an onset, and spread out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.signal.analysis import CEILING_DB, FLOOR_DB
from codec.signal.samples import FloatArray

SPACING = 3  # least distance of two columns that are removed or doubled
ACTIVE_SHARE = 64  # of so many columns of running speech, one may go or be doubled ...
HURRIED_SHARE = 24  # ... and where much is to be changed: 4 % of it
MUCH = 8  # columns: 64 ms
QUIET_DB = -60.0  # columns below this are pauses ...
QUIET_SHARE = 4  # ... and of so many of them
SAVED = 2.0  # columns that may be saved up: short pieces allow less than one
ONSET_DB = 9.0  # a rise by more than this within two columns is an onset

_HALF_RANGE_DB = (CEILING_DB - FLOOR_DB) / 2.0
_MID_DB = (CEILING_DB + FLOOR_DB) / 2.0
_CHANGE_WEIGHT = 1.0  # dB of level that one dB of spectral change is worth


def levels(columns: FloatArray) -> NDArray[np.float64]:
    """Level of each log-mel column [n, N_MELS], in dB: the mean power of its bands. -> [n]."""
    power = 10.0 ** ((columns.astype(np.float64) * _HALF_RANGE_DB + _MID_DB) / 10.0)
    level: NDArray[np.float64] = 10.0 * np.log10(power.mean(axis=1))
    return level


def allowance(columns: FloatArray, active: bool, wanted: int = 0) -> float:
    """How many columns of a piece may be inserted or removed without being noticed.

    columns: [n, N_MELS] log-mel; active: whether it is speech; wanted: how many are to be.
    """
    if not active:
        return len(columns) / QUIET_SHARE
    share = HURRIED_SHARE if abs(wanted) > MUCH else ACTIVE_SHARE
    quiet = int(np.count_nonzero(levels(columns) < QUIET_DB))
    return len(columns) / share + quiet / QUIET_SHARE


def costs(columns: FloatArray) -> NDArray[np.float64]:
    """What it costs to leave out each column, or to double it: [n, N_MELS] -> [n].

    Infinite where it must not be done: at both ends, whose neighbours are not known, and around
    onsets.
    """
    count = len(columns)
    cost = np.full(count, np.inf)
    if count < 3:
        return cost
    level = levels(columns)
    change = _HALF_RANGE_DB * np.abs(columns[2:] - columns[:-2]).mean(axis=1)
    quiet = level < QUIET_DB
    onset = (level[2:] - level[:-2] > ONSET_DB) & ~quiet[2:]
    cost[1:-1] = np.where(onset, np.inf, level[1:-1] - FLOOR_DB + _CHANGE_WEIGHT * change)
    return cost


def choose(cost: NDArray[np.float64], count: int, spacing: int = SPACING) -> NDArray[np.intp]:
    """The `count` positions of least total cost that lie at least `spacing` apart, in order.

    cost: [n], infinite where nothing may be chosen. Fewer when there are not so many.
    Exact, by dynamic programming over the positions.
    """
    length = len(cost)
    # best[i]: least cost of the positions chosen so far among the first i; one row per count.
    best = np.zeros(length + 1)
    rows: list[NDArray[np.float64]] = []
    for _ in range(count):
        before = np.concatenate([np.full(spacing - 1, best[0]), best])[:length]
        row = np.concatenate([[np.inf], np.minimum.accumulate(before + cost)])
        if not np.isfinite(row[-1]):
            break
        rows.append(row)
        best = row
    positions = []
    end = length
    for row in reversed(rows):
        end = int(np.argmax(row[: end + 1] == row[end]))  # the first i that is as good: i-1 chosen
        positions.append(end - 1)
        end = max(end - spacing, 0)
    return np.array(positions[::-1], np.intp)


def remove(columns: FloatArray, count: int) -> FloatArray:
    """Leave out at most `count` columns of [n, N_MELS]; fewer where no more may be chosen."""
    return np.delete(columns, choose(costs(columns), count), axis=0)


def insert(columns: FloatArray, count: int) -> FloatArray:
    """Add at most `count` columns to [n, N_MELS], each the mean of the two it comes between."""
    positions = choose(costs(columns), count)
    between = 0.5 * (columns[positions] + columns[positions + 1])
    return np.insert(columns, positions + 1, between, axis=0)


class Timescale:
    """Changes the length of pieces of one voice, by no more than is allowed over time."""

    def __init__(self) -> None:
        self._credit = 0.0

    def scale(self, columns: FloatArray, change: int, active: bool) -> FloatArray:
        """Make [n, N_MELS] longer (change > 0) or shorter (change < 0) by up to |change| columns.

        The result's length says how much of it was possible without being noticed.
        """
        allowed = allowance(columns, active, change)
        self._credit = min(self._credit + allowed, max(allowed, SAVED))
        count = min(abs(change), int(self._credit))
        if count == 0:
            return columns
        scaled = insert(columns, count) if change > 0 else remove(columns, count)
        self._credit -= abs(len(scaled) - len(columns))
        return scaled
