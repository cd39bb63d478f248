"""Comfort noise: small, at the right level, natural, with smooth transitions, and as documented."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from codec.errors import BadInput, BadStream
from codec.packet import HEADER_BYTES, Kind, Packet, pack, unpack
from codec.signal import analysis
from codec.signal.analysis import HOP, LEAD, N_MELS
from codec.signal.comfort_noise import (
    DB_PER_UNIT,
    LEAST_COLUMNS,
    LOUDEST_DB,
    PAYLOAD_BYTES,
    NoiseTexture,
    decode_levels,
    encode_noise,
    loudness,
    textured,
)
from codec.signal.samples import FloatArray
from codec.signal.synthesis import SpeechSynthesiser, synthesise_columns

PAGE = Path(__file__).parents[1] / "docs" / "payload.md"
POLES = {"white": 0.0, "pinkish": 0.7, "brown": 0.98}


def noise(seconds: float, pole: float, decibel: float, seed: int = 0) -> FloatArray:
    white = np.random.default_rng(seed).standard_normal(int(seconds * 16_000))
    samples = lfilter([1.0], [1.0, -pole], white)
    return (samples / samples.std() * 10 ** (decibel / 20)).astype(np.float32)


def drawn(levels: FloatArray, count: int, seed: int = 3) -> FloatArray:
    everywhere = np.ones((count, 1), np.float32)
    return textured(
        np.repeat(levels[None], count, axis=0), NoiseTexture(seed).next(count), everywhere
    )


def samples_of(columns: FloatArray) -> FloatArray:
    return synthesise_columns(columns)


def filtered(levels: FloatArray, sizes: list[int]) -> FloatArray:
    """Noise of these levels [n, N_MELS], in pushes of so many columns and one of the rest."""
    synthesiser = SpeechSynthesiser(variable=True)
    parts = np.split(levels, np.cumsum(sizes))
    samples = [synthesiser.push_noise(part) for part in parts if len(part)]
    return np.concatenate([*samples, synthesiser.finish()])


def groups(levels: FloatArray) -> FloatArray:
    """Levels in dB averaged over eight groups of bands."""
    return levels.reshape(8, -1).mean(axis=1) * DB_PER_UNIT


@pytest.mark.parametrize("name", POLES)
@pytest.mark.parametrize("decibel", [-65.0, -35.0])
def test_levels_survive_the_round_trip(name: str, decibel: float) -> None:
    """As numbers, as columns, and as samples that are analysed again."""
    heard = analysis.log_mel(noise(5.0, POLES[name], decibel))
    payload = encode_noise(heard[:128])
    assert len(payload) == PAYLOAD_BYTES
    true = groups(np.median(heard, axis=0))
    levels = decode_levels(payload)
    assert np.abs(groups(levels) - true).max() < 1.5
    columns = drawn(levels, 384)
    assert np.abs(groups(np.median(columns, axis=0)) - true).max() < 1.5
    samples = samples_of(columns)
    again = np.median(analysis.log_mel(samples), axis=0)
    assert np.abs(groups(again) - true).max() < 2.0
    assert abs(20 * np.log10(samples.std()) - decibel) < 1.5


def test_a_packet_stays_under_150_bits_per_second() -> None:
    bits = 8 * (HEADER_BYTES + PAYLOAD_BYTES)
    assert bits * analysis.SAMPLE_RATE / analysis.FRAME_SAMPLES <= 150


def along(columns: FloatArray, time: int, band: int) -> float:
    """Correlation of columns with themselves, so many columns and bands further."""
    z = columns - columns.mean(axis=0)
    a, b = z[: len(z) - time, : z.shape[1] - band], z[time:, band:]
    return float(np.mean(a * b) / np.mean(z * z))


LAGS = ((1, 0), (2, 0), (0, 1), (0, 2))


def test_low_bands_fluctuate_as_noise_does() -> None:
    """Spread per band, and correlation along time and frequency, beside real noise."""
    low = slice(0, 56)  # up to 1.5 kHz
    real = analysis.log_mel(noise(8.0, 0.0, -40.0, seed=1))[:, low] * DB_PER_UNIT
    made = drawn(np.full(128, 0.0, np.float32), 900)[:, low] * DB_PER_UNIT
    assert np.abs(made.std(axis=0) / real.std(axis=0) - 1.0).max() < 0.25
    for lag in LAGS:
        assert abs(along(made, *lag) - along(real, *lag)) < 0.05


@pytest.mark.parametrize("name", POLES)
def test_heard_noise_fluctuates_as_noise_does(name: str) -> None:
    """In the bands of what is heard, and once only."""
    real = analysis.log_mel(noise(8.0, POLES[name], -40.0, seed=1))
    levels = decode_levels(encode_noise(real[:128]))
    samples = samples_of(drawn(levels, 900))[1000:-1000]
    made = analysis.log_mel(samples)
    spread = made.std(axis=0) / real.std(axis=0)
    assert abs(np.median(spread) - 1.0) < 0.15
    assert np.abs(spread.reshape(16, 8).mean(axis=1) - 1.0).max() < 0.3
    for lag in LAGS:
        assert abs(along(made, *lag) - along(real, *lag)) < 0.1
    # Gaussian noise has a kurtosis of 3; sputtering noise has more.
    high = lfilter([1.0, -0.98], [1.0], samples)
    assert abs(np.mean(high**4) / np.mean(high**2) ** 2 - 3.0) < 0.3


@pytest.mark.parametrize("name", POLES)
def test_filtered_noise_is_as_loud_and_fluctuates_as_noise_does(name: str) -> None:
    real = analysis.log_mel(noise(8.0, POLES[name], -40.0, seed=1))
    levels = decode_levels(encode_noise(real[:128]))
    samples = filtered(np.tile(levels, (900, 1)), [8] * 112)[1000:-1000]
    made = analysis.log_mel(samples)
    off = (np.median(made, axis=0) - levels) * DB_PER_UNIT
    assert np.abs(off).max() < 2.0
    assert np.abs(off.reshape(16, 8).mean(axis=1)).max() < 1.0
    assert np.abs((made.std(axis=0) / real.std(axis=0)).reshape(16, 8).mean(axis=1) - 1).max() < 0.2
    for lag in LAGS:
        assert abs(along(made, *lag) - along(real, *lag)) < 0.05
    assert abs(np.mean(samples**4) / np.mean(samples**2) ** 2 - 3.0) < 0.3


def test_filtered_noise_follows_its_levels_however_they_are_pushed() -> None:
    rise = np.linspace(-0.8, -0.4, 200, dtype=np.float32)[:, None] + np.zeros(N_MELS, np.float32)
    whole = filtered(rise, [200])
    sizes = [1, 7, 60, 8, 8]
    parts = filtered(rise, sizes)
    # What comes early is without the first samples of a column that is still to come.
    ends = np.array([*np.cumsum(sizes[1:]) + 1, 200]) * HOP - HOP
    early = (ends[:, None] + np.arange(-64, 64)).ravel()
    early = early[early < len(whole)]
    assert np.allclose(np.delete(whole, early), np.delete(parts, early), atol=1e-6)
    off = parts[early] - whole[early]
    assert np.mean(off**2) < 0.002 * np.mean(whole[early] ** 2)
    heard = analysis.log_mel(np.pad(whole, (LEAD, LEAD))).mean(axis=1)
    smooth = np.convolve(heard, np.ones(25) / 25, "valid")
    assert np.abs(smooth - rise[12:-12, 0]).max() * DB_PER_UNIT < 1.5
    silence = np.full((20, N_MELS), -1.0, np.float32)
    assert not filtered(silence, [8, 8]).any()


def test_texture_does_not_depend_on_how_it_is_drawn() -> None:
    whole = NoiseTexture(5).next(60)
    one = NoiseTexture(5)
    parts = np.concatenate([one.next(20), one.next(1), one.next(39)])
    assert np.allclose(whole, parts)
    assert not np.allclose(whole, NoiseTexture(6).next(60))


def test_stored_medians_are_those_of_noise() -> None:
    median = np.median(NoiseTexture(9).next(500), axis=0)
    assert np.abs(20 * np.log10(median)).max() < 2.0


def test_clicks_and_a_word_do_not_count() -> None:
    quiet = analysis.log_mel(noise(1.1, 0.7, -60.0))[:128]
    disturbed = quiet.copy()
    disturbed[20:24] = 0.6
    disturbed[70:90] = 0.3
    before, after = decode_levels(encode_noise(quiet)), decode_levels(encode_noise(disturbed))
    assert np.abs(before - after).max() * DB_PER_UNIT < 3.0


def test_silence_is_silence() -> None:
    payload = encode_noise(np.full((128, 128), -1.0, np.float32))
    assert payload == bytes(PAYLOAD_BYTES)
    assert not samples_of(drawn(decode_levels(payload), 64)).any()


@pytest.mark.parametrize("count", [LEAST_COLUMNS, 9, 128, 500])
def test_any_number_of_columns(count: int) -> None:
    heard = analysis.log_mel(noise(5.0, 0.7, -50.0))[:count]
    true = np.median(heard, axis=0)
    assert np.abs(groups(decode_levels(encode_noise(heard)) - true)).max() < 2.0


@pytest.mark.parametrize("shape", [(7, 128), (128, 64), (128,), (0, 128)])
def test_what_is_no_columns_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="at least 8 columns of 128 bands"):
        encode_noise(np.zeros(shape, np.float32))


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_BYTES - 1, PAYLOAD_BYTES + 1, 1024])
def test_payload_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BadStream, match="comfort noise of"):
        decode_levels(bytes(size))


def test_any_payload_makes_finite_noise() -> None:
    random = np.random.default_rng(0)
    for payload in (b"\xff" * PAYLOAD_BYTES, random.bytes(PAYLOAD_BYTES)):
        columns = drawn(decode_levels(payload), 16)
        assert np.abs(columns).max() <= 1.0
        assert np.isfinite(samples_of(columns)).all()


@pytest.mark.parametrize("name", POLES)
def test_loudness_is_that_of_the_noise(name: str) -> None:
    for decibel in (-70.0, -50.0, -32.0):
        levels = decode_levels(encode_noise(analysis.log_mel(noise(5.0, POLES[name], decibel))))
        assert abs(loudness(levels) - decibel) < 1.5


@pytest.mark.parametrize(
    "payload",
    [b"\xff" * 10, b"\0" * 9 + b"\xff", b"\0\0\0\xff" + b"\0" * 6, b"\xff\0" * 5, b"\xc8" * 10],
)
def test_no_payload_is_louder_than_a_room(payload: bytes) -> None:
    """All bands are lowered alike, so that the noise keeps its colour."""
    levels = decode_levels(payload)
    samples = samples_of(drawn(levels, 200))[2000:-2000]
    assert abs(20 * np.log10(samples.std()) - LOUDEST_DB) < 1.5
    said = np.interp(np.arange(128), [0, 4, 9, 16, 26, 39, 56, 76, 101, 127], list(payload)) * 0.5
    lowered = np.minimum(said, 110.0) - (levels + 1.0) * DB_PER_UNIT
    assert np.ptp(lowered[levels > -1.0]) < 0.1


def test_the_packet_on_the_page_is_what_it_says() -> None:
    blocks = re.findall(r"```comfort\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 1
    data = bytes.fromhex("".join(blocks[0].split()))
    packet = unpack(data)
    expected = Packet(7, 8, packet.payload, 0x9F3C, Kind.COMFORT_NOISE)
    assert packet == expected
    assert pack(expected) == data
    true = np.median(analysis.log_mel(noise(20.0, 0.0, -60.0)), axis=0)
    assert np.abs(groups(decode_levels(packet.payload) - true)).max() < 1.0
    steps = np.array(list(packet.payload)) * 0.5 - 100.0
    nodes = [0, 4, 9, 16, 26, 39, 56, 76, 101, 127]
    assert np.allclose(
        decode_levels(packet.payload) * 55.0 - 45.0,
        np.interp(np.arange(128), nodes, steps),
        atol=1e-3,
    )


def test_filters_are_those_of_the_analysis() -> None:
    texture = NoiseTexture(2).next(9)
    count = analysis.WINDOW + 8 * analysis.HOP
    samples = np.random.default_rng(2).standard_normal(count, dtype=np.float32)
    mel = analysis.magnitudes_to_mel(np.abs(analysis.stft_columns(samples)))
    # What the texture is divided by is the same in every column.
    assert np.allclose(texture / texture[0], mel / mel[0], rtol=1e-3)
