"""The photo preset's latents and their prices, as the search of one window sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.device import fast_in_half
from codec.entropy.image_context import MAX_INDEX
from codec.entropy.logistic import logistic_bits
from codec.image.container import Area
from codec.image.tiling import Window, WindowTask, frames_of, map_of

if TYPE_CHECKING:
    from models.folder import PhotoModel


def round_latents(z: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Q: nearest whole number within range, values next to zero drawn to it by the dead zone."""
    if dead_zone == 0.0:
        return z.round().clamp(-MAX_INDEX, MAX_INDEX)
    magnitude = (z.abs() + 0.5 - dead_zone).floor().clamp(0.0, MAX_INDEX)
    return torch.copysign(magnitude, z)


def tile_bits(
    networks: PhotoModel, tiles: Sequence[Area], z: Tensor, rate: Tensor, context: Tensor
) -> Tensor:
    """Bits of a map [B, C, h, w] whose tiles (in its own coordinates) are coded on their own.

    context: the same, rounded; or one [1, C, h, w] that all share.
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


@dataclass(frozen=True)
class Prices:
    """Bits of whole indices [1, S, C], and what other indices would take instead.

    own: as they are; below, above: with the index one less or more; later: what the bits of all
    indices after it grow by for each that it grows.
    """

    own: Tensor
    below: Tensor
    above: Tensor
    later: Tensor


class WindowPrior:
    """The prior over frames [B, S, C] of a window."""

    def __init__(self, networks: PhotoModel, window: Window, half: bool) -> None:
        self._networks, self._window, self._half = networks, window, half

    def prices(self, u: Tensor, rate: Tensor) -> Prices:
        """Of whole indices u [1, S, C] and their neighbours, from one run of the prior."""
        window, whole = self._window, map_of(u, self._window.area)
        maps = [torch.zeros_like(whole) for _ in range(4)]
        for area in window.tiles:
            z = area.of(whole)
            known = z.clone().requires_grad_(True)
            with torch.autocast(u.device.type, torch.bfloat16, enabled=self._half):
                location, log_scale = self._networks.prior(known, rate)
            own = logistic_bits(z, location, log_scale)
            (later,) = torch.autograd.grad(own.sum(), known)
            location, log_scale = location.detach(), log_scale.detach()
            below, above = (logistic_bits(z + d, location, log_scale) for d in (-1.0, 1.0))
            for part, values in zip(maps, (own.detach(), below, above, later), strict=True):
                area.of(part)[:] = values
        return Prices(*(frames_of(part) for part in maps))

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of z; context [1, S, C] may be shared by several z."""
        window = self._window
        if context is None:
            context = z
        elif len(context) == len(z):
            # Whole numbers as they are, with the gradient of the relaxed ones: what an index makes
            # those after it cost is as much its price as its own bits.
            context = context + (z - z.detach())
        known = map_of(context, window.area)
        # The same number format everywhere: bits with and without gradient must agree.
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self._half):
            bits = tile_bits(self._networks, window.tiles, map_of(z, window.area), rate, known)
        return frames_of(bits.float())


class PhotoTask(WindowTask):
    """One window of a picture made ready for the search; prior: of its latents."""

    def __init__(
        self, networks: PhotoModel, window: Window, z: Tensor, x: Tensor, size: tuple[int, int]
    ) -> None:
        """As `WindowTask`."""
        self.prior = WindowPrior(networks, window, fast_in_half(z.device))
        super().__init__(
            window.area, z, x, size, networks.generator, self.prior, round_latents, MAX_INDEX
        )
