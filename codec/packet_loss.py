"""Simulated packet loss: the Gilbert model, a channel that is either good or losing.

Source: E. N. Gilbert, "Capacity of a Burst-Noise Channel", Bell System Technical Journal 39(5),
1960, in its simplest form (everything is lost in the losing state, nothing in the good one).
With loss rate P and mean burst length L packets, the channel leaves the losing state with
probability 1/L and enters it with P / (L (1 - P)). L = 1 / (1 - P) gives independent losses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from codec.errors import BadInput


def losses(rate: float, burst: float, seed: int) -> Iterator[bool]:
    """An endless sequence of packets, True where one is lost; the same for the same arguments.

    rate: share of packets lost, 0..1; burst: mean number of packets lost in a row, at least 1.
    Raises BadInput if they are out of range or cannot go together: at a high rate the good
    stretches between bursts would have to be shorter than a packet.
    """
    enter, leave = transitions(rate, burst)
    return _channel(rate, enter, leave, seed)


def transitions(rate: float, burst: float) -> tuple[float, float]:
    """Probabilities per packet of (entering, leaving) the losing state. Raises BadInput."""
    if not 0.0 <= rate <= 1.0:
        raise BadInput(f"the loss rate {rate:g} is not between 0 and 1")
    if not 1.0 <= burst < math.inf:
        raise BadInput(f"the mean burst length {burst:g} is not at least 1")
    if rate == 1.0:
        return 1.0, 0.0
    enter = rate / (burst * (1.0 - rate))
    # With room for rounding at the exact limit, e.g. a rate of 0.9 in bursts of 9.
    if enter > 1.0 + 1e-9:
        raise BadInput(
            f"a loss rate of {rate:g} needs a mean burst of at least {rate / (1.0 - rate):.3g}, "
            f"not {burst:g}"
        )
    return min(enter, 1.0), 1.0 / burst


def _channel(rate: float, enter: float, leave: float, seed: int) -> Iterator[bool]:
    # random.Random gives the same uniform numbers in every version of Python.
    uniform = random.Random(seed).random
    losing = uniform() < rate
    while True:
        yield losing
        losing = uniform() >= leave if losing else uniform() < enter
