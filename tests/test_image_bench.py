"""A benchmark of pictures: what is measured of each, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.evaluation import image
from models.evaluation.classifiers import Classifier
from tests.coarse_codec import coarse, printed
from tests.tiny_image_model import photograph
from tui.cli import main
from tui.pages import site
from tui.pages.image import ImagePage


class Brightness(Classifier):
    """Takes a picture's mean for its class."""

    def ranking(self, pixels):
        return [int(pixels.mean()) // 16 + k for k in (0, 1, -1, 2, -2)]


class Fakes(image.Settings):
    """Codecs that take no time: one that keeps pictures, and one that loses them."""

    def load(self):
        return [coarse("sotto", (150, 199)), coarse("grey", (1, 140), best=255)]

    def load_classifier(self):
        return Brightness(torch.nn.Identity(), np.zeros(3), np.ones(3))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_codec_is_asked_for_the_class(jobs: int, tmp_path: Path) -> None:
    for seed in (1, 2):
        photograph(176, 176, seed).save(tmp_path / f"{seed}.png")
    files = image.find_pictures(tmp_path)
    found = image.run(files, Fakes(at=2.0, device="cpu"), jobs=jobs, timed=1)
    for name, least in (("sotto", 1.0), ("grey", 0.0)):
        finest = max(found.points[name], key=lambda p: p.bpp)
        assert finest.top1 is not None
        assert float(finest.top1) >= least
    assert any(p.top1 is False for p in found.points["grey"])
    assert "top-1" in printed(found) and "top-5" in printed(found)
    with site.new_site(tmp_path / "out") as made:
        ImagePage(made).finish(found, Fakes(device="cpu", classifier="/home/me/vgg.pth"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "same class" in text
    assert "<code>vgg.pth</code>" in text
    assert "/home/me" not in (tmp_path / "out" / "results.json").read_text()


def test_a_bad_classifier_is_found_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(64, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(image.Settings, "load", lambda self: pytest.fail("was loaded"))
    assert main(["bench", "image", str(tmp_path), "--classifier", str(tmp_path / "no.pth")]) == 1
    assert capsys.readouterr().err.startswith("sotto: cannot read ")


def test_what_is_missing_of_a_picture_is_told(tmp_path: Path) -> None:
    for seed in (1, 2):
        photograph(176, 176, seed).save(tmp_path / f"{seed}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    told: list[str] = []
    image.run(image.find_pictures(tmp_path), Fakes(device="cpu"), jobs=1, tell=told.append)
    (line,) = told
    assert "2.png is truncated or damaged" in line
