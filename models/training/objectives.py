"""Training objectives: distance + price * bits.

Speech: stage one codes the encoder's rounded latents (straight-through). The prior learns from the
integers that are coded; the encoder is trained on the bits of latents with uniform noise in place
of rounding (Ballé et al. 2017), which are smooth. Stage two codes searched latents in half of the
frames, as the decoder will see them; the other half is trained as in stage one, so that the encoder
stays a good start for the search. The last frames of a batch may be coded as the sliding frame of a
call is (`models.training.sliding`).

Images: distance and bits of rounded latents, at all rates at once; in half of the crops the bits
are those of noisy latents (Minnen & Singh 2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.entropy.image_context import MAX_INDEX as MAX_IMAGE_INDEX
from codec.entropy.logistic import logistic_bits
from codec.entropy.speech_context import MAX_INDEX
from models.networks.common import SignalDistance
from models.networks.features import FeatureDistance
from models.networks.photo import PhotoModel
from models.networks.speech import SpeechModel, anchor_weights
from models.networks.speech_distance import FrameDistance
from models.training import sliding

TARGET_BITS = (1000.0, 1750.0, 3150.0)  # per frame at the rate anchors
START_PRICES = (7e-4, 3.5e-4, 1.3e-4)
_PRICE_GAIN = 0.02
_NOISE_WIDTH = 1.5  # quantisation steps
_EARLY_DEAD_ZONE = 0.15
_PULL = 3.0  # weight of the pull on the encoder towards searched latents, in units of the price


class Objective(nn.Module):
    """The networks under training behind one `forward`, so that several processes can train it."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        x: Tensor,
        rate: Tensor,
        noise: Tensor,
        searched: Tensor | None,
        slid: int = 0,
        block: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded frames [B, T, M], bits [B] and pull [B] (0 where nothing was searched).

        x: [B, T, M]; noise: [B, S, C], which replaces rounding when bits are counted; searched:
        [n, S, C] quantised latents of the first n frames (stage two), or None; slid: how many of
        the last frames are coded in blocks of `block` latent steps, the others being whole.
        """
        whole = len(x) - slid
        parts = []
        if whole:
            steps = self.model.shape.steps
            parts.append(self._coded(x[:whole], rate[:whole], noise[:whole], searched, steps))
        if slid:
            parts.append(self._coded(x[whole:], rate[whole:], noise[whole:], None, block))
        y, bits, pull = (torch.cat(values) for values in zip(*parts, strict=True))
        return y, bits, pull

    def _coded(
        self, x: Tensor, rate: Tensor, noise: Tensor, searched: Tensor | None, block: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same of frames that are all coded in blocks of so many steps."""
        m = self.model
        z = sliding.encode(m, x, rate, block).clamp(-MAX_INDEX, MAX_INDEX)
        coded = z + (z.round() - z).detach()
        pull = torch.zeros_like(rate)
        found = 0
        if searched is not None:
            found = len(searched)
            # Latents that round to what the search found are right already.
            wrong = ((z[:found] - searched).abs() - 0.5).clamp_min(0.0)
            pull = torch.cat((_PULL * wrong.square().sum((1, 2)), pull[found:]))
            coded = torch.cat((searched, coded[found:]))
        y = sliding.generate(m, coded, rate, block)
        location, log_scale = sliding.predict(m, coded, rate, block)
        bits = logistic_bits(coded.detach(), location, log_scale).sum((1, 2))
        expected = (part.detach()[found:] for part in (location, log_scale))
        relaxed = logistic_bits((z + noise)[found:], *expected).sum((1, 2))
        # The value is that of the coded latents, the gradient that of the relaxed ones.
        return y, torch.cat((bits[:found], bits[found:] + relaxed - relaxed.detach())), pull


