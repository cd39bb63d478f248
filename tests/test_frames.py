"""Frames from packets: speech, comfort noise, and concealment of lost frames."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.container import ContainerReader, ContainerWriter
from codec.errors import BadStream, WrongModel
from codec.packet import Kind, Packet, short_id
from codec.signal import analysis
from codec.signal.analysis import FRAME_HOPS, FRAME_SAMPLES, N_MELS
from codec.signal.comfort_noise import DB_PER_UNIT, decode_levels, encode_noise
from codec.signal.samples import FloatArray
from codec.signal.synthesis import synthesise_columns
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from tests.waveforms import synthesise

SILENCE = np.full((FRAME_HOPS, N_MELS), -1.0, np.float32)


@pytest.fixture(scope="module", params=["2k", "paper"])
def codec(request: pytest.FixtureRequest) -> SpeechCodec:
    return SpeechCodec.load(request.param, "cpu")


@pytest.fixture(scope="module")
def packets(codec: SpeechCodec, clip_path: Path) -> list[Packet]:
    """Four frames of speech in faint noise."""
    speech = soundfile.read(clip_path, dtype="float32")[0][: 4 * FRAME_SAMPLES]
    hiss = np.random.default_rng(0).normal(0.0, 10 ** (-50 / 20), len(speech))
    data = codec.encode((speech + hiss).astype(np.float32), 16_000, search=False)
    return [item for item in ContainerReader(io.BytesIO(data)) if isinstance(item, Packet)]


def samples_of(columns: list[FloatArray]) -> FloatArray:
    """Without texture, which would hide what is to be seen of the columns."""
    everything = np.concatenate(columns)
    return synthesise(analysis.mel_to_magnitudes(analysis.denormalise(everything)))


def noise_packet(codec: SpeechCodec, decibel: float = -55.0) -> Packet:
    white = np.random.default_rng(1).normal(0.0, 10 ** (decibel / 20), 20_000)
    payload = encode_noise(analysis.log_mel(white.astype(np.float32))[:FRAME_HOPS])
    return Packet(0, 0, payload, short_id(codec.model_id), Kind.COMFORT_NOISE)


def energy(samples: FloatArray, order: int) -> float:
    """Largest energy over 16 samples of a difference of the waveform."""
    difference = np.diff(samples, order) ** 2
    return float(np.convolve(difference, np.ones(16, np.float32), "valid").max())


def periodicity(samples: FloatArray, lag: int) -> float:
    a, b = samples[:-lag], samples[lag:]
    return float(abs(np.dot(a, b)) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def test_speech_is_what_the_generator_makes(codec: SpeechCodec, packets: list[Packet]) -> None:
    decoder = PacketDecoder(codec)
    for packet in packets:
        coder = codec.coders["huffman" if packet.entropy else "range"]
        z = codec.networks.latents_of(coder.decode(packet.payload, packet.quality))[None]
        with torch.no_grad():
            expected = codec.searchable.generator(z, torch.tensor([packet.quality / 8.0]))
        frame = decoder.decode(packet)
        assert frame.active
        np.testing.assert_allclose(frame.columns, expected[0].numpy(), atol=1e-5)


def test_concealment_does_not_change_what_is_received(
    codec: SpeechCodec, packets: list[Packet]
) -> None:
    plain, lossy = PacketDecoder(codec), PacketDecoder(codec)
    for packet in packets:
        lossy.conceal()
        assert np.array_equal(plain.decode(packet).columns, lossy.decode(packet).columns)


def test_seams_are_no_louder_than_speech(codec: SpeechCodec, packets: list[Packet]) -> None:
    """First and second differences of the waveform where frames were lost, wherever that is."""
    every = samples_of([PacketDecoder(codec).decode(packet).columns for packet in packets])
    for lost in (1, 2, 3):
        decoder = PacketDecoder(codec)
        columns = [
            decoder.conceal() if number == lost else decoder.decode(packet).columns
            for number, packet in enumerate(packets)
        ]
        heard = samples_of(columns)
        begin, end = lost * FRAME_SAMPLES - 400, (lost + 1) * FRAME_SAMPLES + 400
        for order in (1, 2):
            assert energy(heard[begin:end], order) <= energy(every, order)
            # At the seam itself, not more than in the half second that it ends, or without a loss.
            seam, before = heard[begin : begin + 800], heard[begin - 8000 : begin]
            whole = every[begin : begin + 800]
            assert energy(seam, order) <= max(energy(before, order), energy(whole, order))


def test_the_last_sound_goes_on(codec: SpeechCodec, packets: list[Packet]) -> None:
    """Columns beside the seam differ hardly more than neighbours do in what was heard."""
    for count in (1, 2, 3):
        decoder = PacketDecoder(codec)
        for packet in packets[:count]:
            last = decoder.decode(packet).columns
        usual = np.abs(np.diff(last, axis=0)).mean(axis=1)
        step = np.abs(decoder.conceal()[0] - last[-1]).mean()
        assert step <= usual.max()


def test_a_long_loss_fades_and_never_repeats(codec: SpeechCodec, packets: list[Packet]) -> None:
    decoder = PacketDecoder(codec)
    last = decoder.decode(packets[0]).columns
    columns = [decoder.conceal() for _ in range(59)]
    levels = np.concatenate(columns).reshape(59, 8, 16, N_MELS).mean(axis=(2, 3)) * DB_PER_UNIT
    assert (np.diff(levels.ravel()) < 2.0).all()  # dB
    assert levels[0, -1] <= last.mean() * DB_PER_UNIT
    assert levels[4].mean() < levels[0].mean() - 20.0
    samples = synthesise_columns(np.concatenate([last, *columns]))[FRAME_SAMPLES:]
    assert not samples[30 * FRAME_SAMPLES :].any()
    room = samples[FRAME_SAMPLES // 2 : 4 * FRAME_SAMPLES]
    room /= np.sqrt(np.convolve(room**2, np.ones(2000) / 2000, "same")) + 1e-9
    for lag in (FRAME_SAMPLES, FRAME_SAMPLES // 2, analysis.N_FFT, 2 * analysis.N_FFT):
        assert periodicity(room, lag) < 0.25


def test_the_room_is_heard_in_a_gap(codec: SpeechCodec, packets: list[Packet]) -> None:
    """Not silence, not speech: the level of the quieter parts of what was heard, within 6 dB."""
    decoder = PacketDecoder(codec)
    for packet in packets[:3]:
        heard = decoder.decode(packet).columns
    pauses = np.sort(heard.mean(axis=1))[:40].mean()
    room = decoder.conceal()[-32:].mean()
    assert abs(room - pauses) * DB_PER_UNIT < 6.0


def test_nothing_heard_is_silence(codec: SpeechCodec) -> None:
    decoder = PacketDecoder(codec)
    assert np.array_equal(decoder.conceal(), SILENCE)
    empty = Packet(0, 0, b"", short_id(codec.model_id))
    frame = decoder.decode(empty)
    assert not frame.active
    assert np.array_equal(frame.columns, SILENCE)
    assert np.array_equal(decoder.conceal(), SILENCE)


def test_comfort_noise_begins_where_speech_ended(codec: SpeechCodec, packets: list[Packet]) -> None:
    decoder = PacketDecoder(codec)
    last = decoder.decode(packets[1]).columns
    first, second = (decoder.decode(noise_packet(codec)) for _ in range(2))
    assert not first.active
    begin = first.columns[0] - last[-4:].mean(axis=0)
    settled = first.columns[20:].mean(axis=0) - second.columns.mean(axis=0)
    assert np.abs(begin).mean() * DB_PER_UNIT < 5.0
    assert np.abs(settled).mean() * DB_PER_UNIT < 1.0
    assert not np.array_equal(first.columns[20:], second.columns[20:])
    steps = np.abs(np.diff(np.concatenate([first.columns[20:], second.columns]), axis=0))
    assert steps[107].mean() < 1.5 * steps.mean()  # where the two frames meet


def test_noise_that_follows_noise_may_be_left_smooth(
    codec: SpeechCodec, packets: list[Packet]
) -> None:
    decoder = PacketDecoder(codec, leave_smooth=True)
    every = PacketDecoder(codec)
    levels = decode_levels(noise_packet(codec, -60.0).payload)
    for packet, smooth in (
        (packets[1], False),
        (noise_packet(codec), False),  # fades in from speech
        (noise_packet(codec, -60.0), True),
    ):
        columns = decoder.decode(packet).columns
        assert decoder.smooth == smooth
        assert np.array_equal(columns, every.decode(packet).columns) != smooth
    assert np.abs(columns[:12] - levels).max() > 0.01
    assert np.allclose(columns[12:], levels, atol=1e-6)
    assert np.allclose(decoder.conceal(4), levels, atol=1e-6)
    assert decoder.smooth
    decoder.decode(packets[2])
    assert np.isfinite(decoder.conceal(4)).all()
    assert not decoder.smooth


def test_lost_comfort_noise_goes_on(codec: SpeechCodec) -> None:
    decoder = PacketDecoder(codec)
    heard = decoder.decode(noise_packet(codec)).columns[20:].mean()
    assert abs(decoder.conceal().mean() - heard) * DB_PER_UNIT < 1.0
    for _ in range(6):
        lost = decoder.conceal()
    assert np.array_equal(lost, SILENCE)


def test_same_packets_same_frames(codec: SpeechCodec, packets: list[Packet]) -> None:
    def run(seed: int) -> FloatArray:
        decoder = PacketDecoder(codec, seed)
        parts = [decoder.decode(packets[0]).columns, decoder.conceal()]
        return np.concatenate([*parts, decoder.decode(noise_packet(codec)).columns])

    assert np.array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_unusable_packets_are_refused_and_change_nothing(
    codec: SpeechCodec, packets: list[Packet]
) -> None:
    decoder = PacketDecoder(codec)
    decoder.decode(packets[0])
    expected = PacketDecoder(codec)
    expected.decode(packets[0])
    with pytest.raises(WrongModel):
        decoder.decode(replace(packets[1], model_id=packets[1].model_id ^ 1))
    for changes in (
        {"kind": Kind.IMAGE},
        {"chained": True},
        {"chained": True, "payload": b""},
        {"quality": 200},
        {"kind": Kind.COMFORT_NOISE, "payload": b"too short"},
    ):
        with pytest.raises(BadStream):
            decoder.decode(replace(packets[1], **changes))
    assert np.array_equal(decoder.conceal(), expected.conceal())


def test_files_with_comfort_noise_are_decoded(codec: SpeechCodec, packets: list[Packet]) -> None:
    out = io.BytesIO()
    writer = ContainerWriter(out, codec.header())
    writer.write(packets[0])
    for sequence in (1, 2):
        writer.write(replace(noise_packet(codec), sequence=sequence))
    writer.finish(3 * FRAME_SAMPLES)
    samples = codec.decode(out.getvalue())
    assert len(samples) == 3 * FRAME_SAMPLES
    loudness = 20 * np.log10(samples[20_000:].std())
    assert abs(loudness + 55.0) < 1.5
