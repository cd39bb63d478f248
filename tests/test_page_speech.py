"""The page of a speech benchmark: what is in it, and what it does in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.evaluation import speech
from tests.browser import SOME_WIDTHS, WIDTHS, OpenPage, findings, scrolls_sideways
from tests.page_results import benchmark, tone_clip
from tui import cli
from tui.pages import site
from tui.pages import speech as page_of

WRONG_USAGE = 2
EVIL = '<img src=x onerror="alert(1)">\u202e.wav'


@pytest.fixture(scope="module")
def results() -> speech.Benchmark:
    clips = [
        tone_clip("a.wav", 300, text="Syllables & <tones>.", language="en"),
        tone_clip(EVIL, 400),
        tone_clip("c.wav", 500, 0.6),
    ]
    return benchmark(clips, ["telephone"])


@pytest.fixture(scope="module")
def folder(results: speech.Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speech") / "out"
    with site.new_site(out) as made:
        page_of.write(made, results)
    return out


def text_of(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


# --- what is in it -------------------------------------------------------------------------------


def test_every_clip_has_its_sounds_and_pictures(folder: Path) -> None:
    # Three clips of 8, and the same under a condition, with the input as well.
    assert len(list((folder / "sound").iterdir())) == 6
    assert len(list((folder / "picture").iterdir())) == 3 * 8 + 3 * 9
    assert json.loads((folder / "figures.json").read_text())["systems"][1]["name"] == "sotto 2k"
    text = text_of(folder)
    for said in ("Syllables &amp; &lt;tones&gt;.", "noise.wav is silent", "lyra is not installed",
                 "95 % percentile bootstrap", "0.6 s"):  # fmt: skip
        assert said in text, said


def test_names_are_only_shown(folder: Path) -> None:
    assert "<img src=x" not in text_of(folder)
    assert {path.name for path in folder.rglob("*") if "x" in path.suffix} == set()
    assert all(path.name.isascii() for path in folder.rglob("*"))


def test_the_best_of_the_codecs_is_marked(folder: Path) -> None:
    rows = re.findall(r'<tr><th scope="row" translate="no">(.*?)</th>(.*?)</tr>', text_of(folder))
    marked = [name for name, cells in rows[:8] if "(best)" in cells]
    assert marked[0] == "sotto 2k" and "original" not in marked
    assert "opus &lt;6k&gt;" in [name for name, _ in rows]


def test_what_is_heard_is_aligned_and_level_matched(results: speech.Benchmark) -> None:
    heard = results.heard(1)
    clip = results.clips[1].samples
    assert next(iter(heard)) == "original" and len(heard) == 8
    np.testing.assert_allclose(heard["original"], clip, atol=1e-6)
    for samples in heard.values():
        assert len(samples) == len(clip)
        assert np.std(samples) == pytest.approx(np.std(clip), rel=0.01)
    under = results.heard(1, "telephone")
    assert next(iter(under)) == "input"
    np.testing.assert_allclose(under["input"], results.degraded["telephone"][1].samples, atol=1e-6)


def test_a_large_benchmark_has_a_bounded_page(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_of, "_MOST_CLIPS", 2)
    monkeypatch.setattr(page_of, "_MOST_DEGRADED", 1)
    clips = [tone_clip(f"{k}.wav", 200 + k, 0.5) for k in range(4)]
    with site.new_site(tmp_path / "out") as made:
        page_of.write(made, benchmark(clips, ["telephone"]))
    assert len(list((tmp_path / "out" / "sound").iterdir())) == 3
    assert "2 further clips were measured" in text_of(tmp_path / "out")


def test_one_delay_is_no_curve(results: speech.Benchmark, folder: Path, tmp_path: Path) -> None:
    assert "Quality against delay" in text_of(folder)
    (title,) = results.results
    some = [each for each in results.results[title] if "256" not in each.name]
    codings = [each for each in results.codings if "256" not in each.name]
    fewer = replace(results, results={title: some}, codings=codings, degraded={},
                    degraded_results={})  # fmt: skip
    with site.new_site(tmp_path / "out") as made:
        page_of.write(made, fewer)
    assert "Quality against delay" not in text_of(tmp_path / "out")


# --- the command ---------------------------------------------------------------------------------


def test_what_cannot_be_written_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured before the page was looked at")

    monkeypatch.setattr(speech, "benchmark", measured)
    clips, mine = tmp_path / "clips", tmp_path / "mine"
    for each in (clips, mine):
        each.mkdir()
        (each / "a.wav").write_bytes(b"RIFF")
    bench = ["bench", "speech", str(clips)]
    assert cli.main([*bench, "--page", str(clips), "--force"]) == WRONG_USAGE
    assert cli.main([*bench, "--page", str(mine)]) == 1
    assert cli.main([*bench, "--page", str(tmp_path / "p"), "--ablation"]) == WRONG_USAGE
    inside = str(tmp_path / "p" / "a.json")
    assert cli.main([*bench, "--page", str(tmp_path / "p"), "--json", inside]) == WRONG_USAGE
    model, weights = tmp_path / "runs" / "model", tmp_path / "judge" / "nisqa.tar"
    for each in (model, weights.parent):
        each.mkdir(parents=True)
    weights.touch()
    for option, read in (("--model", model), ("--lyra", model), ("--nisqa", weights)):
        for out in {read if read.is_dir() else read.parent, read.parent}:
            page = "--page", str(out), "--force"
            assert cli.main([*bench, option, str(read), *page]) == WRONG_USAGE
    assert "no page of sotto's" in capsys.readouterr().err
    assert (mine / "a.wav").read_bytes() == b"RIFF"


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = benchmark([tone_clip("a.wav", 300, 0.5)])
    chosen = []

    def fake(folder: Path, settings: speech.Settings) -> speech.Benchmark:
        chosen.append(settings)
        return made

    monkeypatch.setattr(speech, "benchmark", fake)
    monkeypatch.setattr(speech.Benchmark, "run", lambda *_: None)
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for _ in range(2):  # the second replaces the first
        assert cli.main(["bench", "speech", str(clips), "--page", str(out)]) == 0
    assert chosen[0].keep
    assert f"look and listen: {out / 'index.html'}" in capsys.readouterr().err
    assert (out / "index.html").is_file()
    assert cli.main(["bench", "speech", str(clips)]) == 0
    assert not chosen[-1].keep


# --- in a browser --------------------------------------------------------------------------------


def test_curves_have_their_points_intervals_and_legend(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    by_rate = page.locator("[data-along=rate]")
    assert by_rate.locator("> svg").count() == 7  # five measures, and two judges
    names = ["sotto", "sotto, no search", "sotto, by delay", "codec2", "opus"]
    assert by_rate.locator(".legend li").all_inner_texts() == names
    first = by_rate.first
    assert first.locator("g[data-mark=line] path").count() == 2  # those of more than one point
    assert first.locator("g[data-mark=dot] path, g[data-mark=dot] circle").count() == 7
    assert first.locator("g[data-mark=rule] line").count() == 7
    assert page.locator("[data-along=delay] > svg").count() == 7


def state(page, clip=0):
    """What the player of a clip shows: playing, position, system, picture."""
    return page.evaluate(
        """(k) => {
          const clip = document.querySelectorAll(".clip")[k];
          const on = clip.querySelector('.systems [aria-pressed="true"]');
          return {playing: clip.classList.contains("playing"),
                  at: Number(clip.querySelector(".seek").value), key: on.dataset.key,
                  shown: clip.querySelector(".stack figure.on").dataset.key,
                  visible: [...clip.querySelectorAll(".stack figure")].filter(
                    (each) => getComputedStyle(each).visibility === "visible").length};
        }""",
        clip,
    )


def wait_for(page, what, clip=0):
    page.wait_for_function(
        """([k, what]) => {
          const clip = document.querySelectorAll(".clip")[k];
          const at = Number(clip.querySelector(".seek").value);
          const playing = clip.classList.contains("playing");
          return {playing: playing && at > 0.02, paused: !playing, moved: at > 0.3}[what];
        }""",
        arg=[clip, what],
    )


def test_it_plays_switches_and_pauses(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    assert state(page) == {"playing": False, "at": 0, "key": "0", "shown": "0", "visible": 1}
    # All at once: the clip is short, and on a busy machine it would end between two steps.
    switched, heard = page.evaluate(
        """async () => {
          const clip = document.querySelector(".clip");
          const press = (name) => [...clip.querySelectorAll("button")]
            .find((button) => button.textContent.includes(name)).click();
          const until = (reached) => new Promise((resolve) => {
            const look = () => (reached() ? resolve() : setTimeout(look, 5));
            look();
          });
          const at = () => Number(clip.querySelector(".seek").value);
          const playing = () => clip.classList.contains("playing");
          press("Play");
          await until(() => playing() && at() > 0.02);
          press("codec2 1200");
          const switched = playing() && at();
          press("Pause");
          await until(() => !playing());
          return [switched, document.getElementById("heard").textContent];
        }"""
    )
    now = state(page)
    assert 0 < switched <= now["at"] < 1.5 and heard == "codec2 1200"
    assert (now["key"], now["shown"], now["visible"]) == ("4", "4", 1)


@pytest.mark.slow  # in real time, and a machine that is busy drops sound itself
def test_what_is_heard_goes_on_when_it_switches(folder: Path, open_page: OpenPage) -> None:
    """The sound that leaves the page is never silent from the switch on."""
    page = open_page(folder)
    page.evaluate(
        """() => {
          const context = sotto.audio();
          const meter = new AnalyserNode(context, {fftSize: 512});
          const connect = AudioNode.prototype.connect;
          AudioNode.prototype.connect = function (to, ...more) {
            if (to === context.destination) connect.call(this, meter);
            return connect.call(this, to, ...more);
          };
          window.levels = [];
          const block = new Float32Array(512);
          window.watch = () => {
            meter.getFloatTimeDomainData(block);
            levels.push(Math.hypot(...block) / Math.sqrt(512));
            requestAnimationFrame(watch);
          };
        }"""
    )
    page.locator(".clip").nth(1).get_by_role("button", name="Play").click()
    wait_for(page, "playing", 1)
    page.evaluate("watch()")
    for key in ("3", "4", "2"):
        page.keyboard.press(key)
        page.wait_for_function("(n) => levels.length > n", arg=page.evaluate("levels.length + 3"))
    levels = page.evaluate("levels")
    assert state(page, 1)["key"] == "1" and state(page, 1)["playing"]
    assert min(levels[1:]) > 0.005  # syllables fall to a tenth of their height


def test_keys(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    page.evaluate("document.querySelector('.clip').scrollIntoView({block: 'center'})")
    page.keyboard.press("3")
    assert state(page)["key"] == "2"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert state(page)["key"] == "3"
    page.keyboard.press("Space")
    wait_for(page, "playing")
    page.keyboard.press("Space")
    wait_for(page, "paused")
    # On a system that is not heard the key presses the button, on the one that is it plays.
    button = page.locator(".clip").first.get_by_role("button", name="original")
    button.focus()
    page.keyboard.press("Space")
    assert state(page)["key"] == "0" and not state(page)["playing"]
    page.keyboard.press("Space")
    wait_for(page, "playing")


def test_a_click_on_the_picture_seeks(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    seek = page.locator(".seek").first
    box = seek.bounding_box()
    assert box is not None
    seek.click(position={"x": box["width"] * 0.5, "y": box["height"] / 2})
    assert state(page)["at"] == pytest.approx(0.75, abs=0.05)
    before = state(page)["at"]
    seek.press("ArrowRight")
    assert state(page)["at"] > before and state(page)["key"] == "0"
    page.locator(".clip").first.get_by_role("button", name="Play").click()
    wait_for(page, "playing")
    assert state(page)["at"] > 0.6
    wait_for(page, "paused")  # it ends, and begins anew
    assert state(page)["at"] == 0


def test_one_clip_at_a_time(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    for k in (0, 1):
        page.locator(".clip").nth(k).get_by_role("button", name="Play").click()
        wait_for(page, "playing", k)
    assert not state(page, 0)["playing"]


def test_a_clip_that_is_gone_is_said(tmp_path: Path, browser) -> None:
    out = tmp_path / "out"
    with site.new_site(out) as made:
        page_of.write(made, benchmark([tone_clip("a.wav", 300, 0.5)]))
    (out / "sound" / "000.js").unlink()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((out / "index.html").as_uri())
        page.get_by_role("button", name="Play").click()
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "cannot be played" in (alert.text_content() or "")


@pytest.mark.parametrize("width", SOME_WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_accessible(
    folder: Path, open_page: OpenPage, width: int, scheme: str
) -> None:
    page = open_page(folder, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.wait_for_selector(".chart > svg")
    assert not scrolls_sideways(page)
    if (width, scheme) in ((WIDTHS[0], "light"), (WIDTHS[-1], "dark")):
        assert findings(page) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    assert dark is (scheme == "dark")


def test_without_a_script_all_is_there_but_sound(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder, java_script_enabled=False)
    assert page.locator(".stack img").count() == 51
    assert page.locator(".stack img").nth(7).is_visible()
    assert page.locator("table").first.is_visible()
    assert not page.locator(".play").first.is_visible()
    assert all(each.is_visible() for each in page.locator("noscript p").all())


def test_it_prints(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder)
    page.wait_for_selector(".chart > svg")
    page.emulate_media(media="print")
    assert not page.locator(".play").first.is_visible()
    assert all(each.is_visible() for each in page.locator(".clip").first.locator("img").all())
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".clip table").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF-")
