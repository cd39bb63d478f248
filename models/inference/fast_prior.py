"""The entropy prior for searches on the CPU: its exact bits, and their gradient in less time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.entropy.logistic import Effects, effects, mass_inside
from models.inference.kernels import features, features_back
from models.inference.packed import Product
from models.networks.speech import ANCHORS, Prior, anchor_weights

_TOP = 8.0  # of hidden units
_FARTHEST = 8.0  # location
_FINEST, _COARSEST = -2.6, 1.8  # log scale
_PER_NAT = 1.0 / math.log(2.0)
_clamp_back = torch.ops.aten.hardtanh_backward


class FastPrior:
    """A frozen `models.networks.speech.Prior` with its masks folded.

    Where a gradient is wanted, bits and gradient are written out, and gradients reach latents
    and context only; elsewhere the bits are those of `exact`, the same network in single precision.
    """

    def __init__(self, prior: Prior, exact: Prior) -> None:
        self._exact = exact
        weight = torch.cat((prior.within.weight, prior.past.weight), 1)
        self._first = Product(weight, prior.past.bias)
        self._middle = Product(prior.middle.weight, prior.middle.bias)
        self._leave = Product(prior.leave.weight, prior.leave.bias)

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Cost of the (relaxed) indices z given the rounded ones, in bits: [B, S, C]."""
        context = z if context is None else context
        if not torch.is_grad_enabled():
            return self._exact.bits(z, rate, context)
        bits: Tensor = _Bits.apply(z, context, rate, self)
        return bits

    def draw(self, z: Tensor, context: Tensor, rate: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The bits, and what `slopes` needs."""
        frames, steps, channels = z.shape
        context = context.contiguous()
        seen = torch.empty(frames, steps, 6 * channels + ANCHORS + 1)
        features(context.detach().numpy(), anchor_weights(rate).numpy(), seen.numpy())
        first = self._first(seen)
        middle = self._middle(first.clamp(0.0, _TOP))
        out = self._leave(middle.clamp(0.0, _TOP))
        location, log_scale = out.chunk(2, dim=-1)
        inverse = (1.0 - log_scale).clamp_(-_COARSEST, -_FINEST).exp_()
        offset = z - location.clamp(-_FARTHEST, _FARTHEST)
        return _logistic_bits(offset, inverse), (context, first, middle, out, offset, inverse)

    def step_bits(self, u: Tensor, rate: Tensor) -> Effects:
        """`models.networks.speech.Prior.step_bits`, written out."""
        return self.step_bits_around(u, rate)(u)

    @torch.no_grad()
    def step_bits_around(self, u: Tensor, rate: Tensor) -> Callable[[Tensor], Effects]:
        """`models.networks.speech.Prior.step_bits_around`, written out."""
        own, traces = self.draw(u, u, rate)
        offset, inverse = traces[-2:]
        _, others = self.slopes(torch.ones_like(own), traces)
        location, inside = u - offset, mass_inside(inverse)
        return lambda u: effects(u - location, inverse, inside, others)

    def slopes(self, gradient: Tensor, traces: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Gradients with respect to z and context of what has `gradient` with respect to bits."""
        context, first, middle, out, offset, inverse = traces
        distance = offset.abs()
        near = torch.sigmoid((distance - 0.5) * inverse)  # what the ends' sigmoids leave
        far = torch.sigmoid((-0.5 - distance) * inverse)
        gradient = gradient * _PER_NAT
        for_z = gradient * inverse * (near - far) * offset.sign()
        sharper = (0.5 - distance) * near + (0.5 + distance) * far + 1.0 / torch.expm1(inverse)
        slope = torch.cat((-for_z, gradient * inverse * sharper), -1)
        channels = offset.shape[-1]
        location, log_scale = out.chunk(2, dim=-1)
        inner = torch.empty_like(slope)
        inner[..., :channels] = _clamp_back(slope[..., :channels], location, -_FARTHEST, _FARTHEST)
        inner[..., channels:] = _clamp_back(
            slope[..., channels:], log_scale, 1.0 + _FINEST, 1.0 + _COARSEST
        )
        slope = _clamp_back(self._leave.back(inner), middle, 0.0, _TOP)
        slope = _clamp_back(self._middle.back(slope), first, 0.0, _TOP)
        for_context = torch.empty_like(context)
        features_back(self._first.back(slope).numpy(), context.numpy(), for_context.numpy())
        return for_z, for_context


def _logistic_bits(offset: Tensor, inverse: Tensor) -> Tensor:
    """-log2 of a logistic's mass, as in `codec.entropy.logistic.logistic_bits`."""
    distance = offset.abs()
    nats = torch.log1p(-torch.exp(-inverse))
    nats += F.logsigmoid((0.5 - distance) * inverse)
    nats += F.logsigmoid((0.5 + distance) * inverse)
    return nats.mul_(-_PER_NAT)


class _Bits(torch.autograd.Function):
    """Bits [B, S, C] with gradients for latents and context."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, context: Tensor, rate: Tensor, prior: FastPrior) -> Tensor:
        bits, ctx.traces = prior.draw(z, context, rate)
        ctx.prior = prior
        return bits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *ctx.prior.slopes(gradients[0], ctx.traces), None, None