class SpeechDistance(SignalDistance):
    """The training's distance F: loudness, log magnitude, and the feature network's maps."""

    def __init__(self, features: FeatureDistance | None, feature_weight: float) -> None:
        super().__init__()
        self.frames = FrameDistance()
        self.features = features if feature_weight > 0 else None
        self.feature_weight = feature_weight

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The part of F that depends on the target alone."""
        with torch.autocast(x.device.type, enabled=False):
            reference: tuple[Tensor, ...] = self.frames.reference(x)
        return reference if self.features is None else reference + self.features.reference(x)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F between decoded frames y [B, T, M] and a `reference`: [B]."""
        # Powers span more decades than bfloat16 resolves.
        with torch.autocast(y.device.type, enabled=False):
            distance = self.frames.against(reference[:4], y.float())
        if self.features is None:
            return distance
        return distance + self.feature_weight * self.features.against(reference[4:], y)


class Prices:
    """log λ at the rate anchors, adjusted until the mean bits there meet their targets."""

    def __init__(self, scale: float = 1.0) -> None:
        """scale: share of the shipped model's bit targets, for smaller networks."""
        self.log_targets = torch.log(torch.tensor(TARGET_BITS) * scale)
        self.log_prices = torch.log(torch.tensor(START_PRICES))

    def to(self, device: torch.device) -> Prices:
        """These prices on a device, where they are steered without waiting for it."""
        self.log_targets = self.log_targets.to(device)
        self.log_prices = self.log_prices.to(device)
        return self

    def of(self, rate: Tensor) -> Tensor:
        """λ at rate points [B]: [B]."""
        return torch.exp(anchor_weights(rate) @ self.log_prices.to(rate.device))

    def sums(self, rate: Tensor, bits: Tensor, counts: Tensor) -> Tensor:
        """Bits and target bits around each anchor, to be summed over processes: [2, anchors].

        counts: [B], 0 for frames that have no target.
        """
        hats = anchor_weights(rate)
        target = torch.exp(hats @ self.log_targets.to(rate.device))
        return torch.stack((counts * bits, counts * target)) @ hats

    def steer(self, sums: Tensor) -> None:
        """Raise the price where frames took more bits than their target, and lower it elsewhere."""
        bits, target = sums
        ratio = torch.where(target > 1e-3, bits / target.clamp_min(1e-3), 1.0)
        # A new tensor: the old one may not have been logged yet.
        moved = self.log_prices + _PRICE_GAIN * torch.log(ratio.clamp(1e-2, 1e2))
        self.log_prices = moved.clamp(math.log(1e-7), math.log(1.0))


def noise_like(steps: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Uniform noise [size, steps, channels] on the generator's device.

    It is somewhat wider than a quantisation step. The extra width pulls latents near a rounding
    border to where bits are cheap.
    """
    uniform = torch.rand(size, steps, channels, generator=generator, device=generator.device)
    return _NOISE_WIDTH * (uniform - 0.5)


def prior_objective(
    model: PhotoModel, x: Tensor, rate: Tensor, noise: Tensor, noisy: Tensor
) -> tuple[Tensor, Tensor]:
    """Like `image_objective`, for the prior alone: codes the current transform, with zero error."""
    with torch.no_grad():
        z = model.encoder(x, rate).clamp(-MAX_IMAGE_INDEX, MAX_IMAGE_INDEX)
        # Later training moves small latents to zero, so the prior should see fewer from the start.
        rounded = torch.copysign((z.abs() + 0.5 - _EARLY_DEAD_ZONE).floor(), z)
    location, log_scale = model.prior(rounded, rate)
    bits = logistic_bits(rounded, location, log_scale)
    return torch.zeros_like(rate), bits.sum((1, 2, 3)) / (x.shape[2] * x.shape[3])


def image_objective(
    model: PhotoModel, x: Tensor, rate: Tensor, noise: Tensor, noisy: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error and bits per pixel of crops x [B, 3, H, W]: each [B].

    noise: [B, C, h, w] in ±0.5; noisy: [B, 1, 1, 1], where bits are those of noisy latents.
    """
    z = model.encoder(x, rate).clamp(-MAX_IMAGE_INDEX, MAX_IMAGE_INDEX)
    rounded = z + (z.round() - z).detach()
    y = model.generator(rounded, rate)
    location, log_scale = model.prior(rounded.detach(), rate)
    bits = logistic_bits(torch.where(noisy, z + noise, rounded), location, log_scale)
    pixels = x.shape[2] * x.shape[3]
    return (y - x).square().mean((1, 2, 3)), bits.sum((1, 2, 3)) / pixels
