"""The speech codec with its shipped weights: it holds rates, streams exactly, survives damage."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.container import ContainerReader, scan
from codec.entropy.quantiser import thin_out
from codec.errors import BadInput, BadStream, SottoError, WrongModel
from codec.packet import Packet, pack
from codec.search.engine import search
from codec.search.methods import METHODS, OF_ANY_LATENTS, Method
from codec.search.problem import SearchResult
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.speech.codec import SpeechCodec, to_speech
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import EncodedPacket, SpeechEncoder
from codec.speech.presets import PRESETS
from codec.speech.ratecontrol import OPENING_SECONDS, longest_packet
from models.evaluation.scores import score

SECONDS = analysis.FRAME_SAMPLES / analysis.SAMPLE_RATE
FAST = 4  # search steps in tests of anything but quality


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu")


@pytest.fixture(scope="module")
def stream(codec: SpeechCodec, clip_path: Path) -> bytes:
    samples, _ = soundfile.read(clip_path, frames=40_000, dtype="float32")
    return codec.encode(samples, 16_000, iterations=FAST)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[SearchResult]:
    """Results of the searches that the encoders of a test make."""
    results: list[SearchResult] = []

    def noted(*args: Any, **options: Any) -> SearchResult:
        results.append(search(*args, **options))
        return results[-1]

    monkeypatch.setattr("codec.speech.encoder.search", noted)
    return results


@pytest.mark.parametrize("method", METHODS)
def test_every_method_searches(
    codec: SpeechCodec, clip: FloatArray, searches: list[SearchResult], method: Method
) -> None:
    """And none finds what another does."""
    found = codec.encode(clip[:49_152], 16_000, iterations=24, method=method)
    assert searches[0].cost.sum() < searches[0].start_cost.sum()
    usual = codec.encode(clip[:49_152], 16_000, iterations=24)
    assert (found == usual) == (method == codec.settings.method)


def test_a_model_says_what_cannot_search_it(clip: FloatArray) -> None:
    paper = SpeechCodec.load("paper", "cpu")
    for method in METHODS:
        if method in OF_ANY_LATENTS:
            assert paper.encode(clip[:16_384], 16_000, iterations=2, method=method)
        else:
            with pytest.raises(BadInput, match=f"searched by admm or backprop, not by {method}"):
                paper.encode(clip[:16_384], 16_000, method=method)


def packets_of(container: bytes) -> list[Packet]:
    return [item for item in ContainerReader(io.BytesIO(container)) if isinstance(item, Packet)]


def sent(encoded: list[EncodedPacket]) -> list[Packet]:
    return [each.packet for each in encoded if each.packet is not None]


def test_speech_survives_at_two_kilobits(codec: SpeechCodec, clip: FloatArray) -> None:
    """A floor well under the measured figures: catches broken weights, tables or phase."""
    container = codec.encode(clip, 16_000, iterations=30)
    decoded = codec.decode(container)
    assert decoded.shape == clip.shape
    result = score(clip, decoded)
    assert result["pesq_nb"] > 2.6
    assert result["stoi"] > 0.82
    info = scan(io.BytesIO(container))
    assert info.intact
    assert info.payload_bits_per_s <= PRESETS["2k"].rate * 1.1


@pytest.mark.parametrize("preset", ["1k2", "2k", "3k6"])
@pytest.mark.parametrize("entropy", ["range", "huffman"])
def test_presets_hold_their_rate(preset: str, entropy: str, clip: FloatArray) -> None:
    codec = SpeechCodec.load(preset, "cpu")
    loud = np.tile(clip, 2)
    container = codec.encode(loud, 16_000, search=False, entropy=entropy)  # type: ignore[arg-type]
    sizes = [8 * len(pack(packet)) for packet in packets_of(container)]
    rate = PRESETS[preset].rate
    ends = SECONDS * (np.arange(len(sizes)) + 1)
    assert (np.cumsum(sizes) <= rate * (ends + OPENING_SECONDS) + 1).all()
    assert max(sizes) <= longest_packet(SECONDS) * rate
    assert np.mean(sizes) > 0.6 * rate * SECONDS  # and makes use of it
    assert codec.decode(container).shape == loud.shape


def test_search_lowers_the_cost_at_no_more_bits(
    codec: SpeechCodec, clip: FloatArray, searches: list[SearchResult]
) -> None:
    costs = []
    for iterations in (0, 30):
        searches.clear()
        codec.encoder(iterations=iterations).push(clip[16_000:52_000])
        costs.append(np.mean([float(result.cost) for result in searches]))
    assert costs[1] < 0.97 * costs[0]


def test_streaming_decoder_equals_offline(codec: SpeechCodec, stream: bytes) -> None:
    offline = codec.decode(stream)
    decoder = codec.decoder()
    parts = [decoder.push(packet) for packet in packets_of(stream)]
    parts.append(decoder.finish())
    streamed = np.concatenate(parts)
    assert np.array_equal(streamed[: len(offline)], offline)


def test_streaming_encoder_equals_offline(codec: SpeechCodec, clip: FloatArray) -> None:
    """However the samples are cut into pushes, the same packets come out."""
    whole = packets_of(codec.encode(clip[:50_000], 16_000, iterations=FAST))
    encoder = codec.encoder(iterations=FAST, group=8)
    random = np.random.default_rng(1)
    packets: list[Packet] = []
    position = 0
    while position < 50_000:
        step = int(random.integers(1, 9_000))
        packets += sent(encoder.push(clip[position : min(position + step, 50_000)]))
        position += step
    packets += sent(encoder.finish())
    assert packets == whole


def test_samples_of_a_long_push_are_not_copied_step_by_step(
    codec: SpeechCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take time in the square of their number."""
    copied = 0
    concatenate = np.concatenate

    def noted(parts: Any, *rest: Any, **options: Any) -> Any:
        nonlocal copied
        whole = concatenate(parts, *rest, **options)
        copied += len(whole) if whole.ndim == 1 else 0
        return whole

    monkeypatch.setattr(np, "concatenate", noted)
    encoder = codec.encoder(search=False)
    assert len(encoder.push(np.zeros(10 * analysis.FRAME_SAMPLES, np.float32))) == 9
    assert copied < 5 * 10 * analysis.FRAME_SAMPLES


