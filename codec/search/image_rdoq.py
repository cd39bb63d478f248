"""The last word on quantised latents: single indices one step up or down, where that pays.

What the search leaves is whole; each index has two neighbours, and what either would change is
known to second order: the distance from its gradient and a curvature per channel, the bits of the
index itself from the prior exactly, and what it does to the bits of later indices from the
gradient. Moves that lower the cost are made, those that promise most first; and a file that must
become smaller, or may become larger, is brought there by the moves that buy most for what they cost
(rate-distortion optimised quantisation; Ramchandran & Vetterli 1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.entropy.image_context import MAX_INDEX
from codec.image.windows import PhotoTask
from codec.search.admm import Distance

if TYPE_CHECKING:
    from models.folder import PhotoGenerator

_SHARE = 0.6  # of the promising moves are made in the first round


@dataclass(frozen=True)
class Moves:
    """The two moves of every index, one less and one more: all [1, S, C].

    slope, curve: first and second derivative of the distance; below, above: bits that a move adds;
    cost: what the indices cost as they are.
    """

    slope: Tensor
    curve: Tensor
    below: Tensor
    above: Tensor
    cost: float

    def better(self, weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Of each index the move that is better where bits count `weight`.

        Steps (-1 or 1), and what they would add: distance and bits.
        """
        up = self.slope + weight * self.above < weight * self.below - self.slope
        step = torch.where(up, 1.0, -1.0)
        distance = step * self.slope + 0.5 * self.curve
        return step, distance, torch.where(up, self.above, self.below)


def curvature(
    task: PhotoTask,
    distance: Distance,
    reference: tuple[Tensor, ...],
    generator: PhotoGenerator,
    rate: Tensor,
    u: Tensor,
) -> Tensor:
    """Second derivative of the distance by each whole index u [1, S, C], about: [1, S, C].

    That of the linear synthesis, by what a squared error counts in each cell: the slope of the
    distance along the error that there is. For a mean squared error that is exact.
    """
    y = task.networks.sketch(u, rate).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(distance.against(reference, y).sum(), y)
    with torch.no_grad():
        error = y - task.target
        along = _around(task.by_cell((slope * error).sum(1, keepdim=True)))
        square = _around(task.by_cell(error.square().sum(1, keepdim=True)))
        weight = (along / square.clamp_min(1e-12)).clamp_min(0.0)
        gains = generator.gains(rate)[0, :, 0, 0]
        energy = generator.basis.square().sum((1, 2, 3)) / gains.square()
        return weight.reshape(1, -1, 1) * energy


def _around(cells: Tensor) -> Tensor:
    """Means over 3x3 cells of a map [1, 1, h, w]."""
    return F.avg_pool2d(cells, 3, stride=1, padding=1, count_include_pad=False)


def moves_of(
    task: PhotoTask,
    distance: Distance,
    reference: tuple[Tensor, ...],
    rate: Tensor,
    u: Tensor,
    curve: Tensor,
) -> Moves:
    """What moving each whole index u [1, S, C] by one would do, and what u costs."""
    z = u.clone().requires_grad_(True)
    away = distance.against(reference, task.networks.sketch(z, rate)).sum()
    (slope,) = torch.autograd.grad(away, z)
    prices = task.prior.prices(u, rate)
    return Moves(
        slope,
        curve,
        prices.below - prices.own - prices.later,
        prices.above - prices.own + prices.later,
        float(away.detach()) + float(prices.own.sum()),
    )


def polish(
    task: PhotoTask,
    distance: Distance,
    generator: PhotoGenerator,
    rate: Tensor,
    u: Tensor,
    rounds: int,
) -> tuple[Tensor, Moves]:
    """Whole latents u [1, S, C] of a window with the moves that lower the cost.

    And the moves that are left, for whom it must cost less or may cost more.
    """
    with torch.no_grad():
        reference = distance.reference(task.target)
    curve = curvature(task, distance, reference, generator, rate, u)
    moves, share = moves_of(task, distance, reference, rate, u, curve), _SHARE
    for _ in range(rounds):
        step, away, bits = moves.better()
        gain = away + bits
        gain = torch.where((u + step).abs() <= MAX_INDEX, gain, torch.zeros_like(gain))
        promising = int((gain < 0).sum())
        if not promising:
            break
        limit = gain.flatten().kthvalue(max(int(share * promising), 1)).values
        tried = torch.where(gain <= limit, u + step, u)
        ahead = moves_of(task, distance, reference, rate, tried, curve)
        if ahead.cost < moves.cost:
            u, moves = tried, ahead
        else:
            share *= 0.3
    return u, moves
