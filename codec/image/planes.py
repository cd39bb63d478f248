"""Between pictures and what networks see: planes padded to whole cells, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.errors import BadStream
from codec.image.container import STRIDE, ImageFile, ImageHeader
from codec.image.pictures import Picture, unpack_alpha

_ROWS = 256  # of pixels that are rounded at once


def padded_planes(picture: Picture, header: ImageHeader) -> Tensor:
    """The picture mirrored out to whole cells: [1, 3, 16 * rows, 16 * columns] in [0, 1]."""
    rows, columns = header.cells
    padded = np.pad(
        picture.rgb,
        ((0, rows * STRIDE - picture.height), (0, columns * STRIDE - picture.width), (0, 0)),
        mode="symmetric",
    )
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255.0


def picture_of(file: ImageFile, y: Tensor, notes: list[str]) -> Picture:
    """A drawn picture y [1, 3, >= height, >= width] in [0, 1] with the alpha plane of its file.

    notes: what was wrong beside what the file's own notes say.
    """
    header = file.header
    rgb = np.empty((header.height, header.width, 3), np.uint8)
    for top in range(0, header.height, _ROWS):
        # In strips: in numbers of 32 bits, copies of a whole picture would be large.
        rows = slice(top, min(top + _ROWS, header.height))
        strip = (255.0 * y[0, :, rows, : header.width]).round().to(torch.uint8)
        rgb[rows] = strip.permute(1, 2, 0).cpu().numpy()
    if header.grey:
        rgb = np.repeat(rgb[:, :, 1:2], 3, axis=2)
    alpha = None
    notes = [*file.notes, *notes]
    if header.alpha:
        alpha = np.full(rgb.shape[:2], 255, np.uint8)
        if file.alpha is not None and file.alpha.whole:
            try:
                alpha = unpack_alpha(file.alpha.data, header.height, header.width)
            except BadStream as error:
                notes.append(str(error))
    return Picture(rgb, alpha, header.grey, notes)
