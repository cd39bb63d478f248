"""The page of pictures: what was measured, and the pictures before and after, in a browser."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from models.evaluation import image
from tests.browser import SOME_WIDTHS, WIDTHS, OpenPage, findings, scrolls_sideways
from tests.coarse_codec import coarse, printed
from tui import cli
from tui.pages import site
from tui.pages.image import AMPLIFICATION, ImagePage, lossless

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("<b>first.png", "second.png")


class Fakes(image.Settings):
    """Codecs that take no time: two curves, one that holds a rate, and a peer."""

    def load(self):
        return [
            coarse("sotto", (120, 150, 170)),
            coarse("encoder", (110, 140, 160)),
            coarse("sotto --bpp", (150,)),
            coarse("jpeg & more", (1, 80, 95), (1, 95), best=140),
        ]


class One(image.Settings):
    def load(self):
        return [coarse("sotto --bpp", (150,))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    for name, (height, width) in zip(NAMES, ((128, 160), (144, 128)), strict=True):
        slope = (
            np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]
        )
        pixels = slope + random.integers(0, 5, (height, width, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def settings() -> Fakes:
    return Fakes(at=0.62, device="cpu")


@pytest.fixture(scope="module")
def measured(pictures: Path, settings: Fakes):
    """The results, and what was shown."""
    shown: list[image.Comparison] = []
    found = image.run(image.find_pictures(pictures), settings, jobs=1, show=shown.append)
    return found, shown


@pytest.fixture(scope="module")
def out(measured, settings: Fakes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "out"
    found, shown = measured
    with site.new_site(folder) as made:
        page = ImagePage(made)
        for each in shown:
            page.show(each)
        page.finish(found, settings)
    return folder


def picture(page: Page, number: int = 0):
    return page.locator(".picture").nth(number)


# --- what is measured ----------------------------------------------------------------------------


def test_pictures_are_shown_as_they_were_decoded(measured, pictures: Path, settings: Fakes) -> None:
    found, shown = measured
    files = image.find_pictures(pictures)
    assert [each.picture for each in shown] == list(NAMES)
    first = shown[0]
    original = np.asarray(Image.open(files[0]))
    np.testing.assert_array_equal(first.original, original)
    # A curve has no rate of its own; a peer takes the largest file within the rate.
    assert [each.codec for each in first.decoded] == ["sotto --bpp", "jpeg & more"]
    ours, peer = first.decoded
    point = found.points["sotto --bpp"][0]
    assert (ours.bpp, ours.psnr, ours.ms_ssim) == (point.bpp, point.psnr, point.ms_ssim)
    assert peer.bpp <= 0.62
    codec = settings.load()[-1]
    np.testing.assert_array_equal(peer.pixels, codec.decode(codec.encode_at(original, 0.62)))
    assert ours.psnr == pytest.approx(image.psnr(original, ours.pixels))


def test_of_a_large_picture_the_busiest_part_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((64, 1400, 3), np.uint8)
    pixels[16:48, 1200:1390:2] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    shown: list[image.Comparison] = []
    image.run([tmp_path / "large.png"], One(device="cpu"), jobs=1, show=shown.append)
    (one,) = shown
    assert (one.width, one.height, one.top) == (1400, 64, 0)
    assert one.original.shape == (64, 1024, 3)
    np.testing.assert_array_equal(one.original, pixels[:, one.left : one.left + 1024])
    assert 1390 - 1024 - 2 <= one.left <= 1400 - 1024
    assert all(each.pixels.shape == one.original.shape for each in one.decoded)


def test_the_curves_are_means_by_setting(measured) -> None:
    found, _ = measured
    curve = found.curves()["sotto"]
    points = found.points["sotto"]
    assert len(curve) == 3
    assert curve[0][0] == pytest.approx((points[0].bpp + points[3].bpp) / 2)
    assert [rate for rate, *_ in curve] == sorted(rate for rate, *_ in curve)
    row = found.rows()[0]
    assert row.codec == "sotto" and row.bd_rates is None
    assert f"{row.psnr:.2f}" in printed(found)
    assert math.isfinite(found.search_gain())


def test_lossless_is_lossless() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(lossless(pixels)))), pixels)


# --- the page ------------------------------------------------------------------------------------


def test_the_page_holds_every_picture_and_figure(out: Path) -> None:
    html = (out / "index.html").read_text()
    assert "&lt;b&gt;first.png" in html and NAMES[0] not in html
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        f"{number:03d}-{k}.webp" for number in (1, 2) for k in range(3)
    ]
    values = json.loads((out / "results.json").read_text())
    assert len(values["points"]["sotto"]) == 6
    assert values["setup"]["at"] == 0.62


@pytest.mark.parametrize("width", SOME_WIDTHS)
def test_the_page_fits_and_is_accessible(out: Path, open_page: OpenPage, width: int) -> None:
    scheme = "dark" if width == WIDTHS[-1] else "light"
    page = open_page(out, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.locator(".chart > svg").count() == 2
    assert not scrolls_sideways(page)
    assert findings(page) == []


def test_curves_and_legend_are_drawn(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    for number in (0, 1):
        lines = page.locator(f"[data-chart='{number}'] > svg g[data-mark=line] path")
        assert lines.count() == 3
        assert all("NaN" not in (path.get_attribute("d") or "NaN") for path in lines.all())
    assert page.locator(".legend li").all_inner_texts() == [
        "sotto", "encoder", "sotto --bpp", "jpeg & more"
    ]  # fmt: skip


def test_the_divider_moves_by_keyboard_and_pointer(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    view = picture(page).locator(".view")
    slider = view.get_by_role("slider")
    clip = "getComputedStyle(document.querySelector('.after')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 50%)"
    assert slider.get_attribute("aria-valuetext") == "50 % original, 50 % sotto --bpp"
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate(clip) == "inset(0px 0px 0px 0%)"
    page.keyboard.press("ArrowRight")
    at = float(slider.input_value())
    assert 0 < at < 5
    box = view.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 40)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(75, abs=1)
    assert page.evaluate(clip).endswith("75%)") or "7" in page.evaluate(clip)
    # The other picture has a divider of its own.
    assert picture(page, 1).get_by_role("slider").input_value() == "50"


def test_codecs_are_chosen(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    view = picture(page).locator(".view")
    choice = view.get_by_role("button", name="jpeg & more")
    assert choice.get_attribute("aria-pressed") == "false"
    choice.focus()
    page.keyboard.press("Enter")
    assert choice.get_attribute("aria-pressed") == "true"
    assert view.locator(".after").get_attribute("src") == "pictures/001-2.webp"
    assert view.get_by_role("status").inner_text() == "jpeg & more is shown"
    assert view.locator("[aria-pressed=true]").count() == 1


def test_the_difference_is_amplified(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    view = picture(page).locator(".view")
    button = view.get_by_role("button", name="Difference")
    stage = view.locator(".stage")
    stage.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelector('.pair').children].every((i) => i.complete && i.naturalWidth)"
    )
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    seen = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB")).astype(int)
    before, after = (
        np.asarray(Image.open(out / f"pictures/001-{k}.webp").convert("RGB")).astype(int)
        for k in (0, 1)
    )
    expected = np.minimum(AMPLIFICATION * np.abs(before - after), 255)
    assert expected.mean() > 20
    # Away from the label in the corner; the stage may begin between two pixels of the window.
    apart = [
        np.abs(seen[20 + y : 90 + y, 20 + x : 140 + x] - expected[20:90, 20:140]).mean()
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    ]
    assert min(apart) < 1
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert view.get_by_role("slider").is_enabled()


def test_without_scripts_all_pictures_are_there(out: Path, open_page: OpenPage) -> None:
    page = open_page(out, java_script_enabled=False)
    plates = picture(page).locator(".plates figure")
    assert plates.count() == 3
    assert all(plate.is_visible() for plate in plates.all())
    assert not picture(page).locator(".view").is_visible()
    assert page.locator("details table tbody tr").count() == 3 * 3 + 1


def test_it_prints_pictures_side_by_side(out: Path, open_page: OpenPage) -> None:
    page = open_page(out)
    page.emulate_media(media="print")
    assert picture(page).locator(".plates").is_visible()
    assert not picture(page).locator(".view").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_a_page_is_refused_before_anything_is_measured(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr(image, "run", run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    argv = ["bench", "image", str(pictures), "--page"]
    assert cli.main([*argv, str(tmp_path / "mine")]) == 1
    assert cli.main([*argv, str(pictures)]) == 2
    assert cli.main([*argv, str(tmp_path / "no" / "out")]) == 1
    assert "notes.txt" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
