"""The link benchmark measures what it claims to, on known sounds, files and ports."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import tempfile
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from codec.errors import BadInput, SottoError
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from stream.bench import course as course_module
from stream.bench import measures, report, runs, talks, telemetry, unknown_peer
from stream.bench.rig.soundcard import unavailable as no_cards
from stream.bench.runs import Run, Track
from stream.bench.scenarios import SCENARIOS, find_scenario
from stream.bench.signals import best_lag, locate, mouth_to_ear, sharpest_break
from stream.bench.talks import find_talk, mean_score, score_talk
from stream.bench.telemetry import Usage
from stream.link.impairment import parse_impairment
from tui import cli


@pytest.fixture(scope="module")
def clips(clip_paths):
    return talks.read_clips(clip_paths[0].parent)


@pytest.fixture(scope="module")
def talk(clips):
    return talks.talk(clips, 16.0)


@pytest.fixture(scope="module")
def coded(talk):
    """The talk after 2 kbit/s, [n]; the codec adds no delay."""
    codec = SpeechCodec.load("2k", "cpu")
    return codec.decode(codec.encode(talk.samples, SAMPLE_RATE, search=False))


@pytest.fixture(scope="module")
def brief(clips):
    """A beginning of the talk."""
    return talks.talk(clips, 9.0)


@pytest.fixture(scope="module")
def brief_coded(brief, coded):
    return coded[: len(brief.samples)]


def late(samples, seconds, room=5.0):
    before = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    return np.concatenate([before, samples, np.zeros(round(room * SAMPLE_RATE), np.float32)])


@pytest.mark.parametrize("delay", [0.0, 1.1735, 1.4742, 3.2])
def test_the_delay_of_coded_speech_is_found_to_two_milliseconds(talk, coded, delay):
    found, missing = mouth_to_ear(talk.samples, late(0.3 * coded, delay))
    assert len(found) >= 8
    assert missing == []
    delays = np.array([item.delay for item in found])
    assert np.abs(delays - delay).max() < 0.002
    assert min(item.similarity for item in found) > 0.85


def test_a_delay_that_changes_is_followed(talk, coded):
    cut = 8 * SAMPLE_RATE
    heard = np.concatenate([late(coded[:cut], 1.2, 0.0), np.zeros(1600, np.float32), coded[cut:]])
    found, _ = mouth_to_ear(talk.samples, late(heard, 0.0), window=2.0)
    before = [item.delay for item in found if item.start < 5.9]
    after = [item.delay for item in found if item.start > 8.1]
    assert before == pytest.approx([1.2] * len(before), abs=0.002)
    assert after == pytest.approx([1.3] * len(after), abs=0.002)
    assert before
    assert after


def test_what_was_not_heard_is_missing(talk, coded):
    heard = late(coded, 1.2)
    heard[round(6.0 * SAMPLE_RATE) : round(10.0 * SAMPLE_RATE)] = 0.0
    found, missing = mouth_to_ear(talk.samples, heard, window=2.0)
    assert missing
    assert all(4.0 < start < 9.0 for start in missing)
    assert len(found) >= 5
    # Another's voice is no echo.
    _, nobody = mouth_to_ear(talk.samples, late(np.roll(coded, 9 * SAMPLE_RATE), 0.0))
    assert len(nobody) >= 5


def test_silence_has_no_delay():
    nothing = np.zeros(8 * SAMPLE_RATE, np.float32)
    assert mouth_to_ear(nothing, nothing) == ([], [])
    assert best_lag(nothing[:16000], nothing) == (0.0, 0.0)


def test_a_talk_is_found_in_the_recording_of_a_microphone(talk):
    recording = late(0.5 * talk.samples, 2.34)
    # The player fell behind once, by 50 ms, in a pause.
    second = talk.utterances[1].first + round(2.34 * SAMPLE_RATE) - 4000
    recording = np.insert(recording, second, np.zeros(800, np.float32))
    starts = find_talk(talk, recording)
    lead = round(2.34 * SAMPLE_RATE)
    assert starts[0] == talk.utterances[0].first + lead
    assert starts[1:] == [u.first + lead + 800 for u in talk.utterances[1:]]
    # Said twice, it is the first time that is found.
    twice = np.concatenate([recording, recording])
    assert find_talk(talk, twice, 10.0)[0] == starts[0]
    assert find_talk(talk, np.zeros_like(recording)) == [-1] * len(talk.utterances)
    assert locate(talk.samples[:1600], np.zeros(100, np.float32), 0, 50)[1] == 0.0


def test_quality_does_not_depend_on_delay_and_level_but_on_loss(talk, coded):
    starts = [utterance.first for utterance in talk.utterances]
    plain = score_talk(talk, starts, talk.samples, late(coded, 0.4), with_phones=True)
    delayed = score_talk(talk, starts, talk.samples, late(0.5 * coded, 1.2))
    assert len(plain) == len(delayed) == len(talk.utterances)
    assert mean_score(delayed, "pesq_nb") == pytest.approx(mean_score(plain, "pesq_nb"), abs=0.02)
    assert [item.delay for item in delayed] == pytest.approx([1.2] * len(starts), abs=0.002)
    assert 0 < sum(item.phone_errors for item in plain) < sum(item.phones for item in plain)
    holes = late(coded, 1.2)
    holes[: len(holes) // 3200 * 3200].reshape(-1, 3200)[:, :1000] = 0.0
    assert mean_score(score_talk(talk, starts, talk.samples, holes), "pesq_nb") < 0.8 * mean_score(
        plain, "pesq_nb"
    )


def test_a_click_stands_out_of_coded_speech(coded):
    own, _ = sharpest_break(coded)
    click = coded.copy()
    click[90_000] += 0.5
    level, at = sharpest_break(click)
    assert level > own + 3.0
    assert abs(at - 90_000) <= 20
    # The level of the whole does not matter, and neither does a beginning out of silence.
    assert sharpest_break(0.1 * click)[0] == pytest.approx(level, abs=0.1)
    assert sharpest_break(late(coded, 0.1))[0] == pytest.approx(own, abs=1.0)
    assert sharpest_break(np.zeros(16_000, np.float32)) == (-math.inf, 0)
    assert sharpest_break(coded[:100]) == (-math.inf, 0)


def test_a_talk_is_coded_once_and_its_beginning_reused(talk):
    coded = []

    class Codec:
        def encode(self, samples, rate, steps):
            coded.append((steps, len(samples)))
            return samples

        def decode(self, data):
            return 0.5 * data

    offline = measures.Offline(Codec)  # type: ignore[arg-type]
    whole = offline(talk.samples)
    for each in whole:
        np.testing.assert_array_equal(each, 0.5 * talk.samples)
    np.testing.assert_array_equal(offline(talk.samples[:5000])[2], whole[2][:5000])
    np.testing.assert_array_equal(offline(talk.samples[9000:])[1], 0.5 * talk.samples[9000:])
    lengths = [(16, len(talk.samples) + lead) for lead in measures.ALIGNMENTS]
    assert coded == lengths + [(16, length - 9000) for _, length in lengths]
    # Where short packets begin hardly matters.
    (short,) = offline(talk.samples, 4)
    np.testing.assert_array_equal(short, 0.5 * talk.samples)
    assert coded[-1] == (4, len(talk.samples))


def test_talks_repeat_and_are_never_empty(clips):
    assert len(talks.talk(clips, 0.1).utterances) == 1
    long = talks.talk(clips, 60.0, first=3)
    assert [u.name for u in long.utterances[:2]] == [clips[3].name, clips[4].name]
    assert len(long.utterances) > len(clips)
    assert long.seconds <= 61.0
    with pytest.raises(BadInput):
        talks.talk([], 1.0)
    noise = talks.room_noise(2.0, -60.0).samples
    assert 10 * np.log10(np.mean(noise**2)) == pytest.approx(-60.0, abs=0.1)


def snapshot(seconds, *, overflows=0, underruns=0, lost=0, late=0, rate=140.0):
    counts = dict.fromkeys(telemetry.COUNTERS, 0)
    return {
        "state": "talking",
        "seconds": seconds,
        "talker": {
            "overflows": overflows,
            "frames": 40,
            "active": True,
            "steps": 12,
            "rate": {"average": 1990.0, "now": rate},
        },
        "listeners": [
            {
                "arrivals": {**counts, "underruns": underruns, "lost": lost, "late": late},
                "latency": {"total": 1.25},
            }
        ],
    }


def test_gaps_are_listed_when_they_happen():
    lines = [snapshot(1.0), snapshot(2.0, underruns=2), snapshot(3.0, underruns=2, overflows=1)]
    assert telemetry.gaps(lines, "a") == [
        telemetry.Gap(2.0, "a", "underrun", 2),
        telemetry.Gap(3.0, "a", "overflow", 1),
    ]
    assert telemetry.gaps([{**snapshot(1.0), "listeners": []}], "a") == []


def test_statistics_files_are_checked(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text(json.dumps(snapshot(1.0)) + "\n" + '{"half')
    assert len(telemetry.read_snapshots(path)) == 1
    path.write_text("[1]\n")
    with pytest.raises(BadInput, match="line 1"):
        telemetry.read_snapshots(path)
    path.write_text("{}\nno\n")
    with pytest.raises(BadInput, match="line 2"):
        telemetry.read_snapshots(path)
    with pytest.raises(BadInput):
        telemetry.read_snapshots(tmp_path / "nothing")


def test_what_a_process_takes():
    with telemetry.UsageMonitor({"me": os.getpid(), "nobody": 2**22 + 1}, 0.01) as watch:
        mine = watch.samples["me"]
        deadline = time.monotonic() + 120.0
        while not mine or mine[-1].cpu - mine[0].cpu < 0.2:
            assert time.monotonic() < deadline
    assert watch.samples["nobody"] == []
    assert 1 << 20 < mine[-1].proportional < 1 << 34
    share = telemetry.cpu_share(mine, mine[0].time, mine[-1].time)
    assert share is not None
    assert 0.0 < share < 4.0
    assert telemetry.cpu_share(mine, mine[-1].time + 1, mine[-1].time + 2) is None


def test_growth_is_of_medians_after_settling():
    flat = [Usage(float(t), 0.0, 100 + (50 if t < 30 else 0)) for t in range(200)]
    assert telemetry.growth(flat, 30.0, 20.0) == 0.0
    leak = [Usage(float(t), 0.0, 10 * t) for t in range(200)]
    assert telemetry.growth(leak, 30.0, 20.0) == pytest.approx(1500.0, abs=10)
    assert telemetry.growth(leak, 180.0, 20.0) is None
    assert telemetry.growth([], 0.0) is None


def synthetic(scenario, talk, coded, *, delay=1.19, hole=None, snapshots=None):
    """A run in which both ends say the talk and hear the other's after `delay`."""
    began = 1000.0
    heard = late(coded, 3.0 + delay)
    if hole is not None:
        heard[round(hole[0] * SAMPLE_RATE) : round(hole[1] * SAMPLE_RATE)] = 0.0
    said = late(talk.samples, 3.0, 5.0 + delay)
    samples = [Usage(began + t, 0.1 * t, 10**8) for t in range(40)]
    snapshots = snapshots or [snapshot(float(t)) for t in range(30)]
    return Run(
        scenario,
        {"a": talk, "b": talk},
        1024,
        {"a": Track(said, heard, began), "b": Track(said, heard, began)},
        {"a": snapshots, "b": snapshots},
        {"a": samples, "b": samples},
        began + 3.0,
        began + 3.0 + talk.seconds,
        2.0,
        {"a": 0, "b": 143},
        {"a": 0.1, "b": 0.1},
    )


