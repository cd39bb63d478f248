"""Compressive sensing of whole pictures: tiles of 128x128 pixels, each measured and recovered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from codec.device import choose_device
from codec.errors import BadInput
from codec.image.ganz import PIXELS, SIDE, cut_tiles, join_tiles
from codec.image.presets import find_image_preset
from codec.image.sense import Matrix, Plan, Prior, measure, recover_ganz, recover_photo
from codec.image.settings import Progress

MAX_TILES = 64
MAX_NOISE = 1.0
DEFAULT_PRIOR: Prior = "ganz"
DEFAULT_STEPS = {"photo": 80, "ganz": 200}
_ROUNDS = 5


@dataclass(frozen=True)
class SenseSettings:
    """How pictures are measured and recovered.

    measurements: M, of each tile; prior: what the recovery knows of pictures; noise: standard
    deviation of the measurements' noise, in units of pixels in [0, 1]; seed: of matrix and noise;
    steps: of the search.
    """

    measurements: int
    prior: Prior = DEFAULT_PRIOR
    noise: float = 0.0
    seed: int = 0
    steps: int | None = None

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

    def plan(self) -> Plan:
        """Rounds and their steps."""
        steps = DEFAULT_STEPS[self.prior] if self.steps is None else self.steps
        rounds = min(_ROUNDS, steps)
        return Plan(rounds, -(-steps // rounds))


class Sensor:
    """A measurement matrix and the model that knows what pictures look like.

    Raises BadInput for settings out of range, an unknown device or a model that cannot be used.
    """

    def __init__(self, settings: SenseSettings, device: str = "auto") -> None:
        self.settings = settings
        self.device = choose_device(device)
        self.matrix = Matrix(settings.measurements, settings.seed).to(self.device)
        family = find_image_preset(settings.prior).family
        if settings.prior == "ganz":
            from models.ganz.store import load_ganz_model

            self.ganz = load_ganz_model(family).to(self.device)
        else:
            from models.image.store import load_image_model

            self.photo = load_image_model(family).networks.to(self.device)

    def sense(
        self,
        rgb: NDArray[np.uint8],
        progress: Callable[[Progress], None] | None = None,
    ) -> NDArray[np.uint8]:
        """A picture [H, W, 3] as recovered from measurements of its tiles, mirrored out.

        Raises BadInput for a picture of too many tiles.
        """
        height, width = rgb.shape[:2]
        rows, columns = -(-height // SIDE), -(-width // SIDE)
        total = rows * columns
        if total > MAX_TILES:
            raise BadInput(
                f"a picture of {width}x{height} pixels is {total} tiles of {SIDE}x{SIDE}, sensing "
                f"takes {MAX_TILES}"
            )
        tiles, _ = cut_tiles(rgb)
        settings = self.settings
        found: list[torch.Tensor | None] = []
        for number, tile in enumerate(tiles.to(self.device)):
            y = measure(self.matrix, tile[None], settings.noise, settings.seed + number)

            def report(share: float, cost: float, steps: int, number: int = number) -> None:
                if progress is not None:
                    progress(Progress((number + share) / total, None, steps))

            plan, noise = settings.plan(), settings.noise
            if settings.prior == "ganz":
                drawn = recover_ganz(self.ganz, self.matrix, y, noise, plan, report)
            else:
                drawn = recover_photo(self.photo, self.matrix, y, noise, plan, report)
            found.append(drawn[0])
        whole = join_tiles(found, rows, columns)[0, :, :height, :width]
        return (255.0 * whole).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
