"""Runs of a scenario: the call, its speech and its impairments; recordings as the result."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codec.packet import CALL_DELAY
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.clips import Clip
from stream.bench import scenarios, unknown_peer
from stream.bench.laboratory import ENDS, End, Laboratory, LaboratoryError, Name, Recording, Setup
from stream.bench.scenarios import Scenario
from stream.bench.signals import LONGEST_DELAY
from stream.bench.talks import Talk, room_noise, talk, turns
from stream.bench.telemetry import Snapshot, Usage, UsageMonitor

Step = Callable[[str], None]

_SETTLE = 2.0
_FOLLOW = 5.0
_TAIL = LONGEST_DELAY + 1.0
_SOAK_TALK = 120.0
_ROOM_DB, _ROOM_SECONDS = -72.0, 300.0  # noise of a quiet room, longer than connecting and talking


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

    delay: milliseconds of speech in a packet; status, stop_seconds: how each end ended, and how
    long it took; outage: when the link went down and came back; unknown_peer: its account; missed:
    samples a sound card itself got late; traffic: bytes of IP that each end sent during the talk;
    clocks: when the seconds of its statistics began.
    """

    scenario: Scenario
    talks: dict[Name, Talk]
    delay: int = CALL_DELAY
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
    traffic: dict[Name, int] = field(default_factory=dict)
    clocks: dict[Name, float] = field(default_factory=dict)
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
    result = Run(scenario, _talks(scenario, clips), setup.delay)
    skewed = {"a": scenario.skew / 2, "b": -scenario.skew / 2} if scenario.soak else None
    with Laboratory(folder, skewed=skewed, rooms=scenario.echo) as lab:
        files = {name: result.talks[name].write(folder / f"{name}-says.wav") for name in ENDS}
        (_soak if scenario.soak else _short)(lab, setup, result, files, step)
    return result


def _talks(scenario: Scenario, clips: Sequence[Clip]) -> dict[Name, Talk]:
    """What each end says; they are half of the clips apart."""
    if scenario.silent:
        return {name: room_noise(scenario.seconds, seed=k) for k, name in enumerate(ENDS)}
    if scenario.echo:
        second, first = ENDS
        pair = turns(clips, scenario.seconds, scenarios.ECHO_ALONE)
        return dict(zip((first, second), pair, strict=True))
    seconds = min(_SOAK_TALK, scenario.seconds) if scenario.soak else scenario.seconds
    return {name: talk(clips, seconds, k * (len(clips) // 2)) for k, name in enumerate(ENDS)}


def _short(
    lab: Laboratory, setup: Setup, result: Run, files: Mapping[Name, Path], step: Step
) -> None:
    """Both say their talk once, on cards with one clock."""
    if result.scenario.trouble == "outage" and lab.hosts is None:
        raise LaboratoryError("pulling the cable needs network namespaces (root, iproute2)")

    def speak(a: End, b: End) -> None:
        players = [lab.cards.play(name, files[name]) for name in ENDS]
        _make_trouble(result, lab)
        for player in players:
            player.wait(result.scenario.seconds + 60.0)

    with _rooms(lab), Recording(lab.cards, lab.folder / "recording.wav") as recording:
        _call(lab, setup, result, speak, step)
    channels = recording.channels()
    for name in ENDS:
        said, heard = channels[name, "microphone"], channels[name, "loudspeaker"]
        result.tracks[name] = Track(said, heard, recording.began)


@contextlib.contextmanager
def _rooms(lab: Laboratory) -> Iterator[None]:
    """Every microphone hears the noise of its room, also before and after the talk."""
    with contextlib.ExitStack() as stack:
        for seed, name in enumerate(ENDS):
            noise = room_noise(_ROOM_SECONDS, _ROOM_DB, 10 + seed)
            path = noise.write(lab.folder / f"room-{name}.wav")
            stack.callback(lab.cards.play(name, path).stop)
        yield


def _soak(
    lab: Laboratory, setup: Setup, result: Run, files: Mapping[Name, Path], step: Step
) -> None:
    """Each repeats its talk, on a card with a clock of its own."""
    cards, seconds = lab.cards.skewed, result.scenario.seconds
    began: dict[Name, float] = {}
    before: dict[Name, int] = {}
    recordings = {name: lab.folder / f"{name}-card.wav" for name in ENDS}

    def speak(a: End, b: End) -> None:
        for name in ENDS:
            began[name] = cards[name].start_recording(recordings[name])
            before[name] = cards[name].missed
        minutes = 0
        while (now := time.monotonic() - result.talk_from) < seconds:
            for end in (a, b):
                end.check_running()
                if not cards[end.name].talking:
                    cards[end.name].say(files[end.name])
            if now // 60 > minutes:
                minutes = int(now // 60)
                step(f"minute {minutes}")
            time.sleep(0.2)

    _call(lab, setup, result, speak, step)
    for name in ENDS:
        cards[name].stop_recording()
        result.missed[name] = cards[name].missed - before[name]
        both, _ = soundfile.read(recordings[name], dtype="float32", always_2d=True)
        said, heard = np.ascontiguousarray(both.T)
        rate = SAMPLE_RATE * (1.0 + cards[name].ppm * 1e-6)
        result.tracks[name] = Track(said, heard, began[name], rate)


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
        before = _sent(lab)
        result.talk_from = time.monotonic()
        speak(a, b)
        result.talk_to = time.monotonic()
        result.traffic = {name: count - before[name] for name, count in _sent(lab).items()}
        time.sleep(_TAIL)
        for end in (a, b):
            end.check_running()
    step("hanging up")
    result.status["b"], result.stop_seconds["b"] = b.stop()
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        a.process.wait(_FOLLOW)  # it should follow; it is ended if it does not
    result.status["a"], _ = a.stop()
    result.stop_seconds["a"] = time.monotonic() - begun
    result.snapshots = {end.name: end.snapshots() for end in (a, b)}
    clocks = {end.name: end.clock() for end in (a, b)}
    result.clocks = {name: clock for name, clock in clocks.items() if clock is not None}
    result.usage = monitor.samples
    result.isolated = lab.hosts is not None


def _sent(lab: Laboratory) -> dict[Name, int]:
    """Bytes of IP that each end has sent so far; none where both share a host."""
    return {name: lab.hosts.sent(name).bytes for name in ENDS} if lab.hosts is not None else {}


def _make_trouble(result: Run, lab: Laboratory) -> None:
    """Pull the cable or flood the port during the talk, if the scenario says so."""
    scenario = result.scenario
    if scenario.trouble == "outage" and lab.hosts is not None:
        _sleep_until(result.talk_from + scenarios.OUTAGE_AT)
        lab.hosts.link_down()
        down_at = time.monotonic()
        _sleep_until(down_at + scenarios.OUTAGE_SECONDS)
        lab.hosts.link_up()
        result.outage = down_at, time.monotonic()
    if scenario.trouble == "garbage":
        _sleep_until(result.talk_from + scenarios.GARBAGE_AT)
        seconds = scenario.seconds - scenarios.GARBAGE_AT - 2.0
        argv = unknown_peer.command(
            *lab.address,
            scenarios.GARBAGE_RATE,
            seconds,
            lab.pairs["a"].public,
            scenarios.GARBAGE_IDLE,
        )
        process = lab.run("b", argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out, _ = process.communicate(timeout=seconds + 30.0)
        if process.returncode:
            raise LaboratoryError(f"the unknown peer has ended with status {process.returncode}")
        result.unknown_peer = json.loads(out)


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))
