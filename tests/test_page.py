"""What all pages share: their folder, their sounds and the player, in a browser."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from tests.browser import WIDTHS, OpenPage, findings, scrolls_sideways
from tests.full_disk import full_after
from tui.pages import site, sounds
from tui.terminal.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RATE = 16_000


def tone(hertz, seconds=2.0, level=0.5):
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


# --- the folder ----------------------------------------------------------------------------------


def make(folder, text="one", **options):
    with site.new_site(folder, **options) as made:
        made.render("base.html", title=text)
        made.write("sound/000.js", b"x")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_page_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with site.new_site(out) as made:
        made.render("base.html", title="<b>")
        made.add_assets("base.css")
        assert not out.exists()
    assert names(out) == {"index.html", "assets/base.css", "contents.json"}
    assert "<h1>&lt;b&gt;</h1>" in (out / "index.html").read_text()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, BadInput, SystemExit])
def test_what_is_interrupted_leaves_what_was_there(tmp_path: Path, kind) -> None:
    make(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(kind), site.new_site(folder) as made:
            made.render("base.html", title="two")
            raise kind("stop")
    assert "one" in (tmp_path / "out" / "index.html").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_page_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    out.mkdir(mode=0o750)
    link.symlink_to(out)
    make(link)
    with site.new_site(link) as made:
        made.render("base.html", title="two")
    assert names(out) == {"index.html", "contents.json"}
    assert "two" in (out / "index.html").read_text()
    assert link.is_symlink() and out.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("change", ["other", "edited", "folder", "link", "no list", "bad list"])
def test_what_is_no_page_stays_but_for_force(tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    make(out)
    mine = {
        "other": "results.json", "edited": "index.html", "folder": "sound/notes/a.txt",
        "link": "link", "no list": "sound/000.js", "bad list": "contents.json",
    }[change]  # fmt: skip
    (out / mine).parent.mkdir(exist_ok=True)
    if change == "no list":
        (out / "contents.json").unlink()
    elif change == "link":
        (out / mine).symlink_to(tmp_path)
    else:
        (out / mine).write_text("[" * 100_000 if change == "bad list" else "mine")
    before = names(out)
    with pytest.raises(BadInput, match="no page"):
        site.check(out)
    with pytest.raises(BadInput, match="--force"), site.new_site(out):
        pass
    assert names(out) == before
    with site.new_site(out, force=True) as made:
        made.render("base.html", title="two")
    assert "two" in (out / "index.html").read_text()
    if change in ("other", "folder"):
        assert (out / mine).read_text() == "mine"
    assert (out / "link").is_symlink() is (change == "link")
    assert tmp_path.is_dir() and list(tmp_path.iterdir()) == [out]


def test_a_page_takes_the_place_of_nothing_that_is_read_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "clips"
    (clips / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    site.check(clips / "inner", [clips])
    for folder, inputs, outputs in (
        (clips, [clips], []),
        (tmp_path, [clips], []),
        (tmp_path / "CLIPS", [clips], []),
        (clips / "inner", [], [clips / "inner" / "figures.json"]),
    ):
        with pytest.raises(UsageError, match="would replace"):
            site.check(folder, inputs, outputs, force=True)
    monkeypatch.chdir(clips / "inner")
    with pytest.raises(UsageError, match="runs in"):
        site.check("..", force=True)
    with pytest.raises(UsageError, match="a page is a folder"):
        site.check("-")
    for bad in (tmp_path / "file", tmp_path / "none" / "out"):
        with pytest.raises(BadInput, match="cannot write"):
            site.check(bad, force=True)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    new = site.new_site(tmp_path / "out")
    with pytest.raises(BadInput) as caught, new as made, full_after(1000):
        made.write("sound/a.js", bytes(999))
        made.write("sound/b.js", bytes(1001))
    assert str(caught.value) == f"cannot write {tmp_path}/out/sound/b.js: file too large"
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_signals_wait_until_a_page_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise files of others, that are moved to the new page, would stay in the old one."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    rename = os.rename

    def interrupted(old: Path, new: Path) -> None:
        rename(old, new)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), site.new_site(tmp_path / "out", force=True) as made:
        made.write("index.html", "new")
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["contents.json", "index.html", "mine"]


def test_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a/../x", ""):
        with pytest.raises(AssertionError), site.new_site(tmp_path / "out") as made:
            made.write(name, "")


def test_data_are_no_markup() -> None:
    text = site.data({"a": "</script><!--&", "b": [1.5, None, "\udcff"]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&", "b": [1.5, None, "\udcff"]}


# --- sounds --------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_text_holds_bytes(data: bytes) -> None:
    text = sounds.text(data)
    assert len(text) == -(-8 * len(data) // 15)
    assert all(0x3400 <= ord(unit) < 0xB400 for unit in text)
    bits = "".join(f"{ord(unit) - 0x3400:015b}" for unit in text)
    assert bytes(int(bits[8 * k : 8 * k + 8], 2) for k in range(len(data))) == data


def test_sounds_keep_fourteen_bits() -> None:
    samples = np.concatenate([tone(440, 0.2), [1.0, -1.0, 1.5, -1.5]])
    read, rate = soundfile.read(io.BytesIO(sounds.flac(samples)), dtype="float64")
    assert rate == RATE and len(read) == len(samples)
    assert np.abs(read - np.clip(samples, -1, 1)).max() <= 2**-13
    assert not (read * 2**15 % 4).any()


def test_a_clip_is_brought_down_as_a_whole() -> None:
    assert sounds.common_gain({"a": np.array([0.5]), "b": np.array([-2.0])}) == 0.5
    assert sounds.common_gain({"a": np.array([0.5]), "b": np.zeros(0)}) == 1.0
    assert sounds.common_gain({}) == 1.0


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the player and one clip of two tones, 400 Hz and 600 Hz."""
    out = tmp_path_factory.mktemp("tones") / "out"
    with site.new_site(out) as made:
        made.add_assets("base.css", "sounds.js", "player.js")
        made.render("base.html", title="Two tones")
        made.write("sound/000.js", sounds.script("000", {"a": tone(400), "b": tone(600, level=2)}))
    return out