def figure(result, name):
    (found,) = [item for item in result.figures if item.name == name]
    return found


def test_figures_of_a_calm_call(brief, brief_coded):
    result = measures.measure(synthetic(find_scenario("quiet-network"), brief, brief_coded))
    p95 = figure(result, "mouth to ear, 95th percentile")
    assert p95.values == pytest.approx({"a": 1.19, "b": 1.19}, abs=0.002)
    assert p95.verdict == "met"
    assert figure(result, "windows not heard").verdict == "met"
    assert all(math.isfinite(v) for v in figure(result, "sharpest break").values.values())
    assert figure(result, "CPU, share of a core").values == pytest.approx({"a": 0.1, "b": 0.1})
    assert result.gaps == []
    slow = measures.measure(
        synthetic(find_scenario("quiet-network"), brief, brief_coded, delay=1.6)
    )
    assert figure(slow, "mouth to ear, 95th percentile").verdict == "missed"


def course_of(run):
    result = measures.measure(run)
    assert result.course is not None
    return result.course


def test_the_course_of_a_call(brief, brief_coded):
    counts = [snapshot(0.0), snapshot(6.0, lost=2), snapshot(7.0, lost=2, underruns=1)]
    run = synthetic(find_scenario("outage"), brief, brief_coded, snapshots=counts)
    run.clocks = {"a": 1000.5, "b": 1001.0}
    run.outage = 1005.0, 1007.5
    course = course_of(run)
    # The talk begins three seconds into the recording; what a says is counted by b.
    assert course.outage == (2.0, 4.5)
    assert course.lost == {"a": [(4.0, 2.0)], "b": [(3.5, 2.0)]}
    assert course.shown["b"][0] == (-2.5, 1.25)
    assert [(gap.seconds, gap.end) for gap in course.gaps] == [(4.5, "a"), (5.0, "b")]
    assert [at for at, _ in course.delays["a"]] == pytest.approx([0.0, 1.5, 3.0, 4.5], abs=1.5)
    assert [value for _, value in course.delays["a"]] == pytest.approx([1.19] * 4, abs=0.002)
    assert course.seconds == pytest.approx(brief.seconds)
    run.clocks = {}
    assert course_of(run).lost == {"a": [], "b": []}


