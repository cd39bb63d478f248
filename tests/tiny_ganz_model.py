"""A small GANZ model at the start of its training."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from codec.image.ganz import GanzCodec
from codec.image.presets import ImagePreset
from models.networks.ganz import SIDE, GanzShape
from models.training.export import export_ganz
from models.training.ganz import GanzSettings, GanzTask
from models.training.photographs import Photographs
from tests.tiny_image_model import built, photograph, write_files

SHAPE = GanzShape(latents=16, widths=(32, 8, 8, 4, 4), details=16)


def photographs(folder: Path) -> Photographs:
    """A few synthetic pictures, written to `folder` if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(4):
        if not (folder / f"{seed}.png").exists():
            photograph(160, 144, seed).save(folder / f"{seed}.png")
    return Photographs(folder, crop=SIDE)


def tiny_task(folder: Path, steps: int = 4, device: torch.device | None = None) -> GanzTask:
    """A training of the small networks on such pictures."""
    settings = GanzSettings(
        minutes=None, steps=steps, batch=2, share=0.5, start_crops=24, shape=SHAPE
    )
    return GanzTask(photographs(folder), settings, device)


def tiny_ganz(folder: Path) -> GanzCodec:
    """A codec on an untrained model in `folder`, which is made if it is not there."""
    if not (folder / "ganz" / "model.json").exists():
        write_files(built(_build)[1], folder / "ganz")
    preset = ImagePreset("ganz", 2, str((folder / "ganz").resolve()), iterations=10, fast=5)
    return GanzCodec(preset, torch.device("cpu"))


def _build(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as pictures:
        task = tiny_task(Path(pictures))
        task.start()
        with torch.no_grad():
            # So that the search has something to find beyond the linear synthesis.
            torch.nn.init.normal_(task.average.body.leave[-1].weight, 0.0, 1.0)  # type: ignore[arg-type]
        draft = folder / "ganz"
        model_id = export_ganz(
            task.average.requires_grad_(False).eval(), task.scales, task.photographs,
            draft, examples=6, search_steps=2,
        )  # fmt: skip
    for file in draft.iterdir():
        file.rename(folder / file.name)
    draft.rmdir()
    return model_id


def crop(seed: int = 7) -> np.ndarray:
    """A picture [128, 128, 3] that training has not seen."""
    return np.asarray(photograph(SIDE, SIDE, seed))
