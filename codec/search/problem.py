"""Inputs and results of a latent search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from codec.entropy.logistic import Effects
from codec.entropy.speech_context import MAX_INDEX
from codec.search.methods import Method


def quantise(z: Tensor, dead_zone: float = 0.0, limit: int = MAX_INDEX) -> Tensor:
    """Q: nearest whole numbers within ±limit; the dead zone widens the interval that becomes 0."""
    if dead_zone == 0.0:
        return z.round().clamp(-limit, limit)
    magnitude = (z.abs() + 0.5 - dead_zone).floor().clamp(0.0, limit)
    return torch.copysign(magnitude, z)


class RateModel(Protocol):
    """Entropy model: bits of relaxed indices z [B, S, C] given the rounded ones."""

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor: ...


class Distance(Protocol):
    """F: a distance whose target part can be computed once."""

    def reference(self, x: Tensor) -> tuple[Tensor, ...]: ...

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor: ...

    def with_slope(self, reference: tuple[Tensor, ...], y: Tensor) -> tuple[Tensor, Tensor]:
        """F of decoded y against a `reference` [B], and its slope by y, in the shape of y."""
        y = y.detach().requires_grad_(True)
        with torch.enable_grad():
            away = self.against(reference, y)
        (slope,) = torch.autograd.grad(away.sum(), y)
        return away.detach(), slope


@dataclass(frozen=True)
class StepModel:
    """Effects of single-index steps, for RDOQ of models whose latents are whole numbers.

    bits: latents [B, S, C] and rate points [B] to the bits of each index, and the change of all
    bits when it goes one step down or up, each [B, S, C]; energy: rate points to the squared change
    of the linear synthesis by one step of an index, [B or 1, 1, C]; pooled: a map like the target
    to its sums over the extent of each latent step, [B, S, 1]; around: latents and rate points to
    what `bits` is of latents near them, nearly, as a function of those.
    """

    bits: Callable[[Tensor, Tensor], Effects]
    energy: Callable[[Tensor], Tensor]
    pooled: Callable[[Tensor], Tensor]
    around: Callable[[Tensor, Tensor], Callable[[Tensor], Effects]] | None = None


@dataclass(frozen=True)
class Networks:
    """The frozen networks of a model, as the search calls them.

    `fast_generator` is the generator in a cheaper number format, for gradients alone; `generator`,
    as the decoder runs it, scores the candidates. `quantise` is Q: latents and a dead zone to the
    nearest allowed latents; `reach` bounds the magnitude of latents; `steps` is None unless
    latents are whole numbers. `following` maps known latents [1, P, C] to the fast generator's
    columns of those that follow, None where it is as well to draw them all.
    """

    encoder: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    prior: RateModel
    fast_generator: Callable[[Tensor, Tensor], Tensor]
    quantise: Callable[[Tensor, float], Tensor] = quantise
    reach: float = MAX_INDEX
    steps: StepModel | None = None
    following: Callable[[Tensor], Callable[[Tensor, Tensor], Tensor] | None] = lambda known: None


@dataclass(frozen=True)
class Problem:
    """What is searched for: latents of B frames, which do not depend on each other.

    distance: F; x: the frames, [B, T, M] or as `distance` wants them; rate: their rate points [B];
    weight: prices of a bit [B], λ; allowed_bits: the most bits [B] that they may take, None for any
    number.
    """

    networks: Networks
    distance: Distance
    x: Tensor
    rate: Tensor
    weight: Tensor
    allowed_bits: Tensor | None = None


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search. Steps are in units of one quantisation step.

    method: "mean-field" is mean-field rounding followed by RDOQ where the model's latents are whole
    numbers, else ADMM; "rdoq" is ADMM followed by RDOQ. Of mean-field rounding: firmness, at its
    beginning and its end, in units of the curvature that the model tells; moves, of the latents in
    each iteration; looks, iterations from one look at the prior to the next. Where the model does
    not tell bits `around`, moves and looks are one.
    """

    method: Method = "mean-field"
    iterations: int = 60
    budget: float | None = None  # seconds for the whole batch; None: iterations alone decide
    step: float | None = None  # the first; None: as the method has it
    firmness: tuple[float, float] = (2.0, 2.0)
    moves: int = 1
    looks: int = 1
    coupling: float = 12.0  # μ / λ
    penalty: float | None = None  # μ itself, where there is no λ
    check_every: int = 20
    steering: float | None = None  # exponent of bits over allowance; None: small even steps
    dead_zone: float = 0.0  # Q rounds |fraction| below 0.5 + dead_zone towards zero


@dataclass(frozen=True)
class SearchResult:
    """Result of a search over B frames.

    indices: [B, S, C] quantised latents (whole numbers where Q rounds); cost, bits (by the prior):
    [B]; iterations run; relaxed: the latents before Q, of a search that can be gone on with.
    """

    indices: Tensor
    cost: Tensor
    bits: Tensor
    start_cost: Tensor
    iterations: int
    relaxed: Tensor | None = None

    def improved(self, candidates: list[Tensor], costs: Tensor, bits: Tensor) -> SearchResult:
        """Replace frames by cheaper candidates [B, S, C]; costs and bits: [candidates, B]."""
        best = self
        for option, cost, size in zip(candidates, costs, bits, strict=True):
            better = cost < best.cost
            best = replace(
                best,
                indices=torch.where(better[:, None, None], option, best.indices),
                cost=torch.where(better, cost, best.cost),
                bits=torch.where(better, size, best.bits),
            )
        return best
