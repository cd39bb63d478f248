"""Inserting and removing columns: lengths, order, and positions of least cost."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.signal.analysis import N_MELS, WINDOW, log_mel
from stream.call import timescale


def frame(seed: int, count: int = 128, level: float = 0.0) -> np.ndarray:
    """Smooth random log-mel columns [count, N_MELS]."""
    steps = np.random.default_rng(seed).normal(0, 0.02, (count, N_MELS))
    return np.clip(level + np.cumsum(steps, axis=0), -1, 1).astype(np.float32)


def brute_force(cost: np.ndarray, count: int, spacing: int) -> float:
    """Least cost of `count` places, tried one by one; infinite when there are none."""
    return min(
        (
            float(cost[list(places)].sum())
            for places in combinations(range(len(cost)), count)
            if all(b - a >= spacing for a, b in pairwise(places))
        ),
        default=np.inf,
    )


@given(
    st.lists(st.one_of(st.integers(0, 20), st.just(np.inf)), min_size=0, max_size=11),
    st.integers(0, 4),
    st.integers(1, 4),
)
def test_choice_is_the_cheapest(cost, count, spacing):
    cost = np.array(cost, np.float64)
    places = timescale.choose(cost, count, spacing)
    assert np.all(np.diff(places) >= spacing)
    assert np.all(np.isfinite(cost[places]))
    assert cost[places].sum() == brute_force(cost, len(places), spacing)
    if len(places) < count:
        assert brute_force(cost, len(places) + 1, spacing) == np.inf


@given(st.integers(0, 1000), st.integers(-60, 60), st.booleans())
def test_length_and_order(seed, change, active):
    columns = frame(seed)
    scaled = timescale.Timescale().scale(columns, change, active)
    allowed = min(abs(change), int(timescale.allowance(columns, active, change)))
    assert len(scaled) == len(columns) + np.sign(change) * allowed
    longer, shorter = (scaled, columns) if len(scaled) > len(columns) else (columns, scaled)
    # What is common to both is there in the same order.
    rows = iter(longer)
    assert all(any(np.array_equal(row, other) for other in rows) for row in shorter)


def test_inserted_columns_lie_between_their_neighbours():
    columns = frame(3)
    longer = timescale.insert(columns, 2)
    new = [i for i, row in enumerate(longer) if not (columns == row).all(axis=1).any()]
    assert len(new) == 2
    for place in new:
        np.testing.assert_allclose(longer[place], (longer[place - 1] + longer[place + 1]) / 2)


def test_quiet_places_are_taken_first_and_onsets_never():
    columns = frame(1, level=0.0)
    columns[40:60] = -0.9 + frame(2, 20)[:, :] * 0.01
    kept = timescale.remove(columns, 5)
    assert len(kept) == 123
    loud = np.concatenate([columns[:40], columns[60:]])
    assert all((kept == row).all(axis=1).any() for row in loud)
    # The columns around the onset at 60 stay, however many are asked for.
    all_gone = timescale.remove(columns, 128)
    assert len(all_gone) > 128 - 128 // timescale.SPACING - 1
    for place in (59, 60):
        assert (all_gone == columns[place]).all(axis=1).any()


def test_a_quiet_frame_may_change_more_than_speech(clip):
    speech = log_mel(clip[16_000 : 16_000 + 127 * 128 + WINDOW])
    assert 2 <= timescale.allowance(speech, True) < timescale.allowance(speech, True, 30) < 20
    assert timescale.allowance(speech, False) == 32
    silence = np.full((128, N_MELS), -1.0, np.float32)
    assert len(timescale.Timescale().scale(silence, -32, False)) == 96
    assert len(timescale.Timescale().scale(silence, 32, False)) == 160


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("sign", [1, -1])
def test_short_pieces_change_as_much_as_long_ones_over_time(size, sign):
    voice = timescale.Timescale()
    pieces = [frame(n, size, 0.5) for n in range(2048 // size)]
    changed = sum(len(voice.scale(piece, sign * 5, True)) - size for piece in pieces)
    expected = 2048 // timescale.ACTIVE_SHARE
    assert expected - 2 <= sign * changed <= expected + timescale.SAVED


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_columns_are_left_alone(count):
    columns = frame(1, count)
    assert len(timescale.remove(columns, 5)) >= min(count, 2)
    assert len(timescale.insert(columns[:2], 5)) == min(count, 2)


def test_least_change_decides_at_equal_level():
    columns = np.zeros((12, N_MELS), np.float32)
    columns[:, ::2] += 0.1 * (np.arange(12) % 2)[:, None]
    columns[:, 1::2] += 0.1 * (1 - np.arange(12) % 2)[:, None]  # alternating: no change over two
    columns[6:] = np.roll(columns[6:], 1, axis=1)  # one place where the pattern turns
    cost = timescale.costs(columns)
    assert cost[5] > cost[3] and cost[6] > cost[8]
