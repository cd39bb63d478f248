"""The latent search of GANZ: gradient descent through the frozen generator for one tile.

z* = argmin ||G(z) - x||^2 (equation 1 of the paper). L-BFGS (Liu & Nocedal 1989) starts from the
best latents for the linear synthesis alone, and its variables are the latents in search units, in
which the linear part of the problem is well conditioned. SGD, the paper's search, knows nothing of
the layer but the length of its steps: it starts from z = 0 and descends in the latents themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.range_coder import UInt8, encode_flags
from codec.image.settings import Places
from codec.search.methods import Method

if TYPE_CHECKING:
    from models.folder import Convolutions, FirstLayer, GanzModel

NUMBER = 4  # bytes of a number as a float
COUNT = struct.Struct(">H")  # number of latents, or of bytes of their places
HISTORY = 10
CHUNK = 5  # steps between checks of the clock
SGD_STEPS = 20  # of SGD for each of L-BFGS, unless their number is given
_MOMENTUM = 0.9
_POWER_STEPS = 20
_SCALE = 1e3  # scales the cost up, so that the line search's fixed tolerances are negligible


@dataclass(frozen=True)
class TileLatents:
    """Latents [1, d_c] and their first layer.

    flags: of the chosen entries of h0, in the order of the layer
    (`models.networks.first_layer.reach_order`); None for the first d_c of them.
    """

    z: Tensor
    flags: UInt8 | None = None
    places: Places = "fixed"


@dataclass(frozen=True)
class Minimum:
    """The result of a descent: latents [1, d_c], their cost, and the cost of the start."""

    latents: Tensor
    cost: float
    start_cost: float
    steps: int


def linear_latents(body: Convolutions, layer: FirstLayer, x: Tensor) -> Tensor:
    """The best latents [B, d_c] of pictures x [B, 3, 128, 128] for the linear synthesis alone."""
    return layer.inverse(_linear_features(body, x)[:, : layer.channels])


def _linear_features(body: Convolutions, x: Tensor) -> Tensor:
    """h0 and details [B, c, 8, 8] of pictures x [B, 3, 128, 128], by the linear analysis."""
    return body.linear.transposed(x - 0.5) / body.spread[:, None, None]


def descend(
    cost: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    rate: float | None = None,
    expired: Callable[[], bool] = lambda: False,
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> Minimum:
    """Minimise `cost` from `start`; returns the best point evaluated.

    rate: the learning rate of SGD; by default the descent is L-BFGS. expired: polled every few
    steps, stops when true; report: takes the steps done and the cost relative to that of the start.
    """
    best, best_cost, first = start.detach(), float("inf"), 0.0
    variables = start.detach().clone().requires_grad_(True)
    optimiser: torch.optim.Optimizer
    if rate is None:
        optimiser = torch.optim.LBFGS(
            [variables], lr=1.0, max_iter=CHUNK, max_eval=2 * CHUNK, history_size=HISTORY,
            tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
        )  # fmt: skip
    else:
        optimiser = torch.optim.SGD(
            [variables], lr=rate / _SCALE, momentum=_MOMENTUM, nesterov=True
        )

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
        chunk = min(CHUNK, steps - done)
        if rate is None:
            optimiser.param_groups[0]["max_iter"] = chunk
        for _ in range(1 if rate is None else chunk):
            optimiser.step(evaluate)
        done += chunk
        report(done, best_cost / max(first, 1e-12))
        if not torch.isfinite(variables).all():
            break
    if not done:
        with torch.no_grad():
            first = best_cost = float(cost(best))
    return Minimum(best, best_cost, first, done)


def places_within(sizes: NDArray[np.float32], numbers: int) -> UInt8 | None:
    """Flags for the largest of `sizes`, as many as fit in the space of `numbers` floats together
    with their places. None if there is no space for any."""
    order = np.argsort(-sizes, kind="stable")
    kept = min(numbers, len(sizes) - 1)
    while kept > 0:
        flags = np.zeros(len(sizes), np.uint8)
        flags[order[:kept]] = 1
        needed = -(-(COUNT.size + len(encode_flags(flags))) // NUMBER)
        if kept + needed <= numbers:
            return flags
        kept = min(numbers - needed, kept - 1)
    return None


def search_tile(
    model: GanzModel,
    layers: Callable[[int, Places, UInt8 | None], FirstLayer],
    x: Tensor,
    own: Tensor,
    numbers: int,
    steps: int,
    *,
    places: Places = "chosen",
    method: Method = "lbfgs",
    expired: Callable[[], bool] = lambda: False,
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> tuple[TileLatents, Minimum]:
    """Search the latents of one tile x [1, 3, 128, 128]; also returns the result of the descent.

    layers: makes the first layer for a number of latents, their places, and flags of the chosen
    entries of h0 and its details; own: mask of the pixels that count, [1, 1, 128, 128]; numbers:
    the space for latents and places, in floats; method: "lbfgs" or "sgd".
    """
    body, flags, start = model.generator.body, None, None
    if places == "chosen":
        flags, start = _choose(model, x, numbers, layers(numbers, "fixed", None))
    layer = layers(numbers if start is None else start.shape[1], places, flags)
    if method == "sgd" and steps:
        found = _sgd_tile(body, layer, x, own, steps, expired, report)
    else:
        found = _descend_tile(body, layer, x, own, steps, start, expired, report)
    return TileLatents(found.latents, flags, places), found


def _choose(
    model: GanzModel, x: Tensor, numbers: int, fixed: FirstLayer
) -> tuple[UInt8 | None, Tensor | None]:
    """The places of the entries that are largest in x, and the best latents that reach them for
    the linear synthesis alone, in search units [1, d_c].

    None if the fixed places reach more: the linear synthesis keeps lengths in search units.
    """
    body, entries = model.generator.body, model.generator.shape.entries
    whole = model.first_layer(entries, "chosen", np.ones(entries, np.uint8))
    wanted = whole.search_units(linear_latents(body, whole, x))
    flags = places_within(wanted[0].abs().cpu().numpy(), numbers)
    if flags is None:
        return None, None
    start = wanted[:, torch.from_numpy(flags).bool().to(wanted.device)]
    reached = fixed.search_units(linear_latents(body, fixed, x))
    if float(reached.square().sum()) >= float(start.square().sum()):
        return None, None
    return flags, start


def _squared_error(
    body: Convolutions, layer: FirstLayer, x: Tensor, own: Tensor, z: Tensor
) -> Tensor:
    """The mean over the pixels that count."""
    return ((body(layer(z)) - x).square() * own).sum() / (own.sum() * x.shape[1])


def _descend_tile(
    body: Convolutions,
    layer: FirstLayer,
    x: Tensor,
    own: Tensor,
    steps: int,
    start: Tensor | None,
    expired: Callable[[], bool],
    report: Callable[[int, float], None] = lambda steps, share: None,
) -> Minimum:
    """L-BFGS through one layer; start: in search units [1, d_c] (default: the best for the linear
    synthesis)."""

    def cost(w: Tensor) -> Tensor:
        return _squared_error(body, layer, x, own, layer.from_search_units(w))

    if start is None:
        start = layer.search_units(linear_latents(body, layer, x))
    found = descend(cost, start, steps, expired=expired, report=report)
    return replace(found, latents=layer.from_search_units(found.latents))


def _sgd_tile(
    body: Convolutions,
    layer: FirstLayer,
    x: Tensor,
    own: Tensor,
    steps: int,
    expired: Callable[[], bool],
    report: Callable[[int, float], None],
) -> Minimum:
    """SGD through one layer, with the longest steps at which the linear synthesis converges."""
    start = torch.zeros(1, layer.latents, device=x.device)
    rate = float(own.sum()) * x.shape[1] / (2.0 * _largest_curvature(body, layer))
    return descend(
        partial(_squared_error, body, layer, x, own), start, steps, rate=rate, expired=expired,
        report=report,
    )  # fmt: skip


def _largest_curvature(body: Convolutions, layer: FirstLayer) -> float:
    """The largest eigenvalue of A^T A, A the layer and the linear synthesis: a power iteration."""
    z = torch.ones(1, layer.latents, device=body.spread.device)
    middle = body.draw(layer(torch.zeros_like(z))).detach()
    size = 0.0
    for _ in range(_POWER_STEPS):
        z = (z / z.norm()).requires_grad_(True)
        energy = 0.5 * (body.draw(layer(z)) - middle).square().sum()
        (z,) = torch.autograd.grad(energy, z)
        size = float(z.norm())
    return max(size, 1e-12)
