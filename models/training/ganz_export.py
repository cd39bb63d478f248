"""From a trained GANZ generator to a model folder: its layer's statistics, centres and counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.entropy.quantiser import Quantiser, fit_centres
from codec.entropy.range_coder import UInt8
from codec.entropy.static import SymbolCounts, count_symbols
from codec.errors import BadInput
from codec.image.ganz import TileForm
from codec.image.ganz_search import search_tile
from models.folder import load_ganz_model, new_model_folder, save_model
from models.networks.ganz import GanzModel, GanzShape, Generator, RandomFirstLayer
from models.training import checkpoints
from models.training.image.photographs import Photographs

LEVELS = 32
_SAMPLES = 40_000  # latents that K-means looks at


def trained_generator(folder: Path, shape: GanzShape) -> tuple[Generator, Tensor]:
    """The averaged generator of the newest checkpoint, and the standard deviations that photographs
    give the numbers of h0's DCT. Raises BadInput if there is none."""
    newest = checkpoints.latest_checkpoint(folder)
    if newest is None:
        raise BadInput(f"{folder} holds no checkpoint: train first")
    generator = Generator(shape)
    tensors = checkpoints.load_checkpoint(newest)[0]
    checkpoints.load_module("average", generator, tensors)
    if "scales" not in tensors:
        raise BadInput(f"{newest} lacks its scales")
    return generator.requires_grad_(False).eval(), tensors["scales"]


def export_ganz_model(
    generator: Generator,
    scales: Tensor,
    photographs: Photographs,
    out: Path,
    about: dict[str, Any],
    *,
    examples: int = 48,
    search_steps: int = 10,
    seed: int = 0,
) -> str:
    """Write the model folder, replacing an old one at the end; returns the model id.

    scales: of h0's DCT in photographs (`models.networks.ganz.RandomFirstLayer`).
    Centres and counts are fitted to searched latents of training photographs at ratios from 6 to
    768. Raises BadInput when `out` exists and holds something else than a model.
    """
    with new_model_folder(out) as draft:
        blank = Quantiser(np.array([-1.0, 1.0]))
        model = GanzModel(generator, scales, blank, SymbolCounts(np.ones(2, np.int64)))

        def layers(latents: int, flags: UInt8 | None) -> RandomFirstLayer:
            return model.first_layer(latents, None if flags is None else torch.from_numpy(flags))

        random = np.random.default_rng((seed, 3 << 20))
        least, most = generator.shape.latents, generator.shape.most_latents
        own = torch.ones(1, 1, photographs.crop, photographs.crop)
        found = []
        for number in range(examples):
            share = (number + 0.5) / examples
            numbers = round(math.exp(math.log(least) + share * (math.log(most) - math.log(least))))
            x = photographs.batch(1, random)
            tile, _ = search_tile(
                model, layers, x, own, numbers, search_steps, chosen=bool(number % 2)
            )
            z = tile.z[0].numpy()
            found.append(z / TileForm.scale_of(z))
        values = np.concatenate(found)
        some = random.permutation(values)[:_SAMPLES]
        quantiser = Quantiser(fit_centres(some, LEVELS))
        counts = count_symbols(quantiser.index(torch.from_numpy(values)).numpy(), LEVELS)
        name = save_model(GanzModel(generator, scales, quantiser, counts), draft, about)
        load_ganz_model(out.name, draft)
    return name
