"""The mel scale against points computed by hand, and its triangles."""

from __future__ import annotations

import numpy as np
import pytest

from codec import mel


def test_points_of_the_scale() -> None:
    # 200/3 Hz a mel up to 1 kHz, 27 mels from there to 6.4 kHz.
    assert mel.frequencies(4, 0.0, 1000.0) == pytest.approx([0.0, 1000 / 3, 2000 / 3, 1000.0])
    assert mel.frequencies(15 + 27 + 1, 0.0, 6400.0)[[3, 15, 42]] == pytest.approx(
        [200, 1000, 6400]
    )
    ratios = mel.frequencies(10, 1000.0, 6400.0)
    assert ratios[1:] / ratios[:-1] == pytest.approx(np.full(9, 6.4 ** (1 / 9)))


def test_triangles_peak_at_one_and_share_what_lies_between() -> None:
    corners = mel.frequencies(12, 0.0, 8000.0)
    at_corners = mel.triangles(10, 0.0, 8000.0, corners)
    assert at_corners == pytest.approx(np.eye(12)[1:-1])
    between = mel.triangles(10, 0.0, 8000.0, np.linspace(corners[1], corners[-2], 1000))
    assert between.sum(axis=0) == pytest.approx(np.ones(1000))
    assert mel.triangles(10, 1000.0, 4000.0, np.array([500.0, 4500.0])).max() == 0.0
