"""Which sequence numbers have been seen: duplicates and replays are told from late arrivals."""

from __future__ import annotations

from enum import Enum

WINDOW = 64


class Verdict(Enum):
    """What a sequence number is: new, seen before, or too old to tell."""

    FRESH = "fresh"
    DUPLICATE = "duplicate"
    OLD = "old"


class ReplayWindow:
    """The anti-replay window of RFC 4303, section 3.4.3: a bitmap of the latest WINDOW numbers.

    Numbers may come in any order as long as they are less than WINDOW behind the highest one.
    """

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # bit k: number `_highest` - k has been seen

    def check(self, sequence: int) -> Verdict:
        """Judge `sequence` (not negative) and remember it."""
        ahead = sequence - self._highest
        if ahead > 0:
            # A far jump empties the window; shifting by it would build a huge number first.
            self._seen = (self._seen << ahead if ahead < WINDOW else 0) & (1 << WINDOW) - 1 | 1
            self._highest = sequence
            return Verdict.FRESH
        if -ahead >= WINDOW:
            return Verdict.OLD
        if self._seen >> -ahead & 1:
            return Verdict.DUPLICATE
        self._seen |= 1 << -ahead
        return Verdict.FRESH
