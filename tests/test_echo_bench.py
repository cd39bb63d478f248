"""The echo scenario: rooms that answer, and figures that are right on echoes of known strength."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from codec.signal.samples import SAMPLE_RATE
from stream.bench import echo, measures, report, runs, talks
from stream.bench.laboratory import Setup
from stream.bench.rig import soundcard
from stream.bench.rig.room import ECHO_DB, ECHO_SECONDS, Reverberation, response
from stream.bench.rig.soundcard import VirtualSoundCards
from stream.bench.runs import Run, Track
from stream.bench.scenarios import ECHO_ALONE, find_scenario
from tests.test_link_bench import figure, snapshot

DELAY = 0.45
BEGUN = 2.0  # seconds of the recording before the talk

needs_cards = pytest.mark.skipif(
    soundcard.unavailable() is not None, reason=soundcard.unavailable() or "cards are there"
)


@pytest.fixture(scope="module")
def pair(clip_paths):
    """What a and b say: b first."""
    clips = talks.read_clips(clip_paths[0].parent)
    first, second = talks.turns(clips, 2.0 * ECHO_ALONE + 8.0, ECHO_ALONE)
    return {"a": second, "b": first}


def noise(seconds: float) -> np.ndarray:
    count = round(seconds * SAMPLE_RATE)
    return np.random.default_rng(1).normal(0.0, 0.1, count).astype(np.float32)


def test_a_room_is_short_and_of_known_strength():
    values = response(0)
    assert len(values) == round(ECHO_SECONDS * SAMPLE_RATE)
    sound = noise(2.0)
    back = fftconvolve(sound, values)[: len(sound)]
    strength = 10.0 * np.log10(np.mean(back**2) / np.mean(sound**2))
    assert strength == pytest.approx(ECHO_DB, abs=0.3)
    assert not np.array_equal(values, response(1))


def test_a_reverberation_is_the_convolution_however_it_is_divided():
    sound, room = noise(0.3), Reverberation(response(0))
    pieces = np.split(sound, [1, 5, 165, 1500, 1500, 4000])
    heard = np.concatenate([room.process(piece) for piece in pieces])
    expected = fftconvolve(sound, response(0))[: len(sound)]
    assert np.abs(heard - expected).max() < 1e-5


def test_turns_are_taken(pair):
    for end, turn in (("b", 0.0), ("a", ECHO_ALONE)):
        at = np.array([[each.first, each.last] for each in pair[end].utterances]) / SAMPLE_RATE
        own = (at[:, 0] >= turn) & (at[:, 1] <= turn + ECHO_ALONE)
        both = at[:, 0] >= 2.0 * ECHO_ALONE
        assert own.any() and both.any() and (own | both).all()
        silent = pair[end].samples[: round(turn * SAMPLE_RATE)]
        assert not silent.any()


def call(pair, left_db: float, late: int = 0, begun: float = BEGUN) -> Run:
    """A call whose echoes come back `left_db` stronger than the microphones hear them.

    late: samples by which the players are held up before all talk; begun: seconds of the recording
    before the talk.
    """
    lead, delay = round(begun * SAMPLE_RATE), round(DELAY * SAMPLE_RATE)
    count = max(len(talk.samples) for talk in pair.values()) + lead + late + 6 * SAMPLE_RATE
    said, both = {}, round(2.0 * ECHO_ALONE * SAMPLE_RATE)
    for end, talk in pair.items():
        said[end] = np.zeros(count, np.float32)
        said[end][lead : lead + both] = talk.samples[:both]
        rest = talk.samples[both:]
        said[end][lead + both + late : lead + both + late + len(rest)] = rest

    def later(sound):
        return np.pad(sound, (delay, 0))[:count]

    def echo_of(sound):
        return fftconvolve(sound, response(0))[:count].astype(np.float32)

    other = {"a": "b", "b": "a"}
    echoes = {end: echo_of(later(said[other[end]])) for end in said}
    gain = np.float32(10.0 ** (left_db / 20.0))
    heard = {end: later(said[other[end]] + gain * echoes[other[end]]) for end in said}
    tracks = {end: Track(said[end] + echoes[end], heard[end], 1000.0) for end in said}
    return Run(
        find_scenario("echo"),
        dict(pair),
        256,
        tracks,
        {end: [snapshot(float(t)) for t in range(5)] for end in said},
        {end: [] for end in said},
        1000.0 + begun,
        1000.0 + begun + 2.0 * ECHO_ALONE + 8.0,
        status={"a": 0, "b": 143},
        stop_seconds={"a": 0.1, "b": 0.1},
    )


@pytest.mark.parametrize(("left_db", "late"), [(0.0, 0), (-20.0, 0), (-40.0, 0), (-20.0, 4000)])
def test_what_is_left_of_an_echo_is_found(pair, left_db, late):
    run = call(pair, left_db, late)
    found = echo.measure(run)
    for end in ("a", "b"):
        assert found[end].left_db == pytest.approx(left_db, abs=0.3)
        assert found[end].alone and found[end].together
        delays = [item.delay for item in (*found[end].alone, *found[end].together)]
        assert delays == pytest.approx([DELAY] * len(delays), abs=0.003)
        # What was said is told from what the microphone heard of it and of the echo.
        said = run.tracks[end].said
        assert not said[: round(BEGUN * SAMPLE_RATE)].any()


def test_a_call_that_took_long_to_begin_is_measured_as_well(pair):
    found = echo.measure(call(pair, -20.0, begun=40.0))
    for end in ("a", "b"):
        assert found[end].left_db == pytest.approx(-20.0, abs=0.3)


def test_what_could_not_be_heard_has_no_figure(pair):
    run = call(pair, -20.0)
    for end in ("a", "b"):
        run.tracks[end] = replace(run.tracks[end], said=np.zeros(10 * SAMPLE_RATE, np.float32))
    for found in echo.measure(run).values():
        assert found.left_db is None
        assert np.isnan(found.score("stoi", together=True))


def test_the_scenario_runs_with_and_without_the_front_end(monkeypatch, pair):
    ran = []

    def run(scenario, setup, clips, folder, step):
        ran.append((setup.front_end, folder.is_dir()))
        return call(pair, -40.0 if setup.front_end else 0.0)

    monkeypatch.setattr(runs, "run", run)
    result = measures.run_scenario(find_scenario("echo"), Setup(), [], None)
    assert result.failure is None
    assert ran == [(True, True), (False, True)]
    name = "echo left of the microphone's, {} the front end"
    assert figure(result, name.format("with")).verdict == "met"
    assert figure(result, name.format("without")).verdict == ""
    share = figure(result, "CPU of the front end, share of a core").values
    assert all(0.0 < share[end] < 2.0 for end in ("a", "b"))
    for key in ("PESQ-WB", "STOI"):
        for who in ("one talks", "both talk"):
            values = [
                figure(result, f"{key} while {who}, {way} the front end").values
                for way in ("with", "without")
            ]
            assert all(values[0][end] >= values[1][end] - 0.01 for end in ("a", "b"))
    json.dumps(report.as_dict([result], {}))


def test_a_front_end_can_be_left_out():
    assert not any(option.startswith("--no-") for option in Setup().options("a"))
    off = {"--no-echo-cancellation", "--no-noise-suppression", "--no-gain-control"}
    assert off <= set(Setup(front_end=False).options("a"))


@needs_cards
def test_each_microphone_hears_its_own_loudspeaker(tmp_path):
    """The echo of what one loudspeaker plays, in that one's microphone alone."""
    sound = noise(2.0)
    soundfile.write(tmp_path / "played.wav", sound, SAMPLE_RATE, "FLOAT")
    with VirtualSoundCards(["alice", "bob"], rooms=True) as cards:
        recording = cards.record(tmp_path / "all.wav")
        program = {**os.environ, **cards.environment("bob")}
        subprocess.run(["paplay", tmp_path / "played.wav"], env=program, check=True, timeout=120)
        size, deadline = (tmp_path / "all.wav").stat().st_size, time.monotonic() + 120
        while (tmp_path / "all.wav").stat().st_size < size + 4 * 4 * SAMPLE_RATE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        recording.stop()
        heard, _ = soundfile.read(tmp_path / "all.wav", dtype="float32")
        channels = {
            (name, part): heard[:, cards.channel(name, part)]
            for name in ("alice", "bob")
            for part in ("microphone", "loudspeaker")
        }
    for part in ("microphone", "loudspeaker"):
        assert not channels["alice", part].any()
    played, echoed = channels["bob", "loudspeaker"], channels["bob", "microphone"]
    expected = fftconvolve(played, response(1))[: len(played)]
    size = len(played) + len(echoed)
    products = np.fft.irfft(np.fft.rfft(echoed, size) * np.conj(np.fft.rfft(expected, size)), size)
    lag = int(np.argmax(products[:SAMPLE_RATE]))
    alike = products[lag] / np.sqrt(np.sum(expected**2) * np.sum(echoed**2))
    # On a busy machine the echo may stutter; it is an echo all the same.
    assert alike > 0.5
    assert lag < 0.3 * SAMPLE_RATE
