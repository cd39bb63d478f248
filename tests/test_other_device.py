"""Everything that `--device` affects, on a device that is not the CPU (`tests.elsewhere`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec.image.base import ImageCodec
from codec.image.sensing import SenseSettings, Sensor
from codec.image.settings import EncodeSettings
from codec.signal.analysis import LEAD, STEP_SAMPLES
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import SpeechEncoder
from codec.speech.presets import find_preset
from models.folder import load_ganz_model, load_photo_paper_model, load_speech_model
from models.networks.features import PhoneRecogniser
from models.training.export import export_ganz
from models.training.frames import FrameShards, draw_frames
from models.training.ganz import GanzTask, trained_generator
from models.training.image_paper import PaperImageTask
from models.training.loop import Run, train
from models.training.paper import train_two_stages
from models.training.photographs import Photographs
from models.training.schedule import SpeechTraining
from models.training.speech_paper import PaperSettings, PaperTask
from tests.elsewhere import Elsewhere, OtherDevice, accelerator
from tests.test_image_paper_training import TINY as image_settings
from tests.test_paper import TINY as paper_shape
from tests.tiny_ganz_model import tiny_task
from tests.tiny_image_model import photograph, write_photographs
from tests.tiny_training import pack, training

pytestmark = pytest.mark.usefixtures("undrawn")
_COPIED = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
CLIP = Path(__file__).parent / "clips" / "librispeech-672.flac"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The other device, which `auto` chooses."""
    whole = torch.autocast

    def autocast(device_type: str, *args: Any, **more: Any) -> Any:
        # Number formats are not what this device is for.
        return nullcontext() if device_type == "meta" else whole(device_type, *args, **more)

    monkeypatch.setattr(torch, "autocast", autocast)
    with accelerator() as found:
        for module in ("codec.speech.codec", "codec.image.sensing", "codec.device"):
            monkeypatch.setattr(f"{module}.choose_device", lambda name: found)
        yield found


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(folder)
    return folder


def speech() -> np.ndarray:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == 16_000
    return samples[: 2 * rate]


def test_devices_do_not_mix(device: torch.device) -> None:
    here = torch.ones(3)
    there = here.to(device)
    assert isinstance(there * 2.0, Elsewhere)
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
    assert float((there * torch.tensor([1.0, 2.0, 3.0], device=device)).sum()) == 6.0
    rising = torch.arange(6.0).reshape(3, 2).to(device)
    assert rising[[2, 0]].cpu().tolist() == [[4.0, 5.0], [0.0, 1.0]]
    rising[[0, 1], 1] = -1.0
    assert rising.cpu().flatten().tolist() == [0.0, -1.0, 2.0, -1.0, 4.0, 5.0]
    for mix in (
        lambda: there + here,
        lambda: torch.cat((there, here)),
        lambda: there.numpy(),
        lambda: here[there.long()],
        lambda: torch.rand(3, device=device, generator=torch.Generator()),
    ):
        with pytest.raises((OtherDevice, RuntimeError)):
            mix()


def test_gradients_arrive_there(device: torch.device) -> None:
    layer = torch.nn.Linear(3, 2).to(device)
    layer(torch.ones(1, 3, device=device)).sum().backward()
    assert isinstance(layer.weight.grad, Elsewhere)
    assert layer.weight.grad.cpu().tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("preset", ["2k", "paper"])
