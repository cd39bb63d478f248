"""The baseline of the GANZ paper (section 3.4): the largest wavelet coefficients of each colour."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput

WAVELET = "db4"


def keep_largest(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """A picture [H, W, 3] of the `count` largest Daubechies-4 coefficients of each colour.

    Positions are not counted, as in the paper. The transform is periodic, and so orthonormal, and
    as deep as the sides can be halved. Raises BadInput without PyWavelets.
    """
    try:
        import pywt
    except ImportError as error:
        raise BadInput(f"{error}: install sotto with its bench extra, sotto[bench]") from error
    planes = []
    for plane in np.moveaxis(pixels.astype(np.float64), 2, 0):
        with warnings.catch_warnings():
            # Deeper than PyWavelets thinks useful: with few coefficients it is.
            warnings.simplefilter("ignore", UserWarning)
            parts = pywt.wavedec2(plane, WAVELET, "periodization", _depth(plane.shape))
        values, places = pywt.coeffs_to_array(parts)
        order = np.argsort(-np.abs(values), axis=None, kind="stable")
        kept = np.zeros_like(values)
        kept.flat[order[:count]] = values.flat[order[:count]]
        parts = pywt.array_to_coeffs(kept, places, "wavedec2")
        planes.append(pywt.waverec2(parts, WAVELET, "periodization"))
    whole = np.stack(planes, axis=2)[: pixels.shape[0], : pixels.shape[1]]
    return np.rint(whole.clip(0.0, 255.0)).astype(np.uint8)


def _depth(shape: tuple[int, ...]) -> int:
    depth = 0
    while all(side % (2 << depth) == 0 for side in shape):
        depth += 1
    return max(depth, 1)
