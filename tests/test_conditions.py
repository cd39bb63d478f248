"""What speech goes through before it is coded."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import welch

from codec.errors import BadInput
from models.evaluation import conditions, scores
from models.evaluation.clips import Clip

NAMES = list(conditions.CONDITIONS)


def rms(samples):
    return float(np.sqrt(np.mean(np.asarray(samples, np.float64) ** 2)))


def decibels(ratio):
    return 20 * np.log10(ratio)


@pytest.fixture
def two(clip):
    return [Clip("a/one", "a", "", clip[:40000]), Clip("b/two", "b", "", clip[40000:])]


# --- the level of speech --------------------------------------------------------------------


def test_a_steady_tone_is_active_throughout():
    tone = np.sin(2 * np.pi * 1000 * np.arange(80000) / 16000)
    assert decibels(conditions.active_rms(tone) / rms(tone)) == pytest.approx(0, abs=0.1)


def test_pauses_do_not_count(clip):
    paused = np.concatenate([np.zeros(32000), clip, np.zeros(96000)])
    assert decibels(rms(paused) / rms(clip)) < -4
    change = decibels(conditions.active_rms(paused) / conditions.active_rms(clip))
    # Within the 200 ms that a threshold holds the end of the speech.
    assert change == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("gain", [1e-4, 0.3, 5.0])
def test_the_level_follows_the_gain(clip, gain):
    expected = gain * conditions.active_rms(clip)
    assert conditions.active_rms(gain * clip.astype(np.float64)) == pytest.approx(expected)


def test_the_level_of_what_is_too_short_or_silent_is_its_own():
    assert conditions.active_rms(np.zeros(0)) == 0
    assert conditions.active_rms(np.zeros(16000)) == 0
    assert conditions.active_rms(np.array([0.5])) == pytest.approx(0.5)


# --- noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [5.0, 10.0, 15.0])
def test_noise_has_the_ratio_asked_for(clip, snr):
    added = conditions.noise(clip, snr, 1).astype(np.float64) - clip
    assert decibels(conditions.active_rms(clip) / rms(added)) == pytest.approx(snr, abs=0.01)


def test_noise_has_the_spectrum_of_the_speech_and_is_stationary(clip):
    added = conditions.noise(clip, 10, 1).astype(np.float64) - clip
    frequencies, speech = welch(clip, 16000, nperseg=1024)
    _, noise = welch(added, 16000, nperseg=1024)
    levels = []
    for low, high in pairwise((125, 250, 500, 1000, 2000, 4000, 7900)):
        band = (frequencies >= low) & (frequencies < high)
        levels.append(decibels(np.sqrt(speech[band].sum() / noise[band].sum())))
    assert np.ptp(levels) < 2
    quarters = [rms(part) for part in np.array_split(added, 4)]
    assert decibels(max(quarters) / min(quarters)) < 1


def test_noise_differs_between_clips_and_only_in_level_between_ratios(two):
    loud, soft = (conditions.degrade(two, name) for name in ("noise5", "noise15"))
    for given, more, less in zip(two, loud, soft, strict=True):
        added = more.samples.astype(np.float64) - given.samples
        half = less.samples.astype(np.float64) - given.samples
        np.testing.assert_allclose(added, half * 10**0.5, atol=1e-6)
    same = [Clip(name, "a", "", two[0].samples) for name in ("one", "two")]
    first, second = conditions.degrade(same, "noise5")
    assert not np.allclose(first.samples, second.samples, atol=1e-3)


# --- the room -------------------------------------------------------------------------------


def test_the_room_decays_by_60_db_in_its_time():
    response = conditions.impulse_response()
    left = np.cumsum(response[::-1] ** 2)[::-1]  # Schroeder's integral
    level = 10 * np.log10(left / left[0])
    # From the slope between -10 and -30 dB.
    decay = 3 * (np.argmax(level < -30) - np.argmax(level < -10)) / 16000
    assert decay == pytest.approx(conditions.REVERBERATION_S, rel=0.1)


def test_the_direct_sound_is_first_and_as_strong_as_the_rest():
    response = conditions.impulse_response()
    assert response[0] == 1
    assert np.sum(response[1:] ** 2) == pytest.approx(1)
    assert np.abs(response[1:]).max() < 1
    assert np.count_nonzero(response[1:80]) > 0  # a reflection comes before the tail
    with pytest.raises(ValueError, match="read-only"):
        response[0] = 2


def test_a_room_neither_delays_nor_changes_the_level(clip):
    heard = conditions.room(clip)
    assert scores.delay(clip, heard) == 0
    change = decibels(conditions.active_rms(heard) / conditions.active_rms(clip))
    assert change == pytest.approx(0, abs=0.01)
    assert scores.score(clip, heard)["estoi"] < 0.9


# --- the other conditions -------------------------------------------------------------------


def test_a_telephone_keeps_its_band_and_no_other():
    white = np.random.default_rng(0).normal(0, 0.05, 160_000).astype(np.float32)
    heard = conditions.telephone(white)
    frequencies, before = welch(white, 16000, nperseg=2048, detrend=False)
    _, after = welch(heard, 16000, nperseg=2048, detrend=False)
    gain = 10 * np.log10(after / before)
    inside = (frequencies > 360) & (frequencies < 3340)
    outside = (frequencies < 240) | (frequencies > 3460)
    assert np.abs(gain[inside]).max() < 0.5
    assert gain[outside].max() < -35


def test_a_telephone_does_not_delay(clip):
    assert scores.delay(clip, conditions.telephone(clip)) == 0


def test_another_talker_is_of_another_speaker_and_5_db_below(two):
    quiet = Clip("c/quiet", "c", "", two[1].samples[:8000] * 0.01)
    everyone = [two[0], Clip("a/more", "a", "", two[0].samples), quiet]
    first, second, third = conditions.degrade(everyone, "talker")
    for clip, degraded in ((two[0], first), (everyone[1], second)):
        added = degraded.samples.astype(np.float64) - clip.samples
        ratio = conditions.active_rms(clip.samples) / conditions.active_rms(added)
        assert decibels(ratio) == pytest.approx(5, abs=0.1)
        # The short one is repeated.
        shape = np.corrcoef(added, np.resize(quiet.samples, len(added)))[0, 1]
        assert shape == pytest.approx(1, abs=1e-3)
    # After the last clip comes the first.
    added = third.samples.astype(np.float64) - quiet.samples
    assert np.corrcoef(added, two[0].samples[:8000])[0, 1] == pytest.approx(1, abs=1e-3)


def test_another_talker_needs_two_speakers(two):
    with pytest.raises(BadInput, match="no other speaker"):
        conditions.degrade(two[:1], "talker")


def test_a_silent_talker_adds_nothing(clip):
    np.testing.assert_array_equal(conditions.talker(clip, np.zeros(100, np.float32)), clip)


def test_quiet_is_26_db_quieter(clip):
    np.testing.assert_allclose(conditions.quiet(clip), clip * 10 ** (-26 / 20), rtol=1e-6)


def test_clipping_cuts_off_some_and_leaves_the_rest(clip):
    heard = conditions.clipping(clip)
    limit = conditions.active_rms(clip) * 10 ** (6 / 20)
    assert np.abs(heard).max() == pytest.approx(limit)
    kept = np.abs(clip) < limit
    np.testing.assert_array_equal(heard[kept], clip[kept])
    assert 0.01 < np.mean(~kept) < 0.1


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_condition_keeps_all_but_the_samples_and_is_repeatable(two, name):
    before = [clip.samples.copy() for clip in two]
    degraded = conditions.degrade(two, name)
    again = conditions.degrade(two, name)
    for clip, copy, one, other in zip(two, before, degraded, again, strict=True):
        np.testing.assert_array_equal(clip.samples, copy)
        np.testing.assert_array_equal(one.samples, other.samples)
        assert one.samples.dtype == np.float32
        assert one.samples.shape == clip.samples.shape
        assert not np.array_equal(one.samples, clip.samples)
        assert (one.name, one.speaker) == (clip.name, clip.speaker)
        assert one.original is clip.samples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 10, 300, 8000])
@pytest.mark.filterwarnings("error")
def test_very_short_and_silent_clips_pass(name, length):
    short = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    clips = [
        Clip("short", "a", "", short),
        Clip("silent", "b", "", np.zeros(length, np.float32)),
    ]
    heard, silent = conditions.degrade(clips, name)
    assert heard.samples.shape == silent.samples.shape == (length,)
    assert np.isfinite(heard.samples).all()
    if name != "talker":
        assert not silent.samples.any()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_at_full_scale(two, name):
    loud = [
        Clip(clip.name, clip.speaker, "", clip.samples / np.abs(clip.samples).max()) for clip in two
    ]
    for clip, degraded in zip(loud, conditions.degrade(loud, name), strict=True):
        assert np.abs(degraded.samples).max() <= 1
        if name.startswith("noise"):
            # Scaled as a whole: the louder sum is the sum at a tenth of the level, times a number.
            soft = Clip(clip.name, clip.speaker, "", clip.samples * np.float32(0.1))
            (expected,) = conditions.degrade([soft], name)
            ratio = degraded.samples @ expected.samples / (expected.samples @ expected.samples)
            np.testing.assert_allclose(degraded.samples, ratio * expected.samples, atol=1e-4)
