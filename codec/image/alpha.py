"""Transparency of a picture: what it hides, and the coding of its plane."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream

Pixels = NDArray[np.uint8]
_Plane = NDArray[np.floating[Any]]
_SWEEPS = 4  # of smoothing at each size
_NOTHING = 128  # where nothing is visible


def pack_alpha(alpha: Pixels) -> bytes:
    """Compress an alpha plane [H, W] losslessly: differences to the row above, deflated."""
    rows = alpha.astype(np.uint8)
    differences = rows.copy()
    differences[1:] -= rows[:-1]
    return zlib.compress(differences.tobytes(), 9)


def unpack_alpha(data: bytes, height: int, width: int) -> Pixels:
    """Inverse of `pack_alpha`. Raises BadStream for other data; inflates no more than the plane."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, height * width + 1)
    except zlib.error:
        raise BadStream("the alpha plane is damaged") from None
    if len(plain) != height * width:
        raise BadStream("the alpha plane is damaged")
    differences = np.frombuffer(plain, np.uint8).reshape(height, width)
    return np.cumsum(differences, axis=0, dtype=np.uint8)


def fill_hidden(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Colours [H, W, 3] whose fully transparent pixels continue the visible ones smoothly.

    Nobody sees them, so they should cost no bits and leave no ringing at the edges of what is seen.
    They are interpolated from coarse to fine (pull-push: Gortler et al. 1996, section 3.4), with
    some relaxation towards a harmonic surface at each size.
    """
    visible = alpha > 0
    if visible.all():
        return rgb
    if not visible.any():
        return np.full_like(rgb, _NOTHING)
    filled = rgb.copy()
    for k in range(3):  # one by one, for the memory; equal colours stay equal
        plane = np.where(visible, rgb[:, :, k], 0).astype(np.float32)
        surface = _continued(plane, visible).round().clip(0, 255).astype(np.uint8)
        np.copyto(filled[:, :, k], surface, where=~visible)
    return filled


def _continued(plane: _Plane, known: NDArray[np.bool_]) -> _Plane:
    """A plane [H, W], 0 where it is not known, with all of it filled in."""
    if known.all():
        return plane
    counts = _quartered(known.astype(np.float32))
    coarse = _continued(_quartered(plane) / np.maximum(counts, 1), counts > 0)
    filled = np.where(known, plane, _doubled(coarse)[: plane.shape[0], : plane.shape[1]])
    for _ in range(_SWEEPS):
        around = np.pad(filled, 1, mode="edge")
        mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4
        filled = np.where(known, plane, mean)
    return filled


def _quartered(plane: _Plane) -> _Plane:
    """Sums of 2x2, of a plane extended by zeros to even sides."""
    height, width = plane.shape
    even = np.pad(plane, ((0, height % 2), (0, width % 2)))
    sums: _Plane = even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2).sum(axis=(1, 3))
    return sums


def _doubled(plane: _Plane) -> _Plane:
    """Twice as many pixels each way, linear between centres."""
    for axis in (0, 1):
        ends = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.moveaxis(np.pad(plane, ends, mode="edge"), axis, 0)
        twice = np.stack((padded[:-2] + 3 * padded[1:-1], 3 * padded[1:-1] + padded[2:]), axis=1)
        plane = np.moveaxis(twice.reshape(-1, *padded.shape[1:]) / 4, 0, axis)
    return plane
