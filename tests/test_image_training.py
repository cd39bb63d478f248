"""Training, exporting and measuring image models, on a folder of tiny pictures."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codec.errors import BadInput, SottoError
from codec.image.base import ImageCodec
from codec.image.settings import EncodeSettings
from models.evaluation import image
from models.evaluation.image_codecs import MeasuredCodec
from models.evaluation.rate_quality import Point, bd_rate, mean_at, mean_bd_rate
from models.networks.photo import PhotoModel, PhotoShape
from models.training import photographs
from models.training.checkpoints import latest_checkpoint
from models.training.image import ImageSettings, ImageTask, trained_networks
from models.training.linear_start import lapped_basis, start_image
from models.training.objectives import image_objective
from models.training.photographs import Photographs, StoredPhotographs
from tests.tiny_image_model import (
    SHAPE,
    photograph,
    tiny_codec,
    training_pictures,
    write_photographs,
)
from tui.cli import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photographs(tmp_path_factory.mktemp("photos"), 5)
    (folder / "broken.png").write_bytes(b"no picture")
    photograph(20, 20).save(folder / "small.png")
    return folder


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """[3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0


def test_the_lapped_transform_is_orthonormal() -> None:
    basis = lapped_basis()
    np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-12)
    np.testing.assert_allclose(basis[:, :16] @ basis[:, 16:].T, 0.0, atol=1e-12)


def test_with_all_channels_the_start_reconstructs() -> None:
    model = PhotoModel(PhotoShape(channels=768, prior_unit=4, prior_groups=(300, 468)))
    x = training_pictures()
    start_image(model, x)
    rate = torch.full((len(x),), 1.7)
    with torch.no_grad():
        torch.testing.assert_close(
            model.generator(model.encoder(x, rate), rate), x, atol=1e-4, rtol=0
        )


def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    write_photographs(tmp_path, 3)
    whole = (tmp_path / "1.png").read_bytes()
    at = whole.index(b"IDAT")  # with its length before it, which is made too small
    (tmp_path / "1.png").write_bytes(whole[: at - 4] + bytes((0, 0, 1, 0)) + whole[at:])
    (tmp_path / "2.png").write_bytes(whole[:200])
    with pytest.raises(SyntaxError), Image.open(tmp_path / "1.png") as image:
        image.convert("RGB")
    notes: list[str] = []
    assert len(Photographs(tmp_path, crop=64, note=notes.append).training) == 1
    assert notes == ["2 pictures are unreadable, too small or too large"]


def test_more_than_memory_holds_is_refused_by_the_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path, 3)
    monkeypatch.setattr(photographs, "MAX_BYTES", 3 * 3 * 90 * 80)
    assert len(Photographs(tmp_path, crop=64).training) == 3
    monkeypatch.setattr(photographs, "MAX_BYTES", 3 * 3 * 90 * 80 - 1)
    opened: list[Path] = []
    monkeypatch.setattr(photographs, "_load", opened.append)
    with pytest.raises(BadInput, match="MiB of pixels"):
        Photographs(tmp_path, crop=64)
    assert not opened


def test_crops_of_stored_photographs_are_pieces_of_them(pictures: Path) -> None:
    photographs = Photographs(pictures, crop=64)
    stored = StoredPhotographs(photographs, torch.device("cpu"))
    crops = stored.batch(40, np.random.default_rng(0))
    assert torch.equal(crops, stored.batch(40, np.random.default_rng(0)))
    assert crops.shape == (40, 3, 64, 64)
    pieces = [
        image.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        for image in (to_tensor(picture) for picture in photographs.training)
    ]
    whole = 0
    for crop in crops:
        turned = [crop, crop.flip(2)]
        turned += [each.transpose(1, 2) for each in turned] + [crop.transpose(1, 2).flip(2)]
        whole += any((all_ == each).flatten(1).all(1).any() for all_ in pieces for each in turned)
    assert 0 < whole < 40  # the others are scaled down


