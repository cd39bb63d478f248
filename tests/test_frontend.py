"""The front end of microphones: no echo, less noise, a usual level, and true time stamps."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from pesq import pesq
from scipy.signal import butter, fftconvolve, lfilter

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import (
    BLOCK,
    Delay,
    FrontEnd,
    FrontEndMissing,
    GainControl,
    NoiseSuppressor,
    Processing,
    Stage,
)

EVERYTHING = Processing()
NOTHING = Processing(False, False, False)
KINDS = {
    "all": EVERYTHING,
    "echo": Processing(True, False, False),
    "noise": Processing(False, True, False),
    "gain": Processing(False, False, True),
    "noise and gain": Processing(False, True, True),
}


def noise(count: int, decibel: float, seed: int = 0) -> FloatArray:
    drawn = np.random.default_rng(seed).standard_normal(count)
    return (drawn * 10 ** (decibel / 20)).astype(np.float32)


def level(samples: FloatArray) -> float:
    """dB of full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def at_level(samples: FloatArray, decibel: float) -> FloatArray:
    return (samples * 10 ** ((decibel - level(samples)) / 20)).astype(np.float32)


def high_passed(samples: FloatArray) -> FloatArray:
    return np.asarray(lfilter(*butter(2, 50.0, "high", fs=SAMPLE_RATE), samples), np.float32)


def through(front_end: FrontEnd, samples: FloatArray, size: int = 400) -> FloatArray:
    pieces = [front_end.capture(samples[i : i + size]) for i in range(0, len(samples), size)]
    return np.concatenate(pieces)


def blockwise(stage: Stage, samples: FloatArray) -> FloatArray:
    count = len(samples) // BLOCK
    return np.concatenate([stage.process(b) for b in samples[: count * BLOCK].reshape(count, -1)])


def room(seed: int) -> FloatArray:
    """A room's answer: 60 ms later, -10 dB, decaying by 60 dB in 0.3 s."""
    count = int(0.3 * SAMPLE_RATE)
    tail = np.random.default_rng(seed).standard_normal(count) * 10 ** (
        -3 * np.arange(count) / count
    )
    tail *= 10 ** (-10 / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate((np.zeros(int(0.06 * SAMPLE_RATE)), tail)).astype(np.float32)


def conversation(
    front_end: FrontEnd, far: FloatArray, near: FloatArray, rendered: int, captured: int
) -> FloatArray:
    """Blocks as a mixer and a sender have them: render comes before what is heard of it."""
    told, heard = 0, []
    for start in range(0, len(near), captured):
        while told < min(start + captured, len(far)):
            front_end.render(far[told : told + rendered])
            told += rendered
        heard.append(front_end.capture(near[start : start + captured]))
    return np.concatenate(heard)


@pytest.mark.parametrize("rendered, captured", [(160, 160), (400, 80), (333, 640)])
def test_echo_is_cancelled(clip: FloatArray, rendered: int, captured: int) -> None:
    far = np.concatenate((clip, clip))
    echo = fftconvolve(far, room(rendered))[: len(far)].astype(np.float32)
    echo += noise(len(echo), -75.0)
    heard = conversation(FrontEnd(KINDS["echo"]), far, echo, rendered, captured)
    settled = slice(5 * SAMPLE_RATE, len(heard))
    assert level(echo[settled]) - level(heard[settled]) > 25.0


def test_both_at_once_are_told_apart(clip: FloatArray) -> None:
    """While the far one talks, the near one is still there."""
    far = np.concatenate((clip, clip))
    echo = fftconvolve(far, room(5))[: len(far)].astype(np.float32)
    near = np.zeros_like(far)
    near[6 * SAMPLE_RATE : 8 * SAMPLE_RATE] = clip[2 * SAMPLE_RATE : 0 : -1]
    heard = conversation(FrontEnd(KINDS["echo"]), far, echo + near, 160, 160)
    talking = slice(6 * SAMPLE_RATE, 8 * SAMPLE_RATE)
    assert level(heard[talking]) > level(near[talking]) - 6.0


def test_an_echo_goes_after_a_pause_as_well(clip: FloatArray) -> None:
    """The canceller stands still in it, and goes on with what it knows."""
    pause = noise(3 * SAMPLE_RATE, -66.0)
    far = np.concatenate((clip, clip, pause, clip))
    echo = fftconvolve(far, room(3))[: len(far)].astype(np.float32)
    near = noise(len(far), -75.0)
    front_end = FrontEnd(KINDS["echo"])
    heard = conversation(front_end, far, echo + near, 80, 640)[front_end.delay :]
    begin = 2 * len(clip)
    quiet = slice(begin + 2 * SAMPLE_RATE, begin + int(2.9 * SAMPLE_RATE))
    assert level(heard[quiet] - high_passed(near + echo)[quiet]) < -100.0
    after = slice(begin + len(pause), len(heard))
    assert level(echo[after]) - level(heard[after]) > 20.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_is_what_comes_later(kind: str, clip: FloatArray) -> None:
    """By cross-correlation, so that what is said at t can be stamped t."""
    front_end = FrontEnd(KINDS[kind])
    given, said = 0, clip[:40_000]
    heard = []
    for size in (1, 79, 80, 500, 160, 37, 39_143):
        heard.append(front_end.capture(said[given : given + size]))
        given += size
        out = sum(map(len, heard))
        assert out % BLOCK == 0
        assert given - out == front_end.held - front_end.delay < BLOCK
    samples = np.concatenate(heard)
    size = 1 << 17
    product = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(said[: len(samples)], size))
    assert np.argmax(np.fft.irfft(product)) == pytest.approx(front_end.delay, abs=4)
    assert front_end.delay <= BLOCK


