"""Training of GANZ: a linear start, an auto-encoder phase, then BEGAN (Berthelot et al. 2017).

1. Start: the linear synthesis of both networks is a lapped transform of the principal colours.
2. Auto-encoder: the convolutional module learns to reconstruct photographs from the features that a
   random first layer of random ratio passes. The discriminator's decoder starts from this module.
3. BEGAN, with latents uniform in [-1, 1]; L(x) is the mean absolute error of the discriminator:

       L_D = L(x) - k L(G(z)),  L_G = L(G(z)),  k <- k + λ (γ L(x) - L(G(z)))

   The first layer starts as the discriminator's: k leaves 0 only when L(G(z)) < γ L(x), and random
   features would be as hard for the discriminator as photographs. λ is far larger than in the
   paper, since the phase has only hundreds of steps. The generator keeps the loss of phase two, so
   that it can still reconstruct what the trained latents do not span.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.errors import BadInput
from codec.image.settings import Places
from models.networks.first_layer import (
    GRID,
    DenseFirstLayer,
    as_entries,
    as_grid,
    as_spectrum,
    from_entries,
    per_number,
)
from models.networks.ganz import PIXELS, Discriminator, GanzShape, Generator, Lapped
from models.training import checkpoints
from models.training.distributed import alone
from models.training.linear_start import lapped_channels
from models.training.log import Number
from models.training.loop import LoopSettings, Task, learning_rate, parameter_groups
from models.training.photographs import Photographs

_DENSE_RATIOS = 7
_HELD_OUT_RATIOS = 6, 10, 24, 96
_LOGARITHM = 0.05  # makes the loss of phase two about as steep as the discriminator's error


@dataclass(frozen=True)
class GanzSettings(LoopSettings):
    """How the training runs.

    share: of the length, for the auto-encoder phase; rate, began_rate: peak learning rates of the
    two phases; balance: γ; gain: λ of k; drawing: weight of the auto-encoder's loss in BEGAN;
    places: what the random first layers reach, of "fixed", "chosen" and "dense"; skew: the ratios'
    logarithms are distributed as 1 - u^skew, u uniform, between those of the largest and the
    smallest ratio.
    """

    batch: int = 8
    share: float = 0.85
    rate: float = 2e-3
    began_rate: float = 2e-4
    balance: float = 0.5
    gain: float = 0.1
    drawing: float = 1.0
    start_crops: int = 256
    log_every: int = 20
    places: tuple[Places, ...] = ("chosen", "fixed")
    skew: float = 0.6
    shape: GanzShape = field(default_factory=GanzShape)


class GanzTask(Task):
    """Generator and discriminator under training, on the CPU unless another device is given."""

    name = "ganz"
    settings: GanzSettings
    average: Generator

    def __init__(
        self, photographs: Photographs, settings: GanzSettings, device: torch.device | None = None
    ) -> None:
        super().__init__(alone(device or torch.device("cpu")))
        torch.manual_seed(settings.seed)
        self.photographs, self.settings = photographs, settings
        self.generator = Generator(settings.shape)
        self.discriminator = Discriminator(settings.shape)
        self.average = copy.deepcopy(self.generator)
        self.analysis = Lapped(settings.shape.channels).requires_grad_(False)
        self.scales = torch.ones(settings.shape.features, device=self.device)
        self.k, self.began = 0.0, False
        # The inverse of a dense layer takes seconds to make ready.
        self._dense_layer = functools.lru_cache(_DENSE_RATIOS + 1)(self._new_dense_layer)
        for part in (self.generator, self.discriminator, self.average):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = {
            "generator": self.generator, "discriminator": self.discriminator,
            "average": self.average, "analysis": self.analysis,
        }  # fmt: skip
        for module in self.modules.values():
            module.to(self.device)
        self.amount = settings.batch
        self._new_optimisers()

    def _new_optimisers(self) -> None:
        s = self.settings
        betas = (0.5, 0.98) if self.began else (0.9, 0.98)

        def adam(module: nn.Module, rate: float) -> torch.optim.Optimizer:
            # The transform is already right, and at low ratios any noise of it would show.
            return torch.optim.Adam(parameter_groups(module, {"basis": 0.02}), lr=rate, betas=betas)

        self.optimisers = {
            "optimiser": (adam(self.generator, s.rate), self.generator),
            "judge": (adam(self.discriminator, s.began_rate), self.discriminator),
        }

    def start(self) -> None:
        """Begin at the lapped transform, with the statistics of the photographs' features."""
        s = self.settings
        random = np.random.default_rng((s.seed, 1 << 20))
        x = self.photographs.batch(s.start_crops, random)
        shape = s.shape
        self._lapped_start(x)
        x = x.to(self.device)
        spectrum = as_spectrum(self.features(x)[:, : shape.widths[0]])
        mean = torch.zeros(shape.features, device=self.device)
        # Only the lowest frequency of the grid has a mean; the others' means are noise.
        mean[:: GRID * GRID] = spectrum.mean(0)[:: GRID * GRID]
        self.scales = (spectrum - mean).square().mean(0).sqrt().clamp_min(1e-3)
        with torch.no_grad():
            self._discriminator_start(mean)
            first = self.generator.first
            # Latents uniform in [-1, 1] have the variance 1/3, the discriminator's numbers 1.
            first.weight.copy_(self.discriminator.first.weight * math.sqrt(3.0))
            first.mean.copy_(mean)
        self.average.load_state_dict(self.generator.state_dict())

    @torch.no_grad()
    def _lapped_start(self, x: Tensor) -> None:
        body, discriminator = self.generator.body, self.discriminator
        channels = lapped_channels(x, len(body.spread))
        for module in (body, discriminator.decoder):
            module.spread.copy_(channels.spread)
        for lapped in (
            body.linear, discriminator.decoder.linear, discriminator.analysis, self.analysis
        ):  # fmt: skip
            count = len(lapped.basis)
            lapped.basis.copy_(channels.bases[:count])
            lapped.signs.copy_(channels.signs[:, :count])

    def _discriminator_start(self, mean: Tensor) -> None:
        """Set the code to the features that vary most."""
        shape = self.settings.shape
        spread = per_number(self.generator.body.spread[: shape.widths[0]])
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
        """h0 and details of pictures [B, 3, 128, 128] by the linear analysis: [B, c, 8, 8]."""
        spread = self.generator.body.spread[:, None, None]
        features: Tensor = self.analysis.transposed(x - 0.5) / spread
        return features

    @torch.no_grad()
    def passed_on(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """h0 of pictures, as far as a random first layer of random ratio passes it.

        [B, n, 8, 8], or with details, which only chosen places reach.
        """
        least, most = self.settings.shape.random_latents
        share = random.uniform(0.0, 1.0) ** self.settings.skew
        places = self.settings.places[int(random.random() * len(self.settings.places))]
        if places == "dense":
            share = round(_DENSE_RATIOS * share) / _DENSE_RATIOS
        return self.passed_by(x, round(least * (most / least) ** share), places)

    @torch.no_grad()
    def passed_by(self, x: Tensor, latents: int, places: Places) -> Tensor:
        """`passed_on` by the first layer of so many latents that reach `places`."""
        mean, spread = self.generator.first.mean.detach(), self.generator.body.spread
        h, count = self.features(x), self.settings.shape.widths[0]
        moved = as_spectrum(h[:, :count]) - mean
        if places == "dense":
            layer = self._dense_layer(latents)
            passed: Tensor = as_grid(mean[None]) + layer(layer.inverse(as_grid(moved)))
            return passed
        # These layers are orthogonal: they pass the entries that they reach unchanged.
        if places == "chosen":
            middle = as_grid(mean[None])
            entries = as_entries(torch.cat((h[:, :count] - middle, h[:, count:]), 1))
            passed = from_entries(_largest(entries, entries * per_number(spread), latents))
            return torch.cat((passed[:, :count] + middle, passed[:, count:]), 1)
        weights = (self.scales * per_number(spread[:count])).expand(len(x), -1)
        return as_grid(mean + _largest(moved, weights, latents))

    def _new_dense_layer(self, latents: int) -> DenseFirstLayer:
        """A dense layer around 0."""
        mean = torch.zeros_like(self.scales)
        spread = self.generator.body.spread[: self.settings.shape.widths[0]]
        layer = DenseFirstLayer(latents, self.scales, mean, spread)
        return layer.to(self.device)

    def step(self, fraction: float) -> Mapping[str, Number]:
        s = self.settings
        random = np.random.default_rng((s.seed, self.steps))
        if fraction >= s.share and not self.began:
            self.begin_began()
        x = self.photographs.batch(s.batch, random).to(self.device)
        h = self.passed_on(x, random)
        if self.began:
            values = self._began_step(x, h, (fraction - s.share) / (1.0 - s.share))
        else:
            values = self._drawing_step(x, h, fraction / s.share)
        self.steps += 1
        self.update_average(self.generator, self.steps, 0.995)
        return values

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """PSNR of held-out crops from their largest entries, at some ratios, with and without the
        convolutions."""
        x = self.photographs.held_out().to(self.device)
        if not len(x):
            return {}
        body, found = self.average.body, {}
        for ratio in _HELD_OUT_RATIOS:
            latents = min(PIXELS // ratio, self.settings.shape.most_latents)
            h = self.passed_by(x, latents, self.settings.places[0])
            found[f"held_out_{ratio}"] = _drawing_loss(x, body(h))[1]
            found[f"linear_{ratio}"] = _drawing_loss(x, body.draw(h))[1]
        return found

    def begin_began(self) -> None:
        """Enter phase three: both decoders are the averaged convolutional module."""
        self.began = True
        self.generator.load_state_dict(self.average.state_dict())
        self.discriminator.decoder.load_state_dict(self.average.body.state_dict())
        self._new_optimisers()

    def _drawing_step(self, x: Tensor, h: Tensor, progress: float) -> dict[str, Number]:
        rate = learning_rate(progress, self.steps, self.settings.rate)
        with self.autocast():
            y = self.generator.body(h)
        loss, score = _drawing_loss(x, y)
        norm = self.descend("optimiser", rate, loss)
        return {"loss": float(loss.detach()), "psnr": score, "norm": norm, "rate": rate}

    def _began_step(self, x: Tensor, h: Tensor, progress: float) -> dict[str, Number]:
        s = self.settings
        rate = s.began_rate * (1.0 - 0.9 * max(0.0, 2.0 * progress - 1.0))
        z = 2.0 * torch.rand(len(x), s.shape.latents, device=self.device) - 1.0
        with self.autocast():
            fake = self.generator(z)
            both = self.discriminator.error(torch.cat((x, fake.detach())))
        real_error, fake_error = both[: len(x)].mean(), both[len(x) :].mean()
        discriminator_loss = real_error - self.k * fake_error
        self.descend("judge", rate, discriminator_loss)
        self.discriminator.requires_grad_(False)
        with self.autocast():
            drawn = self.generator.body(h)
            error = self.discriminator.error(fake).mean()
        loss, score = _drawing_loss(x, drawn)
        norm = self.descend("optimiser", rate, error + s.drawing * loss)
        self.discriminator.requires_grad_(True)
        real, found = float(real_error.detach()), float(error.detach())
        difference = s.balance * real - found
        self.k = min(max(self.k + s.gain * difference, 0.0), 1.0)
        return {
            "loss": float(loss.detach()), "psnr": score, "norm": norm, "rate": rate, "real": real,
            "fake": found, "k": self.k, "convergence": real + abs(difference),
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {"stage": self.name}

    def numbers(self) -> dict[str, Any]:
        return {"k": self.k, "began": self.began}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on in the phase of a checkpoint, with its scales."""
        self.k, self.began = float(numbers["k"]), bool(numbers["began"])
        if tensors["scales"].shape != self.scales.shape:
            raise BadInput(f"the checkpoint is of other networks: {len(tensors['scales'])} scales")
        self.scales = tensors["scales"].to(self.device)
        self._new_optimisers()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"scales": self.scales}


def _largest(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Values [B, n] where their weights are the `count` largest of a row, and 0 elsewhere."""
    where = weights.abs().topk(count, dim=1).indices
    return torch.zeros_like(values).scatter(1, where, values.gather(1, where))


def _drawing_loss(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The mean logarithm of the squared error, and the mean PSNR in dB.

    The logarithm weights all ratios and pictures alike.
    """
    error = (y - x).square().mean((1, 2, 3)) + 1e-6
    return _LOGARITHM * error.log().mean(), float(-10.0 * torch.log10(error.detach()).mean())


def trained_generator(folder: Path, shape: GanzShape) -> tuple[Generator, Tensor]:
    """The averaged generator of the newest checkpoint, and the standard deviations of photographs'
    features (the DCT of h0). Raises BadInput if there is none."""
    path, tensors, _ = checkpoints.newest_checkpoint(folder)
    generator = Generator(shape)
    checkpoints.load_module("average", generator, tensors)
    with checkpoints.resuming(path):
        scales = tensors["scales"]
    return generator.requires_grad_(False).eval(), scales
