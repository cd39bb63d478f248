"""The live encoder: one valid packet per frame, whatever the chunks, the clock and the input."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput
from codec.packet import HEADER_BYTES, Kind, unpack
from codec.signal import analysis
from codec.signal.activity import ActivityDetector
from codec.signal.comfort_noise import PAYLOAD_BYTES
from codec.signal.samples import FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.live import EncodedFrame, LiveEncoder, filled
from codec.speech.presets import PRESETS
from codec.speech.ratecontrol import MAX_PACKET_FRAMES, OPENING_CREDIT

FRAME = analysis.FRAME_SAMPLES
LOOK_AHEAD = analysis.LEAD


class Clock:
    """Time that passes only by being looked at."""

    def __init__(self, tick: float = 0.001) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class Loudness(ActivityDetector):
    """Takes loud frames for speech, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0
        self.ends: list[int] = []
        self._power = 0.0

    def push(self, samples: FloatArray) -> None:
        if self.heard % FRAME == 0:
            self._power = 0.0
        assert self.heard // FRAME == (self.heard + len(samples) - 1) // FRAME
        self.heard += len(samples)
        self._power += float(np.square(samples).sum())

    def frame_active(self) -> bool:
        self.ends.append(self.heard)
        return self._power > 1.0


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu")


def run(
    encoder: LiveEncoder, samples: FloatArray, chunk: int = 1600, refine: bool = True
) -> list[EncodedFrame]:
    """Push the samples in chunks, with as much search between them as the encoder wants."""
    frames: list[EncodedFrame] = []
    for start in range(0, len(samples), chunk):
        frames += encoder.push(samples[start : start + chunk])
        while refine and encoder.refine():
            pass
    return frames


def decoded(codec: SpeechCodec, frames: list[EncodedFrame]) -> FloatArray:
    decoder = codec.decoder()
    parts = [decoder.push(unpack(frame.packet)) for frame in frames]
    return np.concatenate([*parts, decoder.finish()])


