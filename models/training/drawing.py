"""Stage three: the generator alone learns to draw what critics take for speech.

A generator that is trained to come close draws the mean of what may be there. Critics at several
resolutions see a frame beside what its latents say, and are matched map by map (Wang et al. 2018,
arXiv 1711.11585, equations 2 to 5, with the hinge loss). They hear it as a listener does: with the
texture that synthesis adds to noise (`codec.signal.texture`).

Encoder and prior are frozen, so that streams cost what they did. The weight of the critics is
steered until F is a little above that of the generator which the stage began with.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.entropy.speech_context import MAX_INDEX
from codec.signal import analysis, texture
from models.model import finite
from models.networks.discriminator import (
    Critics,
    discriminator_loss,
    generator_loss,
    matching_loss,
)
from models.networks.speech_distance import SCALE
from models.training import sliding
from models.training.disturbance import Disturbance
from models.training.frames import amplitudes, log_amplitudes, moved, rate_points
from models.training.log import Number
from models.training.loop import adamw
from models.training.speech import SpeechStage, StageInputs, compile_blocks, seeded

_CRITICS_RATE = 4e-4
_MATCHING = 10.0
_MOST = 1.03  # of the F that the stage began with
_WEIGHTS = (1e-4, 1.0)
_WEIGHT_GAIN = 0.01
_RISE = 500  # steps until the critics are heard in full
_RELAXED_HZ = 2000.0
_RELAXED = 0.5  # share of the squared error above that is of the envelope alone


class DrawingTask(SpeechStage):
    """Stage three."""

    name = "three"

    def __init__(self, inputs: StageInputs) -> None:
        """The model is what stage one or two made."""
        super().__init__(inputs)
        settings = inputs.settings
        self.given = inputs.model.to(self.device).eval().requires_grad_(False)
        self.model, self.average = copy.deepcopy(self.given), copy.deepcopy(self.given)
        self.model.generator.train().requires_grad_(True)
        if settings.compile:
            compile_blocks(self.given)
            compile_blocks(self.model)
        torch.manual_seed(settings.seed)  # the same critics in every process
        self.critics = Critics(planes=4).to(self.device).requires_grad_(False)
        self._ears = Ears(self.device)
        self.log_weight = torch.tensor(
            math.log(max(settings.adversarial, _WEIGHTS[0])), device=self.device
        )
        self.modules = {"model": self.model, "average": self.average, "critics": self.critics}
        generator = self.model.generator
        optimiser = adamw(
            generator.parameters(), settings.rate, (0.8, 0.99), decay=0.0, device=self.device
        )
        critics_optimiser = adamw(
            self.critics.parameters(), _CRITICS_RATE, (0.5, 0.9), decay=0.0, device=self.device
        )
        self.optimisers = {
            "moments": (optimiser, generator),
            "critics_moments": (critics_optimiser, self.critics),
        }

    def step(self, fraction: float) -> dict[str, Number]:
        s, device = self.settings, self.device
        random = np.random.default_rng((s.seed, self.team.rank, 2, self.steps))
        fields = seeded(random, device)
        x = self._disturb(self.source.batch(s.batch, random), s.disturbed, random, fields)
        rate = moved(rate_points(s.batch, random), device)
        whole = s.batch - round(s.sliding * s.batch) or s.batch
        pieces = [(slice(whole), self.model.shape.steps)]
        if whole < s.batch:
            pieces.append((slice(whole, None), sliding.BLOCKS[self.steps % len(sliding.BLOCKS)]))
        with self.autocast():
            with torch.no_grad():
                q = torch.cat([
                    sliding.encode(self.given, x[part], rate[part], block)
                    for part, block in pieces
                ]).round().clamp(-MAX_INDEX, MAX_INDEX)  # fmt: skip
                before = sliding.generate(self.given, q[:whole], rate[:whole], pieces[0][1])
                said = self.given.generator.linear(q, rate)
            y = torch.cat([
                sliding.generate(self.model, q[part], rate[part], block) for part, block in pieces
            ])  # fmt: skip
        distance = self.distance(x, y)
        loss = (distance + self._ears.relief(x, y)).mean()
        real = self._ears.planes(x, said, rate)
        drawn = self._ears.planes(self._ears.heard(y, self._disturb, fields), said, rate)
        with self.autocast():
            maps = self.critics(drawn)
            with torch.no_grad():
                real_maps = self.critics(real)
            adversarial = torch.stack([generator_loss(each[-1]) for each in maps]).mean()
            matching = matching_loss(real_maps, maps)
        weight = min(1.0, (self.steps + 1) / _RISE) * self.log_weight.exp()
        now = self.learning_rate(fraction)
        total = loss + weight * (adversarial + _MATCHING * matching)
        norm = self._learn("moments", now, total)
        self.critics.requires_grad_(True)
        with self.autocast():
            scores = [each[-1] for each in self.critics(torch.cat((real, drawn.detach())))]
            judged = torch.stack([discriminator_loss(*each.chunk(2)) for each in scores]).mean()
        self._learn("critics_moments", _CRITICS_RATE, judged)
        self.critics.requires_grad_(False)
        with torch.no_grad():
            sums = torch.stack((
                distance[:whole].sum(), self.distance(x[:whole], before).sum()
            ))  # fmt: skip
            mine, given = self.team.sum(sums)
            ratio = mine / given
            up = ((_MOST - ratio) / (_MOST - 1.0)).clamp(-3.0, 1.0)
            least, most = map(math.log, _WEIGHTS)
            self.log_weight = (self.log_weight + _WEIGHT_GAIN * up).clamp(least, most)
        self.update_average(self.model, self.steps, s.averaging)
        self.steps += 1
        return {
            "loss": loss.detach(), "distance": distance.detach().mean(), "ratio": ratio,
            "generator_loss": adversarial.detach(), "matching": matching.detach(),
            "discriminator": judged.detach(), "weight": weight, "gradient": norm,
            "learning_rate": now,
        }  # fmt: skip

    def _learn(self, name: str, rate: float, loss: Tensor) -> Tensor:
        """`descend` with gradients averaged over the team."""
        optimiser, module = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward()
        if self.team.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    self.team.sum(parameter.grad).div_(self.team.size)
        return self.descend(name, rate)

    def numbers(self) -> dict[str, Any]:
        return super().numbers() | {"log_weight": float(self.log_weight)}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        (weight,) = finite([numbers["log_weight"]], 1)
        self.log_weight = torch.tensor(weight, device=self.device)


class Ears:
    """How critics get to hear frames, on a device."""

    def __init__(self, device: torch.device) -> None:
        import librosa  # takes a second to import

        hertz = librosa.mel_frequencies(analysis.N_MELS + 2, fmin=0.0, fmax=8000.0)[1:-1]
        unvoiced, voiced = (
            texture.POWER * np.clip((hertz - begin) / (whole - begin), 0.0, 1.0)
            for begin, whole in (texture.UNVOICED_HZ, texture.VOICED_HZ)
        )
        self._unvoiced, self._voiced = (moved(e, device).float() for e in (unvoiced, voiced))
        self._relaxed = moved(_RELAXED * (hertz > _RELAXED_HZ), device).float()
        self._place = moved(np.linspace(-1.0, 1.0, analysis.N_MELS), device).float()

    def heard(self, y: Tensor, disturb: Disturbance, fields: torch.Generator) -> Tensor:
        """Frames y [B, T, M] with the texture of synthesis."""
        with torch.no_grad():
            voiced = voicing(y)[..., None]
            exponent = self._unvoiced + voiced * (self._voiced - self._unvoiced)
            factor = disturb.fluctuations(y.shape, fields)[0] ** exponent
        return log_amplitudes(amplitudes(y.clamp(-1.0, 1.0)) * factor)

    def planes(self, x: Tensor, said: Tensor, rate: Tensor) -> Tensor:
        """Frames x [B, T, M] beside what their latents say, rate points and bands: [B, 4, T, M]."""
        condition = (rate - 1.0)[:, None, None].expand_as(x)
        spread = [3.0 * part + 1.0 for part in (x, said)]  # of about mean 0 and variance 1
        return torch.stack((*spread, condition, self._place.expand_as(x)), dim=1)

    def relief(self, x: Tensor, y: Tensor) -> Tensor:
        """What makes F that of the envelope above 2 kHz, to be added: [B].

        There errors count, by half, as far as they last over three bands and three hops.
        """
        error = y - x
        smooth = F.avg_pool2d(error[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        return SCALE * (self._relaxed * (smooth.square() - error.square())).mean((1, 2))


def voicing(y: Tensor) -> Tensor:
    """`codec.signal.texture.voicing` of log-mel frames [B, T, M]: [B, T]."""
    low = y[..., texture.LOW]
    tilt = low.amax(-1) - y[..., texture.HIGH].median(-1).values
    half = texture.SMOOTH // 2
    smooth = F.avg_pool1d(F.pad(low, (half, half), "replicate"), texture.SMOOTH, 1)
    spread = (low - smooth).square().mean(-1).sqrt()
    evidence = texture.DB * (tilt / texture.TILT_DB + spread / texture.DETAIL_DB)
    return torch.sigmoid((evidence - texture.EVEN) / texture.SLOPE)
