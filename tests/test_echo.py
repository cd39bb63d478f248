"""Whether there is an echo is found out, whoever talks, and without one nobody is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.echo import EchoDetector
from stream.audio.frontend import BLOCK, FrontEnd, Processing

CLIPS = sorted((Path(__file__).parent / "clips").glob("*.flac"))


def speech(first: int, seconds: float) -> FloatArray:
    """Several clips in a row from one of them on, at an active level."""
    count = int(seconds * SAMPLE_RATE)
    parts: list[FloatArray] = []
    at = first
    while sum(map(len, parts)) < count:
        samples, _ = soundfile.read(CLIPS[at % len(CLIPS)], dtype="float32")
        parts.append(samples * np.float32(0.05 / samples.std()))
        at += 1
    return np.concatenate(parts)[:count]


def room(played: FloatArray, gain_db: float, delay: float = 0.08) -> FloatArray:
    """What comes of it to the microphone: late, reverberated (T60 0.4 s), at a gain."""
    count = int(0.4 * SAMPLE_RATE)
    tail = np.random.default_rng(4).normal(size=count) * 10 ** (-3 * np.arange(count) / count)
    tail *= 10 ** (gain_db / 20) / np.linalg.norm(tail)
    response = np.concatenate((np.zeros(int(delay * SAMPLE_RATE)), tail))
    return fftconvolve(played, response)[: len(played)].astype(np.float32)


def noise(count: int) -> FloatArray:
    return np.random.default_rng(5).normal(0, 10 ** (-66 / 20), count).astype(np.float32)


FAR, NEAR = speech(0, 24.0), speech(len(CLIPS) // 2, 24.0)
QUIET = noise(len(FAR))


def expected(played: FloatArray, heard: FloatArray, detector: EchoDetector | None = None) -> list:
    """Whether there seemed to be an echo, after each block."""
    detector = detector or EchoDetector()
    found = []
    for at in range(0, len(heard) - BLOCK + 1, BLOCK):
        detector.render(played[at : at + BLOCK])
        detector.capture(heard[at : at + BLOCK])
        found.append(detector.echo)
    return found


@pytest.mark.parametrize("delay", [0.02, 0.08, 0.3])
@pytest.mark.parametrize("gain_db", [0.0, -10.0, -25.0])
def test_an_echo_is_expected_from_the_beginning_and_goes_on_being(gain_db, delay):
    assert all(expected(FAR, room(FAR, gain_db, delay) + QUIET))


@pytest.mark.parametrize("near", [NEAR, 0 * NEAR], ids=["both talk", "one talks"])
def test_without_an_echo_none_is_expected_after_a_while(near):
    found = expected(FAR, near + QUIET)
    assert all(found[:100]) and not any(found[1000:])


def test_an_echo_that_begins_is_found_and_one_that_ends_is_forgotten():
    """Somebody pulls out the headphones, and puts them in again."""
    detector = EchoDetector()
    assert not expected(FAR, NEAR + QUIET, detector)[-1]
    echo = room(FAR, -10.0)
    assert expected(FAR[: 9 * SAMPLE_RATE], (echo + QUIET)[: 9 * SAMPLE_RATE], detector)[-1]
    assert all(expected(FAR, NEAR + QUIET, detector)[:1400])  # may be a doubt only
    assert not expected(FAR, NEAR + QUIET, detector)[-1]


def test_what_nobody_says_decides_nothing():
    detector = EchoDetector()
    silence = np.zeros(len(FAR), np.float32)
    assert all(expected(silence, NEAR, detector))
    assert all(expected(silence, silence, detector))
    assert all(expected(FAR, silence, detector))  # a microphone that is switched off
    assert not expected(FAR, QUIET, detector)[-1]


def test_hum_in_both_is_no_echo():
    hum = np.sin(2 * np.pi * 60 * np.arange(len(FAR)) / SAMPLE_RATE).astype(np.float32) * 0.02
    assert not any(expected(FAR + hum, NEAR + hum + QUIET)[1800:])


def test_one_side_that_stands_still_holds_nothing_back():
    detector = EchoDetector()
    for at in range(0, len(NEAR), BLOCK):
        detector.capture(NEAR[at : at + BLOCK])
    assert len(detector._hops) < 10
    for _ in range(2):
        for at in range(0, len(FAR), BLOCK):
            detector.render(FAR[at : at + BLOCK])
    assert len(detector._rendered) <= 500


@pytest.mark.parametrize("apart", [-0.1, 0.0, 0.3], ids="{:+} s".format)
@pytest.mark.parametrize("sooner", [-300, -20, 20, 300])
def test_an_echo_is_found_whichever_side_begins_and_whenever_threads_have_time(sooner, apart):
    """sooner: blocks that the microphone is open for when playing begins; apart: what stamps err.

    Samples are lost on either side, and what is played stops for a moment.
    """
    detector = EchoDetector()
    heard = room(FAR, -10.0) + QUIET
    random = np.random.default_rng(6)
    begun = 5000.0
    for at in range(-max(sooner, 0) * BLOCK, 0, BLOCK):
        detector.capture(QUIET[:BLOCK], begun + at / SAMPLE_RATE + apart)
    for at in range(-max(-sooner, 0) * BLOCK, 0, BLOCK):
        detector.render(QUIET[:BLOCK], begun + at / SAMPLE_RATE)
    far = near = 0
    found = []
    for end in range(0, len(FAR) - 6 * BLOCK, BLOCK):
        if random.integers(0, 5):  # a thread has no time
            continue
        while far < end + random.integers(0, 4) * BLOCK:
            if random.integers(0, 200):
                detector.render(FAR[far : far + BLOCK], begun + far / SAMPLE_RATE)
            far += BLOCK
        while near < end - random.integers(0, 3) * BLOCK:
            if random.integers(0, 200):
                stamp = begun + near / SAMPLE_RATE + apart + random.uniform(0.0, 0.004)
                detector.capture(heard[near : near + BLOCK], stamp)
            near += BLOCK
            found.append(detector.echo)
    assert all(found)


@pytest.mark.parametrize("near", [NEAR, 0 * NEAR], ids=["both talk", "one talks"])
def test_a_lag_that_moves_hides_no_echo(near):
    """Unknown to everybody a sound card plays later and later."""
    parts = [room(FAR, -10.0, 0.04 + 0.02 * k) for k in range(8)]
    third = 3 * SAMPLE_RATE
    heard = np.concatenate([p[k * third : (k + 1) * third] for k, p in enumerate(parts)])
    assert all(expected(FAR, heard + near + QUIET))


def test_blocks_of_any_size_tell_the_same():
    sizes = np.random.default_rng(7).integers(0, 900, 2000)
    detector = EchoDetector()
    heard = NEAR + QUIET
    at = 0
    for size in sizes:
        detector.render(FAR[at : at + size])
        detector.capture(heard[at : at + size])
        at += size
    assert at >= len(FAR) and detector.echo is expected(FAR, heard)[-1] is False


def test_a_clock_that_jumps_is_followed():
    detector = EchoDetector()
    heard = room(FAR, -10.0) + QUIET
    for begun in (9000.0, 10.0, 20_000.0):
        for at in range(0, len(FAR), BLOCK):
            detector.render(FAR[at : at + BLOCK], begun + at / SAMPLE_RATE)
            detector.capture(heard[at : at + BLOCK], begun + at / SAMPLE_RATE)
        assert detector.echo and detector._found_at > detector._compared * 0.064 - 15.0


def test_who_talks_at_the_same_time_as_the_other_is_left_alone():
    """WebRTC's canceller by itself takes out much of it, though there is no echo."""
    front_end = FrontEnd(Processing(noise_suppression=False, gain_control=False))
    alone = FrontEnd(Processing(noise_suppression=False, gain_control=False))
    heard, wished = [], []
    for at in range(0, len(NEAR), BLOCK):
        front_end.render(FAR[at : at + BLOCK])
        heard.append(front_end.capture(NEAR[at : at + BLOCK]))
        wished.append(alone.capture(NEAR[at : at + BLOCK]))
    begun = 18 * SAMPLE_RATE
    np.testing.assert_array_equal(np.concatenate(heard)[begun:], np.concatenate(wished)[begun:])
