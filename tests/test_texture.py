"""Texture: the same everywhere, like noise, where it belongs, and at the right level."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.signal.synthesis import synthesise_columns
from codec.signal.texture import (
    LOOP,
    UNVOICED_HZ,
    VOICED_HZ,
    add_texture,
    first_bin,
    voicing,
    white_noise,
)

GOLDEN_NOISE = [0.1080014615317014, -1.2739414678067154, 0.40843662229276834, 1.03173143926535]
GOLDEN_TEXTURE = [1.423899, 1.396591, 1.782138]
DB = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0


def bin_of(hertz: float) -> int:
    return round(hertz / analysis.SAMPLE_RATE * analysis.N_FFT)


def magnitudes_of(columns: FloatArray) -> FloatArray:
    return analysis.mel_to_magnitudes(analysis.denormalise(columns))


def hum(pitch: float, count: int = 40_000) -> FloatArray:
    """Pulses whose spectrum falls by 12 dB per octave, as those of a voice."""
    pulses = np.diff(np.floor(np.arange(count + 1) * pitch / 16_000))
    return lfilter([0.02], np.convolve([1.0, -0.95], [1.0, -0.95]), pulses).astype(np.float32)


def hiss(count: int = 40_000, seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).normal(0.0, 0.05, count).astype(np.float32)


@pytest.fixture(scope="module")
def flat() -> FloatArray:
    """Columns of a hiss as a network draws it: smooth."""
    level = np.median(analysis.log_mel(hiss()), axis=0)
    return np.repeat(level[None], 400, axis=0)


def test_noise_is_the_same_everywhere() -> None:
    noise = white_noise(200_000, 7)
    assert noise[:4] == pytest.approx(GOLDEN_NOISE, rel=1e-12)
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert np.mean(noise**4) == pytest.approx(3.0, abs=0.1)


def test_texture_is_the_same_everywhere(flat: FloatArray) -> None:
    factor = add_texture(np.ones((3, analysis.N_BINS), np.float32), flat[:3], 100)
    assert factor[[0, 1, 2], [200, 300, 512]] == pytest.approx(GOLDEN_TEXTURE, rel=1e-4)


@settings(max_examples=40)
@given(
    first=st.integers(0, 3 * LOOP),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 99),
)
def test_texture_does_not_depend_on_the_division(first: int, cuts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = random.uniform(-1.0, 1.0, (60, analysis.N_MELS)).astype(np.float32)
    magnitudes = random.random((60, analysis.N_BINS), np.float32)
    whole = add_texture(magnitudes, columns, first)
    bounds = [0, *sorted(cuts), 60]
    parts = [add_texture(magnitudes[a:b], columns[a:b], first + a) for a, b in pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(add_texture(magnitudes, columns, first + LOOP), whole)
    assert not np.array_equal(add_texture(magnitudes, columns, first + 1), whole)


@settings(max_examples=40)
@given(seed=st.integers(0, 99), quieter=st.floats(0.0, 26.0))
def test_voicing_is_a_share_that_loudness_does_not_change(seed: int, quieter: float) -> None:
    columns = np.random.default_rng(seed).uniform(-0.4, 1.0, (9, analysis.N_MELS))
    share = voicing(columns.astype(np.float32))
    assert ((share >= 0.0) & (share <= 1.0)).all()
    lower = voicing((columns - quieter / DB).astype(np.float32))
    np.testing.assert_allclose(lower, share, atol=1e-3)


def test_hums_are_voiced_and_hiss_is_not(flat: FloatArray) -> None:
    for pitch in (100.0, 140.0, 200.0, 300.0):
        assert voicing(analysis.log_mel(hum(pitch))).min() > 0.9
        assert voicing(analysis.log_mel(0.05 * hum(pitch))).min() > 0.9
    assert voicing(flat).max() < 0.1
    assert voicing(analysis.log_mel(hiss())).mean() < 0.1
    assert voicing(np.full((2, analysis.N_MELS), -1.0, np.float32)).max() < 0.1


def test_bins_below_the_start_stay_as_they_are(flat: FloatArray) -> None:
    voiced = analysis.log_mel(hum(150.0))[:200]
    for columns, begin in ((flat, UNVOICED_HZ[0]), (voiced, VOICED_HZ[0])):
        magnitudes = magnitudes_of(columns)
        changed = add_texture(magnitudes, columns, 0)
        below = bin_of(begin) - 1
        np.testing.assert_allclose(changed[:, :below], magnitudes[:, :below], rtol=0.03)
        assert not np.allclose(changed[:, bin_of(5000.0) :], magnitudes[:, bin_of(5000.0) :])
    assert first_bin() == bin_of(UNVOICED_HZ[0]) + 1


def test_zeros_stay_zero() -> None:
    columns = np.full((5, analysis.N_MELS), -1.0, np.float32)
    assert not add_texture(magnitudes_of(columns), columns, 0).any()


def test_what_is_heard_is_like_noise(flat: FloatArray) -> None:
    """Analysed again, bins above the start vary as those of Gaussian noise do."""
    high = slice(bin_of(2600.0), bin_of(7500.0))

    def levels(samples: FloatArray) -> FloatArray:
        spectra = np.abs(analysis.stft_columns(samples[1000:-1000]))[:, high]
        return (20.0 * np.log10(spectra + 1e-9)).astype(np.float32)

    made, real = levels(synthesise_columns(flat)), levels(hiss(len(flat) * 128, seed=2))
    assert made.std(axis=0).mean() == pytest.approx(real.std(axis=0).mean(), rel=0.15)

    def along(level: FloatArray, time: int, bins: int) -> float:
        z = level - level.mean(axis=0)
        a, b = z[: len(z) - time, : z.shape[1] - bins], z[time:, bins:]
        return float(np.mean(a * b) / np.mean(z * z))

    for lag in ((1, 0), (2, 0), (0, 1), (0, 2)):
        assert along(made, *lag) == pytest.approx(along(real, *lag), abs=0.12)


def test_the_level_stays(flat: FloatArray, clip: FloatArray) -> None:
    """The bands above 2 kHz keep their mean level through synthesis and analysis."""
    high = slice(64, None)
    smooth = analysis.log_mel(clip[: 400 * 128 + 512])
    kernel = np.ones(9) / 9.0
    for row in smooth:  # as smooth as if a network had drawn it
        row[:] = np.convolve(np.pad(row, 4, "edge"), kernel, "valid")
    for columns in (flat, smooth):
        samples = synthesise_columns(columns)
        edges = np.zeros(analysis.LEAD, np.float32), np.zeros(analysis.WINDOW, np.float32)
        again = analysis.log_mel(np.concatenate([edges[0], samples, edges[1]]))[: len(columns)]
        sounding = columns[:, high] > -0.7
        error = (again - columns)[:, high][sounding].mean() * DB
        assert abs(error) < 0.5
