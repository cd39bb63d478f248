"""How loud somebody is heard here, whatever they send."""

from __future__ import annotations

from dataclasses import dataclass, replace

from codec.errors import BadInput

STEP_DB = 3
QUIETEST_DB, LOUDEST_DB = -24, 12


@dataclass(frozen=True)
class Volume:
    """What a listener does to one voice, before it is limited.

    decibels: louder or quieter than it came, a multiple of STEP_DB within QUIETEST_DB and
    LOUDEST_DB; muted: it is not heard at all. Raises BadInput for other figures.
    """

    decibels: int = 0
    muted: bool = False

    def __post_init__(self) -> None:
        within = QUIETEST_DB <= self.decibels <= LOUDEST_DB
        if not within or self.decibels % STEP_DB:
            raise BadInput(
                f"a volume is {QUIETEST_DB} to {LOUDEST_DB} dB in steps of {STEP_DB}, "
                f"not {self.decibels}"
            )

    @property
    def gain(self) -> float:
        """By what the samples are multiplied."""
        return 0.0 if self.muted else float(10.0 ** (self.decibels / 20.0))

    def louder(self, steps: int) -> Volume:
        """So many steps louder, or quieter if negative, as far as that goes; and not muted."""
        decibels = self.decibels + STEP_DB * steps
        return Volume(min(max(decibels, QUIETEST_DB), LOUDEST_DB))

    def switched(self) -> Volume:
        """Muted, or as loud again as before."""
        return replace(self, muted=not self.muted)

    def __str__(self) -> str:
        """For people: "" as it came, `+6 dB`, `muted`."""
        if self.muted:
            return "muted"
        return f"{self.decibels:+d} dB" if self.decibels else ""


AS_IT_CAME = Volume()
