"""The picture codecs of others that a benchmark measures."""

from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.image_codecs import peers
from models.evaluation.rate_quality import psnr
from tests.tiny_image_model import photograph


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl"])
def test_peers_of_pillow(name: str) -> None:
    (codec,) = peers([name]) or pytest.skip(f"{name} is not installed")
    pixels = np.asarray(photograph(160, 120))
    sizes, scores = [], []
    for setting in (codec.settings[0], codec.settings[-1]):
        data = codec.encode(pixels, setting)
        sizes.append(len(data))
        scores.append(psnr(pixels, codec.decode(data)))
    assert sizes[0] < sizes[1]
    assert scores[0] + 5 < scores[1]
    allowed = (sizes[0] + sizes[1]) / 2
    at_rate = len(codec.encode_at(pixels, 8 * allowed / (160 * 120)))
    assert 0.8 * allowed < at_rate <= allowed
