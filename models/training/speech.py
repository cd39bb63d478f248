"""Training of the speech networks: on rounded latents in stage one, on searched ones in stage two.

Stage one trains all networks by the straight-through gradient, in its second part with a small
adversarial term. Stage two searches the latents of half of every batch (`codec.search`), trains
generator and prior on them, and pulls the encoder towards them (Liu et al. 2020, 3.1). In either, a
share of every batch is coded as the sliding frame of a call is (`models.training.sliding`).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from codec.search.engine import search
from codec.search.problem import Networks, Problem, SearchSettings
from models.networks.discriminator import PatchDiscriminator, generator_loss
from models.networks.speech import Block, SpeechModel
from models.stored import finite
from models.training.distributed import Team
from models.training.disturbance import Disturbance
from models.training.frames import FrameSource, moved, rate_points
from models.training.held_out import HeldOut
from models.training.log import Number
from models.training.loop import LoopSettings, Task, adamw, learning_rate, parameter_groups
from models.training.objectives import Objective, Prices, SpeechDistance, noise_like
from models.training.sliding import BLOCKS

StageName = Literal["one", "two"]
_DISCRIMINATOR_RATE = 4e-4


@dataclass(frozen=True)
class SpeechSettings(LoopSettings):
    """How a stage is trained. `batch` is per process; `rate` is the peak learning rate.

    sliding: share of each batch that is coded block by block; disturbed: share with noise, rooms or
    narrow bands; steer_from: the first step that adjusts the prices, None keeps them fixed;
    averaging: what a step keeps of the averaged weights.
    """

    batch: int = 48
    rate: float = 1.2e-3
    hold: float = 0.3
    floor: float = 0.02
    warmup: int = 200
    sliding: float = 0.5
    disturbed: float = 0.25
    steer_from: int | None = 300
    adversarial: float = 0.01
    adversarial_from: float = 0.4
    search_steps: int = 6
    averaging: float = 0.999
    compile: bool = False


@dataclass(frozen=True)
class StageInputs:
    """What a stage trains, and with what.

    distance: F; held_out: frames that training never sees, measured with each checkpoint.
    """

    model: SpeechModel
    source: FrameSource
    team: Team
    distance: SpeechDistance
    prices: Prices
    settings: SpeechSettings
    held_out: HeldOut | None = None


class SpeechStage(Task):
    """What the stages have in common; subclasses set `model`, `average` and their optimisers."""

    final = True
    settings: SpeechSettings
    model: SpeechModel
    average: SpeechModel

    def __init__(self, inputs: StageInputs) -> None:
        super().__init__(inputs.team)
        self.source, self.settings = inputs.source, inputs.settings
        self.prices, self._held_out = inputs.prices.to(self.device), inputs.held_out
        self.distance = inputs.distance.to(self.device)
        self._disturb = Disturbance(self.device)
        self.amount = inputs.settings.batch

    def learning_rate(self, fraction: float) -> float:
        """That of the next step, at this share of the training."""
        s = self.settings
        return learning_rate(
            fraction, self.steps, s.rate, warmup=s.warmup, hold=s.hold, floor=s.floor
        )

    def held_out(self) -> dict[str, float]:
        return {} if self._held_out is None else self._held_out.figures(self.average)

    def identity(self) -> dict[str, Any]:
        return {"stage": self.name, "seed": self.settings.seed}

    def numbers(self) -> dict[str, Any]:
        return {
            "log_prices": self.prices.log_prices.cpu().tolist(),
            "shape": asdict(self.model.shape),
        }


class SpeechTask(SpeechStage):
    """Stage one or two."""

    def __init__(self, name: StageName, inputs: StageInputs) -> None:
        super().__init__(inputs)
        self.name, settings = name, inputs.settings
        self.model = inputs.model.to(self.device).train().requires_grad_(True)
        torch.manual_seed(settings.seed)  # the same discriminator in every process
        self.discriminator = PatchDiscriminator().to(self.device).requires_grad_(False)
        # Gains change by only a few per cent per step, and have far to go.
        groups = parameter_groups(self.model, {"log_gain": 3.0})
        optimiser = adamw(groups, settings.rate, (0.9, 0.98), decay=1e-3, device=self.device)
        discriminator_optimiser = adamw(
            self.discriminator.parameters(), _DISCRIMINATOR_RATE, (0.5, 0.9), decay=0.0,
            device=self.device,
        )  # fmt: skip
        if settings.compile:
            compile_blocks(self.model)
        self.objective = self.team.wrap(Objective(self.model))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.modules = {"model": self.model, "average": self.average, "critic": self.discriminator}
        self.optimisers = {
            "moments": (optimiser, self.model),
            "critic_moments": (discriminator_optimiser, self.discriminator),
        }

    def step(self, fraction: float) -> dict[str, Number]:
        s, device = self.settings, self.device
        random = np.random.default_rng(
            (s.seed, self.team.rank, int(self.name == "two"), self.steps)
        )
        drawn = seeded(random, device)
        plain = self.source.batch(s.batch, random)
        x = self._disturb(plain, s.disturbed, random, drawn)
        rate = moved(rate_points(s.batch, random), device)
        price = self.prices.of(rate)
        shape = self.model.shape
        noise = noise_like(shape.steps, shape.channels, s.batch, drawn).to(device)
        # In turn, so that processes that wait for each other have the same to do.
        block = BLOCKS[self.steps % len(BLOCKS)]
        searched, some = None, 0
        if self.name == "two":
            some = -(-s.batch // 2)
            searched = self._search(x[:some], rate[:some], price[:some])
        slid = min(round(s.sliding * s.batch), s.batch - some)
        with self.autocast():
            y, bits, pull = self.objective(x, rate, noise, searched, slid, block)
            distance = self.distance(x, y)
        loss = (distance + price * (bits + pull)).mean()
        values: dict[str, Number] = {"loss": loss.detach(), "distance": distance.detach().mean()}
        values |= {"bits": bits.detach().mean()}
        adversarial = s.adversarial > 0 and fraction >= s.adversarial_from
        if adversarial:
            with self.autocast():
                adversarial_loss = generator_loss(self.discriminator(y))
            loss = loss + s.adversarial * adversarial_loss
            values["generator_loss"] = adversarial_loss.detach()
        now = self.learning_rate(fraction)
        norm = self.descend("moments", now, loss)
        if adversarial:
            values["discriminator"] = self.train_discriminator("critic_moments", x, y)
        if s.steer_from is not None and self.steps >= s.steer_from:
            # The targets are of whole frames that nothing disturbs; others take more bits at the
            # same price.
            whole = s.batch - slid or s.batch
            counts = (x == plain).flatten(1).all(1).float()
            sums = self.prices.sums(rate[:whole], bits[:whole].detach(), counts[:whole])
            self.prices.steer(self.team.sum(sums))
        self.update_average(self.model, self.steps, s.averaging)
        self.steps += 1
        values |= {"gradient": norm, "learning_rate": now}
        return values | {f"log_price_{k}": v for k, v in enumerate(self.prices.log_prices)}

    def _search(self, x: Tensor, rate: Tensor, price: Tensor) -> Tensor:
        m, steps = self.model, self.settings.search_steps
        with self.autocast():
            networks = Networks(m.encoder, m.generator, m.prior, m.generator)
            settings = SearchSettings(iterations=steps, check_every=max(steps, 1))
            problem = Problem(networks, self.distance, x, rate, price)
            return search(problem, settings).indices

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        prices = finite(numbers["log_prices"], len(self.prices.log_prices))
        self.prices.log_prices = torch.tensor(prices, device=self.device)


def compile_blocks(model: SpeechModel) -> None:
    """Compile the residual blocks: one graph serves all of them, and packets of all lengths."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)


def seeded(random: np.random.Generator, device: torch.device) -> torch.Generator:
    """A generator of large random tensors on the device."""
    # The accelerator of the tests has none of its own.
    where = device if device.type in ("cpu", "cuda") else "cpu"
    return torch.Generator(where).manual_seed(int(random.integers(1 << 62)))
