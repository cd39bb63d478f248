"""From trained networks to a shipped model folder: context model, tables, half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codec.entropy.huffman import HuffmanCoder, count_tokens
from codec.entropy.speech_context import RangeCoder
from codec.search.admm import SearchSettings, quantise, search
from models.folder import save_model
from models.networks.speech import SpeechModel
from models.networks.speech_distance import FrameDistance
from models.training.frames import FrameShards
from models.training.tables import speech_context

QUALITY_MIX = (0, 1, 2, 4, 6, 8, 8, 9, 9, 9, 10, 10, 12, 14, 16, 16)
Example = tuple[NDArray[np.int8], int]


def example_frames(
    model: SpeechModel, shards: FrameShards, batches: int, search_steps: int
) -> list[Example]:
    """Searched latents of random training frames at all qualities: (indices, quality) pairs."""
    distance = FrameDistance()
    networks = model.search_networks()
    examples: list[Example] = []
    for _ in range(batches):
        qualities = np.array(QUALITY_MIX * 2)
        rate = torch.tensor(qualities / 8.0, dtype=torch.float32)
        x = shards.batch(len(qualities))
        if search_steps:
            price = torch.tensor([model.rate_weight(float(r)) for r in rate])
            settings = SearchSettings(iterations=search_steps, check_every=search_steps)
            indices = search(networks, distance, x, rate, price, settings).indices
        else:
            with torch.no_grad():
                indices = quantise(model.encoder(x, rate))
        examples += zip(indices.to(torch.int8).numpy(), qualities.tolist(), strict=True)
    return examples


def export(
    model: SpeechModel,
    shards: FrameShards,
    folder: Path,
    about: dict[str, Any],
    *,
    batches: int = 24,
    search_steps: int = 12,
) -> str:
    """Write the model folder; tables are counted on training frames only. Returns the model id."""
    model = model.eval().requires_grad_(False)
    examples = example_frames(model, shards, batches, search_steps)
    context = speech_context(model.prior, examples)
    runs = count_tokens(context, examples)
    ranged = RangeCoder(context, model.shape.steps)
    probe = HuffmanCoder(context, runs, model.shape.steps, 1.0)
    held = examples[:: max(len(examples) // 64, 1)]
    huffman_bits = sum(8.0 * len(probe.encode(q, k)) for q, k in held)
    overhead = huffman_bits / sum(ranged.bits(q, k) for q, k in held)
    model.context, model.runs = context, runs
    return save_model(model, folder, {**about, "huffman_overhead": round(overhead, 4)})
