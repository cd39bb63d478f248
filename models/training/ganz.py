"""Training of GANZ: a linear start, an auto-encoder phase, then BEGAN (Berthelot et al. 2017).

1. *Start.* The linear synthesis of generator and discriminator is a lapped transform of the
   principal colours.
2. *Auto-encoder.* The convolutional module learns to draw photographs from their features as a
   random first layer of random ratio passes them on, with its places fixed or chosen. The
   discriminator's decoder starts from the same module.
3. *BEGAN.* L(x) is the mean absolute error of the discriminator, an auto-encoder;

       L_D = L(x) - k L(G(z)),  L_G = L(G(z)),  k <- k + λ (γ L(x) - L(G(z)))

   with latents uniform in [-1, 1]. The trained first layer starts as the discriminator's own:
   k leaves 0 only when L(G(z)) < γ L(x), and pictures of random features, most of which 64 numbers
   cannot keep, are as hard for the discriminator as photographs are. λ is far above that of
   Berthelot et al., because the phase has hundreds of steps and not a hundred thousand. The
   generator's loss keeps phase two's term, so that the convolutional module goes on drawing what
   lies beyond the range of the 64 trained latents.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.errors import BadInput
from models.networks.ganz import (
    GRID,
    Convolutions,
    Discriminator,
    GanzShape,
    Generator,
    as_grid,
    as_spectrum,
)
from models.training import checkpoints
from models.training.image.photographs import Photographs
from models.training.image.start import lapped_channels
from models.training.interruption import Interruption
from models.training.journal import Journal, cut_log
from models.training.schedule import Budget, learning_rate

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class GanzSettings:
    """How the training runs. `minutes` of wall clock, or `steps`, whichever ends first.

    share: the auto-encoder phase's part of the length; rate, began_rate: peak learning rates of the
    two phases; balance: γ; gain: λ of k; drawing: weight of the auto-encoder's term in BEGAN.
    """

    minutes: float | None = 25.0
    steps: int | None = None
    batch: int = 8
    share: float = 0.5
    rate: float = 1.5e-3
    began_rate: float = 2e-4
    balance: float = 0.5
    gain: float = 0.1
    drawing: float = 1.0
    start_crops: int = 256
    seed: int = 0
    shape: GanzShape = field(default_factory=GanzShape)


class GanzTrainer:
    """Everything that a checkpoint keeps, and one training step."""

    def __init__(
        self, photographs: Photographs, settings: GanzSettings, device: torch.device | None = None
    ) -> None:
        """device: where everything is trained; None is the CPU."""
        torch.manual_seed(settings.seed)
        self.photographs, self.settings = photographs, settings
        self.device = device or torch.device("cpu")
        self.generator = Generator(settings.shape)
        self.discriminator = Discriminator(settings.shape)
        self.average = copy.deepcopy(self.generator)
        self.analysis = copy.deepcopy(self.discriminator.analysis).requires_grad_(False)
        self.scales = torch.ones(settings.shape.features, device=self.device)
        self.step, self.k, self.began = 0, 0.0, False
        self._half = fast_in_half(self.device)
        for part in (self.generator, self.discriminator, self.average):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in (self.generator, self.discriminator, self.average, self.analysis):
            module.to(self.device)
        self._optimisers()

    def _optimisers(self) -> None:
        s = self.settings
        betas = (0.5, 0.98) if self.began else (0.9, 0.98)
        self.optimiser = _adam(self.generator, s.rate, betas)
        self.judge = _adam(self.discriminator, s.began_rate, betas)

    def start(self) -> None:
        """Begin at the lapped transform, with the statistics of the photographs' features."""
        s = self.settings
        random = np.random.default_rng((s.seed, 1 << 20))
        x = self.photographs.batch(s.start_crops, random)
        shape = s.shape
        _lapped_start(self.generator.body, self.discriminator, x)
        x = x.to(self.device)
        self.analysis.load_state_dict(self.discriminator.analysis.state_dict())
        spectrum = as_spectrum(self.features(x))
        mean = torch.zeros(shape.features, device=self.device)
        # Away from the slowest function of the grid nothing has a mean but by chance.
        mean[:: GRID * GRID] = spectrum.mean(0)[:: GRID * GRID]
        self.scales = (spectrum - mean).square().mean(0).sqrt().clamp_min(1e-3)
        with torch.no_grad():
            self._discriminator_start(mean)
            first = self.generator.first
            # Latents uniform in [-1, 1] have the variance 1/3, the discriminator's numbers 1.
            first.weight.copy_(self.discriminator.first.weight * math.sqrt(3.0))
            first.mean.copy_(mean)
        self.average.load_state_dict(self.generator.state_dict())

    def _discriminator_start(self, mean: Tensor) -> None:
        """Its middle passes the features that vary most on as they are."""
        shape = self.settings.shape
        spread = self.generator.body.spread.repeat_interleave(GRID * GRID)
        kept = (self.scales * spread).argsort(descending=True)[: shape.latents]
        columns = torch.arange(shape.latents, device=self.device)
        first, code = self.discriminator.first, self.discriminator.code
        first.weight.zero_()
        first.weight[kept, columns] = self.scales[kept]
        first.mean.copy_(mean)
        code.weight.zero_()
        code.weight[columns, kept] = 1.0 / self.scales[kept]
        code.bias.copy_(-mean[kept] / self.scales[kept])

    def features(self, x: Tensor) -> Tensor:
        """h0 of pictures [B, 3, 128, 128] by the linear analysis: [B, n, 8, 8]."""
        spread = self.generator.body.spread[:, None, None]
        features: Tensor = self.analysis.transposed(x - 0.5) / spread
        return features

    @torch.no_grad()
    def passed_on(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """h0 of pictures as a random first layer of random ratio passes it on."""
        least, most = self.settings.shape.latents, self.settings.shape.most_latents
        latents = round(math.exp(random.uniform(math.log(least), math.log(most))))
        mean, spread = self.generator.first.mean.detach(), self.generator.body.spread
        moved = as_spectrum(self.features(x)) - mean
        # The layer is orthogonal: it passes on what it reaches, and that as it is.
        weights = (moved if random.random() < 0.5 else self.scales[None]).abs()
        weights = weights * spread.repeat_interleave(GRID * GRID)
        where = weights.topk(latents, dim=1).indices.expand(len(x), -1)
        reached = torch.zeros_like(moved).scatter(1, where, 1.0)
        return as_grid(mean + moved * reached)

    def train_step(self, fraction: float) -> dict[str, float]:
        """One step at this share of the whole; returns the numbers to log."""
        s = self.settings
        random = np.random.default_rng((s.seed, self.step))
        if fraction >= s.share and not self.began:
            self.begin_began()
        x = self.photographs.batch(s.batch, random).to(self.device)
        h = self.passed_on(x, random)
        if self.began:
            values = self._began_step(x, h, (fraction - s.share) / (1.0 - s.share))
        else:
            values = self._drawing_step(x, h, fraction / s.share)
        self.step += 1
        keep = min(0.995, 1.0 - 1.0 / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 1.0 - keep)
        return values

    def begin_began(self) -> None:
        """Enter phase three: both decoders are the averaged convolutional module."""
        self.began = True
        self.generator.load_state_dict(self.average.state_dict())
        self.discriminator.decoder.load_state_dict(self.average.body.state_dict())
        self._optimisers()

    def autocast(self) -> torch.autocast:
        """bfloat16 where the device is fast at it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _drawing_step(self, x: Tensor, h: Tensor, progress: float) -> dict[str, float]:
        s = self.settings
        with self.autocast():
            y = self.generator.body(h)
        loss, score = _drawing_loss(x, y)
        return {"loss": float(loss.detach()), "psnr": score} | self._update(
            self.optimiser, self.generator, loss, learning_rate(progress, self.step, s.rate)
        )

    def _began_step(self, x: Tensor, h: Tensor, progress: float) -> dict[str, float]:
        s = self.settings
        rate = s.began_rate * (1.0 - 0.9 * max(0.0, 2.0 * progress - 1.0))
        z = 2.0 * torch.rand(len(x), s.shape.latents, device=self.device) - 1.0
        with self.autocast():
            fake = self.generator(z)
            both = self.discriminator.error(torch.cat((x, fake.detach())))
        real_error, fake_error = both[: len(x)].mean(), both[len(x) :].mean()
        judge_loss = real_error - self.k * fake_error
        self._update(self.judge, self.discriminator, judge_loss, rate)
        self.discriminator.requires_grad_(False)
        with self.autocast():
            drawn = self.generator.body(h)
            error = self.discriminator.error(fake).mean()
        loss, score = _drawing_loss(x, drawn)
        values = self._update(self.optimiser, self.generator, error + s.drawing * loss, rate)
        self.discriminator.requires_grad_(True)
        real, found = float(real_error.detach()), float(error.detach())
        difference = s.balance * real - found
        self.k = min(max(self.k + s.gain * difference, 0.0), 1.0)
        return values | {
            "loss": float(loss.detach()), "psnr": score, "real": real, "fake": found, "k": self.k,
            "convergence": real + abs(difference),
        }  # fmt: skip

    def _update(
        self, optimiser: torch.optim.Optimizer, module: nn.Module, loss: Tensor, rate: float
    ) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        # A step that overflowed is left out: one bad batch must not ruin a training.
        if bool(torch.isfinite(norm)):
            optimiser.step()
        return {"norm": float(norm), "rate": rate}

    def save(self, folder: Path, spent: float) -> None:
        """Write a checkpoint."""
        tensors = {"scales": self.scales}
        for name in ("generator", "discriminator", "average", "analysis"):
            tensors |= checkpoints.module_tensors(name, getattr(self, name))
        tensors |= checkpoints.optimiser_tensors("optimiser", self.optimiser, self.generator)
        tensors |= checkpoints.optimiser_tensors("judge", self.judge, self.discriminator)
        numbers = {"stage": "ganz", "step": self.step, "spent": spent, "k": self.k}
        checkpoints.save_checkpoint(folder, self.step, tensors, numbers | {"began": self.began})

    def resume(self, path: Path) -> float:
        """Go on from a checkpoint; returns the seconds spent before it."""
        tensors, numbers = checkpoints.load_checkpoint(path)
        with checkpoints.resuming(path):
            if numbers["stage"] != "ganz":
                raise BadInput(f"{path} is of stage {numbers['stage']}")
            self.step, spent = int(numbers["step"]), float(numbers["spent"])
            self.k, self.began = float(numbers["k"]), bool(numbers["began"])
            if tensors["scales"].shape != self.scales.shape:
                raise BadInput(f"{path} is of other networks: {len(tensors['scales'])} scales")
            self.scales = tensors["scales"].to(self.device)
        self._optimisers()
        for name in ("generator", "discriminator", "average", "analysis"):
            checkpoints.load_module(name, getattr(self, name), tensors)
        checkpoints.load_optimiser("optimiser", self.optimiser, self.generator, tensors)
        checkpoints.load_optimiser("judge", self.judge, self.discriminator, tensors)
        return spent


def _adam(module: nn.Module, rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    # The transform is right to within a few per cent.
    slow = ("basis",)
    named = list(module.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith(slow)], "share": 1.0},
        {"params": [p for n, p in named if n.endswith(slow)], "share": 0.1},
    ]
    return torch.optim.Adam(groups, lr=rate, betas=betas)


def _drawing_loss(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Root of the squared error, which weighs all ratios alike, and the mean PSNR in dB."""
    error = (y - x).square().mean((1, 2, 3)) + 1e-7
    return error.sqrt().mean(), float(-10.0 * torch.log10(error.detach()).mean())


def _lapped_start(body: Convolutions, discriminator: Discriminator, x: Tensor) -> None:
    channels = lapped_channels(x, len(body.spread))
    with torch.no_grad():
        for module in (body, discriminator.decoder):
            module.spread.copy_(channels.spread)
        for lapped in (body.linear, discriminator.decoder.linear, discriminator.analysis):
            lapped.basis.copy_(channels.bases)
            lapped.signs.copy_(channels.signs)


def train_ganz(trainer: GanzTrainer, folder: Path, interruption: Interruption) -> bool:
    """Run to the end, from the newest checkpoint in `folder` if there is one.

    Returns False when interrupted before the end; the checkpoint is written either way. Raises
    BadInput for a damaged checkpoint.
    """
    settings = trainer.settings
    newest = checkpoints.latest_checkpoint(folder)
    spent = 0.0
    if newest is None:
        trainer.start()
    else:
        spent = trainer.resume(newest)
        cut_log(folder / "log.jsonl", trainer.step)
    budget = Budget(settings.minutes, settings.steps, spent)
    saved = time.monotonic()
    with Journal(folder, "ganz", 20) as journal, interruption:
        while True:
            fraction = budget.fraction(trainer.step)
            if fraction >= 1.0 or interruption.stops:
                break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                trainer.save(folder, budget.elapsed())
                saved = time.monotonic()
            begun = time.monotonic()
            values = trainer.train_step(fraction)
            speed = settings.batch / max(time.monotonic() - begun, 1e-9)
            journal.step(trainer.step, budget.elapsed() / 60, fraction, values, speed)
        journal.flush(trainer.step, budget.elapsed() / 60)
        trainer.save(folder, budget.elapsed())
        journal.curves()
    return fraction >= 1.0
