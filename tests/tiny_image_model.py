"""A small untrained image model: the lapped transform, no residual, a prior without a network."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codec.image.photo import PhotoCodec
from codec.image.presets import ImagePreset
from models.folder import save_model
from models.networks.photo import PhotoModel, PhotoShape
from models.training.linear_start import start_image
from models.training.tables import image_context

SHAPE = PhotoShape(
    channels=40,
    deep=16,
    deep_blocks=1,
    width=16,
    blocks=2,
    encoder_width=16,
    encoder_blocks=1,
    prior_unit=8,
    prior_groups=(4, 12, 24),
    prior_values=10,
)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something smooth with edges and some texture."""
    return Image.fromarray((255 * scene(width, height, seed)).astype(np.uint8))


def write_photographs(folder: Path, count: int) -> Path:
    """So many small pictures in `folder`, which is returned."""
    for seed in range(count):
        photograph(90, 80, seed).save(folder / f"{seed}.png")
    return folder


def scene(width: int, height: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.zeros((height, width, 3), np.float32)
    for _ in range(8):
        colour = random.random(3)
        angle, at = random.uniform(0, 2 * np.pi), random.uniform(-0.5, 0.5) * (width + height) / 2
        side = np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2) > at
        picture += side[:, :, None] * colour * random.uniform(0.1, 0.4)
    picture += 0.1 * np.sin(0.5 * x + 0.3 * y)[:, :, None] * (x > width / 2)[:, :, None]
    picture += random.normal(0.0, 0.01, picture.shape)
    return np.clip(picture, 0.0, 1.0)


def training_pictures() -> Tensor:
    pictures = np.stack([scene(96, 96, seed) for seed in range(1, 7)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float()


def make_model(folder: Path) -> str:
    """Write a model folder; returns its model id."""
    model_id, files = built(_build)
    write_files(files, folder)
    return model_id


@functools.cache
def built(build: Callable[[Path], str]) -> tuple[str, dict[str, bytes]]:
    """What `build` returns, and the files it writes; built once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        result = build(Path(folder))
        return result, {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Files by name into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _build(folder: Path) -> str:
    torch.manual_seed(0)
    model = PhotoModel(SHAPE)
    x = training_pictures()
    start_image(model, x)
    with torch.no_grad():
        # So that windows and batches which disagree would be noticed.
        model.generator.leave.weight.normal_(0.0, 0.01)
        for block in model.generator.blocks:
            block.mix.weight.normal_(0.0, 0.05)  # type: ignore[union-attr, operator]
    model.eval().requires_grad_(False)
    examples = []
    for quality in (0, 60, 120, 190):
        z = model.encoder(x, torch.full((len(x),), quality / 64.0)).round()
        maps = z.permute(0, 2, 3, 1).numpy().astype(np.int16)
        examples += [(m, quality) for m in maps]
    model.context = image_context(model.prior, examples)
    return save_model(model, folder, {})


def tiny_codec(folder: Path) -> PhotoCodec:
    """A codec on such a model in `folder`, which is made if it is not there."""
    if not (folder / "model.json").exists():
        make_model(folder)
    preset = ImagePreset("photo", 0, str(folder.resolve()), iterations=20, fast=6)
    return PhotoCodec(preset, torch.device("cpu"))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-9)))


__all__ = ["make_model", "photograph", "psnr", "scene", "tiny_codec"]
