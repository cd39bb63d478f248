"""From what a scenario left behind to figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE
from models.evaluation.metrics import mean_interval
from stream.bench import accounting, scenarios
from stream.bench.alignment import (
    LEAST_SIMILARITY,
    LONGEST,
    WINDOW,
    Heard,
    best_lag,
    mouth_to_ear,
    speech_windows,
)
from stream.bench.laboratory import ENDS, Name
from stream.bench.listening import (
    SCORES,
    Judged,
    active_power,
    find_talk,
    judge,
    mean_score,
    phone_error_rate,
    sharpest_break,
)
from stream.bench.report import Figure, Outcome
from stream.bench.runs import Run, Track
from stream.bench.usage import cpu_share, growth

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec

Samples = NDArray[np.float32]

_OTHER: dict[Name, Name] = {"a": "b", "b": "a"}
_WHOLE_RUN = "over the run"
_PLAYER_STARTS = 8.0  # seconds a player may take to begin
ALIGNMENTS = (0, 5461, 10922)  # samples of silence before: a third of a frame each
_RETURN_WINDOW = 1.5
_RETURN_STEP = 0.1
_RETURN_SIMILARITY = 0.7
_NAMES = {"pesq_nb": "PESQ-NB", "pesq_wb": "PESQ-WB", "stoi": "STOI"}


@dataclass(frozen=True)
class Delays:
    """Windows of one voice that were heard, and the starts (s) of those that were not."""

    found: list[Heard]
    missing: list[float]

    def percentile(self, share: float) -> float | None:
        values = [item.delay for item in self.found]
        return float(np.percentile(values, share)) if values else None


class Offline:
    """Talks coded in one go, as `sotto encode` does; the codec is loaded when first needed.

    How the frames fall on the words changes the scores of one utterance by tenths, and in a call
    nobody knows how they do; so a talk is coded at several alignments.
    """

    def __init__(self, load: Callable[[], SpeechCodec]) -> None:
        self._load = load
        self._codec: SpeechCodec | None = None
        self._known: list[tuple[Samples, list[Samples]]] = []

    def __call__(self, samples: Samples) -> list[Samples]:
        """A talk [n] coded and decoded, each [n], with its frames at ALIGNMENTS.

        The beginning of a longer talk before is reused.
        """
        for before, decoded in self._known:
            if len(samples) <= len(before) and np.array_equal(before[: len(samples)], samples):
                return [each[: len(samples)] for each in decoded]
        if self._codec is None:
            self._codec = self._load()
        codec = self._codec
        decoded = [
            codec.decode(codec.encode(np.pad(samples, (lead, 0)), SAMPLE_RATE))[lead:]
            for lead in ALIGNMENTS
        ]
        self._known.append((samples, decoded))
        return decoded


def outcome(run: Run, offline: Offline | None = None) -> Outcome:
    """All figures of a run; those that compare with offline coding only if `offline` is given."""
    result = Outcome(run.scenario)
    add = result.figures.append
    add(both("connected after", "s", lambda end: run.connected_after, digits=1))
    if run.scenario.silent:
        _silence(run, result)
    else:
        delays = {end: delays_of(run, end) for end in ENDS}
        _latency(run, result, delays)
        _breaks(run, result, None if run.scenario.soak else offline)
        if run.scenario.quality and offline is not None:
            _quality(run, result, offline)
    if run.up_at is not None:
        _outage(run, result)
    if run.stranger is not None:
        _stranger(run, result)
    if run.scenario.soak:
        _memory(run, result)
    _accounts(run, result)
    _load(run, result)
    for end in ENDS:
        if run.status.get(end) not in (0, 143 if end == "b" else 0):
            result.remarks.append(f"end {end} ended with status {run.status.get(end)}")
    if not run.isolated:
        result.remarks.append("without network namespaces: both ends on the loopback interface")
    return result


def both(
    name: str,
    unit: str,
    value: Any,
    bars: tuple[float | None, float | None] = (None, None),
    digits: int = 3,
) -> Figure:
    """A figure asked of both ends: value(end) -> float or None."""
    return Figure(name, unit, {end: value(end) for end in ENDS}, bars[0], bars[1], digits)


def heard_on_time_axis_of(said: Track, heard: Track) -> Samples:
    """What the other end heard, moved to the time axis of the one who spoke, to the sample.

    Only for ends with a common clock; else see `skewed_delays`.
    """
    shift = round((said.began - heard.began) * SAMPLE_RATE)
    return heard.heard[shift:] if shift > 0 else np.pad(heard.heard, (-shift, 0))


def delays_of(run: Run, end: Name) -> Delays:
    """Mouth-to-ear delays of the voice of `end`."""
    said, heard = run.tracks[end], run.tracks[_OTHER[end]]
    if run.scenario.soak:
        return skewed_delays(said, heard, run.scenario.every)
    return Delays(
        *mouth_to_ear(said.said, heard_on_time_axis_of(said, heard), step=run.scenario.every)
    )


def skewed_delays(said: Track, heard: Track, step: float) -> Delays:
    """As `mouth_to_ear`, between two clocks."""
    delays = Delays([], [])
    count = round(WINDOW * SAMPLE_RATE)
    for start in speech_windows(said.said, WINDOW, step):
        first = round(start * SAMPLE_RATE)
        there = (said.began + first / said.rate - heard.began) * heard.rate
        whole = math.floor(there)
        reach = heard.heard[max(whole, 0) : whole + count + round(LONGEST * SAMPLE_RATE)]
        if whole < 0 or len(reach) < count + round(LONGEST * SAMPLE_RATE):
            continue
        delay, similarity = best_lag(said.said[first : first + count], reach)
        if similarity >= LEAST_SIMILARITY:
            late = delay - (there - whole) / heard.rate
            delays.found.append(Heard(start, late, similarity))
        else:
            delays.missing.append(start)
    return delays


def _latency(run: Run, result: Outcome, delays: dict[Name, Delays]) -> None:
    scenario, add = run.scenario, result.figures.append
    calm = scenario.impair == "" and scenario.trouble != "outage"
    bars = scenarios.LATENCY if calm else (None, None)
    add(both("mouth to ear, median", "s", lambda end: delays[end].percentile(50)))
    add(both("mouth to ear, 95th percentile", "s", lambda end: delays[end].percentile(95), bars))
    add(both("mouth to ear, largest", "s", lambda end: delays[end].percentile(100)))
    add(both("windows heard", "", lambda end: len(delays[end].found), digits=0))
    unheard = scenarios.UNHEARD if calm else (None, None)
    add(both("windows not heard", "", lambda end: len(delays[end].missing), unheard, 0))
    add(both("the link's own figure, median", "s", lambda end: _own_latency(run, end)))
    if scenario.soak:
        add(
            both(
                f"mouth to ear, growth {_WHOLE_RUN}",
                "s",
                lambda end: _drift(delays[end].found),
                scenarios.LATENCY_GROWTH,
            )
        )
    result.details["delays"] = {
        end: [[round(item.start, 2), round(item.delay, 4)] for item in delays[end].found]
        for end in ENDS
    }
    result.details["unheard"] = {end: delays[end].missing for end in ENDS}


def _own_latency(run: Run, end: Name) -> float | None:
    values = accounting.series(run.snapshots[_OTHER[end]], "latency", "total")
    return float(np.median(values)) if values else None


def _drift(found: Sequence[Heard]) -> float | None:
    """The median delay of the last fifth against that of the second fifth (the first settles)."""
    fifth = len(found) // 5
    if fifth < 2:
        return None
    late = np.median([item.delay for item in found[-fifth:]])
    early = np.median([item.delay for item in found[fifth : 2 * fifth]])
    return float(abs(late - early))


def _span(run: Run, track: Track, extra: float = 0.0) -> slice:
    """The samples of a track from the beginning of the talk to its end and `extra` seconds."""
    first = round((run.talk_from - track.began) * track.rate)
    last = round((run.talk_to + extra - track.began) * track.rate)
    return slice(max(first, 0), max(last, 0))


def _breaks(run: Run, result: Outcome, offline: Offline | None) -> None:
    """What breaks the sound, against what coding alone does to the same talk."""

    def there(end: Name) -> tuple[float, float]:
        heard = run.tracks[_OTHER[end]]
        span = _span(run, heard, LONGEST)
        level, at = sharpest_break(heard.heard[span])
        return level, (span.start + at) / SAMPLE_RATE

    def excess(end: Name) -> float | None:
        if offline is None:
            return None
        own = max(sharpest_break(each)[0] for each in offline(run.talks[end].samples))
        return there(end)[0] - own

    result.figures.append(both("sharpest break", "dB", lambda end: there(end)[0], digits=1))
    if offline is not None:
        name = "sharpest break over that of coded speech"
        result.figures.append(both(name, "dB", excess, scenarios.BREAKS_DB, 1))
    result.details["break_at"] = {end: there(end)[1] for end in ENDS}


def _quality(run: Run, result: Outcome, offline: Offline) -> None:
    add, phones = result.figures.append, run.scenario.phones
    live = {end: judge_run(run, end, phones) for end in ENDS}
    plain = {end: judge_offline(run, end, offline, phones) for end in ENDS}
    calm = run.scenario.impair == ""
    add(both("utterances", "", lambda end: len(live[end]), digits=0))
    for key in SCORES:
        name = _NAMES[key]
        add(both(f"{name}, through the link", "", lambda end, k=key: mean_score(live[end], k)))
        add(both(f"{name}, coded offline", "", lambda end, k=key: mean_score(plain[end], k)))
        bars = scenarios.QUALITY_LOSS if calm and key == "pesq_nb" else (None, None)
        # Utterance by utterance: the same words, once through the link and once offline.
        losses = {end: _losses(plain[end], live[end], key) for end in ENDS}
        add(both(f"{name}, lost on the way", "", lambda end, d=losses: d[end][0], bars))
        pooled = losses["a"][1] + losses["b"][1]
        mean, low, high, _ = mean_interval(pooled)
        result.remarks.append(
            f"{name} lost on the way, both voices: {mean:.3f}, 95 % interval {low:.3f} to"
            f" {high:.3f} ({len(pooled)} utterances)"
        )
    if phones:
        add(both("phone error rate, link", "", lambda end: phone_error_rate(live[end])))
        add(both("phone error rate, offline", "", lambda end: phone_error_rate(plain[end])))
    result.details["utterances"] = {end: [vars(item) for item in live[end]] for end in ENDS}


def _losses(
    offline: Sequence[Judged], live: Sequence[Judged], key: str
) -> tuple[float, list[float]]:
    """Mean and list of score differences of the utterances both have, in turn."""
    queues: dict[str, list[float]] = {}
    for item in offline:
        queues.setdefault(item.name, []).append(item.scores[key])
    # An utterance is said, and coded, several times: offline it is the mean that counts.
    base = {name: float(np.mean(values)) for name, values in queues.items()}
    gaps = [base[item.name] - item.scores[key] for item in live if item.name in base]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    return (float(np.mean(gaps)) if gaps else math.nan), gaps


def judge_run(run: Run, end: Name, phones: bool) -> list[Judged]:
    """The utterances of one end as they came out of the other's loudspeaker."""
    said = run.tracks[end]
    heard = heard_on_time_axis_of(said, run.tracks[_OTHER[end]])
    # The first clip may be said again later: it is the first time that is wanted.
    starts = find_talk(run.talks[end], said.said, run.talk_from - said.began + _PLAYER_STARTS)
    return judge(run.talks[end], starts, said.said, heard, with_phones=phones)


