"""Training of the paper's image system on photographs, in the two stages of `two_stages`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.image.container import STRIDE, Area
from codec.image.paper import search_settings, window_task
from codec.image.tiling import frames_of, map_of
from codec.search.admm import search
from models.folder import save_model
from models.networks.discriminator import PatchDiscriminator
from models.networks.image_distance import PaperDistance
from models.networks.paper import StaticModel
from models.networks.photo_paper import (
    PaperImageEncoder,
    PaperImageGenerator,
    PaperImageModel,
    PaperImageShape,
)
from models.training.image.paper_start import start_linear_image
from models.training.image.photographs import Photographs
from models.training.interruption import Interruption
from models.training.two_stages import Pair, TwoStageSettings, train_two_stages

LICENCE = "CC BY-SA 4.0"


@dataclass(frozen=True)
class PaperImageSettings(TwoStageSettings):
    """How the system is trained, and the sizes of its networks; signals are crops."""

    batch: int = 8
    rate: float = 1e-3
    noise: float = 0.35  # the centres are denser where the latents are
    adversary: float = 0.002
    adversary_from: float = 0.7
    search_every: int = 10
    search_steps: int = 8
    pool: int = 128
    start_frames: int = 96
    table_batches: int = 6
    shape: PaperImageShape = field(default_factory=PaperImageShape)


class PhotographSubject:
    """Square crops of photographs [B, 3, side, side]."""

    name = "image-paper"

    def __init__(
        self, photographs: Photographs, shape: PaperImageShape, device: torch.device
    ) -> None:
        self.photographs, self.shape, self.device = photographs, shape, device
        self.reach, self.levels = shape.reach, shape.levels
        self._distance = PaperDistance()
        self._cells = photographs.crop // STRIDE

    def networks(self) -> Pair:
        """Untrained ones."""
        return Pair(PaperImageEncoder(self.shape), PaperImageGenerator(self.shape))

    def judge(self) -> PatchDiscriminator:
        """The adversary."""
        return PatchDiscriminator(planes=3)

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """[count, 3, side, side] in [0, 1]."""
        x = self.photographs.batch(count, random)
        return x.contiguous(memory_format=torch.channels_last)

    def start(self, networks: Pair, signals: Tensor) -> None:
        """The most important functions of the lapped transform."""
        encoder = cast(PaperImageEncoder, networks.encoder)
        start_linear_image(encoder, cast(PaperImageGenerator, networks.generator), signals)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """F of crops for each cell: [B]."""
        return self._distance(x, y) / self._cells**2

    def model(self, quantiser: Quantiser, counts: SymbolCounts) -> StaticModel:
        """A model of the system."""
        return PaperImageModel(self.shape, quantiser, counts)

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Searched latents [B, C, h, w] and costs [B], for each cell."""
        own = cast(PaperImageModel, model)
        whole = Area(0, 0, self._cells, self._cells)
        held = x.new_zeros(1, self.shape.channels, self._cells, self._cells)
        networks, none = window_task(own, whole, held, x).networks, x.new_zeros(len(x))
        with torch.no_grad():
            start = frames_of(own.encoder(x, none))
        settings = search_settings(own.penalty, iterations)
        found = search(networks, self._distance, x, none, none, settings, start=start)
        return map_of(found.indices, whole), found.cost / self._cells**2

    def save(self, model: StaticModel, target: Path) -> str:
        """Write the model folder."""
        about: dict[str, Any] = {"name": "paper", "licence": LICENCE}
        return save_model(model, target, about)


def train_paper_image(
    photographs: Photographs,
    folder: Path,
    target: Path,
    settings: PaperImageSettings | None = None,
    interruption: Interruption | None = None,
    device: torch.device | None = None,
) -> str | None:
    """Train (or go on training) in `folder` and export to `target`; returns the model id.

    device: where the networks are trained and searched; None is the CPU.

    None when the run was interrupted: the same call goes on from the last checkpoint.
    Raises BadInput for a damaged checkpoint or one of other networks.
    """
    settings = settings or PaperImageSettings()
    subject = PhotographSubject(photographs, settings.shape, device or torch.device("cpu"))
    return train_two_stages(subject, folder, target, settings, interruption)
