"""Code lengths of integers under a logistic distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PER_NAT = 1.0 / math.log(2.0)  # bits


def logistic_bits(z: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the logistic mass within half a step of z, of any shape; linear in the far tails."""
    inverse = torch.exp(-log_scale)
    distance = (z - location).abs()
    upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
    # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a))
    log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log1p(-torch.exp(-inverse))
    return -log_mass / math.log(2.0)


Effects = tuple[Tensor, Tensor, Tensor]


def step_bits(
    prior: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], u: Tensor, rate: Tensor
) -> Effects:
    """Bits of integer indices u, and the change in all bits if each moves one step down or one up.

    The change is exact for the index itself and first-order for the others. prior: maps indices and
    rate points to locations and log scales. All have the shape of u.
    """
    return step_bits_around(prior, u, rate)(u)


def step_bits_around(
    prior: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], u: Tensor, rate: Tensor
) -> Callable[[Tensor], Effects]:
    """`step_bits` of integer indices near u, as a function of them.

    All have the distributions, and the effects on the bits of others, that are those of u.
    """
    context = u.detach().requires_grad_(True)
    with torch.enable_grad():
        location, log_scale = prior(context, rate)
    with torch.no_grad():
        inverse = torch.exp(-log_scale)
        half = 0.5 * inverse
        offset = (u - location) * inverse
        top, bottom = offset + half, offset - half
        over, under = torch.sigmoid(-top), torch.sigmoid(bottom)
        slopes = (
            _PER_NAT * inverse * (over - under),
            _PER_NAT * (over * top - under * bottom + inverse / torch.expm1(inverse)),
        )
    with torch.enable_grad():  # one number, as in `codec.search.mean_field`
        weighed = (location * slopes[0]).sum() + (log_scale * slopes[1]).sum()
    (others,) = torch.autograd.grad(weighed, context)
    location = location.detach()
    inside = mass_inside(inverse)
    return lambda u: effects(u - location, inverse, inside, others)


def mass_inside(inverse: Tensor) -> Tensor:
    """What `effects` needs of inverse scales besides themselves: log(1 - exp(-1 / scale))."""
    return torch.log1p(-torch.exp(-inverse))


@torch.no_grad()
def effects(offset: Tensor, inverse: Tensor, inside: Tensor, others: Tensor) -> Effects:
    """Bits of integers `offset` away from their locations, and what one step down or up adds.

    inverse: of the scale; inside: its `mass_inside`; others: what a step up adds to the bits of
    others. All of one shape.
    """
    half, scaled = 0.5 * inverse, offset * inverse
    # Neighbouring integers share an end of their intervals, and with it a logarithm.
    top, bottom = scaled + half, scaled - half
    above, below = F.softplus(-top), F.softplus(bottom)
    lower = F.softplus(bottom - inverse) - bottom - above
    higher = F.softplus(-top - inverse) + top - below
    own = _PER_NAT * (above + below - inside)
    return own, _PER_NAT * lower - others, _PER_NAT * higher + others
