"""How far a training stage is, and what the learning rate is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

WARMUP_STEPS = 200


@dataclass
class Budget:
    """The length of a stage, in minutes of wall clock or in steps; whichever ends first.

    `spent` are the seconds of earlier runs of this stage, so that an interrupted stage goes on
    where it was.
    """

    minutes: float | None = None
    steps: int | None = None
    spent: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ValueError("a stage needs a length in minutes or steps")
        self._begun = self.clock()

    def elapsed(self) -> float:
        """Seconds spent on the stage, earlier runs included."""
        return self.spent + self.clock() - self._begun

    def fraction(self, step: int) -> float:
        """Share of the stage that is done: 1 or more when it is over."""
        parts = [0.0]
        if self.minutes is not None:
            parts.append(self.elapsed() / max(60.0 * self.minutes, 1e-9))
        if self.steps is not None:
            parts.append(step / max(self.steps, 1))
        return max(parts)


def learning_rate(
    fraction: float,
    step: int,
    peak: float,
    *,
    warmup: int = WARMUP_STEPS,
    hold: float = 0.3,
    floor: float = 0.02,
) -> float:
    """Linear warm-up over `warmup` steps, `peak` until `hold`, then linear to `floor` * peak."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    fall = 1.0 if fraction <= hold else max(0.0, (1.0 - fraction) / (1.0 - hold))
    return peak * rise * (floor + (1.0 - floor) * fall)
