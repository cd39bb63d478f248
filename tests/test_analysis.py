"""Analysis: the mel front end and its inverse."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codec.signal import analysis
from codec.signal.samples import FloatArray


def test_shipped_inverse_is_the_pseudo_inverse() -> None:
    expected = np.linalg.pinv(analysis.mel_filters().astype(np.float64))
    assert np.allclose(analysis.mel_inverse(), expected, atol=1e-5)


def test_full_scale_sine_peaks_at_zero_decibel() -> None:
    n = np.arange(analysis.FRAME_SAMPLES)
    tone = np.sin(2 * np.pi * 1000 * n / analysis.SAMPLE_RATE).astype(np.float32)
    magnitudes = np.abs(analysis.stft_columns(tone))
    assert np.allclose(magnitudes.max(axis=1), 1.0, atol=1e-3)
    assert set(magnitudes.argmax(axis=1)) == {64}  # 1 kHz of 16 kHz in 1024 bins


def test_column_count_and_short_input() -> None:
    for columns in (0, 1, 5):
        size = max((columns - 1) * analysis.HOP + analysis.WINDOW, 0) if columns else 511
        assert analysis.stft_columns(np.zeros(size, np.float32)).shape == (columns, 513)


@given(arrays(np.float32, (3, 128), elements=st.floats(-0.875, 0.875, width=32)))
def test_normalise_inverts_denormalise(x: FloatArray) -> None:
    assert np.allclose(analysis.normalise(analysis.denormalise(x)), x, atol=1e-4)


def test_silence_is_exact_both_ways() -> None:
    assert (analysis.log_mel(np.zeros(1024, np.float32)) == -1.0).all()
    assert not analysis.denormalise(np.full((2, 128), -1.0, np.float32)).any()


def test_level_is_an_additive_constant(clip: FloatArray) -> None:
    """Gain shifts the log-mel columns; away from the floor nothing else changes."""
    loud = analysis.log_mel(clip)
    quiet = analysis.log_mel(clip * np.float32(0.5))
    heard = quiet > -0.4
    step = 20 * np.log10(2.0) / ((analysis.CEILING_DB - analysis.FLOOR_DB) / 2)
    assert np.allclose((loud - quiet)[heard], step, atol=1e-2)


def test_mel_inversion_keeps_most_of_the_energy(clip: FloatArray) -> None:
    magnitudes = np.abs(analysis.stft_columns(clip))
    back = analysis.mel_to_magnitudes(analysis.magnitudes_to_mel(magnitudes))
    error = np.square(back - magnitudes).sum() / np.square(magnitudes).sum()
    assert error < 0.12
    assert (back >= 0).all()
