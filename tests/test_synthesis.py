"""Columns to samples: streaming that equals offline synthesis, and silence."""

from __future__ import annotations

import numpy as np
import pytest

from codec.signal import analysis
from codec.signal.synthesis import SpeechSynthesiser, synthesise_columns


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
