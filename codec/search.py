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


@dataclass(frozen=True)
class Networks:
    """What the search needs of a model, all frozen.

    `sketch` is the generator in a cheaper number format, for gradients alone; candidates are scored
    by the `generator` itself, as the decoder runs it.
    """

    encoder: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    prior: Prior
    sketch: Callable[[Tensor, Tensor], Tensor]


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
    step: float = 0.08
    coupling: float = 6.0  # μ / λ
    check_every: int = 10
    dead_zone: float = 0.0  # Q rounds |fraction| below 0.5 + dead_zone towards zero


@dataclass(frozen=True)
class SearchResult:
    """indices: [B, S, C] whole numbers; cost, bits (by the float prior): [B]; iterations run."""

    indices: Tensor
    cost: Tensor
    bits: Tensor
    start_cost: Tensor
    iterations: int


def quantise(z: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Q: nearest whole number within range, values next to zero drawn to it by the dead zone."""
    if dead_zone == 0.0:
        return z.round().clamp(-MAX_INDEX, MAX_INDEX)
    magnitude = (z.abs() + 0.5 - dead_zone).floor().clamp_min(0.0)
    return torch.copysign(magnitude, z).clamp(-MAX_INDEX, MAX_INDEX)


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
    deadline = None if settings.budget is None else clock() + settings.budget
    with torch.no_grad():
        z = networks.encoder(x, rate) if start is None else start.clone()
        z = z.clamp(-MAX_INDEX, MAX_INDEX)
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

    best = quantise(z)
    best_cost, best_bits = cost_of(best)
    start_cost = best_cost.clone()
    if settings.method == "none" or settings.iterations == 0:
        return SearchResult(best, best_cost, best_bits, start_cost, 0)

    u, dual = best, torch.zeros_like(z)
    coupling = settings.coupling * weight[:, None, None]
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    price = weight.clone()
    done = 0
    begun = clock()
    for k in range(settings.iterations):
        # Without an iteration limit worth the name, time decides how far along the search is.
        progress = k / settings.iterations
        if deadline is not None:
            now = clock()
            if now >= deadline:
                break
            progress = max(progress, (now - begun) / max(deadline - begun, 1e-9))
        z.requires_grad_(True)
        bits = networks.prior.bits(z, rate, quantise(z.detach())).sum((1, 2))
        loss = distance.against(reference, networks.sketch(z, rate)) + price * bits
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        z = z.detach()
        if settings.method == "admm":
            gradient = gradient + coupling * (z - u + dual)
        first = first.lerp(gradient, 0.1)
        second = second.lerp(gradient.square(), 0.02)
        mean = first / (1 - 0.9 ** (k + 1))
        scale = (second / (1 - 0.98 ** (k + 1))).sqrt() + 1e-9
        z = (z - settings.step * (1.0 - 0.9 * progress) * mean / scale).clamp(-MAX_INDEX, MAX_INDEX)
        candidates = [quantise(z, settings.dead_zone)]
        if settings.method == "admm":
            u = quantise(z + dual, settings.dead_zone)
            dual = dual + z - u
            candidates.append(u)
        done = k + 1
        if done % settings.check_every == 0 or done == settings.iterations:
            costs, sizes = cost_of(torch.cat(candidates), len(candidates))
            for option, cost, size in zip(
                candidates, costs.chunk(len(candidates)), sizes.chunk(len(candidates)), strict=True
            ):
                better = cost < best_cost
                best = torch.where(better[:, None, None], option, best)
                best_bits = torch.where(better, size, best_bits)
                best_cost = torch.where(better, cost, best_cost)
                if allowed_bits is not None:
                    price = torch.where(size > allowed_bits, price * 1.12, price)
    return SearchResult(best, best_cost, best_bits, start_cost, done)
