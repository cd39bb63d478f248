"""Latent search: the quantised latents whose generator output best matches a frame, at a rate.

ADMM (Liu et al. 2020, eq. 2-6) with a rate term. Per iteration

    z  <-  one Adam step on  F(x, G(z)) + λ R(z) + μ/2 ‖z - u + η‖²
    u  <-  Q(z + η)
    η  <-  η + z - u

from the encoder's output as a warm start. Every few iterations the *quantised* candidates are
decoded and scored by their true cost F(x, G(u)) + λ R(u); the best one ever seen is what the search
returns, so it may stop at any time. Where latents are whole numbers, RDOQ (`codec.search.rdoq`)
follows. Frames of a batch are independent of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from codec.search.problem import Distance, Networks, SearchResult, SearchSettings
from codec.search.rdoq import Rdoq

_RDOQ = 0.25  # share of the iterations, or of the time, that is for RDOQ
_FEWEST_WITH_RDOQ = 8  # iterations
LAST_ROUND = 0.6  # time that the last round of `refine` takes, as a share of another


@contextmanager
def threads_for(x: Tensor) -> Iterator[None]:
    """Use one thread while a single frame of x [B, T, M] is searched on the CPU.

    The products of one frame are too small to share, and where another program keeps a core busy,
    every one of them would wait for it.
    """
    threads = torch.get_num_threads()
    if len(x) > 1 or x.device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Descent:
    """State of a search: relaxed latents of B frames, their multipliers and Adam moments.

    `z` [B, S, C] are the latents, `age` [B, S, 1] the steps each latent step has taken, and
    `candidates` the quantised latents that the last step proposed. `weight` [B] is the bit price.
    """

    def __init__(
        self,
        networks: Networks,
        distance: Distance,
        x: Tensor,
        rate: Tensor,
        weight: Tensor,
        settings: SearchSettings,
        start: Tensor,
        allowed_bits: Tensor | None = None,
    ) -> None:
        self._networks, self._distance, self._settings = networks, distance, settings
        self.rate, self.weight, self.allowed_bits = rate, weight, allowed_bits
        self._x = x
        with torch.no_grad():
            self._reference = distance.reference(x)
        self.z = start.clamp(-networks.reach, networks.reach)
        self._u = networks.quantise(self.z, 0.0)
        self._dual, self._first, self._second = (torch.zeros_like(self.z) for _ in range(3))
        self.age = torch.zeros_like(self.z[:, :, :1], dtype=torch.float64)
        self._price, self._relaxed = weight.clone(), torch.ones_like(weight)
        # Bits of rounded latents over those of relaxed ones, known once candidates are scored.
        self._rounded: Tensor | None = None
        self._whole_bits: Tensor | None = None
        self.candidates: list[Tensor] = [self._u]

    @torch.no_grad()
    def score(
        self, candidates: list[Tensor] | None = None, below: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """True cost and bits of candidates [B, S, C] (those of the last step): [candidates, B].

        Candidates whose bits alone cost no less than `below` [B] are not decoded; their cost is
        infinite.
        """
        options = self.candidates if candidates is None else candidates
        times = len(options)
        u, rates = torch.cat(options), self.rate.repeat(times)
        bits = self._networks.prior.bits(u, rates).sum((1, 2))
        cost = self.weight.repeat(times) * bits
        if self.allowed_bits is not None:
            excess = (bits / self.allowed_bits.repeat(times) - 1.0).clamp_min(0.0)
            cost = cost + 1e3 * excess
        rows = torch.arange(len(u), device=u.device)
        if below is not None:
            rows = rows[cost < below.repeat(times)]
        distances = torch.full_like(cost, torch.inf)
        if len(rows):
            target = tuple(part[rows % len(self.rate)] for part in self._reference)
            y = self._networks.generator(u[rows], rates[rows])
            # Limits, and with them costs, may be in double precision.
            distances[rows] = self._distance.against(target, y).to(cost.dtype)
        if candidates is None:
            self._note(bits.chunk(times)[0])
        return (cost + distances).reshape(times, -1), bits.reshape(times, -1)

    def rdoq(self, latents: Tensor) -> Rdoq:
        """RDOQ starting at quantised latents [B, S, C].

        Raises ValueError for a model whose latents are not whole numbers.
        """
        return Rdoq(
            self._networks,
            lambda y: self._distance.against(self._reference, y),
            self._x, self.rate, self.weight, latents, limit=self.allowed_bits,
        )  # fmt: skip

    def _note(self, bits: Tensor) -> None:
        """Remember the bits of rounded latents, relative to the relaxed ones of the last step."""
        if self.age.any():
            self._rounded = bits / self._relaxed.clamp_min(1.0)
        else:
            self._whole_bits = bits

    def step(self, size: float | Tensor) -> None:
        """One iteration; `size` of the Adam step in quantisation steps, a number or [B, S, 1]."""
        networks, settings = self._networks, self._settings
        quantise, reach = networks.quantise, networks.reach
        z = self.z.requires_grad_(True)
        # The prior sees quantised latents; the gradient of the relaxed ones passes through them:
        # what a latent makes those after it cost is as much its price as its own bits.
        context = z + (quantise(z.detach(), 0.0) - z).detach()
        bits = networks.prior.bits(z, self.rate, context).sum((1, 2))
        y = networks.fast_generator(z, self.rate)
        loss = self._distance.against(self._reference, y) + self._price * bits
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        z = z.detach()
        self._relaxed = bits.detach()
        if self.allowed_bits is not None:
            # Steer towards the allowance: dearer bits above it, back to the price below.
            if self._rounded is None:
                if self._whole_bits is None:
                    with torch.no_grad():
                        whole = networks.prior.bits(quantise(z, 0.0), self.rate)
                    self._whole_bits = whole.sum((1, 2))
                self._rounded = self._whole_bits / self._relaxed.clamp_min(1.0)
            taken, goal = self._relaxed * self._rounded, 0.98 * self.allowed_bits
            if settings.steering is None:
                factor = torch.where(taken > goal, 1.06, 0.96)
            else:
                factor = (taken / goal).pow(settings.steering).clamp(0.9, 1.5)
            self._price = torch.maximum(self._price * factor, self.weight)
        if settings.method != "backprop":
            coupling = settings.coupling * self.weight[:, None, None]
            if settings.penalty is not None:
                coupling = torch.full_like(coupling, settings.penalty)
            gradient = gradient + coupling * (z - self._u + self._dual)
        self.age = self.age + 1.0
        self._first = self._first.lerp(gradient, 0.1)
        self._second = self._second.lerp(gradient.square(), 0.02)
        mean = self._first / (1 - 0.9**self.age).to(z.dtype)
        scale = (self._second / (1 - 0.98**self.age).to(z.dtype)).sqrt() + 1e-9
        self.z = (z - size * mean / scale).clamp(-reach, reach)
        self.candidates = [quantise(self.z, settings.dead_zone)]
        if settings.method != "backprop":
            self._u = quantise(self.z + self._dual, settings.dead_zone)
            self._dual = self._dual + self.z - self._u
            self.candidates.append(self._u)


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
    report: Callable[[float, float, int], None] | None = None,
) -> SearchResult:
    """Quantised latents of the frames x [B, T, M] at rate points [B] and bit prices `weight` [B].

    Candidates above `allowed_bits` [B] are kept only if there is no other: then the smallest one.
    `start` replaces the encoder's warm start. `report` is called after every iteration with the
    share done, the best cost relative to the start, and the number of iterations.
    """
    begun, done = clock(), 0
    if start is None:
        with torch.no_grad():
            start = networks.encoder(x, rate)
    descent = Descent(networks, distance, x, rate, weight, settings, start, allowed_bits)
    first = descent.candidates[0]
    costs, sizes = descent.score()
    best = SearchResult(first, costs[0], sizes[0], costs[0], 0)
    if settings.method == "none" or settings.iterations == 0:
        return best
    stepping = settings.method == "rdoq" and networks.steps is not None
    stepping = stepping and settings.iterations >= _FEWEST_WITH_RDOQ
    descended = 1.0 - _RDOQ if stepping else 1.0

    def progress() -> float:
        """How far along the search is, 1 at its end: by iterations, or by time if that is more."""
        share = done / settings.iterations
        if settings.budget is not None:
            share = max(share, (clock() - begun) / max(settings.budget, 1e-9))
        return share

    def tell() -> None:
        if report is not None:
            share = float((best.cost / best.start_cost).mean())
            report(min(progress(), 1.0), share, done)

    while (share := progress()) < descended:
        descent.step(settings.step * (1.0 - 0.9 * share / descended))
        done += 1
        if done % settings.check_every == 0:
            best = best.improved(descent.candidates, *descent.score(below=best.cost))
        tell()
    if done % settings.check_every:
        best = best.improved(descent.candidates, *descent.score(below=best.cost))
    if share < 1.0:
        rdoq, done = descent.rdoq(best.indices), done + 1
        while progress() < 1.0 and rdoq.round():
            done += 1
            tell()
        found = [rdoq.latents]
        best = best.improved(found, *descent.score(found, best.cost))
    tell()
    return replace(best, iterations=done)


def refine(
    networks: Networks,
    distance: Distance,
    x: Tensor,
    rate: Tensor,
    weight: Tensor,
    settings: SearchSettings,
    *,
    start: Tensor,
    allowed_bits: Tensor | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """As `search`, by RDOQ alone from the nearest quantised latents of `start` [B, S, C].

    In a dozen iterations that finds more than ADMM with RDOQ after it. The last iteration, which is
    always done, is `Rdoq.last_round`, the others are rounds; the beginning takes as long as a
    round, the end LAST_ROUND of one. Costs are those by the fast generator: nothing is decoded to
    score it. Raises ValueError as `Rdoq`.
    """
    begun, done = clock(), 0
    descent = Descent(networks, distance, x, rate, weight, settings, start, allowed_bits)
    rdoq = descent.rdoq(descent.candidates[0])
    first = rdoq.steps
    while done < settings.iterations - 1:
        if settings.budget is not None:
            spent = clock() - begun
            # The next round and the last one will take as long as those before, or less.
            if spent * (done + 2 + LAST_ROUND) / (done + 1) > settings.budget:
                break
        if not rdoq.round():
            break
        done += 1
    rdoq.last_round()
    found = rdoq.steps
    return SearchResult(found.latents, found.cost, found.bits, first.cost, done + 1)


def cheapen(
    networks: Networks, z: Tensor, rate: Tensor, limit: Tensor, steps: int = 80, size: float = 0.1
) -> Tensor:
    """Move latents z [B, S, C] down the rate until their quantised form takes `limit` [B] bits.

    Frames within their limit are unchanged. The cheapest latents are those that the prior expects,
    which need not be zero. Ends above the limit if `steps` steps of `size` do not suffice.
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