@pytest.mark.parametrize("count", [1, 100, 160, 161, 1000])
@pytest.mark.parametrize("before", [0, 1, 159])
def test_so_much_is_needed(count: int, before: int) -> None:
    front_end = FrontEnd(NOTHING)
    front_end.capture(np.zeros(before, np.float32))
    needed = front_end.needed(count)
    assert len(front_end.capture(np.zeros(needed - 1, np.float32))) < count
    assert len(front_end.capture(np.zeros(1, np.float32))) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_of_blocks_do_not_matter(kind: str, clip: FloatArray) -> None:
    said = clip[:32_000]
    whole = through(FrontEnd(KINDS[kind]), said, len(said))
    for size in (64, 80, 250):
        assert np.array_equal(through(FrontEnd(KINDS[kind]), said, size), whole)


def test_clean_speech_is_left_alone(clip: FloatArray) -> None:
    suppressor = NoiseSuppressor()
    heard = blockwise(suppressor, clip)
    said = clip[: len(heard) - suppressor.delay]
    assert level(heard[suppressor.delay :] - said) < level(said) - 30.0


def test_noise_is_lowered_and_speech_stays(clip: FloatArray) -> None:
    added = noise(3 * len(clip), level(clip) - 10.0)
    said = np.concatenate((clip, clip, np.zeros_like(clip))) + added
    suppressor = NoiseSuppressor()
    heard = blockwise(suppressor, said)[suppressor.delay :]
    pause = slice(2 * len(clip) + SAMPLE_RATE, len(heard))
    assert level(heard[pause]) < level(added[pause]) - 10.0
    talk = slice(len(clip), 2 * len(clip))
    assert abs(level(heard[talk]) - level(clip)) < 1.5
    scores = [pesq(SAMPLE_RATE, clip, samples[talk], "wb") for samples in (said, heard)]
    assert scores[1] > scores[0] + 0.15


def test_no_echo_no_change(clip: FloatArray) -> None:
    """What is taken from clean speech is below 50 Hz, of which this clip has more than others."""
    front_end = FrontEnd(Processing(True, True, False))
    heard = through(front_end, np.concatenate((clip, np.zeros(BLOCK * 2, np.float32))))
    samples = heard[front_end.delay : front_end.delay + len(clip)]
    assert pesq(SAMPLE_RATE, clip, samples, "wb") > 4.3


