"""Training in short packets: the networks see of a frame what they see in a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codec.search.problem import Networks, quantise
from codec.search.sliding import Past, following
from codec.speech.encoder import CHAINED_BELOW
from codec.speech.history import CONTEXT_STEPS
from models.networks.speech import SpeechModel, SpeechShape
from models.networks.speech_distance import FrameDistance
from models.training import checkpoints, sliding
from models.training.held_out import HeldOut, held_out_frames
from models.training.log import read_log
from models.training.objectives import Objective, Prices
from models.training.sliding import BLOCKS
from models.training.speech import SpeechTask
from tests.conftest import CLIPS
from tests.tiny_training import SETTINGS, SHAPE, pack, training
from tui.cli import main

# As deep as the shipped networks, so that a block's past is as long.
DEEP = SpeechShape(
    channels=24, width=16, hidden=16, encoder_blocks=4, generator_blocks=8,
    prior_unit=4, prior_groups=(8, 16),
)  # fmt: skip
FRAMES, STEPS, PATCH = 3, DEEP.steps, DEEP.patch


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    """Networks in which every weight counts: as made, their last layers are zero."""
    return stirred(DEEP)


def stirred(shape: SpeechShape) -> SpeechModel:
    torch.manual_seed(0)
    model = SpeechModel(shape)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand((FRAMES, 128, 128), generator=torch.Generator().manual_seed(1)) - 0.5


RATE = torch.tensor([0.0, 1.0, 1.7])


def starts(block: int) -> range:
    """The first steps of the blocks that have a whole past."""
    return range(4, STEPS, block)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_coded_without_what_follows(model: SpeechModel, x: Tensor, block: int) -> None:
    """Unlike in a whole frame, where the columns after it change it."""
    end = 8
    other = x.clone()
    other[:, PATCH * end :] *= -1.0
    for length, changed in ((block, False), (STEPS, True)):
        z, z_other = (sliding.encode(model, each, RATE, length) for each in (x, other))
        assert torch.equal(z[:, :end], z_other[:, :end]) != changed
        q = quantise(3.0 * z)
        q_other = torch.cat((q[:, :end], -q[:, end:]), dim=1)
        y, y_other = (sliding.generate(model, each, RATE, length) for each in (q, q_other))
        assert torch.equal(y[:, : PATCH * end], y_other[:, : PATCH * end]) != changed


@pytest.mark.parametrize("block", BLOCKS)
def test_networks_see_the_past_that_a_call_gives_them(
    model: SpeechModel, x: Tensor, block: int
) -> None:
    z = sliding.encode(model, x, RATE, block)
    q = quantise(3.0 * z)
    y = sliding.generate(model, q, RATE, block)
    bits = sliding.bits(model, q, RATE, block)
    assert z.shape == bits.shape == (FRAMES, STEPS, DEEP.channels) and y.shape == x.shape
    networks = Networks(model.encoder, model.generator, model.prior, model.generator)
    for row, first in ((row, first) for row in range(FRAMES) for first in starts(block)):
        own, last, rate = slice(row, row + 1), first + block, RATE[row : row + 1]
        window = x[own, PATCH * (first - model.encoder_past) : PATCH * last]
        expected = model.encoder(window, rate)[:, -block:]
        torch.testing.assert_close(z[own, first:last], expected)
        chained = CONTEXT_STEPS if block < CHAINED_BELOW else 0
        past = Past(q[own, first - model.generator_past : first], q[own, first - chained : first])
        call = following(networks, past)
        columns = slice(PATCH * first, PATCH * last)
        torch.testing.assert_close(y[own, columns], call.generator(q[own, first:last], rate))
        expected = call.prior.bits(q[own, first:last], rate)
        torch.testing.assert_close(bits[own, first:last], expected)


def test_a_whole_frame_does_not_slide(model: SpeechModel, x: Tensor) -> None:
    z = sliding.encode(model, x, RATE, STEPS)
    assert torch.equal(z, model.encoder(x, RATE))
    q = quantise(z)
    assert torch.equal(sliding.generate(model, q, RATE, STEPS), model.generator(q, RATE))
    assert torch.equal(sliding.bits(model, q, RATE, STEPS), model.prior.bits(q, RATE))


def test_frames_of_few_steps_have_no_windows() -> None:
    """Of the longest patches, a frame is one block."""
    model = stirred(replace(SHAPE, patch=32))
    x = torch.rand(1, 128, 128) - 0.5
    z = sliding.encode(model, x, torch.ones(1), 1)
    assert torch.equal(z, model.encoder(x, torch.ones(1)))


@pytest.mark.parametrize("slid", [0, 1, 2, 3])
def test_the_last_frames_of_a_batch_slide(model: SpeechModel, x: Tensor, slid: int) -> None:
    noise = torch.zeros(FRAMES, STEPS, DEEP.channels)
    y, bits, pull = Objective(model)(x, RATE, noise, None, slid, 1)
    assert not pull.any()
    for row in range(FRAMES):
        block, own = 1 if row >= FRAMES - slid else STEPS, slice(row, row + 1)
        q = quantise(sliding.encode(model, x[own], RATE[own], block))
        torch.testing.assert_close(y[own], sliding.generate(model, q, RATE[own], block))
        expected = sliding.bits(model, q, RATE[own], block).sum()
        torch.testing.assert_close(bits[row], expected)


def test_sliding_frames_train_every_network(x: Tensor) -> None:
    model = stirred(DEEP).requires_grad_(True)
    noise = torch.zeros(FRAMES, STEPS, DEEP.channels)
    y, bits, _ = Objective(model)(x, RATE, noise, None, FRAMES, 2)
    (y.square().mean() + bits.mean()).backward()
    for network in (model.encoder, model.generator, model.prior):
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())


# --- in the loop ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dev")
    samples, rate = soundfile.read(CLIPS / "librispeech-672.flac", dtype="float32")
    soundfile.write(folder / "a.wav", samples[: 3 * rate], rate)
    return folder


def test_training_lowers_the_cost_of_short_packets(packed: Path, tmp_path: Path) -> None:
    """More than a training that never sees them does."""
    held = training(packed, tmp_path, 1).source.batch(24, np.random.default_rng(9))
    costs = {}
    for share in (0.0, 1.0):
        settings = replace(SETTINGS, sliding=share, adversarial=0.0, steer_from=None)
        task = training(packed, tmp_path / str(share), 60, settings).task("one", None)
        figures = HeldOut(held, task.distance, task.prices)
        before = figures.figures(task.average)
        for step in range(60):
            task.step(step / 60)
        costs[share] = figures.figures(task.average)
        assert costs[share]["held_out_cost_1"] < before["held_out_cost_1"]
    assert costs[1.0]["held_out_cost_1"] < costs[0.0]["held_out_cost_1"]


class Stub(torch.nn.Module):
    """An objective by which sliding frames take more bits than whole ones, which meet a target."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.asked: list[tuple[int, int]] = []

    def forward(
        self, x: Tensor, rate: Tensor, noise: Tensor, searched: Tensor | None, slid: int, block: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.asked.append((slid, block))
        bits = torch.full_like(rate, 100.0)
        bits[len(x) - slid :] = 1e6
        return x + self.weight.sum(), bits, torch.zeros_like(rate)


def test_prices_follow_whole_frames_and_blocks_vary(packed: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, sliding=0.5, adversarial=0.0, steer_from=0)
    task = training(packed, tmp_path, 20, settings).task("one", None)
    assert isinstance(task, SpeechTask)
    task.prices.log_targets = torch.log(torch.full((3,), 100.0))
    before = task.prices.log_prices.clone()
    stub = task.objective = Stub(task.model.encoder.basis)
    for _ in range(20):
        task.step(0.0)
    torch.testing.assert_close(task.prices.log_prices, before)
    assert {slid for slid, _ in stub.asked} == {SETTINGS.batch // 2}
    assert {block for _, block in stub.asked} == set(BLOCKS)


@pytest.mark.parametrize(("name", "most"), [("one", 8), ("two", 4)])
def test_searched_frames_stay_whole(packed: Path, tmp_path: Path, name, most: int) -> None:
    tiny = training(packed, tmp_path, 2, replace(SETTINGS, sliding=1.0, adversarial=0.0))
    assert tiny.stage("one", None)
    tiny.centres()
    task = tiny.task(name, None)
    assert isinstance(task, SpeechTask)
    stub = task.objective = Stub(task.model.encoder.basis)
    task.step(0.0)
    assert [slid for slid, _ in stub.asked] == [most]


def test_held_out_figures_are_of_coded_frames(model: SpeechModel, x: Tensor) -> None:
    prices, distance = Prices(), FrameDistance()
    held = HeldOut(x, distance, prices)
    price = float(prices.of(torch.ones(1)))
    prices.log_prices += 1.0
    found = held.figures(model)
    for block in (1, STEPS):
        rate = torch.ones(FRAMES)
        noise = torch.zeros(FRAMES, STEPS, DEEP.channels)
        slid = FRAMES if block == 1 else 0
        y, bits, _ = Objective(model)(x, rate, noise, None, slid, block)
        expected = float(distance(x, y).mean()), float(bits.mean())
        assert found[f"held_out_distance_{block}"] == pytest.approx(expected[0], rel=1e-4)
        assert found[f"held_out_bits_{block}"] == pytest.approx(expected[1], rel=1e-4)
        cost = expected[0] + price * expected[1]
        assert found[f"held_out_cost_{block}"] == pytest.approx(cost, rel=1e-4)
    assert found == held.figures(model)


def test_held_out_frames_are_whole_and_the_same(dev: Path) -> None:
    frames = held_out_frames(dev)
    assert frames.shape == (2, 128, 128)
    assert torch.equal(frames, held_out_frames(dev))


def test_the_log_follows_held_out_frames(packed: Path, dev: Path, tmp_path: Path) -> None:
    """Before the first step, and after the last."""
    tiny = training(packed, tmp_path, 6)
    tiny.schedule = replace(tiny.schedule, dev=dev)
    assert tiny.stage("one", None)
    log = read_log(tmp_path / "one" / "log.jsonl")
    told = [entry for entry in log if "held_out_cost_1" in entry]
    assert told[0]["step"] == 0 and told[-1]["step"] == 6
    path = checkpoints.latest_checkpoint(tmp_path / "one")
    assert path is not None
    task = tiny.task("one", None)
    assert task.resume(path) > 0.0
    assert told[-1]["held_out_cost_1"] == pytest.approx(task.held_out()["held_out_cost_1"], 1e-4)


def test_another_share_goes_on_from_a_checkpoint(packed: Path, tmp_path: Path) -> None:
    for steps, share in ((2, 0.0), (4, 0.5)):
        tiny = training(packed, tmp_path, 4, replace(SETTINGS, sliding=share))
        task = tiny.task("one", None)
        path = checkpoints.latest_checkpoint(tmp_path / "one")
        if path is not None:
            task.resume(path)
        while task.steps < steps:
            task.step(0.0)
        task.save(tmp_path / "one", 1.0)
    assert task.steps == 4


@pytest.mark.parametrize("share", ["2", "-0.1", "half"])
def test_shares_are_shares(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "speech", "--data", "x", "--work", "y", "--sliding", share]
    assert main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err
