"""The two stages of training: coding with rounded latents, then with searched ones.

One loop serves both. Stage one trains everything by the straight-through gradient, with a small
adversarial term in its second part. Stage two searches the latents of half of every batch as the
encoder will (`codec.search`), and retrains generator and prior on them, the encoder towards them
(Liu et al. 2020, 3.1).
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.errors import BadInput
from codec.search.admm import Networks, SearchSettings, search
from models.networks.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from models.networks.speech import SpeechModel
from models.training import checkpoints
from models.training.batches import FrameSource, rate_points
from models.training.distributed import Team
from models.training.interruption import Interruption
from models.training.journal import Journal, cut_log
from models.training.objective import Distance, Objective, Prices, noise_like
from models.training.schedule import WARMUP_STEPS, Budget, learning_rate

StageName = Literal["one", "two"]
CHECKPOINT_SECONDS = 120.0
_CRITIC_RATE = 4e-4


@dataclass(frozen=True)
class StageSettings:
    """How a stage is trained. `batch` is per process; `rate` the peak learning rate.

    steer_from: the first step after which prices are steered; None keeps them as they are.
    """

    minutes: float | None = None
    steps: int | None = None
    batch: int = 48
    rate: float = 1.2e-3
    hold: float = 0.3
    floor: float = 0.02
    warmup: int = WARMUP_STEPS
    steer_from: int | None = 300
    adversarial: float = 0.01
    adversarial_from: float = 0.4
    search_steps: int = 6
    seed: int = 0
    compile: bool = False
    log_every: int = 50


class Stage:
    """The state of a stage: everything that a checkpoint keeps, and one training step."""

    def __init__(
        self,
        name: StageName,
        model: SpeechModel,
        source: FrameSource,
        team: Team,
        distance: Distance,
        prices: Prices,
        settings: StageSettings,
    ) -> None:
        self.name, self.source, self.team, self.settings = name, source, team, settings
        self.prices = prices
        self.distance = distance.to(team.device)
        self.model = model.to(team.device).train().requires_grad_(True)
        torch.manual_seed(settings.seed)  # the same critic in every process
        self.critic = PatchDiscriminator().to(team.device)
        gains = [p for n, p in self.model.named_parameters() if "log_gain" in n]
        rest = [p for n, p in self.model.named_parameters() if "log_gain" not in n]
        # Gains move by few per cent per step and have far to go.
        self.optimiser = torch.optim.AdamW(
            [{"params": rest, "times": 1.0}, {"params": gains, "times": 3.0}],
            lr=settings.rate,
            betas=(0.9, 0.98),
            weight_decay=1e-3,
        )
        self.critic_optimiser = torch.optim.AdamW(
            self.critic.parameters(), _CRITIC_RATE, betas=(0.5, 0.9), weight_decay=0.0
        )
        objective = Objective(self.model)
        if settings.compile:
            objective.compile()
        self.objective = team.wrap(objective)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.steps = 0
        self._half = fast_in_half(team.device)

    def autocast(self) -> torch.autocast:
        """bfloat16 where the device is fast at it."""
        return torch.autocast(self.team.device.type, torch.bfloat16, enabled=self._half)

    def step(self, fraction: float) -> dict[str, float]:
        """One step at this share of the stage; returns the numbers to log."""
        s, device = self.settings, self.team.device
        random = np.random.default_rng(
            (s.seed, self.team.rank, int(self.name == "two"), self.steps)
        )
        noise_source = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        x = self.source.batch(s.batch, random)
        rate = rate_points(s.batch, random).to(device)
        price = self.prices.of(rate)
        shape = self.model.shape
        noise = noise_like(shape.steps, shape.channels, s.batch, noise_source)
        searched = None
        if self.name == "two":
            some = -(-s.batch // 2)
            searched = self._search(x[:some], rate[:some], price[:some])
        with self.autocast():
            y, bits, pull = self.objective(x, rate, noise.to(device), searched)
            distance = self.distance(x, y)
        loss = (distance + price * (bits + pull)).mean()
        values = {"loss": loss.item(), "distance": distance.mean().item()}
        values |= {"bits": bits.mean().item()}
        adversarial = s.adversarial > 0 and fraction >= s.adversarial_from
        if adversarial:
            self.critic.requires_grad_(False)
            with self.autocast():
                cheat = generator_loss(self.critic(y)).mean()
            loss = loss + s.adversarial * cheat
            values["cheat"] = cheat.item()
        now = learning_rate(
            fraction, self.steps, s.rate, warmup=s.warmup, hold=s.hold, floor=s.floor
        )
        for group in self.optimiser.param_groups:
            group["lr"] = now * group["times"]
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        # A step that overflowed is left out: one bad batch must not ruin a day's training.
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        if adversarial:
            values["critic"] = self._train_critic(x, y.detach())
        if s.steer_from is not None and self.steps >= s.steer_from:
            self.prices.steer(self.team.sum(self.prices.sums(rate, bits.detach())))
        self._update_average()
        self.steps += 1
        values |= {"gradient": float(norm), "learning_rate": now}
        return values | {f"log_price_{k}": float(v) for k, v in enumerate(self.prices.log_prices)}

    def _search(self, x: Tensor, rate: Tensor, price: Tensor) -> Tensor:
        m, steps = self.model, self.settings.search_steps
        with self.autocast():
            networks = Networks(m.encoder, m.generator, m.prior, m.generator)
            settings = SearchSettings(iterations=steps, check_every=max(steps, 1))
            return search(networks, self.distance, x, rate, price, settings).indices

    def _train_critic(self, real: Tensor, fake: Tensor) -> float:
        self.critic.requires_grad_(True)
        with self.autocast():
            scores = self.critic(torch.cat((real, fake)))
            loss = discriminator_loss(*scores.chunk(2))
        self.critic_optimiser.zero_grad()
        loss.backward()
        for parameter in self.critic.parameters():
            if self.team.size > 1 and parameter.grad is not None:
                self.team.sum(parameter.grad).div_(self.team.size)
        self.critic_optimiser.step()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(0.999, 1.0 - 1.0 / (self.steps + 10))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1.0 - keep)

    def save(self, folder: Path, spent: float, finished: bool) -> None:
        """Write a checkpoint; only the process that leads does."""
        if self.team.leads:
            tensors = (
                checkpoints.module_tensors("model", self.model)
                | checkpoints.module_tensors("average", self.average)
                | checkpoints.module_tensors("critic", self.critic)
                | checkpoints.optimiser_tensors("moments", self.optimiser, self.model)
                | checkpoints.optimiser_tensors(
                    "critic_moments", self.critic_optimiser, self.critic
                )
            )
            numbers = {
                "stage": self.name,
                "step": self.steps,
                "seed": self.settings.seed,
                "spent": spent,
                "finished": finished,
                "log_prices": self.prices.log_prices.tolist(),
                "shape": asdict(self.model.shape),
            }
            checkpoints.save_checkpoint(folder, self.steps, tensors, numbers)
        self.team.wait()

    def restore(self, path: Path) -> tuple[float, bool]:
        """Go on from a checkpoint: (seconds spent on the stage so far, whether it was finished)."""
        tensors, numbers = checkpoints.load_checkpoint(path)
        with checkpoints.resuming(path):
            if numbers["stage"] != self.name or numbers["seed"] != self.settings.seed:
                raise BadInput(f"{path} is of stage {numbers['stage']}, seed {numbers['seed']}")
            prices = torch.tensor([float(v) for v in numbers["log_prices"]])
            spent, finished = float(numbers["spent"]), bool(numbers["finished"])
            self.steps = int(numbers["step"])
        if prices.shape != self.prices.log_prices.shape:
            raise BadInput(f"cannot resume from {path}: {len(prices)} prices")
        self.prices.log_prices = prices
        checkpoints.load_module("model", self.model, tensors)
        checkpoints.load_module("average", self.average, tensors)
        checkpoints.load_module("critic", self.critic, tensors)
        checkpoints.load_optimiser("moments", self.optimiser, self.model, tensors)
        checkpoints.load_optimiser("critic_moments", self.critic_optimiser, self.critic, tensors)
        return spent, finished

    def result(self) -> SpeechModel:
        """The averaged networks with the prices they were trained at."""
        self.average.log_rate_weights = self.prices.log_prices.tolist()
        return self.average


def train_stage(stage: Stage, folder: Path, interruption: Interruption) -> SpeechModel | None:
    """Run a stage to its end, from the newest checkpoint in `folder` if there is one.

    Returns the trained networks, or None when interrupted before the end; the checkpoint is written
    either way.
    """
    settings, team = stage.settings, stage.team
    spent, finished = 0.0, False
    newest = checkpoints.latest_checkpoint(folder)
    if newest is not None:
        spent, finished = stage.restore(newest)
        if team.leads:
            cut_log(folder / "log.jsonl", stage.steps)
    if finished:
        return stage.result()
    budget = Budget(settings.minutes, settings.steps, spent)
    saved = time.monotonic()
    with Journal(folder if team.leads else None, stage.name, settings.log_every) as journal:
        while True:
            fraction, stop, due = _agree(stage, budget, interruption, saved)
            if fraction >= 1.0 or stop:
                break
            if due:
                stage.save(folder, budget.elapsed(), finished=False)
                saved = time.monotonic()
                journal.curves()
            begun = time.monotonic()
            values = stage.step(fraction)
            took = max(time.monotonic() - begun, 1e-9)
            frames = settings.batch * team.size / took
            journal.step(stage.steps, budget.elapsed() / 60, fraction, values, frames)
        journal.flush(stage.steps, budget.elapsed() / 60)
        stage.save(folder, budget.elapsed(), finished=fraction >= 1.0)
        journal.curves()
    return stage.result() if fraction >= 1.0 else None


def _agree(
    stage: Stage, budget: Budget, interruption: Interruption, saved: float
) -> tuple[float, bool, bool]:
    """(share done, to be stopped, checkpoint due): the same answer in every process."""
    leads = stage.team.leads
    own: list[Any] = [
        budget.fraction(stage.steps) if leads else 0.0,
        interruption.stops,
        time.monotonic() - saved > CHECKPOINT_SECONDS and leads,
    ]
    if stage.team.size > 1:
        # float64, or a stage of exact steps would end one early or late.
        told = torch.tensor([float(v) for v in own], dtype=torch.float64, device=stage.team.device)
        own = stage.team.sum(told).tolist()
    return float(own[0]), own[1] > 0, own[2] > 0
