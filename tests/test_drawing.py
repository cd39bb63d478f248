"""Stage three: the generator learns to draw what critics take for speech."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.signal import texture
from models.networks.discriminator import Critics, matching_loss
from models.training.disturbance import Disturbance
from models.training.drawing import DrawingTask, Ears, voicing
from models.training.frames import draw_frames
from models.training.log import read_log
from models.training.schedule import trained_model
from tests.tiny_training import SETTINGS, pack, synthetic_columns, training


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def work(packed: Path, tmp_path_factory) -> Path:
    """WORK with a stage one."""
    folder = tmp_path_factory.mktemp("work")
    assert training(packed, folder, 10).stage("one", None)
    return folder


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    columns = torch.from_numpy(synthetic_columns(5000))
    return draw_frames(columns, 8, np.random.default_rng(0))


def test_only_the_generator_changes_and_the_stage_can_be_exported(packed: Path, work: Path) -> None:
    tiny = training(packed, work, 6)
    tiny.schedule = replace(tiny.schedule, exported="three")
    assert tiny.stage("three", None)
    before, after = (trained_model(work, name).state_dict() for name in ("one", "three"))
    changed = {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])}
    assert changed == {"generator"}
    log = read_log(work / "three" / "log.jsonl")
    assert log[-1]["step"] == 6 and log[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert {"matching", "generator_loss", "discriminator", "weight"} <= log[-1].keys()
    tiny.export()
    assert (work / "model" / "model.json").is_file()


def test_it_goes_on_where_it_stopped(packed: Path, work: Path) -> None:
    def task() -> DrawingTask:
        made = training(packed, work, 4).task("three", None)
        assert isinstance(made, DrawingTask)
        return made

    whole = task()
    for _ in range(2):
        whole.step(0.0)
    whole.save(work / "kept", 0.0)
    expected = whole.step(0.0)
    again = task()
    again.resume(work / "kept" / "checkpoint-00000002")
    for key, value in again.step(0.0).items():
        assert float(value) == pytest.approx(float(expected[key]), rel=1e-5), key


def test_the_critics_weight_follows_f(packed: Path, work: Path) -> None:
    task = training(packed, work, 4, replace(SETTINGS, rate=1e-9)).task("three", None)
    assert isinstance(task, DrawingTask)
    before = float(task.log_weight)
    task.step(0.0)  # F is what it was: there is room
    assert float(task.log_weight) == pytest.approx(before + 0.01, abs=1e-4)
    for parameter in task.model.generator.parameters():
        parameter.data += 0.1
    task.step(0.0)
    assert float(task.log_weight) == pytest.approx(before - 0.02, abs=1e-4)


def test_critics_compare_map_by_map(x: torch.Tensor) -> None:
    ears = Ears(x.device)
    rate = torch.ones(len(x))
    planes = ears.planes(x, x, rate)
    assert planes.shape == (8, 4, 128, 128)
    maps = Critics(4).requires_grad_(False)(planes)
    assert [each[-1].shape[1:] for each in maps] == [(15, 15), (7, 7), (3, 3)]
    assert float(matching_loss(maps, maps)) == 0.0
    assert float(matching_loss(maps, Critics(4).requires_grad_(False)(planes))) > 0.0


def test_noise_is_textured_above_and_voicing_is_that_of_synthesis(x: torch.Tensor) -> None:
    expected = np.stack([texture.voicing(frame) for frame in x.numpy()])
    assert np.abs(voicing(x).numpy() - expected).mean() < 0.02
    fields = torch.Generator().manual_seed(0)
    heard = Ears(x.device).heard(x, Disturbance(x.device), fields)
    torch.testing.assert_close(heard[..., :56], x[..., :56], atol=1e-4, rtol=0.0)
    assert float((heard - x)[..., 110:].abs().mean()) > 0.01


def test_above_two_kilohertz_fine_errors_count_half(x: torch.Tensor) -> None:
    ears = Ears(x.device)
    assert torch.allclose(ears.relief(x, x + 0.1), torch.zeros(8), atol=1e-4)
    fine = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    relief = ears.relief(x, x + fine)
    assert float(relief.max()) < 0.0
    low = fine.clone()
    low[..., 60:] = 0.0
    assert torch.allclose(ears.relief(x, x + low), torch.zeros(8), atol=1e-3)