def envelope(samples: FloatArray) -> FloatArray:
    """Level in dB of each 20 ms."""
    power = np.square(samples[: len(samples) // 320 * 320].reshape(-1, 320)).mean(axis=1)
    return 10.0 * np.log10(power + 1e-6)


@pytest.mark.parametrize("fraction", [0.2, 0.34, 0.5, 1.0])
def test_the_unheard_part_of_a_frame_mirrors_the_heard_one(fraction: float) -> None:
    columns = np.random.default_rng(0).random((128, 4)).astype(np.float32)
    known = int(fraction * 128)
    guess = filled(columns, known)
    assert np.array_equal(guess[:known], columns[:known])
    if known < 128:
        assert np.array_equal(guess[known], columns[known - 1])
    assert {row.tobytes() for row in guess} <= {row.tobytes() for row in columns[:known]}


def test_packets_decode_to_the_speech(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = clip[: 3 * FRAME + LOOK_AHEAD]
    frames = run(LiveEncoder(codec, iterations=12, clock=Clock()), samples)
    assert [unpack(frame.packet).sequence for frame in frames] == [0, 1, 2]
    assert all(
        frame.active and frame.payload_bits == 8 * len(frame.packet) - 64 for frame in frames
    )
    heard, said = envelope(decoded(codec, frames)[: 3 * FRAME]), envelope(samples[: 3 * FRAME])
    assert np.corrcoef(heard, said)[0, 1] > 0.9


def test_search_while_filling_lowers_the_cost(codec: SpeechCodec, clip_paths: list[Path]) -> None:
    """Most of the steps are taken before the frame ends, and they are worth it even alone."""
    costs = np.zeros(3)
    for path in clip_paths[-2:]:  # speech from the first frame on
        samples = soundfile.read(path, frames=2 * FRAME + LOOK_AHEAD, dtype="float32")[0]
        hurried = run(LiveEncoder(codec, tail=0.0), samples, refine=False)
        assert all(frame.steps == 0 and frame.cost == frame.start_cost for frame in hurried)
        early = run(LiveEncoder(codec, tail=0.0, clock=Clock(0.0)), samples)
        assert all(36 <= frame.steps <= 60 and frame.cost <= frame.start_cost for frame in early)
        whole = run(LiveEncoder(codec, clock=Clock(0.0)), samples)  # all steps left at the end, too
        assert all(frame.steps == 60 and frame.cost <= frame.start_cost for frame in whole)
        costs += [sum(frame.cost for frame in frames) for frames in (hurried, early, whole)]
    assert costs[1] < 0.96 * costs[0]
    assert costs[2] < 0.92 * costs[0]


@pytest.mark.parametrize("chunk", [97, 5_000, 3 * FRAME])
def test_one_packet_per_frame_whatever_the_chunks(
    codec: SpeechCodec, clip: FloatArray, chunk: int
) -> None:
    samples = clip[: 3 * FRAME + LOOK_AHEAD]
    encoder = LiveEncoder(codec, iterations=0)
    assert len(run(encoder, samples[:-1], chunk)) == 2
    assert len(encoder.push(samples[-1:])) == 1


def test_columns_are_those_of_the_offline_analysis(codec: SpeechCodec, clip: FloatArray) -> None:
    encoder = LiveEncoder(codec, iterations=0)
    columns = []
    for start in range(0, 20_000, 777):
        encoder.push(clip[start : min(start + 777, 20_000)])
        columns.append(encoder.columns())
    assert encoder.columns().shape == (0, analysis.N_MELS)
    padded = np.concatenate((np.zeros(LOOK_AHEAD, np.float32), clip[:20_000]))
    np.testing.assert_allclose(np.concatenate(columns), analysis.log_mel(padded), atol=1e-5)


def test_same_chunks_and_clock_give_the_same_packets(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = clip[: 2 * FRAME + LOOK_AHEAD]
    once, again = (
        run(LiveEncoder(codec, iterations=10, clock=Clock(0.002)), samples) for _ in range(2)
    )
    assert [frame.packet for frame in once] == [frame.packet for frame in again]


@pytest.mark.parametrize("tick", [0.0005, 0.004, 0.05])
def test_slices_and_tail_keep_their_time(codec: SpeechCodec, clip: FloatArray, tick: float) -> None:
    """However slow the machine, what is done after the last sample fits the tail."""
    clock = Clock(tick)
    encoder = LiveEncoder(codec, tail=0.06, iterations=30, clock=clock)
    samples = clip[: FRAME + LOOK_AHEAD]
    for start in range(0, len(samples), 800):
        before = clock.now
        frames = encoder.push(samples[start : start + 800])
        # The looks that are no part of a step: around the tail, the scoring and the analysis.
        assert clock.now - before <= 0.06 + 10 * tick
        assert not frames or frames[0].seconds <= clock.now
        before = clock.now
        while encoder.refine():
            assert clock.now - before <= 0.04 + 6 * tick
            before = clock.now


def test_steps_keep_to_their_limit(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = clip[: 2 * FRAME + LOOK_AHEAD]
    for iterations in (0, 1, 9):
        encoder = LiveEncoder(codec, iterations=iterations, tail=10.0, clock=Clock(0.0))
        assert [frame.steps for frame in run(encoder, samples)] == [iterations] * 2
    with pytest.raises(BadInput):
        LiveEncoder(codec, iterations=-1)


def test_rate_stays_bounded(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = np.tile(clip, 3)
    frames = run(LiveEncoder(codec, iterations=1, clock=Clock(0.0)), samples, 8_000)
    average = PRESETS["2k"].frame_bits
    sizes = np.array([frame.payload_bits for frame in frames])
    count = np.arange(len(sizes)) + 1
    assert (np.cumsum(sizes) <= average * (count + OPENING_CREDIT) + 1).all()
    assert sizes.max() <= MAX_PACKET_FRAMES * average
    assert sizes.mean() > 0.6 * average


def test_preset_changes_with_the_next_frame(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = np.tile(clip, 3)[: 12 * FRAME + LOOK_AHEAD]
    encoder = LiveEncoder(codec, iterations=1, clock=Clock(0.0))
    frames = run(encoder, samples[: 4 * FRAME + 8_000])
    encoder.set_preset("1k2")
    frames += run(encoder, samples[4 * FRAME + 8_000 :])
    sizes = [frame.payload_bits for frame in frames]
    assert len(frames) == 12
    assert np.mean(sizes[6:]) < 0.8 * np.mean(sizes[:5])
    assert sum(sizes[5:]) <= PRESETS["1k2"].frame_bits * (7 + 2.0)
    assert np.isfinite(decoded(codec, frames)).all()
    with pytest.raises(BadInput, match="another model"):
        encoder.set_preset("paper")
    with pytest.raises(BadInput, match="unknown preset"):
        encoder.set_preset("9k")


def test_what_was_pushed_before_a_reset_is_in_no_packet(
    codec: SpeechCodec, clip: FloatArray
) -> None:
    """Nor in what is shown of it; the frame after it begins with the next sample."""
    encoder = LiveEncoder(codec, iterations=4, clock=Clock())
    (first,) = run(encoder, clip[: FRAME + FRAME // 2])
    assert first.active
    encoder.set_preset("1k2")
    encoder.reset()
    assert len(encoder.columns()) == 0
    silence = np.zeros(FRAME + LOOK_AHEAD, np.float32)
    assert run(encoder, silence[:-1]) == []
    (frame,) = encoder.push(silence[-1:])
    assert not frame.active
    assert frame.quality == PRESETS["1k2"].quality
    assert not decoded(codec, [frame]).any()


def test_noise_becomes_comfort_packets_without_search(codec: SpeechCodec, clip: FloatArray) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0.0, 1e-3, 3 * FRAME).astype(np.float32)
    activity = Loudness()
    encoder = LiveEncoder(codec, iterations=5, activity=activity, clock=Clock(0.0))
    frames: list[EncodedFrame] = []
    for start in range(0, len(noise), 1600):
        frames += encoder.push(noise[start : start + 1600])
        assert not encoder.refine()
    frames += run(encoder, clip[: FRAME + LOOK_AHEAD])
    packets = [unpack(frame.packet) for frame in frames]
    assert [packet.kind for packet in packets] == [Kind.COMFORT_NOISE] * 3 + [Kind.SPEECH]
    assert all(len(packet.payload) == PAYLOAD_BYTES for packet in packets[:3])
    assert [frame.steps for frame in frames] == [0, 0, 0, 5]
    assert [frame.active for frame in frames] == [False] * 3 + [True]
    assert set(range(FRAME, 5 * FRAME, FRAME)) <= set(activity.ends)


def test_digital_silence_is_a_bare_header(codec: SpeechCodec) -> None:
    for activity in (None, Loudness()):
        encoder = LiveEncoder(codec, activity=activity)
        frames = []
        for _ in range(22):
            frames += encoder.push(np.zeros(1600, np.float32))
            assert not encoder.refine()
        assert [len(frame.packet) for frame in frames] == [HEADER_BYTES] * 2
        assert not any(frame.active for frame in frames)
        assert not decoded(codec, frames).any()


def test_the_detector_and_noise_coder_that_ship(codec: SpeechCodec, clip: FloatArray) -> None:
    """Long steady noise ends as comfort packets of at most 19 bytes; speech over it does not."""
    random = np.random.default_rng(0)
    noise = random.normal(0.0, 1e-3, 11 * FRAME).astype(np.float32)
    noise[8 * FRAME :] += clip[8_000 : 8_000 + 3 * FRAME]
    encoder = LiveEncoder(codec, iterations=1, activity=ActivityDetector(), clock=Clock(0.0))
    kinds = [unpack(frame.packet).kind for frame in run(encoder, noise)]
    assert kinds[5:8] == [Kind.COMFORT_NOISE] * 3
    assert kinds[8:] == [Kind.SPEECH] * (len(kinds) - 8)


@pytest.mark.parametrize(
    "signal",
    [
        np.full(20_000, np.nan),
        np.where(np.arange(20_000) % 100 == 0, np.inf, 0.1),
        np.where(np.arange(20_000) % 3 == 0, -np.inf, np.nan),
        1e30 * np.sin(np.arange(20_000) * 0.3),
        np.sign(np.sin(np.arange(20_000) * 0.1)),
    ],
    ids=["nan", "infinite", "nothing finite", "far too loud", "square"],
)
def test_hostile_samples_are_safe(codec: SpeechCodec, signal: FloatArray) -> None:
    frames = run(LiveEncoder(codec, iterations=4, clock=Clock(0.0)), signal.astype(np.float32))
    assert len(frames) == 1
    assert np.isfinite([frames[0].cost, frames[0].start_cost]).all()
    assert np.isfinite(decoded(codec, frames)).all()


def test_a_long_stream_keeps_nothing(codec: SpeechCodec) -> None:
    """Minutes of faint noise, in chunks, with nobody asking for the columns."""
    encoder = LiveEncoder(codec, activity=Loudness(), iterations=1)
    noise = np.random.default_rng(0).normal(0.0, 1e-4, 10 * FRAME).astype(np.float32)

    run(encoder, noise, 4_000)
    tracemalloc.start()
    run(encoder, noise, 8_192)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(15):
        run(encoder, noise, 8_192)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after <= before + 4 * FRAME
    assert len(encoder.columns()) <= 2 * analysis.FRAME_HOPS


def test_other_families_work(clip: FloatArray) -> None:
    paper = SpeechCodec.load("paper", "cpu")
    frames = run(LiveEncoder(paper, iterations=3, clock=Clock(0.0)), clip[: FRAME + LOOK_AHEAD])
    assert len(frames) == 1
    assert frames[0].steps == 3
    assert frames[0].cost <= frames[0].start_cost
    assert np.isfinite(decoded(paper, frames)).all()
