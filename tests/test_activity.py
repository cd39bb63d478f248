"""Voice activity: speech is never missed, and steady noise of any kind is not speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

from codec.signal.activity import ActivityDetector
from codec.signal.analysis import FRAME_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray

SETTLED = 4  # frames until the floors are known


def decide(samples: FloatArray, block: int = FRAME_SAMPLES) -> list[bool]:
    """Whether each whole frame is active, asked as soon as its last sample was pushed."""
    detector = ActivityDetector()
    active = []
    for begin in range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        for at in range(begin, begin + FRAME_SAMPLES, block):
            detector.push(samples[at : min(at + block, begin + FRAME_SAMPLES)])
        active.append(detector.frame_active())
    return active


def level(samples: NDArray[np.floating], decibel: float) -> FloatArray:
    scaled = samples / np.sqrt(np.mean(np.square(samples))) * 10 ** (decibel / 20)
    return scaled.astype(np.float32)


def steady(kind: str, seconds: float) -> NDArray[np.float64]:
    count = int(seconds * SAMPLE_RATE)
    white = np.random.default_rng(len(kind)).standard_normal(count)
    time = np.arange(count) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in (1, 2, 3, 5, 7))
    fan = lfilter([1.0], [1.0, -0.95], white) + np.sin(2 * np.pi * 120 * time)
    kinds = {"white": white, "hum": hum + 0.02 * white, "fan": fan}
    return kinds[kind]


@pytest.mark.parametrize("kind", ["white", "hum", "fan"])
@pytest.mark.parametrize("decibel", [-60.0, -35.0])
def test_steady_noise_is_no_speech(kind: str, decibel: float) -> None:
    active = decide(level(steady(kind, 30.0), decibel))
    assert np.mean(active[SETTLED:]) < 0.05


@pytest.mark.parametrize("decibel", [-20.0, -45.0])
@pytest.mark.parametrize("ratio", [None, 20.0, 10.0])
def test_speech_is_never_missed(
    clip_paths: list[Path], decibel: float, ratio: float | None
) -> None:
    """Clips between pauses in noise: no frame with 50 ms of audible speech in it is inactive."""
    parts = []
    for path in clip_paths:
        speech = soundfile.read(path, dtype="float32")[0]
        parts += [level(speech, 0.0), np.zeros(60_000, np.float32)]
    clean = np.concatenate(parts)
    noisy, audible = clean, -25.0
    if ratio is not None:
        noisy = clean + level(steady("fan", len(clean) / SAMPLE_RATE), -ratio)[: len(clean)]
        audible = max(audible, 3.0 - ratio)
    active = decide((noisy * 10 ** (decibel / 20)).astype(np.float32))
    steps = clean[: len(clean) // 160 * 160].reshape(-1, 160)
    loud = 10 * np.log10(np.mean(steps**2, axis=1) + 1e-12) > audible
    pauses = 0
    for frame, decision in enumerate(active):
        begin = int(frame * 102.4)
        if loud[begin : begin + 102].sum() >= 5:
            assert decision, f"frame {frame}"
        elif frame >= SETTLED and not loud[max(begin - 110, 0) : begin + 103].any():
            pauses += not decision
    assert pauses >= 5


def test_digital_silence_is_inactive_from_the_start() -> None:
    assert not any(decide(np.zeros(5 * FRAME_SAMPLES, np.float32)))


def test_the_first_word_counts_though_no_floor_is_known(clip: FloatArray) -> None:
    assert decide(np.tile(clip[:20_000], 2))[0]


def test_after_speech_one_frame_more_is_active(clip: FloatArray) -> None:
    hiss = level(steady("white", 12.0), -60.0)
    samples = hiss.copy()
    end = 7 * FRAME_SAMPLES - 2000
    samples[end - 12_000 : end] += level(clip[20_000:32_000], -25.0)
    active = decide(samples)
    assert active[6]
    assert active[7]
    assert not any(active[8:])


def test_a_word_beginning_at_the_frames_end_counts(clip: FloatArray) -> None:
    samples = level(steady("white", 12.0), -60.0)
    begin = 7 * FRAME_SAMPLES - 800
    samples[begin : begin + 12_000] += level(clip[20_000:32_000], -25.0)
    active = decide(samples)
    assert not active[5]
    assert active[6]


def test_single_clicks_do_not_count() -> None:
    samples = level(steady("white", 20.0), -60.0)
    for at in range(100_000, len(samples) - 100, 30_000):
        samples[at : at + 80] += 0.2
    assert np.mean(decide(samples)[SETTLED + 2 :]) < 0.35


def test_decisions_do_not_depend_on_the_blocks(clip: FloatArray) -> None:
    samples = np.concatenate([level(steady("fan", 6.0), -50.0), clip])
    assert decide(samples, 128) == decide(samples, 1000) == decide(samples)


def test_nonsense_counts_as_silence() -> None:
    hostile = np.full(3 * FRAME_SAMPLES, np.nan, np.float32)
    hostile[::3] = np.inf
    assert not any(decide(hostile))
