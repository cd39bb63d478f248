"""A remote stream: what is played, when, and what its snapshot reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
from pesq import pesq

from codec.errors import WrongModel
from codec.packet import Packet, pack, unpack
from codec.signal.analysis import FRAME_HOPS, FRAME_SAMPLES, HOP, LEAD, N_MELS, WINDOW, log_mel
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import FrameDecoder
from stream.call.remote_stream import SYNTHESIS_DELAY, RemoteStream, fade_in, fade_out
from tests.waveforms import synthesise

FRAME = FRAME_SAMPLES / SAMPLE_RATE
DEVICE = 0.02
PULL = 160
NO_CODEC = cast(SpeechCodec, None)  # where the decoder is given


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Frame:
    columns: FloatArray
    active: bool = True


class ClipDecoder:
    """Knows what was said: a packet's payload is the number of a frame of the clip."""

    def __init__(self, samples: FloatArray, clock: Clock | None = None, seconds: float = 0.0):
        count = -(-len(samples) // FRAME_SAMPLES)
        padded = np.zeros(count * FRAME_SAMPLES + WINDOW, np.float32)
        padded[LEAD : LEAD + len(samples)] = samples
        self.frames = log_mel(padded[: count * FRAME_SAMPLES + WINDOW - HOP]).reshape(
            count, -1, N_MELS
        )
        self._last = self.frames[0, 0]
        self._clock, self._seconds = clock, seconds

    def decode(self, packet: Packet) -> Frame:
        if packet.model_id:
            raise WrongModel("another model")
        if self._clock is not None:
            self._clock.now += self._seconds
        columns = self.frames[int.from_bytes(packet.payload, "big") % len(self.frames)]
        self._last = columns[-1]
        return Frame(columns)

    def conceal(self) -> FloatArray:
        """The last column, fading by 2 dB every 8 ms."""
        fade = np.arange(1, FRAME_HOPS + 1, dtype=np.float32)[:, None] * (2 / 55)
        stand_in = np.maximum(self._last - fade, -1.0)
        self._last = stand_in[-1]
        return stand_in


def numbered(sequence: int, model_id: int = 0) -> bytes:
    return pack(Packet(sequence & 0xFFFF, 0, sequence.to_bytes(4, "big"), model_id))


def stream_of(decoder: ClipDecoder, clock: Callable[[], float] = time.monotonic) -> RemoteStream:
    return RemoteStream(NO_CODEC, clock=clock, decoder=cast(FrameDecoder, decoder))


@dataclass
class Ear:
    """Plays a stream to the end of time: pulls blocks as a loudspeaker does, works in between."""

    stream: RemoteStream
    clock: Clock
    heard: list[FloatArray] = field(default_factory=list)
    begun: float = 0.0

    def listen(self, arrivals: list[tuple[float, bytes]], seconds: float, captured=None) -> None:
        """arrivals: (seconds from now, packet); captured: of each packet, seconds from now."""
        begun = self.clock.now
        self.begun = self.begun or begun
        waiting = sorted((begun + at, n, packet) for n, (at, packet) in enumerate(arrivals))
        played = 0
        while played < seconds * SAMPLE_RATE:
            self.clock.now = max(self.clock.now, begun + played / SAMPLE_RATE)
            while waiting and waiting[0][0] <= self.clock.now:
                at, n, packet = waiting.pop(0)
                self.stream.arrive(packet, None if captured is None else begun + captured[n], at)
            # Decoding advances the clock; the loudspeaker goes on meanwhile.
            self.stream.work()
            while played <= round((self.clock.now - begun) * SAMPLE_RATE):
                due = begun + played / SAMPLE_RATE
                real, self.clock.now = self.clock.now, due
                self.heard.append(self.stream.pull(PULL, due + DEVICE))
                self.clock.now = real
                played += PULL

    @property
    def samples(self) -> FloatArray:
        return np.concatenate(self.heard)


def steady(packets: list[bytes], wait: Callable[[int], float] = lambda n: 0.1):
    """(arrivals, captured) of packets whose frames begin to be spoken now."""
    captured = [(n + 1) * FRAME for n in range(len(packets))]
    return [(at + wait(n), packets[n]) for n, at in enumerate(captured)], captured


def lag_of(mouth: FloatArray, ear: FloatArray) -> float:
    """Seconds by which `ear` lags `mouth`, by cross-correlation of their short-time levels."""

    def level(x: FloatArray) -> FloatArray:
        step = 16
        power = np.convolve(x.astype(np.float64) ** 2, np.hanning(256), "same")[::step]
        return np.sqrt(power)

    a, b = level(mouth), level(ear)
    correlation = np.correlate(b - b.mean(), a - a.mean(), "full")
    return (int(np.argmax(correlation)) - (len(a) - 1)) * 16 / SAMPLE_RATE


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_silence_before_anything_comes(clock, clip):
    stream = stream_of(ClipDecoder(clip), clock)
    assert not stream.work()
    assert not stream.pull(1000, 101.0).any()
    assert stream.snapshot().arrivals.underruns == 0
    assert stream.snapshot().latency.total is None and stream.snapshot().latency.playout is None
    assert not stream.pending() and not stream.snapshot().active
    assert stream.snapshot().level_db == -100.0
    assert stream.snapshot().spectrogram.total == 0
    assert stream.real_time() == 0.0


def test_what_is_heard_is_the_synthesis_of_the_columns(clock, clip):
    """Without loss or jitter, the frames follow each other seamlessly."""
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    arrivals, captured = steady([numbered(n) for n in range(len(decoder.frames))])
    ear.listen(arrivals, 6.5, captured)
    heard = ear.samples
    counted = ear.stream.snapshot().arrivals
    assert (counted.received, counted.underruns, counted.concealed) == (5, 0, counted.concealed)
    assert ear.stream.snapshot().spectrogram.total >= 5 * 128
    start = np.flatnonzero(heard)[0]
    assert pesq(SAMPLE_RATE, clip, heard[start : start + len(clip)], "nb") > 3.9


def test_latency_is_what_cross_correlation_finds_and_its_parts_add_up(clock, clip):
    decoder = ClipDecoder(clip, clock, seconds=0.03)
    ear = Ear(stream_of(decoder, clock), clock)
    arrivals, captured = steady([numbered(n) for n in range(len(decoder.frames))])
    ear.listen(arrivals, 7.5, captured)
    latency = ear.stream.snapshot().latency
    parts = (latency.network, latency.playout, latency.decode, latency.device)
    assert latency.total == pytest.approx(FRAME + sum(p for p in parts if p is not None), abs=2e-3)
    assert latency.network == pytest.approx(0.1, abs=0.011)
    assert latency.decode == pytest.approx(0.03, abs=1e-6)
    assert latency.device == pytest.approx(DEVICE)
    # What the synthesiser keeps is part of the wait.
    assert latency.playout is not None and 0.03 < latency.playout < 0.1
    # The mouth speaks from `begun` on; what the ear got first was in the air DEVICE later.
    assert latency.total == pytest.approx(lag_of(clip, ear.samples) + DEVICE, abs=0.006)


def test_capture_times_need_not_be_known(clock, clip):
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    ear.listen(steady([numbered(n) for n in range(4)])[0], 6.0)
    latency = ear.stream.snapshot().latency
    assert latency.total is None and latency.network is None
    assert latency.playout is not None and latency.playout > 0


def test_the_spectrogram_shows_what_has_been_played(clock, clip):
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    arrivals, _ = steady([numbered(n) for n in range(4)])
    ear.listen(arrivals, 2.0)
    shown = ear.stream.snapshot().spectrogram
    played = 2.0 - FRAME - 0.1  # less what the jitter buffer adds
    assert (played - 0.1) * 125 < shown.total < played * 125
    all_columns = decoder.frames.reshape(-1, N_MELS)
    np.testing.assert_array_equal(shown.columns, all_columns[: shown.total])
    assert ear.stream.snapshot().active and ear.stream.pending()
    assert ear.stream.snapshot().level_db > -60


def test_damaged_and_foreign_packets_are_counted(clock, clip):
    stream = stream_of(ClipDecoder(clip), clock)
    good = numbered(7)
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        stream.arrive(bytes(damaged), None, clock.now)
    assert stream.snapshot().arrivals.rejected == 8 * len(good)
    assert not stream.work()
    for garbage in (b"", b"x", bytes(5000)):
        stream.arrive(garbage, None, clock.now)
    stream.arrive(numbered(8, model_id=5), None, clock.now)
    assert stream.work() and not stream.work()
    assert stream.snapshot().arrivals.rejected == 8 * len(good) + 4
    ear = Ear(stream, clock)
    ear.listen([(0.1, good)], 1.5)
    assert ear.samples.any()


def test_a_packet_of_another_model_in_the_middle_is_concealed(clock, clip):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    packets = [numbered(n, model_id=int(n == 2)) for n in range(5)]
    ear.listen(steady(packets)[0], 6.0)
    counted = ear.stream.snapshot().arrivals
    assert (counted.lost, counted.rejected) == (1, 1)
    assert counted.concealed >= FRAME


def test_silence_after_a_long_outage_and_no_work(clock, clip):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    ear.listen(steady([numbered(n) for n in range(3)])[0], 9.0)
    heard = ear.samples
    assert ear.stream.snapshot().arrivals.concealed == pytest.approx(3 * FRAME)
    assert not ear.stream.work() and not ear.stream.pending()
    assert not heard[-SAMPLE_RATE // 2 :].any()
    assert ear.stream.snapshot().arrivals.underruns == 0
    assert np.abs(np.diff(heard)).max() <= 1.05 * np.abs(np.diff(heard[: 4 * SAMPLE_RATE])).max()


def test_a_backlog_is_given_up_without_a_click(clock, clip):
    """After a pause all frames come at once; only the newest is played."""
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    packets = [numbered(n) for n in range(12)]
    times = [FRAME, FRAME + 0.3, *[FRAME + 0.6 + 0.02 * n for n in range(10)]]
    ear.listen(list(zip(times, packets, strict=True)), 4.5)
    counted = ear.stream.snapshot().arrivals
    assert counted.received == 12
    assert counted.lost + counted.partly_late >= 9
    loudest = np.abs(np.diff(synthesise_all(decoder))).max()
    assert np.abs(np.diff(ear.samples)).max() < 1.05 * loudest


def synthesise_all(decoder: ClipDecoder) -> FloatArray:
    from codec.signal.analysis import denormalise, mel_to_magnitudes

    return synthesise(mel_to_magnitudes(denormalise(decoder.frames.reshape(-1, N_MELS))))


def test_threads(clip):
    """Network, decoder and mixer at once: nothing breaks and every packet is accounted for."""
    decoder = ClipDecoder(clip)
    stream = stream_of(decoder)
    stop = threading.Event()
    errors: list[BaseException] = []

    def forever(step: Callable[[], object], pause: float) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    step()
                    time.sleep(pause)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    sent = iter(range(10_000_000))
    counts = [0]

    def arrive() -> None:
        stream.arrive(numbered(next(sent)), None, time.monotonic())
        counts[0] += 1

    threads = [
        forever(arrive, 0.15),  # seven times as fast as speech
        forever(stream.work, 0.0005),
        forever(lambda: stream.pull(1024, time.monotonic()), 0.15 / 16),
        forever(stream.snapshot, 0.001),
    ]
    deadline = time.monotonic() + 60.0
    while stream.snapshot().latency.playout is None or counts[0] < 10:
        assert time.monotonic() < deadline and not errors
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(10.0)
    assert not errors
    assert stream.snapshot().arrivals.received == counts[0] > 0
    assert stream.snapshot().latency.playout is not None
    assert stream.real_time() > 0


def test_fades():
    ones = np.ones(1000, np.float32)
    assert fade_in(ones)[0] == 0 and fade_in(ones)[-1] == 1
    np.testing.assert_array_equal(fade_in(ones)[::-1], fade_out(ones))
    assert len(fade_out(ones[:3])) == 3 and not len(fade_in(ones[:0]))
    assert SYNTHESIS_DELAY == 320


# --- with the real codec -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", device="cpu")


@pytest.fixture(scope="module")
def coded(codec: SpeechCodec) -> tuple[FloatArray, list[bytes], FloatArray]:
    """A shipped clip, its packets, and what decoding them offline gives."""
    clip, _ = soundfile.read(
        Path(__file__).parent / "clips" / "librispeech-6930.flac", dtype="float32"
    )
    encoder = codec.encoder(search=False)
    packets = [*encoder.push(clip), *encoder.finish()]
    decoder = codec.decoder()
    offline = [decoder.push(packet) for packet in packets]
    return clip, [*map(pack, packets)], np.concatenate([*offline, decoder.finish()])


def test_a_voice_sounds_as_the_file_does(codec, coded, clock):
    clip, packets, offline = coded
    ear = Ear(RemoteStream(codec, clock=clock), clock)
    arrivals, captured = steady(packets)
    ear.listen(arrivals, len(packets) * FRAME + 1.5, captured)
    delay = ear.stream.snapshot().latency.total
    assert delay is not None
    # The frames play on without a gap: the ear hears the file, `delay` later.
    start = round((delay - DEVICE) * SAMPLE_RATE)
    live = ear.samples[start : start + len(clip)]
    assert not ear.samples[: start - 320].any()
    scores = [pesq(SAMPLE_RATE, clip, x[: len(clip)], "nb") for x in (offline, live)]
    assert scores[1] > scores[0] - 0.1
    assert ear.stream.snapshot().arrivals.lost == 0
    bits = [8 * len(packet) / FRAME for packet in packets]
    rate = ear.stream.snapshot().rate
    assert rate.now == bits[-1] and rate.average == pytest.approx(np.mean(bits))
    assert [unpack(packet).sequence for packet in packets] == list(range(len(packets)))


@pytest.mark.parametrize("late", [0.2, 0.7, 9.0], ids=["late", "partly late", "lost"])
def test_a_missing_frame_makes_no_discontinuity(codec, coded, clock, late):
    _, packets, offline = coded
    ear = Ear(RemoteStream(codec, clock=clock), clock)
    arrivals, _ = steady(packets, lambda n: late if n == 2 else 0.1)
    ear.listen(arrivals, len(packets) * FRAME + 1.5)
    heard = ear.samples
    counted = ear.stream.snapshot().arrivals
    assert (counted.lost, counted.partly_late) == (int(late > 1.0), int(0.5 < late < 1.0))
    assert counted.underruns == 0
    # Around the gap there is no step and no peak that speech does not have, and no buzz.
    start = np.flatnonzero(heard)[0]
    gap = heard[start + int(1.8 * FRAME_SAMPLES) : start + int(3.4 * FRAME_SAMPLES)]
    for order in (0, 1, 2):
        loudest = np.abs(np.diff(offline, order)).max()
        assert np.abs(np.diff(gap, order)).max() < 1.1 * loudest
    assert 0 < np.sqrt(np.mean(gap**2)) < 1.5 * np.sqrt(np.mean(offline**2))
