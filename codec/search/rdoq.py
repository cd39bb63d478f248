"""Single indices one step up or down, where that pays: what gradients leave of a quantised frame.

Each index of quantised latents has two neighbours, and what either would change is known to second
order: the distance from its gradient and a curvature, the bits of the index itself from the prior
exactly, and what it does to the bits of later indices from the gradient. The moves that promise
most are made together. If they lower the cost, more are tried next, else fewer: what each promises
alone is not what all do (rate-distortion optimised quantisation; Ramchandran & Vetterli 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.entropy.speech_context import MAX_INDEX

# By trial on training frames.
_STIFFNESS = 2.0  # curvature over that of a squared error with the same slope
_SHARE = 0.04  # of the promising moves that are made first
_BOLDER, _MEEKER = 1.5, 0.5  # its factor after moves that paid, and after others
_LARGEST = 0.5


@dataclass(frozen=True)
class Neighbours:
    """What moves need to know of a model whose latents are whole numbers.

    bits: latents [B, S, C] and rate points [B] to their bits, and what -1 and +1 add to them, each
    [B, S, C]; energy: rate points to the squared change of a frame by one step of an index, without
    what the network adds, [B, 1, C].
    """

    bits: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    energy: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _State:
    """Latents [B, S, C], their cost [B], and the better move of each index: its sign and gain."""

    latents: Tensor
    cost: Tensor
    sign: Tensor
    gain: Tensor


class Polish:
    """Moves of single indices of B frames at once, round by round; `latents` are the best so far.

    Costs here are those by the sketch of the generator; whoever keeps the result scores it.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        drawn: Callable[[Tensor], Tensor],
        distance: Callable[[Tensor], Tensor],
        x: Tensor,
        rate: Tensor,
        price: Tensor,
        limit: Tensor | None,
        latents: Tensor,
    ) -> None:
        """drawn: latents to frames; distance: frames to F [B]; x: their targets [B, T, M]; price:
        of a bit [B]; limit: bits [B] that moves may not exceed; latents: quantised [B, S, C]."""
        self._neighbours, self._drawn, self._distance = neighbours, drawn, distance
        self._rate, self._price, self._limit = rate, price, limit
        self._energy = neighbours.energy(rate)
        self._share = torch.full_like(price, _SHARE)
        z = latents.clone().requires_grad_(True)
        y = drawn(z)
        away = distance(y)
        slope, along = torch.autograd.grad(away.sum(), (z, y))
        self._curvature = self._curvature_of(y.detach() - x, along, latents.shape[1])
        self._state = self._state_of(latents, away.detach(), slope)

    @property
    def latents(self) -> Tensor:
        """The best so far, [B, S, C]."""
        return self._state.latents

    def round(self) -> None:
        """Try some moves in every frame, and keep them where they lower the cost."""
        before = self._state
        order = before.gain.flatten(1).sort(1).values
        count = (self._share * (order < 0).sum(1)).long().clamp(min=1)
        worst = order.gather(1, count[:, None] - 1)[:, :, None]
        chosen = (before.gain <= worst) & (before.gain < 0)
        z = torch.where(chosen, before.latents + before.sign, before.latents).requires_grad_(True)
        away = self._distance(self._drawn(z))
        (slope,) = torch.autograd.grad(away.sum(), z)
        after = self._state_of(z.detach(), away.detach(), slope)
        better = after.cost < before.cost
        rows = better[:, None, None]
        self._state = _State(
            torch.where(rows, after.latents, before.latents),
            torch.where(better, after.cost, before.cost),
            torch.where(rows, after.sign, before.sign),
            torch.where(rows, after.gain, before.gain),
        )
        share = self._share * torch.where(better, _BOLDER, _MEEKER)
        self._share = share.clamp(max=_LARGEST)

    def _curvature_of(self, error: Tensor, along: Tensor, steps: int) -> Tensor:
        """Second derivative of F by each index, about: [B, S, C] of errors and slopes [B, T, M].

        That of the linear synthesis, by what a squared error counts in each latent step: the slope
        of the distance along the error that there is.
        """
        shape = (len(error), steps, -1)
        slope = (along * error).reshape(shape).sum(2, keepdim=True)
        square = error.square().reshape(shape).sum(2, keepdim=True)
        return _STIFFNESS * (slope / square.clamp_min(1e-9)).clamp_min(0.0) * self._energy

    @torch.no_grad()
    def _state_of(self, latents: Tensor, distance: Tensor, slope: Tensor) -> _State:
        bits, below, above = self._neighbours.bits(latents, self._rate)
        price = self._price[:, None, None]
        up, down = slope + price * above, price * below - slope
        sign = torch.where(up < down, 1.0, -1.0)
        gain = torch.minimum(up, down) + 0.5 * self._curvature
        gain = torch.where((latents + sign).abs() <= MAX_INDEX, gain, torch.zeros_like(gain))
        taken = bits.sum((1, 2))
        cost = distance + self._price * taken
        if self._limit is not None:
            cost = torch.where(taken > self._limit, torch.inf, cost)
        return _State(latents, cost, sign, gain)
