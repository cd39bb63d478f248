"""The page of calls: delays over time, figures with bars, and what was heard, in a browser."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stream.bench import measures
from stream.bench.course import Course, Sounds
from stream.bench.laboratory import ENDS, Name
from stream.bench.report import Result
from stream.bench.scenarios import Bars, find_scenario
from stream.bench.telemetry import Gap
from tests.browser import SOME_WIDTHS, WIDTHS, OpenPage, findings, scrolls_sideways
from tui import cli
from tui.pages import site
from tui.pages.link import LinkPage

if TYPE_CHECKING:
    from playwright.sync_api import Page

ABOUT = {"preset": "2k", "iterations": None, "tail": None, "threads": 1, "delays": [64, 256]}
RATE = 16_000


def tone(hertz, seconds=1.5):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def course(late: float = 0.4, outage: tuple[float, float] | None = None) -> Course:
    """A call of 30 s whose delay rises by 0.1 s in the middle."""
    moments = [1.5 * k for k in range(18)]
    delays: dict[Name, list[tuple[float, float]]] = {
        end: [(at, late + 0.05 * (end == "b") + 0.1 * (at > 15)) for at in moments if at != 9.0]
        for end in ENDS
    }
    return Course(
        30.0,
        delays,
        {"a": [9.0], "b": []},
        {"a": [(float(k), late) for k in range(-4, 34)], "b": []},
        {"a": [(12.0, 2.0), (14.0, 1.0)], "b": [(13.0, 1.0)]},
        (Gap(16.02, "b", "underrun", 2), Gap(20.0, "a", "overflow", 1)),
        outage,
    )


def calm(delay):
    result = Result(find_scenario("quiet-network"), delay, course=course(0.1 + delay / 1000))
    rows: tuple[tuple[str, str, dict[Name, float | None], Bars, int], ...] = (
        ("mouth to ear, median", "s", {"a": 0.4 + delay / 1e4, "b": 0.45}, (None, None), 3),
        ("mouth to ear, 95th percentile", "s", {"a": 0.41, "b": 0.55}, (0.42, 0.38), 3),
        ("windows not heard", "", {"a": 0, "b": 0}, (0.0, None), 0),
        ("PESQ-WB, through the link", "", {"a": 3.1, "b": math.nan}, (None, None), 3),
        ("CPU, share of a core", "", {"a": 0.3, "b": 0.2}, (0.7, 0.2), 2),
        ("IP bits sent, on the cable", "bit/s", {"a": 5e3 - delay, "b": 5.1e3}, (6800, None), 0),
    )
    for name, unit, values, bars, digits in rows:
        result.add(name, unit, values, bars, digits)
    result.remarks.append("a remark of <script>")
    result.sounds = {
        "a": Sounds(tone(300), tone(400), tone(500), 0.412),
        "b": Sounds(tone(350), tone(450), None, 0.45),
    }
    return result


def results():
    out = Result(find_scenario("outage"), 256, course=course(outage=(12.0, 22.0)))
    out.add("speech heard again after", "s", {"a": 0.5, "b": 0.8}, (3.0, 1.0), 2)
    silent = Result(find_scenario("silence"), 256, course=Course(36.0))
    silent.add("CPU, share of a core", "", {"a": 0.38, "b": 0.2}, (0.15, None), 2)
    failed = Result(find_scenario("garbage"), 256, failure="no <network> namespaces")
    return [calm(256), calm(64), out, silent, failed]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "out"
    with site.new_site(folder) as made:
        page = LinkPage(made)
        for result in results():
            page.add(result)
            assert result.sounds == {}
        page.finish(ABOUT)
    return folder


def run(page: Page, number: int):
    return page.locator(".run").nth(number)


def test_the_page_holds_every_figure(out: Path) -> None:
    html = (out / "index.html").read_text()
    assert "&lt;network&gt;" in html and "<network>" not in html
    assert "a remark of &lt;script&gt;" in html
    assert sorted(path.name for path in (out / "sound").iterdir()) == [
        f"{number:03d}.js" for number in range(4)
    ]
    values = json.loads((out / "results.json").read_text())
    assert [each["name"] for each in values["scenarios"]][3:] == ["silence", "garbage"]
    assert values["scenarios"][0]["course"]["lost"]["a"] == [[12.0, 2.0], [14.0, 1.0]]


@pytest.mark.parametrize("width", SOME_WIDTHS)
def test_the_page_fits_and_is_accessible(out: Path, open_page: OpenPage, width: int) -> None:
    scheme = "dark" if width == WIDTHS[-1] else "light"
    page = open_page(out, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.locator(".course > svg").count() == 2 * 3
    assert not scrolls_sideways(page)
    assert findings(page) == []


def test_figures_have_their_verdicts(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    overview = page.locator("section").first.locator("tbody tr")
    assert overview.count() == 5
    assert "0.426 / 0.450" in overview.nth(0).inner_text()
    assert "1 of 4 missed" in overview.nth(0).inner_text()
    assert "1 of 1 met" in overview.nth(2).inner_text()
    assert "could not run" in overview.nth(4).inner_text()
    figures = run(page, 0).locator("table").last.locator("tbody tr")
    assert figures.nth(1).inner_text().split("\t")[1:] == [
        "0.410",
        "0.550",
        "0.420",
        "0.380",
        "missed",
    ]
    assert "met, and better" in run(page, 2).locator("table").last.inner_text()


def test_the_course_is_drawn_with_what_befell_it(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    chart = run(page, 0).locator(".course")
    lines = chart.locator("svg").first.locator("g[data-mark=line] path")
    # Two voices, and what the call itself said of one.
    assert lines.count() == 3
    assert all("NaN" not in (path.get_attribute("d") or "NaN") for path in lines.all())
    rows = chart.locator("svg").nth(1).locator("g[data-mark='y-axis tick label'] text")
    assert rows.all_text_contents() == ["a lost", "b lost", "a unheard", "a overflow", "b underrun"]
    ticks = chart.locator("svg").nth(1).locator("g[data-mark=tick] line")
    assert ticks.count() == 6
    assert chart.locator("g[data-mark=rect] rect").count() == 0
    assert "3 packets of voice a were lost." in run(page, 0).inner_text()
    down = run(page, 2).locator(".course")
    assert down.locator("g[data-mark=rect] rect").count() == 1
    assert "link down" in (down.text_content() or "")
    assert page.locator("[data-chart] > svg").count() == 2  # PESQ is not known of both delays
    assert run(page, 3).locator(".course").count() == 0


def test_what_was_heard_plays_and_switches(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    player = run(page, 0).get_by_role("group", name="Voice a")
    assert run(page, 0).locator(".player").count() == 2
    said, heard = (
        player.get_by_role("button", name=name, exact=True) for name in ("said", "heard")
    )
    player.get_by_role("button", name="Play voice a").focus()
    page.keyboard.press("Enter")
    player.get_by_role("button", name="Pause voice a").wait_for()
    heard.click()
    assert heard.get_attribute("aria-pressed") == "true"
    assert said.get_attribute("aria-pressed") == "false"
    player.get_by_role("button", name="Play voice a").wait_for()  # it is at its end
    slider = player.get_by_role("slider")
    assert slider.is_enabled() and float(slider.get_attribute("max")) == pytest.approx(1.5)
    slider.focus()
    page.keyboard.press("End")
    assert "0:01 / 0:01" in player.inner_text()
    assert run(page, 0).get_by_role("button", name="coded offline").count() == 1


def test_without_scripts_the_tables_are_there(out: Path, open_page: OpenPage) -> None:
    page = open_page(out, java_script_enabled=False)
    assert run(page, 0).locator("details tbody tr").count() == 18
    assert run(page, 0).get_by_text("need JavaScript").is_visible()
    assert not run(page, 0).locator(".player").first.is_visible()


def test_it_prints(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    page.emulate_media(media="print")
    assert not run(page, 0).locator(".player").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run_scenario(scenario, setup, clips, offline, *, sounds, **_):
        asked.append((scenario.name, setup.delay, sounds))
        return calm(setup.delay)

    monkeypatch.setattr(measures, "run_scenario", run_scenario)
    argv = ["bench", "link", "--scenario", "quiet-network", "--no-quality"]
    assert cli.main([*argv, "--delay", "64,256", "--page", str(tmp_path / "out")]) == 0
    assert asked == [("quiet-network", 64, True), ("quiet-network", 256, True)]
    assert "quiet-network, 64 ms" in (tmp_path / "out" / "index.html").read_text()
    assert cli.main([*argv, "--page", str(tmp_path)]) == 1
    assert cli.main([*argv, "--clips", str(tmp_path), "--page", str(tmp_path)]) == 2
    assert "no page of sotto's" in capsys.readouterr().err
    assert len(asked) == 2
