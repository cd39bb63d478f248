"""What is played keeps step with what is heard, whenever threads have time and whatever is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.alignment import BLOCK, Playback, Stamps
from stream.audio.frontend import FrontEnd, Processing
from tests.test_echo import FAR, QUIET, room

BEGUN = 1000.0


def samples(first: int, count: int) -> FloatArray:
    """Samples that say where they belong."""
    return np.arange(first, first + count, dtype=np.float32)


def at(place: int) -> float:
    return BEGUN + place / SAMPLE_RATE


PLACE = round(BEGUN * SAMPLE_RATE)


def test_stamps_that_err_a_little_are_in_a_row_and_others_are_not():
    stamps = Stamps()
    assert stamps.place(BEGUN, 160) == PLACE
    assert stamps.place(at(160) + 0.015, 160) == PLACE + 160
    assert stamps.place(None, 160) == PLACE + 320
    # What is usual of their errors is taken out.
    assert stamps.place(at(480 + 800), 160) == pytest.approx(PLACE + 480 + 800, abs=10)
    assert stamps.place(at(0), 10) == pytest.approx(PLACE, abs=10)


def test_stamps_that_wander_off_are_followed_at_last():
    stamps = Stamps()
    places = [stamps.place(at(160 * k) + 1e-4 * k, 160) for k in range(3000)]  # 1 % too slow
    steps = np.diff(places)
    assert set(steps[:500]) == {160} and 1 <= np.sum(steps != 160) <= 4
    assert abs(places[-1] - PLACE - 160 * 2999 - 0.3 * SAMPLE_RATE) < 0.12 * SAMPLE_RATE
    # What is lost then is seen all the same.
    assert stamps.place(at(160 * 3000 + 800) + 0.3, 160) - places[-1] == pytest.approx(960, abs=100)


EARLY = Playback.EARLY


def blocks(playback: Playback, first: int, last: int) -> FloatArray:
    """What is played between two places, block by block."""
    ends = range(first + BLOCK, last + 1, BLOCK)
    return np.concatenate([playback.block(end - EARLY) for end in ends])


@given(st.lists(st.integers(0, 500), max_size=40), st.lists(st.integers(0, 12), max_size=20))
def test_every_sample_is_given_once_and_in_its_place(sizes, steps):
    """steps: how many blocks are asked for in turn, as far as they are known."""
    playback = Playback()
    playback.render(samples(0, 1), at(0))
    first = 1
    found: list[FloatArray] = []
    for k in range(max(len(sizes), len(steps))):
        size = sizes[k] if k < len(sizes) else 0
        playback.render(samples(first, size), at(first))
        first += size
        for _ in range(steps[k] if k < len(steps) else 0):
            if (end := BLOCK * (len(found) + 1)) <= first:
                found.append(playback.block(PLACE + end - EARLY))
    every = np.concatenate(found) if found else np.zeros(0)
    np.testing.assert_array_equal(every, np.arange(len(every)))


@pytest.mark.parametrize("known", [0, 100, 319])
def test_what_is_always_known_late_is_given_as_much_later_and_whole(known):
    """known: samples by which what is played is known before it should be heard."""
    playback, found = Playback(), []
    playback.render(samples(1, known), at(0))
    for first in range(0, 50 * BLOCK, BLOCK):
        playback.render(samples(1 + known + first, BLOCK), at(known + first))
        found.append(playback.block(PLACE + first + BLOCK))
    settled = Playback.OFTEN + 2
    expected = samples(1 + known + BLOCK * settled, BLOCK * (50 - settled))
    np.testing.assert_array_equal(np.concatenate(found[settled:]), expected)


def test_what_is_known_late_now_and_then_changes_nothing():
    playback, known = Playback(), 2 * EARLY
    playback.render(samples(1, known), at(0))
    for block in range(100):
        first = BLOCK * block
        late = block % 10 < 3
        if not late:
            for missing in range(4 if block % 10 == 3 else 1)[::-1]:
                begin = known + first - missing * BLOCK
                playback.render(samples(1 + begin, BLOCK), at(begin))
        found = playback.block(PLACE + first + BLOCK)
        if not late and block % 10 > 4:
            np.testing.assert_array_equal(found, samples(1 + first + EARLY, BLOCK))


def test_one_block_is_played_for_each_that_is_heard_though_nothing_is_known():
    """A canceller that hears more often than it is told what is played loses its place."""
    playback = Playback()
    playback.render(samples(1, BLOCK), at(0))
    np.testing.assert_array_equal(playback.block(PLACE + BLOCK - EARLY), samples(1, BLOCK))
    for k in range(2, 60):
        assert not playback.block(PLACE + k * BLOCK - EARLY).any()
    playback.render(samples(1, BLOCK), at(60 * BLOCK))
    np.testing.assert_array_equal(playback.block(PLACE + 61 * BLOCK - EARLY), samples(1, BLOCK))


def test_what_is_missing_is_silence_and_what_comes_twice_is_replaced():
    playback = Playback()
    playback.render(samples(1, 320), at(0))
    playback.render(samples(1001, 320), at(1000))  # 680 were lost
    found = blocks(playback, PLACE, PLACE + 640)
    np.testing.assert_array_equal(found[:320], samples(1, 320))
    assert not found[320:].any()
    playback.render(samples(1, 1600), at(700))  # 620 samples sooner than they should come
    found = blocks(playback, PLACE + 640, PLACE + 2240)
    assert not found[:60].any()
    np.testing.assert_array_equal(found[60:], samples(1, 1540))


def test_nothing_is_kept_of_what_nobody_asks_for():
    playback = Playback()
    for first in range(0, 60 * SAMPLE_RATE, 800):
        playback.render(samples(first, 800), at(first))
    assert playback.block(PLACE + 60 * SAMPLE_RATE - EARLY)[0] == 60 * SAMPLE_RATE - BLOCK
    assert len(playback._samples) == 0
    assert not playback.block(PLACE + 90 * SAMPLE_RATE).any()
    playback.render(samples(5, 800), at(95 * SAMPLE_RATE))
    found = blocks(playback, PLACE + 95 * SAMPLE_RATE, PLACE + 95 * SAMPLE_RATE + 320)
    assert list(found[::BLOCK]) == [5, 165]


@pytest.mark.parametrize("late", [0.0, 0.04])
def test_an_echo_goes_whenever_threads_have_time_and_though_playing_stumbles(late):
    """late: seconds by which an echo comes later than stamps say."""
    front_end = FrontEnd(Processing(noise_suppression=False, gain_control=False))
    random = np.random.default_rng(8)
    places, place = [], 0  # of the blocks that are played
    for _ in range(0, len(FAR) - 160, 160):
        places.append(place)
        place += 160 + (480 if not random.integers(0, 200) else 0)  # the card has nothing to play
    played = np.zeros(place, np.float32)
    for k, place in enumerate(places):
        played[place : place + 160] = FAR[160 * k : 160 * (k + 1)]
    echo = room(played, -10.0, 0.02 + late) + np.resize(QUIET, len(played))
    heard, left = [], []
    told = 0
    for first in range(0, len(echo) - 320, 320):
        ahead = first + 640 + 160 * random.integers(0, 8)
        while told < len(places) and places[told] < ahead:
            front_end.render(FAR[160 * told : 160 * (told + 1)], at(places[told]))
            told += 1
        heard.append(echo[first : first + 320])
        left.append(front_end.capture(heard[-1], at(first)))
    before, after = (np.concatenate(each)[5 * SAMPLE_RATE :] for each in (heard, left))
    assert 10 * np.log10(np.mean(after**2) / np.mean(before**2)) < -25.0
