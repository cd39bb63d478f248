"""Training of the image networks: rate and distortion of rounded latents, at all rates at once.

The loss is bits per pixel + λ·MSE with λ by the rate point, each crop at its own. The generator
sees rounded latents (straight-through gradient), the price is that of latents with uniform noise on
half of the crops and of rounded ones on the others (Ballé et al. 2017; Minnen & Singh 2020).
"""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.entropy.image_context import MAX_INDEX
from codec.entropy.logistic import logistic_bits
from codec.errors import BadInput
from models.networks.photo import PhotoModel, anchor_weights
from models.training import checkpoints
from models.training.image.photographs import Photographs
from models.training.interruption import Interruption
from models.training.journal import Journal, cut_log
from models.training.schedule import Budget, learning_rate

CHECKPOINT_SECONDS = 120.0
# Learning rates relative to the peak: the transform starts near its end, gains have far to go.
BASIS_RATE = 0.05
GAIN_RATE = 3.0
_EARLY_DEAD_ZONE = 0.15
_BALANCE = 0.4  # losses grow with λ about to this power


@dataclass(frozen=True)
class ImageStageSettings:
    """How the training runs. `rate` is the peak learning rate."""

    minutes: float | None = None
    steps: int | None = None
    batch: int = 6
    prior_steps: int = 200  # at first, of the prior alone: they are many times as fast
    rate: float = 1e-3
    hold: float = 0.4
    floor: float = 0.02
    warmup: int = 100
    seed: int = 0
    log_every: int = 20


def rate_points(count: int, random: np.random.Generator) -> Tensor:
    """Rate points [count], spread over the range, mostly at its lower three quarters."""
    spread = (np.arange(count) + random.uniform(size=count)) / count
    random.shuffle(spread)
    rates = np.where(spread < 0.85, spread / 0.85 * 2.3, 2.3 + (spread - 0.85) / 0.15 * 0.7)
    return torch.from_numpy(rates).float()


def prior_objective(
    model: PhotoModel, x: Tensor, rate: Tensor, noise: Tensor, noisy: Tensor
) -> tuple[Tensor, Tensor]:
    """What `objective` gives, for the prior alone: coding the transform as it is, at no error."""
    with torch.no_grad():
        z = model.encoder(x, rate).clamp(-MAX_INDEX, MAX_INDEX)
        # Training proper draws small latents to zero; so the prior meets fewer of them already.
        rounded = torch.copysign((z.abs() + 0.5 - _EARLY_DEAD_ZONE).floor(), z)
    location, log_scale = model.prior(rounded, rate)
    bits = logistic_bits(rounded, location, log_scale)
    return torch.zeros_like(rate), bits.sum((1, 2, 3)) / (x.shape[2] * x.shape[3])