@pytest.mark.parametrize("options", [{"search": False}, {"iterations": 3}, {"budget": 0.1}])
def test_speech(device: torch.device, preset: str, options: dict[str, Any]) -> None:
    codec = SpeechCodec.load(preset)
    data = codec.encode(speech(), 16_000, **options)
    found = codec.decode(data)
    expected = SpeechCodec(find_preset(preset), torch.device("cpu")).decode(data)
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 8])
def test_live_speech(device: torch.device, steps: int) -> None:
    """Blocks, chained packets, losses and another preset on the way."""
    codec = SpeechCodec.load("2k")
    encoder = SpeechEncoder(codec, 2, steps=steps, block=4, session=True)
    samples = speech()[: max(12, 3 * steps) * STEP_SAMPLES + LEAD]
    encoded = encoder.push(samples[: len(samples) // 2])
    encoder.set_preset("3k6")
    encoded += encoder.push(samples[len(samples) // 2 :])
    assert len(encoded) == max(12 // steps, 3)
    decoder = PacketDecoder(codec)
    for number, each in enumerate(encoded):
        assert each.packet is not None
        assert np.isfinite(decoder.decode(each.packet).columns).all()
        if number == 2 and steps == 8:
            assert np.isfinite(decoder.conceal(8)).all()


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("photo", EncodeSettings(iterations=2)),
        ("photo", EncodeSettings(quality=40, search=False)),
        ("photo", EncodeSettings(iterations=2, tune="ms-ssim")),
        ("photo", EncodeSettings(iterations=2, tune="visual")),
        ("paper", EncodeSettings(iterations=2)),
        ("ganz", EncodeSettings(iterations=2)),
        ("ganz", EncodeSettings(iterations=2, entropy="range", places="fixed")),
        ("ganz", EncodeSettings(iterations=2, ratio=96, places="dense")),
        ("ganz", EncodeSettings(iterations=15, places="none", method="sgd")),
        ("ganz", EncodeSettings(iterations=2, places="keep")),
    ],
)
def test_pictures(device: torch.device, preset: str, settings: EncodeSettings) -> None:
    picture = photograph(160, 96)
    codec = ImageCodec.load(preset)
    found = codec.decode(codec.encode(picture, settings)).astype(float)
    assert np.square(found - np.asarray(picture)).mean() < 255**2 / 10**1.8


@pytest.mark.parametrize("prior", ["ganz", "photo"])
def test_sensing(device: torch.device, prior: Any) -> None:
    pixels = np.asarray(photograph(128, 128))
    found = Sensor(SenseSettings(2000, prior=prior, steps=8)).sense(pixels)
    assert np.square(found.astype(float) - pixels).mean() < 255**2 / 10**1.5


@pytest.mark.slow
@_COPIED
def test_training(device: torch.device, packed: Path, tmp_path: Path) -> None:
    def run(steps: int) -> SpeechTraining:
        return training(packed, tmp_path, steps, device=device)

    assert run(2).features(None) is not None
    assert run(4).stage("one", None)
    run(4).centres()
    assert run(2).stage("two", None)
    assert run(2).stage("three", None)
    assert run(5).stage("one", None)  # goes on from its checkpoint
    run(2).export()
    load_speech_model("speech", tmp_path / "model")


class _Steps(Run):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps + 1, count(step=60).__next__)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photos"), 4)


@pytest.mark.slow
@_COPIED
def test_training_of_the_papers_speech_system(
    device: torch.device, packed: Path, tmp_path: Path
) -> None:
    settings = PaperSettings(
        minutes=None, steps=6, batch=2, start_frames=40, table_batches=1, search_every=2,
        search_steps=2, shape=paper_shape, start=None,
    )  # fmt: skip
    shards, work, target = FrameShards(packed), tmp_path / "work", tmp_path / "model"
    for steps in (2, 3):  # the second of them ends in stage two
        task = PaperTask(shards, settings, _Steps(steps), device)
        assert train_two_stages(task, work, target) is None
    identity = train_two_stages(PaperTask(shards, settings, Run(), device), work, target)
    assert load_speech_model("paper", target).model_id == identity


@pytest.mark.slow
@_COPIED
def test_training_of_the_papers_image_system(
    device: torch.device, pictures: Path, tmp_path: Path
) -> None:
    photographs, work, target = Photographs(pictures, crop=64), tmp_path / "work", tmp_path / "m"
    for steps in (2, 3):
        task = PaperImageTask(photographs, image_settings, _Steps(steps), device)
        assert train_two_stages(task, work, target) is None
    task = PaperImageTask(photographs, image_settings, Run(), device)
    identity = train_two_stages(task, work, target)
    assert load_photo_paper_model("photo-paper", target).model_id == identity


@_COPIED
def test_training_of_ganz(device: torch.device, tmp_path: Path) -> None:
    def trained(steps: int) -> GanzTask:
        task = tiny_task(tmp_path / "pictures", steps, device)
        assert train(task, tmp_path / "work", Run())
        return task

    assert not trained(1).began
    assert trained(3).began
    task = trained(4)
    assert isinstance(task.generator.first.weight, Elsewhere)
    generator, scales = trained_generator(tmp_path / "work", task.settings.shape)
    export_ganz(generator, scales, task.photographs, tmp_path / "ganz", examples=2, search_steps=1)
    load_ganz_model("ganz", tmp_path / "ganz")


def test_frames_are_drawn_there(device: torch.device, packed: Path) -> None:
    columns = torch.from_numpy(np.array(FrameShards(packed).shards[0])).to(device)
    batch = draw_frames(columns, 4, np.random.default_rng(0))
    assert isinstance(batch, Elsewhere)
    assert batch.shape == (4, 128, 128)
    assert isinstance(PhoneRecogniser().to(device)(batch), Elsewhere)
