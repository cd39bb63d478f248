"""The benchmark of pictures: the peers."""

from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.image_codecs import peers
from models.evaluation.image_results import Results
from models.evaluation.rate_quality import Point, psnr
from tests.test_page_image import coarse
from tests.tiny_image_model import photograph

KODAK = [f"kodim{k:02d}.png" for k in range(1, 25)]


def results(names: list[str], curve: list[tuple[float, float, float]]) -> Results:
    """As if every picture had been measured with the means of a curve."""
    points = [Point(n, *at, 0.5, 0.1) for n in names for at in curve]
    codecs = [coarse("sotto", (1, 2, 3))]
    return Results(codecs, {"sotto": points}, {"sotto": points[:3]}, 0.29)


# --- Peers.


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