def objective(
    model: PhotoModel, x: Tensor, rate: Tensor, noise: Tensor, noisy: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error and bits per pixel of crops x [B, 3, H, W]: each [B].

    noise: [B, C, h, w] in ±0.5; noisy: [B, 1, 1, 1], where noise is priced instead of rounding.
    """
    z = model.encoder(x, rate).clamp(-MAX_INDEX, MAX_INDEX)
    rounded = z + (z.round() - z).detach()
    y = model.generator(rounded, rate)
    location, log_scale = model.prior(rounded.detach(), rate)
    bits = logistic_bits(torch.where(noisy, z + noise, rounded), location, log_scale)
    pixels = x.shape[2] * x.shape[3]
    return (y - x).square().mean((1, 2, 3)), bits.sum((1, 2, 3)) / pixels


class ImageStage:
    """Everything that a checkpoint keeps, and one training step."""

    def __init__(
        self,
        model: PhotoModel,
        photographs: Photographs,
        device: torch.device,
        settings: ImageStageSettings,
    ) -> None:
        self.photographs, self.device, self.settings = photographs, device, settings
        self.model = model.to(device).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        named = list(self.model.named_parameters())
        special = {"basis": BASIS_RATE, "log_gain": GAIN_RATE}
        groups = []
        for suffix, times in special.items():
            chosen = [p for n, p in named if n.endswith(suffix)]
            groups.append({"params": chosen, "times": times, "weight_decay": 0.0})
        rest = [p for n, p in named if not n.endswith(tuple(special))]
        groups.append({"params": rest, "times": 1.0, "weight_decay": 1e-3})
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.steps = 0
        # Threads with half a batch each meet once per step, not in every layer: on a busy machine
        # several times as fast as the layers' own threads.
        self.workers = min(torch.get_num_threads(), settings.batch) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self.workers) if self.workers > 1 else None
        self._half = fast_in_half(device)

    def autocast(self) -> torch.autocast:
        """bfloat16 where the device is fast at it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def step(self, fraction: float) -> dict[str, float]:
        """One step at this share of the stage; returns the numbers to log."""
        s = self.settings
        random = np.random.default_rng((s.seed, self.steps))
        source = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        x = self.photographs.batch(s.batch, random).to(
            self.device, memory_format=torch.channels_last
        )
        rate = rate_points(s.batch, random).to(self.device)
        cells = x.shape[2] // 16, x.shape[3] // 16
        noise = torch.rand(s.batch, self.model.shape.channels, *cells, generator=source) - 0.5
        noisy = torch.rand(s.batch, 1, 1, 1, generator=source) < 0.5
        noise, noisy = noise.to(self.device), noisy.to(self.device)
        parameters = list(self.model.parameters())
        parts = [
            slice(k * s.batch // self.workers, (k + 1) * s.batch // self.workers)
            for k in range(self.workers)
        ]

        function = prior_objective if self.steps < s.prior_steps else objective

        def work(part: slice) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor | None, ...]]:
            """Summed loss of some of the crops, their errors and bits, and the gradients."""
            if self.workers > 1:
                torch.set_num_threads(1)  # of this thread
            with self.autocast():
                error, bits = function(self.model, x[part], rate[part], noise[part], noisy[part])
            price = self.model.price(rate[part])
            losses = bits + error / price
            middle = self.model.price(torch.ones_like(price))
            loss = (losses * (price / middle) ** _BALANCE).sum() / s.batch
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            return loss.detach(), error.detach(), bits.detach(), found

        done = [work(parts[0])] if self._pool is None else list(self._pool.map(work, parts))
        loss = torch.stack([d[0] for d in done]).sum()
        error, bits = torch.cat([d[1] for d in done]), torch.cat([d[2] for d in done])
        for parameter, *found in zip(parameters, *(d[3] for d in done), strict=True):
            known = [g for g in found if g is not None]
            parameter.grad = sum(known[1:], known[0]) if known else None
        now = learning_rate(
            fraction, self.steps, s.rate, warmup=s.warmup, hold=s.hold, floor=s.floor
        )
        for group in self.optimiser.param_groups:
            group["lr"] = now * group["times"]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        # A step that overflowed is left out: one bad batch must not ruin a day's training.
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        self.steps += 1
        self._update_average()
        hats = anchor_weights(rate)
        values = {"loss": loss.item(), "norm": float(norm)}
        for k in range(hats.shape[1]):
            weight = hats[:, k]
            if float(weight.sum()) > 0.3:
                values[f"bpp{k}"] = float((weight * bits).sum() / weight.sum())
                mean = (weight * error).sum() / weight.sum()
                if float(mean) > 0.0:
                    values[f"psnr{k}"] = float(-10.0 * torch.log10(mean))
        return values

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(0.998, 1.0 - 1.0 / (self.steps + 10))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1.0 - keep)

    def save(self, folder: Path, spent: float, finished: bool) -> None:
        """Write a checkpoint."""
        tensors = (
            checkpoints.module_tensors("model", self.model)
            | checkpoints.module_tensors("average", self.average)
            | checkpoints.optimiser_tensors("moments", self.optimiser, self.model)
        )
        numbers = {
            "stage": "image",
            "step": self.steps,
            "seed": self.settings.seed,
            "spent": spent,
            "finished": finished,
            "shape": asdict(self.model.shape),
            "log_prices": self.model.log_prices,
        }
        checkpoints.save_checkpoint(folder, self.steps, tensors, numbers)

    def restore(self, path: Path) -> float:
        """Go on from a checkpoint; returns the seconds spent so far."""
        tensors, numbers = checkpoints.load_checkpoint(path)
        with checkpoints.resuming(path):
            if numbers["stage"] != "image":
                raise BadInput(f"{path} is of stage {numbers['stage']}")
            spent = float(numbers["spent"])
            self.steps = int(numbers["step"])
            prices = [float(v) for v in numbers["log_prices"]]
            if len(prices) != len(self.model.log_prices):
                raise ValueError(f"{len(prices)} prices")
        self.model.log_prices = self.average.log_prices = prices
        checkpoints.load_module("model", self.model, tensors)
        checkpoints.load_module("average", self.average, tensors)
        checkpoints.load_optimiser("moments", self.optimiser, self.model, tensors)
        return spent


def train_stage(stage: ImageStage, folder: Path, interruption: Interruption) -> bool:
    """Run to the end, from the newest checkpoint in `folder` if there is one.

    A training that had ended goes on when it is given more minutes or steps.

    Returns False when interrupted before the end; the checkpoint is written either way.
    """
    settings = stage.settings
    spent = 0.0
    newest = checkpoints.latest_checkpoint(folder)
    if newest is not None:
        spent = stage.restore(newest)
        cut_log(folder / "log.jsonl", stage.steps)
    budget = Budget(settings.minutes, settings.steps, spent)
    saved = time.monotonic()
    with Journal(folder, "image", settings.log_every) as journal, interruption:
        while True:
            fraction = budget.fraction(stage.steps)
            if fraction >= 1.0 or interruption.stops:
                break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                stage.save(folder, budget.elapsed(), finished=False)
                saved = time.monotonic()
            begun = time.monotonic()
            values = stage.step(fraction)
            speed = settings.batch / max(time.monotonic() - begun, 1e-9)
            journal.step(stage.steps, budget.elapsed() / 60, fraction, values, speed)
        journal.flush(stage.steps, budget.elapsed() / 60)
        stage.save(folder, budget.elapsed(), finished=fraction >= 1.0)
        journal.curves()
    return fraction >= 1.0