def test_what_was_heard_begins_with_what_was_said(brief, brief_coded):
    run = synthetic(find_scenario("quiet-network"), brief, 0.5 * brief_coded)
    course = course_of(run)
    sounds = course_module.sounds(run, course, lambda samples, steps: [0.5 * samples])
    assert sorted(sounds) == ["a", "b"]
    voice = sounds["a"]
    np.testing.assert_array_equal(voice.said, brief.samples)
    np.testing.assert_array_equal(voice.offline, 0.5 * brief.samples)
    assert voice.delay == pytest.approx(1.19, abs=0.002)
    # At the level of the loudspeaker, within the error of the measured delay.
    lag, _ = best_lag(voice.said, np.pad(voice.heard, (160, 160)))
    assert lag == pytest.approx(0.01, abs=0.003)
    assert np.abs(voice.heard).max() == pytest.approx(0.5 * np.abs(brief_coded).max(), rel=0.01)
    silence = np.zeros_like(run.tracks["b"].heard)
    run.tracks["b"] = replace(run.tracks["b"], heard=silence)
    course = course_of(run)
    assert sorted(course_module.sounds(run, course)) == ["b"]


def test_the_moment_speech_is_heard_again(talk, coded):
    run = synthetic(find_scenario("outage"), talk, coded, hole=(8.0, 13.0))
    began = run.tracks["a"].began
    run.outage = began + 7.0, began + 12.0
    result = measures.measure(run)
    again = figure(result, "speech heard again after")
    # In the recording it is at 13.0, or a little later if a pause begins there.
    assert all(0.9 <= value <= 1.7 for value in again.values.values())
    run.tracks["a"].heard[:] = run.tracks["b"].heard[:] = 0.0
    assert figure(measures.measure(run), "speech heard again after").verdict == "missed"


