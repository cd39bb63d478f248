"""From a trained GANZ generator to a model folder: its layer's statistics, centres and counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.errors import BadInput
from codec.image.ganz import GanzCodec
from codec.image.ganz_search import search_tile
from codec.quantiser import Quantiser, fit_centres
from codec.static_entropy import SymbolCounts, count_symbols
from models.ganz.nets import GanzShape, Generator
from models.ganz.store import GanzModel, load_ganz_model, save_ganz_model
from models.training import checkpoints
from models.training.folders import new_model_folder
from models.training.image.photographs import Photographs

LEVELS = 32
_SAMPLES = 40_000  # latents that K-means looks at


def trained_generator(folder: Path, shape: GanzShape) -> Generator:
    """The averaged generator of the newest checkpoint. Raises BadInput if there is none."""
    newest = checkpoints.latest_checkpoint(folder)
    if newest is None:
        raise BadInput(f"{folder} holds no checkpoint: train first")
    generator = Generator(shape)
    checkpoints.load_module("average", generator, checkpoints.load_checkpoint(newest)[0])
    return generator.requires_grad_(False).eval()


def export_ganz_model(
    generator: Generator,
    photographs: Photographs,
    out: Path,
    about: dict[str, Any],
    *,
    examples: int = 48,
    search_steps: int = 10,
    seed: int = 0,
) -> str:
    """Write the model folder, replacing an old one at the end; returns the model id.

    Centres and counts are fitted to searched latents of training photographs at ratios from 6 to
    768. Raises BadInput when `out` exists and holds something else than a model.
    """
    with new_model_folder(out) as draft:
        scales = generator.first.scales()
        blank = Quantiser(np.array([-1.0, 1.0]))
        model = GanzModel(generator, scales, blank, SymbolCounts(np.ones(2, np.int64)), "")
        random = np.random.default_rng((seed, 3 << 20))
        least, most = generator.shape.latents, generator.shape.most_latents
        own = torch.ones(1, 1, photographs.crop, photographs.crop)
        found = []
        for number in range(examples):
            share = (number + 0.5) / examples
            layer = model.first_layer(round(math.exp(
                math.log(least) + share * (math.log(most) - math.log(least))
            )))  # fmt: skip
            x = photographs.batch(1, random)
            z = search_tile(generator.body, layer, x, own, search_steps).latents[0].numpy()
            found.append(z / GanzCodec.scale_of(z))
        values = np.concatenate(found)
        some = random.permutation(values)[:_SAMPLES]
        quantiser = Quantiser(fit_centres(some, LEVELS))
        counts = count_symbols(quantiser.index(torch.from_numpy(values)).numpy(), LEVELS)
        name = save_ganz_model(generator, scales, quantiser, counts, draft, about)
        load_ganz_model(out.name, draft)
    return name
