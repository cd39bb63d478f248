"""How long a sender lets samples gather: fewer bites cost less, and none makes a packet late."""

from __future__ import annotations

import pytest

from codec.signal.analysis import STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE
from stream.call.sender import gathering

STEP = STEP_SAMPLES / SAMPLE_RATE


def missing_after(seconds: float, missing: int) -> float:
    return missing / SAMPLE_RATE - seconds


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("missing", [STEP_SAMPLES, 700, 100, 1])
def test_in_the_last_step_of_a_packet_nothing_waits_for_longer_in_a_pause(missing, pause):
    seconds = gathering(missing, missing, 0.0, pause=pause)
    assert seconds == gathering(missing, missing, 0.0, pause=False)
    assert 0.0 <= seconds <= 0.04
    assert missing_after(seconds, missing) >= 0.003 or seconds == 0.0


def test_a_step_of_a_pause_is_one_bite():
    """It is whole when it is read, though samples come in blocks."""
    missing = 4 * STEP_SAMPLES
    speech = gathering(missing, missing, 0.0, pause=False)
    pause = gathering(missing, missing, 0.0, pause=True)
    assert speech == 0.04
    assert STEP + 0.004 < pause < STEP + 0.006
    # What is over is part of the next step.
    left = missing - STEP_SAMPLES - 80
    assert gathering(left, left, 0.0, pause=True) == pytest.approx(STEP)


def test_the_time_that_has_passed_counts():
    missing = 3 * STEP_SAMPLES
    for pause in (False, True):
        fresh = gathering(missing, missing, 0.0, pause=pause)
        assert gathering(missing, missing, 0.03, pause=pause) <= fresh
        assert gathering(missing, missing, 1.0, pause=pause) == 0.0


def test_a_bite_of_a_pause_leaves_time_for_the_last_step():
    for steps in (2, 4, 16):
        missing = steps * STEP_SAMPLES
        while missing > STEP_SAMPLES:
            missing -= round(gathering(missing, missing, 0.0, pause=True) * SAMPLE_RATE)
        assert missing >= STEP_SAMPLES - 80
