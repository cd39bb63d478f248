"""A simulated bad network: arriving audio is lost, delayed and duplicated.

Random numbers come from one seeded generator and depend only on the order of arrivals, so that two
runs with the same packets lose the same ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from codec.errors import BadInput
from codec.packet_loss import losses, transitions
from stream.link.events import AudioArrived, Event, EventQueue

_HELD = 2048  # packets


@dataclass(frozen=True)
class Impairment:
    """What is wrong with the network.

    loss: share of packets lost; burst: mean number lost in a row (`packet_loss`); jitter: each
    packet is delayed by up to so many seconds, evenly distributed, and so may be overtaken;
    delay: and all by so many; duplicate: share of packets that come twice.
    """

    loss: float = 0.0
    burst: float = 1.0
    jitter: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        transitions(self.loss, self.burst)
        for name, limit in (("jitter", 10.0), ("delay", 10.0), ("duplicate", 1.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= limit:
                raise BadInput(f"impairment: {name} {value:g} is not between 0 and {limit:g}")


def parse_impairment(text: str) -> Impairment:
    """`loss=0.1,burst=2,jitter=0.2,duplicate=0.05,seed=1` in any order; all may be left out.

    Raises BadInput saying what is wrong.
    """
    names = [field.name for field in fields(Impairment)]
    values: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in names or not equals:
            raise BadInput(f"impairment: {part!r} is not one of {', '.join(names)} =number")
        if name in values:
            raise BadInput(f"impairment: {name} is given twice")
        try:
            values[name] = int(number) if name == "seed" else float(number)
        except ValueError:
            raise BadInput(f"impairment: {name} is not a number: {number!r}") from None
    return Impairment(**values)  # type: ignore[arg-type]  # seed is an int, as made above


class ImpairedQueue(EventQueue):
    """An event queue behind a bad network; all but arriving audio passes through at once."""

    def __init__(self, impairment: Impairment, clock: Callable[[], float]) -> None:
        super().__init__()
        self._impairment = impairment
        self._clock = clock
        self._losses = losses(impairment.loss, impairment.burst, impairment.seed)
        self._random = random.Random(impairment.seed + 1)
        self._order = itertools.count()
        self._held: list[tuple[float, int, AudioArrived]] = []

    def take(self, timeout: float) -> list[Event]:
        """As EventQueue.take; `arrived` is when the delayed packet came out."""
        deadline = self._clock() + timeout
        found: list[Event] = []
        while True:
            now = self._clock()
            while self._held and self._held[0][0] <= now:
                due, _, audio = heapq.heappop(self._held)
                found.append(replace(audio, arrived=due))
            if found or (now >= deadline and timeout > 0.0):
                return found
            until = min(deadline, self._held[0][0]) if self._held else deadline
            for event in super().take(max(until - now, 0.0)):
                if isinstance(event, AudioArrived):
                    self._impair(event)
                else:
                    found.append(event)
            timeout = timeout or 1e-9  # asked not to wait: one look is enough

    def _impair(self, event: AudioArrived) -> None:
        settings = self._impairment
        copies = 1 + (self._random.random() < settings.duplicate)
        delays = [settings.delay + settings.jitter * self._random.random() for _ in range(2)]
        lost = next(self._losses)
        for delay in delays[:copies]:
            if not lost and len(self._held) < _HELD:
                heapq.heappush(self._held, (event.arrived + delay, next(self._order), event))