def judge_offline(run: Run, end: Name, offline: Offline, phones: bool) -> list[Judged]:
    """The same utterances coded offline, once for each alignment of the frames."""
    talk = run.talks[end]
    reach = 0.2
    starts = [utterance.first for utterance in talk.utterances]
    judged: list[Judged] = []
    for decoded in offline(talk.samples):
        heard = np.pad(decoded, (0, round((reach + 1.0) * SAMPLE_RATE)))
        judged += judge(talk, starts, talk.samples, heard, longest=reach, with_phones=phones)
    return judged


def _outage(run: Run, result: Outcome) -> None:
    if run.up_at is None or run.down_at is None:
        return
    up_at = run.up_at
    result.figures.append(
        both(
            "speech heard again after",
            "s",
            lambda end: heard_again(run, end, up_at),
            scenarios.BACK_AFTER,
            2,
        )
    )
    result.figures.append(
        both("link down for", "s", lambda end: up_at - (run.down_at or up_at), digits=1)
    )
    result.details["states"] = {
        end: [[round(s["seconds"], 2), s["state"]] for s in run.snapshots[end]] for end in ENDS
    }


def heard_again(run: Run, end: Name, up_at: float) -> float | None:
    """Seconds from the link's return until what `end` says is heard at the other end again.

    The first moment from which 1.5 s of the loudspeaker are found in what was said before, and
    at which the loudspeaker is not silent.
    """
    said, other = run.tracks[end], run.tracks[_OTHER[end]]
    heard = heard_on_time_axis_of(said, other)
    count = round(_RETURN_WINDOW * SAMPLE_RATE)
    back = round((up_at - said.began) * SAMPLE_RATE)
    quiet = 1e-2 * active_power(heard[: max(back - 20 * SAMPLE_RATE, count)])
    for first in range(back, len(heard) - count, round(_RETURN_STEP * SAMPLE_RATE)):
        part = heard[first : first + count]
        blocks = np.mean(part[: count // 320 * 320].reshape(-1, 320) ** 2, axis=1)
        loud = np.flatnonzero(blocks > quiet)
        if not len(loud):
            continue
        # What was said up to LONGEST before, and not later than it is heard.
        reach = said.said[max(first - round(LONGEST * SAMPLE_RATE), 0) : first + count]
        _, similarity = best_lag(part, reach)
        if similarity >= _RETURN_SIMILARITY:
            return (first - back) / SAMPLE_RATE + float(loud[0]) * 0.02
    return None


def _stranger(run: Run, result: Outcome) -> None:
    account, add = run.stranger or {}, result.figures.append
    seconds = max(float(account["seconds"]), 1e-3)
    add(Figure("garbage packets per second", "1/s", {"a": account["packets"] / seconds}, digits=0))
    add(Figure("connections of the stranger", "", {"a": account["connections"]}, digits=0))
    bar, beyond = scenarios.STRANGER_GETS
    for name, key in (
        ("bytes the stranger got beyond the greeting", "received_bytes"),
        ("messages the stranger got", "received_messages"),
    ):
        add(Figure(name, "", {"a": float(account[key])}, bar, beyond, 0))
    result.details["stranger"] = dict(account)


def _silence(run: Run, result: Outcome) -> None:
    """Once the detector of speech has got used to the room."""

    def bits(end: Name) -> float | None:
        first, last = run.talk_from + scenarios.SILENCE_SETTLES, run.talk_to
        began = first_moment(run, end)
        rates = [
            float(s["talker"]["rate"]["now"])
            for s in run.snapshots[end]
            if first <= began + s["seconds"] <= last
        ]
        return float(np.mean(rates)) if rates else None

    def cpu(end: Name) -> float | None:
        return _cpu(run, end, scenarios.SILENCE_SETTLES)

    result.figures.append(both("CPU, share of a core", "", cpu, scenarios.SILENT_CPU))
    result.figures.append(both("codec bits", "bit/s", bits, scenarios.SILENT_BITS, 0))


def first_moment(run: Run, end: Name) -> float:
    """The monotonic moment at which an end's own clock of seconds began, to about a second."""
    snapshots, usage = run.snapshots[end], run.usage[end]
    return usage[-1].time - float(snapshots[-1]["seconds"]) if snapshots and usage else math.inf


def _cpu(run: Run, end: Name, after: float = 2.0) -> float | None:
    return cpu_share(run.usage[end], run.talk_from + after, run.talk_to)


def _load(run: Run, result: Outcome) -> None:
    add = result.figures.append
    if not run.scenario.silent:
        add(both("CPU, share of a core", "", lambda end: _cpu(run, end)))
        add(
            both(
                "codec bits",
                "bit/s",
                lambda end: accounting.sent_rate(run.snapshots[end]),
                digits=0,
            )
        )
    add(
        both(
            "memory of its own",
            "MB",
            lambda end: run.usage[end][-1].proportional / 1e6 if run.usage[end] else None,
            digits=0,
        )
    )
    add(both("stopped after", "s", lambda end: run.stop_seconds.get(end), digits=1))


def _memory(run: Run, result: Outcome) -> None:
    seconds = run.talk_to - run.talk_from
    settled = run.talk_from + min(300.0, seconds / 3)
    span = min(60.0, seconds / 6)
    result.figures.append(
        both(
            f"memory gained after {settled - run.talk_from:.0f} s",
            "MB",
            lambda end: _megabytes(growth(run.usage[end], settled, span)),
            (scenarios.MEMORY_GROWTH[0] / 1e6, None),
            1,
        )
    )
    result.details["memory"] = {
        end: [[round(u.time - run.talk_from), u.proportional] for u in run.usage[end][::10]]
        for end in ENDS
    }
    for end, count in run.missed.items():
        if count:
            result.remarks.append(
                f"the sound card of {end} itself got {count} samples late from its sound server"
            )


def _megabytes(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _share(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None


def _accounts(run: Run, result: Outcome) -> None:
    """What became of the packets of each voice; the other end counts them."""
    counts = {end: accounting.arrivals(run.snapshots[_OTHER[end]]) for end in ENDS}

    def frames(end: Name) -> float | None:
        snapshots = run.snapshots[end]
        return float(snapshots[-1]["talker"]["frames"]) if snapshots else None

    result.figures.append(both("frames sent", "", frames, digits=0))
    if "loss" in run.scenario.impair:
        share = both(
            "share of frames lost", "", lambda end: _share(counts[end]["lost"], frames(end))
        )
        result.figures.append(share)
    for name in accounting.COUNTERS:
        unit, digits = ("s", 2) if name == "concealed" else ("", 0)
        figure = both(
            name.replace("_", " "), unit, lambda end, n=name: counts[end][n], digits=digits
        )
        result.figures.append(figure)
    if "jitter" in run.scenario.impair and "loss" not in run.scenario.impair:
        result.figures.append(
            both(
                "lost and not for missing its deadline",
                "",
                lambda end: max(counts[end]["lost"] - counts[end]["late"], 0.0),
                scenarios.UNEXPLAINED,
                0,
            )
        )
    for end in ENDS:
        result.gaps += accounting.gaps(run.snapshots[end], end)
    result.gaps.sort(key=lambda gap: gap.seconds)
