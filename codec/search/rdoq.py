"""Rate-distortion optimised quantisation: move single indices by one where that lowers the cost.

The effect of a step is estimated (Ramchandran & Vetterli 1994): the distance to second order, from
its gradient and a curvature; the bits of the index itself exactly, from the prior; those of later
indices to first order. The most promising steps are taken together. If they lower the cost, more
are tried next, else fewer, since their effects do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.search.problem import Networks, StepModel


@dataclass(frozen=True)
class Schedule:
    """How many steps are taken together; tuned on training data.

    share: the part of the promising steps taken first; bolder, meeker: factor on it after success
    and after failure; most: the largest share; stiffness: curvature over that of a squared error
    with the same slope.
    """

    share: float
    bolder: float
    meeker: float
    most: float
    stiffness: float
    bits_first: bool  # order in which a gain is summed up: rounding decides between near ties


SPEECH = Schedule(0.04, 1.5, 0.5, 0.5, 2.0, bits_first=True)
IMAGE = Schedule(0.6, 1.0, 0.3, 1.0, 1.0, bits_first=False)


@dataclass(frozen=True)
class Steps:
    """Whole latents [B, S, C], their cost and bits [B], and the effect of one step of each index.

    slope, curvature: first and second derivative of the distance; lower, higher: bits that one step
    down and up add; all [B, S, C].
    """

    latents: Tensor
    cost: Tensor
    bits: Tensor
    slope: Tensor
    curvature: Tensor
    lower: Tensor
    higher: Tensor

    def better(self, price: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """The better step of each index at this price of a bit: -1 or 1, and the distance and bits
        that it adds."""
        up = self.slope + price * self.higher < price * self.lower - self.slope
        sign = torch.where(up, 1.0, -1.0)
        distance = sign * self.slope + 0.5 * self.curvature
        return sign, distance, torch.where(up, self.higher, self.lower)

    def where_cheaper(self, other: Steps) -> Steps:
        """These in frames where they cost less, `other` elsewhere."""
        cheaper = self.cost < other.cost
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Steps(*(torch.where(cheaper if a.ndim == 1 else cheaper[:, None, None], a, b)
                       for a, b in pairs))  # fmt: skip


def curvature(model: StepModel, error: Tensor, along: Tensor, rate: Tensor) -> Tensor:
    """Approximate second derivative of F by each index, [B, S, C].

    error, along: of the decoded frames, and the slope of F by them, both like the target. That of
    the linear synthesis, weighted by what a squared error counts in each latent step: the
    slope of the distance along the present error. Exact for a mean squared error.
    """
    slope, square = (model.pooled(part) for part in (along * error, error.square()))
    weight = (slope / square.clamp_min(1e-12)).clamp_min(0.0)
    return weight * model.energy(rate)


class Rdoq:
    """RDOQ of B frames at once, round by round; `steps` are those of the best latents so far.

    Costs here are those by the fast generator; whoever keeps the result scores it.
    """

    def __init__(
        self,
        networks: Networks,
        distance: Callable[[Tensor], Tensor],
        x: Tensor,
        rate: Tensor,
        price: Tensor,
        latents: Tensor,
        *,
        limit: Tensor | None = None,
        schedule: Schedule = SPEECH,
    ) -> None:
        """distance: decoded frames to F [B]; x: their targets; price: of a bit [B]; latents:
        quantised [B, S, C]; limit: bits [B] that steps may not exceed.

        Costs have the dtype of the price. Raises ValueError if the model's latents are not whole.
        """
        if networks.steps is None:
            raise ValueError("the latents of this model are not whole numbers")
        self._networks, self._model, self._distance = networks, networks.steps, distance
        self._rate, self._price, self._limit = rate, price, limit
        self._schedule, self._share = schedule, torch.full_like(price, schedule.share)
        z = latents.clone().requires_grad_(True)
        y = networks.fast_generator(z, rate)
        away = distance(y)
        slope, along = torch.autograd.grad(away.sum(), (z, y))
        self._curvature = curvature(networks.steps, y.detach() - x, along, rate)
        self._curvature = schedule.stiffness * self._curvature
        self.steps = self._steps(latents, away.detach(), slope)

    @property
    def latents(self) -> Tensor:
        """The best so far, [B, S, C]."""
        return self.steps.latents

    def round(self) -> bool:
        """Try some steps in every frame and keep them where they lower the cost.

        Returns False if no step of any frame is promising.
        """
        before, schedule = self.steps, self._schedule
        sign, gain = self._gains(before)
        promising = (gain < 0).sum((1, 2))
        if not promising.any():
            return False
        z = self._stepped(sign, gain, self._share * promising).requires_grad_(True)
        away = self._distance(self._networks.fast_generator(z, self._rate))
        (slope,) = torch.autograd.grad(away.sum(), z)
        after = self._steps(z.detach(), away.detach(), slope)
        self.steps = after.where_cheaper(before)
        share = self._share
        share = torch.where(
            after.cost < before.cost, share * schedule.bolder, share * schedule.meeker
        )
        self._share = share.clamp(max=schedule.most)
        return True

    def _stepped(self, sign: Tensor, gain: Tensor, counts: Tensor) -> Tensor:
        """The present latents with the `counts` [B] most promising steps, one at least."""
        rows = zip(gain.flatten(1), counts.long().clamp(min=1).cpu().tolist(), strict=True)
        least = torch.stack([row.kthvalue(count).values for row, count in rows])
        chosen = (gain <= least[:, None, None]) & (gain < 0)
        return torch.where(chosen, self.steps.latents + sign, self.steps.latents)

    def _gains(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """The better step of each index and the cost that it adds, [B, S, C]."""
        price = self._price[:, None, None].to(steps.slope.dtype)
        sign, distance, bits = steps.better(price)
        if self._schedule.bits_first:
            gain = sign * steps.slope + price * bits + 0.5 * steps.curvature
        else:
            gain = distance + price * bits
        inside = (steps.latents + sign).abs() <= self._networks.reach
        return sign, torch.where(inside, gain, torch.zeros_like(gain))

    @torch.no_grad()
    def _steps(self, latents: Tensor, distance: Tensor, slope: Tensor) -> Steps:
        bits, lower, higher = self._model.bits(latents, self._rate)
        taken = bits.sum((1, 2))
        cost = distance + self._price * taken
        if self._limit is not None:
            cost = torch.where(taken > self._limit, torch.inf, cost)
        return Steps(latents, cost, taken, slope, self._curvature, lower, higher)
