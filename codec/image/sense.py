"""Compressive sensing: a picture of 128x128 pixels from M random Gaussian measurements y = A x + n.

What is sought are the latents whose drawing would have been measured like that, at the price of
their improbability:  min ||A G(z) - y||^2 / (2 s^2) + R(z).  With `ganz`, G has the random first
layer of ratio 6, as in the paper, and R says that latents are Gaussian, which is how the layer is
scaled. With `photo`, G is the generator of the photo codec and R are the bits that its prior
charges for the latents. s falls while the search goes on, from where only large shapes matter to
what the noise and the generator's own error leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from codec.errors import BadInput
from codec.image.ganz import PIXELS, SIDE

if TYPE_CHECKING:
    from models.ganz.store import GanzModel
    from models.networks.photo import ImageNetworks

Prior = Literal["photo", "ganz"]
COLOURS = 3
LARGEST_SHARE = 1.0 / 3.0  # of M in N: 1.07 GB of matrix
LEAST_MEASUREMENTS = 48
_FIRST_SIGMA = 0.15
_LAST_SIGMA = {"ganz": 0.012, "photo": 0.01}
Report = Callable[[float, float, int], None]


class Matrix:
    """A random Gaussian matrix for each colour: [M_c, 16384], entries of variance 1 / 16384.

    A measurement is then about as large as the root mean square of the pixels. Rows are shared out
    to the colours as evenly as it goes.
    """

    def __init__(self, measurements: int, seed: int = 0) -> None:
        """Raises BadInput for too few measurements, or more than fit in memory."""
        most = int(PIXELS * LARGEST_SHARE)
        if not LEAST_MEASUREMENTS <= measurements <= most:
            raise BadInput(
                f"{measurements} measurements of {PIXELS} numbers: there can be "
                f"{LEAST_MEASUREMENTS} to {most}"
            )
        self.measurements = measurements
        self.parts = []
        for colour in range(COLOURS):
            rows = (measurements + colour) // COLOURS
            random = np.random.Generator(np.random.Philox(key=[seed, colour]))
            part = random.standard_normal((rows, SIDE * SIDE), dtype=np.float32)
            part *= 1.0 / SIDE
            self.parts.append(torch.from_numpy(part))

    def to(self, device: torch.device) -> Matrix:
        """Move it, in place."""
        self.parts = [part.to(device) for part in self.parts]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """A x of a picture [1, 3, 128, 128]: [M]."""
        planes = x.reshape(COLOURS, -1)
        return torch.cat([part @ plane for part, plane in zip(self.parts, planes, strict=True)])

    def mean_colours(self, y: Tensor) -> Tensor:
        """The even picture that was measured most nearly like that: [1, 3, 128, 128]."""
        means, at = [], 0
        for part in self.parts:
            column = part.sum(1)
            means.append((column @ y[at : at + len(part)]) / (column @ column))
            at += len(part)
        even = torch.stack(means).clamp(0.0, 1.0)[None, :, None, None]
        return even.expand(1, COLOURS, SIDE, SIDE).contiguous()


def measure(matrix: Matrix, x: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    """y = A x + n [M]; noise: standard deviation of n, in units of pixels in [0, 1]."""
    y = matrix(x)
    if noise > 0.0:
        random = np.random.Generator(np.random.Philox(key=[seed, COLOURS]))
        y = y + noise * torch.from_numpy(random.standard_normal(len(y), dtype=np.float32)).to(y)
    return y


@dataclass(frozen=True)
class Plan:
    """How a recovery goes: `rounds` of `steps` each; s falls geometrically from round to round."""

    rounds: int = 8
    steps: int = 10

    def sigma(self, number: int, last: float) -> float:
        """s of a round."""
        share = number / max(self.rounds - 1, 1)
        return math.exp((1.0 - share) * math.log(max(_FIRST_SIGMA, last)) + share * math.log(last))


def _silent(share: float, cost: float, steps: int) -> None:
    """Nobody is told."""


def recover_ganz(
    model: GanzModel, matrix: Matrix, y: Tensor, noise: float, plan: Plan, report: Report = _silent
) -> Tensor:
    """The picture [1, 3, 128, 128] in [0, 1] that GANZ finds for measurements y [M]."""
    from codec.image.ganz_search import descend

    body = model.generator.body
    layer = model.first_layer(model.generator.shape.most_latents)
    z = torch.zeros(1, layer.random.latents, device=y.device)
    last = math.hypot(_LAST_SIGMA["ganz"], noise)
    for number in range(plan.rounds):
        weight = 0.5 / plan.sigma(number, last) ** 2

        def cost(z: Tensor, weight: float = weight) -> Tensor:
            misfit = (matrix(body(layer(z))) - y).square().sum()
            return (weight * misfit + 0.5 * z.square().sum()) / len(y)

        found = descend(cost, z, plan.steps)
        z = found.latents
        report((number + 1) / plan.rounds, found.cost, (number + 1) * plan.steps)
    with torch.no_grad():
        picture: Tensor = body(layer(z)).clamp(0.0, 1.0)
    return picture


def recover_photo(
    networks: ImageNetworks,
    matrix: Matrix,
    y: Tensor,
    noise: float,
    plan: Plan,
    report: Report = _silent,
    rate: float = 2.0,
) -> Tensor:
    """The picture [1, 3, 128, 128] in [0, 1] that the photo model finds for measurements y [M].

    rate: the rate point at which the prior counts bits. In each round the prior's context are the
    latents of the round before, rounded.
    """
    from codec.image.ganz_search import descend
    from models.networks.speech import logistic_bits

    generator = networks.generator
    rates = torch.full((1,), rate, device=y.device)
    with torch.no_grad():
        gains = generator.gains(rates)
        z = networks.encoder(matrix.mean_colours(y), rates)
    last = math.hypot(_LAST_SIGMA["photo"], noise)
    for number in range(plan.rounds):
        weight = 0.5 / plan.sigma(number, last) ** 2 / math.log(2.0)
        with torch.no_grad():
            location, log_scale = networks.prior(z.round(), rates)

        # Divided by their gains latents are in picture units, where the transform is orthonormal.
        def cost(
            w: Tensor,
            weight: float = weight,
            location: Tensor = location,
            log_scale: Tensor = log_scale,
        ) -> Tensor:
            latents = w * gains
            misfit = (matrix(generator(latents, rates)) - y).square().sum()
            return (weight * misfit + logistic_bits(latents, location, log_scale).sum()) / len(y)

        found = descend(cost, z / gains, plan.steps)
        z = found.latents * gains
        report((number + 1) / plan.rounds, found.cost, (number + 1) * plan.steps)
    with torch.no_grad():
        picture: Tensor = generator(z, rates).clamp(0.0, 1.0)
    return picture
