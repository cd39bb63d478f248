"""Parts shared by the networks: distances, rate points and the masked entropy prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.logistic import logistic_bits
from codec.search.problem import Distance


class SignalDistance(nn.Module, Distance):
    """F of targets and decoded signals, as training and search lower it."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """F(x, y): [B]."""
        return self.against(self.reference(x), y)


def hats(rate: Tensor, anchors: int) -> Tensor:
    """Hat functions of rate points [B] in [0, anchors - 1]: [B, anchors] that sum to one."""
    at = torch.arange(anchors, device=rate.device, dtype=rate.dtype)
    return (1.0 - (rate[:, None] - at).abs()).clamp_min(0.0)


class Gains(nn.Module):
    """Channel gains (1 / quantisation step) at the rate anchors; log-linear between them."""

    def __init__(self, channels: int, steps: tuple[float, ...], shape: tuple[int, ...]) -> None:
        """steps: at the anchors; shape: of the gains of one rate point."""
        super().__init__()
        start = torch.tensor([-math.log(step) for step in steps])
        self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
        self._shape = shape

    def forward(self, rate: Tensor) -> Tensor:
        """[B] rate points -> [B, *shape] gains."""
        gains = torch.exp(hats(rate, len(self.log_gain)) @ self.log_gain)
        return gains.reshape(-1, *self._shape)


def start_at_zero(layer: nn.Module) -> None:
    """Set a layer's weights to zero, so that what it adds to starts unchanged."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class MaskedPrior(nn.Module):
    """A masked autoencoder (Germain et al. 2015) over the channel groups of a latent step or cell.

    Each index gets the location and the log scale of a logistic distribution, which depend on
    `past`, what is known before the step, and on the groups before its own. Hidden units are
    bounded so that `codec.entropy.context_model` can run the same network in exact integers.
    """

    within_mask: Tensor
    middle_mask: Tensor
    leave_mask: Tensor

    def __init__(self, groups: tuple[int, ...], unit: int, channels: int, inputs: int) -> None:
        """groups: channels of each; unit: hidden units for each; inputs: numbers in `past`."""
        super().__init__()
        self._folded = False
        if sum(groups) != channels:
            raise ValueError("prior groups do not cover the channels")
        hidden = unit * len(groups)
        self.past = nn.Linear(inputs, hidden)
        self.within = nn.Linear(2 * channels, hidden, bias=False)
        self.middle = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, 2 * channels)
        start_at_zero(self.leave)
        of_channel = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups)).repeat(2)
        of_unit = torch.arange(len(groups)).repeat_interleave(unit)
        masks = {
            "within_mask": of_channel[None] < of_unit[:, None],
            "middle_mask": of_unit[None] <= of_unit[:, None],
            "leave_mask": of_unit[None] <= of_channel[:, None],
        }
        for name, mask in masks.items():
            self.register_buffer(name, mask.float(), persistent=False)

    def predicted(self, past: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """past: [..., inputs], own: [..., 2C] of the step itself -> locations, log scales [..., C].

        Both are corrections to what the callers start from.
        """
        h = self.past(past) + self._masked(self.within, self.within_mask, own)
        h = self._masked(self.middle, self.middle_mask, h.clamp(0.0, 8.0))
        out = self._masked(self.leave, self.leave_mask, h.clamp(0.0, 8.0))
        location, log_scale = out.float().chunk(2, dim=-1)
        return location.clamp(-8.0, 8.0), log_scale

    def fold_masks(self) -> None:
        """Apply the masks to the weights once, for a prior that no longer trains."""
        with torch.no_grad():
            self.within.weight *= self.within_mask
            self.middle.weight *= self.middle_mask
            self.leave.weight *= self.leave_mask
        self._folded = True

    def _masked(self, layer: nn.Linear, mask: Tensor, x: Tensor) -> Tensor:
        if self._folded:
            y: Tensor = layer(x)
            return y
        return F.linear(x, layer.weight * mask, layer.bias)

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of the (relaxed) indices z given the rounded ones, in the shape of z.

        Subclasses map indices and rate points [B] to locations and log scales of that shape.
        """
        location, log_scale = self(z if context is None else context, rate)
        return logistic_bits(z, location, log_scale)
