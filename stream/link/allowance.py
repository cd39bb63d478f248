"""How much may pass in which time: a token bucket."""

from __future__ import annotations


class Allowance:
    """`rate` per second may pass, and at most `burst` at once. Times in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._at: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Whether so many may pass now; if not, none of them are counted."""
        self._refill(now)
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def owe(self, amount: float, now: float) -> float:
        """So many have passed: seconds until more may."""
        self._refill(now)
        self._left -= amount
        return max(-self._left / self._rate, 0.0)

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._left + self._rate * max(now - self._at, 0.0), self._burst)
        self._at = now
