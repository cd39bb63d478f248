"""Callers ring: who does, what a person answers, and how often it may happen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from stream.link.authentication import RateLimit

_SILENT = 10.0  # seconds: a caller that waits for an answer dials anew more often than that
_ACCEPTED = 15.0  # seconds in which an accepted caller has to be there again, if it has just gone
_REFUSED = 60.0  # seconds in which a refused key does not ring again
_REMEMBERED = 64  # refused keys
_RINGS, _RINGS_SECONDS = 5, 60.0


class Answer(Enum):
    """What a person says to a caller that rings."""

    ACCEPT = "accept"
    REMEMBER = "accept and remember"
    REFUSE = "refuse"


class Verdict(Enum):
    """What becomes of a caller for now."""

    RINGS = "it begins to ring"
    WAITS = "it rings already"
    ACCEPTED = "a person has accepted it"
    REFUSED = "a person has refused it"
    BUSY = "somebody else rings, or there have been too many"


@dataclass
class _Accepted:
    key: str
    remember: bool
    until: float


class Doorbell:
    """One caller rings at a time. Times are seconds of a monotonic clock.

    A caller is told from others by its key, or, where there are no keys, by its nonce.
    """

    def __init__(self) -> None:
        self.key = ""  # of who rings now, "" if nobody does
        self._heard_at = -math.inf
        self._accepted: _Accepted | None = None
        self._refused: dict[str, float] = {}  # until when
        self._limit = RateLimit(_RINGS, _RINGS_SECONDS)

    def call(self, key: str, now: float) -> Verdict:
        """A caller calls, or calls again while it waits."""
        accepted = self._accepted
        if accepted is not None and accepted.key == key and now < accepted.until:
            return Verdict.ACCEPTED
        if now < self._refused.get(key, -math.inf):
            return Verdict.REFUSED
        if self.key and self.key != key:
            return Verdict.BUSY
        if not self.key and not self._limit.allow(now):
            return Verdict.BUSY
        verdict = Verdict.WAITS if self.key else Verdict.RINGS
        self.key, self._heard_at = key, now
        return verdict

    def answer(self, answer: Answer, now: float) -> str:
        """A person answers; returns who the caller is, "" if nobody rings any more."""
        key, self.key = self.key, ""
        if not key:
            return ""
        if answer is Answer.REFUSE:
            self._refused.pop(key, None)
            self._refused[key] = now + _REFUSED
            while len(self._refused) > _REMEMBERED:
                del self._refused[next(iter(self._refused))]
        else:
            self._accepted = _Accepted(key, answer is Answer.REMEMBER, now + _ACCEPTED)
        return key

    def enter(self, key: str) -> bool:
        """An accepted caller is let in, once; whether it is to be remembered."""
        accepted, self._accepted = self._accepted, None
        return accepted is not None and accepted.key == key and accepted.remember

    def given_up(self, now: float) -> bool:
        """Whether who rang has just stopped doing so."""
        if self.key and now - self._heard_at > _SILENT:
            self.key = ""
            return True
        return False
