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
        self._known = False  # who rings is known
        # Those nobody knows use up no ring of those who are known.
        self._limits = {known: RateLimit(_RINGS, _RINGS_SECONDS) for known in (False, True)}

    def call(self, key: str, now: float, *, known: bool = False) -> Verdict:
        """A caller calls, or calls again while it waits.

        One that is known takes the place of one that is not: else whoever has enough keys could
        keep everybody else from ringing.
        """
        accepted = self._accepted
        if accepted is not None and accepted.key == key and now < accepted.until:
            return Verdict.ACCEPTED
        if now < self._refused.get(key, -math.inf):
            return Verdict.REFUSED
        waits = self.key == key
        if not waits:
            taken = bool(self.key) and (self._known or not known)
            if taken or not self._limits[known].allow(now):
                return Verdict.BUSY
        self.key, self._known, self._heard_at = key, known, now
        return Verdict.WAITS if waits else Verdict.RINGS

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
