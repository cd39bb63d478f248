"""An echo goes whatever threads and cards do meanwhile, in simulated time and on real sinks."""

from __future__ import annotations

import numpy as np
import pytest

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import FrontEnd, Processing
from tests.simulated_cards import Timing, play
from tests.test_echo import speech

SECONDS, ADAPTED = 16.0, 5.5
STALLS = (0.5, 0.04)  # of the thread that plays: the loudspeaker runs dry
TIMINGS = {
    "calm": Timing(),
    "playing stalls": Timing(mixer=STALLS),
    "reading stalls": Timing(reader=(1.0, 0.2)),
    "stamps err": Timing(mixer=STALLS, jitter=0.01),
    "written early": Timing(mixer=STALLS, early=1000),
}


def room(seed: int) -> FloatArray:
    """A room of its own size and strength: T60 0.06 to 0.4 s, -16 to -4 dB."""
    random = np.random.default_rng(seed)
    count, gain_db = int(random.uniform(0.06, 0.4) * SAMPLE_RATE), random.uniform(-16.0, -4.0)
    delay = int(random.uniform(0.0, 0.01) * SAMPLE_RATE)
    tail = random.normal(size=count) * 10.0 ** (-3.0 * np.arange(count) / count)
    tail *= 10.0 ** (gain_db / 20.0) / np.linalg.norm(tail)
    return np.concatenate((np.zeros(delay), tail)).astype(np.float32)


def quiet(seed: int) -> FloatArray:
    """The noise of a quiet room."""
    drawn = np.random.default_rng(900 + seed).normal(size=round(SECONDS * SAMPLE_RATE))
    return (drawn * 10.0 ** (-72.0 / 20.0)).astype(np.float32)


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("timing", TIMINGS)
def test_an_echo_goes_whatever_threads_do(timing, seed):
    far = np.float32(0.8) * speech(seed, SECONDS)
    front_end = FrontEnd(Processing(gain_control=False))
    heard = play(far, quiet(seed), room(seed), front_end, TIMINGS[timing], seed)
    assert heard.left_db(ADAPTED, SECONDS - 0.5) < -28.0
