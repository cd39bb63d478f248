"""From trained image networks to a shipped model folder: searched examples, counted tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codec.entropy.image_context import QUALITIES, QUALITY_STEPS
from codec.image.container import STRIDE, Area
from codec.image.photo_encoder import search_settings
from codec.image.tiling import Window, frames_of
from codec.image.windows import PhotoTask, round_latents
from codec.search.admm import Descent
from models.folder import load_photo_model, new_model_folder, save_model
from models.networks.image_distance import ImageDistance
from models.networks.photo import PhotoModel
from models.training.image.photographs import Photographs
from models.training.tables import image_context

Example = tuple[NDArray[np.int16], int]


def searched_examples(
    model: PhotoModel, photographs: Photographs, count: int, steps: int, seed: int
) -> list[Example]:
    """Searched latents of random crops at evenly spread qualities: (indices, quality) pairs."""
    random = np.random.default_rng((seed, 3 << 20))
    cells = photographs.crop // STRIDE
    whole = Area(0, 0, cells, cells)
    window, size = Window(whole, (whole,)), (photographs.crop, photographs.crop)
    examples: list[Example] = []
    for k in range(count):
        x = photographs.batch(1, random)
        quality = round((k + random.uniform()) * (QUALITIES - 1) / count)
        rate = torch.full((1,), quality / QUALITY_STEPS)
        with torch.no_grad():
            z = model.encoder(x, rate)
        found = frames_of(round_latents(z))
        if steps:
            task = PhotoTask(model, window, z, x, size)
            distance = ImageDistance("psnr", float(model.price(rate)))
            settings = search_settings(steps)
            descent = Descent(
                task.networks, distance, task.target, rate, torch.ones(1), settings,
                frames_of(z),
            )  # fmt: skip
            for step in range(steps):
                descent.step(settings.step * (1.0 - 0.9 * step / steps))
            costs, _ = descent.score()
            found = descent.candidates[int(costs[:, 0].argmin())]
        indices = found[0].detach().reshape(cells, cells, -1).numpy().astype(np.int16)
        examples.append((indices, quality))
    return examples


def export_image_model(
    model: PhotoModel,
    photographs: Photographs,
    out: Path,
    about: dict[str, Any],
    *,
    examples: int = 96,
    search_steps: int = 10,
    seed: int = 0,
) -> str:
    """Write the model folder, replacing an old one at the end; returns the model id.

    Tables are counted on training photographs only. Raises BadInput when `out` exists and holds
    something else than a model.
    """
    with new_model_folder(out) as draft:
        model = model.cpu().eval().requires_grad_(False)
        found = searched_examples(model, photographs, examples, search_steps, seed)
        model.context = image_context(model.prior, found)
        name = save_model(model, draft, about)
        load_photo_model(out.name, draft)
    return name