# Renders what is heard, as samples: `act(player)` runs at the moments given.
RENDER = """
async ({seconds, acts}) => {
  const context = new OfflineAudioContext(1, seconds * 16000, 16000);
  const player = new sotto.Player(context);
  await player.load(await sotto.sounds.load("000"));
  const did = [];
  for (const [when, act, ...values] of acts) {
    if (when === 0) player[act](...values);
    else context.suspend(when).then(() => {
      player[act](...values);
      did.push([context.currentTime, player.position, player.playing]);
      context.resume();
    });
  }
  const heard = await context.startRendering();
  return {samples: Array.from(heard.getChannelData(0)), did, keys: player.keys,
          duration: player.duration, at: player.position};
}
"""


def render(page, seconds, *acts):
    found = page.evaluate(RENDER, {"seconds": seconds, "acts": acts})
    return np.array(found.pop("samples")), found


def levels(samples, hop=80):
    """The RMS of every 5 ms."""
    return np.sqrt(np.mean(samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2, axis=1))


def test_sounds_arrive_whole(tones: Path, open_page: OpenPage) -> None:
    page = open_page(tones)
    _, found = render(page, 0.1)
    assert found["keys"] == ["a", "b"] and found["duration"] == pytest.approx(2.0)


def test_a_clip_that_is_missing_is_said(tones: Path, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((tones / "index.html").as_uri())
        with pytest.raises(Exception, match="clip 999 are missing"):
            page.evaluate("sotto.sounds.load('999')")


def faded(samples: np.ndarray, first: float, last: float) -> np.ndarray:
    """Samples that are heard from `first` to `last`, faded by raised cosines of 5 ms within."""
    moments = np.arange(len(samples)) / RATE
    rise, fall = (moments - first) / 0.005, (last - moments) / 0.005
    ramp = np.clip(np.minimum(rise, fall), 0, 1)
    return samples * (0.5 - 0.5 * np.cos(np.pi * ramp))


def test_switching_fades_out_then_in_and_keeps_the_moment(tones: Path, open_page: OpenPage) -> None:
    """Versions are never heard together (ITU-R BS.1534-3, 5.3), however quickly they are chosen."""
    acts = (0.512, "select", "b"), (0.768, "select", "a"), (0.776, "select", "b")
    samples, found = render(open_page(tones), 1.5, (0, "play"), *acts)
    begin = round(0.01 * RATE)
    a, b = (
        tone(hertz, level=level)[: len(samples) - begin] for hertz, level in ((400, 0.25), (600, 1))
    )
    heard = samples[begin:]
    switch, again = 0.512 + 0.02 - 0.01, 0.768 + 0.02 - 0.01
    expected = faded(a, -1, switch + 0.005) + faded(b, switch + 0.005, again + 0.005)
    expected += faded(a, again + 0.005, again + 0.015) + faded(b, again + 0.015, 2)
    np.testing.assert_allclose(heard[400:], expected[400:], atol=2e-3)
    # No click: nowhere a step larger than the steepest tone makes.
    assert np.abs(np.diff(heard[400:])).max() < 1.05 * 2 * np.pi * 600 / RATE
    assert found["did"][0][1:] == [pytest.approx(0.502, abs=1e-3), True]
    assert found["at"] == pytest.approx(1.49, abs=0.01)


def test_seek_and_pause(tones: Path, open_page: OpenPage) -> None:
    acts = (0, "seek", 1), (0, "play"), (0.256, "seek", 0.3), (0.512, "pause"), (0.768, "play")
    samples, found = render(open_page(tones), 1.0, *acts)
    a = tone(400, level=0.25)
    first, second = round(0.2 * RATE), round(0.4 * RATE)
    size = 800
    np.testing.assert_allclose(samples[first:][:size], a[first - 160 + RATE :][:size], atol=2e-3)
    at = second - round(0.266 * RATE) + round(0.3 * RATE)
    np.testing.assert_allclose(samples[second:][:size], a[at:][:size], atol=2e-3)
    assert np.abs(samples[round(0.57 * RATE) : round(0.76 * RATE)]).max() < 1e-3
    assert levels(samples[round(0.8 * RATE) :]).min() > 0.1
    assert [playing for _, _, playing in found["did"]] == [True, False, True]


def test_a_loop_repeats_with_faded_ends(tones: Path, open_page: OpenPage) -> None:
    samples, found = render(open_page(tones), 1.6, (0, "loop", 0.5, 0.9), (0, "play"))
    begin, period = round(0.01 * RATE), round(0.4 * RATE)
    heard = samples[begin:]
    a = tone(400, level=0.25)[RATE // 2 :]
    middle = slice(600, period - 200)
    for k in range(3):
        part = heard[k * period : (k + 1) * period]
        np.testing.assert_allclose(part[middle], a[middle], atol=2e-3)
        assert np.abs(part[-8:]).max() < 0.01
    assert 0.5 <= found["at"] < 0.9


def test_the_end_is_the_beginning(tones: Path, open_page: OpenPage) -> None:
    page = open_page(tones)
    state = page.evaluate(
        """async () => {
          const player = new sotto.Player(sotto.audio());
          await player.load(await sotto.sounds.load("000"));
          player.seek(player.duration - 0.1);
          const states = [];
          const ended = new Promise((resolve) => player.addEventListener("state", () => {
            states.push(player.playing);
            if (!player.playing) resolve();
          }));
          await player.play();
          await ended;
          return [states, player.position];
        }"""
    )
    assert state == [[True, False], 0]


def test_one_player_at_a_time(tones: Path, open_page: OpenPage) -> None:
    page = open_page(tones)
    found = page.evaluate(
        """async () => {
          const one = new sotto.Player(sotto.audio()), two = new sotto.Player(sotto.audio());
          for (const each of [one, two]) await each.load(await sotto.sounds.load("000"));
          await one.play();
          await two.play();
          return [one.playing, two.playing];
        }"""
    )
    assert found == [False, True]


def test_a_version_that_comes_late_joins_in(tones: Path, open_page: OpenPage) -> None:
    page = open_page(tones)
    samples = page.evaluate(
        """async () => {
          const context = new OfflineAudioContext(1, 16000, 16000);
          const player = new sotto.Player(context);
          const {a, b} = await sotto.sounds.load("000");
          const late = await context.decodeAudioData(b);
          await player.load({a});
          player.play();
          player.select("b");
          context.suspend(0.256).then(async () => {
            await player.load({b: late});
            context.resume();
          });
          return Array.from((await context.startRendering()).getChannelData(0));
        }"""
    )
    samples = np.array(samples)
    begin, after = round(0.01 * RATE), round(0.35 * RATE)
    expected = tone(600, level=1.0)[after - begin :][: len(samples) - after]
    np.testing.assert_allclose(samples[after:], expected, atol=2e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_frame_fits_every_width(tones: Path, open_page: OpenPage, width: int) -> None:
    page = open_page(tones, viewport={"width": width, "height": 800})
    assert not scrolls_sideways(page)
    assert findings(page) == []
    assert page.title() == "Two tones"
