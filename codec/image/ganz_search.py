"""The latent search of GANZ: gradient descent through the frozen generator for one tile.

z* = argmin ||G(z) - x||^2 (equation 1 of the paper) from the latents that the linear synthesis
alone would need. The descent is L-BFGS (Liu & Nocedal 1989), and its variables are the latents in
the units of the picture: the random first layer is orthogonal but for its scales, so that there
the linear part of the problem is as well conditioned as it can be.
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

NUMBER = 4  # bytes that one of a tile's numbers takes as a float
COUNT = struct.Struct(">H")  # of latents, or of their places' bytes
HISTORY = 10
CHOOSING_STEPS = 10  # of the search that chooses the places
CHUNK = 5  # steps between two checks of the clock
_SCALE = 1e3  # of the cost, which makes the line search's fixed tolerances negligible


@dataclass(frozen=True)
class TileLatents:
    """Latents [1, d_c] and the numbers of h0 that they reach: flags in the order of the layer
    (`models.networks.ganz.reach_order`), or None for the first d_c of them."""

    z: Tensor
    flags: UInt8 | None = None


@dataclass(frozen=True)
class Minimum:
    """Where a descent ended: latents [1, d_c], their cost, and that of the start."""

    latents: Tensor
    cost: float
    start_cost: float
    steps: int


def linear_latents(body: Convolutions, layer: RandomFirstLayer, x: Tensor) -> Tensor:
    """The latents [B, d_c] of pictures x [B, 3, 128, 128] by the linear synthesis alone."""
    h = body.linear.transposed(x - 0.5) / body.spread[:, None, None]
    return layer.inverse(h)


class PictureUnits:
    """Latents of a random first layer <-> the same numbers in the units of the linear synthesis."""

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
    """L-BFGS on `cost` of variables like `start`; the best ever seen is kept.

    expired: whether to stop, asked every few steps; report: told the steps done and the cost as a
    share of the start's.
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
    """Flags for the largest of `sizes`, so many that with their places in bytes they take no more
    than `numbers` floats. None when fixed places leave out less."""
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
    """Latents of one tile x [1, 3, 128, 128], and how the search for them went.

    layers: the random first layer of so many latents that reach flagged numbers of h0; own: which
    pixels count, [1, 1, 128, 128]; numbers: what the latents and their places may take; chosen:
    whether the latents reach what is largest in this tile.

    A first search, through the layer that reaches everything, shows what is largest: the picture is
    nearly linear in these numbers, with nearly orthonormal functions.
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
    """Latents through one layer; start: in picture units [1, d_c] (default: what the linear
    synthesis would need)."""
    units = PictureUnits(layer)
    total = own.sum() * x.shape[1]

    def cost(w: Tensor) -> Tensor:
        y = body(layer(units.latents(w)))
        return ((y - x).square() * own).sum() / total

    start = units.of(linear_latents(body, layer, x)) if start is None else start
    found = descend(cost, start, steps, expired=expired, report=report)
    return replace(found, latents=units.latents(found.latents))