def test_two_clocks_are_no_delay(talk, coded):
    run = synthetic(replace(find_scenario("soak"), every=1.5), talk, coded)
    # b's card began half a second later, and counts faster than true by half a percent.
    fast = 1.005
    positions = np.arange(len(run.tracks["b"].heard)) / fast
    stretched = np.interp(positions, np.arange(len(run.tracks["a"].heard)), run.tracks["a"].heard)
    cut = round(0.5 * SAMPLE_RATE * fast)
    run.tracks["b"] = Track(
        run.tracks["b"].said, stretched[cut:].astype(np.float32), 1000.5, SAMPLE_RATE * fast
    )
    found = measures.delays_of(run, "a").found
    assert len(found) >= 6
    # Within 3 s half a percent is 15 ms, of which the middle is found.
    assert [item.delay for item in found] == pytest.approx([1.2] * len(found), abs=0.02)


def test_silence_and_unknown_peers_have_their_figures(talk, coded, brief, brief_coded):
    run = synthetic(find_scenario("silence"), talk, coded)
    run.talk_to += 10.0
    assert figure(measures.measure(run), "CPU, share of a core").verdict == "met"
    assert figure(measures.measure(run), "codec bits").verdict == "met"
    run = synthetic(find_scenario("garbage"), brief, brief_coded)
    account = unknown_peer.Account(1000, 5, 5, 0, 1, 7, 2.0)
    run.unknown_peer = vars(account)
    result = measures.measure(run)
    assert figure(result, "garbage packets per second").values == {"a": 500.0}
    assert figure(result, "bytes the unknown peer got beyond the greeting").verdict == "met"
    assert figure(result, "messages the unknown peer got").verdict == "missed"
    assert figure(result, "its idle connections").values == {"a": 7}


def test_jitter_explains_what_was_lost(brief, brief_coded):
    explained = [snapshot(9.0, lost=3, late=3)]
    run = synthetic(find_scenario("jitter"), brief, brief_coded, snapshots=explained)
    name = "lost and not for missing its deadline"
    assert figure(measures.measure(run), name).verdict == "met"
    run = synthetic(find_scenario("jitter"), brief, brief_coded, snapshots=[snapshot(9.0, lost=3)])
    assert figure(measures.measure(run), name).verdict == "missed"


