"""Ears are safe: whatever comes, no more than speech at full scale; speech itself is untouched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.files.audio import read_audio
from codec.packet import Kind, Packet, pack_session, short_id
from codec.signal.analysis import N_MELS, STEP_HOPS, STEP_SAMPLES
from codec.signal.comfort_noise import LOUDEST_DB, PAYLOAD_BYTES
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import Frame, PacketDecoder
from stream.audio.limiter import MOST_POWER, PEAK, Limiter
from stream.audio.sinks import NullSink, Sink
from stream.audio.slots import DeviceSlot
from stream.call.receiver import Receiver
from stream.call.remote_stream import RemoteStream
from stream.link.events import Joined
from stream.log import Journal

CLIPS = sorted((Path(__file__).parent / "clips").glob("*.flac"))
BLOCK = 160
WINDOW = 320  # 20 ms
SLACK = 0.2  # dB
NO_CODEC = cast(SpeechCodec, None)
LATER_DB = dict(MOST_POWER)[0.02]
LASTING_DB = dict(MOST_POWER)[0.4]


def random(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def sine(hertz: float, count: int = SAMPLE_RATE) -> FloatArray:
    return np.sin(2 * np.pi * hertz * np.arange(count) / SAMPLE_RATE).astype(np.float32)


def limited(samples: FloatArray, block: int = BLOCK) -> FloatArray:
    limiter = Limiter()
    pieces = [limiter.process(samples[i : i + block]) for i in range(0, len(samples), block)]
    return np.concatenate(pieces)


def powers(samples: FloatArray, window: int = WINDOW) -> NDArray[np.float64]:
    """dB of full scale in every window."""
    sums = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    return 10.0 * np.log10(np.maximum((sums[window:] - sums[:-window]) / window, 1e-12))


def assert_safe(samples: FloatArray) -> None:
    """Samples that begin quietly and may be loud afterwards."""
    assert np.isfinite(samples).all() and np.abs(samples).max() <= PEAK
    over = powers(samples) > LATER_DB + SLACK
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate(([0], over.astype(int), [0])))))[::2]
    # A window is over the limit as long as it sees any of the beginning, which has 20 ms.
    assert runs.max(initial=0) <= 2 * WINDOW
    settled = samples[SAMPLE_RATE // 2 :]
    if len(settled) >= SAMPLE_RATE // 2:
        assert powers(settled, round(0.4 * SAMPLE_RATE)).max() <= LASTING_DB + SLACK


LOUD: dict[str, Callable[[], FloatArray]] = {
    "noise": lambda: random(2 * SAMPLE_RATE),
    "noise of 31 dB": lambda: 35.0 * random(2 * SAMPLE_RATE),
    "low tone": lambda: 10.0 * sine(90.0, 2 * SAMPLE_RATE),
    "high tone": lambda: sine(3000.0, 2 * SAMPLE_RATE),
    "square wave": lambda: np.sign(sine(440.0, 2 * SAMPLE_RATE)),
    "constant": lambda: np.ones(2 * SAMPLE_RATE, np.float32),
    "bursts": lambda: random(2 * SAMPLE_RATE) * (sine(3.0, 2 * SAMPLE_RATE) > 0),
}


@pytest.mark.parametrize("name", LOUD)
def test_loud_sound_is_turned_down(name: str) -> None:
    quiet = 0.001 * random(SAMPLE_RATE // 10, 1)
    assert_safe(limited(np.concatenate((quiet, LOUD[name]()))))


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("block", [64, 333])
def test_speech_passes_unchanged(clip: Path, block: int) -> None:
    """As recorded, and up to 6 dB below full scale."""
    speech = read_audio(clip)
    assert np.array_equal(limited(speech, block), speech)
    loud = 0.5 * speech / np.abs(speech).max()
    assert np.array_equal(limited(loud, block), loud)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_speech_at_full_scale_hardly_changes(clip: Path) -> None:
    speech = read_audio(clip)
    speech = speech * (0.97 / np.abs(speech).max())
    heard = limited(speech)
    assert abs(10 * np.log10(np.mean(heard**2) / np.mean(speech**2))) < 1.0


def test_blocks_do_not_matter() -> None:
    samples = random(8000) * np.linspace(0.0, 2.0, 8000, dtype=np.float32)
    whole = limited(samples, len(samples))
    for block in (1, 7, 64, 500):
        np.testing.assert_allclose(limited(samples, block), whole, atol=1e-5)
    assert not len(Limiter().process(np.zeros(0, np.float32)))


@pytest.mark.parametrize("hertz", [200.0, 1000.0])
def test_the_gain_changes_without_a_click(hertz: float) -> None:
    """A tone whose level jumps: no step is larger than the tone's own, nothing appears above it."""
    level = np.repeat([0.05, 0.8, 0.05], 8000).astype(np.float32)
    tone = sine(hertz, 24_000)
    swelling = np.convolve(level, np.hanning(161) / 80.0, "same").astype(np.float32)
    heard = limited(swelling * tone)
    steepest = 0.8 * 2 * np.pi * hertz / SAMPLE_RATE
    assert np.abs(np.diff(heard)).max() <= 1.05 * steepest
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    above = spectrum[round(4 * hertz * len(heard) / SAMPLE_RATE) :]
    assert above.max() < 1e-3 * spectrum.max()


