"""Compressive sensing: recovers pictures from random Gaussian measurements y = A x + n of tiles.

Every tile of 128x128 pixels is measured M times and recovered by a search for the latents that

    minimise ||A G(z) - y||^2 / (2 s^2) + R(z).

With `ganz`, G has the random first layer of ratio 6, as in Smedemark-Margulies, Park & Vann (2020),
and R is ||z||^2 / 2, since the layer is scaled for Gaussian latents. With `photo`, G is the photo
codec's generator and R the bits of the latents under its prior. s falls during the search, from a
value at which only coarse structure matters to the level of the noise and the generator's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.device import choose_device
from codec.entropy.logistic import logistic_bits
from codec.errors import BadInput
from codec.image.ganz import PIXELS, SIDE, cut_tiles, join_tiles
from codec.image.ganz_search import descend
from codec.image.presets import find_image_preset
from codec.image.settings import SearchProgress

if TYPE_CHECKING:
    from models.folder import GanzModel, PhotoModel


ModelName = Literal["photo", "ganz"]
COLOURS = 3
LARGEST_SHARE = 1.0 / 3.0  # largest M / N: matrices of 1.07 GB
MOST_JOINT = 10_922  # the largest M of one matrix for all colours: 2 GiB
LEAST_MEASUREMENTS = 48
MAX_TILES = 64
MAX_NOISE = 1.0
DEFAULT_PRIOR: ModelName = "ganz"
DEFAULT_STEPS = {"photo": 80, "ganz": 200}
PHOTO_RATE = 2.0  # the rate point at which the prior counts bits
# Keys of the random numbers, beside those of the colours' matrices.
_NOISE_STREAM, _JOINT_STREAM = COLOURS, COLOURS + 1
_ROUNDS = 5
_FIRST_SIGMA = 0.15
_LAST_SIGMA = {"photo": 0.01, "ganz": 0.012}
Report = Callable[[float, int], None]


class Matrix:
    """Random Gaussian matrices with entries of variance one over the number of columns.

    A measurement is then about as large as the root mean square of the pixels. There is a matrix
    for each colour, [M_c, 16384], with numbers of rows that differ by at most one; or a *joint* one
    for all, [M, 49152], as in Smedemark-Margulies et al. and in Bora et al. (2017).
    """

    def __init__(self, measurements: int, seed: int = 0, *, joint: bool = False) -> None:
        """Raises BadInput for too few measurements, or more than fit in memory."""
        most = MOST_JOINT if joint else int(PIXELS * LARGEST_SHARE)
        if not LEAST_MEASUREMENTS <= measurements <= most:
            raise BadInput(
                f"{measurements} measurements of {PIXELS} numbers: there can be "
                f"{LEAST_MEASUREMENTS} to {most}"
            )
        self.parts = []
        count = 1 if joint else COLOURS
        for number in range(count):
            rows, columns = (measurements + number) // count, PIXELS // count
            stream = _JOINT_STREAM if joint else number
            random = np.random.Generator(np.random.Philox(key=[seed, stream]))
            part = random.standard_normal((rows, columns), dtype=np.float32)
            part *= 1.0 / math.sqrt(columns)
            self.parts.append(torch.from_numpy(part))

    def to(self, device: torch.device) -> Matrix:
        """Move the matrix to a device, in place."""
        self.parts = [part.to(device) for part in self.parts]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """A x of a picture [1, 3, 128, 128]: [M]."""
        planes = x.reshape(len(self.parts), -1)
        return torch.cat([part @ plane for part, plane in zip(self.parts, planes, strict=True)])

    def mean_colours(self, y: Tensor) -> Tensor:
        """The uniform picture whose measurements are nearest to y: [1, 3, 128, 128]."""
        means, at = [], 0
        for part in self.parts:
            columns = part.unflatten(1, (-1, SIDE * SIDE)).sum(2)
            wanted = columns.T @ y[at : at + len(part)]
            means.append(torch.linalg.solve(columns.T @ columns, wanted))
            at += len(part)
        even = torch.cat(means).clamp(0.0, 1.0)[None, :, None, None]
        return even.expand(1, COLOURS, SIDE, SIDE).contiguous()


def measure(matrix: Matrix, x: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    """y = A x + n [M]; noise: standard deviation of n, in units of pixels in [0, 1]."""
    y = matrix(x)
    if noise > 0.0:
        random = np.random.Generator(np.random.Philox(key=[seed, _NOISE_STREAM]))
        y = y + noise * torch.from_numpy(random.standard_normal(len(y), dtype=np.float32)).to(y)
    return y


@dataclass(frozen=True)
class Annealing:
    """Rounds of `steps` steps each; s falls geometrically from round to round, down to `last`."""

    rounds: int
    steps: int
    last: float

    def sigma(self, number: int) -> float:
        """s of a round."""
        share, last = number / max(self.rounds - 1, 1), self.last
        return math.exp((1.0 - share) * math.log(max(_FIRST_SIGMA, last)) + share * math.log(last))

    def run(
        self,
        z: Tensor,
        objective: Callable[[Tensor, float], Callable[[Tensor], Tensor]],
        report: Report | None = None,
        units: Tensor | float = 1.0,
    ) -> Tensor:
        """Run all rounds from latents z; returns the latents found.

        objective: takes the latents that a round starts from and 1 / (2 s^2), returns the cost as a
        function of latents divided by `units`; report: takes the share and the steps done.
        """
        for number in range(self.rounds):
            cost = objective(z, 0.5 / self.sigma(number) ** 2)
            z = descend(cost, z / units, self.steps).latents * units
            if report is not None:
                report((number + 1) / self.rounds, (number + 1) * self.steps)
        return z


def recover_ganz(
    model: GanzModel, matrix: Matrix, y: Tensor, annealing: Annealing, report: Report | None = None
) -> Tensor:
    """Recover the picture [1, 3, 128, 128] in [0, 1] from measurements y [M] with GANZ."""
    body = model.generator.body
    layer = model.first_layer(model.generator.shape.most_latents)

    def objective(start: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
        def cost(z: Tensor) -> Tensor:
            misfit = (matrix(body(layer(z))) - y).square().sum()
            return (weight * misfit + 0.5 * z.square().sum()) / len(y)

        return cost

    z = annealing.run(torch.zeros(1, layer.latents, device=y.device), objective, report)
    with torch.no_grad():
        picture: Tensor = body(layer(z)).clamp(0.0, 1.0)
    return picture


def recover_photo(
    networks: PhotoModel,
    matrix: Matrix,
    y: Tensor,
    annealing: Annealing,
    report: Report | None = None,
) -> Tensor:
    """Recover the picture [1, 3, 128, 128] in [0, 1] from measurements y [M] with the photo model.

    The prior's context in each round is the rounded latents of the previous round.
    """
    generator = networks.generator
    rates = torch.full((1,), PHOTO_RATE, device=y.device)
    with torch.no_grad():
        # Divided by their gains, latents are in picture units, where the transform is orthonormal.
        gains = generator.gains(rates)
        start = networks.encoder(matrix.mean_colours(y), rates)

    def objective(start: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
        weight /= math.log(2.0)
        with torch.no_grad():
            location, log_scale = networks.prior(start.round(), rates)

        def cost(w: Tensor) -> Tensor:
            latents = w * gains
            misfit = (matrix(generator(latents, rates)) - y).square().sum()
            return (weight * misfit + logistic_bits(latents, location, log_scale).sum()) / len(y)

        return cost

    z = annealing.run(start, objective, report, gains)
    with torch.no_grad():
        picture: Tensor = generator(z, rates).clamp(0.0, 1.0)
    return picture


@dataclass(frozen=True)
class SenseSettings:
    """How pictures are measured and recovered.

    measurements: M, per tile; prior: the model that recovers the pictures; noise: standard
    deviation of the measurement noise, in units of pixels in [0, 1]; seed: of matrix and noise;
    steps: of the search; joint: whether one matrix measures all colours.
    """

    measurements: int
    prior: ModelName = DEFAULT_PRIOR
    noise: float = 0.0
    seed: int = 0
    steps: int | None = None
    joint: bool = False

    def __post_init__(self) -> None:
        if self.prior not in DEFAULT_STEPS:
            raise BadInput(f"unknown prior {self.prior!r} (photo or ganz)")
        if not 0.0 <= self.noise <= MAX_NOISE:
            raise BadInput(f"noise {self.noise:g} is not between 0 and {MAX_NOISE:g}")
        if self.steps is not None and not 1 <= self.steps <= 100_000:
            raise BadInput("a recovery takes 1 to 100000 steps")
        if self.seed < 0:
            raise BadInput("the seed must not be negative")

    @property
    def share(self) -> float:
        """M / N."""
        return self.measurements / PIXELS

    def annealing(self) -> Annealing:
        """Rounds and their steps."""
        steps = DEFAULT_STEPS[self.prior] if self.steps is None else self.steps
        rounds = min(_ROUNDS, steps)
        last = math.hypot(_LAST_SIGMA[self.prior], self.noise)
        return Annealing(rounds, -(-steps // rounds), last)


class Sensor:
    """A measurement matrix, and the model that pictures are recovered with.

    model: a folder to use in place of the prior's shipped weights. Raises BadInput for settings out
    of range, an unknown device or a model that cannot be used.
    """

    def __init__(
        self, settings: SenseSettings, device: str = "auto", model: str | Path | None = None
    ) -> None:
        from models.folder import load_ganz_model, load_photo_model

        self.settings = settings
        self.device = choose_device(device)
        matrix = Matrix(settings.measurements, settings.seed, joint=settings.joint)
        self.matrix = matrix.to(self.device)
        name = find_image_preset(settings.prior, model).model
        self._recover: Callable[[Matrix, Tensor, Annealing, Report], Tensor]
        if settings.prior == "ganz":
            self._recover = partial(recover_ganz, load_ganz_model(name).to(self.device))
        else:
            self._recover = partial(recover_photo, load_photo_model(name).to(self.device))

    def sense(
        self,
        rgb: NDArray[np.uint8],
        progress: Callable[[SearchProgress], None] | None = None,
    ) -> NDArray[np.uint8]:
        """Measure the tiles of a picture [H, W, 3] and recover it from the measurements.

        Raises BadInput for a picture with too many tiles.
        """
        height, width = rgb.shape[:2]
        columns = -(-width // SIDE)
        total = -(-height // SIDE) * columns
        if total > MAX_TILES:
            raise BadInput(
                f"a picture of {width}x{height} pixels has {total} tiles of {SIDE}x{SIDE}; sensing "
                f"takes at most {MAX_TILES}"
            )
        settings, annealing = self.settings, self.settings.annealing()
        found: list[Tensor | None] = []
        for number, tile in enumerate(cut_tiles(rgb)[0].to(self.device)):
            y = measure(self.matrix, tile[None], settings.noise, settings.seed + number)

            def report(share: float, steps: int, number: int = number) -> None:
                if progress is not None:
                    progress(SearchProgress((number + share) / total, None, steps))

            found.append(self._recover(self.matrix, y, annealing, report)[0])
        whole = join_tiles(found, columns)[0, :, :height, :width]
        return (255.0 * whole).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
