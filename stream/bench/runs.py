"""Running a scenario: the call, the talk, the trouble; what was recorded comes back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.clips import Clip
from stream.bench import unknown_peer
from stream.bench.laboratory import (
    ENDS,
    End,
    Laboratory,
    LaboratoryError,
    Name,
    Recording,
    Setup,
)
from stream.bench.scenarios import (
    GARBAGE_AT,
    GARBAGE_RATE,
    OUTAGE_AT,
    OUTAGE_SECONDS,
    Scenario,
)
from stream.bench.signals import LONGEST_DELAY
from stream.bench.talks import Talk, room_noise, talk
from stream.bench.telemetry import Snapshot, Usage, UsageMonitor

Step = Callable[[str], None]

_SETTLE = 2.0
_FOLLOW = 5.0
_TAIL = LONGEST_DELAY + 1.0
_SOAK_TALK = 120.0


@dataclass
class Track:
    """What one end said and heard, on its own clock: sample k was at began + k / rate (monotonic).

    On the common recording both ends share one clock.
    """

    said: FloatArray
    heard: FloatArray
    began: float
    rate: float = float(SAMPLE_RATE)


@dataclass
class Run:
    """Everything a scenario left behind; times are monotonic.

    status, stop_seconds: how each end ended, and how long it took; outage: when the link went down
    and came back; unknown_peer: its account; missed: samples a sound card itself got late.
    """

    scenario: Scenario
    talks: dict[Name, Talk]
    tracks: dict[Name, Track] = field(default_factory=dict)
    snapshots: dict[Name, list[Snapshot]] = field(default_factory=dict)
    usage: dict[str, list[Usage]] = field(default_factory=dict)
    talk_from: float = 0.0
    talk_to: float = 0.0
    connected_after: float = 0.0
    status: dict[Name, int] = field(default_factory=dict)
    stop_seconds: dict[Name, float] = field(default_factory=dict)
    outage: tuple[float, float] | None = None
    unknown_peer: dict[str, Any] | None = None
    missed: dict[Name, int] = field(default_factory=dict)
    isolated: bool = False


def run(
    scenario: Scenario,
    setup: Setup,
    clips: Sequence[Clip],
    folder: Path,
    step: Step = lambda text: None,
) -> Run:
    """Run a scenario. Raises RigError or LaboratoryError where this machine or the link cannot."""
    setup = replace(setup, impair=scenario.impair)
    if scenario.soak:
        return _soak(scenario, setup, clips, folder, step)
    result = Run(
        scenario,
        {
            name: room_noise(scenario.seconds, seed=k)
            if scenario.silent
            else talk(clips, scenario.seconds, k * (len(clips) // 2))
            for k, name in enumerate(ENDS)
        },
    )
    with Laboratory(folder) as lab:
        if scenario.trouble == "outage" and lab.hosts is None:
            raise LaboratoryError("pulling the cable needs network namespaces (root, iproute2)")
        files = {name: result.talks[name].write(folder / f"{name}-says.wav") for name in ENDS}
        with Recording(lab.cards, folder / "recording.wav") as recording:

            def speak(a: End, b: End) -> None:
                players = [lab.cards.play(name, files[name]) for name in ENDS]
                _make_trouble(result, lab)
                for player in players:
                    player.wait(scenario.seconds + 60.0)

            _call(lab, setup, result, speak, step)
        channels = recording.channels()
        for name in ENDS:
            said, heard = channels[name, "microphone"], channels[name, "loudspeaker"]
            result.tracks[name] = Track(said, heard, recording.began)
    return result


def _call(
    lab: Laboratory, setup: Setup, result: Run, speak: Callable[[End, End], None], step: Step
) -> None:
    """Call, let both ends speak, and hang up; what the ends leave behind goes into the result."""
    step("calling")
    begun = time.monotonic()
    a, b = lab.connect(setup)
    result.connected_after = time.monotonic() - begun
    time.sleep(_SETTLE)
    with UsageMonitor({end.name: end.process.pid for end in (a, b)}) as monitor:
        step("talking")
        result.talk_from = time.monotonic()
        speak(a, b)
        result.talk_to = time.monotonic()
        time.sleep(_TAIL)
        _still_running(a, b)
    step("hanging up")
    _hang_up(a, b, result)
    result.snapshots = {end.name: end.snapshots() for end in (a, b)}
    result.usage = monitor.samples
    result.isolated = lab.hosts is not None


def _still_running(*ends: End) -> None:
    for end in ends:
        if not end.running:
            raise LaboratoryError(
                f"end {end.name} has ended during the call, status {end.process.returncode}:"
                f" {end.last_error()}"
            )


def _hang_up(a: End, b: End, result: Run) -> None:
    """b hangs up and a should follow; it is ended if it does not."""
    result.status["b"], result.stop_seconds["b"] = b.stop()
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        a.process.wait(_FOLLOW)
    result.status["a"], _ = a.stop()
    result.stop_seconds["a"] = time.monotonic() - begun


def _make_trouble(result: Run, lab: Laboratory) -> None:
    """What happens during the talk."""
    scenario = result.scenario
    if scenario.trouble == "outage" and lab.hosts is not None:
        _sleep_until(result.talk_from + OUTAGE_AT)
        lab.hosts.link_down()
        down_at = time.monotonic()
        _sleep_until(down_at + OUTAGE_SECONDS)
        lab.hosts.link_up()
        result.outage = down_at, time.monotonic()
    if scenario.trouble == "garbage":
        _sleep_until(result.talk_from + GARBAGE_AT)
        seconds = scenario.seconds - GARBAGE_AT - 2.0
        argv = unknown_peer.command(*lab.address, GARBAGE_RATE, seconds, lab.pairs["a"].public)
        process = lab.run("b", argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out, _ = process.communicate(timeout=seconds + 30.0)
        if process.returncode:
            raise LaboratoryError(f"the unknown peer has ended with status {process.returncode}")
        result.unknown_peer = json.loads(out)


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))


def _soak(scenario: Scenario, setup: Setup, clips: Sequence[Clip], folder: Path, step: Step) -> Run:
    """On cards with clocks of their own; each repeats a talk of two minutes."""
    skewed = {"a": scenario.skew / 2, "b": -scenario.skew / 2}
    seconds = min(_SOAK_TALK, scenario.seconds)
    result = Run(
        scenario,
        {name: talk(clips, seconds, k * (len(clips) // 2)) for k, name in enumerate(ENDS)},
    )
    began: dict[Name, float] = {}
    before: dict[Name, int] = {}
    with Laboratory(folder, skewed=skewed) as lab:
        files = {name: result.talks[name].write(folder / f"{name}-says.wav") for name in ENDS}
        cards = lab.cards.skewed

        def speak(a: End, b: End) -> None:
            for name in ENDS:
                began[name] = cards[name].start_recording(folder / f"{name}-card.wav")
                before[name] = cards[name].missed
            minutes = 0
            while (now := time.monotonic() - result.talk_from) < scenario.seconds:
                for name in ENDS:
                    if not cards[name].talking:
                        cards[name].say(files[name])
                _still_running(a, b)
                if now // 60 > minutes:
                    minutes = int(now // 60)
                    step(f"minute {minutes}")
                time.sleep(0.2)

        _call(lab, setup, result, speak, step)
        for name in ENDS:
            cards[name].stop_recording()
            result.missed[name] = cards[name].missed - before[name]
    for name in ENDS:
        both, _ = soundfile.read(folder / f"{name}-card.wav", dtype="float32", always_2d=True)
        said, heard = np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
        rate = SAMPLE_RATE * (1.0 + skewed[name] * 1e-6)
        result.tracks[name] = Track(said, heard, began[name], rate)
    return result
