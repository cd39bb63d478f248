"""`sotto bench ganz` on a folder of tiny pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codec.image.ganz import GanzCodec
from models.evaluation.ganz import CODED, FIXED, GANZ, WAVELETS, middle_crops
from tests.tiny_ganz_model import tiny_ganz
from tests.tiny_image_model import photograph
from tui.cli import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photograph(150, 140, 1).save(folder / "a.png")
    photograph(128, 129, 2).save(folder / "b.png")
    photograph(120, 200).save(folder / "small.png")
    return folder


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GanzCodec:
    """The small model, in place of the shipped one."""
    codec = tiny_ganz(tmp_path)
    monkeypatch.setattr("models.folder.load_ganz_model", lambda name: codec.model)
    return codec


def bench(args: list[str]) -> int:
    return main(["bench", *args])


def test_the_middle_is_taken(pictures: Path) -> None:
    notes: list[str] = []
    crops = middle_crops(pictures, None, notes.append)
    assert list(crops) == ["a.png", "b.png"]
    assert all(crop.shape == (128, 128, 3) for crop in crops.values())
    assert "small.png is smaller" in notes[0]
    assert list(middle_crops(pictures, 1, notes.append)) == ["a.png"]


def test_table_json_and_curves(
    pictures: Path, tmp_path: Path, codec: GanzCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    found, curves = tmp_path / "all.json", tmp_path / "curves.png"
    args = ["ganz", str(pictures), "--count", "1", "--ratios", "48,768", "--iterations", "2"]
    args += ["--sense", "0.02", "--priors", "ganz", "--sense-steps", "8", "--device", "cpu"]
    assert bench([*args, "--json", str(found), "--curves", str(curves)]) == 0
    table = capsys.readouterr().out
    assert "wavelets" in table
    assert "983  0.02  ganz" in table
    everything = json.loads(found.read_text())
    assert set(everything["compression"]) == {GANZ, FIXED, CODED, WAVELETS}
    points = everything["compression"][GANZ]
    assert [p["ratio"] for p in points] == [48.0, 768.0]
    assert points[0]["psnr"] > points[1]["psnr"] > 10
    assert points[0]["bpp"] > 2.0  # 1024 floats
    assert everything["compression"][WAVELETS][0]["bpp"] is None
    assert everything["compression"][CODED][0]["bpp"] < 0.5
    assert everything["sensing"]["ganz"][0]["psnr"] > 10
    assert curves.stat().st_size > 1000


def test_the_figures_of_the_paper(
    pictures: Path, tmp_path: Path, codec: GanzCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sets of pictures, layers and models beside each other."""
    found, curves = tmp_path / "all.json", tmp_path / "curves.png"
    args = ["ganz", str(pictures), "--train", str(pictures), "--count", "1", "--ratios", "48"]
    args += ["--variants", "dense,sgd,keep", "--iterations", "1", "--device", "cpu"]
    args += ["--measurements", "400", "--joint", "--priors", "ganz", "--sense-steps", "4"]
    args += ["--model", "one", "--model", "other"]
    assert bench([*args, "--json", str(found), "--curves", str(curves)]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split()[3:5] == ["train", "test"]
    assert f" 3072       16  keep d_t=16 {codec.model_id[:4]} " in table
    assert "  400  0.01  ganz" in table
    everything = json.loads(found.read_text())
    names = list(everything["compression"])
    assert [name.split()[0] for name in names] == ["dense", "sgd", "keep", "wavelets"]
    points = everything["compression"][names[0]]
    assert [(p["pictures"], p["ratio"]) for p in points[:1] + points[-1:]] == [
        ("train", 48.0), ("test", 48.0),
    ]  # fmt: skip
    assert points[0]["psnr"] > everything["compression"][names[2]][0]["psnr"]
    assert curves.stat().st_size > 1000


def test_bad_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["ganz", str(tmp_path)]) == 1
    assert "no pictures" in capsys.readouterr().err
    assert bench(["ganz", str(tmp_path), "--ratios", "3"]) == 2
    assert bench(["ganz", str(tmp_path), "--priors", "jpeg"]) == 2
    assert bench(["ganz", str(tmp_path), "--variants", "square"]) == 2
