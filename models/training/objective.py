"""What the stages minimise: distance + price * bits, with the price held to a target bit count.

Stage one codes with the encoder's rounded latents (straight-through gradient). The prior learns
from the whole numbers that are coded; the encoder hears what bits cost from latents with uniform
noise in place of rounding (Ballé et al. 2017), whose price does not jump. Were the prior to learn
from noisy ones, it would expect values that are never coded. Stage two codes searched latents in
half of the frames, so that generator and prior meet what the decoder will see. The other half goes
on as in stage one: without it nothing would keep the encoder good, and searches that begin at a bad
place end at one.
"""

from __future__ import annotations

import math

import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from codec.entropy.logistic import logistic_bits
from codec.entropy.speech_context import MAX_INDEX
from models.networks.features import FeatureDistance
from models.networks.speech import SpeechModel, anchor_weights
from models.networks.speech_distance import FrameDistance

TARGET_BITS = (1000.0, 1750.0, 3150.0)  # per frame at the rate anchors
START_PRICES = (7e-4, 3.5e-4, 1.3e-4)
_PRICE_GAIN = 0.02
_NOISE_WIDTH = 1.5  # quantisation steps
_PULL = 3.0  # on the encoder towards searched latents, in units of the price


class Objective(nn.Module):
    """The networks under training behind one `forward`, so that several processes can share it."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, rate: Tensor, noise: Tensor, searched: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded frames [B, T, M], bits [B] and pull [B] (0 where nothing was searched).

        x: [B, T, M]; noise: [B, S, C] that is priced in place of rounding; searched: [n, S, C]
        quantised latents of the first n frames (stage two) or None.
        """
        m = self.model
        z = m.encoder(x, rate).clamp(-MAX_INDEX, MAX_INDEX)
        coded = z + (z.round() - z).detach()
        pull = torch.zeros_like(rate)
        found = 0
        if searched is not None:
            found = len(searched)
            # Where it would be rounded to what was found, the encoder is right as it is.
            wrong = ((z[:found] - searched).abs() - 0.5).clamp_min(0.0)
            pull = torch.cat((_PULL * wrong.square().sum((1, 2)), pull[found:]))
            coded = torch.cat((searched, coded[found:]))
        y = m.generator(coded, rate)
        location, log_scale = m.prior(coded, rate)
        bits = logistic_bits(coded.detach(), location, log_scale).sum((1, 2))
        expected = (part.detach()[found:] for part in (location, log_scale))
        relaxed = logistic_bits((z + noise)[found:], *expected).sum((1, 2))
        # The value is that of the coded latents; of the relaxed ones only the gradient counts.
        return y, torch.cat((bits[:found], bits[found:] + relaxed - relaxed.detach())), pull


class Distance(nn.Module):
    """F of the training: loudness and log magnitude, and what the feature network sees."""

    def __init__(self, features: FeatureDistance | None, feature_weight: float) -> None:
        super().__init__()
        self.frames = FrameDistance()
        self.features = features if feature_weight > 0 else None
        self.feature_weight = feature_weight

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part, computed once."""
        with torch.autocast(x.device.type, enabled=False):
            reference: tuple[Tensor, ...] = self.frames.reference(x)
        return reference if self.features is None else reference + self.features.reference(x)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded frames y [B, T, M] to a `reference`: [B]."""
        # Powers span more decades than bfloat16 tells apart.
        with torch.autocast(y.device.type, enabled=False):
            distance = self.frames.against(reference[:4], y.float())
        if self.features is None:
            return distance
        return distance + self.feature_weight * self.features.against(reference[4:], y)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """F of targets and decoded frames: [B]."""
        return self.against(self.reference(x), y)


class Prices:
    """log λ at the rate anchors, steered until the mean bits there meet their targets."""

    def __init__(self, scale: float = 1.0) -> None:
        """scale: share of the shipped model's bit targets, for smaller networks."""
        self.log_targets = torch.log(torch.tensor(TARGET_BITS) * scale)
        self.log_prices = torch.log(torch.tensor(START_PRICES))

    def of(self, rate: Tensor) -> Tensor:
        """λ at rate points [B]: [B]."""
        return torch.exp(anchor_weights(rate) @ self.log_prices.to(rate.device))

    def sums(self, rate: Tensor, bits: Tensor) -> Tensor:
        """[2, anchors]: bits and target bits around each anchor; add them up over processes."""
        hats = anchor_weights(rate)
        target = torch.exp(hats @ self.log_targets.to(rate.device))
        return torch.stack(((hats * bits[:, None]).sum(0), (hats * target[:, None]).sum(0)))

    def steer(self, sums: Tensor) -> None:
        """Raise the price where frames took more bits than their target, lower it elsewhere."""
        bits, target = sums.cpu()
        ratio = torch.where(target > 1e-3, bits / target.clamp_min(1e-3), 1.0)
        self.log_prices += _PRICE_GAIN * torch.log(ratio.clamp(1e-2, 1e2))
        self.log_prices.clamp_(math.log(1e-7), math.log(1.0))


def linear_start(model: SpeechModel, x: Tensor, seed: int) -> None:
    """Set encoder and generator to the principal components of patches of x [N, T, M].

    Raises ValueError when x has fewer patches than the model has channels.
    """
    shape = model.shape
    x = x.float().cpu()
    mean = x.mean((0, 1))
    patches = (x - mean).reshape(-1, shape.patch * shape.mels).numpy()
    found = PCA(shape.channels, svd_solver="randomized", random_state=seed).fit(patches)
    basis = torch.from_numpy(found.components_.astype("float32"))
    with torch.no_grad():
        for part in (model.encoder, model.generator):
            part.mean.copy_(mean)
        model.encoder.basis.copy_(basis.T)
        model.generator.basis.copy_(basis)


def noise_like(steps: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Uniform noise [size, steps, channels], somewhat wider than a quantisation step.

    So a latent that is about to be rounded away is drawn to where it is cheap.
    """
    return _NOISE_WIDTH * (torch.rand(size, steps, channels, generator=generator) - 0.5)
