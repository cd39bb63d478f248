"""Code lengths of integers under a logistic distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_bits(z: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the logistic mass within half a step of z, of any shape; linear in the far tails."""
    inverse = torch.exp(-log_scale)
    distance = (z - location).abs()
    upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
    # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a))
    log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log1p(-torch.exp(-inverse))
    return -log_mass / math.log(2.0)


def step_bits(
    prior: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], u: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bits of integer indices u, and the change in all bits if each moves one step down or one up.

    The change is exact for the index itself and first-order for the others. prior: maps indices and
    rate points to locations and log scales. All have the shape of u.
    """
    context = u.detach().requires_grad_(True)
    with torch.enable_grad():
        location, log_scale = prior(context, rate)
        own = logistic_bits(u, location, log_scale)
        (others,) = torch.autograd.grad(own.sum(), context)
    with torch.no_grad():
        lower, higher = (logistic_bits(u + d, location, log_scale) - own for d in (-1.0, 1.0))
        return own.detach(), lower - others, higher + others
