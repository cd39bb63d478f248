"""What happened when in a run, and what was said and heard in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from codec.packet import STEP_MS
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.bench import scenarios, telemetry
from stream.bench.laboratory import ENDS, Name
from stream.bench.runs import Run
from stream.bench.signals import Delays
from stream.bench.talks import find_talk
from stream.bench.telemetry import Gap

LONGEST_SOUND = 60.0  # seconds that are kept of what one end says
_PLAYER_STARTS = 8.0  # seconds a player may take to start
_OTHER: dict[Name, Name] = {"a": "b", "b": "a"}

# A moment and a value; seconds since the talk began.
Series = list[tuple[float, float]]


@dataclass(frozen=True)
class Course:
    """A call over time, in seconds since both began to talk, up to `seconds`.

    By voice: delays (mouth to ear, at the beginning of each window; measured), unheard (windows
    that were not), shown (the delay in seconds that the call itself states) and lost (packets that
    the other end counted as lost in the second before). gaps: under- and overflows by end, counted
    within the second before; outage: the link was down from .. to; flood: an unknown peer sent
    garbage from .. to.
    """

    seconds: float
    delays: Mapping[Name, Series] = field(default_factory=dict)
    unheard: Mapping[Name, list[float]] = field(default_factory=dict)
    shown: Mapping[Name, Series] = field(default_factory=dict)
    lost: Mapping[Name, Series] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    outage: tuple[float, float] | None = None
    flood: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sounds:
    """What one end said, how the other heard it, and the same talk coded offline (None: not).

    [n] at 16 kHz, at the levels of microphone and loudspeaker; `heard` begins `delay` seconds
    later than `said`, so that the same moment of the talk is at the same place in all.
    """

    said: FloatArray
    heard: FloatArray
    offline: FloatArray | None
    delay: float


def course(run: Run, delays: Mapping[Name, Delays]) -> Course:
    """The course of a run with the given delays of what each end says (none in silence)."""
    began = run.talk_from
    clocks = {end: clock - began for end, clock in run.clocks.items()}
    start = {end: run.tracks[end].began - began for end in delays}
    gaps = [
        Gap(round(gap.seconds + clocks[end], 2), end, gap.kind, gap.count)
        for end in clocks
        for gap in telemetry.gaps(run.snapshots[end], end)
    ]
    flood = None
    if run.unknown_peer is not None:
        flood = scenarios.GARBAGE_AT, scenarios.GARBAGE_AT + float(run.unknown_peer["seconds"])
    outage = None if run.outage is None else (run.outage[0] - began, run.outage[1] - began)
    return Course(
        run.talk_to - began,
        {
            end: _rounded((start[end] + item.start, item.delay) for item in found.found)
            for end, found in delays.items()
        },
        {end: [round(start[end] + at, 2) for at in each.missing] for end, each in delays.items()},
        {end: _counted(run, end, clocks, telemetry.latencies_at) for end in ENDS},
        {end: _counted(run, end, clocks, telemetry.losses) for end in ENDS},
        tuple(sorted(gaps, key=lambda gap: gap.seconds)),
        outage,
        flood,
    )


def sounds(
    run: Run,
    course: Course,
    offline: Callable[[FloatArray, int], list[FloatArray]] | None = None,
) -> dict[Name, Sounds]:
    """What each end said, up to LONGEST_SOUND seconds; without those that were never heard.

    offline: codes a talk [n] in packets of so many latent steps, as `measures.Offline`.
    """
    found: dict[Name, Sounds] = {}
    for end, series in course.delays.items():
        if not series:
            continue
        delay = float(np.median([value for _, value in series]))
        said, heard, talk = run.tracks[end], run.tracks[_OTHER[end]], run.talks[end]
        first = _talk_begins(run, end)
        count = min(len(talk.samples), round(LONGEST_SOUND * SAMPLE_RATE))
        later = (first / said.rate + said.began + delay - heard.began) * heard.rate
        coded = None
        if offline is not None:
            coded = offline(talk.samples, run.delay // STEP_MS)[0][:count]
        found[end] = Sounds(
            _cut(said.said, first, count), _cut(heard.heard, round(later), count), coded, delay
        )
    return found


def _counted(
    run: Run,
    end: Name,
    clocks: Mapping[Name, float],
    count: Callable[[list[telemetry.Snapshot]], Series],
) -> Series:
    """What the other end has counted of a voice."""
    other = _OTHER[end]
    if other not in clocks:
        return []
    return _rounded((at + clocks[other], value) for at, value in count(run.snapshots[other]))


def _rounded(series: Iterable[tuple[float, float]]) -> Series:
    return [(round(at, 2), round(value, 4)) for at, value in series]


def _talk_begins(run: Run, end: Name) -> int:
    """The sample of a microphone at which its talk begins."""
    talk, track = run.talks[end], run.tracks[end]
    begun = (run.talk_from - track.began) * track.rate
    for utterance in talk.utterances[:1]:
        only = replace(talk, utterances=(utterance,))
        (start,) = find_talk(only, track.said, begun / SAMPLE_RATE + _PLAYER_STARTS)
        if start >= 0:
            return max(start - utterance.first, 0)
    return max(round(begun), 0)


def _cut(samples: FloatArray, first: int, count: int) -> FloatArray:
    """`count` samples from number `first` on, with silence where there are none."""
    first = max(first, 0)
    part = samples[first : first + count]
    return np.pad(part, (0, count - len(part))).astype(np.float32)
