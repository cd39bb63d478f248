"""Latent search: the quantised latents whose generator output best matches a frame, at a rate.

ADMM (Liu et al. 2020, eq. 2-6) with a rate term. Per iteration

    z  <-  one Adam step on  F(x, G(z)) + λ R(z) + μ/2 ‖z - u + η‖²
    u  <-  Q(z + η)
    η  <-  η + z - u

from the encoder's output as a warm start. Every few iterations the *quantised* candidates are
decoded and scored by their true cost F(x, G(u)) + λ R(u); the best one ever seen is what the search
returns, so it may stop at any time. Frames of a batch are independent of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from codec.entropy import MAX_INDEX

Method = Literal["admm", "backprop", "none"]


class Prior(Protocol):
    """Entropy model: bits of relaxed indices z [B, S, C] given the rounded ones."""

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor: ...


def quantise(z: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Q: nearest whole number within range, values next to zero drawn to it by the dead zone."""
    if dead_zone == 0.0:
        return z.round().clamp(-MAX_INDEX, MAX_INDEX)
    magnitude = (z.abs() + 0.5 - dead_zone).floor().clamp_min(0.0)
    return torch.copysign(magnitude, z).clamp(-MAX_INDEX, MAX_INDEX)


@dataclass(frozen=True)
class Networks:
    """What the search needs of a model, all frozen.

    `sketch` is the generator in a cheaper number format, for gradients alone; candidates are scored
    by the `generator` itself, as the decoder runs it. `quantise` is Q: latents and a dead zone to
    the nearest allowed latents; `reach` bounds the magnitude of latents.
    """

    encoder: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    prior: Prior
    sketch: Callable[[Tensor, Tensor], Tensor]
    quantise: Callable[[Tensor, float], Tensor] = quantise
    reach: float = MAX_INDEX


