"""Training of the image networks: rate and distortion of rounded latents, at all rates at once.

The loss is bits per pixel + MSE / price, each crop at its own rate point. The generator sees
rounded latents (straight-through gradient); bits are counted for latents with uniform noise in half
of the crops, for rounded ones in the others (Ballé et al. 2017; Minnen & Singh 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.entropy.image_context import ANCHORS
from models.folder import load_photo_model, model_folder
from models.networks.photo import PhotoModel, PhotoShape, anchor_weights
from models.stored import finite, sizes
from models.training import checkpoints
from models.training.distributed import alone
from models.training.linear_start import start_image
from models.training.log import Number
from models.training.loop import LoopSettings, Task, adamw, learning_rate, parameter_groups
from models.training.objectives import image_objective, prior_objective
from models.training.photographs import Photographs, StoredPhotographs, sent

# Learning rates relative to the peak: the transform starts near its optimum, gains do not.
_BASIS_RATE = 0.05
_GAIN_RATE = 3.0
_BALANCE = 0.4  # losses grow roughly with this power of λ
_START_CROPS = 96
_LONGEST_AVERAGE = 0.999
# Rate points that held-out crops are coded at, and bits per pixel that their PSNR is told at.
_HELD_OUT_RATES = tuple(0.5 * k for k in range(2 * ANCHORS - 1))
_HELD_OUT_BPP = (0.1, 0.3, 0.8)
_AT_ONCE = 8


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
    compile: bool = False


def rate_points(count: int, random: np.random.Generator) -> Tensor:
    """Rate points [count], spread over the range, mostly where photographs take 0.1 to 0.8 bpp."""
    spread = (np.arange(count) + random.uniform(size=count)) / count
    random.shuffle(spread)
    rates = np.interp(spread, (0.0, 0.12, 0.85, 1.0), (0.0, 0.6, 2.3, ANCHORS - 1))
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
        self.settings = settings
        on_cpu = device.type == "cpu"
        self.photographs = photographs if on_cpu else StoredPhotographs(photographs, device)
        self._held_out = photographs.held_out()
        self.model = model.to(device).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = parameter_groups(
            self.model, {"basis": _BASIS_RATE, "log_gain": _GAIN_RATE}, weight_decay=0.0
        )
        optimiser = adamw(groups, settings.rate, (0.9, 0.98), decay=1e-3, device=device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.modules = {"model": self.model, "average": self.average}
        self.optimisers = {"moments": (optimiser, self.model)}
        self.amount = settings.batch
        self._objective = torch.compile(image_objective) if settings.compile else image_objective
        # Threads that split the batch synchronise once per step, not in every layer, which is
        # several times as fast on a busy machine.
        threads = torch.get_num_threads() if on_cpu and not settings.compile else 1
        self._workers = min(threads, settings.batch)
        self._pool = ThreadPoolExecutor(self._workers) if self._workers > 1 else None

    def step(self, fraction: float) -> Mapping[str, Number]:
        s, device = self.settings, self.device
        random = np.random.default_rng((s.seed, self.steps))
        source = torch.Generator(device).manual_seed(int(random.integers(1 << 62)))
        x = self.photographs.batch(s.batch, random).to(device, memory_format=torch.channels_last)
        # What is known of the rate points beforehand is sent at once.
        rate = rate_points(s.batch, random)
        price = self.model.price(rate)
        balance = (price / self.model.price(torch.ones_like(rate))) ** _BALANCE / s.batch
        hats = anchor_weights(rate)
        told = hats.sum(0) > 0.3
        known = torch.cat((torch.stack((rate, 1.0 / price, balance), 1), hats / hats.sum(0)), 1)
        known = sent(known.numpy(), device)
        rate, worth, balance = known[:, :3].unbind(1)
        cells = x.shape[2] // 16, x.shape[3] // 16
        shape = s.batch, self.model.shape.channels, *cells
        noise = torch.rand(shape, generator=source, device=device) - 0.5
        noisy = torch.rand(s.batch, 1, 1, 1, generator=source, device=device) < 0.5
        objective = prior_objective if self.steps < s.prior_steps else self._objective
        now = learning_rate(
            fraction, self.steps, s.rate, warmup=s.warmup, hold=s.hold, floor=s.floor
        )

        def measure(part: slice) -> tuple[Tensor, Tensor]:
            """Summed loss of some of the crops, their bits and errors [N, 2]."""
            with self.autocast():
                error, bits = objective(self.model, x[part], rate[part], noise[part], noisy[part])
            loss = ((bits + error * worth[part]) * balance[part]).sum()
            return loss, torch.stack((bits, error), 1).detach()

        if self._pool is None:
            loss, measured = measure(slice(None))
            norm = self.descend("moments", now, loss)
        else:
            loss, measured = self._shared_out(self._pool, measure)
            norm = self.descend("moments", now)
        self.steps += 1
        self.update_average(self.model, self.steps, _LONGEST_AVERAGE)
        # Of each rate anchor, where the batch has some of it.
        means = known[:, 3:].T @ measured
        values: dict[str, Number] = {"loss": loss.detach(), "norm": norm, "learning_rate": now}
        for k in np.flatnonzero(told.numpy()):
            values |= {f"bpp{k}": means[k, 0], f"psnr{k}": -10.0 * torch.log10(means[k, 1])}
        return values

    def _shared_out(
        self, pool: ThreadPoolExecutor, measure: Callable[[slice], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """`measure` of the batch, a part in each thread, and the gradients of the whole."""
        parameters = list(self.model.parameters())
        count, batch = self._workers, self.settings.batch

        def work(part: slice) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
            torch.set_num_threads(1)  # of this thread
            loss, measured = measure(part)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            return loss.detach(), measured, found

        parts = [slice(k * batch // count, (k + 1) * batch // count) for k in range(count)]
        losses, measured, gradients = zip(*pool.map(work, parts), strict=True)
        for parameter, *found in zip(parameters, *gradients, strict=True):
            known = [g for g in found if g is not None]
            parameter.grad = sum(known[1:], known[0]) if known else None
        return torch.stack(losses).sum(), torch.cat(measured)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Bits per pixel and PSNR of held-out crops without search, means at a few rate points.

        From them the PSNR at given bits per pixel, which compares networks of different prices.
        """
        none = torch.zeros(1, 1, 1, 1, device=self.device)
        bpp, psnr = [], []
        for number in _HELD_OUT_RATES if len(self._held_out) else ():
            parts = []
            for part in self._held_out.split(_AT_ONCE):
                x = part.to(self.device, memory_format=torch.channels_last)
                rate = torch.full((len(x),), number, device=self.device)
                with self.autocast():
                    error, bits = image_objective(self.average, x, rate, none, none > 0.0)
                parts.append(torch.stack((bits, -10.0 * torch.log10(error))))
            means = torch.cat(parts, 1).mean(1)
            bpp.append(float(means[0]))
            psnr.append(float(means[1]))
        figures: dict[str, float] = {}
        for number, *pair in zip(_HELD_OUT_RATES, bpp, psnr, strict=False):
            figures |= {f"held_out_bpp_{number:g}": pair[0], f"held_out_psnr_{number:g}": pair[1]}
        for wanted in _HELD_OUT_BPP:
            if bpp and bpp[0] <= wanted <= bpp[-1]:
                at = np.interp(np.log(wanted), np.log(bpp), psnr)
                figures[f"held_out_psnr_at_{wanted:g}_bpp"] = float(at)
        return figures

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
