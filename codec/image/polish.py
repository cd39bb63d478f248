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

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.image.windows import WindowTask
from codec.search import Distance
from models.image.nets import MAX_INDEX, Generator

_SHARE = 0.6  # of the promising moves are made in the first round


@dataclass(frozen=True)
class Moves:
    """The better one of the two moves of every index: all [1, S, C].

    step: -1 or 1; distance, bits: what it would add.
    """

    step: Tensor
    distance: Tensor
    bits: Tensor


def curvature(
    task: WindowTask,
    distance: Distance,
    reference: tuple[Tensor, ...],
    generator: Generator,
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
    task: WindowTask,
    distance: Distance,
    reference: tuple[Tensor, ...],
    rate: Tensor,
    u: Tensor,
    curve: Tensor,
    weight: float = 1.0,
) -> Moves:
    """The better move of each whole index u [1, S, C], bits counting `weight`."""
    z = u.clone().requires_grad_(True)
    y = task.networks.sketch(z, rate)
    (slope,) = torch.autograd.grad(distance.against(reference, y).sum(), z)
    known = u.clone().requires_grad_(True)
    # The gradient through the context alone: what the indices do to the price of later ones.
    below, bits, above = task.networks.prior.bits(torch.cat((u - 1.0, u, u + 1.0)), rate, known)
    (later,) = torch.autograd.grad(bits.sum(), known)
    with torch.no_grad():
        options = [
            (step * slope + 0.5 * curve, own - bits + step * later)
            for step, own in ((-1.0, below), (1.0, above))
        ]
        down, up = (d + weight * b for d, b in options)
        better = up < down
        return Moves(
            torch.where(better, 1.0, -1.0),
            torch.where(better, options[1][0], options[0][0]),
            torch.where(better, options[1][1], options[0][1]),
        )


def polish(
    task: WindowTask,
    distance: Distance,
    generator: Generator,
    rate: Tensor,
    u: Tensor,
    rounds: int,
) -> Tensor:
    """Whole latents u [1, S, C] of a window with the moves that lower the true cost."""
    reference = distance.reference(task.target)

    def cost(v: Tensor) -> float:
        with torch.no_grad():
            y = task.networks.generator(v, rate)
            return float(distance.against(reference, y) + task.networks.prior.bits(v, rate).sum())

    best, share = cost(u), _SHARE
    curve = curvature(task, distance, reference, generator, rate, u)
    for _ in range(rounds):
        moves = moves_of(task, distance, reference, rate, u, curve)
        gain = moves.distance + moves.bits
        gain = torch.where((u + moves.step).abs() <= MAX_INDEX, gain, torch.zeros_like(gain))
        promising = int((gain < 0).sum())
        if not promising:
            break
        limit = gain.flatten().kthvalue(max(int(share * promising), 1)).values
        tried = torch.where(gain <= limit, u + moves.step, u)
        now = cost(tried)
        if now < best:
            u, best = tried, now
        else:
            share *= 0.3
    return u
