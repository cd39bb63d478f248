"""Original, decoded and difference of a picture side by side, as a PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.image.pictures import Picture

_GAP = 8  # white pixels between the pictures
_AMPLIFIED = 4  # times the difference, around mid grey
_WIDEST = 16_384


def preview(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] twice -> [H, 3W + 2 gaps, 3]."""
    difference = 128 + _AMPLIFIED * (decoded.astype(np.int32) - original)
    gap = np.full((original.shape[0], _GAP, 3), 255, np.uint8)
    shown = difference.clip(0, 255).astype(np.uint8)
    return np.concatenate((original, gap, decoded, gap, shown), axis=1)


def preview_png(original: Picture, decoded: NDArray[np.uint8]) -> bytes:
    """The file of it; decoded is [H, W, 3 or 4]. Scaled down if it is very wide."""
    image = Image.fromarray(preview(original.rgb, decoded[:, :, :3]))
    image.thumbnail((_WIDEST, _WIDEST))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
