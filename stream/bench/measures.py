"""Figures of a scenario, from the recordings, statistics and processes of its call."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec.errors import BadInput, SottoError
from codec.files.paths import display_name, os_errors
from codec.packet import FRAME_STEPS, STEP_MS
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation import estimates
from models.evaluation.clips import Clip
from stream.bench import course, echo, runs, scenarios, telemetry
from stream.bench.laboratory import ENDS, Name, Setup
from stream.bench.report import Result
from stream.bench.runs import Run, Step
from stream.bench.scenarios import Scenario
from stream.bench.signals import (
    LONGEST_DELAY,
    Delays,
    Heard,
    active_power,
    best_lag,
    block_powers,
    mouth_to_ear,
    sharpest_break,
)
from stream.bench.talks import (
    SCORES,
    UtteranceScore,
    find_talk,
    mean_score,
    phone_error_rate,
    score_talk,
)

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec

_OTHER: dict[Name, Name] = {"a": "b", "b": "a"}
_PLAYER_STARTS = 8.0  # seconds a player may take to start
ALIGNMENTS = (0, 5461, 10922)  # samples of silence before: a third of a frame each
_RETURN_WINDOW = 1.5
_RETURN_STEP = 0.1
_RETURN_SIMILARITY = 0.7
_OFFLINE_DELAY = 0.2  # seconds, the longest that is looked for in speech coded offline
_NAMES = {"pesq_nb": "PESQ-NB", "pesq_wb": "PESQ-WB", "stoi": "STOI"}


class Offline:
    """Codes talks in one go, as `sotto encode` does; the codec is loaded when first needed.

    Where the frames begin changes the scores of an utterance by tenths, and in a call they begin
    anywhere, so a talk is coded at several alignments.
    """

    def __init__(self, load: Callable[[], SpeechCodec]) -> None:
        self._load = load
        self._codec: SpeechCodec | None = None
        self._known: list[tuple[int, FloatArray, list[FloatArray]]] = []

    def __call__(self, samples: FloatArray, steps: int = FRAME_STEPS) -> list[FloatArray]:
        """The talk [n] coded in packets of `steps` latent steps and decoded: whole frames at each
        of ALIGNMENTS, shorter packets once; taken from one known."""
        for known, before, decoded in self._known:
            same = known == steps and len(samples) <= len(before)
            if same and np.array_equal(before[: len(samples)], samples):
                return [each[: len(samples)] for each in decoded]
        self._codec = codec = self._codec or self._load()
        leads = ALIGNMENTS if steps == FRAME_STEPS else ALIGNMENTS[:1]
        decoded = []
        for lead in leads:
            data = codec.encode(np.pad(samples, (lead, 0)), SAMPLE_RATE, steps=steps)
            decoded.append(codec.decode(data)[lead:])
        self._known.append((steps, samples, decoded))
        return decoded


def run_scenario(
    scenario: Scenario,
    setup: Setup,
    clips: Sequence[Clip],
    offline: Offline | None,
    *,
    keep: str | None = None,
    sounds: bool = False,
    step: Step = lambda text: None,
) -> Result:
    """Run and measure one scenario in a folder of its own; a failure is part of the result.

    offline: None leaves out what is compared with offline coding; keep: a folder for a copy of
    everything it leaves behind; sounds: they are part of the result. Raises BadInput if the copy
    cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix="sotto-bench-"))
    try:
        run = runs.run(scenario, setup, clips, folder, step)
        plain = None
        if scenario.echo:
            step("once more, without the front end")
            without = folder / "without"
            without.mkdir()
            plain = runs.run(scenario, replace(setup, front_end=False), clips, without, step)
        step("measuring")
        result = measure(run, offline) if plain is None else measure_echo(run, plain)
        if sounds and result.course is not None:
            # Only where it has been coded offline already.
            known = None if scenario.soak or scenario.echo else offline
            result.sounds = course.sounds(run, result.course, known)
        return result
    except SottoError as error:
        return Result(scenario, setup.delay, failure=str(error))
    finally:
        try:
            if keep is not None:
                _keep(folder, Path(keep), f"{scenario.name}-{setup.delay}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, place: Path, name: str) -> None:
    """Copy a folder to a new one: NAME in `place`, else NAME-2 and so on."""
    for number in itertools.count(1):
        to = place / (name if number == 1 else f"{name}-{number}")
        if not os.path.lexists(to):
            break
    with os_errors("write", to):
        try:
            shutil.copytree(folder, to)
        except shutil.Error as error:  # of several files; one reason is enough
            raise BadInput(f"cannot write {display_name(to)}: {error.args[0][0][2]}") from error


def measure(run: Run, offline: Offline | None = None) -> Result:
    """All figures of a run; those that compare with offline coding only if `offline` is given."""
    result = Result(run.scenario, run.delay)
    result.add("connected after", "s", lambda _: run.connected_after, digits=1)
    delays: dict[Name, Delays] = {}
    if not run.scenario.silent:
        delays = {end: delays_of(run, end) for end in ENDS}
        _latency(run, result, delays)
        _breaks(run, result, None if run.scenario.soak else offline)
        if run.scenario.quality and offline is not None:
            _quality(run, result, offline)
    result.course = course.course(run, delays)
    if run.outage is not None:
        _outage(run, result, *run.outage)
    if run.unknown_peer is not None:
        _unknown_peer(run, run.unknown_peer, result)
    if run.scenario.soak:
        _memory(run, result)
    _arrivals(run, result)
    _load(run, result)
    for end in ENDS:
        if run.status.get(end) not in (0, 143 if end == "b" else 0):
            result.remarks.append(f"end {end} ended with status {run.status.get(end)}")
    if not run.isolated:
        result.remarks.append("without network namespaces: both ends on the loopback interface")
    return result


def measure_echo(run: Run, plain: Run) -> Result:
    """All figures of a call whose microphones hear an echo, beside those without the front end."""
    share = {end: echo.front_end_share(run.tracks[end].said, run.tracks[end].heard) for end in ENDS}
    ways = {"with": echo.measure(run), "without": echo.measure(plain)}
    result = measure(run)
    result.add("CPU of the front end, share of a core", "", share, scenarios.FRONT_END_CPU)
    for way, found in ways.items():
        name = f"echo left of the microphone's, {way} the front end"
        bars = scenarios.ECHO_LEFT_DB if way == "with" else (None, None)
        result.add(name, "dB", {end: found[end].left_db for end in ENDS}, bars, 1)
    for key in SCORES:
        for together in (False, True):
            for way, found in ways.items():
                who = "both talk" if together else "one talks"
                values = {end: found[end].score(key, together=together) for end in ENDS}
                result.add(f"{_NAMES[key]} while {who}, {way} the front end", "", values)
    result.details["utterances"] = {
        way: {
            end: [vars(item) for item in (*found[end].alone, *found[end].together)] for end in ENDS
        }
        for way, found in ways.items()
    }
    return result


def delays_of(run: Run, end: Name) -> Delays:
    """Mouth-to-ear delays of what `end` says."""
    said, heard = run.tracks[end], run.tracks[_OTHER[end]]
    return mouth_to_ear(
        said.said,
        heard.heard,
        step=run.scenario.every,
        lead=heard.began - said.began,
        rates=(said.rate, heard.rate),
    )


def _latency(run: Run, result: Result, delays: Mapping[Name, Delays]) -> None:
    scenario = run.scenario
    calm = scenario.impair == "" and scenario.trouble != "outage"
    none = (None, None)
    for name, share, bars in (
        ("median", 50, none),
        ("95th percentile", 95, scenarios.LATENCY[run.delay] if calm else none),
        ("largest", 100, none),
    ):
        values = {end: delays[end].percentile(share) for end in ENDS}
        result.add(f"mouth to ear, {name}", "s", values, bars)
    result.add("windows heard", "", lambda end: len(delays[end].found), digits=0)
    bars = scenarios.UNHEARD if calm else none
    result.add("windows not heard", "", lambda end: len(delays[end].missing), bars, 0)
    result.add("the link's own figure, median", "s", lambda end: _own_latency(run, end))
    if scenario.soak:
        name, bars = "mouth to ear, growth over the run", scenarios.LATENCY_GROWTH
        result.add(name, "s", lambda end: _drift(delays[end].found), bars)
    result.details["delays"] = {
        end: [[round(item.start, 2), round(item.delay, 4)] for item in delays[end].found]
        for end in ENDS
    }
    result.details["unheard"] = {end: delays[end].missing for end in ENDS}


def _own_latency(run: Run, end: Name) -> float | None:
    values = telemetry.latencies(run.snapshots[_OTHER[end]])
    return float(np.median(values)) if values else None


def _drift(found: Sequence[Heard]) -> float | None:
    """The median delay of the last fifth against that of the second fifth (the first settles)."""
    fifth = len(found) // 5
    if fifth < 2:
        return None
    late = np.median([item.delay for item in found[-fifth:]])
    early = np.median([item.delay for item in found[fifth : 2 * fifth]])
    return float(abs(late - early))


def _breaks(run: Run, result: Result, offline: Offline | None) -> None:
    """The sharpest break in the sound, against those of the same talk coded offline."""
    level: dict[Name, float] = {}
    excess: dict[Name, float] = {}
    result.details["break_at"] = at = {}
    for end in ENDS:
        track = run.tracks[_OTHER[end]]
        first = max(round((run.talk_from - track.began) * track.rate), 0)
        last = max(round((run.talk_to + LONGEST_DELAY - track.began) * track.rate), 0)
        found, where = sharpest_break(track.heard[first:last])
        level[end], at[end] = found, (first + where) / SAMPLE_RATE
        if offline is not None:
            coded = offline(run.talks[end].samples, run.delay // STEP_MS)
            excess[end] = found - max(sharpest_break(each)[0] for each in coded)
    result.add("sharpest break", "dB", level, digits=1)
    if offline is not None:
        name = "sharpest break over that of coded speech"
        result.add(name, "dB", excess, scenarios.BREAKS_DB, 1)


def _quality(run: Run, result: Result, offline: Offline) -> None:
    with_phones = run.scenario.phones
    steps = run.delay // STEP_MS
    live = {end: score_run(run, end, with_phones) for end in ENDS}
    plain = {end: score_offline(run, end, offline, with_phones, steps) for end in ENDS}
    calm = run.scenario.impair == ""
    result.add("utterances", "", lambda end: len(live[end]), digits=0)
    for key in SCORES:
        name = _NAMES[key]
        for where, scored in (("through the link", live), ("coded offline", plain)):
            values = {end: mean_score(scored[end], key) for end in ENDS}
            result.add(f"{name}, {where}", "", values)
        bars = scenarios.QUALITY_LOSS if calm and key == "pesq_nb" else (None, None)
        losses = {end: _losses(plain[end], live[end], key) for end in ENDS}
        means = {end: float(np.mean(part)) if part else math.nan for end, part in losses.items()}
        result.add(f"{name}, lost on the way", "", means, bars)
        pooled = [*losses["a"], *losses["b"]]
        mean = estimates.mean(pooled)
        result.remarks.append(
            f"{name} lost on the way, both voices: {mean.value:.3f}, 95 % interval {mean.low:.3f} "
            f"to {mean.high:.3f} ({len(pooled)} utterances)"
        )
    if calm and steps < FRAME_STEPS:
        frames = {end: score_offline(run, end, offline, False) for end in ENDS}
        losses = {end: _losses(frames[end], live[end], "pesq_wb") for end in ENDS}
        pooled = [*losses["a"], *losses["b"]]
        # One figure for both voices: an end has a dozen utterances.
        lost: dict[Name, float | None] = {"a": estimates.mean(pooled).value} if pooled else {}
        bars = scenarios.SHORTNESS_LOSS.get(run.delay, (None, None))
        result.add("PESQ-WB, lost against 1024 ms offline, both voices", "", lost, bars)
    if with_phones:
        for where, scored in (("link", live), ("offline", plain)):
            rates = {end: phone_error_rate(scored[end]) for end in ENDS}
            result.add(f"phone error rate, {where}", "", rates)
    result.details["utterances"] = {end: [vars(item) for item in live[end]] for end in ENDS}


def _losses(
    offline: Sequence[UtteranceScore], live: Sequence[UtteranceScore], key: str
) -> list[float]:
    """What each utterance lost on the link: its score offline less that through the link."""
    known: dict[str, list[float]] = {}
    for item in offline:
        known.setdefault(item.name, []).append(item.scores[key])
    # An utterance is coded several times offline: the mean counts.
    base = {name: float(np.mean(values)) for name, values in known.items()}
    gaps = [base[item.name] - item.scores[key] for item in live if item.name in base]
    return [gap for gap in gaps if math.isfinite(gap)]


def score_run(run: Run, end: Name, with_phones: bool) -> list[UtteranceScore]:
    """The utterances of one end as they came out of the other's loudspeaker."""
    said = run.tracks[end]
    heard = run.tracks[_OTHER[end]].heard
    # The first clip may be repeated later; its first occurrence is wanted.
    starts = find_talk(run.talks[end], said.said, run.talk_from - said.began + _PLAYER_STARTS)
    return score_talk(run.talks[end], starts, said.said, heard, with_phones=with_phones)


def score_offline(
    run: Run, end: Name, offline: Offline, with_phones: bool, steps: int = FRAME_STEPS
) -> list[UtteranceScore]:
    """The same utterances coded offline, once for each alignment of the frames."""
    talk = run.talks[end]
    starts = [utterance.first for utterance in talk.utterances]
    scored: list[UtteranceScore] = []
    for decoded in offline(talk.samples, steps):
        heard = np.pad(decoded, (0, round((_OFFLINE_DELAY + 1.0) * SAMPLE_RATE)))
        scored += score_talk(
            talk, starts, talk.samples, heard, longest=_OFFLINE_DELAY, with_phones=with_phones
        )
    return scored


def _outage(run: Run, result: Result, down_at: float, up_at: float) -> None:
    bars = scenarios.BACK_AFTER
    result.add("speech heard again after", "s", lambda end: heard_again(run, end, up_at), bars, 2)
    result.add("link down for", "s", lambda _: up_at - down_at, digits=1)
    result.details["states"] = {
        end: [[round(s["seconds"], 2), s["state"]] for s in run.snapshots[end]] for end in ENDS
    }


def heard_again(run: Run, end: Name, up_at: float) -> float | None:
    """Seconds from the link's return until what `end` says is heard at the other end again.

    The first moment from which 1.5 s of the loudspeaker are found in what was said before, and
    at which the loudspeaker is not silent.
    """
    said, heard = run.tracks[end], run.tracks[_OTHER[end]].heard
    count = round(_RETURN_WINDOW * SAMPLE_RATE)
    back = round((up_at - said.began) * SAMPLE_RATE)
    quiet = 1e-2 * active_power(heard[: max(back - 20 * SAMPLE_RATE, count)])
    for first in range(back, len(heard) - count, round(_RETURN_STEP * SAMPLE_RATE)):
        part = heard[first : first + count]
        loud = np.flatnonzero(block_powers(part) > quiet)
        if not len(loud):
            continue
        # What was said up to LONGEST_DELAY before, and not later than it is heard.
        reach = said.said[max(first - round(LONGEST_DELAY * SAMPLE_RATE), 0) : first + count]
        if best_lag(part, reach)[1] >= _RETURN_SIMILARITY:
            return (first - back) / SAMPLE_RATE + float(loud[0]) * 0.02
    return None


def _unknown_peer(run: Run, account: dict[str, Any], result: Result) -> None:
    rate = account["packets"] / max(float(account["seconds"]), 1e-3)
    result.add("garbage packets per second", "1/s", {"a": rate}, digits=0)
    result.add("connections of the unknown peer", "", {"a": account["connections"]}, digits=0)
    result.add("its idle connections", "", {"a": account["idle"]}, digits=0)
    name = "mouth to ear, 95th percentile, growth by the flood"
    result.add(name, "s", lambda end: _flooded(run, end), scenarios.FLOODED_LATENCY_GROWTH)
    for name, key in (
        ("bytes the unknown peer got beyond the greeting", "received_bytes"),
        ("messages the unknown peer got", "received_messages"),
    ):
        result.add(name, "", {"a": float(account[key])}, scenarios.UNKNOWN_PEER_GETS, 0)
    result.details["stranger"] = dict(account)


def _flooded(run: Run, end: Name) -> float | None:
    """By how many seconds later than before the flood a voice is heard in it."""
    found = delays_of(run, end).found
    begun = run.talk_from - run.tracks[end].began + scenarios.GARBAGE_AT
    calm, flooded = (
        [item.delay for item in found if (item.start < begun) == before] for before in (True, False)
    )
    if not calm or not flooded:
        return None
    return float(np.percentile(flooded, 95) - np.percentile(calm, 95))


def _load(run: Run, result: Result) -> None:
    """CPU, bit rate and memory; in silence, once the activity detector has adapted to the room."""
    silent = run.scenario.silent
    first = run.talk_from + (scenarios.SILENCE_SETTLES if silent else 2.0)

    def cpu(end: Name) -> float | None:
        return telemetry.cpu_share(run.usage[end], first, run.talk_to)

    def bits(end: Name) -> float | None:
        snapshots, usage = run.snapshots[end], run.usage[end]
        if not silent:
            return telemetry.sent(snapshots)[1]
        if not snapshots or not usage:
            return None
        # The moment its own clock of seconds began, to about a second.
        began = usage[-1].time - snapshots[-1]["seconds"]
        inside = [s for s in snapshots if first <= began + s["seconds"] <= run.talk_to]
        return float(np.mean([s["talker"]["rate"]["now"] for s in inside])) if inside else None

    def memory(end: Name) -> float | None:
        return run.usage[end][-1].proportional / 1e6 if run.usage[end] else None

    none = (None, None)
    seconds = run.talk_to - run.talk_from
    talking = run.scenario.trouble == "none" and not silent
    result.add("CPU, share of a core", "", cpu, scenarios.SILENT_CPU if silent else scenarios.CPU)
    result.add("codec bits", "bit/s", bits, scenarios.SILENT_BITS if silent else none, 0)
    if run.traffic:
        ip = {end: 8.0 * count / seconds for end, count in run.traffic.items()}
        bars = scenarios.IP_BITS.get(run.delay, none) if talking else none
        result.add("IP bits sent, on the cable", "bit/s", ip, bars, 0)
    if not silent:
        name = "search steps of a block, median"
        result.add(name, "", lambda end: telemetry.search_steps(run.snapshots[end]), digits=0)
    result.add("memory of its own", "MB", memory, digits=0)
    result.add("stopped after", "s", run.stop_seconds.get, digits=1)


def _memory(run: Run, result: Result) -> None:
    seconds = run.talk_to - run.talk_from
    settled = run.talk_from + min(300.0, seconds / 3)
    span = min(60.0, seconds / 6)

    def gained(end: Name) -> float | None:
        value = telemetry.growth(run.usage[end], settled, span)
        return None if value is None else value / 1e6

    name = f"memory gained after {settled - run.talk_from:.0f} s"
    result.add(name, "MB", gained, scenarios.MEMORY_GROWTH_MB, 1)
    result.details["memory"] = {
        end: [[round(u.time - run.talk_from), u.proportional] for u in run.usage[end][::10]]
        for end in ENDS
    }
    for end, count in run.missed.items():
        if count:
            result.remarks.append(
                f"the sound card of {end} itself got {count} samples late from its sound server"
            )


def _arrivals(run: Run, result: Result) -> None:
    """What became of the packets of each end, as counted by the other."""
    counts = {end: telemetry.arrivals(run.snapshots[_OTHER[end]]) for end in ENDS}
    frames = {end: telemetry.sent(run.snapshots[end])[0] for end in ENDS}
    result.add("frames sent", "", frames, digits=0)
    if "loss" in run.scenario.impair:
        shares = {end: counts[end]["lost"] / (frames[end] or math.nan) for end in ENDS}
        result.add("share of frames lost", "", shares)
    for name in telemetry.COUNTERS:
        unit, digits = ("s", 2) if name == "concealed" else ("", 0)
        values = {end: counts[end][name] for end in ENDS}
        result.add(name.replace("_", " "), unit, values, digits=digits)
    if "jitter" in run.scenario.impair and "loss" not in run.scenario.impair:
        name = "lost and not for missing its deadline"
        unexplained = {end: max(counts[end]["lost"] - counts[end]["late"], 0.0) for end in ENDS}
        result.add(name, "", unexplained, scenarios.UNEXPLAINED, 0)
    for end in ENDS:
        result.gaps += telemetry.gaps(run.snapshots[end], end)
    result.gaps.sort(key=lambda gap: gap.seconds)
