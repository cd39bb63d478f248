"""A remote stream: what is played, when, and what its snapshot reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pesq import pesq

from codec.errors import BadStream
from codec.packet import STEPS, Kind, Packet, pack_session, unpack_session
from codec.signal.analysis import (
    FRAME_SAMPLES,
    HOP,
    LEAD,
    N_MELS,
    STEP_HOPS,
    STEP_SAMPLES,
    WINDOW,
    log_mel,
)
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import live_encoder
from stream.call.remote_stream import SYNTHESIS_DELAY, RemoteStream, fade_in, fade_out

STEP = STEP_SAMPLES / SAMPLE_RATE
DEVICE = 0.02
PULL = 160
NO_CODEC = cast(SpeechCodec, None)  # where the decoder is given

every_length = pytest.mark.parametrize("steps", STEPS)


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
    """Knows what was said: a packet's payload is the number of its first step in the clip.

    Chained packets need the one before them, as real ones do.
    """

    smooth = False

    def __init__(self, samples: FloatArray, clock: Clock | None = None, seconds: float = 0.0):
        count = -(-len(samples) // FRAME_SAMPLES) * FRAME_SAMPLES
        padded = np.zeros(count + WINDOW, np.float32)
        padded[LEAD : LEAD + len(samples)] = samples
        self.columns = log_mel(padded[: count + WINDOW - HOP])
        self.steps = count // STEP_SAMPLES
        self._last = self.columns[0]
        self._clock, self._seconds = clock, seconds
        self._known = 0
        self.fed: list[int] = []
        self.prepared: list[int] = []  # behind these packets

    def decode(self, packet: Packet) -> Frame:
        self._learn(packet)
        if self._clock is not None:
            self._clock.now += self._seconds
        if packet.pause:
            self._last = np.full(N_MELS, -0.95, np.float32)
            return Frame(np.tile(self._last, (STEP_HOPS * packet.steps, 1)), False)
        first = STEP_HOPS * int.from_bytes(packet.payload, "big") % len(self.columns)
        where = np.arange(first, first + STEP_HOPS * packet.steps)
        columns = self.columns[where % len(self.columns)]
        self._last = columns[-1]
        return Frame(columns)

    def feed(self, packet: Packet) -> None:
        self._learn(packet)
        self.fed.append(packet.sequence)

    def _learn(self, packet: Packet) -> None:
        if packet.quality == 255 or (packet.chained and packet.sequence != self._known):
            raise BadStream("cannot be decoded")
        self._known = packet.sequence + packet.steps

    def prepare(self) -> bool:
        self.prepared.append(self._known)
        return True

    def conceal(self, steps: int) -> FloatArray:
        """The last column, fading by 2 dB every 8 ms."""
        fade = np.arange(1, STEP_HOPS * steps + 1, dtype=np.float32)[:, None] * (2 / 55)
        stand_in = np.maximum(self._last - fade, -1.0)
        self._last = stand_in[-1]
        return stand_in


Numbered = tuple[int, bytes]  # the step that a packet begins with, and its session form


def numbered(
    step: int, steps: int, *, chained: bool = False, pause: bool = False, quality: int = 0
) -> Numbered:
    kind = Kind.COMFORT_NOISE if pause else Kind.SPEECH
    payload = step.to_bytes(4, "big")
    packet = Packet(step & 0xFFFF, quality, payload, 0, kind, chained=chained, steps=steps)
    return step, pack_session(packet)


def said(seconds: float, steps: int, *, chained: bool = False) -> list[Numbered]:
    """Packets of so many seconds of the clip; chained: all but the first."""
    count = round(seconds / (steps * STEP))
    return [numbered(n * steps, steps, chained=chained and n > 0) for n in range(count)]


def stream_of(decoder: ClipDecoder, clock: Callable[[], float] = time.monotonic) -> RemoteStream:
    return RemoteStream(NO_CODEC, clock=clock, decoder=cast(PacketDecoder, decoder))


@dataclass
class Ear:
    """Plays a stream to the end of time: pulls blocks as a loudspeaker does, works in between.

    early: samples pulled before their time at most; pulls: how many there have been.
    """

    stream: RemoteStream
    clock: Clock
    heard: list[FloatArray] = field(default_factory=list)
    begun: float = 0.0
    early: int = 0
    pulls: int = 0

    def listen(self, arrivals: list[tuple[float, Numbered]], seconds: float) -> None:
        """arrivals: (seconds from now, packet), whose steps count from now."""
        begun = self.clock.now
        self.begun = self.begun or begun
        waiting = sorted((begun + at, n, packet) for n, (at, packet) in enumerate(arrivals))
        played = pulled = 0
        while played < seconds * SAMPLE_RATE:
            self.clock.now = max(self.clock.now, begun + played / SAMPLE_RATE)
            while waiting and waiting[0][0] <= self.clock.now:
                at, _, (step, packet) = waiting.pop(0)
                captured = begun + ends_at(step, packet)
                self.stream.arrive(packet, step & 0xFFFF, captured, at)
            # Decoding advances the clock; the loudspeaker goes on meanwhile.
            self.stream.work()
            while played <= round((self.clock.now - begun) * SAMPLE_RATE):
                due = begun + played / SAMPLE_RATE
                if pulled <= played:
                    real, self.clock.now = self.clock.now, due
                    pulled += self._pull(due + DEVICE)
                    self.clock.now = real
                played += PULL

    def _pull(self, play_time: float) -> int:
        early = min(max(self.stream.spare() - PULL, 0), self.early) // PULL * PULL
        if early:
            self.clock.now += 1e-4  # work of the same moment comes before a pull
        self.heard.append(self.stream.pull(PULL + early, play_time, early))
        self.pulls += 1
        return PULL + early

    @property
    def samples(self) -> FloatArray:
        return np.concatenate(self.heard)


def ends_at(step: int, packet: bytes) -> float:
    """When the last sample of a packet is said."""
    return (step + unpack_session(packet, 0, 0).steps) * STEP


def steady(
    packets: list[Numbered], wait: Callable[[int], float] = lambda n: 0.1
) -> list[tuple[float, Numbered]]:
    """Arrivals of packets, of which the first begins to be spoken now."""
    return [(ends_at(*packet) + wait(n), packet) for n, packet in enumerate(packets)]


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


@every_length
def test_what_is_heard_is_the_synthesis_of_the_columns(clock, clip, steps):
    """Without loss or jitter, the packets follow each other seamlessly."""
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    ear.listen(steady(said(5.12, steps)), 6.5)
    heard = ear.samples
    counted = ear.stream.snapshot().arrivals
    assert (counted.received, counted.underruns, counted.lost) == (80 // steps, 0, 0)
    assert ear.stream.snapshot().spectrogram.total >= 5 * 128
    assert ear.stream.snapshot().delay == 64 * steps
    start = np.flatnonzero(heard)[0]
    assert pesq(SAMPLE_RATE, clip, heard[start : start + len(clip)], "nb") > 3.7


@every_length
def test_latency_is_what_cross_correlation_finds_and_its_parts_add_up(clock, clip, steps):
    decoder = ClipDecoder(clip, clock, seconds=0.03)
    ear = Ear(stream_of(decoder, clock), clock)
    ear.listen(steady(said(5.12, steps)), 6.5)
    latency = ear.stream.snapshot().latency
    parts = (latency.network, latency.playout, latency.decode, latency.device)
    length = steps * STEP
    assert latency.frame == pytest.approx(length, abs=0.01)
    assert latency.total == pytest.approx(
        latency.frame + sum(p for p in parts if p is not None),
        abs=0.02,  # each is a median
    )
    assert latency.network == pytest.approx(0.1, abs=0.011)
    assert latency.decode == pytest.approx(0.03, abs=1e-6)
    assert latency.device == pytest.approx(DEVICE)
    # What the synthesiser keeps is part of the wait.
    assert latency.playout is not None and 0.02 < latency.playout < 0.1
    # The mouth speaks from `begun` on; what the ear got first was in the air DEVICE later.
    assert latency.total == pytest.approx(lag_of(clip, ear.samples) + DEVICE, abs=0.02)


@every_length
@pytest.mark.parametrize("shift", [0.3, 0.65])
def test_no_part_of_the_latency_is_ever_negative(clock, clip, steps, shift):
    """Also while all packets come later than they did."""
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    begin = int(4 / (steps * STEP))
    arrivals = steady(said(12.0, steps), lambda n: 0.1 + (shift if n >= begin else 0.0))
    seen = []
    for second in range(24):
        part = [(at, p) for at, p in arrivals if second / 2 <= at < (second + 1) / 2]
        ear_part(ear, part, second / 2)
        seen.append(ear.stream.snapshot().latency)
    known = [each for each in seen if each.total is not None]
    assert known
    for each in known:
        parts = (each.frame, each.network, each.playout, each.decode, each.device, each.total)
        assert min(part for part in parts if part is not None) >= 0.0
    usual = known[4].total
    assert known[-1].total == pytest.approx(usual + shift, abs=0.12)


def ear_part(ear: Ear, part: list[tuple[float, Numbered]], begun: float) -> None:
    """Listen for half a second more."""
    first = 100.0
    waiting = [(first + at, packet) for at, packet in part]
    end = first + begun + 0.5
    while ear.clock.now < end:
        while waiting and waiting[0][0] <= ear.clock.now:
            at, (step, packet) = waiting.pop(0)
            ear.stream.arrive(packet, step, first + ends_at(step, packet), at)
        ear.stream.work()
        ear.heard.append(ear.stream.pull(PULL, ear.clock.now + DEVICE))
        ear.clock.now += PULL / SAMPLE_RATE


def test_capture_times_need_not_be_known(clock, clip):
    stream = stream_of(ClipDecoder(clip), clock)
    step, packet = numbered(0, 16)
    stream.arrive(packet, step, None, clock.now)
    for _ in range(120):
        stream.work()
        stream.pull(PULL, clock.now)
    latency = stream.snapshot().latency
    assert latency.total is None and latency.network is None
    assert latency.playout is not None and latency.playout >= 0


def test_the_spectrogram_shows_what_has_been_played(clock, clip):
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    ear.listen(steady(said(4.096, 16)), 2.0)
    shown = ear.stream.snapshot().spectrogram
    played = 2.0 - 16 * STEP - 0.1  # less what the jitter buffer adds
    assert (played - 0.1) * 125 < shown.total < played * 125
    np.testing.assert_array_equal(shown.columns, decoder.columns[: shown.total])
    assert ear.stream.snapshot().active and ear.stream.pending()
    assert ear.stream.snapshot().level_db > -60


def test_what_is_no_packet_is_counted(clock, clip):
    stream = stream_of(ClipDecoder(clip), clock)
    bad = [b"", b"x", bytes(5000), b"\x40\0abc", b"\xc0\0abc", b"\x01\0abc", b"\x0a\0abc"]
    for packet in bad:
        stream.arrive(packet, 0, None, clock.now)
    assert stream.snapshot().arrivals.rejected == len(bad)
    assert not stream.work()
    step, packet = numbered(8, 4, quality=255)
    stream.arrive(packet, step, None, clock.now)
    assert stream.work() and not stream.work()
    assert stream.snapshot().arrivals.rejected == len(bad) + 1
    ear = Ear(stream, clock)
    ear.listen([(0.1, numbered(16, 16))], 1.5)
    assert ear.samples.any()


@every_length
def test_a_packet_that_cannot_be_decoded_is_concealed(clock, clip, steps):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    packets = [numbered(n * steps, steps, quality=255 * (n == 40 // steps)) for n in range(60)]
    ear.listen(steady(packets)[: 80 // steps], 6.0)
    counted = ear.stream.snapshot().arrivals
    assert (counted.lost, counted.rejected) == (1, 1)
    assert counted.concealed >= steps * STEP


@every_length
def test_silence_after_a_long_outage_and_no_work(clock, clip, steps):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    ear.listen(steady(said(3.072, steps)), 8.0)
    heard = ear.samples
    assert ear.stream.snapshot().arrivals.concealed == pytest.approx(48 * STEP)
    assert not ear.stream.work() and not ear.stream.pending()
    assert not heard[-SAMPLE_RATE // 2 :].any()
    assert ear.stream.snapshot().arrivals.underruns == 0
    assert np.abs(np.diff(heard)).max() <= 1.05 * np.abs(np.diff(heard[: 4 * SAMPLE_RATE])).max()


@every_length
def test_a_backlog_is_given_up_without_a_click(clock, clip, steps):
    """After a stall all packets come at once; only the newest is played, and those that follow."""
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    packets = said(10.24, steps, chained=steps < 4)
    ear.listen([(max(at, 4.0) if 2.0 < at < 4.0 else at, p) for at, p in steady(packets)], 7.0)
    counted = ear.stream.snapshot().arrivals
    assert counted.rejected == 0, "what is not played still is taken note of"
    assert counted.lost + counted.partly_late >= 1
    assert counted.lost * steps * STEP < 2.2
    other = Clock()
    calm = Ear(stream_of(ClipDecoder(clip), other), other)
    calm.listen(steady(packets), 7.0)
    loudest = np.abs(np.diff(calm.samples)).max()
    around = ear.samples[int(3.5 * SAMPLE_RATE) : int(4.5 * SAMPLE_RATE)]
    assert np.abs(np.diff(around)).max() < 1.05 * loudest


@pytest.mark.parametrize("steps", [1, 2])
def test_chained_packets_after_a_late_one_are_decoded(clock, clip, steps):
    """It comes too late to be heard, but not to be of use."""
    decoder = ClipDecoder(clip)
    ear = Ear(stream_of(decoder, clock), clock)
    asked: list[float] = []
    ear.stream.key_missed = lambda: asked.append(clock.now)
    late = int(2.0 / (steps * STEP))
    arrivals = steady(said(6.0, steps, chained=True))
    hold = arrivals[late][0] + 0.6
    held = [(hold if late <= n < late + 0.6 / (steps * STEP) else at, p)
            for n, (at, p) in enumerate(arrivals)]  # fmt: skip
    ear.listen(held, 5.5)
    assert not asked and ear.stream.snapshot().arrivals.rejected == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_key_is_asked_for_when_chained_packets_cannot_be_decoded(clock, clip, steps):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    asked: list[float] = []
    ear.stream.key_missed = lambda: asked.append(clock.now - 100.0)
    lost = int(2.0 / (steps * STEP))
    key = lost + 10
    packets = [numbered(n * steps, steps, chained=n not in (0, key)) for n in range(100)]
    arrivals = steady(packets)
    ear.listen([a for n, a in enumerate(arrivals) if n != lost][: int(6 / STEP / steps)], 6.0)
    assert asked and asked[0] < 2.0 + 2 * steps * STEP + 0.3
    counted = ear.stream.snapshot().arrivals
    assert counted.rejected == 9  # those between the loss and the key
    assert counted.concealed < 11 * steps * STEP + 0.1
    # A listener that comes into the middle asks as well.
    other = stream_of(ClipDecoder(clip), clock)
    other.key_missed = lambda: asked.append(-1.0)
    step, packet = numbered(50, steps, chained=True)
    other.arrive(packet, step, None, clock.now)
    assert other.work() and asked[-1] == -1.0


def test_a_pause_is_no_loss_and_takes_no_bits(clock, clip):
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    packets = said(2.048, 4)
    packets += [numbered(32 + 16 * n, 4, pause=True) for n in range(3)]
    packets += [numbered(n, 4) for n in range(80, 112, 4)]
    ear.listen(steady(packets), 7.5)
    counted = ear.stream.snapshot().arrivals
    assert (counted.lost, counted.late, counted.partly_late, counted.underruns) == (0, 0, 0, 0)
    sizes = sum(len(packet) for _, packet in packets)
    assert ear.stream.snapshot().rate.average == pytest.approx(8 * sizes / (112 * STEP))


@every_length
def test_what_is_pulled_early_in_a_pause_is_the_same_sound(clip, steps):
    packets = said(2.048, steps)
    packets += [numbered(32 + 16 * n, steps, pause=True) for n in range(3)]
    packets += [numbered(n, steps) for n in range(80, 112, steps)]
    heard, counted, pulls = [], [], []
    for early in (0, 1000):
        clock = Clock()
        ear = Ear(stream_of(ClipDecoder(clip), clock), clock, early=early)
        ear.listen(steady(packets, lambda n: 0.05 + 0.03 * (n % 3)), 8.5)
        heard.append(ear.samples)
        counted.append(ear.stream.snapshot().arrivals)
        pulls.append(ear.pulls)
    shorter = min(map(len, heard))
    assert np.array_equal(heard[0][:shorter], heard[1][:shorter])
    assert counted[0] == counted[1] and counted[0].underruns == 0
    assert pulls[1] < 0.9 * pulls[0]


def test_work_that_is_done_only_when_sound_runs_low_is_in_time(clock, clip):
    stream = stream_of(ClipDecoder(clip), clock)
    stream.arrive(numbered(0, 4, pause=True)[1], 0, None, clock.now)
    assert stream.ahead() and stream.work() and not stream.ahead()
    done = 0
    for _ in range(150):
        stream.pull(PULL, clock.now + DEVICE)
        clock.now += PULL / SAMPLE_RATE
        if stream.low:
            while stream.work():
                done += 1
        else:
            assert not stream.work()
    assert stream.snapshot().arrivals.underruns == 0
    assert 16 < done < 26  # blocks of 64 ms


@given(
    st.lists(
        st.tuples(
            st.integers(0, 65_535),
            st.binary(max_size=12),
            st.floats(0.0, 0.1),
        ),
        max_size=60,
    )
)
@example(  # a pause that is late while no concealment gets ahead of what is pulled
    [(46, b"\x00\xe5\xc3\xcc5.\x1e\xcd7", 0.045), (31085, b"\xd8\xbc\x02\x17\xb0", 0.0)]
    + [(0, b"", 0.0)] * 4
    + [(53, b"\x86\x03\xf9\xf7\xc6\x8f\x1d13Dk\xbe", 0.0)]
)
@settings(max_examples=40)
def test_nonsense_from_a_hostile_talker(packets):
    """Any bytes under any numbers: nothing raises, and in the end there is silence."""
    clock = Clock()
    samples = np.random.default_rng(0).normal(0, 0.1, 16_384).astype(np.float32)
    stream = stream_of(ClipDecoder(samples), clock)
    for step, packet, wait in packets:
        stream.arrive(packet, step, clock.now, clock.now)
        stream.work()
        stream.pull(PULL, clock.now)
        clock.now += wait
    assert stream.snapshot().arrivals.received <= len(packets)
    for _ in range(3_000):
        clock.now += 0.064
        if not stream.work() and not stream.pending():
            break
        stream.pull(1024, clock.now)
    assert not stream.pending()
    stream.pull(20 * SAMPLE_RATE, clock.now)
    assert not stream.pull(PULL, clock.now).any()


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
        step, packet = numbered(16 * next(sent), 16)
        stream.arrive(packet, step & 0xFFFF, None, time.monotonic())
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
        thread.join(60.0)
    assert not errors
    assert stream.snapshot().arrivals.received == counts[0] > 0
    assert stream.snapshot().latency.playout is not None
    assert stream.real_time() > 0


def test_fades():
    ones = np.ones(1000, np.float32)
    assert fade_in(ones)[0] == 0 and fade_in(ones)[-1] == 1
    np.testing.assert_array_equal(fade_in(ones)[::-1], fade_out(ones))
    assert len(fade_out(ones[:3])) == 3 and not len(fade_in(ones[:0]))
    assert SYNTHESIS_DELAY == 128


# --- with the real codec -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", device="cpu")


def coded(codec: SpeechCodec, steps: int, clip: FloatArray) -> tuple[list[Numbered], FloatArray]:
    """Packets of a clip, and what decoding them offline gives."""
    encoder = live_encoder(codec, steps, iterations=0)
    tail = np.zeros(2 * FRAME_SAMPLES, np.float32)
    packets = [(p.step, p.packet) for p in encoder.push(np.concatenate((clip, tail))) if p.packet]
    decoder = codec.decoder(steps)
    offline = [decoder.push(packet) for step, packet in packets if step * STEP < 5.05]
    return [(step, pack_session(p)) for step, p in packets], np.concatenate(offline)


@every_length
def test_a_voice_sounds_as_the_file_does(codec, clip, clock, steps):
    packets, offline = coded(codec, steps, clip)
    ear = Ear(RemoteStream(codec, clock=clock), clock)
    ear.listen(steady(packets), 6.5)
    delay = ear.stream.snapshot().latency.total
    assert delay is not None
    # The packets play on without a gap: the ear hears the file, `delay` later.
    start = round((delay - DEVICE) * SAMPLE_RATE)
    live = ear.samples[start : start + len(clip)]
    assert not ear.samples[: start - 600].any()
    scores = [pesq(SAMPLE_RATE, clip, x[: len(clip)], "nb") for x in (offline, live)]
    assert scores[1] > scores[0] - 0.15
    assert ear.stream.snapshot().arrivals.lost == ear.stream.snapshot().arrivals.rejected == 0


@every_length
@pytest.mark.parametrize("late", [0.2, 0.8, 9.0])
def test_a_missing_packet_makes_no_discontinuity(codec, clip, clock, steps, late):
    """Around the gap there is no step and no peak that speech does not have, and no buzz."""
    packets, _ = coded(codec, steps, clip)
    calm, ear = (Ear(RemoteStream(codec, clock=c), c) for c in (Clock(), clock))
    calm.listen(steady(packets), 6.5)
    usual = calm.samples
    begin, end = 2.0, 2.0 + steps * STEP
    gone = [n for n, p in enumerate(packets) if begin < ends_at(*p) <= end]
    ear.listen(steady(packets, lambda n: late if n in gone else 0.1), 6.5)
    heard = ear.samples
    assert ear.stream.snapshot().arrivals.underruns == 0
    total = calm.stream.snapshot().latency.total
    assert total is not None
    first, last = (packets[gone[0]][0] * STEP, ends_at(*packets[gone[-1]]))
    around = slice(
        int((first + total - 0.2) * SAMPLE_RATE), int((last + total + 0.5) * SAMPLE_RATE)
    )
    gap = heard[around]
    for order in (0, 1, 2):
        loudest = np.abs(np.diff(usual, order)).max()
        assert np.abs(np.diff(gap, order)).max() < 1.1 * loudest
    assert 0 < np.sqrt(np.mean(gap**2)) < 1.5 * np.sqrt(np.mean(usual**2))


@pytest.mark.parametrize("change", [(4, 1), (1, 4), (16, 2), (2, 16)])
def test_another_delay_in_mid_stream(codec, clip, clock, change):
    """What follows is decoded as if nothing had happened."""
    encoder = live_encoder(codec, change[0], iterations=0)
    encoded = encoder.push(clip[: 2 * SAMPLE_RATE])
    encoder.set_steps(change[1])
    encoded += encoder.push(np.concatenate((clip[2 * SAMPLE_RATE :], np.zeros(FRAME_SAMPLES * 2))))
    packets = [(p.step, pack_session(p.packet)) for p in encoded if p.packet]
    ear = Ear(RemoteStream(codec, clock=clock), clock)
    ear.listen(steady(packets), 7.0)
    counted = ear.stream.snapshot().arrivals
    assert (counted.lost, counted.rejected, counted.underruns) == (0, 0, 0)
    assert ear.stream.snapshot().delay == 64 * change[1]


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_concealing_is_prepared_for_once_a_packet_is_missed(clip: FloatArray, steps: int) -> None:
    """While there is sound left; and once for each packet, however long the next one takes."""
    clock, decoder, block = Clock(), ClipDecoder(clip), 80
    stream = stream_of(decoder, clock)
    packets = said(2.0, steps)
    for step, packet in packets:
        stream.arrive(packet, step, None, clock.now)
        for _ in range(steps * STEP_SAMPLES // block):
            while stream.work():
                pass
            clock.now += block / SAMPLE_RATE
            stream.pull(block, clock.now)
    decoder.prepared.clear()
    stream.arrive(numbered(len(packets) * steps, steps)[1], len(packets) * steps, None, clock.now)
    stream.work()
    woken = False
    while not decoder.prepared:
        clock.now += block / SAMPLE_RATE
        stream.pull(block, clock.now)
        woken = stream.low
        concealed = stream.snapshot().arrivals.concealed
        stream.work()
    assert woken and stream.snapshot().arrivals.concealed == concealed
    for _ in range(40):
        clock.now += block / SAMPLE_RATE
        stream.pull(block, clock.now)
        stream.work()
    assert decoder.prepared == [(len(packets) + 1) * steps]
    assert stream.snapshot().arrivals.concealed > concealed