def test_a_frame_is_sent_with_the_last_sample_that_it_needs(
    codec: SpeechCodec, clip: FloatArray
) -> None:
    encoder = codec.encoder(iterations=1)
    needed = analysis.FRAME_SAMPLES + (analysis.WINDOW - analysis.HOP) // 2
    assert encoder.push(clip[: needed - 1]) == []
    assert len(encoder.push(clip[needed - 1 : needed])) == 1


def test_budget_bounds_the_time(
    codec: SpeechCodec, clip: FloatArray, searches: list[SearchResult]
) -> None:
    """Far more steps fit in a long budget than in a short one; both give valid frames."""
    for budget in (0.02, 1.0):
        assert len(codec.encoder(budget=budget).push(clip[:17_000])) == 1
    short, long = (result.iterations for result in searches)
    assert long > short


@pytest.mark.parametrize("size", [0, 1, 127, 16_383, 16_384, 16_385, 16_576, 16_577])
def test_lengths_are_kept(codec: SpeechCodec, clip: FloatArray, size: int) -> None:
    container = codec.encode(clip[:size], 16_000, search=False)
    assert codec.decode(container).shape == (size,)


def test_silence_stays_silent_and_costs_only_headers(codec: SpeechCodec) -> None:
    container = codec.encode(np.zeros(40_000, np.float32), 16_000, iterations=2)
    assert not codec.decode(container).any()
    assert scan(io.BytesIO(container)).payload_bytes == 0


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000])
def test_other_sample_rates_and_channels(codec: SpeechCodec, rate: int) -> None:
    seconds = np.arange(rate) / rate
    tone = (0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    stereo = np.stack((tone, tone), axis=1)
    decoded = codec.decode(codec.encode(stereo, rate, search=False))
    assert abs(len(decoded) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(decoded[2_000:14_000]))
    assert abs(spectrum.argmax() * 16_000 / 12_000 - 440) < 60


HOSTILE = {
    "square": np.sign(np.sin(np.arange(20_000) * 0.1)),
    "nan": np.full(20_000, np.nan),
    "a few nan": np.where(np.arange(20_000) // 10 == 100, np.nan, 0.1),
    "infinite": np.where(np.arange(20_000) % 100 == 0, np.inf, 0.1),
    "constant": np.full(20_000, 1.0),
    "far too loud": 1e6 * np.sin(np.arange(20_000) * 0.3),
    "as loud as numbers go": 3e38 * np.sign(np.sin(np.arange(20_000))),
}


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_signals_simply_work(codec: SpeechCodec, name: str, rate: int) -> None:
    signal = HOSTILE[name].astype(np.float32)
    assert np.isfinite(to_speech(np.stack((signal, signal), axis=1), rate)).all()
    decoded = codec.decode(codec.encode(signal, rate, iterations=2))
    assert abs(len(decoded) - len(signal) * 16_000 / rate) < 1
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_signals_stream_as_they_are_encoded(codec: SpeechCodec, name: str) -> None:
    """Of both streaming encoders: no frame is lost."""
    signal = HOSTILE[name].astype(np.float32)
    encoder = codec.encoder(iterations=2, group=8)
    parts = [encoder.push(part) for part in np.split(signal, 5)] + [encoder.finish()]
    packets = [packet for part in parts for packet in sent(part)]
    assert packets == packets_of(codec.encode(signal, 16_000, iterations=2))
    short = SpeechEncoder(codec, 0, steps=4, session=True)
    assert len(short.push(signal)) == 4


def test_signals_of_no_channels_are_refused(codec: SpeechCodec) -> None:
    with pytest.raises(BadInput, match=r"not \[20000, 0\]"):
        codec.encode(np.zeros((20_000, 0), np.float32), 44_100)


def test_unknown_choices_are_named() -> None:
    with pytest.raises(BadInput, match=r"unknown preset '9k' \(known: .*2k"):
        SpeechCodec.load("9k")
    with pytest.raises(BadInput, match="unknown device"):
        SpeechCodec.load("2k", "tpu")


def test_packet_of_another_model_is_refused(codec: SpeechCodec, stream: bytes) -> None:
    packet = packets_of(stream)[0]
    other = replace(packet, model_id=packet.model_id ^ 1)
    with pytest.raises(WrongModel):
        codec.decoder().push(other)


def test_damaged_frame_costs_that_frame_only(codec: SpeechCodec, stream: bytes) -> None:
    good = codec.decode(stream)
    packets = packets_of(stream)
    position = stream.index(pack(packets[1])) + 40
    broken = bytearray(stream)
    broken[position] ^= 0x10
    decoded = codec.decode(bytes(broken))
    assert decoded.shape == good.shape
    frame = analysis.FRAME_SAMPLES
    assert np.array_equal(decoded[: frame - 1000], good[: frame - 1000])
    assert not np.array_equal(decoded[frame : 2 * frame], good[frame : 2 * frame])


def test_any_damage_is_survived_or_refused_in_a_line(codec: SpeechCodec, stream: bytes) -> None:
    random = np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(stream)
        for position in random.integers(0, len(data), 3):
            data[position] ^= 1 << random.integers(0, 8)
        data = data[: random.integers(1, len(data) + 1)]
        try:
            decoded = codec.decode(bytes(data))
        except SottoError as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(decoded).all()


def test_valid_packet_with_hostile_payload(codec: SpeechCodec, stream: bytes) -> None:
    packet = packets_of(stream)[0]
    random = np.random.default_rng(2)
    decoder = codec.decoder()
    for size in (1, 5, 200, 1000):
        hostile = replace(packet, payload=random.bytes(size))
        try:
            samples = decoder.push(hostile)
        except BadStream:
            continue
        assert np.isfinite(samples).all()
    with pytest.raises(BadStream):
        decoder.push(replace(packet, quality=200))


def test_lost_frames_fade_without_clicks(codec: SpeechCodec, clip: FloatArray) -> None:
    """No concealed sample jumps more than speech itself does, and long gaps fall silent."""
    packets = packets_of(codec.encode(clip, 16_000, search=False))
    decoder = codec.decoder()
    parts = [decoder.push(packets[0]), decoder.push(packets[1])]
    parts += [decoder.push(None) for _ in range(3)]
    parts += [decoder.push(packets[2]), decoder.finish()]
    heard = np.concatenate(parts)
    frame = analysis.FRAME_SAMPLES
    jumps = np.abs(np.diff(heard))
    gap = slice(2 * frame, 5 * frame)
    assert jumps[gap].max() <= np.abs(np.diff(clip)).max()
    assert np.abs(heard[gap]).max() <= np.abs(heard[: 2 * frame]).max()
    loudness = [np.sqrt(np.mean(heard[i * frame : (i + 1) * frame] ** 2)) for i in (1, 3, 4)]
    assert loudness[1] < 0.1 * loudness[0]
    assert loudness[2] <= loudness[1]


def test_thin_out_ends_with_nothing() -> None:
    q = np.random.default_rng(0).integers(-3, 4, (16, 20)).astype(np.int8)
    for _ in range(1000):
        if not q.any():
            break
        fewer = thin_out(q)
        assert np.count_nonzero(fewer) < np.count_nonzero(q)
        q = fewer
    assert not q.any()


@pytest.mark.parametrize(
    ("entropy", "indices", "level"),
    [
        ("range", "e2584b5b6d70be7503d7f74da1109c84346cc5bac62a76ee335d8e2e05fe4a2d", -0.32576),
        ("huffman", "cd3fe1b2d170236fea73478c4ce48749f4facb92157b1dadd1183a96cc9ce689", -0.32847),
    ],
)
def test_coded_files_decode_as_ever(
    codec: SpeechCodec, entropy: str, indices: str, level: float
) -> None:
    """Three frames: the very same latents.

    Made by the model that ships; a new model needs new files.
    """
    data = (Path(__file__).parent / "golden" / f"speech_{entropy}.sotto").read_bytes()
    packets = packets_of(data)
    coder = codec.coders[entropy]
    found = [coder.decode(packet.payload, packet.quality) for packet in packets]
    assert hashlib.sha256(np.concatenate(found).tobytes()).hexdigest() == indices
    decoder = PacketDecoder(codec)
    columns = np.concatenate([decoder.decode(packet).columns for packet in packets])
    assert columns.mean() == pytest.approx(level, abs=1e-4)
    assert codec.decode(data).shape == (40_000,)
    for packet, q in zip(packets, found, strict=True):
        renewed = coder.encode(q, packet.quality)
        assert len(renewed) <= len(packet.payload)
        assert np.array_equal(coder.decode(renewed, packet.quality), q)
