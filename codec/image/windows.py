"""The latent search of one window of a picture, as the engine of `codec.search.admm` sees it.

The engine knows frames of latents [B, S, C]; here a frame is a window: S cells in raster order. The
latents around the window are held fixed, and so is everything the window cannot reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.image.container import STRIDE, Tile
from codec.image.tiling import Area, sight
from codec.search.admm import Networks
from models.networks.photo import MAX_INDEX, Generator, ImageNetworks
from models.networks.speech import logistic_bits

# Cells around a window whose pixels it shapes noticeably; they count in its distance.
MARGIN = 1


def round_latents(z: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Q: nearest whole number within range, values next to zero drawn to it by the dead zone."""
    if dead_zone == 0.0:
        return z.round().clamp(-MAX_INDEX, MAX_INDEX)
    magnitude = (z.abs() + 0.5 - dead_zone).floor().clamp(0.0, MAX_INDEX)
    return torch.copysign(magnitude, z)


def tile_bits(
    networks: ImageNetworks, tiles: Sequence[Tile], z: Tensor, rate: Tensor, context: Tensor
) -> Tensor:
    """Bits of a map [B, C, h, w] whose tiles (in its own coordinates) are coded on their own.

    context: the same, rounded; or one [1, C, h, w] that all share.
    """
    out = torch.zeros_like(z)
    pieces = []
    for tile in tiles:
        area = Area.of_tile(tile)
        bits = networks.prior.bits(area.of(z), rate, area.of(context))
        if len(tiles) == 1:
            return bits
        bottom, right = out.shape[2] - area.bottom, out.shape[3] - area.right
        pieces.append(F.pad(bits, (area.left, right, area.top, bottom)))
    return torch.stack(pieces).sum(0)


@dataclass(frozen=True)
class Window:
    """A rectangle of whole tiles that is searched at once."""

    area: Area
    tiles: tuple[Tile, ...]  # in the window's coordinates

    @property
    def shape(self) -> tuple[int, int]:
        return self.area.bottom - self.area.top, self.area.right - self.area.left

    def latents(self, z: Tensor) -> Tensor:
        """Its part of a map [1, C, rows, columns] as a frame [1, S, C]."""
        return self.frames(self.area.of(z))

    def frames(self, part: Tensor) -> Tensor:
        """Maps [B, C, h, w] of the window as frames [B, S, C]."""
        return part.permute(0, 2, 3, 1).reshape(len(part), -1, part.shape[1])

    def as_map(self, frames: Tensor) -> Tensor:
        """Frames [B, S, C] as maps [B, C, h, w]."""
        return frames.reshape(len(frames), *self.shape, -1).permute(0, 3, 1, 2)


def cut_windows(tiles: Sequence[Tile], side: int) -> list[Window]:
    """Neighbouring tiles gathered into windows of at most `side` cells (or one tile)."""
    tops = _gather(sorted({(t.top, t.top + t.height) for t in tiles}), side)
    lefts = _gather(sorted({(t.left, t.left + t.width) for t in tiles}), side)
    windows = []
    for top, bottom in tops:
        for left, right in lefts:
            inside = tuple(
                Tile(t.top - top, t.left - left, t.height, t.width)
                for t in tiles
                if top <= t.top < bottom and left <= t.left < right
            )
            windows.append(Window(Area(top, left, bottom, right), inside))
    return windows


def _gather(spans: list[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in spans:
        if out and end - out[-1][0] <= side:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


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

    def __init__(self, networks: ImageNetworks, window: Window, half: bool) -> None:
        self._networks, self._window, self._half = networks, window, half

    def prices(self, u: Tensor, rate: Tensor) -> Prices:
        """Of whole indices u [1, S, C] and their neighbours, from one run of the prior."""
        window, whole = self._window, self._window.as_map(u)
        maps = [torch.zeros_like(whole) for _ in range(4)]
        for tile in window.tiles:
            area = Area.of_tile(tile)
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
        return Prices(*(window.frames(part) for part in maps))

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits of z; context [1, S, C] may be shared by several z."""
        window = self._window
        if context is None:
            context = z
        elif len(context) == len(z):
            # Whole numbers as they are, with the gradient of the relaxed ones: what an index makes
            # those after it cost is as much its price as its own bits.
            context = context + (z - z.detach())
        known = window.as_map(context)
        # The same number format everywhere: bits with and without gradient must agree.
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self._half):
            bits = tile_bits(self._networks, window.tiles, window.as_map(z), rate, known)
        return bits.float().permute(0, 2, 3, 1).reshape(z.shape)


class WindowTask:
    """One window of a picture made ready for the search.

    networks: what the engine calls; prior: the one among them; target: the pixels that count,
    [1, 3, H, W].
    """

    def __init__(
        self,
        networks: ImageNetworks,
        window: Window,
        z: Tensor,
        x: Tensor,
        size: tuple[int, int],
        half: bool,
    ) -> None:
        """z: the picture's map [1, C, rows, columns]; x: its padded pixels; size: (height, width)
        without the padding, which does not count; half: gradients in bfloat16."""
        rows, columns = z.shape[2:]
        generator = networks.generator
        self.window = window
        wide = window.area.widened(sight(generator) + MARGIN, rows, columns)
        seen = window.area.widened(MARGIN, rows, columns)
        bottom = min(seen.bottom * STRIDE, size[0])
        right = min(seen.right * STRIDE, size[1])
        self.target = x[..., seen.top * STRIDE : bottom, seen.left * STRIDE : right].contiguous()
        self._around = wide.of(z).clone()
        self._inner = window.area.within(wide)
        self._seen = window.area.within(seen)
        self._crop = (
            slice((seen.top - wide.top) * STRIDE, bottom - wide.top * STRIDE),
            slice((seen.left - wide.left) * STRIDE, right - wide.left * STRIDE),
        )
        self.prior = WindowPrior(networks, window, half)
        self.networks = Networks(
            encoder=_no_encoder,
            generator=lambda frames, rate: self._decode(generator, frames, rate, False),
            prior=self.prior,
            sketch=lambda frames, rate: self._decode(generator, frames, rate, half),
            quantise=round_latents,
            reach=MAX_INDEX,
        )

    def by_cell(self, x: Tensor) -> Tensor:
        """Sums over the pixels of each cell of the window, of a map like the target: [B, C, h, w].

        What lies beyond the picture counts for nothing.
        """
        missing = -x.shape[2] % STRIDE, -x.shape[3] % STRIDE
        x = F.pad(x, (0, missing[1], 0, missing[0]))
        return self._seen.of(F.avg_pool2d(x, STRIDE) * STRIDE**2)

    def _decode(self, generator: Generator, frames: Tensor, rate: Tensor, half: bool) -> Tensor:
        around = self._around.expand(len(frames), -1, -1, -1)
        area = self._inner
        middle = torch.cat(
            (
                around[:, :, area.top : area.bottom, : area.left],
                self.window.as_map(frames),
                around[:, :, area.top : area.bottom, area.right :],
            ),
            dim=3,
        )
        whole = torch.cat((around[:, :, : area.top], middle, around[:, :, area.bottom :]), dim=2)
        whole = whole.contiguous(memory_format=torch.channels_last)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=half):
            y: Tensor = generator(whole, rate)
        return y[:, :, self._crop[0], self._crop[1]]


def _no_encoder(x: Tensor, rate: Tensor) -> Tensor:
    raise ValueError("a window's search is given its start")