@pytest.mark.parametrize("decibel", [-50.0, -40.0, -33.0, -20.0])
def test_talkers_come_to_a_usual_level(clip: FloatArray, decibel: float) -> None:
    said = np.tile(at_level(clip, decibel), 3)
    heard = blockwise(GainControl(), said)
    assert np.abs(heard).max() <= 1.0
    least, most = GainControl.RANGE_DB
    gain = level(heard[-len(clip) :]) - level(said[-len(clip) :])
    wished = np.clip(GainControl.TARGET_DB - decibel, least, most)
    assert abs(gain - wished) < 3.0


def test_the_level_changes_slowly(clip: FloatArray) -> None:
    said = at_level(clip, -45.0)
    heard = blockwise(GainControl(), said)
    blocks = [20 * np.log10(np.abs(h).max() / np.abs(s).max()) for h, s in zip(
        heard.reshape(-1, BLOCK), said[: len(heard)].reshape(-1, BLOCK), strict=True)]  # fmt: skip
    assert np.abs(np.diff(blocks)).max() < 0.1
    assert blocks[20] == 0.0 < blocks[-1]


def test_a_room_without_a_talker_keeps_its_level() -> None:
    hum = noise(8 * SAMPLE_RATE, -55.0)
    assert np.array_equal(blockwise(GainControl(), hum), hum)


class Louder(Delay):
    """A stage that can be heard, with a delay."""

    delay = 30

    def __init__(self) -> None:
        super().__init__(self.delay)

    def process(self, block: FloatArray) -> FloatArray:
        return 2.0 * super().process(block)


def test_switching_off_leaves_the_sound_as_it_is_without_a_click() -> None:
    said = (0.2 * np.sin(np.arange(6400) * 0.05)).astype(np.float32)
    front_end = FrontEnd(NOTHING, [Louder()])
    heard = []
    for number, block in enumerate(said.reshape(-1, BLOCK)):
        front_end.enabled = not 10 <= number < 20
        heard.append(front_end.capture(block))
    late = np.concatenate((np.zeros(30, np.float32), said))[: len(said)]
    samples = np.concatenate(heard)
    assert np.array_equal(samples[: 10 * BLOCK], 2.0 * late[: 10 * BLOCK])
    assert np.array_equal(samples[11 * BLOCK : 20 * BLOCK], late[11 * BLOCK : 20 * BLOCK])
    assert np.array_equal(samples[21 * BLOCK :], 2.0 * late[21 * BLOCK :])
    assert np.abs(np.diff(samples)).max() < 1.1 * 0.4 * 0.05


class Failing(Louder):
    def process(self, block: FloatArray) -> FloatArray:
        raise FrontEndMissing("the library is out of order")


def test_a_library_that_fails_is_done_without() -> None:
    front_end = FrontEnd(NOTHING, [Failing()])
    said = noise(1600, -20.0)
    heard = through(front_end, said)
    assert front_end.error == "the library is out of order"
    assert np.array_equal(heard[30:], said[: len(heard) - 30])


@pytest.mark.parametrize("kind", KINDS)
def test_no_samples_do_harm(kind: str) -> None:
    wild = np.full(4000, np.nan, np.float32)
    wild[::3], wild[1::7], wild[2::5] = np.inf, -1e30, 5.0
    front_end = FrontEnd(KINDS[kind])
    front_end.render(wild)
    heard = through(front_end, np.concatenate((wild, np.zeros(4000, np.float32))))
    assert np.isfinite(heard).all() and np.abs(heard).max() <= 8.0
    assert front_end.error is None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    with pytest.raises(FrontEndMissing, match="package livekit cannot be used"):
        FrontEnd()
    assert len(FrontEnd(KINDS["gain"]).capture(np.zeros(BLOCK, np.float32))) == BLOCK


def test_nothing_at_all_may_be_wanted() -> None:
    assert EVERYTHING and not NOTHING
    assert all(KINDS.values())