def test_verdicts():
    def verdict(value, bar=1.0, beyond=0.5):
        return report.Figure("x", "s", {"a": value, "b": 0.1}, bar, beyond).verdict

    assert verdict(0.4) == "beyond"
    assert verdict(0.7) == "met"
    assert verdict(1.1) == "missed"
    assert verdict(None) == "missed"
    assert verdict(math.nan) == "missed"
    assert verdict(9.0, None, None) == ""


def test_tables_and_json_hold_every_figure(brief, brief_coded, capsys):
    result = measures.measure(synthetic(find_scenario("jitter"), brief, brief_coded))
    result.gaps = [telemetry.Gap(3.0, "a", "underrun", 2)] * 30
    failed = report.Result(find_scenario("outage"), failure="no [namespaces]")
    for item in (result, failed):
        report.print_result(item, sys.stdout)
    shown = capsys.readouterr().out
    assert "mouth to ear, median [s]" in shown
    assert "and 10 more" in shown
    assert "could not run: no [namespaces]" in shown
    value = json.loads(json.dumps(report.as_dict([result, failed], {}), allow_nan=False))
    assert len(value["scenarios"][0]["figures"]) == len(result.figures)
    assert value["scenarios"][1]["failure"] == "no [namespaces]"


class Port:
    """A TCP server that says `greeting` and then what it is told to; counts what comes."""

    def __init__(self, says):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.says, self.bytes, self.clients = says, 0, 0
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            self.clients += 1
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            client.sendall(self.says)
            with contextlib.suppress(ConnectionError):
                while data := client.recv(65536):
                    self.bytes += len(data)


def test_an_unknown_peer_counts_what_it_gets():
    secretive, talkative = Port(unknown_peer.greeting(b"CURVE")), Port(bytes(64) + b"hello")
    for port, extra in ((secretive, 0), (talkative, 5)):
        host, number = port.server.getsockname()
        account = unknown_peer.flood(host, number, 2000.0, 0.5, idle=5)
        port.server.close()
        assert account.idle == 5
        assert account.packets > 100
        assert account.connections >= 8
        assert port.bytes > 1000
        assert account.received_bytes == extra * account.greetings
        assert account.received_messages == 0
        assert account.greetings >= 8
    assert len(unknown_peer.greeting(b"NULL")) == 64


def test_scenarios_are_what_the_link_understands():
    for scenario in SCENARIOS:
        if scenario.impair:
            parse_impairment(scenario.impair)
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


def bench(*arguments):
    return cli.main(["bench", "link", *map(str, arguments)])


def test_the_command_line(capsys, tmp_path):
    assert bench("--list") == 0
    assert "quiet-network" in capsys.readouterr().out
    wrongs = (["--scenario", "x"], ["--minutes", "0"], ["--minutes", "x"], ["--delay", "100"])
    for wrong in wrongs:
        assert bench(*wrong) == 2
    assert bench("--clips", tmp_path) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("sotto: there is no audio")
    assert bench("--json", tmp_path / "no" / "x.json") == 1


def test_what_is_kept_is_kept_and_nothing_else_left(capsys, monkeypatch, tmp_path):
    """Where it cannot be kept that is said before the scenario; if later, no folder stays."""
    ran, folders = [], tmp_path / "temporary"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))

    def run(scenario, setup, clips, folder, step):
        ran.append(scenario.name)
        (folder / "a.log").write_text("a log")
        raise SottoError("no sound")

    monkeypatch.setattr(runs, "run", run)
    keep = tmp_path / "deep" / "kept"
    assert bench("--scenario", "silence", "--keep", keep) == 1
    assert (keep / "silence-256" / "a.log").read_text() == "a log"
    assert ran == ["silence"]
    file = tmp_path / "file"
    file.touch()
    assert bench("--scenario", "silence", "--keep", file) == 1
    assert f"sotto: cannot write {file}: " in capsys.readouterr().err
    assert ran == ["silence"]
    (keep / "jitter-256").write_text("mine")
    assert bench("--scenario", "jitter", "--keep", keep) == 1
    assert (keep / "jitter-256").read_text() == "mine"
    assert (keep / "jitter-256-2" / "a.log").read_text() == "a log"
    assert list(folders.iterdir()) == []


def test_a_scenario_that_cannot_run_is_reported(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert no_cards() is not None
    assert bench("--scenario", "silence") == 1
    assert "could not run: no virtual sound cards" in capsys.readouterr().out
