"""The shared non-uniform quantiser: nearest centres, bounds, K-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codec.entropy.quantiser import MAX_LEVELS, Quantiser, fit_centres, fit_priced_centres

CENTRES = np.array([-6.5, -3.0, -1.25, -0.25, 0.5, 2.0, 4.5, 7.75], np.float32)


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-20, 20, width=32)),
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=40, unique=True),
)
@settings(max_examples=200, deadline=None)
def test_every_value_goes_to_its_nearest_centre(z, numbers):
    centres = np.sort(np.array(numbers, np.float32) / 64)
    quantiser = Quantiser(centres)
    found = quantiser(torch.from_numpy(z)).numpy()
    best = np.abs(z[..., None].astype(np.float64) - centres).min(-1)
    assert np.allclose(np.abs(z.astype(np.float64) - found), best, atol=1e-5)
    assert np.isin(found, centres).all()


def test_indices_and_values_are_inverse():
    quantiser = Quantiser(CENTRES)
    indices = torch.arange(len(CENTRES)).reshape(2, 4)
    assert torch.equal(quantiser.index(quantiser.value(indices)), indices)
    assert np.array_equal(quantiser.value(indices).numpy().reshape(-1), CENTRES)


def test_quantising_twice_changes_nothing():
    quantiser = Quantiser(CENTRES)
    once = quantiser(torch.linspace(-9, 9, 1001))
    assert torch.equal(quantiser(once), once)


@pytest.mark.parametrize("index", [-1, 8, 127, -128])
def test_an_index_outside_the_table_is_refused(index):
    with pytest.raises(ValueError, match=r"0\.\.7"):
        Quantiser(CENTRES).value(torch.tensor([0, index], dtype=torch.int8))


@pytest.mark.parametrize(
    "centres",
    [
        [1.0],
        [],
        [0.0, 0.0, 1.0],
        [1.0, 0.0],
        [0.0, float("nan")],
        [0.0, float("inf")],
        [[0.0, 1.0], [2.0, 3.0]],
        list(range(MAX_LEVELS + 1)),
        [1.0, 1.0 + 1e-12],  # equal as float32
    ],
)
def test_unusable_centres_are_refused(centres):
    with pytest.raises(ValueError, match="centres"):
        Quantiser(np.array(centres))


def test_reach_and_rest():
    quantiser = Quantiser(CENTRES)
    assert quantiser.reach == 7.75
    assert quantiser.zero_level == 3


@given(hnp.arrays(np.int8, (4, 16), elements=st.integers(0, 7)))
@settings(max_examples=100, deadline=None)
def test_thinning_out_moves_inwards_and_ends_at_rest(indices):
    quantiser = Quantiser(CENTRES)
    distance = np.abs(indices - quantiser.zero_level).sum()
    for _ in range(200):
        if (indices == quantiser.zero_level).all():
            break
        indices = quantiser.thin_out(indices)
        closer = np.abs(indices - quantiser.zero_level).sum()
        assert closer < distance
        distance = closer
    assert (indices == quantiser.zero_level).all()
    assert np.array_equal(quantiser.thin_out(indices), indices)


def test_k_means_finds_separate_clusters():
    random = np.random.default_rng(3)
    true = np.array([-5.0, -1.0, 0.5, 4.0])
    values = true[random.integers(0, 4, (50, 100))] + random.normal(0, 0.05, (50, 100))
    assert np.allclose(fit_centres(values, 4), true, atol=0.02)


def test_k_means_beats_uniform_steps_on_peaked_latents():
    values = np.random.default_rng(4).laplace(0, 1.5, 20_000)
    centres = fit_centres(values, 16)
    z = torch.from_numpy(values)
    fitted = (Quantiser(centres)(z) - z).square().mean()
    for span in (4.0, 6.0, 8.0, 10.0):
        uniform = Quantiser(np.linspace(-span, span, 16))
        assert fitted < (uniform(z) - z).square().mean()
    again = fit_centres(values, 16)
    assert np.array_equal(centres, again)


@pytest.mark.parametrize("values", [np.zeros(100), np.arange(7.0), np.array([0.0, np.nan] * 50)])
def test_k_means_refuses_too_little_variety(values):
    with pytest.raises(ValueError, match="8"):
        fit_centres(values, 8)


def test_priced_centres_cost_less_than_those_of_k_means():
    """Of a peaked distribution: by squared error and the levels' ideal bits at that price."""
    values = np.random.default_rng(4).laplace(0, 1.0, 20_000)
    price = 0.1

    def cost(centres):
        chosen = np.abs(values[:, None] - centres).argmin(1)
        counts = np.bincount(chosen, minlength=len(centres))
        share = counts[counts > 0] / len(values)
        error = np.square(values - centres[chosen]).mean()
        return error - price * (share * np.log2(share)).sum()

    start = np.linspace(-15.5, 15.5, 32)
    found = fit_priced_centres(values, start, price)
    assert found.dtype == np.float32
    assert (np.diff(found) > 0).all()
    assert cost(found) < cost(start)
    assert cost(found) < 0.97 * cost(fit_centres(values, 32))
