"""Calls between two real processes, each with its own sound card and, as root, its own host.

Most tests share one call, because starting two processes takes most of the time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.bench import measures, runs
from stream.bench.laboratory import ENDS, Laboratory, Name, Recording, Setup, await_state
from stream.bench.rig import soundcard
from stream.bench.scenarios import find_scenario
from stream.bench.signals import (
    LONGEST_DELAY,
    Heard,
    best_lag,
    mouth_to_ear,
    sharpest_break,
)
from stream.bench.talks import Talk, find_talk, mean_score, read_clips, score_talk, talk
from stream.bench.telemetry import listener
from stream.link.keys import generate

pytestmark = pytest.mark.skipif(
    soundcard.unavailable() is not None, reason=soundcard.unavailable() or "cards are there"
)

# Few steps of search: what is tested is the link, on machines that may be slow.
SETUP = Setup(iterations=4)
OTHER: dict[str, str] = {"a": "b", "b": "a"}
ATTEMPTS = 4
STOP_SECONDS = 60.0
PATIENCE = 120.0  # seconds; only a machine that is busy needs more than a few


@dataclass
class Hearing:
    """What of one end's talk came out of the other's loudspeaker."""

    found: list[Heard]
    missing: list[float]
    starts: list[int]
    pesq: float
    said: FloatArray
    own: FloatArray  # its loudspeaker meanwhile

    @property
    def understood(self) -> bool:
        """Whether most of it was heard, and well enough."""
        return len(self.found) > len(self.missing) and min(self.starts) >= 0 and self.pesq > 1.5


@dataclass
class Finished:
    """What a call left behind."""

    talks: dict[str, Talk]
    heard: Mapping[Name, Hearing]
    lines: dict[str, list[str]]
    complaints: dict[str, str]
    log: dict[str, str]
    status: dict[str, int]
    stop_seconds: float
    back_after: float | None


@pytest.fixture(scope="module")
def clips(clip_paths):
    return read_clips(clip_paths[0].parent)


@pytest.fixture(scope="module")
def call(clips, tmp_path_factory):
    """Both say a clip; then, with two hosts, the cable is out for a while; b hangs up."""
    folder = tmp_path_factory.mktemp("call")
    talks: dict[str, Talk] = {name: talk(clips, 5.0, first) for name, first in (("a", 0), ("b", 3))}
    with Laboratory(folder) as lab:
        files = {name: talks[name].write(folder / f"{name}.wav") for name in ENDS}
        a, b = lab.connect(SETUP)
        # On a busy machine a sound card may stumble: what was lost to that is said again.
        heard: dict[Name, Hearing] = {}
        for attempt in range(ATTEMPTS):
            channels = speak(lab, files, folder / f"all-{attempt}.wav")
            for name in ENDS:
                if name not in heard or not heard[name].understood:
                    heard[name] = judge(talks[name], channels, name)
            if all(hearing.understood for hearing in heard.values()):
                break
        back_after = None
        if lab.hosts is not None:
            lab.hosts.link_down()
            # Both know that it is, and for how long it stays so does not matter.
            await_state((a, b), "reconnecting", PATIENCE)
            lab.hosts.link_up()
            before = time.monotonic()
            await_state((a, b), "talking", PATIENCE)
            back_after = time.monotonic() - before
            until(lambda: all(listener(end.snapshots()[-1]) for end in (a, b)))
        status, took = b.stop(signal.SIGTERM)
        followed = a.process.wait(PATIENCE)
    return Finished(
        talks,
        heard,
        {end.name: end.statistics.read_text().splitlines() for end in (a, b)},
        {end.name: end.errors.read_text() for end in (a, b)},
        {end.name: end.log.read_text() for end in (a, b)},
        {"a": followed, "b": status},
        took,
        back_after,
    )


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that comes true soon even on a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def speak(lab: Laboratory, files: Mapping[Name, Path], path: Path) -> Any:
    """Both ends say their talks at once; the channels recorded, until the last word was heard."""
    with Recording(lab.cards, path) as recording:
        players = [lab.cards.play(name, files[name]) for name in ENDS]
        for player in players:
            player.wait(PATIENCE)
        said = recording.seconds
        until(lambda: recording.seconds > said + LONGEST_DELAY + 1.0)
    return recording.channels()


def judge(talk: Talk, channels: Any, name: Name) -> Hearing:
    """How the other end heard the talk of end `name`."""
    said, heard = channels[name, "microphone"], channels[OTHER[name], "loudspeaker"]
    starts = find_talk(talk, said)
    scored = score_talk(talk, starts, said, heard)
    found, missing = mouth_to_ear(said, heard, window=2.5, step=1.0)
    pesq, own = mean_score(scored, "pesq_nb"), channels[name, "loudspeaker"]
    return Hearing(found, missing, starts, pesq, said, own)


@pytest.mark.parametrize("name", ENDS)
def test_what_one_says_the_other_hears(call, name):
    hearing = call.heard[name]
    assert hearing.understood, hearing
    # The packet itself, and whatever this machine takes; never before it was said.
    assert all(0.25 < item.delay < 4.0 for item in hearing.found)


@pytest.mark.parametrize("name", ENDS)
def test_nobody_hears_himself_or_a_bang(call, name):
    said, own = call.heard[name].said, call.heard[name].own
    start = call.heard[name].starts[0]
    (utterance,) = call.talks[name].utterances
    part = said[start : start + utterance.last - utterance.first]
    assert best_lag(part, own[start : start + len(part) + 3 * SAMPLE_RATE])[1] < 0.65
    assert np.abs(own).max() < 1.0
    assert sharpest_break(own)[0] < 40.0


@pytest.mark.parametrize("name", ENDS)
def test_statistics_are_one_valid_object_a_second(call, name):
    snapshots = [json.loads(line) for line in call.lines[name]]
    assert len(snapshots) >= 8
    seconds = [snapshot["seconds"] for snapshot in snapshots]
    assert seconds == sorted(seconds)
    assert 0.7 < np.median(np.diff(seconds)) < 2.0
    last = [s for s in snapshots if s["state"] == "talking" and s["listeners"]][-1]
    assert last["preset"] == "2k"
    assert last["link"]["secured"] is True
    assert last["link"]["round_trip"] >= 0.0
    assert last["talker"]["frames"] >= 5
    party = listener(last)
    assert party is not None
    assert party["name"].endswith(f'"{OTHER[name]}"')  # as it says, after where it is
    assert party["arrivals"]["received"] >= 5
    assert party["arrivals"]["rejected"] == 0
    assert 0.25 < party["latency"]["total"] < 4.0
    # Speech at 2 kbit/s and near-silence after it.
    assert 200.0 < last["talker"]["rate"]["average"] < 2300.0


def test_the_call_comes_back_after_the_cable_was_out(call):
    if call.back_after is None:
        pytest.skip("needs network namespaces (root, iproute2)")
    assert call.back_after < 60.0
    for name in ENDS:
        # Of a, whom b hangs up on, not what it says last.
        snapshots = [json.loads(line) for line in call.lines[name]]
        assert [s for s in snapshots if s["state"] == "talking"][-1]["listeners"]


def test_hanging_up_is_clean_on_both_sides(call):
    assert call.status == {"a": 0, "b": 128 + signal.SIGTERM}
    assert call.stop_seconds < STOP_SECONDS
    for name in ENDS:
        assert "Traceback" not in call.complaints[name]
        assert "Traceback" not in call.log[name]
        assert call.log[name].strip()


def test_a_wrong_key_is_reported_on_both_sides_and_ctrl_c_ends_the_listener(tmp_path):
    with Laboratory(tmp_path) as lab:
        a = lab.start("a", SETUP, peer_key=generate().public)
        await_state((a,), "waiting", PATIENCE)
        b = lab.start("b", SETUP)
        status = b.process.wait(PATIENCE)
        until(lambda: "key" in a.log.read_text().lower())
        assert status == 1
        assert "key" in b.last_error().lower()
        # What b itself took, from its first attempt to the verdict: it does not go on trying.
        assert b.snapshots() == [] or b.snapshots()[-1]["seconds"] < 20.0
        assert a.running
        assert a.state() == "waiting"
        status, took = a.stop(signal.SIGINT)
        assert status == 128 + signal.SIGINT
        assert took < STOP_SECONDS
        assert "Traceback" not in a.errors.read_text() + b.errors.read_text()


def test_the_listener_is_not_there(tmp_path):
    """Nobody at the port: the caller keeps trying, and stops at once when told to."""
    with Laboratory(tmp_path) as lab:
        b = lab.start("b", SETUP)
        await_state((b,), "connecting", PATIENCE)
        assert b.stop()[0] == 128 + signal.SIGTERM


@pytest.mark.slow
def test_soak(clips, tmp_path):
    """Six minutes, both directions, sound cards 100 ppm apart."""
    scenario = replace(find_scenario("soak"), seconds=360.0, every=3.0)
    run = runs.run(scenario, Setup(), clips, tmp_path)
    result = measures.measure(run)
    figures: dict[str, Any] = {figure.name: figure.values for figure in result.figures}
    for end in ENDS:
        heard, unheard = figures["windows heard"][end], figures["windows not heard"][end]
        assert unheard <= 0.02 * (heard + unheard)
        assert figures["mouth to ear, growth over the run"][end] < 0.05
        (gained,) = [value[end] for name, value in figures.items() if "memory gained" in name]
        assert gained < 10.0
        spoken = len(run.tracks[end].said) / SAMPLE_RATE
        assert spoken == pytest.approx(365.0, abs=10.0)
    if result.gaps:
        print(result.gaps, file=sys.stderr)


def test_processes_end_with_the_laboratory(tmp_path):
    with Laboratory(tmp_path) as lab:
        process = lab.run("a", ["sleep", "100"], stdout=subprocess.DEVNULL)
        assert process.poll() is None
    assert process.wait(PATIENCE) != 0
