"""Running measurements of a call."""

from __future__ import annotations

import numpy as np
import pytest

from stream.call.meters import (
    RECENT_COLUMNS,
    ColumnHistory,
    LevelMeter,
    LoadMeter,
    RateMeter,
    Throughput,
)
from stream.call.snapshot import Rate


def test_the_level_is_the_peak_of_the_last_tenth_of_a_second():
    meter = LevelMeter()
    assert meter.decibel() == -100.0
    meter.push(np.full(160, 0.5, np.float32))
    assert meter.decibel() == pytest.approx(-6.02, abs=0.01)
    for _ in range(9):
        meter.push(np.full(160, -0.1, np.float32))
    assert meter.decibel() == pytest.approx(-6.02, abs=0.01)
    meter.push(np.full(160, 0.1, np.float32))
    assert meter.decibel() == pytest.approx(-20.0, abs=0.01)
    meter.push(np.zeros(0, np.float32))
    assert meter.decibel() == pytest.approx(-20.0, abs=0.01)


@pytest.mark.parametrize("sizes", [[3], [RECENT_COLUMNS], [500, 500, 1], [2000], [0, 7, 0]])
def test_the_column_history_keeps_the_latest(sizes):
    history = ColumnHistory()
    everything = np.random.default_rng(0).uniform(-1, 1, (sum(sizes), 128)).astype(np.float32)
    at = 0
    seen = 0
    for size in sizes:
        history.push(everything[at : at + size])
        at += size
        seen += min(size, RECENT_COLUMNS)
    picture = history.snapshot()
    assert np.array_equal(picture.columns, everything[-len(picture.columns) :])
    assert len(picture.columns) == min(seen, RECENT_COLUMNS)


def test_a_snapshot_of_columns_does_not_change_afterwards():
    history = ColumnHistory()
    history.push(np.zeros((4, 128), np.float32))
    before = history.snapshot()
    history.push(np.ones((4, 128), np.float32))
    assert not before.columns.any()
    assert history.snapshot().total == 8


def test_rates_are_per_second_of_speech():
    meter = RateMeter()
    assert meter.snapshot() == Rate()
    for size in [256, 128]:
        meter.push(size, 16)
    rate = meter.snapshot(wire=5.0, ip=7.0)
    assert rate.now == pytest.approx(1000.0)
    assert rate.average == pytest.approx(1500.0)
    assert rate.history == pytest.approx((2000.0, 1000.0))
    assert (rate.wire, rate.ip) == (5.0, 7.0)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_the_length_of_packets_makes_no_difference_to_rates(steps):
    meter = RateMeter()
    for _ in range(48 // steps):
        meter.push(16 * steps, steps)
    rate = meter.snapshot()
    assert rate.now == rate.average == pytest.approx(2000.0)
    assert rate.history == pytest.approx((2000.0,) * 3)
    for _ in range(16 // steps):
        meter.push(0, steps)  # a pause, of which nothing was sent
    assert meter.snapshot().now == 0.0
    assert meter.snapshot().average == pytest.approx(1500.0)


def test_throughput_forgets_what_is_long_ago():
    meter = Throughput(window=2.0)
    rates = [meter.update(0.1 * k, 100 * k if k < 50 else 4900) for k in range(100)]
    assert rates[40] == pytest.approx(8000.0, rel=0.02)
    assert rates[-1] == pytest.approx(0.0, abs=1.0)


def test_load_is_the_busy_share_of_the_last_seconds():
    meter = LoadMeter()
    for second in range(20):
        meter.push(second, second + 0.25)
    assert meter.share(20.0) == pytest.approx(0.25, abs=0.01)
    assert meter.share(100.0) == 0.0


def test_asking_for_the_load_changes_nothing():
    """So several threads may ask: one takes nothing from another."""
    meter = LoadMeter()
    meter.push(0.0, 1.0)
    assert meter.share(100.0) == 0.0
    assert meter.share(4.0) == pytest.approx(0.2)


def test_what_the_load_meter_keeps_is_bounded_by_time():
    meter = LoadMeter()
    for k in range(10_000):
        meter.push(0.1 * k, 0.1 * k + 0.05)
    assert meter.share(1000.0) == pytest.approx(0.5, abs=0.02)
