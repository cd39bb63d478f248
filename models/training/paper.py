"""Training of the `paper` family: log-mel frames in the two stages of Liu et al. (2020)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.search.admm import SearchSettings, search
from models.folder import save_model
from models.networks.discriminator import PatchDiscriminator
from models.networks.paper import StaticModel
from models.networks.speech_distance import FrameDistance
from models.networks.speech_paper import (
    PaperEncoder,
    PaperGenerator,
    PaperModel,
    PaperShape,
    start_linear,
)
from models.training.frames import FrameShards
from models.training.interruption import Interruption
from models.training.two_stages import Pair, TwoStageSettings, train_two_stages


@dataclass(frozen=True)
class PaperSettings(TwoStageSettings):
    """How the family is trained, and the sizes of its networks."""

    shape: PaperShape = field(default_factory=PaperShape)


class SpeechSubject:
    """Log-mel frames of packed shards."""

    name = "paper"

    def __init__(
        self, shards: FrameShards, shape: PaperShape, about: dict[str, Any], device: torch.device
    ) -> None:
        self.shards, self.shape, self.about, self.device = shards, shape, about, device
        self.reach, self.levels = shape.reach, shape.levels
        self._distance = FrameDistance().to(device)

    def networks(self) -> Pair:
        """Untrained ones."""
        return Pair(PaperEncoder(self.shape), PaperGenerator(self.shape))

    def judge(self) -> PatchDiscriminator:
        """The adversary."""
        return PatchDiscriminator()

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """[count, T, M]; the shards have a source of randomness of their own."""
        return self.shards.batch(count)

    def start(self, networks: Pair, signals: Tensor) -> None:
        """Principal components of patches."""
        encoder = cast(PaperEncoder, networks.encoder)
        start_linear(encoder, cast(PaperGenerator, networks.generator), signals)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """F of frames: [B]."""
        return self._distance(x, y)

    def model(self, quantiser: Quantiser, counts: SymbolCounts) -> StaticModel:
        """A model of the family."""
        return PaperModel(self.shape, quantiser, counts)

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Searched latents [B, S, C] and costs [B]."""
        none = x.new_zeros(len(x))
        settings = SearchSettings(
            iterations=iterations, check_every=check_every, penalty=model.penalty
        )
        found = search(model.search_networks(), self._distance, x, none, none, settings)
        return found.indices, found.cost

    def save(self, model: StaticModel, target: Path) -> str:
        """Write the model folder."""
        return save_model(model, target, {"name": "paper", "licence": "CC BY 4.0"} | self.about)


def train_paper(
    shards: FrameShards,
    folder: Path,
    target: Path,
    settings: PaperSettings | None = None,
    about: dict[str, Any] | None = None,
    interruption: Interruption | None = None,
    device: torch.device | None = None,
) -> str | None:
    """Train (or go on training) in `folder` and export to `target`; returns the model id.

    device: where the networks are trained and searched; None is the CPU.

    None when the run was interrupted: the same call goes on from the last checkpoint.
    Raises BadInput for a damaged checkpoint or one of other networks.
    """
    settings = settings or PaperSettings()
    where = device or torch.device("cpu")
    subject = SpeechSubject(shards, settings.shape, about or {}, where)
    return train_two_stages(subject, folder, target, settings, interruption)
