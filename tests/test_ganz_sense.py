"""Compressive sensing: the measurements, the recovered pictures, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codec.errors import BadInput
from codec.image.ganz import PIXELS, GanzCodec
from codec.image.sensing import (
    Annealing,
    Matrix,
    SenseSettings,
    Sensor,
    measure,
    recover_ganz,
    recover_photo,
)
from models.folder import load_photo_model
from tests.tiny_ganz_model import crop, tiny_ganz
from tests.tiny_image_model import make_model, photograph, psnr
from tui.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sense")


@pytest.fixture(scope="module")
def ganz(folder: Path) -> GanzCodec:
    return tiny_ganz(folder)


def picture() -> torch.Tensor:
    return torch.from_numpy(crop().copy()).permute(2, 0, 1)[None].float() / 255.0


def score(found: torch.Tensor) -> float:
    return float(-10.0 * torch.log10((found - picture()).square().mean()))


def test_measurements_are_gaussian_and_repeatable() -> None:
    matrix = Matrix(1000, seed=3)
    assert [len(part) for part in matrix.parts] == [333, 333, 334]
    whole = torch.cat(matrix.parts)
    assert float(whole.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(whole.std()) == pytest.approx(1 / 128, rel=0.01)
    again = Matrix(1000, seed=3)
    assert all((a == b).all() for a, b in zip(matrix.parts, again.parts, strict=True))
    assert not torch.equal(matrix.parts[0], Matrix(1000, seed=4).parts[0])
    # Colours have matrices of their own.
    assert not torch.equal(matrix.parts[0], matrix.parts[1])
    x = picture()
    y = matrix(x)
    assert y.shape == (1000,)
    assert float(y.square().mean()) == pytest.approx(float(x.square().mean()), rel=0.15)
    noisy = measure(matrix, x, noise=0.05, seed=1)
    assert float((noisy - y).std()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("joint", [False, True])
def test_even_pictures_are_known_at_once(joint: bool) -> None:
    matrix = Matrix(300, joint=joint)
    colour = torch.tensor([0.2, 0.9, 0.5])[None, :, None, None].expand(1, 3, 128, 128)
    torch.testing.assert_close(
        matrix.mean_colours(matrix(colour)), colour.contiguous(), atol=1e-4, rtol=0
    )


def test_one_matrix_can_measure_all_colours(ganz: GanzCodec) -> None:
    matrix, x = Matrix(1000, joint=True), picture()
    (whole,) = matrix.parts
    assert whole.shape == (1000, PIXELS)
    assert float(whole.std()) == pytest.approx(PIXELS**-0.5, rel=0.01)
    y = matrix(x)
    torch.testing.assert_close(y, whole @ x.flatten())
    assert float(y.square().mean()) == pytest.approx(float(x.square().mean()), rel=0.15)
    found = recover_ganz(ganz.model, matrix, y, Annealing(4, 6, 0.012))
    assert score(found) > score(matrix.mean_colours(y)) + 2
    with pytest.raises(BadInput, match="48 to 10922"):
        Matrix(11_000, joint=True)


@pytest.mark.parametrize("count", [0, 47, PIXELS // 3 + 1, 10**9])
def test_impossible_numbers_of_measurements(count: int) -> None:
    with pytest.raises(BadInput, match="there can be"):
        Matrix(count)


def test_annealing_falls_to_what_the_noise_leaves() -> None:
    annealing = Annealing(rounds=5, steps=3, last=0.01)
    sigmas = [annealing.sigma(k) for k in range(5)]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] == pytest.approx(0.01)
    assert Annealing(1, 3, 0.02).sigma(0) > 0


def test_both_priors_recover_a_picture(ganz: GanzCodec, folder: Path) -> None:
    make_model(folder / "photo")
    networks = load_photo_model("photo", folder / "photo")
    matrix = Matrix(2500)
    y = matrix(picture())
    even = score(matrix.mean_colours(y))
    plan = Annealing(4, 10, 0.012)
    found = recover_ganz(ganz.model, matrix, y, plan)
    assert found.shape == (1, 3, 128, 128)
    assert score(found) > even + 4
    assert score(found) > 20
    photo = recover_photo(networks, matrix, y, Annealing(3, 6, 0.012))
    assert score(photo) > even + 4
    # Few measurements, or bad ones, are a worse picture.
    few = Matrix(300)
    assert score(recover_ganz(ganz.model, few, few(picture()), plan)) < score(found) - 1
    noisy = measure(matrix, picture(), 0.3)
    assert score(recover_ganz(ganz.model, matrix, noisy, Annealing(4, 10, 0.3))) < score(found) - 1


def test_settings_are_checked() -> None:
    with pytest.raises(BadInput, match="unknown prior"):
        SenseSettings(1000, prior="wavelets")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="noise"):
        SenseSettings(1000, noise=float("nan"))
    with pytest.raises(BadInput, match="steps"):
        SenseSettings(1000, steps=0)
    settings = SenseSettings(1000, steps=3)
    assert settings.annealing().rounds == 3
    assert SenseSettings(PIXELS // 5).share == pytest.approx(0.2, abs=1e-4)


def test_pictures_of_other_sizes_are_tiles(ganz: GanzCodec, monkeypatch) -> None:
    monkeypatch.setattr("models.folder.load_ganz_model", lambda name: ganz.model)
    seen: list[float] = []
    sensor = Sensor(SenseSettings(2500, prior="ganz", steps=16), "cpu")
    pixels = np.asarray(photograph(150, 60))
    found = sensor.sense(pixels, lambda p: seen.append(p.share))
    assert found.shape == pixels.shape
    assert psnr(found, pixels) > 18
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(BadInput, match="tiles"):
        sensor.sense(np.zeros((1200, 1200, 3), np.uint8))


def test_the_command(ganz: GanzCodec, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr("models.folder.load_ganz_model", lambda name: ganz.model)
    source, target, shown = (str(tmp_path / n) for n in ("a.png", "b.png", "c.png"))
    photograph(128, 128).save(source)
    base = ["image", "sense", source, target, "--prior", "ganz", "--iterations", "6"]
    assert main([*base, "--ratio-measured", "0.03", "--preview", shown]) == 0
    said = capsys.readouterr().out
    assert "1474 measurements" in said
    assert "dB" in said
    assert Image.open(target).size == (128, 128)
    assert Image.open(shown).size[1] == 128
    before = Path(source).read_bytes(), Path(target).read_bytes()
    for wrong in (source, target):
        assert main([*base, "--preview", wrong]) == 2
        assert "same file" in capsys.readouterr().err
    assert before == (Path(source).read_bytes(), Path(target).read_bytes())
    assert main([*base, "--force", "--measurements", "500", "--joint"]) == 0
    assert "500 measurements" in capsys.readouterr().out
    assert main([*base, "--force", "--measurements", "20"]) == 1
    assert "there can be" in capsys.readouterr().err
    assert main([*base, "--ratio-measured", "0.9"]) == 2
