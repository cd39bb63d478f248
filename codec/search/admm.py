"""ADMM with a rate term (Liu et al. 2020, eq. 2-6). Per iteration

    z  <-  one Adam step on  F(x, G(z)) + λ R(z) + μ/2 ‖z - u + η‖²
    u  <-  Q(z + η)
    η  <-  η + z - u

from the encoder's output as a warm start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.search.problem import Problem, SearchSettings
from codec.search.rdoq import Rdoq


class Descent:
    """State of a search: relaxed latents of B frames, their multipliers and Adam moments.

    `z` [B, S, C] are the latents, `age` [B, S, 1] the steps each latent step has taken, and
    `candidates` the quantised latents that the last step proposed. `weight` [B] is the bit price.

    moments: decay of Adam's first and second moment; slowing: by what share steps get smaller from
    the beginning of a search to its end.
    """

    moments = (0.9, 0.98)
    slowing = 0.9

    @staticmethod
    def first_step(iterations: int, moves: int = 1) -> float:
        """The size of the first of so many steps, in quantisation steps, where none is given."""
        return 0.04

    def __init__(self, problem: Problem, settings: SearchSettings, start: Tensor) -> None:
        self._networks, self._distance = problem.networks, problem.distance
        self._x, self._settings = problem.x, settings
        self.rate, self.weight, self.allowed_bits = (
            problem.rate, problem.weight, problem.allowed_bits,
        )  # fmt: skip
        self._size = settings.step or self.first_step(settings.iterations, settings.moves)
        with torch.no_grad():
            self._reference = self._distance.reference(self._x)
        networks, weight = self._networks, self.weight
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

    def step(self, done: float) -> None:
        """One iteration; done: the share of the search that is behind, 0 to 1."""
        networks, settings = self._networks, self._settings
        quantise = networks.quantise
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
            if self._rounded is None:
                if self._whole_bits is None:
                    with torch.no_grad():
                        whole = networks.prior.bits(quantise(z, 0.0), self.rate)
                    self._whole_bits = whole.sum((1, 2))
                self._rounded = self._whole_bits / self._relaxed.clamp_min(1.0)
            self._steer(self._relaxed * self._rounded)
        if settings.method != "backprop":
            coupling = settings.coupling * self.weight[:, None, None]
            if settings.penalty is not None:
                coupling = torch.full_like(coupling, settings.penalty)
            gradient = gradient + coupling * (z - self._u + self._dual)
        self._move(gradient, done)
        self.candidates = [quantise(self.z, settings.dead_zone)]
        if settings.method != "backprop":
            self._u = quantise(self.z + self._dual, settings.dead_zone)
            self._dual = self._dual + self.z - self._u
            self.candidates.append(self._u)

    def _steer(self, taken: Tensor) -> None:
        """Dearer bits where rounded latents take more than is allowed, back to the price below."""
        if self.allowed_bits is None:
            return
        goal = 0.98 * self.allowed_bits
        if self._settings.steering is None:
            factor = torch.where(taken > goal, 1.06, 0.96)
        else:
            factor = (taken / goal).pow(self._settings.steering).clamp(0.9, 1.5)
        self._price = torch.maximum(self._price * factor, self.weight)

    def _move(self, gradient: Tensor, done: float) -> None:
        """Adam's step (Kingma & Ba 2015)."""
        (keep, keep_square), dtype = self.moments, self.z.dtype
        size = self._size * (1.0 - self.slowing * done)
        self.age = self.age + 1.0
        self._first = self._first.lerp(gradient, 1.0 - keep)
        self._second = self._second.lerp(gradient.square(), 1.0 - keep_square)
        mean = self._first / (1 - keep**self.age).to(dtype)
        scale = (self._second / (1 - keep_square**self.age).to(dtype)).sqrt() + 1e-9
        reach = self._networks.reach
        self.z = (self.z.detach() - size * mean / scale).clamp(-reach, reach)
