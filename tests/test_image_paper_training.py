"""Training of the paper's image system on a folder of tiny pictures."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.image.paper import PaperCodec
from codec.image.presets import find_image_preset
from codec.image.settings import EncodeSettings
from models.folder import load_photo_model, load_photo_paper_model
from models.networks.image_distance import PaperDistance
from models.networks.photo import TransformShape
from models.networks.photo_paper import (
    PaperImageEncoder,
    PaperImageGenerator,
    PaperImageShape,
    take_photo_networks,
)
from models.training.image_paper import PaperImageSettings, PaperImageTask
from models.training.linear_start import start_paper_image
from models.training.loop import Run
from models.training.paper import TwoStageTask, train_two_stages
from models.training.photographs import Photographs
from tests.tiny_image_model import (
    make_model,
    photograph,
    psnr,
    training_pictures,
    write_photographs,
)
from tui.cli import main

SHAPE = PaperImageShape(
    channels=24, levels=32, deep=8, deep_blocks=1, width=8, blocks=2, encoder_width=8,
    encoder_blocks=1,
)  # fmt: skip
TINY = PaperImageSettings(
    minutes=None, steps=6, batch=4, start_frames=6, table_batches=2, table_steps=2,
    search_every=2, search_steps=2, adversary=0.01, adversary_from=0.4, shape=SHAPE, start=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photos"), 4)


def test_the_linear_start_keeps_what_matters_most() -> None:
    x = training_pictures()
    encoder, generator = PaperImageEncoder(SHAPE), PaperImageGenerator(SHAPE)
    start_paper_image(encoder, generator, x)
    with torch.no_grad():
        z = encoder(x, torch.zeros(len(x)))
        y = generator(z, torch.zeros(len(x)))
        flat = generator(generator.smoothed(z), torch.zeros(len(x)))
    error = float((y - x).square().mean())
    assert error < 0.2 * float((x - x.mean((2, 3), keepdim=True)).square().mean())
    # The largest first, well within reach.
    spread = z.std((0, 2, 3))
    assert int(spread.argmax()) == 0
    assert 3.0 < float(z.abs().max()) < SHAPE.reach
    # Without detail the cells keep their colours.
    means = torch.nn.functional.avg_pool2d(flat - y, 48)
    assert float(means.abs().mean()) < 0.02


def test_the_networks_of_photo_are_taken_over(tmp_path: Path) -> None:
    make_model(tmp_path)
    photo = load_photo_model("photo", tmp_path)
    rate = torch.full((2,), 1.2)
    sizes = {f.name: getattr(photo.shape, f.name) for f in fields(TransformShape)}
    x = training_pictures()[:2]
    # All channels: the same networks at that rate point.
    shape = PaperImageShape(**sizes, reach=128.0)
    encoder, generator = PaperImageEncoder(shape), PaperImageGenerator(shape)
    take_photo_networks(encoder, generator, photo)
    with torch.no_grad():
        z = encoder(x, torch.zeros(2))
        assert torch.equal(z, photo.encoder(x, rate))
        assert torch.equal(generator(z, torch.zeros(2)), photo.generator(z, rate))
    # Fewer: those of the largest deviation, without the others.
    few = replace(shape, channels=10)
    encoder, generator = PaperImageEncoder(few), PaperImageGenerator(few)
    take_photo_networks(encoder, generator, photo)
    kept = photo.generator.spread.argsort(descending=True)[:10]
    none = torch.zeros_like(z)
    none[:, kept] = z[:, kept]
    with torch.no_grad():
        assert torch.allclose(encoder(x, torch.zeros(2)), z[:, kept], atol=1e-5)
        drawn = generator(z[:, kept], torch.zeros(2))
        assert torch.allclose(drawn, photo.generator(none, rate), atol=1e-5)
    other = replace(few, width=photo.shape.width + 1)
    with pytest.raises(ValueError, match="weights, not"):
        take_photo_networks(PaperImageEncoder(other), PaperImageGenerator(other), photo)


def trained(
    photographs: Photographs,
    work: Path,
    target: Path,
    settings: PaperImageSettings,
    run: Run | None = None,
) -> str | None:
    task = PaperImageTask(photographs, settings, run or Run(), torch.device("cpu"))
    return train_two_stages(task, work, target)


def test_training_goes_on_after_a_pause_exports_and_codes(pictures: Path, tmp_path: Path) -> None:
    photographs = Photographs(pictures, crop=64)
    work, target = tmp_path / "work", tmp_path / "model"
    assert trained(photographs, work, target, TINY, Run(pause=1e-6)) is None
    assert not target.exists()
    identity = trained(photographs, work, target, TINY)
    assert load_photo_paper_model("photo-paper", target).model_id == identity
    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 6
    assert {"loss", "discriminator", "searched"} <= set().union(*log)
    assert (work / "curves.png").exists()
    preset = replace(find_image_preset("paper"), model=str(target))
    codec = PaperCodec(preset, torch.device("cpu"))
    picture = photograph(96, 64, 1)
    decoded = codec.decode(codec.encode(picture, EncodeSettings(iterations=2)))
    assert psnr(decoded, np.asarray(picture)) > 18.0


@pytest.mark.usefixtures("undrawn")
def test_more_steps_lower_the_distance(pictures: Path, tmp_path: Path) -> None:
    photographs = Photographs(pictures, crop=64)
    x = photographs.batch(8, np.random.default_rng(5))
    found = []
    for steps in (1, 80):
        settings = replace(TINY, steps=steps, adversary=0.0, search_every=10, rate=1e-2, price=0.0)
        trained(photographs, tmp_path / f"work{steps}", tmp_path / f"{steps}", settings)
        model = load_photo_paper_model("photo-paper", tmp_path / f"{steps}")
        with torch.no_grad():
            y = model.generator(model.quantise(model.encoder(x, x[:, 0, 0, 0])), x[:, 0, 0, 0])
        found.append(float(PaperDistance()(x, y).mean()))
    assert found[1] < 0.985 * found[0]  # the linear start is good already


def test_the_command(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: dict[str, object] = {}

    def seen_only(task: TwoStageTask, folder: Path, target: Path) -> str:
        assert isinstance(task, PaperImageTask)
        seen.update(side=task.photographs.crop, steps=task.settings.steps, target=target)
        seen.update(minutes=task.settings.minutes, device=task.device)
        return "0123456789abcdef"

    monkeypatch.setattr("tui.training.train_two_stages", seen_only)
    base = ["train", "image-paper", "--work", str(tmp_path), "--data"]
    asked = ["--steps", "3", "--crop", "64", "--device", "cpu"]
    assert main([*base, str(pictures), *asked]) == 0
    assert seen == {
        "side": 64, "steps": 3, "minutes": None, "target": tmp_path / "model",
        "device": torch.device("cpu"),
    }  # fmt: skip
    assert "0123456789abcdef" in capsys.readouterr().err
    assert main([*base, str(pictures), "--crop", "50"]) == 2
    capsys.readouterr()
    assert main([*base, str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
