"""Rate control in time: the reservoir never overdrawn, every bound kept, at every length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BadInput
from codec.packet import STEPS, pack_session
from codec.signal.analysis import STEP_SAMPLES
from codec.signal.samples import FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.encoder import BLOCK, EncodedPacket, SpeechEncoder
from codec.speech.presets import PRESETS
from codec.speech.ratecontrol import (
    OPENING_SECONDS,
    RESERVOIR_SECONDS,
    STEP_SECONDS,
    RateControl,
    longest_packet,
)
from tests.conftest import CLIPS

SPEECH = soundfile.read(CLIPS / "librispeech-672.flac", dtype="float32")[0]


def test_rate_control_never_overdraws() -> None:
    """Whatever frames that are planned together cost, promises stay within the credit."""
    random = np.random.default_rng(3)
    control = RateControl(2000.0, 8, 17)
    spent = 0.0
    for group in range(200):
        taken = []
        for _ in range(8):
            size = random.choice([10.0, 1500.0, 4000.0])
            bits = size * np.linspace(0.5, 2.0, 17)
            plan = control.plan(bits * 0.9, bits, 16)
            assert 0 <= plan.quality < 17
            taken.append(min(plan.allowed, float(random.random() * 3000)))
        control.settle(taken, 16)
        spent += sum(taken)
        assert spent <= 2000.0 * (1.024 * 8 * (group + 1) + OPENING_SECONDS)


@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.floats(0.0, 8.0), st.floats(0.0, 1.0)), max_size=60
    ),
    st.floats(600.0, 6000.0),
)
def test_one_reservoir_for_packets_of_any_length(
    packets: list[tuple[int, float, float]], rate: float
) -> None:
    control = RateControl(rate, 8, 17)
    time, spent, credits = 0.0, 0.0, [control.credit]
    for steps, demand, share in packets:
        seconds = steps * STEP_SECONDS
        bits = demand * rate * seconds * np.linspace(0.5, 2.0, 17)
        plan = control.plan(bits * 0.9, bits, steps)
        assert plan.allowed <= longest_packet(seconds) * rate * (1 + 1e-9)
        taken = share * plan.allowed
        control.settle([taken], steps)
        time, spent = time + seconds, spent + taken
        assert -1e-6 <= control.credit <= RESERVOIR_SECONDS * rate * (1 + 1e-9)
        credits.append(control.credit)
    assert spent <= rate * (time + OPENING_SECONDS) + 1e-6 * (1 + spent)


def test_what_is_saved_ends_with_the_reservoir() -> None:
    control = RateControl(2000.0, 8, 17)
    for _ in range(100):
        control.settle([0.0], 4)
    assert control.credit == RESERVOIR_SECONDS * 2000.0
    control.retarget(1000.0, 4)
    assert control.credit == RESERVOIR_SECONDS * 1000.0
    control.correct(100.0, 400.0)
    assert control.credit == RESERVOIR_SECONDS * 1000.0 - 300.0
    control.correct(1e9, 0.0)
    assert control.credit == RESERVOIR_SECONDS * 1000.0


def test_the_longest_packets() -> None:
    seconds = [longest_packet(steps * STEP_SECONDS) for steps in STEPS]
    assert seconds == pytest.approx([0.256, 0.448, 0.832, 1.536, 2.048])


def test_a_limit_of_its_own_bounds_a_plan() -> None:
    control = RateControl(2000.0, 8, 17)
    bits = 300.0 * np.linspace(0.5, 2.0, 17)
    plan = control.plan(bits, bits, 4, most=200.0)
    assert plan.allowed <= 200.0
    assert bits[plan.quality] <= 200.0
    assert control.go_on(plan.quality, 500.0, 4, 150.0).allowed <= 150.0


# --- with the shipped weights ---------------------------------------------------------------------


def inputs(seconds: float) -> dict[str, FloatArray]:
    count = int(seconds * 16_000)
    random = np.random.default_rng(1)
    white = random.normal(0.0, 0.3, count).astype(np.float32)
    clicks = (random.random(count) < 0.002) * random.normal(0.0, 1.0, count)
    speech = np.resize(SPEECH[4_000:], count)
    return {
        "speech": speech,
        "noise": white,
        "clipped": np.clip(40.0 * speech, -1.0, 1.0),
        "clicks": clicks.astype(np.float32),
        "faint, then loud": np.where(np.arange(count) < count // 2, 0.003 * white, white),
    }


INPUTS = inputs(4.2)


@pytest.fixture(scope="module")
def codecs() -> dict[str, SpeechCodec]:
    return {preset: SpeechCodec.load(preset, "cpu") for preset in ("1k2", "2k", "3k6")}


def encoded(codec: SpeechCodec, samples: FloatArray, **options: Any) -> list[EncodedPacket]:
    options = {"iterations": 0, "block": BLOCK, "session": True} | options
    encoder = SpeechEncoder(codec, **options)
    return encoder.push(samples) + encoder.finish()


def bits_of(packets: list[EncodedPacket]) -> list[int]:
    return [8 * len(pack_session(each.packet)) if each.packet else 0 for each in packets]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["speech", "faint, then loud"])
def test_the_preset_holds_at_every_delay(
    codecs: dict[str, SpeechCodec], steps: int, name: str
) -> None:
    """From the beginning on, and over any 2.048 s; and the rate is made use of."""
    rate = PRESETS["2k"].rate
    sizes = np.array(bits_of(encoded(codecs["2k"], INPUTS[name], steps=steps)))
    seconds = steps * STEP_SECONDS
    ends = seconds * np.arange(1, len(sizes) + 1)
    assert (np.cumsum(sizes) <= rate * (ends + OPENING_SECONDS) + 16).all()
    window = int(2.048 / seconds)
    within = np.convolve(sizes, np.ones(window), "valid")
    assert (within <= rate * (2.048 + RESERVOIR_SECONDS) + 16).all()
    assert name != "speech" or sizes.sum() > 0.6 * rate * ends[-1]
    bound = longest_packet(seconds) * rate
    assert sizes.max() <= bound + 16


@settings(max_examples=7)
@given(
    preset=st.sampled_from(("1k2", "2k", "3k6")),
    steps=st.sampled_from(STEPS),
    most=st.sampled_from((231, 250, 64, 16)),
    name=st.sampled_from(sorted(INPUTS)),
    start=st.integers(0, 40),
)
def test_no_packet_exceeds_its_limit(
    codecs: dict[str, SpeechCodec], preset: str, steps: int, most: int, name: str, start: int
) -> None:
    samples = INPUTS[name][start * STEP_SAMPLES : (start + 24) * STEP_SAMPLES]
    packets = encoded(codecs[preset], samples, steps=steps, most_bytes=most)
    assert len(packets) == -(-24 // steps)
    for each in packets:
        assert each.packet is not None
        assert len(pack_session(each.packet)) <= most


def test_a_limit_can_be_reached_and_still_carries_speech(codecs: dict[str, SpeechCodec]) -> None:
    """231 bytes at 1024 ms bind the loudest packets of `2k`, and none falls silent for it."""
    free = encoded(codecs["3k6"], INPUTS["speech"], steps=16)
    bound = encoded(codecs["3k6"], INPUTS["speech"], steps=16, most_bytes=231)
    assert max(bits_of(free)) > 8 * 231 >= max(bits_of(bound)) > 8 * 200
    assert all(each.active for each in bound)


def test_files_have_limits_too(codecs: dict[str, SpeechCodec]) -> None:
    samples = INPUTS["clipped"][: 40 * STEP_SAMPLES]
    for steps in (16, 4):
        most = 140 if steps == 16 else 100
        encoder = codecs["3k6"].encoder(iterations=0, steps=steps, most_bytes=most, group=4)
        packets = encoder.push(samples) + encoder.finish()
        header = 8 if steps == 16 else 2
        sizes = [len(each.packet.payload) + header for each in packets if each.packet]
        assert len(sizes) == -(-40 // steps)
        assert 60 < max(sizes) <= most


def test_a_limit_that_leaves_no_speech_is_refused(codecs: dict[str, SpeechCodec]) -> None:
    for steps, least in ((1, 10), (4, 34), (16, 130)):
        codecs["2k"].encoder(steps=steps, most_bytes=max(least, 16))
        with pytest.raises(BadInput, match=r"too short|need"):
            codecs["2k"].encoder(steps=steps, most_bytes=least - 1)
