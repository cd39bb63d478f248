"""A small training: synthetic packed frames, and tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.networks.features import FeatureShape
from models.networks.speech import SpeechShape
from models.training.distributed import alone
from models.training.features import FeatureSettings
from models.training.frames import FrameShards
from models.training.loop import Run
from models.training.schedule import Schedule, SpeechTraining
from models.training.speech import SpeechSettings

SHAPE = SpeechShape(
    channels=24, width=32, hidden=48, encoder_blocks=1, generator_blocks=1,
    prior_unit=8, prior_groups=(4, 4, 16),
)  # fmt: skip
FEATURE_SHAPE = FeatureShape(widths=(8, 16), projection=32, hidden=24, layers=2)
SETTINGS = SpeechSettings(
    batch=8, warmup=5, steer_from=5, adversarial_from=0.5, search_steps=2, log_every=1, rate=3e-3
)


def synthetic_columns(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Log-mel columns [count, 128] with moving formant-like bumps over a floor."""
    random = np.random.default_rng(seed)
    bands, time = np.arange(128)[None], np.arange(count)[:, None]
    x = np.full((count, 128), 40.0)
    for _ in range(4):
        centre = 64 + 50 * np.sin(time / random.uniform(20, 200) + random.uniform(0, 6))
        level = 60 + 60 * np.sin(time / random.uniform(10, 80))
        x += level * np.exp(-(((bands - centre) / random.uniform(4, 20)) ** 2))
    return np.clip(x + random.normal(0, 3, x.shape), 0, 255).astype(np.uint8)


def pack(folder: Path) -> None:
    """Write two packed shards of synthetic speech with their index."""
    texts = ("hello world", "the cat sat", "good morning", "xqzt unknown", "")
    index = []
    for shard in range(2):
        columns = synthetic_columns(3000, shard)
        np.save(folder / f"train-{shard:03d}.npy", columns)
        index += [
            {
                "shard": shard, "start": 200 * k, "end": 200 * k + 190, "speaker": f"s{k % 6}",
                "lang": "en", "corpus": "synthetic", "text": texts[k % len(texts)],
            }
            for k in range(15)
        ]  # fmt: skip
    (folder / "train.json").write_text(json.dumps(index))


def training(
    packed: Path,
    work: Path,
    steps: int,
    settings: SpeechSettings = SETTINGS,
    device: torch.device | None = None,
    run: Run | None = None,
) -> SpeechTraining:
    """The stages over packed shards, on the CPU unless another device is given."""
    schedule = Schedule(
        work, minutes=None, steps=steps, stage=settings, shape=SHAPE, bits_scale=0.15,
        features=FeatureSettings(columns=1200, log_every=1, shape=FEATURE_SHAPE), centre_frames=200,
        example_batches=1, example_search_steps=2,
    )  # fmt: skip
    team = alone(device or torch.device("cpu"))
    return SpeechTraining(schedule, FrameShards(packed), team, run or Run())
