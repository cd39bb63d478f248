"""Notes are soft, and those with which a call begins tell whether the microphone hears them."""

from __future__ import annotations

import numpy as np
import pytest

from codec.signal.samples import SAMPLE_RATE
from stream.audio.chime import LEVEL_DB, call_begins, late_begins
from stream.audio.echo import EchoDetector

ROOM_DB = -66.0


@pytest.mark.parametrize("made", [call_begins, late_begins])
def test_they_are_soft_short_and_without_clicks(made):
    notes = made()
    assert 0.1 < len(notes) / SAMPLE_RATE < 0.5
    assert np.abs(notes).max() <= 10 ** (LEVEL_DB / 20) * np.sqrt(2)
    assert np.abs(np.diff(notes)).max() < 0.02 and abs(notes[0]) < 1e-3 and abs(notes[-1]) < 1e-3


@pytest.mark.parametrize("echo_db, expected", [(None, False), (-10.0, True), (0.0, True)])
@pytest.mark.parametrize("delay", [-0.05, 0.0, 0.1, 0.3])
def test_they_tell_whether_there_is_an_echo(echo_db, expected, delay):
    """delay: seconds by which the microphone hears it later than it should."""
    second = np.zeros(SAMPLE_RATE, np.float32)
    played = np.concatenate((second, call_begins(), second))
    heard = np.random.default_rng(1).normal(0, 10 ** (ROOM_DB / 20), len(played))
    if echo_db is not None:
        heard += 10 ** (echo_db / 20) * np.roll(played, round(delay * SAMPLE_RATE))
    detector = EchoDetector()
    for at in range(0, len(played), 160):
        detector.render(played[at : at + 160])
        detector.capture(heard[at : at + 160].astype(np.float32))
    assert detector.echo is expected
