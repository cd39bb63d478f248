"""Rate control: a bounded bit reservoir that holds a stream to its preset's average rate.

Frames are planned in groups. Each frame of a group is promised a number of bits in advance, and the
bits that the group really took are settled at its end, so that its frames can be searched side by
side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CREDIT_FRAMES = 2.0  # the most that quiet frames may save up, in average frames
OPENING_CREDIT = 0.3  # what a stream starts with, in average frames
MAX_PACKET_FRAMES = 2.0  # no packet exceeds this many average frames
MEMORY_FRAMES = 6.0  # how far back the usual demand is averaged


Bits = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """quality: rate point in eighths; allowed: the most bits the frame's payload may take."""

    quality: int
    allowed: float


class RateControl:
    """Chooses rate points so that all bits stay below rate * time + the opening credit."""

    def __init__(self, average_bits: float, usual_quality: int, qualities: int) -> None:
        """average_bits: per frame. Qualities 0..qualities-1 grow in bits."""
        self.average = average_bits
        self.qualities = qualities
        self.usual_quality = usual_quality
        self.credit = OPENING_CREDIT * average_bits
        self._promised = 0.0  # beyond the average, since the last settlement
        self._expected = 0.0
        self._demand: NDArray[np.float64] | None = None

    def retarget(self, average_bits: float, usual_quality: int) -> None:
        """Hold what follows to another average; of the credit, what the new rate may save stays."""
        self.average, self.usual_quality = average_bits, usual_quality
        self.credit = min(self.credit, CREDIT_FRAMES * average_bits)

    def plan(self, expected: Bits, certain: Bits) -> Plan:
        """Plan the next frame.

        expected, certain: payload bits at each quality, [qualities], rising: what the frame will
        likely take, and what it surely can be coded in.
        """
        available = self.credit - self._promised + self.average
        allowed = min(available, MAX_PACKET_FRAMES * self.average)
        if self._demand is None:
            # At first, the usual quality is taken to cost the average.
            self._demand = expected * (self.average / max(expected[self.usual_quality], 1.0))
        if expected[self.usual_quality] > 0.25 * self.average:  # pauses tell nothing about speech
            share = 1.0 / MEMORY_FRAMES
            self._demand = (1 - share) * self._demand + share * expected
        surplus = self.credit - self._expected - OPENING_CREDIT * self.average
        wanted = self.average + 0.25 * surplus
        usual = int(np.searchsorted(self._demand, wanted, side="right")) - 1
        fitting = int(np.searchsorted(certain, allowed, side="right")) - 1
        quality = max(min(usual, fitting, self.qualities - 1), 0)
        promised = min(max(certain[quality], 0.2 * self.average), allowed)
        self._promised += promised - self.average
        self._expected += expected[quality] - self.average
        return Plan(quality, promised)

    def settle(self, taken: list[float]) -> None:
        """Account for the bits that the frames planned since the last call really took."""
        self.credit += sum(self.average - bits for bits in taken)
        self.credit = min(self.credit, CREDIT_FRAMES * self.average)
        self._promised = 0.0
        self._expected = 0.0
