"""Rate control: a bounded bit reservoir that holds a stream to its preset's average rate.

All of it is counted in time, so that packets of any length share one reservoir. Blocks of latent
steps are planned one after another, or several together: each is promised a number of bits in
advance, and the bits that they really took are settled at their end, so that those planned together
can be searched side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.packet import STEP_MS

STEP_SECONDS = STEP_MS / 1000.0
# The most that quiet speech may save up: any 2 s take at most 1.25 times the rate, on clips 1.18.
# Two seconds gain nothing in PESQ-WB, 0.3 s lose .01.
RESERVOIR_SECONDS = 0.5
OPENING_SECONDS = 0.3072  # what a stream starts with
MEMORY_SECONDS = 6.144  # how far back the usual demand is averaged

Bits = NDArray[np.float64]


def longest_packet(seconds: float) -> float:
    """How long a packet of that many seconds may take at the preset's rate, in seconds: 2.048 for
    one of 1.024, four times their length for the shortest."""
    return seconds + min(1.024, 2.0 * seconds + 0.064)


@dataclass(frozen=True)
class Plan:
    """quality: rate point in eighths; allowed: the most bits the latents may take."""

    quality: int
    allowed: float


class RateControl:
    """Chooses rate points so that all bits stay below rate * time + what the reservoir holds."""

    def __init__(self, rate: float, usual_quality: int, qualities: int) -> None:
        """rate: payload bits per second. Qualities 0..qualities-1 grow in bits."""
        self.rate = rate
        self.qualities = qualities
        self.usual_quality = usual_quality
        self.credit = OPENING_SECONDS * rate
        self._promised = 0.0  # beyond the average, since the last settlement
        self._expected = 0.0
        self._demand: Bits | None = None  # bits per second at each quality

    def retarget(self, rate: float, usual_quality: int) -> None:
        """Hold what follows to another rate; of the credit, what the new one may save stays."""
        self.rate, self.usual_quality = rate, usual_quality
        self.credit = min(self.credit, RESERVOIR_SECONDS * rate)

    def plan(self, expected: Bits, certain: Bits, steps: int, most: float = np.inf) -> Plan:
        """Plan the next block of latent steps, the first of its packet.

        expected, certain: bits at each quality, [qualities], rising: what the block will likely
        take, and what it surely can be coded in; most: a limit of its own.
        """
        seconds = steps * STEP_SECONDS
        average = self.rate * seconds
        allowed = min(self._allowed(steps), most)
        demand = expected / seconds
        if self._demand is None:
            # At first, the usual quality is taken to cost the average.
            self._demand = demand * (self.rate / max(demand[self.usual_quality], 1.0))
        if demand[self.usual_quality] > 0.25 * self.rate:  # pauses tell nothing about speech
            share = seconds / MEMORY_SECONDS
            self._demand = (1 - share) * self._demand + share * demand
        surplus = self.credit - self._expected - OPENING_SECONDS * self.rate
        wanted = self.rate + 0.25 * surplus / 1.024
        usual = int(np.searchsorted(self._demand, wanted, side="right")) - 1
        fitting = int(np.searchsorted(certain, allowed, side="right")) - 1
        quality = max(min(usual, fitting, self.qualities - 1), 0)
        promised = min(max(float(certain[quality]), 0.2 * average), allowed)
        self._promised += promised - average
        self._expected += float(expected[quality]) - average
        return Plan(quality, promised)

    def go_on(self, quality: int, certain: float, steps: int, most: float) -> Plan:
        """Plan a further block of a packet, whose quality is settled.

        certain: bits that it surely can be coded in; most: what its packet has left.
        """
        average = self.rate * steps * STEP_SECONDS
        allowed = min(self._allowed(steps), most)
        return Plan(quality, min(max(certain, 0.2 * average), max(allowed, 0.2 * average)))

    def settle(self, taken: Sequence[float], steps: int) -> None:
        """Account for the bits that blocks of `steps` each, planned since the last call, took."""
        average = self.rate * steps * STEP_SECONDS
        self.credit += sum(average - bits for bits in taken)
        self.credit = min(self.credit, RESERVOIR_SECONDS * self.rate)
        self._promised = 0.0
        self._expected = 0.0

    def correct(self, settled: float, taken: float) -> None:
        """Blocks that were settled at so many bits really took others."""
        self.credit = min(self.credit + settled - taken, RESERVOIR_SECONDS * self.rate)

    def _allowed(self, steps: int) -> float:
        seconds = steps * STEP_SECONDS
        available = self.credit - self._promised + self.rate * seconds
        return min(available, longest_packet(seconds) * self.rate)
