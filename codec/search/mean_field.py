"""Mean-field rounding: a search among whole latents that keeps a gradient.

A relaxed latent z stands for an independent random choice between the two whole numbers beside it,
with mean z. With r = z - ⌊z⌋ and κ the curvature of F, the expected cost of all choices together is

    F(x, G(z)) + ½ Σ κ r (1 - r) + λ E[bits],

to second order in F; the bits are those of the two neighbours, between which they are linear. Since
the second term cancels the curvature of the first, the minima are whole numbers. It is brought in
little by little, as mean-field annealing does (Peterson & Anderson, Complex Systems 1, 1987).

Stochastic Gumbel annealing (Yang, Bamler & Mandt, NeurIPS 2020) draws the choices instead; without
the noise of the draws the same cost is reached in a fraction of the steps. Unlike ADMM, which
compares relaxed bits, every step already knows what the rounding to come will cost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codec.entropy.logistic import Effects
from codec.search.admm import Descent
from codec.search.rdoq import curvature


class MeanField(Descent):
    """A descent on the expected cost of random rounding.

    cost: [B], that of the latents before the last step. For models whose latents are whole numbers;
    a step raises ValueError for others.
    """

    cost: Tensor

    # Kinks at whole numbers make old gradients useless sooner than on the smooth cost of ADMM.
    moments = (0.6, 0.8)
    slowing = 0.7

    _near: Callable[[Tensor], Effects] | None = None  # bits of latents near those last looked at
    _steps = 0

    @staticmethod
    def first_step(iterations: int, moves: int = 1) -> float:
        # Few steps cannot make good what the first ones, all of this size, do wrong; many need not
        # be large to get as far.
        one = min(0.05 + 0.035 * iterations, 0.18, max(0.05, 3.0 / max(iterations, 1)))
        return one * moves**-0.6

    def step(self, done: float) -> None:
        networks, model = self._networks, self._networks.steps
        if model is None:
            raise ValueError("the latents of this model are not whole numbers")
        z = self.z.requires_grad_(True)
        y = networks.fast_generator(z, self.rate)
        away, along = self._distance.with_slope(self._reference, y)
        # As one number's gradient: to be given that of y, autograd would load a computer algebra.
        (slope,) = torch.autograd.grad((y * along).sum(), z)
        z = z.detach()
        stiff = curvature(model, y.detach() - self._x, along, self.rate)
        whole = networks.quantise(z, 0.0)
        near = self._look(whole)
        bits, lower, higher = near(whole) if near else model.bits(whole, self.rate)
        self._steer(bits.sum((1, 2)))
        offset = z - whole
        towards, kink = _between(offset, lower, higher)
        expected = (bits + offset * towards).sum((1, 2))
        spread = (stiff * offset.abs() * (1.0 - offset.abs())).sum((1, 2))
        self.cost = away + 0.5 * spread + self.weight * expected
        price = self._price[:, None, None].to(z.dtype)
        first, last = self._settings.firmness
        firm = (first + (last - first) * done) * stiff
        self._move(slope + price * towards + firm * kink, done)
        if near:
            for _ in range(self._settings.moves - 1):
                whole = networks.quantise(self.z, 0.0)
                _, lower, higher = near(whole)
                towards, kink = _between(self.z - whole, lower, higher)
                here = slope + stiff * (self.z - z)
                self._move(here + price * towards + firm * kink, done)
        self.candidates = [networks.quantise(self.z, self._settings.dead_zone)]

    def _look(self, whole: Tensor) -> Callable[[Tensor], Effects] | None:
        """Bits of latents near whole ones, by a prior that was asked lately; None if the model does
        not tell them, or they serve for one move only."""
        model, settings = self._networks.steps, self._settings
        if model is None or model.around is None or settings.moves * settings.looks == 1:
            return None
        if self._near is None or self._steps % settings.looks == 0:
            self._near = model.around(whole, self.rate)
        self._steps += 1
        return self._near


def _between(offset: Tensor, lower: Tensor, higher: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of latents at an `offset` from whole ones: of their expected bits, and of half their
    spread r (1 - r)."""
    up = offset >= 0
    return torch.where(up, higher, -lower), torch.where(up, 0.5, -0.5) - offset
