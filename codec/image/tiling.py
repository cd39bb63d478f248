"""Latent maps of any size through the networks, a window at a time, with no visible seam.

A window is widened by as many cells as the networks can see and the widening cut off again, so that
the pieces are what the whole would have been, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codec.image.container import STRIDE, Tile
from models.networks.photo import Encoder, Generator

WINDOW = 64  # cells a window is wide and high at most


class Latents(Protocol):
    """The sizes that maps need to know of."""

    @property
    def channels(self) -> int: ...


class Seeing(Protocol):
    """A network over maps of another system, which knows itself how far it sees."""

    @property
    def shape(self) -> Latents: ...

    @property
    def sight(self) -> int: ...

    def __call__(self, z: Tensor, rate: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Area:
    """A rectangle of cells: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of_tile(cls, tile: Tile) -> Area:
        return cls(tile.top, tile.left, tile.top + tile.height, tile.left + tile.width)

    def widened(self, cells: int, rows: int, columns: int) -> Area:
        """With `cells` more on every side, within a map of rows x columns."""
        return Area(
            max(self.top - cells, 0),
            max(self.left - cells, 0),
            min(self.bottom + cells, rows),
            min(self.right + cells, columns),
        )

    def of(self, x: Tensor, unit: int = 1) -> Tensor:
        """This part of a map [..., rows * unit, columns * unit]."""
        return x[..., self.top * unit : self.bottom * unit, self.left * unit : self.right * unit]

    def within(self, outer: Area) -> Area:
        """This rectangle in the coordinates of one around it."""
        return Area(
            self.top - outer.top,
            self.left - outer.left,
            self.bottom - outer.top,
            self.right - outer.left,
        )


def areas(rows: int, columns: int, side: int = WINDOW) -> Iterator[Area]:
    """A map cut into windows."""
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            yield Area(top, left, min(top + side, rows), min(left + side, columns))


def sight(network: Encoder | Generator | Seeing) -> int:
    """How many cells away a cell can make a difference."""
    if not isinstance(network, (Encoder, Generator)):
        return network.sight
    shape = network.shape
    if isinstance(network, Encoder):
        return 1 + -(-shape.encoder_blocks // 2)
    return 1 + shape.deep_blocks + -(-shape.blocks // 2)


@torch.no_grad()
def encode_map(
    encoder: Encoder | Seeing, x: Tensor, rate: float, part: Area | None = None
) -> Tensor:
    """Unrounded latents [1, C, rows, columns] of a padded picture x [1, 3, H, W], or of a part."""
    rows, columns = x.shape[2] // STRIDE, x.shape[3] // STRIDE
    whole = part or Area(0, 0, rows, columns)
    out = x.new_empty(1, encoder.shape.channels, whole.bottom - whole.top, whole.right - whole.left)
    rates = x.new_full((1,), rate)
    for piece in areas(whole.bottom - whole.top, whole.right - whole.left):
        area = Area(
            piece.top + whole.top, piece.left + whole.left,
            piece.bottom + whole.top, piece.right + whole.left,
        )  # fmt: skip
        wide = area.widened(sight(encoder), rows, columns)
        latents = encoder(wide.of(x, STRIDE), rates)
        piece.of(out)[:] = area.within(wide).of(latents)
    return out


@torch.no_grad()
def decode_map(generator: Generator | Seeing, z: Tensor, rate: float) -> Tensor:
    """The picture [1, 3, H, W] in [0, 1] of latents [1, C, rows, columns]."""
    rows, columns = z.shape[2:]
    out = z.new_empty(1, 3, rows * STRIDE, columns * STRIDE)
    rates = z.new_full((1,), rate)
    for area in areas(rows, columns):
        wide = area.widened(sight(generator), rows, columns)
        y = generator(wide.of(z), rates)
        area.of(out, STRIDE)[:] = area.within(wide).of(y, STRIDE)
    return out.clamp_(0.0, 1.0)