def test_quiet_sound_comes_back() -> None:
    faint = 0.01 * sine(500.0, 2 * SAMPLE_RATE)
    heard = limited(np.concatenate((random(SAMPLE_RATE), faint)))[SAMPLE_RATE:]
    assert np.array_equal(heard[SAMPLE_RATE:], faint[SAMPLE_RATE:])


def test_what_is_not_finite_is_silence() -> None:
    samples = 0.1 * random(1000)
    samples[[3, 500, 999]] = np.nan, np.inf, -np.inf
    limiter = Limiter()
    first = limiter.process(samples)
    assert np.isfinite(first).all() and not first[[3, 500, 999]].any()
    faint = 0.01 * random(1000)
    assert np.array_equal(limiter.process(faint), faint)


def test_eight_voices_at_once() -> None:
    limiters, mix = [Limiter() for _ in range(8)], Limiter()
    noises = [random(2 * SAMPLE_RATE, seed) for seed in range(8)]
    heard = []
    for start in range(0, len(noises[0]), BLOCK):
        pairs = zip(limiters, noises, strict=True)
        blocks = [each.process(noise[start : start + BLOCK]) for each, noise in pairs]
        heard.append(mix.process(np.sum(blocks, axis=0, dtype=np.float32)))
    assert_safe(np.concatenate((np.zeros(BLOCK, np.float32), *heard)))


# --- remote streams ------------------------------------------------------------------------------


def heard_of(stream: RemoteStream, packets: list[Packet]) -> FloatArray:
    """What is played of packets that come as they fall due."""
    heard = []
    for packet in packets:
        stream.arrive(pack_session(packet), packet.sequence, None, 0.0)
        while stream.work():
            pass
        heard += [stream.pull(BLOCK, 0.0) for _ in range(packet.steps * STEP_SAMPLES // BLOCK)]
    return np.concatenate(heard)


class LoudDecoder:
    """Decodes every packet to the loudest columns there are."""

    smooth = False

    def decode(self, packet: Packet) -> Frame:
        return Frame(np.ones((STEP_HOPS * packet.steps, N_MELS), np.float32), True)

    def feed(self, packet: Packet) -> None:
        pass

    def prepare(self) -> bool:
        return False

    def conceal(self, steps: int) -> FloatArray:
        return np.ones((STEP_HOPS * steps, N_MELS), np.float32)


def test_a_voice_as_loud_as_columns_can_be() -> None:
    stream = RemoteStream(NO_CODEC, clock=lambda: 0.0, decoder=cast(PacketDecoder, LoudDecoder()))
    heard = heard_of(stream, [Packet(4 * n, 0, b"x", 0, steps=4) for n in range(12)])
    assert np.abs(heard).max() > 0.3
    assert_safe(heard)


class Shouting(RemoteStream):
    """A voice that is not limited."""

    def __init__(self, codec: SpeechCodec, party: int) -> None:
        decoder = cast(PacketDecoder, LoudDecoder())
        super().__init__(codec, party, decoder=decoder)
        self._random = np.random.default_rng(party)

    def work(self) -> bool:
        return False

    def pull(self, n: int, play_time: float, early: int = 0) -> FloatArray:
        return self._random.standard_normal(n).astype(np.float32)


class Keeping(NullSink):
    """Keeps what is played, and says when that is two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[FloatArray] = []
        self.enough = threading.Event()

    def write(self, samples: FloatArray) -> None:
        super().write(samples)
        self.played.append(samples.copy())
        if sum(map(len, self.played)) > 2 * SAMPLE_RATE:
            self.enough.set()


def test_the_mix_is_limited_as_well() -> None:
    journal, sink = Journal(), Keeping()
    slot = DeviceSlot[Sink]("output", sink, lambda name: sink, NullSink, journal)
    receiver = Receiver(NO_CODEC, slot, journal, stream=Shouting)
    for party in range(8):
        receiver.join(Joined(party, f"voice {party}", "2k", ""))
    receiver.start()
    try:
        assert sink.enough.wait(60.0)
    finally:
        receiver.stop()
    assert receiver.failure is None
    assert_safe(np.concatenate(sink.played))


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", device="cpu")


def test_hostile_comfort_noise(codec: SpeechCodec) -> None:
    """It is no louder than a noisy room, where all levels are at their highest."""
    model = short_id(codec.model_id)
    payload = b"\xff" * PAYLOAD_BYTES
    stream = RemoteStream(codec, clock=lambda: 0.0)
    packets = [Packet(16 * n, 0, payload, model, Kind.COMFORT_NOISE) for n in range(4)]
    heard = heard_of(stream, packets)
    assert heard.any()
    assert powers(heard, 1600).max() < LOUDEST_DB + 1.0


def test_random_valid_speech(codec: SpeechCodec) -> None:
    """Latents that no encoder would choose, at every quality."""
    model, coder = short_id(codec.model_id), codec.coders["range"]
    generator = np.random.default_rng(4)
    stream = RemoteStream(codec, clock=lambda: 0.0)
    packets = []
    for n in range(8):
        quality = n % codec.qualities
        wild = generator.choice([-5, 0, 0, 0, 5], (4 * coder.steps // 16, coder.channels))
        payload = coder.encode(wild, quality)
        packets.append(Packet(4 * n, quality, payload, model, steps=4))
    heard = heard_of(stream, packets)
    assert stream.snapshot().arrivals.rejected == 0
    assert heard.any()
    assert_safe(heard)
