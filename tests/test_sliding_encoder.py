"""The encoder of calls: one good packet per step or several, whatever the clock and the input."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from codec.errors import BadInput
from codec.packet import SESSION_HEADER_BYTES, STEPS, Kind, Packet, pack_session
from codec.search.engine import cheapen, refine
from codec.search.methods import Method
from codec.search.problem import SearchResult
from codec.signal import analysis
from codec.signal.activity import ActivityDetector
from codec.signal.analysis import LEAD, STEP_SAMPLES
from codec.signal.comfort_noise import DB_PER_UNIT, PAYLOAD_BYTES
from codec.signal.samples import FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import (
    AHEAD_STEPS,
    BLOCK,
    LONGEST_TAIL,
    EncodedPacket,
    SpeechEncoder,
    ahead_of,
    live_encoder,
    tail_of,
)
from codec.speech.presets import PRESETS
from codec.speech.ratecontrol import OPENING_SECONDS, RESERVOIR_SECONDS, STEP_SECONDS

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
    """Takes loud packets for speech, and remembers when it was asked."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.heard = 0
        self.ends: list[int] = []
        self._samples = steps * STEP_SAMPLES
        self._power = 0.0

    def push(self, samples: FloatArray) -> None:
        if self.heard % self._samples == 0:
            self._power = 0.0
        assert self.heard // self._samples == (self.heard + len(samples) - 1) // self._samples
        self.heard += len(samples)
        self._power += float(np.square(samples).sum())

    def frame_active(self) -> bool:
        self.ends.append(self.heard)
        return self._power > 1e-4 * self._samples


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu")


def encoder_of(codec: SpeechCodec, steps: int = 4, **options: Any) -> SpeechEncoder:
    usual: dict[str, Any] = {"iterations": 0, "block": BLOCK, "session": True, "clock": Clock(0.0)}
    return SpeechEncoder(codec, steps=steps, **usual | options)


def run(encoder: SpeechEncoder, samples: FloatArray, chunk: int = 1600) -> list[EncodedPacket]:
    parts = range(0, len(samples), chunk)
    return [each for start in parts for each in encoder.push(samples[start : start + chunk])]


def columns_of(codec: SpeechCodec, encoded: list[EncodedPacket]) -> FloatArray:
    """What a receiver makes of them; where nothing was sent, the pause goes on."""
    decoder = PacketDecoder(codec)
    return np.concatenate(
        [
            decoder.decode(each.packet).columns if each.packet else decoder.conceal(each.steps)
            for each in encoded
        ]
    )


def decoded(codec: SpeechCodec, encoded: list[EncodedPacket]) -> FloatArray:
    decoder = codec.decoder(encoded[0].steps)
    return np.concatenate([*(decoder.push(each.packet) for each in encoded), decoder.finish()])


