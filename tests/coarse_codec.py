"""A picture codec that takes no time, and the table of a benchmark of pictures."""

from __future__ import annotations

import io
import zlib

import numpy as np

from models.evaluation.image_codecs import MeasuredCodec
from models.evaluation.image_results import Results


def coarse(name, settings, span=None, best=200):
    """A codec that keeps multiples of a step, smaller at a higher setting."""

    def encode(pixels, setting):
        step = max(1, round(best - setting))
        packed = zlib.compress((pixels // step).tobytes(), 9)
        return bytes([step, *(side // 8 for side in pixels.shape[:2])]) + packed

    def decode(data):
        step, height, width = data[:3]
        whole = np.frombuffer(zlib.decompress(data[3:]), np.uint8)
        whole = whole.reshape(8 * height, 8 * width, 3).astype(int)
        return np.clip(whole * step + step // 2, 0, 255).astype(np.uint8)

    return MeasuredCodec(name, tuple(settings), encode, decode, span)


def printed(found: Results) -> str:
    """The table of what was measured."""
    stream = io.StringIO()
    found.print(stream)
    return stream.getvalue()
