"""Scenarios of a call as data, with the limits that they must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# (required, better still): upper limits.
Bars = tuple[float | None, float | None]
# By the milliseconds of speech in a packet.
LATENCY: dict[int, Bars] = {
    1024: (1.20, 1.15),
    512: (0.68, 0.63),
    256: (0.42, 0.38),
    128: (0.30, 0.25),
    64: (0.24, 0.18),
}
# PESQ-WB against whole frames coded offline, and IP bit/s each way while both talk.
SHORTNESS_LOSS: dict[int, Bars] = {256: (0.08, None), 128: (0.12, None), 64: (0.20, None)}
IP_BITS: dict[int, Bars] = {1024: (3300.0, None), 256: (6800.0, None), 128: (11500.0, None)}
QUALITY_LOSS: Bars = (0.1, 0.03)  # PESQ-NB against the same packets coded offline
CPU: Bars = (0.7, None)
STEPS_LEAST = 10
# Frames begin elsewhere live than offline, which moves the figure by 1 to 2 dB.
BREAKS_DB: Bars = (3.0, None)
BACK_AFTER: Bars = (3.0, 1.0)
SILENT_CPU: Bars = (0.15, None)
SILENT_BITS: Bars = (150.0, None)
MEMORY_GROWTH_MB: Bars = (5.0, None)
LATENCY_GROWTH: Bars = (0.02, None)
UNHEARD: Bars = (0.0, None)
UNEXPLAINED: Bars = (0.0, None)
FLOODED_LATENCY_GROWTH: Bars = (0.05, None)  # of the 95th percentile
UNKNOWN_PEER_GETS: Bars = (0.0, None)
FRONT_END_CPU: Bars = (0.04, None)
ECHO_LEFT_DB: Bars = (-25.0, None)

Trouble = Literal["none", "outage", "garbage"]


@dataclass(frozen=True)
class Scenario:
    """What a call has to stand.

    seconds: how long both ends talk (or keep silent: `silent`); impair: what happens to packets on
    their way, see `stream.link.impairment`; quality: score against the same talk coded offline;
    phones: count phone errors; every: seconds between two measurements of the delay; skew: how many
    ppm the two sound cards are apart; echo: microphones hear their own loudspeakers, with the front
    end and once more without it.
    """

    name: str
    title: str
    seconds: float
    impair: str = ""
    trouble: Trouble = "none"
    silent: bool = False
    quality: bool = False
    phones: bool = False
    every: float = 1.5
    skew: float = 0.0
    echo: bool = False

    @property
    def soak(self) -> bool:
        """Whether it runs on sound cards with clocks of their own."""
        return self.skew != 0.0


OUTAGE_AT, OUTAGE_SECONDS = 12.0, 10.0
GARBAGE_AT, GARBAGE_RATE, GARBAGE_IDLE = 14.0, 10_000.0, 1100
SILENCE_SETTLES = 15.0  # seconds; before the talk, the microphones heard digital silence

ECHO_ALONE = 14.0  # seconds that each talks alone, before both do; a clip lasts up to 12

# With these seeds the first minute has about the share and length of losses asked for.
SCENARIOS = (
    Scenario("quiet-network", "Both talk, nothing else happens", 52.0, quality=True, phones=True),
    Scenario(
        "loss10",
        "10 % of the packets lost, in bursts of 2",
        45.0,
        "loss=0.1,burst=2,seed=3",
        phones=True,
        quality=True,
    ),
    Scenario(
        "loss20",
        "20 % of the packets lost, in bursts of 2",
        45.0,
        "loss=0.2,burst=2,seed=234",
        phones=True,
        quality=True,
    ),
    Scenario(
        "jitter",
        "Delays of 0 to 200 ms, some packets twice",
        36.0,
        "jitter=0.2,duplicate=0.1,seed=3",
        quality=True,
    ),
    Scenario(
        "overtaking",
        "Delays of 0 to 1.5 s, so that packets overtake each other, some twice",
        30.0,
        "jitter=1.5,duplicate=0.1,seed=4",
    ),
    Scenario("outage", "The link is down for 10 s", 40.0, trouble="outage"),
    Scenario(
        "garbage",
        "An unknown peer floods the port with garbage, and keeps 1 100 idle connections to it",
        38.0,
        trouble="garbage",
    ),
    Scenario("silence", "Nobody speaks", 36.0, silent=True),
    Scenario("echo", "Each microphone hears its own loudspeaker", 48.0, echo=True),
    Scenario(
        "soak", "Both talk for long, sound cards 100 ppm apart", 3600.0, every=10.0, skew=100.0
    ),
)
SHORT = tuple(scenario.name for scenario in SCENARIOS if not scenario.soak)


def find_scenario(name: str) -> Scenario:
    """The scenario of a name. Raises KeyError."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]
