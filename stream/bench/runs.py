"""Running a scenario: the call, the talk, the trouble; what was recorded comes back."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE
from models.evaluation.clips import Clip
from stream.bench import material
from stream.bench.accounting import Snapshot
from stream.bench.alignment import LONGEST
from stream.bench.laboratory import (
    ENDS,
    End,
    Laboratory,
    LaboratoryError,
    Name,
    Recording,
    Setup,
    read_json_line,
)
from stream.bench.material import Talk
from stream.bench.scenarios import (
    GARBAGE_AT,
    GARBAGE_RATE,
    OUTAGE_AT,
    OUTAGE_SECONDS,
    Scenario,
)
from stream.bench.usage import Usage, Watch

Samples = NDArray[np.float32]
Step = Callable[[str], None]

_SETTLE = 2.0
_FOLLOW = 5.0
_TAIL = LONGEST + 1.0
_SOAK_TALK = 120.0


@dataclass
class Track:
    """What one end said and heard, on its own clock: sample k was at began + k / rate (monotonic).

    On the common recording both ends share one clock.
    """

    said: Samples
    heard: Samples
    began: float
    rate: float = float(SAMPLE_RATE)


@dataclass
class Run:
    """Everything a scenario left behind; times are monotonic."""

    scenario: Scenario
    talks: Mapping[Name, Talk]
    tracks: dict[Name, Track]
    snapshots: dict[Name, list[Snapshot]]
    usage: dict[str, list[Usage]]
    talk_from: float
    talk_to: float
    connected_after: float
    status: dict[Name, int] = field(default_factory=dict)
    stop_seconds: dict[Name, float] = field(default_factory=dict)
    down_at: float | None = None
    up_at: float | None = None
    stranger: dict[str, Any] | None = None
    missed: dict[Name, int] = field(default_factory=dict)
    isolated: bool = False


def run(
    scenario: Scenario,
    setup: Setup,
    clips: Sequence[Clip],
    folder: Path,
    step: Step = lambda text: None,
) -> Run:
    """Do it. Raises RigError or LaboratoryError where this machine or the link cannot."""
    setup = replace(setup, impair=scenario.impair)
    if scenario.soak:
        return _soak(scenario, setup, clips, folder, step)
    talks = {
        name: material.room_noise(scenario.seconds, seed=k)
        if scenario.silent
        else material.talk(clips, scenario.seconds, k * (len(clips) // 2))
        for k, name in enumerate(ENDS)
    }
    with Laboratory(folder) as lab:
        if scenario.trouble == "outage" and lab.hosts is None:
            raise LaboratoryError("pulling the cable needs network namespaces (root, iproute2)")
        files = {name: talks[name].write(folder / f"{name}-says.wav") for name in ENDS}
        with Recording(lab.cards, folder / "recording.wav") as recording:
            a, b, connected_after = _connect(lab, setup, step)
            with Watch({end.name: end.process.pid for end in (a, b)}) as watch:
                step("talking")
                talk_from = time.monotonic()
                players = [lab.cards.play(name, files[name]) for name in ENDS]
                trouble = _make_trouble(scenario, lab, setup, talk_from)
                for player in players:
                    player.wait(scenario.seconds + 60.0)
                talk_to = time.monotonic()
                time.sleep(_TAIL)
                _still_running(a, b)
            step("hanging up")
            ended = _hang_up(a, b)
        channels = recording.channels()
        began = recording.began
    tracks = {
        name: Track(channels[name, "microphone"], channels[name, "loudspeaker"], began)
        for name in ENDS
    }
    return _left_behind(
        scenario,
        talks,
        tracks,
        (a, b),
        watch,
        (talk_from, talk_to),
        connected_after,
        ended,
        isolated=lab.isolated,
        **trouble,
    )


def _connect(lab: Laboratory, setup: Setup, step: Step) -> tuple[End, End, float]:
    """Both ends in talk, and how many seconds that took."""
    step("calling")
    begun = time.monotonic()
    a, b = lab.connect(setup)
    seconds = time.monotonic() - begun
    time.sleep(_SETTLE)
    return a, b, seconds


def _left_behind(
    scenario: Scenario,
    talks: Mapping[Name, Talk],
    tracks: dict[Name, Track],
    ends: Sequence[End],
    watch: Watch,
    talked: tuple[float, float],
    connected_after: float,
    ended: tuple[dict[Name, int], dict[Name, float]],
    **more: Any,
) -> Run:
    """What there is after a call; ended: exit status of each end and the seconds it took."""
    return Run(
        scenario,
        talks,
        tracks,
        {end.name: end.snapshots() for end in ends},
        watch.samples,
        *talked,
        connected_after,
        *ended,
        **more,
    )


def _still_running(*ends: End) -> None:
    for end in ends:
        if not end.running:
            raise LaboratoryError(
                f"end {end.name} has ended during the call, status {end.process.returncode}:"
                f" {end.complaint()}"
            )


def _hang_up(a: End, b: End) -> tuple[dict[Name, int], dict[Name, float]]:
    """b hangs up and a should follow; it is told if it does not."""
    status: dict[Name, int] = {}
    took: dict[Name, float] = {}
    status["b"], took["b"] = b.stop()
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        a.process.wait(_FOLLOW)
    status["a"], _ = a.stop()
    took["a"] = time.monotonic() - begun
    return status, took


def _make_trouble(
    scenario: Scenario, lab: Laboratory, setup: Setup, talk_from: float
) -> dict[str, Any]:
    """What happens during the talk; returns the fields of Run it fills."""
    if scenario.trouble == "outage" and lab.hosts is not None:
        _sleep_until(talk_from + OUTAGE_AT)
        lab.hosts.link_down()
        down_at = time.monotonic()
        _sleep_until(down_at + OUTAGE_SECONDS)
        lab.hosts.link_up()
        return {"down_at": down_at, "up_at": time.monotonic()}
    if scenario.trouble == "garbage":
        _sleep_until(talk_from + GARBAGE_AT)
        seconds = scenario.seconds - GARBAGE_AT - 2.0
        host, port = lab.address
        argv = [sys.executable, "-m", "stream.bench.unknown_peer", host, str(port)]
        argv += ["--rate", str(GARBAGE_RATE), "--seconds", str(seconds)]
        if setup.keyed:
            argv += [f"--server-key={lab.pairs['a'].public}"]
        stranger = lab.run("b", argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out, _ = stranger.communicate(timeout=seconds + 30.0)
        return {"stranger": read_json_line(out)}
    return {}


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))


def _soak(scenario: Scenario, setup: Setup, clips: Sequence[Clip], folder: Path, step: Step) -> Run:
    """On cards with clocks of their own; each repeats a talk of two minutes."""
    skewed = {"a": scenario.skew / 2, "b": -scenario.skew / 2}
    talks = {
        name: material.talk(clips, min(_SOAK_TALK, scenario.seconds), k * (len(clips) // 2))
        for k, name in enumerate(ENDS)
    }
    with Laboratory(folder, skewed=skewed) as lab:
        files = {name: talks[name].write(folder / f"{name}-says.wav") for name in ENDS}
        cards = lab.cards.skewed
        a, b, connected_after = _connect(lab, setup, step)
        began = {}
        for name in ENDS:
            before = cards[name].position
            while cards[name].position == before:
                time.sleep(0.0005)
            began[name] = time.monotonic()
            cards[name].start_recording(folder / f"{name}-card.wav")
        missed = {name: cards[name].missed for name in ENDS}
        with Watch({end.name: end.process.pid for end in (a, b)}) as watch:
            talk_from = time.monotonic()
            told = 0
            while (now := time.monotonic() - talk_from) < scenario.seconds:
                for name in ENDS:
                    if not cards[name].talking:
                        cards[name].say(files[name])
                _still_running(a, b)
                if now // 60 > told:
                    told = int(now // 60)
                    step(f"minute {told}")
                time.sleep(0.2)
            talk_to = time.monotonic()
            time.sleep(_TAIL)
            _still_running(a, b)
        missed = {name: cards[name].missed - missed[name] for name in ENDS}
        for name in ENDS:
            cards[name].stop_recording()
        step("hanging up")
        ended = _hang_up(a, b)
    tracks: dict[Name, Track] = {}
    for name in ENDS:
        both, _ = soundfile.read(folder / f"{name}-card.wav", dtype="float32", always_2d=True)
        said, heard = np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
        tracks[name] = Track(said, heard, began[name], SAMPLE_RATE * (1.0 + skewed[name] * 1e-6))
    return _left_behind(
        scenario,
        talks,
        tracks,
        (a, b),
        watch,
        (talk_from, talk_to),
        connected_after,
        ended,
        isolated=lab.isolated,
        missed=missed,
    )
