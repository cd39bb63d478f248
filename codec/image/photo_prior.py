"""The photo preset's prior over one window of a picture, for the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.device import fast_in_half
from codec.entropy.image_context import MAX_INDEX
from codec.entropy.logistic import Effects, step_bits_around
from codec.image.container import Area
from codec.image.tiling import Window, WindowTask, frames_of, map_of
from codec.search.problem import StepModel, quantise

if TYPE_CHECKING:
    from models.folder import PhotoModel


def round_latents(z: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Q: nearest whole numbers within range; the dead zone widens the interval that becomes 0."""
    return quantise(z, dead_zone, MAX_INDEX)


def tile_bits(
    networks: PhotoModel, tiles: Sequence[Area], z: Tensor, rate: Tensor, context: Tensor
) -> Tensor:
    """Bits of a map [B, C, h, w] whose tiles (in its own coordinates) are coded independently.

    context: the rounded map, or one [1, C, h, w] shared by the whole batch.
    """
    out = torch.zeros_like(z)
    pieces = []
    for area in tiles:
        bits = networks.prior.bits(area.of(z), rate, area.of(context))
        if len(tiles) == 1:
            return bits
        bottom, right = out.shape[2] - area.bottom, out.shape[3] - area.right
        pieces.append(F.pad(bits, (area.left, right, area.top, bottom)))
    return torch.stack(pieces).sum(0)


class WindowPrior:
    """The prior over frames [B, S, C] of a window."""

    def __init__(self, networks: PhotoModel, window: Window, half: bool) -> None:
        self._networks, self._window, self._half = networks, window, half

    def step_bits(self, u: Tensor, rate: Tensor) -> Effects:
        """`step_bits` of whole indices u [1, S, C]."""
        return self.step_bits_around(u, rate)(u)

    def step_bits_around(self, u: Tensor, rate: Tensor) -> Callable[[Tensor], Effects]:
        """`step_bits` of whole indices near u [1, S, C]."""
        window = self._window
        whole = map_of(u, window.area)
        tiles = [(a, step_bits_around(self._distribution, a.of(whole), rate)) for a in window.tiles]

        def found(u: Tensor) -> Effects:
            whole = map_of(u, window.area)
            own, lower, higher = (torch.zeros_like(whole) for _ in range(3))
            for area, effects in tiles:
                for part, values in zip((own, lower, higher), effects(area.of(whole)), strict=True):
                    area.of(part)[:] = values
            return frames_of(own), frames_of(lower), frames_of(higher)

        return found

    def _distribution(self, q: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(q.device.type, torch.bfloat16, enabled=self._half):
            location, log_scale = self._networks.prior(q, rate)
        return location, log_scale

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of z [B, S, C]; the whole batch may share a context [1, S, C]."""
        window = self._window
        if context is None:
            context = z
        elif len(context) == len(z):
            # Straight-through: the price of an index includes what it makes later ones cost.
            context = context + (z - z.detach())
        known = map_of(context, window.area)
        # The same number format everywhere: bits with and without gradient must agree.
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self._half):
            bits = tile_bits(self._networks, window.tiles, map_of(z, window.area), rate, known)
        return frames_of(bits.float())


class PhotoTask(WindowTask):
    """One window of a picture as a search problem."""

    def __init__(
        self, networks: PhotoModel, window: Window, z: Tensor, x: Tensor, size: tuple[int, int]
    ) -> None:
        """As `WindowTask`."""
        self.prior = WindowPrior(networks, window, fast_in_half(z.device))
        super().__init__(
            window.area, z, x, size, networks.generator, self.prior, round_latents, MAX_INDEX
        )
        generator = networks.generator
        energy = generator.basis.detach().square().sum((1, 2, 3))
        steps = StepModel(
            self.prior.step_bits,
            lambda rate: energy / generator.gains(rate)[0, :, 0, 0].square(),
            lambda x: self._around_cells(x.sum(1, keepdim=True)).reshape(1, -1, 1),
            self.prior.step_bits_around,
        )
        self.networks = replace(self.networks, steps=steps)

    def _around_cells(self, x: Tensor) -> Tensor:
        """Sums of a map [1, 1, H, W] over cells, as means over 3x3 cells [1, 1, h, w]."""
        cells = self.by_cell(x)
        return F.avg_pool2d(cells, 3, stride=1, padding=1, count_include_pad=False)