def envelope(samples: FloatArray) -> FloatArray:
    """Level in dB of each 20 ms."""
    power = np.square(samples[: len(samples) // 320 * 320].reshape(-1, 320)).mean(axis=1)
    return 10.0 * np.log10(power + 1e-6)


def bits_of(encoded: list[EncodedPacket]) -> list[int]:
    """Bits sent for each packet, with its header."""
    return [8 * len(pack_session(each.packet)) if each.packet else 0 for each in encoded]


def noise(steps: int, level: float = 1e-3) -> FloatArray:
    random = np.random.default_rng(0)
    return random.normal(0.0, level, steps * STEP_SAMPLES).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_in_haste_too_packets_depend_on_the_samples_alone(
    codec: SpeechCodec, clip: FloatArray, steps: int
) -> None:
    """What a packet leaves to be done is done before the next one, however samples come."""
    options = {"iterations": 1, "budget": np.inf}
    samples = np.tile(clip, 2)[: 40 * STEP_SAMPLES + LEAD]
    whole = run(encoder_of(codec, steps, **options), samples, len(samples))
    assert len(whole) == 40 // steps
    for chunk in (160, 4096 + 7):
        parts = run(encoder_of(codec, steps, **options), samples, chunk)
        assert [each.packet for each in parts] == [each.packet for each in whole]
    encoder = encoder_of(codec, steps, **options)
    for start in range(0, len(samples), 32 * STEP_SAMPLES):
        encoder.push(samples[start : start + 16 * STEP_SAMPLES + LEAD])
        encoder.reset()
        assert encoder.push(samples[:160]) == []


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_packets_decode_to_the_speech(codec: SpeechCodec, clip: FloatArray, steps: int) -> None:
    samples = clip[: 32 * STEP_SAMPLES + LOOK_AHEAD]
    encoded = run(encoder_of(codec, steps, iterations=4), samples)
    assert [each.step for each in encoded] == list(range(0, 32, steps))
    assert all(each.active and each.steps == steps for each in encoded)
    heard = decoded(codec, encoded)[: 32 * STEP_SAMPLES]
    said = envelope(samples[: 32 * STEP_SAMPLES])
    assert np.corrcoef(envelope(heard), said)[0, 1] > 0.9


def test_the_search_lowers_the_cost(codec: SpeechCodec, clip: FloatArray) -> None:
    """However few its steps are, it ends no higher than where it began."""
    samples = clip[8_000 : 8_000 + 12 * STEP_SAMPLES + LOOK_AHEAD]
    shares = []
    for iterations in (0, 1, 24):
        encoded = run(encoder_of(codec, iterations=iterations), samples)
        assert [each.iterations for each in encoded] == [iterations] * 3
        assert all(0.0 < each.cost <= each.start_cost for each in encoded)
        costs = np.array([(each.cost, each.start_cost) for each in encoded]).sum(axis=0)
        shares.append(costs[0] / costs[1])
    assert shares[0] == 1.0
    assert shares[2] < 0.97
    with pytest.raises(BadInput):
        encoder_of(codec, iterations=-1)


@pytest.mark.parametrize("steps", STEPS)
def test_a_packet_is_sent_with_the_last_sample_that_it_needs(
    codec: SpeechCodec, clip: FloatArray, steps: int
) -> None:
    encoder = encoder_of(codec, steps)
    samples = clip[: 2 * steps * STEP_SAMPLES + LOOK_AHEAD]
    assert len(run(encoder, samples[:-1], 5_000)) == 1
    assert len(encoder.push(samples[-1:])) == 1


def test_columns_are_those_of_the_offline_analysis(codec: SpeechCodec, clip: FloatArray) -> None:
    encoder = encoder_of(codec, 1)
    columns = []
    for start in range(0, 20_000, 777):
        encoder.push(clip[start : min(start + 777, 20_000)])
        columns.append(encoder.columns())
    assert encoder.columns().shape == (0, analysis.N_MELS)
    padded = np.concatenate((np.zeros(LOOK_AHEAD, np.float32), clip[:20_000]))
    found, expected = np.concatenate(columns), analysis.log_mel(padded)
    assert len(found) == len(expected) // 8 * 8
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)


@pytest.mark.parametrize("tick", [0.003, 0.05])
@pytest.mark.parametrize("steps", [1, 8])
def test_searches_keep_their_time(
    codec: SpeechCodec, clip: FloatArray, tick: float, steps: int
) -> None:
    """However slow the machine, what is done when a block is whole fits its budget."""
    clock, budget = Clock(tick), 0.06
    encoder = encoder_of(codec, steps, iterations=None, budget=budget, clock=clock)
    samples = clip[8_000 : 8_000 + 8 * STEP_SAMPLES + LOOK_AHEAD]
    searched = 0
    for start in range(0, len(samples), 800):
        before = clock.now
        encoded = encoder.push(samples[start : start + 800])
        # The looks that are no step: around the search, its last step, and the packet.
        assert clock.now - before <= (budget if encoded else ahead_of(steps)) + 10 * tick
        searched += sum(each.iterations for each in encoded)
    assert searched > 0 or tick > 0.003


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_a_long_block_is_searched_before_its_last_steps(
    codec: SpeechCodec, clip: FloatArray, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In calls, whose time is limited. Each search begins where that before has come to."""
    searched: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noted(*parts: Any, start: torch.Tensor, **options: Any) -> SearchResult:
        found = refine(*parts, start=start, **options)
        assert found.relaxed is not None
        searched.append((start, found.relaxed))
        return found

    monkeypatch.setattr("codec.speech.encoder.refine", noted)
    samples = clip[8_000 : 8_000 + 16 * STEP_SAMPLES + LOOK_AHEAD]
    encoded = run(encoder_of(codec, steps, iterations=3, budget=1e9), samples)
    times = AHEAD_STEPS if steps >= BLOCK else 0
    assert [each.iterations for each in encoded] == [3 * (times + 1)] * (16 // steps)
    assert sum(each.cost for each in encoded) < sum(each.start_cost for each in encoded)
    lengths = [start.shape[1] for start, _ in searched]
    block = min(steps, BLOCK)
    assert lengths == list(range(block - times, block + 1)) * (16 // block)
    for (_, head), (start, _) in pairwise(searched):
        if start.shape[1] > head.shape[1]:
            # The quality, and with it the unit of latents, may differ.
            whole = start[:, : head.shape[1]]
            assert torch.cosine_similarity(head.flatten(), whole.flatten(), 0) > 0.999
    heard = decoded(codec, encoded)[: 16 * STEP_SAMPLES]
    assert np.corrcoef(envelope(heard), envelope(samples[: 16 * STEP_SAMPLES]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("tick", "lengths"),
    [(0.001, {BLOCK - 2, BLOCK - 1, BLOCK}), (0.018, {BLOCK - 2, BLOCK - 1}), (0.1, set())],
)
def test_a_slow_machine_searches_less(
    codec: SpeechCodec,
    clip: FloatArray,
    tick: float,
    lengths: set[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First it goes without what delays packets, then without what is searched ahead."""
    searched: list[int] = []

    def noted(*parts: Any, start: torch.Tensor, **options: Any) -> SearchResult:
        searched.append(start.shape[1])
        return refine(*parts, start=start, **options)

    monkeypatch.setattr("codec.speech.encoder.refine", noted)
    encoder = encoder_of(codec, iterations=None, budget=LONGEST_TAIL, clock=Clock(tick))
    run(encoder, clip[8_000 : 8_000 + 40 * STEP_SAMPLES + LOOK_AHEAD])
    assert set(searched) == lengths


def test_a_search_that_took_long_is_not_the_last(
    codec: SpeechCodec, clip: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine was suspended in the midst of it."""
    clock, stalls = Clock(0.001), [20.0]

    def stalled(*parts: Any, **options: Any) -> SearchResult:
        clock.now += stalls.pop() if stalls else 0.0
        return refine(*parts, **options)

    monkeypatch.setattr("codec.speech.encoder.refine", stalled)
    encoder = encoder_of(codec, iterations=3, budget=0.06, clock=clock)
    encoded = run(encoder, np.tile(clip, 2)[: 96 * STEP_SAMPLES + LOOK_AHEAD])
    assert not stalls
    assert encoded[1].iterations == 0
    assert encoded[-1].iterations > 0


@pytest.mark.parametrize(("preset", "method"), [("paper", None), ("2k", "rdoq"), ("2k", "admm")])
def test_what_mean_field_rounding_cannot_search_is_searched_in_limited_time_too(
    clip: FloatArray, preset: str, method: Method | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("codec.speech.encoder.refine")
    encoder = encoder_of(
        SpeechCodec.load(preset, "cpu"), 16 if preset == "paper" else 4, iterations=2, budget=1e9,
        method=method, activity=Loudness(16 if preset == "paper" else 4),
    )  # fmt: skip
    encoded = run(encoder, clip[: 32 * STEP_SAMPLES + LOOK_AHEAD])
    assert {each.iterations for each in encoded if each.active} == {2}


def test_tails_fit_the_packets() -> None:
    for steps in STEPS:
        assert 0.0 < tail_of(steps) <= 0.4 * STEP_SECONDS * min(steps, BLOCK)


def test_preset_changes_with_the_next_packet(codec: SpeechCodec, clip: FloatArray) -> None:
    samples = np.tile(clip, 2)[: 80 * STEP_SAMPLES + LOOK_AHEAD]
    encoder = encoder_of(codec)
    cut = 40 * STEP_SAMPLES + 800  # in the middle of a packet
    encoded = run(encoder, samples[:cut])
    assert len(encoded) == 10
    encoder.set_preset("1k2")
    encoded += run(encoder, samples[cut:])
    sizes = bits_of(encoded)
    assert len(sizes) == 20
    assert np.mean(sizes[12:]) < 0.8 * np.mean(sizes[:11])
    rate = PRESETS["1k2"].rate
    assert sum(sizes[11:]) <= rate * (9 * 4 * STEP_SECONDS + RESERVOIR_SECONDS)
    assert np.isfinite(decoded(codec, encoded)).all()
    with pytest.raises(BadInput, match="another model"):
        encoder.set_preset("paper")
    with pytest.raises(BadInput, match="unknown preset"):
        encoder.set_preset("9k")


@pytest.mark.parametrize("steps", [1, 16])
def test_what_was_pushed_before_a_reset_is_in_no_packet(
    codec: SpeechCodec, clip: FloatArray, steps: int
) -> None:
    """Nor in what is shown of it; the packet after it begins with the next sample."""
    encoder = encoder_of(codec, steps)
    before = run(encoder, clip[: 24 * STEP_SAMPLES + 500])
    assert before and before[-1].active
    encoder.set_preset("1k2")
    encoder.reset()
    assert len(encoder.columns()) == 0
    silence = np.zeros(steps * STEP_SAMPLES + LOOK_AHEAD, np.float32)
    assert run(encoder, silence[:-1]) == []
    (packet,) = encoder.push(silence[-1:])
    assert not packet.active
    assert packet.step == before[-1].step + steps
    assert packet.packet is not None
    assert packet.packet.quality == PRESETS["1k2"].quality
    assert not decoded(codec, [packet]).any()


def test_nothing_looks_back_over_a_reset(codec: SpeechCodec, clip: FloatArray) -> None:
    """Not the entropy coder, not the generator: what follows is as at the beginning."""
    samples = clip[8_000 : 8_000 + 6 * STEP_SAMPLES]
    encoder = encoder_of(codec, 1)
    run(encoder, clip[:8_000])
    encoder.reset()
    first, *_ = run(encoder, samples)
    assert first.packet is not None and not first.packet.chained
    decoder = PacketDecoder(codec)
    decoder.decode(first.packet)


# --- pauses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
def test_noise_becomes_comfort_noise_without_a_search(
    codec: SpeechCodec, clip: FloatArray, steps: int
) -> None:
    """It is said once, again every 16 steps, and speech after it needs nothing before it."""
    activity = Loudness(steps)
    speech = clip[8_000 : 8_000 + 16 * STEP_SAMPLES + LOOK_AHEAD]
    encoder = encoder_of(codec, steps, iterations=3, activity=activity)
    encoded = run(encoder, np.concatenate((noise(48), speech)))
    pause, active = encoded[: 48 // steps], encoded[48 // steps :]
    assert [each.packet is not None for each in pause] == [each.step % 16 == 0 for each in pause]
    for each in pause:
        assert (each.active, each.iterations, each.cost) == (False, 0, 0.0)
        if each.packet is not None:
            assert each.packet.kind is Kind.COMFORT_NOISE
            assert len(each.packet.payload) == PAYLOAD_BYTES
            assert each.packet.steps == steps and not each.packet.chained
    assert [each.active for each in active] == [True] * (16 // steps)
    assert active[0].packet is not None and not active[0].packet.chained
    assert active[-1].iterations == 3
    assert set(range(steps * STEP_SAMPLES, 48 * STEP_SAMPLES, steps * STEP_SAMPLES)) <= set(
        activity.ends
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_a_pause_goes_on_where_nothing_is_sent(codec: SpeechCodec, steps: int) -> None:
    encoder = encoder_of(codec, steps, activity=Loudness(steps))
    encoded = run(encoder, noise(52))
    columns = columns_of(codec, encoded)[: 48 * 8]
    levels = columns.reshape(-1, 8 * 8, analysis.N_MELS).mean(axis=(1, 2)) * DB_PER_UNIT
    assert np.abs(levels[1:] - levels[1:].mean()).max() < 1.0
    heard = analysis.log_mel(noise(48)).mean() * DB_PER_UNIT
    assert abs(levels[1:].mean() - heard) < 1.5


def test_a_pause_that_changes_is_told_at_once(codec: SpeechCodec) -> None:
    encoder = encoder_of(codec, 1, activity=Loudness(1))
    louder = np.concatenate((noise(24, 1e-4), noise(24, 3e-3)))
    told = [each.step for each in run(encoder, louder) if each.packet is not None]
    assert told[:2] == [0, 16]
    assert any(24 <= step <= 36 for step in told[2:])


def test_digital_silence_is_a_bare_header(codec: SpeechCodec) -> None:
    for activity in (None, Loudness(4)):
        encoder = encoder_of(codec, activity=activity)
        encoded = run(encoder, np.zeros(32 * STEP_SAMPLES + LOOK_AHEAD, np.float32))
        sizes = [len(pack_session(each.packet)) for each in encoded if each.packet]
        assert sizes == [SESSION_HEADER_BYTES] * (8 if activity is None else 2)
        assert not any(each.active for each in encoded)
        assert not decoded(codec, encoded).any() or activity is not None
        assert (columns_of(codec, encoded) == -1.0).all()


@pytest.mark.parametrize("steps", STEPS)
def test_a_pause_costs_little(codec: SpeechCodec, steps: int) -> None:
    """Steady noise, as the detector that ships sees it, once it has found its floor."""
    encoder = live_encoder(codec, steps, iterations=0, clock=Clock(0.0))
    encoded = run(encoder, noise(176), 4_000)
    settled = [each for each in encoded if each.step >= 112]
    assert not any(each.active for each in settled)
    assert sum(bits_of(settled)) / (len(settled) * steps * STEP_SECONDS) <= 150.0


def test_the_detector_and_noise_coder_that_ship(codec: SpeechCodec, clip: FloatArray) -> None:
    """Speech over noise that has become a pause is speech at once, and for two seconds after."""
    samples = noise(190)
    samples[112 * STEP_SAMPLES : 144 * STEP_SAMPLES] += clip[8_000 : 8_000 + 32 * STEP_SAMPLES]
    encoded = run(live_encoder(codec, 2, iterations=0, clock=Clock(0.0)), samples, 4_000)
    active = {each.step: each.active for each in encoded}
    assert not any(active[step] for step in range(96, 112, 2))
    assert all(active[step] for step in range(116, 144, 2))
    assert not active[184]


def test_blocks_of_what_turns_out_a_pause_are_paid_back(codec: SpeechCodec) -> None:
    """A long packet is searched while it fills, and may still become comfort noise."""

    class Late(Loudness):
        def frame_active(self) -> bool:
            self.ends.append(self.heard)
            return self.heard % self._samples != 0 or self._power > 1e9

    encoder = encoder_of(codec, 16, activity=Late(16))
    control = encoder._coder.control
    opening = control.credit = -2000.0  # so that the reservoir has room for all that is saved
    (packet,) = run(encoder, noise(17, 0.05)[: 16 * STEP_SAMPLES + LOOK_AHEAD])
    assert not packet.active
    saved = 16 * STEP_SECONDS * control.rate - packet.payload_bits
    assert control.credit == pytest.approx(opening + saved)


# --- hostile input --------------------------------------------------------------------------------


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
@pytest.mark.parametrize("steps", [1, 16])
def test_hostile_samples_are_safe(codec: SpeechCodec, signal: FloatArray, steps: int) -> None:
    encoded = run(encoder_of(codec, steps, iterations=2), signal.astype(np.float32))
    assert len(encoded) == 19 // steps
    assert all(np.isfinite([each.cost, each.start_cost]).all() for each in encoded)
    assert np.isfinite(decoded(codec, encoded)).all()


def memory() -> int:
    """Bytes in use, without the tuples that Python has freed and keeps for others to come."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_a_long_stream_keeps_nothing(codec: SpeechCodec) -> None:
    """Minutes of faint noise, in chunks, with nobody asking for the columns."""
    encoder = encoder_of(codec, 4, activity=Loudness(4))
    faint = noise(160, 1e-4)
    run(encoder, faint, 4_000)
    tracemalloc.start()
    run(encoder, faint, 8_192)
    before = memory()
    for _ in range(15):
        run(encoder, faint, 8_192)
    after = memory()
    tracemalloc.stop()
    assert after <= before + 4 * 16 * STEP_SAMPLES
    assert len(encoder.columns()) <= 2 * analysis.FRAME_HOPS


def test_other_families_work(clip: FloatArray) -> None:
    paper = SpeechCodec.load("paper", "cpu")
    samples = clip[: 16 * STEP_SAMPLES + LOOK_AHEAD]
    for options in ({}, {"activity": Loudness(16)}):
        (encoded,) = run(encoder_of(paper, 16, iterations=3, **options), samples)
        assert encoded.iterations == 3
        assert encoded.cost <= encoded.start_cost
        assert np.isfinite(decoded(paper, [encoded])).all()


# --- limits ---------------------------------------------------------------------------------------


def test_the_opening_and_the_reservoir_are_what_they_say(codec: SpeechCodec) -> None:
    encoder = encoder_of(codec, 2)
    assert encoder._coder.control.credit == pytest.approx(OPENING_SECONDS * 1936, rel=0.02)
    encoder.push(np.zeros(64_000, np.float32))
    assert encoder._coder.control.credit == pytest.approx(
        RESERVOIR_SECONDS * encoder._coder.control.rate
    )


def test_packets_need_some_room(codec: SpeechCodec) -> None:
    for most in (-1, 0, 15):
        with pytest.raises(BadInput, match="too short"):
            encoder_of(codec, most_bytes=most)


def test_a_limit_that_cannot_be_met_does_not_take_long(
    codec: SpeechCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing makes loud noise fit: few descents find that out, and the packet is noise like it."""
    descents = 0

    def noted(*args: Any, **options: Any) -> Any:
        nonlocal descents
        descents += 1
        return cheapen(*args, **options)

    monkeypatch.setattr("codec.speech.encoder.cheapen", noted)
    encoder = encoder_of(codec, 4, most_bytes=16)
    (encoded,) = run(encoder, noise(5, 0.3))
    assert encoded.packet is not None and encoded.packet.kind is Kind.COMFORT_NOISE
    assert not encoded.active
    assert descents <= 4


def test_comfort_noise_that_does_not_fit_is_silence(codec: SpeechCodec) -> None:
    """A frame in its file form has a header of 8 bytes, and noise one of 10."""
    for most, kind in ((17, Kind.SPEECH), (18, Kind.COMFORT_NOISE)):
        encoder = encoder_of(codec, 16, activity=Loudness(16), session=False, most_bytes=most)
        (encoded,) = run(encoder, noise(17))
        packet = encoded.packet
        assert isinstance(packet, Packet) and packet.pause and packet.kind is kind
