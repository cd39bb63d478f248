"""Training in the two stages of Liu et al. (2020, section 3.1), whatever the signal.

Stage one trains encoder and generator as an auto-encoder on float latents, adversarially against a
patch discriminator. Uniform noise one quantisation step wide stands in for the quantiser (the paper
is silent on this), so that the latents make use of their range. Then K-means gives the centres.
Stage two runs the ADMM search over training signals and retrains the generator on the quantised
latents it finds; half of each batch are fresh signals through the quantised encoder, which keeps
the warm start good (gradients pass the quantiser unchanged).
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.entropy.quantiser import Quantiser, fit_centres
from codec.entropy.static import SymbolCounts, count_symbols
from models.folder import new_model_folder
from models.networks.discriminator import discriminator_loss, generator_loss
from models.networks.paper import StaticModel, channels_last
from models.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    load_module,
    load_optimiser,
    module_tensors,
    optimiser_tensors,
    resuming,
    save_checkpoint,
)
from models.training.interruption import Interruption
from models.training.journal import Journal, cut_log
from models.training.schedule import Budget, learning_rate

_CHECKPOINT_SECONDS = 120.0
_CENTRE_SAMPLES = 100_000
_CENTRE_BATCHES = 400


@dataclass(frozen=True)
class TwoStageSettings:
    """How a training runs. `minutes` of wall clock, or `steps`, whichever ends first.

    noise: width of the noise of stage one in even steps over the latents' reach; first_share: stage
    one's part of the length; adversary_from: where in stage one the adversary
    enters; adversary: its weight beside F; search_every: steps of stage two between two searched
    batches; pool: the most searched signals that are kept; start_frames: signals that the linear
    start is fitted on; table_batches, table_steps: searched batches that the symbols are counted
    on, and the length of their search.
    """

    minutes: float | None = 20.0
    steps: int | None = None
    batch: int = 32
    rate: float = 1.5e-3
    noise: float = 1.0
    first_share: float = 0.6
    adversary_from: float = 0.5
    adversary: float = 0.02
    search_every: int = 6
    search_steps: int = 10
    pool: int = 2048
    start_frames: int = 1000
    table_batches: int = 4
    table_steps: int = 40
    seed: int = 0


class Pair(nn.Module):
    """Encoder and generator under one roof; both are called with a rate point that they ignore."""

    def __init__(self, encoder: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator = generator


class Subject(Protocol):
    """What is trained: signals [N, ...], their networks, F, and how their latents are searched."""

    name: str
    device: torch.device  # of the networks once they are trained, and of all signals but `batch`
    reach: float  # of the latents
    levels: int

    def networks(self) -> Pair:
        """New ones, on the CPU."""

    def judge(self) -> nn.Module:
        """A new one, on the CPU."""

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """Training signals, on the CPU."""

    def start(self, networks: Pair, signals: Tensor) -> None:
        """Set the linear parts from training signals, all on the CPU."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """F: [N]."""

    def model(self, quantiser: Quantiser, counts: SymbolCounts) -> StaticModel:
        """A model whose encoder and generator are about to be replaced, on the CPU."""

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Quantised latents as the generator takes them, and the costs [N]."""

    def save(self, model: StaticModel, target: Path) -> str:
        """Write the model folder; returns the model id."""


class _Pool:
    """Searched signals: their quantised latents and targets, the oldest overwritten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._latents: list[Tensor] = []
        self._signals: list[Tensor] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._latents)

    def add(self, latents: Tensor, signals: Tensor) -> None:
        for pair in zip(latents, signals, strict=True):
            if len(self._latents) < self._size:
                self._latents.append(pair[0])
                self._signals.append(pair[1])
            else:
                self._latents[self._next], self._signals[self._next] = pair
                self._next = (self._next + 1) % self._size

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents and signals [count, ...], at random."""
        rows = random.integers(0, len(self._latents), count)
        return (
            torch.stack([self._latents[row] for row in rows]),
            torch.stack([self._signals[row] for row in rows]),
        )