class Distance(Protocol):
    """F: a distance whose target part can be computed once."""

    def reference(self, x: Tensor) -> tuple[Tensor, ...]: ...

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SearchSettings:
    """How a search runs. Steps are in units of one quantisation step."""

    method: Method = "admm"
    iterations: int = 60
    budget: float | None = None  # seconds for the whole batch; None: iterations alone decide
    step: float = 0.04
    coupling: float = 12.0  # μ / λ
    penalty: float | None = None  # μ itself, where there is no λ
    check_every: int = 20
    dead_zone: float = 0.0  # Q rounds |fraction| below 0.5 + dead_zone towards zero


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    indices: [B, S, C] quantised latents (whole numbers where Q rounds); cost, bits (by the prior):
    [B]; iterations run.
    """

    indices: Tensor
    cost: Tensor
    bits: Tensor
    start_cost: Tensor
    iterations: int


def search(
    networks: Networks,
    distance: Distance,
    x: Tensor,
    rate: Tensor,
    weight: Tensor,
    settings: SearchSettings,
    *,
    start: Tensor | None = None,
    allowed_bits: Tensor | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Quantised latents of the frames x [B, T, M] at rate points [B] and bit prices `weight` [B].

    `allowed_bits` [B] makes candidates above it worthless unless no other exists (the least
    excessive one is then kept). `start` replaces the encoder's warm start.
    """
    quantise, reach = networks.quantise, networks.reach
    deadline = None if settings.budget is None else clock() + settings.budget
    with torch.no_grad():
        z = networks.encoder(x, rate) if start is None else start.clone()
        z = z.clamp(-reach, reach)
        reference = distance.reference(x)

    def cost_of(u: Tensor, times: int = 1) -> tuple[Tensor, Tensor]:
        """True cost and bits of candidates [times * B, S, C], `times` for each frame."""
        with torch.no_grad():
            rates = rate.repeat(times)
            bits = networks.prior.bits(u, rates).sum((1, 2))
            target = tuple(part.repeat(times, *[1] * (part.ndim - 1)) for part in reference)
            y = networks.generator(u, rates)
            cost = distance.against(target, y) + weight.repeat(times) * bits
            if allowed_bits is not None:
                excess = (bits / allowed_bits.repeat(times) - 1.0).clamp_min(0.0)
                cost = cost + 1e3 * excess
        return cost, bits

    best = quantise(z, 0.0)
    best_cost, best_bits = cost_of(best)
    start_cost = best_cost.clone()
    if settings.method == "none" or settings.iterations == 0:
        return SearchResult(best, best_cost, best_bits, start_cost, 0)

    u, dual = best, torch.zeros_like(z)
    coupling = settings.coupling * weight[:, None, None]
    if settings.penalty is not None:
        coupling = torch.full_like(coupling, settings.penalty)
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    price, rounded, relaxed = weight.clone(), torch.ones_like(weight), torch.ones_like(weight)
    candidates: list[Tensor] = []
    done = scored = 0
    begun = clock()

    def score() -> None:
        """Keep the best of the latest candidates, if they are new."""
        nonlocal best, best_bits, best_cost, rounded, scored
        if scored == done:
            return
        costs, sizes = cost_of(torch.cat(candidates), len(candidates))
        for option, cost, size in zip(
            candidates, costs.chunk(len(candidates)), sizes.chunk(len(candidates)), strict=True
        ):
            better = cost < best_cost
            best = torch.where(better[:, None, None], option, best)
            best_bits = torch.where(better, size, best_bits)
            best_cost = torch.where(better, cost, best_cost)
        rounded = sizes.chunk(len(candidates))[0] / relaxed.clamp_min(1.0)
        scored = done

    for k in range(settings.iterations):
        # Without an iteration limit worth the name, time decides how far along the search is.
        progress = k / settings.iterations
        if deadline is not None:
            now = clock()
            if now >= deadline:
                break
            progress = max(progress, (now - begun) / max(deadline - begun, 1e-9))
        z.requires_grad_(True)
        bits = networks.prior.bits(z, rate, quantise(z.detach(), 0.0)).sum((1, 2))
        loss = distance.against(reference, networks.sketch(z, rate)) + price * bits
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        z = z.detach()
        relaxed = bits.detach()
        if allowed_bits is not None:
            # Steer towards the allowance: dearer bits above it, back to the price below. Rounded
            # latents take other bits than relaxed ones; how many is known from the candidates.
            if done == 0:
                rounded = best_bits / relaxed.clamp_min(1.0)
            step = torch.where(relaxed * rounded > 0.98 * allowed_bits, 1.06, 0.96)
            price = torch.maximum(price * step, weight)
        if settings.method == "admm":
            gradient = gradient + coupling * (z - u + dual)
        first = first.lerp(gradient, 0.1)
        second = second.lerp(gradient.square(), 0.02)
        mean = first / (1 - 0.9 ** (k + 1))
        scale = (second / (1 - 0.98 ** (k + 1))).sqrt() + 1e-9
        z = (z - settings.step * (1.0 - 0.9 * progress) * mean / scale).clamp(-reach, reach)
        candidates = [quantise(z, settings.dead_zone)]
        if settings.method == "admm":
            u = quantise(z + dual, settings.dead_zone)
            dual = dual + z - u
            candidates.append(u)
        done = k + 1
        if done % settings.check_every == 0:
            score()
    score()
    return SearchResult(best, best_cost, best_bits, start_cost, done)


def cheapen(
    networks: Networks, z: Tensor, rate: Tensor, limit: Tensor, steps: int = 80, size: float = 0.1
) -> Tensor:
    """Move latents z [B, S, C] down the rate until their quantised form takes `limit` [B] bits.

    Frames within their limit stay as they are. What is cheap is what the prior expects, which need
    not be zero. May give up above the limit after `steps` steps of `size`.
    """
    for _ in range(steps):
        quantised = networks.quantise(z, 0.0)
        with torch.no_grad():
            above = networks.prior.bits(quantised, rate).sum((1, 2)) > limit
        if not above.any():
            break
        z = z.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(networks.prior.bits(z, rate, quantised).sum(), z)
        scale = slope.square().mean((1, 2), keepdim=True).sqrt() + 1e-9
        z = torch.where(above[:, None, None], z - size * slope / scale, z).detach()
    return z
