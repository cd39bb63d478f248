"""Training of the speech preset `paper`: two stages (`models.training.paper`) on log-mel frames.

In stage one even levels over the latents' range stand in for the quantiser. There is no rate term:
as many latents of so few levels cannot take more bits than they may.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.quantiser import Quantiser, fit_centres
from codec.entropy.static import SymbolCounts, count_symbols
from codec.errors import BadInput
from codec.search.engine import search
from codec.search.problem import Problem, SearchSettings
from models.folder import load_speech_model, model_folder, search_networks
from models.networks.paper import StaticModel
from models.networks.speech import Generator, SpeechModel
from models.networks.speech_distance import FrameDistance
from models.networks.speech_paper import PaperEncoder, PaperModel, PaperShape
from models.training.export import SPEECH_LICENCE
from models.training.frames import FrameShards, FrameSource
from models.training.linear_start import start_paper_speech, take_speech_networks
from models.training.loop import Run
from models.training.paper import TwoStageSettings, TwoStageTask


@dataclass(frozen=True)
class PaperSettings(TwoStageSettings):
    """The settings for speech. start: the speech model whose networks it begins from; None:
    principal components."""

    batch: int = 16
    rate: float = 3e-4
    first_share: float = 0.7
    adversary: float = 0.0
    adversary_from: float = 0.5
    search_every: int = 24
    searched: int = 2
    search_steps: int = 12
    pool: int = 512
    start_frames: int = 1500
    table_batches: int = 8
    table_steps: int = 40
    shape: PaperShape = field(default_factory=PaperShape)
    start: Path | None = Path("speech")


class PaperTask(TwoStageTask):
    """Log-mel frames [N, T, M] of packed shards."""

    name = "paper"
    settings: PaperSettings
    model_type, encoder_type, generator_type = PaperModel, PaperEncoder, Generator
    linear_start = staticmethod(start_paper_speech)
    planes = 1
    licence = SPEECH_LICENCE
    decay = 1e-3

    def __init__(
        self, shards: FrameShards, settings: PaperSettings, run: Run, device: torch.device
    ) -> None:
        super().__init__(settings, FrameDistance(), run, device)
        self.shards = shards
        self._frames = FrameSource(shards, device)
        self._even = Quantiser(even_levels(self.shape.levels, self.shape.reach)).to(device)

    def start(self) -> None:
        """Start from the speech networks, or from the linear codec."""
        model = self.settings.start
        if model is None:
            super().start()
            return
        speech = load_speech_model("speech", model_folder(model))
        if not isinstance(speech, SpeechModel):
            raise BadInput(f"{model} is the paper's system, not a model to start that from")

        def take(encoder: PaperEncoder, generator: Generator, x: Tensor) -> None:
            take_speech_networks(encoder, generator, speech, x)

        self.begin(take)

    def signals(self, count: int) -> Tensor:
        return self._frames.batch(count, self.random)

    def relaxed(self, z: Tensor) -> Tensor:
        return z + (self._even(z) - z).detach()

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
            "admm", iterations, check_every=check_every, penalty=model.penalty
        )
        none = x.new_zeros(len(x))
        problem = Problem(search_networks(model), self.distance, x, none, none + model.price)
        found = search(problem, settings)
        return found.indices, found.cost


def even_levels(levels: int, reach: float) -> NDArray[np.float32]:
    """The middles of equal parts of ±reach."""
    middles = (np.arange(levels) + 0.5) / levels
    return ((2.0 * middles - 1.0) * reach).astype(np.float32)
