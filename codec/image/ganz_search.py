"""The latent search of GANZ: gradient descent through the frozen generator for one tile.

z* = argmin ||G(z) - x||^2 (equation 1 of the paper), starting from the best latents for the linear
synthesis alone. The descent is L-BFGS (Liu & Nocedal 1989), and its variables are the latents in
picture units: the random first layer is orthogonal apart from its scales, so the linear part of
the problem is well conditioned in these units.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.range_coder import UInt8, encode_flags

if TYPE_CHECKING:
    from models.folder import Convolutions, GanzModel, RandomFirstLayer

NUMBER = 4  # bytes of a number as a float
COUNT = struct.Struct(">H")  # number of latents, or of bytes of their places
HISTORY = 10
CHOOSING_STEPS = 10  # steps of the search that chooses the places
CHUNK = 5  # steps between checks of the clock
_SCALE = 1e3  # scales the cost up, so that the line search's fixed tolerances are negligible


@dataclass(frozen=True)
class TileLatents:
    """Latents [1, d_c] and the entries of h0 that they reach: flags in the order of the layer
    (`models.networks.ganz.reach_order`), or None for the first d_c of them."""

    z: Tensor
    flags: UInt8 | None = None


@dataclass(frozen=True)
class Minimum:
    """The result of a descent: latents [1, d_c], their cost, and the cost of the start."""

    latents: Tensor
    cost: float
    start_cost: float
    steps: int


def linear_latents(body: Convolutions, layer: RandomFirstLayer, x: Tensor) -> Tensor:
    """The best latents [B, d_c] of pictures x [B, 3, 128, 128] for the linear synthesis alone."""
    h = body.linear.transposed(x - 0.5) / body.spread[:, None, None]
    return layer.inverse(h)


class PictureUnits:
    """Converts latents of a random first layer to and from the units of the linear synthesis."""

    def __init__(self, layer: RandomFirstLayer) -> None:
        self._layer, self._units = layer, layer.scales * layer.units

    def of(self, z: Tensor) -> Tensor:
        """Latents to picture units, both [B, d_c]."""
        mixed: Tensor = self._layer.random(z)
        return mixed * self._units

    def latents(self, w: Tensor) -> Tensor:
        """Picture units to latents."""
        return self._layer.random.transposed(w / self._units)


def descend(
    cost: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    expired: Callable[[], bool] = lambda: False,
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> Minimum:
    """Minimise `cost` by L-BFGS from `start`; returns the best point evaluated.

    expired: polled every few steps, stops when true; report: takes the steps done and the cost
    relative to that of the start.
    """
    best, best_cost, first = start.detach(), float("inf"), 0.0
    variables = start.detach().clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [variables], lr=1.0, max_iter=CHUNK, max_eval=2 * CHUNK, history_size=HISTORY,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def evaluate() -> Tensor:
        nonlocal best, best_cost, first
        optimiser.zero_grad()
        found = _SCALE * cost(variables)
        found.backward()
        value = float(found.detach()) / _SCALE
        if best_cost == float("inf"):
            first = value
        if value < best_cost:
            best, best_cost = variables.detach().clone(), value
        return found

    done = 0
    while done < steps and not (done and expired()):
        optimiser.param_groups[0]["max_iter"] = min(CHUNK, steps - done)
        optimiser.step(evaluate)
        done += min(CHUNK, steps - done)
        report(done, best_cost / max(first, 1e-12))
        if not torch.isfinite(variables).all():
            break
    if not done:
        with torch.no_grad():
            first = best_cost = float(cost(best))
    return Minimum(best, best_cost, first, done)


def places_within(sizes: NDArray[np.float32], numbers: int) -> UInt8 | None:
    """Flags for the largest of `sizes`, as many as fit in the space of `numbers` floats together
    with their places. None if fixed places lose less energy."""
    order = np.argsort(-sizes, kind="stable")
    kept = min(numbers, len(sizes) - 1)
    while kept > 0:
        flags = np.zeros(len(sizes), np.uint8)
        flags[order[:kept]] = 1
        needed = -(-(COUNT.size + len(encode_flags(flags))) // NUMBER)
        if kept + needed <= numbers:
            lost = np.square(sizes, dtype=np.float64)
            return flags if lost[flags == 0].sum() < lost[numbers:].sum() else None
        kept = min(numbers - needed, kept - 1)
    return None


def search_tile(
    model: GanzModel,
    layers: Callable[[int, UInt8 | None], RandomFirstLayer],
    x: Tensor,
    own: Tensor,
    numbers: int,
    steps: int,
    *,
    chosen: bool,
    expired: Callable[[], bool] = lambda: False,
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> tuple[TileLatents, Minimum]:
    """Search the latents of one tile x [1, 3, 128, 128]; also returns the result of the descent.

    layers: makes the random first layer for a number of latents and the flags of the entries of h0
    that they reach; own: mask of the pixels that count, [1, 1, 128, 128]; numbers: the space for
    latents and places, in floats; chosen: whether to reach the largest entries of this tile.

    A first search, through the layer that reaches all entries, finds the largest: the picture is
    nearly linear in them, with nearly orthonormal functions.
    """
    body, flags, start = model.generator.body, None, None
    if chosen:
        whole = layers(model.generator.shape.most_latents, None)
        first = _descend_tile(body, whole, x, own, min(steps, CHOOSING_STEPS), None, expired)
        wanted = PictureUnits(whole).of(first.latents)
        flags = places_within(wanted[0].abs().cpu().numpy(), numbers)
        if flags is not None:
            start = wanted[:, torch.from_numpy(flags).bool().to(wanted.device)]
    layer = layers(numbers if start is None else start.shape[1], flags)
    found = _descend_tile(body, layer, x, own, steps, start, expired, report)
    return TileLatents(found.latents, flags), found


def _descend_tile(
    body: Convolutions,
    layer: RandomFirstLayer,
    x: Tensor,
    own: Tensor,
    steps: int,
    start: Tensor | None,
    expired: Callable[[], bool],
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> Minimum:
    """Search latents through one layer; start: in picture units [1, d_c] (default: the best for
    the linear synthesis)."""
    units = PictureUnits(layer)
    total = own.sum() * x.shape[1]

    def cost(w: Tensor) -> Tensor:
        y = body(layer(units.latents(w)))
        return ((y - x).square() * own).sum() / total

    start = units.of(linear_latents(body, layer, x)) if start is None else start
    found = descend(cost, start, steps, expired=expired, report=report)
    return replace(found, latents=units.latents(found.latents))