class TwoStageTrainer:
    """The state of one training: networks, averages, optimisers, and the step counter."""

    def __init__(self, subject: Subject, settings: TwoStageSettings) -> None:
        torch.manual_seed(settings.seed)
        self.subject, self.settings, self.device = subject, settings, subject.device
        self.networks, self.judge = subject.networks(), subject.judge()
        channels_last(self.networks)
        channels_last(self.judge)
        self.networks, self.judge = self.networks.to(self.device), self.judge.to(self.device)
        self.average = copy.deepcopy(self.networks).requires_grad_(False)
        self.quantiser: Quantiser | None = None
        self.pool = _Pool(settings.pool)
        self.random = np.random.default_rng(settings.seed)
        self.step = self.stage_start = 0
        self._half = fast_in_half(self.device)
        self._optimisers()

    def autocast(self) -> torch.autocast:
        """bfloat16 where the device is fast at it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _optimisers(self) -> None:
        bases: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.networks.named_parameters():
            (bases if name.endswith("basis") else rest).append(parameter)
        # The linear parts are already right to within a few per cent.
        groups = [{"params": rest, "share": 1.0}, {"params": bases, "share": 0.1}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)
        self.judge_optimiser = torch.optim.AdamW(
            self.judge.parameters(), lr=4e-4, betas=(0.5, 0.98), weight_decay=1e-4
        )

    def start(self) -> None:
        """Begin from the linear codec."""
        started = copy.deepcopy(self.networks).cpu()
        signals = self.subject.batch(self.settings.start_frames, self.random)
        self.subject.start(started, signals)
        self.networks.load_state_dict(started.state_dict())
        self.average.load_state_dict(self.networks.state_dict())

    def _batch(self, count: int) -> Tensor:
        return self.subject.batch(count, self.random).to(self.device)

    def model(self, counts: SymbolCounts | None = None) -> StaticModel:
        """The averaged networks with the centres and a table, as the codec uses them."""
        if self.quantiser is None:
            raise ValueError("the centres are fitted at the end of stage one")
        counts = counts or SymbolCounts(np.ones(self.subject.levels, np.int64))
        model = self.subject.model(copy.deepcopy(self.quantiser), counts).to(self.device)
        model.encoder = copy.deepcopy(self.average.encoder)
        model.generator = copy.deepcopy(self.average.generator)
        return model.requires_grad_(False).eval()

    @torch.no_grad()
    def begin_second_stage(self) -> None:
        """Fit the centres to the averaged encoder's latents and go on from the averages."""
        batch = self.settings.batch
        none = torch.zeros(batch, device=self.device)
        parts: list[Tensor] = []
        while sum(p.numel() for p in parts) < 4 * _CENTRE_SAMPLES and len(parts) < _CENTRE_BATCHES:
            parts.append(self.average.encoder(self._batch(batch), none).flatten().cpu())
        latents = torch.cat(parts)
        some = latents[torch.randperm(len(latents))[:_CENTRE_SAMPLES]]
        centres = fit_centres(some.numpy(), self.subject.levels)
        self.quantiser = Quantiser(centres).to(self.device)
        self.networks.load_state_dict(self.average.state_dict())
        self.stage_start = self.step
        self._optimisers()

    def _search(self) -> float:
        """Search a batch of fresh signals into the pool; returns the mean cost found."""
        x = self._batch(self.settings.batch)
        steps = self.settings.search_steps
        latents, costs = self.subject.search(self.model(), x, steps, check_every=5)
        self.pool.add(latents, x)
        return float(costs.mean())

    def train_step(self, progress: float) -> dict[str, float]:
        """One step; `progress` is the share of the current stage that is done."""
        settings, quantiser = self.settings, self.quantiser
        values: dict[str, float] = {}
        second = quantiser is not None
        rate = learning_rate(
            progress,
            self.step - self.stage_start,
            settings.rate * (0.4 if second else 1.0),
            warmup=100,
            floor=0.02 if second else 0.2,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        due = (self.step - self.stage_start) % settings.search_every == 0
        if quantiser is not None and (due or not len(self.pool)):
            values["searched"] = self._search()
        x = self._batch(settings.batch if quantiser is None else settings.batch // 2)
        none = x.new_zeros(len(x))
        with self.autocast():
            z = self.networks.encoder(x, none)
            if quantiser is None:
                width = settings.noise * 2.0 * self.subject.reach / self.subject.levels
                z = z + width * (torch.rand_like(z) - 0.5)
            else:
                z = z + (quantiser(z) - z).detach()
                latents, signals = self.pool.draw(len(x), self.random)
                z, x = torch.cat((z, latents)), torch.cat((x, signals))
            y = self.networks.generator(z, none)
        distance = self.subject.distance(x, y)
        loss = distance.mean()
        values["distance"] = float(loss.detach())
        if second:
            values["encoded"] = float(distance[: len(none)].detach().mean())
        if settings.adversary > 0 and (second or progress >= settings.adversary_from):
            values |= self._train_judge(x, y.detach())
            with self.autocast():
                scores = self.judge(y[::2])
            loss = loss + settings.adversary * generator_loss(scores)
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(0.998, 1.0 - 1.0 / (self.step - self.stage_start + 10))
        with torch.no_grad():
            for mean, now in zip(
                self.average.parameters(), self.networks.parameters(), strict=True
            ):
                mean.lerp_(now, 1.0 - decay)
        return values | {"loss": float(loss.detach()), "norm": float(norm), "rate": rate}

    def _train_judge(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        self.judge.requires_grad_(True)
        with self.autocast():
            scores = self.judge(torch.cat((real[::2], generated[::2])))
        loss = discriminator_loss(*scores.chunk(2))
        self.judge_optimiser.zero_grad()
        loss.backward()
        self.judge_optimiser.step()
        self.judge.requires_grad_(False)
        return {"judge": float(loss.detach())}

    def counts(self) -> SymbolCounts:
        """Symbol counts of training signals, searched as the codec searches them."""
        settings, model = self.settings, self.model()
        found = []
        for _ in range(settings.table_batches):
            x = self._batch(settings.batch)
            latents, _ = self.subject.search(model, x, settings.table_steps, check_every=20)
            found.append(model.indices_of(latents))
        return count_symbols(np.stack(found), self.subject.levels)

    def save(self, folder: Path, spent: float) -> None:
        """Write a checkpoint; the pool is left out, it fills again."""
        tensors = (
            module_tensors("networks", self.networks)
            | module_tensors("average", self.average)
            | module_tensors("judge", self.judge)
            | optimiser_tensors("optimiser", self.optimiser, self.networks)
            | optimiser_tensors("judge_optimiser", self.judge_optimiser, self.judge)
        )
        centres = None if self.quantiser is None else self.quantiser.centres.cpu().tolist()
        numbers = {"spent": spent, "stage_start": self.stage_start, "centres": centres}
        save_checkpoint(folder, self.step, tensors, numbers | {"step": self.step})

    def resume(self, checkpoint: Path) -> float:
        """Go on from a checkpoint; returns the seconds spent before it."""
        tensors, numbers = load_checkpoint(checkpoint)
        for name in ("networks", "average", "judge"):
            load_module(name, getattr(self, name), tensors)
        load_optimiser("optimiser", self.optimiser, self.networks, tensors)
        load_optimiser("judge_optimiser", self.judge_optimiser, self.judge, tensors)
        with resuming(checkpoint):
            self.step, self.stage_start = int(numbers["step"]), int(numbers["stage_start"])
            centres, levels = numbers["centres"], self.subject.levels
            if centres is not None:
                if len(centres) != levels:
                    raise ValueError(f"{len(centres)} centres, not {levels}")
                self.quantiser = Quantiser(np.array(centres)).to(self.device)
            self.random = np.random.default_rng(self.settings.seed + self.step)
            return float(numbers["spent"])


def train_two_stages(
    subject: Subject,
    folder: Path,
    target: Path,
    settings: TwoStageSettings,
    interruption: Interruption | None = None,
) -> str | None:
    """Train (or go on training) in `folder` and export to `target`; returns the model id.

    None when the run was interrupted: the same call goes on from the last checkpoint.
    Raises BadInput for a damaged checkpoint or one of other networks.
    """
    trainer = TwoStageTrainer(subject, settings)
    checkpoint = latest_checkpoint(folder)
    spent = 0.0
    if checkpoint is None:
        trainer.start()
    else:
        spent = trainer.resume(checkpoint)
        cut_log(folder / "log.jsonl", trainer.step)
    budget = Budget(settings.minutes, settings.steps, spent)
    saved, begun, first = time.monotonic(), time.monotonic(), trainer.step
    interruption = interruption or Interruption()
    with interruption, Journal(folder, subject.name) as journal:
        while (fraction := budget.fraction(trainer.step)) < 1.0:
            if interruption.stops:
                trainer.save(folder, budget.elapsed())
                journal.note(f"stopped at step {trainer.step}")
                return None
            if fraction >= settings.first_share and trainer.quantiser is None:
                trainer.begin_second_stage()
                journal.note(f"step {trainer.step}: stage two, on quantised latents")
            if trainer.quantiser is None:
                progress = fraction / settings.first_share
            else:
                progress = (fraction - settings.first_share) / (1.0 - settings.first_share)
            values = trainer.train_step(progress)
            speed = (trainer.step - first) * settings.batch / (time.monotonic() - begun)
            minutes = budget.elapsed() / 60.0
            journal.step(trainer.step, minutes, fraction, values | {"speed": speed}, speed)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                trainer.save(folder, budget.elapsed())
                saved = time.monotonic()
        if trainer.quantiser is None:
            trainer.begin_second_stage()
        journal.flush(trainer.step, budget.elapsed() / 60.0)
        trainer.save(folder, budget.elapsed())
        if interruption.stops:
            return None
        journal.note("counting the symbols of searched training signals")
        model = trainer.model(trainer.counts()).cpu()
        with new_model_folder(target) as draft:
            identity = subject.save(model, draft)
        journal.curves()
    return identity
