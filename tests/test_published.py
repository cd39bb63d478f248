"""What others published of Kodak, beside what was measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from models.evaluation import image
from models.evaluation.image_results import Results
from models.evaluation.published import is_kodak, published_curves
from models.evaluation.rate_quality import Point
from tests.coarse_codec import coarse, printed
from tui.pages import site
from tui.pages.image import ImagePage

KODAK = [f"kodim{k:02d}.png" for k in range(1, 25)]


def results(names: list[str], curve: list[tuple[float, float, float]]) -> Results:
    """As if every picture had been measured with the means of a curve."""
    points = [Point(n, *at, 0.5, 0.1) for n in names for at in curve]
    codecs = [coarse("sotto", (1, 2, 3))]
    return Results(codecs, {"sotto": points}, {"sotto": points[:3]}, 0.29)


def test_published_curves_rise_and_name_their_source() -> None:
    curves = published_curves()
    assert {"VTM", "Cool-chic 5.0", "hyperprior", "mbt2018"} <= {c.name for c in curves}
    for curve in curves:
        assert "/" in curve.source
        for column in range(3):
            values = [p[column] for p in curve.points if math.isfinite(p[column])]
            assert values == sorted(set(values)), curve.name
        assert math.isfinite(curve.at(0.29)[0])
        assert math.isnan(curve.at(10.0)[0])
    assert curves[0].at(0.4905454847547744) == pytest.approx((34.26, 0.978), abs=0.01)


def test_only_whole_kodak_is_compared() -> None:
    assert is_kodak(KODAK)
    assert is_kodak([f"kodak-{k:02d}-x.webp" for k in range(1, 25)])
    assert not is_kodak(KODAK[:-1])
    assert not is_kodak([*KODAK, "more.png"])
    assert not is_kodak([*KODAK[:-1], KODAK[0]])
    assert not is_kodak([f"{k:02d}.png" for k in range(1, 25)])
    assert not is_kodak([])


def test_published_curves_stand_beside_the_measured() -> None:
    vtm = published_curves()[0]
    cheaper = [(0.9 * r, p, m) for r, p, m in vtm.points]
    found = results(KODAK, cheaper)
    rows = {row.codec: row for row in found.rows()}
    assert rows["VTM"].published
    assert not rows["sotto"].published
    assert rows["VTM"].psnr == pytest.approx(vtm.at(0.29)[0])
    # A tenth fewer bits than VTM at every score.
    assert rows["VTM"].bd_rates == pytest.approx((-0.1, -0.1), abs=1e-6)
    assert math.isnan((rows["HPCM-Large"].bd_rates or (0.0, 0.0))[1])
    (line,) = (line for line in printed(found).splitlines() if "VTM" in line)
    assert "published" in line
    assert [part.strip() for part in line.split("│")[-3:-1]] == ["-10.0", "-10.0"]
    assert "VTM" not in printed(results(KODAK[:2], cheaper))
    lines = found.panels()[0].lines
    assert {"sotto", "VTM, published", "Cool-chic 5.0, published"} <= {each.label for each in lines}
    assert "Cool-chic 5.0, published" not in {each.label for each in found.panels()[1].lines}
    assert found.as_dict()["published"][0]["source"] == vtm.source
    assert "published" not in results(KODAK[:2], cheaper).as_dict()


def test_the_page_tells_published_from_measured(tmp_path: Path) -> None:
    found = results(KODAK, list(published_curves()[0].points))
    with site.new_site(tmp_path / "out") as made:
        ImagePage(made).finish(found, image.Settings(device="cpu"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "\n1 codecs at every rate" in text  # sotto alone was measured
    for curve in published_curves():
        assert f"{curve.name} (published)" in text
        assert curve.source in text
    with site.new_site(tmp_path / "two") as made:
        ImagePage(made).finish(results(KODAK[:2], [(0.2, 30.0, 0.9)]), image.Settings())
    assert "(published)" not in (tmp_path / "two" / "index.html").read_text()
