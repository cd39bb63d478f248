"""Export of trained networks to model folders: searched examples and counted tables.

Tables are counted on training data only, with latents searched as the codec will search them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.huffman import HuffmanCoder, count_tokens
from codec.entropy.image_context import QUALITIES, QUALITY_STEPS
from codec.entropy.quantiser import Quantiser, fit_centres
from codec.entropy.speech_context import RangeCoder
from codec.entropy.static import SymbolCounts, count_symbols
from codec.image.container import STRIDE, Area
from codec.image.ganz import TileForm
from codec.image.ganz_search import search_tile
from codec.image.photo_encoder import search_settings as image_search_settings
from codec.image.photo_prior import PhotoTask, round_latents
from codec.image.settings import Places
from codec.image.tiling import Window, frames_of
from codec.search.engine import descent, search
from codec.search.problem import Problem, SearchSettings, quantise
from models.folder import (
    load_ganz_model,
    load_photo_model,
    load_speech_model,
    new_model_folder,
    save_model,
    search_networks,
)
from models.networks.ganz import GanzModel, Generator
from models.networks.image_distance import ImageDistance
from models.networks.photo import PhotoModel
from models.networks.speech import SpeechModel
from models.networks.speech_distance import FrameDistance
from models.training.frames import FrameShards
from models.training.photographs import Photographs
from models.training.tables import image_context, speech_context

SPEECH_LICENCE = "CC BY 4.0"
IMAGE_LICENCE = "CC BY-SA 4.0"
_QUALITIES_MIX = (0, 1, 2, 4, 6, 8, 8, 9, 9, 9, 10, 10, 12, 14, 16, 16)
_GANZ_LEVELS = 32
_GANZ_SAMPLES = 40_000  # latents that K-means is run on


def export_speech(
    model: SpeechModel,
    shards: FrameShards,
    out: Path,
    *,
    batches: int = 24,
    search_steps: int = 12,
    seed: int = 0,
) -> str:
    """Write a speech model folder, replacing any old one at the end; returns the model id.

    Raises BadInput if `out` exists and is not a model folder, as do the other exports.
    """
    with new_model_folder(out) as draft:
        model = model.cpu().eval().requires_grad_(False)
        examples = _speech_examples(model, shards, batches, search_steps, seed)
        context = speech_context(model.prior, examples)
        runs = count_tokens(context, examples)
        ranged = RangeCoder(context, model.shape.steps)
        probe = HuffmanCoder(context, runs, model.shape.steps, 1.0)
        held = examples[:: max(len(examples) // 64, 1)]
        huffman_bits = sum(8.0 * len(probe.encode(q, k)) for q, k in held)
        overhead = round(huffman_bits / sum(ranged.bits(q, k) for q, k in held), 4)
        about = {"name": "speech", "licence": SPEECH_LICENCE, "huffman_overhead": overhead}
        model.context, model.runs = context, runs
        name = save_model(model, draft, about)
        load_speech_model("speech", draft)
    return name


def _speech_examples(
    model: SpeechModel, shards: FrameShards, batches: int, search_steps: int, seed: int
) -> list[tuple[NDArray[np.int8], int]]:
    """Searched latents of random training frames at all qualities: (indices, quality) pairs."""
    random = np.random.default_rng((seed, 3 << 20))
    distance = FrameDistance()
    networks = search_networks(model)
    examples: list[tuple[NDArray[np.int8], int]] = []
    for _ in range(batches):
        qualities = np.array(_QUALITIES_MIX * 2)
        rate = torch.tensor(qualities / 8.0, dtype=torch.float32)
        x = shards.batch(len(qualities), random)
        if search_steps:
            price = torch.tensor([model.rate_weight(float(r)) for r in rate])
            settings = SearchSettings(iterations=search_steps, check_every=search_steps)
            indices = search(Problem(networks, distance, x, rate, price), settings).indices
        else:
            with torch.no_grad():
                indices = quantise(model.encoder(x, rate))
        examples += zip(indices.to(torch.int8).numpy(), qualities.tolist(), strict=True)
    return examples


def export_image(
    model: PhotoModel,
    photographs: Photographs,
    out: Path,
    *,
    examples: int = 96,
    search_steps: int = 10,
    seed: int = 0,
) -> str:
    """Write an image model folder, replacing any old one at the end; returns the model id."""
    with new_model_folder(out) as draft:
        model = model.cpu().eval().requires_grad_(False)
        found = _image_examples(model, photographs, examples, search_steps, seed)
        about = {"name": "photo", "licence": IMAGE_LICENCE}
        model.context = image_context(model.prior, found)
        name = save_model(model, draft, about)
        load_photo_model(out.name, draft)
    return name


def _image_examples(
    model: PhotoModel, photographs: Photographs, count: int, steps: int, seed: int
) -> list[tuple[NDArray[np.int16], int]]:
    """Searched latents of random crops at evenly spread qualities: (indices, quality) pairs."""
    random = np.random.default_rng((seed, 3 << 20))
    cells = photographs.crop // STRIDE
    whole = Area(0, 0, cells, cells)
    window, size = Window(whole, (whole,)), (photographs.crop, photographs.crop)
    examples: list[tuple[NDArray[np.int16], int]] = []
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
            settings = image_search_settings(steps)
            problem = Problem(task.networks, distance, task.target, rate, torch.ones(1))
            path = descent(problem, settings, frames_of(z))
            for step in range(steps):
                path.step(step / steps)
            costs, _ = path.score()
            found = path.candidates[int(costs[:, 0].argmin())]
        indices = found[0].detach().reshape(cells, cells, -1).numpy().astype(np.int16)
        examples.append((indices, quality))
    return examples


def export_ganz(
    generator: Generator,
    scales: Tensor,
    photographs: Photographs,
    out: Path,
    *,
    examples: int = 48,
    search_steps: int = 10,
    seed: int = 0,
) -> str:
    """Write a GANZ model folder, replacing any old one at the end; returns the model id.

    scales: of h0's DCT in photographs (`models.networks.first_layer.PlacedFirstLayer`). Centres and
    counts are fitted to searched latents of training photographs at ratios from 6 to 768.
    """
    with new_model_folder(out) as draft:
        values = _ganz_examples(generator, scales, photographs, examples, search_steps, seed)
        quantiser = Quantiser(fit_centres(values[:_GANZ_SAMPLES], _GANZ_LEVELS))
        counts = count_symbols(quantiser.index(torch.from_numpy(values)).numpy(), _GANZ_LEVELS)
        about = {"name": "ganz", "licence": IMAGE_LICENCE}
        name = save_model(GanzModel(generator, scales, quantiser, counts), draft, about)
        load_ganz_model(out.name, draft)
    return name


def _ganz_examples(
    generator: Generator,
    scales: Tensor,
    photographs: Photographs,
    count: int,
    steps: int,
    seed: int,
) -> NDArray[np.float32]:
    """Searched and scaled latents [N] of random crops, shuffled; half with chosen places."""
    blank = Quantiser(np.array([-1.0, 1.0]))
    model = GanzModel(generator, scales, blank, SymbolCounts(np.ones(2, np.int64)))

    random = np.random.default_rng((seed, 3 << 20))
    least, most = generator.shape.random_latents
    own = torch.ones(1, 1, photographs.crop, photographs.crop)
    found = []
    for k in range(count):
        share = (k + 0.5) / count
        numbers = round(math.exp(math.log(least) + share * (math.log(most) - math.log(least))))
        x = photographs.batch(1, random)
        places: Places = "chosen" if k % 2 else "fixed"
        tile, _ = search_tile(model, model.first_layer, x, own, numbers, steps, places=places)
        z = tile.z[0].numpy()
        found.append(z / TileForm.scale_of(z))
    values: NDArray[np.float32] = random.permutation(np.concatenate(found))
    return values