def test_held_out_crops_are_measured(tmp_path: Path) -> None:
    photographs = Photographs(write_photographs(tmp_path, 5), crop=64, held_out=4)
    assert photographs.held_out().shape == (2, 3, 64, 64)
    model = PhotoModel(SHAPE)
    start_image(model, photographs.batch(6, np.random.default_rng(0)))
    task = ImageTask(model, photographs, torch.device("cpu"), ImageSettings(steps=1))
    found = task.held_out()
    assert 0.0 < found["held_out_bpp_1"] < found["held_out_bpp_2"]
    low, high = found["held_out_psnr_0"], found["held_out_psnr_3"]
    assert 20.0 < low <= found["held_out_psnr_at_0.3_bpp"] <= high


def test_moments_are_laid_out_as_their_weights(pictures: Path, tmp_path: Path) -> None:
    photographs, settings = Photographs(pictures, crop=64), ImageSettings(steps=1, prior_steps=0)
    model = PhotoModel(SHAPE)
    task, other = (
        ImageTask(copy.deepcopy(model), photographs, torch.device("cpu"), settings)
        for _ in range(2)
    )
    task.step(0.0)
    task.save(tmp_path, 1.0)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    other.resume(path)
    (before, _), (after, _) = task.optimisers["moments"], other.optimisers["moments"]
    for old, new in zip(task.model.parameters(), other.model.parameters(), strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            moment = after.state[new][key]
            assert torch.equal(moment, before.state[old][key])
            assert moment.stride() == new.stride()


def test_training_lowers_the_loss(pictures: Path) -> None:
    torch.manual_seed(0)
    notes: list[str] = []
    photographs = Photographs(pictures, crop=64, note=notes.append)
    assert len(photographs.training) == 5
    assert notes
    model = PhotoModel(SHAPE)
    start_image(model, photographs.batch(6, np.random.default_rng(0)))
    settings = ImageSettings(steps=40, batch=4, prior_steps=20, warmup=5, rate=3e-3)
    task = ImageTask(model, photographs, torch.device("cpu"), settings)
    x, rate = photographs.batch(12, np.random.default_rng(9)), torch.linspace(0.0, 1.9, 12)

    def loss() -> float:
        noise, noisy = torch.zeros(12, SHAPE.channels, 4, 4), torch.zeros(12, 1, 1, 1) > 0
        with torch.no_grad():
            error, bits = image_objective(task.model, x, rate, noise, noisy)
        return float((bits + error / task.model.price(rate)).mean())

    before = loss()
    for k in range(40):
        assert np.isfinite(float(task.step(k / 40)["loss"]))
    assert loss() < 0.97 * before


def test_training_resumes_exports_and_codes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.networks.photo.PhotoShape.__init__.__defaults__", _defaults())
    base = ["train", "image", "--data", str(pictures), "--work", str(tmp_path), "--crop", "64"]
    base += ["--batch", "2", "--examples", "4", "--search-steps", "2", "--device", "cpu"]
    assert main([*base, "--steps", "3", "--stage", "train"]) == 0
    assert main([*base, "--steps", "5", "--out", str(tmp_path / "photo")]) == 0
    log = (tmp_path / "image" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 5
    codec = tiny_codec(tmp_path / "photo")
    data = codec.encode(photograph(48, 48), EncodeSettings(bpp=2.0, iterations=6))
    assert codec.decode(data).shape == (48, 48, 3)
    (tmp_path / "other").mkdir()
    assert main([*base, "--stage", "export", "--out", str(tmp_path / "other")]) == 1


def test_a_training_starts_from_a_model(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_codec(tmp_path / "photo").model
    base = ["train", "image", "--data", str(pictures), "--work", str(tmp_path), "--crop", "64"]
    base += ["--batch", "2", "--steps", "2", "--stage", "train", "--device", "cpu"]
    assert main([*base, "--start", str(tmp_path / "nothing")]) == 1
    assert "nothing is no folder with a model" in capsys.readouterr().err
    assert main([*base, "--start", str(tmp_path / "photo")]) == 0
    entry = json.loads((tmp_path / "image" / "log.jsonl").read_text().splitlines()[-1])
    assert any(key.startswith("psnr") for key in entry)  # the generator trains from the first step
    found = trained_networks(tmp_path / "image")
    assert found.shape == start.shape
    ours, given = found.generator.basis, start.generator.basis
    torch.testing.assert_close(ours, given, atol=1e-2, rtol=0)
    assert not torch.equal(ours, given)


def _defaults() -> tuple[object, ...]:
    return tuple(getattr(SHAPE, name) for name in PhotoShape.__dataclass_fields__)


def test_bad_training_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["train", "image", "--work", str(tmp_path), "--data"]
    assert main([*base, str(tmp_path)]) == 1
    assert "no photographs" in capsys.readouterr().err
    assert main(["train", "image", "--data", "x", "--work", "y", "--crop", "100"]) == 2


def test_bd_rate() -> None:
    rates, scores = [0.1, 0.2, 0.4, 0.8], [28.0, 30.0, 32.5, 35.0]
    assert bd_rate(rates, scores, rates, scores) == pytest.approx(0.0, abs=1e-9)
    fewer = [0.9 * r for r in rates]
    assert bd_rate(fewer, scores, rates, scores) == pytest.approx(-0.1, abs=1e-6)
    assert np.isnan(bd_rate(rates, scores, rates, [s + 50 for s in scores]))
    points = [Point("a", r, s, 0.9, 0.0, 0.0) for r, s in zip(rates, scores, strict=True)]
    cheaper = [Point("a", 0.8 * p.bpp, p.psnr, 0.9, 0.0, 0.0) for p in points]
    assert mean_bd_rate(cheaper, points, "psnr") == pytest.approx(-0.2, abs=1e-3)
    assert mean_at(points, 0.2)[0] == pytest.approx(30.0)
    assert np.isnan(mean_at(points, 5.0)[0])


@pytest.mark.parametrize(("found", "jobs"), [("cuda", 1), ("cpu", 7)])
def test_a_card_is_not_shared_by_many_processes(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, found: str, jobs: int
) -> None:
    """Whether the card was named or found."""
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(image, "choose_device", lambda name: torch.device(found))
    settings = [image.Settings(device=name) for name in ("auto", found)]
    assert [each.default_jobs() for each in settings] == [jobs, jobs]


class Dying(image.Settings):
    """Its codecs load here, but not in a process of their own."""

    def load(self) -> list[MeasuredCodec]:
        if multiprocessing.parent_process() is not None:
            os._exit(1)
        return []


def test_a_measuring_process_that_dies_is_reported(pictures: Path) -> None:
    with pytest.raises(SottoError, match="workers die before they begin, with status 1"):
        image.run(image.find_pictures(pictures)[:2], Dying(device="cpu"), jobs=2)


class NoCodecs(image.Settings):
    def load(self) -> list[MeasuredCodec]:
        return []


def test_a_picture_that_a_process_cannot_read_is_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [image.find_pictures(pictures)[0], tmp_path / "broken.png"]
    with pytest.raises(SottoError, match=r"broken\.png was not measured: .*broken\.png"):
        image.run(files, NoCodecs(device="cpu"), jobs=2)


def test_bench(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    codec = tiny_codec(tmp_path / "photo")
    monkeypatch.setattr(ImageCodec, "load", lambda *_: codec)
    (pictures / "broken.png").unlink(missing_ok=True)
    args = ["bench", "image", str(pictures), "--count", "2", "--iterations", "2"]
    args += ["--peers", "jpeg", "--jobs", "1"]
    files = [str(tmp_path / n) for n in ("all.json", "curves.png", "crops.png")]
    more = ["--json", files[0], "--curves", files[1], "--crops", files[2], "--at", "0.8"]
    assert main([*args, *more]) == 0
    table = capsys.readouterr().out
    assert "jpeg" in table
    assert "BD-rate" in table
    found = json.loads(Path(files[0]).read_text())
    found = found["points"]
    assert len(found["sotto"]) == 2 * 6  # pictures, rate points
    assert all(p["bpp"] > 0 and p["psnr"] > 10 for p in found["sotto"])
    assert all(Path(f).stat().st_size > 1000 for f in files)
    assert main(["bench", "image", str(tmp_path / "none")]) == 1
