"""Training of the speech preset `paper`: two stages (`models.training.paper`) on log-mel frames.

In stage one uniform noise one quantisation step wide stands in for the quantiser, so that latents
use their range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.quantiser import fit_centres
from codec.entropy.static import SymbolCounts, count_symbols
from codec.search.engine import search
from codec.search.problem import Problem, SearchSettings
from models.folder import search_networks
from models.networks.paper import StaticModel
from models.networks.speech_distance import FrameDistance
from models.networks.speech_paper import PaperEncoder, PaperGenerator, PaperModel, PaperShape
from models.training.export import SPEECH_LICENCE
from models.training.frames import FrameShards, FrameSource
from models.training.linear_start import start_paper_speech
from models.training.loop import Run
from models.training.paper import TwoStageSettings, TwoStageTask

# Wider and deeper than the shipped networks, whose sizes are the defaults of the shape.
_SHAPE = PaperShape(
    encoder_widths=(192, 128, 64), encoder_blocks=(3, 2, 1),
    generator_widths=(192, 128, 48), generator_blocks=(3, 2, 1),
)  # fmt: skip


@dataclass(frozen=True)
class PaperSettings(TwoStageSettings):
    """The settings for speech. noise: width of stage one's noise, in even steps over the latents'
    range."""

    batch: int = 32
    rate: float = 1.5e-3
    noise: float = 1.0
    adversary: float = 0.02
    adversary_from: float = 0.5
    search_every: int = 24
    searched: int = 4
    search_steps: int = 10
    pool: int = 2048
    start_frames: int = 1000
    table_batches: int = 4
    table_steps: int = 40
    shape: PaperShape = _SHAPE


class PaperTask(TwoStageTask):
    """Log-mel frames [N, T, M] of packed shards."""

    name = "paper"
    settings: PaperSettings
    model_type, encoder_type, generator_type = PaperModel, PaperEncoder, PaperGenerator
    linear_start = staticmethod(start_paper_speech)
    planes = 1
    licence = SPEECH_LICENCE

    def __init__(
        self, shards: FrameShards, settings: PaperSettings, run: Run, device: torch.device
    ) -> None:
        super().__init__(settings, FrameDistance(), run, device)
        self.shards = shards
        self._frames = FrameSource(shards, device)

    def signals(self, count: int) -> Tensor:
        return self._frames.batch(count, self.random)

    def relaxed(self, z: Tensor) -> Tensor:
        width = self.settings.noise * 2.0 * self.shape.reach / self.shape.levels
        return z + width * (torch.rand_like(z) - 0.5)

    def fitted(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        return fit_centres(latents, self.shape.levels)

    def first_counts(self) -> SymbolCounts:
        return SymbolCounts(np.ones(self.shape.levels, np.int64))

    def counts(self) -> SymbolCounts:
        s, model = self.settings, self.model()
        found = []
        for _ in range(s.table_batches):
            x = self._batch(s.batch)
            latents, _ = self.search(model, x, s.table_steps, check_every=20)
            found.append(model.indices_of(latents))
        return count_symbols(np.stack(found), self.shape.levels)

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        settings = SearchSettings(
            iterations=iterations, check_every=check_every, penalty=model.penalty
        )
        problem = Problem.without_bits(search_networks(model), self.distance, x)
        found = search(problem, settings)
        return found.indices, found.cost
