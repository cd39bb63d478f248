"""Training of the image networks: rate and distortion of rounded latents, at all rates at once.

The loss is bits per pixel + MSE / price, each crop at its own rate point. The generator sees
rounded latents (straight-through gradient); bits are counted for latents with uniform noise in half
of the crops, for rounded ones in the others (Ballé et al. 2017; Minnen & Singh 2020).
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.folder import load_photo_model, model_folder
from models.model import finite, sizes
from models.networks.photo import PhotoModel, PhotoShape, anchor_weights
from models.training import checkpoints
from models.training.distributed import alone
from models.training.linear_start import start_image
from models.training.loop import LoopSettings, Task, learning_rate, parameter_groups
from models.training.objectives import image_objective, prior_objective
from models.training.photographs import Photographs

# Learning rates relative to the peak: the transform starts near its optimum, gains do not.
_BASIS_RATE = 0.05
_GAIN_RATE = 3.0
_BALANCE = 0.4  # losses grow roughly with this power of λ
_START_CROPS = 96


@dataclass(frozen=True)
class ImageSettings(LoopSettings):
    """How the training runs. `rate` is the peak learning rate.

    prior_steps: the first steps, of the prior alone, which are many times as fast; none are needed
    where the networks are trained already.
    """

    batch: int = 6
    prior_steps: int = 200
    rate: float = 1e-3
    hold: float = 0.4
    floor: float = 0.02
    warmup: int = 100
    log_every: int = 20


def rate_points(count: int, random: np.random.Generator) -> Tensor:
    """Rate points [count], spread over the range, mostly in its lower three quarters."""
    spread = (np.arange(count) + random.uniform(size=count)) / count
    random.shuffle(spread)
    rates = np.where(spread < 0.85, spread / 0.85 * 2.3, 2.3 + (spread - 0.85) / 0.15 * 0.7)
    return torch.from_numpy(rates).float()


class ImageTask(Task):
    """Networks under training, which begin from a linear start or from a checkpoint."""

    name = "image"
    settings: ImageSettings
    average: PhotoModel

    def __init__(
        self,
        model: PhotoModel,
        photographs: Photographs,
        device: torch.device,
        settings: ImageSettings,
    ) -> None:
        super().__init__(alone(device))
        self.photographs, self.settings = photographs, settings
        self.model = model.to(device).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = parameter_groups(
            self.model, {"basis": _BASIS_RATE, "log_gain": _GAIN_RATE}, weight_decay=0.0
        )
        optimiser = torch.optim.AdamW(
            groups, lr=settings.rate, betas=(0.9, 0.98), weight_decay=1e-3
        )
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.modules = {"model": self.model, "average": self.average}
        self.optimisers = {"moments": (optimiser, self.model)}
        self.amount = settings.batch
        # Threads that split the batch synchronise once per step, not in every layer, which is
        # several times as fast on a busy machine.
        self._workers = min(torch.get_num_threads(), settings.batch) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._workers) if self._workers > 1 else None

    def step(self, fraction: float) -> dict[str, float]:
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
            slice(k * s.batch // self._workers, (k + 1) * s.batch // self._workers)
            for k in range(self._workers)
        ]
        objective = prior_objective if self.steps < s.prior_steps else image_objective

        def work(part: slice) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor | None, ...]]:
            """Summed loss of some of the crops, their errors and bits, and the gradients."""
            if self._workers > 1:
                torch.set_num_threads(1)  # of this thread
            with self.autocast():
                error, bits = objective(self.model, x[part], rate[part], noise[part], noisy[part])
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
        norm = self.descend("moments", now)
        self.steps += 1
        self.update_average(self.model, self.steps, 0.998)
        hats = anchor_weights(rate)
        values = {"loss": loss.item(), "norm": norm}
        for k in range(hats.shape[1]):
            weight = hats[:, k]
            if float(weight.sum()) > 0.3:
                values[f"bpp{k}"] = float((weight * bits).sum() / weight.sum())
                mean = (weight * error).sum() / weight.sum()
                if float(mean) > 0.0:
                    values[f"psnr{k}"] = float(-10.0 * torch.log10(mean))
        return values

    def identity(self) -> dict[str, Any]:
        return {"stage": self.name}

    def numbers(self) -> dict[str, Any]:
        return {
            "seed": self.settings.seed,
            "shape": asdict(self.model.shape),
            "log_prices": self.model.log_prices,
        }

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        prices = finite(numbers["log_prices"], len(self.model.log_prices))
        self.model.log_prices = self.average.log_prices = prices


def initial_networks(
    folder: Path, photographs: Photographs, seed: int, start: Path | None = None
) -> PhotoModel:
    """Networks of the newest checkpoint's sizes; else those of the model `start`, a folder or the
    name of a shipped one; else new ones that start at the lapped transform.

    Raises BadInput if there is no such model.
    """
    newest = checkpoints.latest_checkpoint(folder)
    if newest is not None:
        return _sized(checkpoints.load_checkpoint(newest)[1], newest)
    if start is not None:
        return load_photo_model("photo", model_folder(start)).networks()
    torch.manual_seed(seed)
    model = PhotoModel(PhotoShape())
    start_image(model, photographs.batch(_START_CROPS, np.random.default_rng((seed, 1 << 20))))
    return model


def trained_networks(folder: Path) -> PhotoModel:
    """The averaged networks of the newest checkpoint. Raises BadInput if there is none."""
    path, tensors, numbers = checkpoints.newest_checkpoint(folder)
    model = _sized(numbers, path)
    with checkpoints.resuming(path):
        model.log_prices = finite(numbers["log_prices"], len(model.log_prices))
    checkpoints.load_module("average", model, tensors)
    return model.eval()


def _sized(numbers: dict[str, Any], path: Path) -> PhotoModel:
    with checkpoints.resuming(path):
        return PhotoModel(PhotoShape(**sizes(numbers)))
