"""Columns to samples: the texture of noise, and streaming that equals offline synthesis."""

from __future__ import annotations

import numpy as np
import pytest

from codec.signal import analysis
from codec.signal.synthesis import UNEVENNESS, SpeechSynthesiser, roughen, synthesise_columns


def test_low_bins_stay_and_high_ones_vary_by_the_stated_amount():
    magnitudes = np.full((200, analysis.N_BINS), 0.01, np.float32)
    level = np.log(roughen(magnitudes, 0) / 0.01)
    below = int(2000 / 16000 * analysis.N_FFT)
    above = int(3100 / 16000 * analysis.N_FFT)
    assert not level[:, :below].any()
    assert level[:, above:].std() == pytest.approx(UNEVENNESS, rel=0.02)
    assert abs(level[:, above:].mean()) < 0.01


def test_texture_depends_on_the_column_number_alone():
    magnitudes = np.random.default_rng(0).random((40, analysis.N_BINS), np.float32)
    whole = roughen(magnitudes, 5)
    assert np.array_equal(whole[13:], roughen(magnitudes[13:], 18))
    assert not np.array_equal(roughen(magnitudes, 5), roughen(magnitudes, 6))


def test_silence_stays_silence():
    columns = np.full((130, analysis.N_MELS), -1.0, np.float32)
    assert not synthesise_columns(columns).any()


@pytest.mark.parametrize("sizes", [[128, 128], [1, 100, 155], [256]])
def test_streaming_gives_what_all_at_once_gives(sizes, clip):
    columns = analysis.log_mel(clip[: 255 * 128 + 512])
    synthesiser = SpeechSynthesiser()
    parts, at = [], 0
    for size in sizes:
        parts.append(synthesiser.push(columns[at : at + size]))
        at += size
    parts.append(synthesiser.finish())
    # Matrix products of other sizes round differently.
    np.testing.assert_allclose(np.concatenate(parts), synthesise_columns(columns), atol=1e-3)
    # And a synthesiser that has finished begins anew.
    again = np.concatenate([synthesiser.push(columns), synthesiser.finish()])
    assert np.array_equal(again, synthesise_columns(columns))
