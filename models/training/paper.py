"""Training of the paper's systems in the two stages of Liu et al. (2020, section 3.1).

Stage one trains an auto-encoder on float latents against a patch discriminator. Something stands in
for the quantiser (the paper does not say what). K-means then gives the centres. Stage two retrains
the generator on latents that the ADMM search finds, in half of each batch; the other half passes
through the encoder and the quantiser (straight-through gradient), so that the encoder stays a good
start for the search.

The task of speech is in `speech_paper`, that of pictures in `image_paper`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.quantiser import Quantiser
from models.folder import new_model_folder, save_model
from models.networks.common import SignalDistance
from models.networks.discriminator import PatchDiscriminator, generator_loss
from models.networks.paper import StaticModel, channels_last
from models.training.distributed import alone
from models.training.log import Number
from models.training.loop import (
    LoopSettings,
    Run,
    Task,
    adamw,
    learning_rate,
    parameter_groups,
    train,
)

_CENTRE_SAMPLES = 100_000
_CENTRE_BATCHES = 400


@dataclass(frozen=True, kw_only=True)
class TwoStageSettings(LoopSettings):
    """How a training runs.

    first_share: stage one's share of the length; adversary_from: share of stage one after which the
    discriminator is used; adversary: its weight relative to F; search_every: steps of stage two
    between two searches; searched: batches of signals in each of them; pool: the most searched
    signals that are kept; start_frames: how many the linear start is fitted on; table_batches,
    table_steps: searched batches that the symbols are counted on, and the length of their search.
    """

    batch: int
    rate: float
    first_share: float = 0.6
    adversary: float
    adversary_from: float
    search_every: int
    searched: int
    search_steps: int
    pool: int
    start_frames: int
    table_batches: int
    table_steps: int
    shape: Any


class Pair(nn.Module):
    """Encoder and generator in one module; both take a rate point and ignore it."""

    def __init__(self, encoder: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator = generator


class TwoStageTask(Task, ABC):
    """Networks, averages and pool (searched latents with their signals) of one training.

    Subclasses name the networks, and draw and search signals [N, ...]. linear_start: sets the
    linear parts of encoder and generator from signals, on the CPU; scale: divisor of F and costs.
    """

    settings: TwoStageSettings
    average: Pair
    model_type: ClassVar[type[StaticModel]]
    encoder_type: ClassVar[Callable[..., nn.Module]]
    generator_type: ClassVar[Callable[..., nn.Module]]
    linear_start: ClassVar[Callable[..., None]]
    planes: ClassVar[int]
    licence: ClassVar[str]
    # Learning rates relative to the peak: the linear parts start near their optimum.
    rates: ClassVar[dict[str, float]] = {"basis": 0.1}
    decay = 1e-4
    scale = 1

    def __init__(
        self, settings: TwoStageSettings, distance: SignalDistance, run: Run, device: torch.device
    ) -> None:
        super().__init__(alone(device))
        torch.manual_seed(settings.seed)
        self.settings, self.run, self.shape = settings, run, settings.shape
        self.networks = self.pair()
        self.discriminator = PatchDiscriminator(planes=self.planes).requires_grad_(False)
        self.distance = distance.to(device)
        for module in (self.networks, self.discriminator):
            channels_last(module)
            module.to(device)
        self.average = copy.deepcopy(self.networks).requires_grad_(False)
        self.modules = {
            "networks": self.networks, "average": self.average, "judge": self.discriminator,
        }  # fmt: skip
        self.quantiser: Quantiser | None = None
        self.pool: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.pool)
        self.random = np.random.default_rng(settings.seed)
        self.stage_start = 0
        self.amount = settings.batch
        self._new_optimisers()

    def pair(self) -> Pair:
        """New networks."""
        return Pair(self.encoder_type(self.shape), self.generator_type(self.shape))

    @abstractmethod
    def signals(self, count: int) -> Tensor:
        """Training signals, on the CPU or the device."""

    @abstractmethod
    def relaxed(self, z: Tensor) -> Tensor:
        """Latents with what stands in for the quantiser in stage one."""

    def rate_term(self, z: Tensor) -> Tensor | None:
        """What the bits of the encoder's latents [N, ...] cost, in units of F over `scale`; None if
        nothing."""
        return None

    @abstractmethod
    def fitted(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        """The centres for latents of the averaged encoder."""

    @abstractmethod
    def first_counts(self) -> Any:
        """The table until `counts` are taken."""

    @abstractmethod
    def counts(self) -> Any:
        """Symbol counts of training signals that are searched as in the codec."""

    @abstractmethod
    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Quantised latents in the generator's layout, and their costs [N]."""

    def _new_optimisers(self) -> None:
        groups = parameter_groups(self.networks, self.rates)
        optimiser = adamw(
            groups, self.settings.rate, (0.9, 0.98), decay=self.decay, device=self.device
        )
        discriminator_optimiser = adamw(
            self.discriminator.parameters(), 4e-4, (0.5, 0.98), decay=1e-4, device=self.device
        )
        self.optimisers = {
            "optimiser": (optimiser, self.networks),
            "judge_optimiser": (discriminator_optimiser, self.discriminator),
        }

    def start(self) -> None:
        """Start from the linear codec."""
        self.begin(self.linear_start)

    def begin(self, start: Callable[..., None]) -> None:
        """Set networks and averages by `start`, from encoder, generator and signals."""
        started = copy.deepcopy(self.networks).cpu()
        signals = self.signals(self.settings.start_frames).cpu()
        start(started.encoder, started.generator, signals)
        self.networks.load_state_dict(started.state_dict())
        self.average.load_state_dict(self.networks.state_dict())

    def _batch(self, count: int) -> Tensor:
        return self.signals(count).to(self.device)

    def model(self, counts: Any = None) -> StaticModel:
        """The averaged networks with centres and a table, as the codec uses them."""
        if self.quantiser is None:
            raise ValueError("the centres are fitted at the end of stage one")
        counts = counts or self.first_counts()
        model = self.model_type(self.shape, copy.deepcopy(self.quantiser), counts).to(self.device)
        model.encoder = copy.deepcopy(self.average.encoder)
        model.generator = copy.deepcopy(self.average.generator)
        return model.requires_grad_(False).eval()

    @torch.no_grad()
    def begin_second_stage(self) -> None:
        """Fit the centres to the averaged encoder's latents and continue from the averages."""
        batch = self.settings.batch
        none = torch.zeros(batch, device=self.device)
        parts: list[Tensor] = []
        while sum(p.numel() for p in parts) < 4 * _CENTRE_SAMPLES and len(parts) < _CENTRE_BATCHES:
            parts.append(self.average.encoder(self._batch(batch), none).flatten().cpu())
        latents = torch.cat(parts)
        some = latents[torch.randperm(len(latents))[:_CENTRE_SAMPLES]]
        self.quantiser = Quantiser(self.fitted(some.numpy())).to(self.device)
        self.networks.load_state_dict(self.average.state_dict())
        self.stage_start = self.steps
        self._new_optimisers()
        self.run.note(f"step {self.steps}: stage two, on quantised latents")

    def _search(self) -> Tensor:
        """Search new signals and add them to the pool; returns the mean cost."""
        x = self._batch(self.settings.searched * self.settings.batch)
        latents, costs = self.search(self.model(), x, self.settings.search_steps, check_every=5)
        self.pool.extend(zip(latents, x, strict=True))
        return costs.mean()

    def step(self, fraction: float) -> Mapping[str, Number]:
        """One step; stage two begins at `first_share` of the training."""
        s = self.settings
        if fraction >= s.first_share and self.quantiser is None:
            self.begin_second_stage()
        quantiser, step = self.quantiser, self.steps - self.stage_start
        second = quantiser is not None
        if second:
            progress = (fraction - s.first_share) / (1.0 - s.first_share)
            rate = learning_rate(progress, step, 0.4 * s.rate, warmup=100, floor=0.02)
        else:
            progress = fraction / s.first_share
            rate = learning_rate(progress, step, s.rate, warmup=100, floor=0.2)
        values: dict[str, Number] = {}
        if second and (step % s.search_every == 0 or not self.pool):
            values["searched"] = self._search()
        x = self._batch(s.batch // 2 if second else s.batch)
        none = x.new_zeros(len(x))
        with self.autocast():
            z = self.networks.encoder(x, none)
            cost = self.rate_term(z)
            if quantiser is None:
                z = self.relaxed(z)
            else:
                z = z + (quantiser(z) - z).detach()
                drawn = [self.pool[k] for k in self.random.integers(0, len(self.pool), len(x))]
                latents, signals = zip(*drawn, strict=True)
                z = torch.cat((z, torch.stack(latents)))
                x = torch.cat((x, torch.stack(signals)))
            y = self.networks.generator(z, z.new_zeros(len(z)))
        distance = self.distance(x, y) / self.scale
        loss = distance.mean()
        values["distance"] = loss.detach()
        if cost is not None:
            values["cost"] = cost.detach()
            loss = loss + cost * (len(none) / len(x))
        if second:
            values["encoded"] = distance[: len(none)].detach().mean()
        if s.adversary > 0 and (second or progress >= s.adversary_from):
            values["discriminator"] = self.train_discriminator("judge_optimiser", x[::2], y[::2])
            with self.autocast():
                scores = self.discriminator(y[::2])
            loss = loss + s.adversary * generator_loss(scores)
        norm = self.descend("optimiser", rate, loss)
        self.steps += 1
        self.update_average(self.networks, self.steps - self.stage_start, 0.998)
        return values | {"loss": loss.detach(), "norm": norm, "rate": rate}

    def finish(self) -> None:
        """Fit the centres if stage two has not begun."""
        if self.quantiser is None:
            self.begin_second_stage()

    def numbers(self) -> dict[str, Any]:
        """Where stage two began, and its centres; the pool is not kept, as it fills again."""
        centres = None if self.quantiser is None else self.quantiser.centres.cpu().tolist()
        return {"stage_start": self.stage_start, "centres": centres}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue in the stage of a checkpoint, with its centres."""
        self.stage_start, centres = int(numbers["stage_start"]), numbers["centres"]
        if centres is not None:
            if len(centres) != self.shape.levels:
                raise ValueError(f"{len(centres)} centres, not {self.shape.levels}")
            self.quantiser = Quantiser(np.array(centres)).to(self.device)
        self.random = np.random.default_rng(self.settings.seed + self.steps)


def train_two_stages(task: TwoStageTask, folder: Path, target: Path) -> str | None:
    """Train (or resume training) in `folder` and export to `target`; returns the model id.

    Returns None if the run ended early; the same call resumes from the last checkpoint. Raises
    BadInput for a damaged checkpoint or one of other networks.
    """
    if not train(task, folder, task.run) or task.run.stops:
        return None
    task.run.note("counting the symbols of searched training signals")
    model = task.model(task.counts()).cpu()
    with new_model_folder(target) as draft:
        return save_model(model, draft, {"name": "paper", "licence": task.licence})
