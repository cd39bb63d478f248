"""Training frames with noise, other talkers, rooms and narrow bands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.training import disturbance
from models.training.disturbance import Disturbance
from models.training.frames import amplitudes, draw_frames, log_amplitudes
from tests.tiny_training import synthetic_columns


@pytest.fixture(scope="module")
def x() -> Tensor:
    columns = torch.from_numpy(synthetic_columns(5000))
    return draw_frames(columns, 40, np.random.default_rng(0))


def disturbed(x: Tensor, share: float) -> Tensor:
    random, fields = np.random.default_rng(1), torch.Generator().manual_seed(2)
    return Disturbance(x.device)(x, share, random, fields)


def test_a_share_of_the_frames_is_disturbed_and_the_same_each_time(x: Tensor) -> None:
    y = disturbed(x, 0.5)
    assert torch.equal(y, disturbed(x, 0.5))
    assert y.isfinite().all() and float(y.min()) >= -1.0 and float(y.max()) <= 1.0
    assert int((y != x).any(-1).any(-1).sum()) == 20
    assert disturbed(x, 0.0) is x


@pytest.mark.parametrize("kind", range(4))
def test_each_kind_adds_or_removes(x: Tensor, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a narrow band leaves less of a sound."""
    monkeypatch.setattr(disturbance, "_SHARES", tuple(float(k == kind) for k in range(4)))
    change = disturbed(x, 1.0) - x
    assert (float(change.mean()) < 0.0) == (kind == 3)
    assert float(change.abs().mean()) > 0.005


def test_noise_fluctuates_as_it_does_in_recordings() -> None:
    fields = torch.Generator().manual_seed(0)
    strength, cosine = Disturbance(fields.device).fluctuations(torch.Size((8, 128, 128)), fields)
    assert float(strength.median()) == pytest.approx(1.0, abs=0.02)
    assert float((20.0 * strength.log10()).std()) == pytest.approx(3.17, abs=0.05)
    pairs = torch.stack((strength[:, 1:].flatten(), strength[:, :-1].flatten()))
    assert float(torch.corrcoef(pairs)[0, 1]) == pytest.approx(0.4, abs=0.03)
    assert float(cosine.mean()) == pytest.approx(0.0, abs=0.01)


def test_magnitudes_survive_the_way_there_and_back(x: Tensor) -> None:
    torch.testing.assert_close(log_amplitudes(amplitudes(x)), x, atol=1e-4, rtol=0.0)
