"""Pages of listening tests: what is in them, and whole tests by scripted listeners in a browser."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import soundfile
from scipy import signal

from codec.errors import BadInput
from models.evaluation import sessions, speech
from models.evaluation.clips import Clip, load_clips
from tests import page_results
from tests.browser import WIDTHS, OpenPage, findings, scrolls_sideways
from tui.cli import main
from tui.pages import listening, site

if TYPE_CHECKING:
    from playwright.sync_api import Page

RATE = 16_000
SECONDS = 0.5  # of a clip, half of which has to be heard
SYSTEMS = ("Quietus 2k", "Peer 9000")
TEXTS = ("one two three", "four five", "six seven eight", "nine ten")


def voice(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(SECONDS * RATE)).astype(np.float32)


CLIPS = [Clip(f"speech/{k}.flac", "s", "", voice(k), text) for k, text in enumerate(TEXTS)]


def heard(place: int) -> dict[str, np.ndarray]:
    return {name: voice(100 * k + place) for k, name in enumerate(SYSTEMS, 1)}


def make(folder: Path, kind: str, clips=CLIPS, seed: int | None = 1, **options: Any) -> Path:
    rng = None if seed is None else random.Random(seed)
    with site.new_site(folder) as made:
        listening.write(made, kind, clips, SYSTEMS, heard, rng=rng, **options)
    return folder


def data(folder: Path) -> Any:
    html = (folder / "index.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found is not None
    return json.loads(found[1])


def unseal(values: Any) -> Any:
    key = bytes.fromhex(values["id"])
    text = base64.b64decode(values["sealed"])
    return json.loads(bytes(b ^ key[k % len(key)] for k, b in enumerate(text)))


# --- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize("kilohertz", [3.5, 7.0])
def test_anchors_are_what_the_recommendation_asks_for(kilohertz: float):
    """The response of the filter, as an impulse has it; that of 7 kHz has the same slope."""
    impulse = np.zeros(4001)
    impulse[2000] = 1.0
    found = listening.low_pass(impulse, 1000 * kilohertz)
    frequencies, response = signal.freqz(found, worN=8000, fs=RATE)
    above = frequencies / 1000 - kilohertz
    decibels = 20 * np.log10(np.abs(response) + 1e-12)
    assert np.abs(decibels[above <= 0]).max() < 0.1
    assert decibels[above >= 0.5].max() < -50
    # Linear phase without delay.
    np.testing.assert_allclose(found[:4001], found[::-1], atol=1e-12)


def test_stimuli_are_level_and_are_what_they_are_called(tmp_path: Path):
    blind = listening.Blind("mushra", SYSTEMS, random.Random(1))
    stimuli = blind.stimuli(CLIPS[0].samples, {name: 3 * s for name, s in heard(0).items()})
    levels = [20 * np.log10(np.sqrt(np.mean(each**2))) for each in stimuli.values()]
    np.testing.assert_allclose(levels, -26, atol=1e-6)
    assert set(stimuli) == {"r", "0", "1", "2", "3", "4"}
    for key, condition in enumerate(blind.conditions):
        expected = {
            "original": CLIPS[0].samples,
            "3.5 kHz low-pass": listening.low_pass(CLIPS[0].samples, 3500),
            "7 kHz low-pass": listening.low_pass(CLIPS[0].samples, 7000),
            **heard(0),
        }[condition.name]
        assert np.corrcoef(stimuli[str(key)], expected)[0, 1] > 0.9999


def test_silence_stays_silence():
    blind = listening.Blind("words", SYSTEMS, random.Random(1))
    stimuli = blind.stimuli(np.zeros(800), {name: np.zeros(800) for name in SYSTEMS})
    assert not any(samples.any() for samples in stimuli.values())


@pytest.mark.parametrize("kind", sessions.KINDS)
def test_nothing_in_the_folder_names_a_system(tmp_path: Path, kind: str):
    folder = make(tmp_path / "out", kind)
    for file in folder.rglob("*"):
        raw = file.read_bytes() if file.is_file() else b""
        for name in (*SYSTEMS, "speech/0", TEXTS[0]):
            assert name.encode() not in raw and name.encode("utf-16-le") not in raw, file
    sealed = unseal(data(folder))
    assert {each["name"] for each in sealed["conditions"]} >= set(SYSTEMS)


def test_the_order_of_systems_tells_nothing(tmp_path: Path):
    places = Counter(
        [each.name for each in listening.Blind("mushra", SYSTEMS, random.Random(seed)).conditions]
        .index(SYSTEMS[0])
        for seed in range(200)
    )  # fmt: skip
    assert len(places) == 5 and min(places.values()) > 20
    ids = {data(make(tmp_path / f"{k}", "ab", CLIPS[:1], seed=None))["id"] for k in range(2)}
    assert len(ids) == 2


def test_what_cannot_be_held_is_said_before():
    assert listening.plan("mushra", 9, CLIPS).trials == 4
    with pytest.raises(BadInput, match=r"at most 12 sounds.*--presets, --peers or --system"):
        listening.plan("mushra", 10, CLIPS)
    with pytest.raises(BadInput, match="needs two systems"):
        listening.plan("ab", 1, CLIPS)
    with pytest.raises(BadInput, match="transcript"):
        listening.plan("words", 2, [Clip("a", "s", "", voice(1))])
    with pytest.raises(BadInput, match="no system"):
        listening.plan("mushra", 0, CLIPS)
    # As many of each pair as of any other.
    assert listening.plan("ab", 4, CLIPS * 10).trials == 48
    assert listening.plan("ab", 5, CLIPS * 10).trials == 40
    assert listening.plan("ab", 20, CLIPS * 10).trials == 48


def test_usual_tests_take_less_than_half_an_hour():
    for kind, systems in (("mushra", 9), ("ab", 20), ("words", 40)):
        clips = CLIPS * (listening.CLIPS[kind] // len(CLIPS))
        assert listening.plan(kind, systems, clips).minutes <= 30, kind


def test_clips_without_a_transcript_are_no_words(tmp_path: Path):
    clips = [*CLIPS[:3], Clip("untold.flac", "s", "", voice(9))]
    folder = make(tmp_path / "out", "words", clips)
    assert len(data(folder)["clips"]) == 2  # and one for practice
    assert unseal(data(folder))["texts"] == list(TEXTS[:2])


def test_long_names_fit_into_results(tmp_path: Path):
    clips = [Clip("x" * 300 + str(k), "s", "", voice(k)) for k in range(2)]
    names = unseal(data(make(tmp_path / "out", "mushra", clips)))["clips"]
    assert len(set(names)) == 2 and all(len(name) <= sessions.MAX_NAME for name in names)


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def speech_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips, one of them with a transcript, of which nothing has to be coded any more."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, samples in (("a", voice(1)), ("b", voice(2))):
        soundfile.write(folder / f"{name}.flac", samples, RATE)
    (folder / "clips.tsv").write_text("file\ttext\na.flac\twhat was said\n")

    def benchmark(source: Path, settings: speech.Settings) -> speech.Benchmark:
        assert settings.keep
        return page_results.benchmark(load_clips(source, settings.clips, settings.max_seconds)[0])

    monkeypatch.setattr(speech, "benchmark", benchmark)
    monkeypatch.setattr(speech.Benchmark, "run", lambda *_: None)
    return folder


def bench(folder: Path, *options: str) -> int:
    return main(["bench", "speech", str(folder), *options])


def test_the_benchmark_makes_a_test(speech_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert bench(speech_folder, "--page", str(out), "--mushra") == 0
    assert "trials of a listener: 2, of about 5 min" in capsys.readouterr().err
    found = unseal(data(out))
    assert {each["name"] for each in found["conditions"]} == {
        "original", *listening.ANCHORS, *(name for name, *_ in page_results.SYSTEMS),
    }  # fmt: skip
    assert found["clips"] == ["a.flac", "b.flac"]
    two = "--system", "SOTTO 2k, no search", "--system", "opus 9k"
    assert bench(speech_folder, "--page", str(out), *two, "--words") == 0  # in place of the first
    assert "b.flac is not in the test" in capsys.readouterr().err
    assert data(out)["kind"] == "words" and unseal(data(out))["texts"] == ["what was said"]


def test_tests_that_cannot_be_are_refused(speech_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert bench(speech_folder, "--mushra") == 2
    assert "--mushra is for --page" in capsys.readouterr().err
    assert bench(speech_folder, "--page", str(out), "--ab", "--words") == 2
    assert bench(speech_folder, "--page", str(out), "--ab", "--conditions", "noise10") == 2
    (speech_folder / "clips.tsv").unlink()
    assert bench(speech_folder, "--page", str(out), "--words") == 1
    assert "transcript" in capsys.readouterr().err
    assert bench(speech_folder, "--page", str(out), "--mushra", "--system", "sotto") == 1
    assert "no system is called sotto: there are sotto 2k; " in capsys.readouterr().err
    one = "--system", "opus 9k"
    assert bench(speech_folder, "--page", str(out), "--ab", *one) == 1
    assert "needs two systems" in capsys.readouterr().err
    assert not out.exists()


# --- in a browser ----------------------------------------------------------------------------

# What is asked of players: the versions in the order in which they are chosen.
LISTEN_IN = """() => {
  window.chosen = [];
  const select = sotto.Player.prototype.select;
  sotto.Player.prototype.select = function (key) {
    if (key !== "r") chosen.push(key);
    select.call(this, key);
  };
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("listening")
    clips = {"mushra": CLIPS[:2], "ab": CLIPS[:2], "words": CLIPS}
    return {kind: make(folder / kind, kind, some) for kind, some in clips.items()}


SIGNS = "ABCDE"  # two systems, the original and two anchors


def introduce(page: Page, name: str = "Ada") -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()
    page.get_by_label("headphones", exact=True).check()
    page.get_by_role("button", name="Continue").click()


def hear(page: Page, button: str) -> None:
    """Press a button, and wait until its version counts as heard."""
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_function(
        "(name) => [...document.querySelectorAll('.sounder')].some((each) =>"
        " each.getAttribute('aria-label') === name && each.dataset.heard === 'yes')",
        arg=button,
    )


def practise(page: Page, count: int) -> None:
    for sign in SIGNS[:count]:
        hear(page, f"Play {'sound ' if count > 2 else ''}{sign}")
    page.get_by_role("button", name="Begin the test").click()


def problem(page: Page) -> str:
    return page.locator("#trial-problem").inner_text()


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def rate(page: Page, sign: str, score: int) -> None:
    """Play a version and move its slider, by keys alone."""
    slider = page.get_by_role("slider", name=f"Rating of sound {sign}")
    page.keyboard.press(sign)
    slider.press("Home")
    for _ in range(score // 10):
        slider.press("PageUp")
    for _ in range(score % 10):
        slider.press("ArrowUp")
    assert slider.input_value() == str(score)


def test_a_listener_rates_everything(pages, open_page: OpenPage, tmp_path: Path, capsys):
    page = open_page(pages["mushra"])
    page.evaluate(LISTEN_IN)
    page.get_by_role("button", name="Begin").click()
    assert "name or a pseudonym" in page.locator("#who-problem").inner_text()
    introduce(page)
    page.get_by_role("button", name="Begin the test").click()
    assert problem(page) == "Still to be heard: A, B, C, D and E."
    practise(page, len(SIGNS))
    given, chosen = [], []
    for trial in range(2):
        assert page.get_by_role("heading", level=2).inner_text() == f"Trial {trial + 1} of 2"
        page.keyboard.press("0")
        page.evaluate("chosen.length = 0")
        for sign in SIGNS:
            hear(page, f"Play sound {sign}")
        chosen += page.evaluate("chosen")
        page.get_by_role("button", name=re.compile("Next|Finish")).click()
        assert problem(page) == "Still to be rated: A, B, C, D and E."
        scores = [7 + 20 * trial, 100, 0, 34, 62]
        for sign, score in zip(SIGNS, scores, strict=True):
            rate(page, sign, score)
        given += scores
        if trial == 0:
            page.reload()  # and go on
            page.evaluate(LISTEN_IN)
            assert page.get_by_role("slider", name="Rating of sound D").input_value() == "34"
            page.get_by_role("button", name="Next").click()
            page.get_by_role("button", name="Back").click()
            assert page.get_by_role("slider", name="Rating of sound A").input_value() == "7"
        page.get_by_role("button", name=re.compile("Next|Finish")).click()
    table = saved(page, "Save as a table", tmp_path)
    page.get_by_role("button", name="Next listener").click()
    assert "save the results first" in page.locator("#end-problem").inner_text()
    file = saved(page, "Save the results", tmp_path)
    assert file.name.startswith("mushra-ada-") and file.suffix == ".json"

    values = json.loads(file.read_text())
    rated = [each for trial in values["trials"] for each in trial["ratings"]]
    assert [each["score"] for each in rated] == given
    # What was heard behind a button is what its rating is of.
    assert [str(each["condition"]) for each in rated] == chosen
    assert values["listener"] == "Ada" and values["ears"] == "headphones"
    session = sessions.read(file)
    assert {each.name for each in session.conditions} == {
        *SYSTEMS, "original", *listening.ANCHORS,
    }  # fmt: skip
    with open(table, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["score"]) for row in rows] == given
    names = [session.conditions[each["condition"]].name for each in rated]
    assert [row["system"] for row in rows] == names

    for score in (100, 80):  # the original known, and taken for another
        for each, name in zip(rated, names, strict=True):
            each["score"] = score if name == "original" else 40
        file.write_text(json.dumps(values))
        assert main(["bench", "mushra", str(file)]) == 0
        assert (f"({file}) left out: " in capsys.readouterr().out) is (score < 90)

    page.get_by_role("button", name="Next listener").click()
    assert page.get_by_label("Your name").input_value() == ""
    page.reload()
    assert page.get_by_role("heading", level=2).inner_text() == "What this is about"


def test_only_what_is_heard_can_be_rated(pages, open_page: OpenPage):
    page = open_page(pages["mushra"])
    introduce(page)
    sliders = {sign: page.get_by_role("slider", name=f"Rating of sound {sign}") for sign in SIGNS}
    assert not any(slider.is_enabled() for slider in sliders.values())
    for sign in "BD":
        page.get_by_role("button", name=f"Play sound {sign}").click()
        assert [each for each, slider in sliders.items() if slider.is_enabled()] == [sign]
    box = sliders["B"].bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert sliders["B"].input_value() == "0"
    page.keyboard.press("d")
    page.keyboard.press("End")
    assert sliders["D"].input_value() == "100"
    for width in WIDTHS:  # it needs no second line
        page.set_viewport_size({"width": width, "height": 800})
        heights = page.locator(".value").evaluate_all(
            "(all) => all.map((each) => each.offsetHeight)"
        )
        assert len(set(heights)) == 1
    page.keyboard.press("0")
    assert page.get_by_role("button", name="Play the original").evaluate(
        "(button) => button === document.activeElement"
    )
    assert not any(slider.is_enabled() for slider in sliders.values())


def test_a_sound_that_is_missing_is_said(tmp_path: Path, browser):
    folder = make(tmp_path / "out", "ab", CLIPS[:1])
    (folder / "sound" / "000.js").unlink()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((folder / "index.html").as_uri())
        introduce(page)
        page.get_by_role("button", name="Play A").click()
        page.wait_for_function("document.getElementById('trial-problem').textContent !== ''")
        assert "cannot be played" in problem(page)


def test_a_region_is_repeated_by_keys_and_pointer(pages, open_page: OpenPage):
    page = open_page(pages["mushra"])
    introduce(page)
    start = page.get_by_role("slider", name="Start of the region")
    stop = page.get_by_role("slider", name="End of the region")
    for _ in range(4):
        start.press("ArrowRight")
    assert float(start.input_value()) == pytest.approx(0.2)
    stop.press("Home")  # not before the start
    assert float(stop.input_value()) >= 0.4
    box = start.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"], box["y"] + box["height"] / 2)
    page.mouse.up()
    assert float(start.input_value()) == 0
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play", exact=True).wait_for()


def test_nobody_can_tell_systems_by_the_document(pages, open_page: OpenPage):
    """To two listeners, to whom all is shown in other orders, the document is the same."""
    stages = []
    for _ in range(2):
        page = open_page(pages["mushra"])
        introduce(page)
        practise(page, len(SIGNS))
        page.keyboard.press("a")
        page.get_by_role("button", name="Pause").wait_for()
        page.keyboard.press(" ")
        page.get_by_role("slider", name="Position").press("Home")
        stages.append(re.sub(r"0\.\d+", "", page.locator("#stage").inner_html()))
        everything = page.content() + page.locator("body").aria_snapshot()
        assert not [name for name in (*SYSTEMS, "3.5 kHz", "speech/") if name in everything]
    assert stages[0] == stages[1]


def test_another_page_does_not_read_what_is_kept(pages, open_page: OpenPage, tmp_path: Path):
    page = open_page(pages["words"])
    introduce(page)
    other = make(tmp_path / "other", "words", seed=2)
    page.goto((other / "index.html").as_uri())
    assert page.get_by_role("heading", level=2).inner_text() == "What this is about"
    page.goto((pages["words"] / "index.html").as_uri())
    assert page.get_by_role("heading", level=2).inner_text() == "Practice"
    page.get_by_text("You are not Ada?").click()
    page.get_by_role("button", name="Begin anew").click()
    assert page.get_by_label("Your name").input_value() == ""
    key = f"sotto-listening-{data(pages['words'])['id']}"
    kept = page.evaluate("(key) => localStorage.getItem(key)", key)
    for damage in ("{", "null", kept.replace('"start"', '"end"'), kept.replace(":1,", ":9,", 1)):
        page.evaluate("([key, value]) => localStorage.setItem(key, value)", [key, damage])
        page.reload()
        assert page.get_by_role("heading", level=2).inner_text() == "What this is about"


def test_a_listener_prefers(pages, open_page: OpenPage, tmp_path: Path, capsys):
    page = open_page(pages["ab"])
    page.evaluate(LISTEN_IN)
    introduce(page, "=Bob")
    practise(page, 2)
    answers = ["I prefer A", "No preference"]
    for answer in answers:
        page.evaluate("chosen.length = 0")
        hear(page, "Play A")
        page.get_by_role("button", name=re.compile("Next|Finish")).click()
        assert problem(page) == "Still to be heard: B. Please choose one of the three answers."
        hear(page, "Play B")
        page.get_by_label(answer).check()
        page.get_by_role("button", name=re.compile("Next|Finish")).click()
    last = page.evaluate("chosen")
    file = saved(page, "Save the results", tmp_path)
    values = json.loads(file.read_text())
    assert [each["answer"] for each in values["trials"]] == ["a", "none"]
    assert [values["trials"][1][side] for side in "ab"] == [int(key) for key in last]
    table = saved(page, "Save as a table", tmp_path).read_text(encoding="utf-8-sig")
    assert "'=Bob" in table
    assert main(["bench", "mushra", str(file), "--json", "-"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["wins"] + pair["losses"], pair["none"]) == (1, 1)


def test_a_listener_types(pages, open_page: OpenPage, tmp_path: Path, capsys):
    page = open_page(pages["words"])
    page.get_by_label("Your number").fill("2")
    introduce(page)
    page.get_by_role("button", name="Begin the test").click()
    assert problem(page) == "Please listen to the sentence first."

    def play(left: str, then: str) -> None:
        page.get_by_role("button", name=f"Play ({left})").click()
        page.get_by_role("button", name=then).wait_for()

    play("2 times", "Play (once)")
    page.get_by_role("button", name="Begin the test").click()
    for sentence in range(3):
        assert page.get_by_role("heading", level=2).inner_text() == f"Sentence {sentence + 1} of 3"
        play("2 times", "Play (once)")
        if sentence == 0:
            page.reload()  # which gives nothing back
            play("once", "Played")
            page.get_by_role("button", name="Next").click()
            assert "type what you heard" in problem(page)
            page.get_by_label("What was said?").fill("nothing like it")
        elif sentence == 1:
            page.get_by_label("What was said?").fill("seven")
        else:
            page.get_by_label("I understood nothing").check()
        page.get_by_label("What was said?").press("Enter")
    file = saved(page, "Save the results", tmp_path)
    session = sessions.read(file)
    typed = [trial.typed for trial in session.trials if isinstance(trial, sessions.Typed)]
    assert typed == ["nothing like it", "seven", ""]
    # Every version once, by the listener's number.
    clips = {clip: k for k, clip in enumerate(unseal(data(pages["words"]))["clips"])}
    assert {
        clips[trial.clip]: trial.condition
        for trial in session.trials
        if isinstance(trial, sessions.Typed)
    } == {0: 1, 1: 2, 2: 0}
    assert main(["bench", "mushra", str(file), "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["systems"]) == 3


def resume(page: Page, step: str) -> None:
    """Come back to a test of which everything but the last trial was answered, or all of it."""
    page.evaluate(
        """(step) => {
          const plan = JSON.parse(document.getElementById("data").textContent);
          const [key] = Object.keys(localStorage);
          const state = JSON.parse(localStorage[key]);
          const all = sotto.trials(plan, state.seed, state.number);
          const answers = all.map(({places}) => ({
            mushra: {scores: places.map((place) => [place, 20 * place]), heard: places},
            ab: {answer: "none", heard: places},
            words: {typed: "one two", nothing: false, plays: 1},
          }[plan.kind]));
          if (step === "trial") answers[all.length - 1] = null;
          const kept = {...state, step, answers, trial: all.length - 1};
          localStorage[key] = JSON.stringify(kept);
          Storage.prototype.setItem = () => {};  // what still plays keeps nothing over it
          location.reload();
        }""",
        step,
    )
    page.wait_for_function("(step) => !document.getElementById(step)?.hidden", arg=step)


def screens(page: Page, kind: str) -> Iterator[str]:
    """Walk through a test, and stop at everything that there is to see."""
    yield "start"
    page.get_by_role("button", name="Begin").click()
    yield "start, without a name"
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Continue").click()
    yield "check, not answered"
    page.get_by_label("headphones", exact=True).check()
    page.get_by_role("button", name="Continue").click()
    yield "practice"
    page.get_by_role("button", name="Begin the test").click()
    for summary in page.locator("summary:visible").all():
        summary.click()
    assert problem(page)
    yield "practice, not heard, with all that is folded"
    resume(page, "trial")
    if kind == "mushra":
        rate(page, "B", 34)
        slider = page.get_by_role("slider", name="Rating of sound B")
        assert slider.get_attribute("aria-valuetext") == "34, poor"
    elif kind == "ab":
        page.keyboard.press("b")
        page.get_by_label("I prefer B").check()
    else:
        page.get_by_label("What was said?").fill("one two")
    yield "trial"
    resume(page, "end")
    yield "end"
    page.get_by_role("button", name="Next listener").click()
    page.get_by_role("button", name="Save the results").click()
    yield "end, saved"


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
LOOKS = tuple(itertools.product(WIDTHS, SCHEMES))


@pytest.mark.parametrize("kind", sessions.KINDS)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_screen_is_accessible_and_fits(pages, open_page: OpenPage, kind: str, every: bool):
    """Each at one width in one scheme, all of which come up; and, slowly, each at all of them."""
    page = open_page(pages[kind], reduced_motion="reduce")  # no colours on their way to others
    seen = 0
    for number, screen in enumerate(screens(page, kind)):
        for width, scheme in LOOKS if every else LOOKS[number % len(LOOKS) :][:1]:
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            assert findings(page) == [], (screen, width, scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert not scrolls_sideways(page), (screen, width)
        seen += 1
    assert seen == 8


@pytest.mark.parametrize("kind", ["ab", "words"])
def test_systems_are_balanced_over_a_listener(tmp_path, open_page: OpenPage, kind: str):
    """As they are drawn: each pair as often as any other, and each version of a sentence."""
    clips = [Clip(f"{k}", "s", "", voice(k), "a b") for k in range(5)]
    page = open_page(make(tmp_path / "out", kind, clips))
    plan = data(tmp_path / "out")
    trials = page.evaluate("(plan) => sotto.trials(plan, '0123456789abcdef'.repeat(2), 0)", plan)
    if kind == "ab":
        assert len(trials) == 5 and {trial["clip"] for trial in trials} == set(range(5))
        left = Counter(trial["places"][0] for trial in trials)
        assert sorted(left.values()) == [2, 3]
    else:
        assert sorted(trial["clip"] for trial in trials) == list(range(4))
        assert max(Counter(trial["places"][0] for trial in trials).values()) == 2
