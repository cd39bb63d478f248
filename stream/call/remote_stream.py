"""What one remote party says: packets in, samples out at the pace of the loudspeaker.

Three threads meet here: the network's calls `arrive`, the decoder's `work`, the mixer's `pull`.
`work` decodes outside the lock, so neither of the others ever waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from codec.errors import BadStream, SottoError
from codec.packet import FRAME_STEPS, SEQUENCE_MODULUS, STEP_MS, Packet, short_id, unpack_session
from codec.signal import analysis
from codec.signal.analysis import HOP, LEAD, STEP_HOPS
from codec.signal.phase import EARLY, LOOK_AHEAD
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.signal.synthesis import SpeechSynthesiser
from stream.audio.limiter import Limiter
from stream.call.delays import Growth
from stream.call.jitter_buffer import PAUSE_LIMIT, Conceal, Decode, Feed, JitterBuffer
from stream.call.meters import ColumnHistory, LevelMeter, RateMeter
from stream.call.snapshot import Latency, Party
from stream.call.timescale import Timescale
from stream.call.volume import Volume

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from codec.speech.decoder import PacketDecoder


# Samples that the synthesiser keeps until more columns come.
SYNTHESIS_DELAY = LOOK_AHEAD * HOP + LEAD - EARLY

_FADE = 160  # samples, 10 ms: where the sound begins, ends or is cut
# Columns of a packet that are synthesised and queued before the others, so that they may be played
# at once. Over five clips this changed PESQ by 0.01.
_HEAD = 16
_MEASURED_SECONDS = 4.0  # of speech whose latencies are averaged, and at least ...
_MEASURED = 5  # ... so many packets
_LOAD_SECONDS = 16.0
_MOST = 256  # marks, latencies and works kept
_NO_COLUMNS: FloatArray = np.zeros((0, analysis.N_MELS), np.float32)


@dataclass(frozen=True)
class _Mark:
    """Where a packet ends in the queue, counted from the beginning, and what it went through.

    seconds: how much of it is played.
    """

    end: int
    seconds: float
    captured: float | None
    arrived: float
    decode: float


def fade_in(samples: FloatArray) -> FloatArray:
    """Raise the first samples [n] from silence, as a raised cosine."""
    count = min(_FADE, len(samples))
    samples = samples.copy()
    samples[:count] *= np.sin(np.linspace(0.0, np.pi / 2, count, dtype=np.float32)) ** 2
    return samples


def fade_out(samples: FloatArray) -> FloatArray:
    """Lower the last samples [n] to silence."""
    return fade_in(samples[::-1])[::-1]


class RemoteStream:
    """Decodes, delays, conceals and synthesises what one remote party says.

    codec: whose model the packets must have been made with; decoder: takes the place of the
    codec's own. Attributes: party (its number), name (for people), fingerprint, code and verified
    (as `Joined` has them), preset and recording (as it says), joined (when it came), capture
    (seconds from the air to its encoder, as it says), skipped (whether it is not listened to
    because the machine has no time to decode it), volume (how loud it is played), low (whether
    `work` is to be done now, as far as the last `pull` showed), key_missed
    (called when it has to be asked for a key packet, by the decoder's thread), tap (is given what
    is heard of it, whatever the volume, whether that is speech, and when its first sample is in the
    air).
    """

    def __init__(
        self,
        codec: SpeechCodec,
        party: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        decoder: PacketDecoder | None = None,
    ) -> None:
        self._model = 0
        if decoder is None:
            from codec.speech.decoder import PacketDecoder

            decoder = PacketDecoder(codec, quick=True, leave_smooth=True)
            self._model = short_id(codec.model_id)
        self.party = party
        self.name = self.fingerprint = self.preset = self.code = ""
        self.verified = self.recording = False
        self.joined = clock()
        self.capture: float | None = None
        self.skipped = self.low = False
        self.volume = Volume()
        self.key_missed: Callable[[], None] = lambda: None
        self.tap: Callable[[FloatArray, bool, float], None] | None = None
        self._decoder = decoder
        self._clock = clock
        self._lock = threading.Lock()
        self._jitter_buffer = JitterBuffer(SYNTHESIS_DELAY)
        self._queue: FloatArray = np.zeros(0, np.float32)  # waiting to be played
        # Samples ever put into the queue and taken from it: where a frame is on its way.
        self._put = 0
        self._taken = 0
        self._marks: deque[_Mark] = deque(maxlen=_MOST)
        self._columns: deque[tuple[int, FloatArray]] = deque(maxlen=1024)  # (end, column) unplayed
        self._latencies: deque[Latency] = deque(maxlen=_MOST)
        self._work: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._latest: Packet | None = None  # of those that have come
        self._broken = False  # the last pull ended in silence
        self._limiter = Limiter()
        self._gain = self.volume.gain  # at the end of the last pull
        self._pulled = clock()  # when that was
        self._active = False
        self._history = ColumnHistory()
        self._level = LevelMeter()
        self._rate = RateMeter()
        self._growth = Growth()
        # Set by the decoder's thread, which the mixer's wakes for it.
        self._prepared = False  # for concealing what follows the latest packet
        # Only the decoder thread touches these.
        self._synthesiser = SpeechSynthesiser(variable=True)
        self._timescale = Timescale()
        self._stand_in = _NO_COLUMNS  # what is left of the concealment of a step

    # --- the network's thread ------------------------------------------------------------------

    def arrive(self, packet: bytes, step: int, captured: float | None, arrived: float) -> None:
        """Take a session packet as it came.

        step: number of its first step, modulo 2^16; captured: monotonic seconds at which its last
        sample was in the air, on our clock, if that is known; arrived: when it came. What is no
        packet is counted and dropped.
        """
        try:
            unpacked = unpack_session(packet, step % SEQUENCE_MODULUS, self._model)
        except SottoError:
            with self._lock:
                self._jitter_buffer.counters.rejected += 1
            return
        with self._lock:
            self._let_pass()
            if self._jitter_buffer.arrive(unpacked, captured, arrived):
                self._measure(len(packet), unpacked)

    def returned(self) -> None:
        """The party was away, and may be a program that has been started again."""
        with self._lock:
            self._jitter_buffer.returned()

    def _measure(self, size: int, packet: Packet) -> None:
        before, self._latest = self._latest, packet
        if before is not None and before.pause:
            # A pause that went on took no bits.
            gap = (packet.sequence - before.sequence - before.steps) % SEQUENCE_MODULUS
            if 0 < gap <= PAUSE_LIMIT // STEP_HOPS:
                self._rate.push(0, gap)
        self._rate.push(size, packet.steps)

    def pause(self) -> None:
        """Nobody listens from now on: let the sound end, and count nothing that is missed as lost.

        The next packet is where listening begins again.
        """
        with self._lock:
            self._jitter_buffer.pause()

    # --- the decoder's thread ------------------------------------------------------------------

    def work(self) -> bool:
        """Decode a packet or conceal a few columns, if that is due; returns whether it was."""
        with self._lock:
            self._let_pass()
            buffer = self._jitter_buffer
            task = buffer.next()
            wary = task is None and buffer.wary
            if isinstance(task, Decode) and task.fresh:
                self._cut(buffer.queued)
        if isinstance(task, Decode):
            self._decode(task)
        elif isinstance(task, Conceal):
            self._conceal(task)
        elif isinstance(task, Feed):
            self._feed(task.frame.packet)
            with self._lock:
                buffer.fed(task)
        elif task is not None:
            self._fade_out()
        with self._lock:
            wanted, buffer.key_wanted = buffer.key_wanted, False
        if wanted:
            self.key_missed()
        if wary and not self._prepared:
            self._prepared = True
            return self._decoder.prepare()
        return task is not None

    def _decode(self, task: Decode) -> None:
        begun = self._clock()
        packet = task.frame.packet
        for each in task.feed:
            self._feed(each.packet)
        try:
            frame = self._decoder.decode(packet)
            if frame.columns.shape != (STEP_HOPS * packet.steps, analysis.N_MELS):
                raise BadStream("packet of another size")
        except SottoError:
            with self._lock:
                self._jitter_buffer.counters.rejected += 1
                self._jitter_buffer.failed(task)
            return
        self._stand_in, self._prepared = _NO_COLUMNS, False
        columns = frame.columns[task.skip :]
        if task.correction:
            columns = self._timescale.scale(columns, task.correction, frame.active)
        if task.fresh:
            self._synthesiser = SpeechSynthesiser(variable=True)
        head = columns[: _HEAD if len(columns) >= 2 * _HEAD else None]
        samples = self._synthesise(head)
        if task.fresh:
            samples = fade_in(samples)
        wait = self._clock() - begun
        with self._lock:
            self._let_pass()
            silence = self._jitter_buffer.decoded(task, len(columns), len(samples), wait)
            self._append(np.zeros(silence, np.float32))
            self._enqueue(head, samples, 0 if task.fresh else SYNTHESIS_DELAY)
            self._active = frame.active
        tail = columns[len(head) :]
        samples = self._synthesise(tail)
        seconds = self._clock() - begun
        length = len(columns) * HOP / SAMPLE_RATE
        with self._lock:
            self._jitter_buffer.extended(len(samples))
            self._enqueue(tail, samples, SYNTHESIS_DELAY)
            end = self._put + SYNTHESIS_DELAY
            frame_ = task.frame
            self._marks.append(_Mark(end, length, frame_.captured, frame_.arrived, wait))
            _keep(self._work, (seconds, length), _LOAD_SECONDS, lambda work: work[1])

    def _feed(self, packet: Packet) -> None:
        """Let the decoder take note of a packet that is not played."""
        try:
            self._decoder.feed(packet)
        except SottoError:
            with self._lock:
                self._jitter_buffer.counters.rejected += 1

    def _conceal(self, task: Conceal) -> None:
        begun = self._clock()
        while len(self._stand_in) < task.count:
            more = self._decoder.conceal(1)
            self._stand_in = np.concatenate((self._stand_in, more))
        columns, self._stand_in = np.split(self._stand_in, [task.count])
        samples = self._synthesise(columns)
        seconds = self._clock() - begun
        with self._lock:
            self._jitter_buffer.concealed(task, len(samples), seconds)
            self._enqueue(columns, samples, SYNTHESIS_DELAY)

    def _synthesise(self, columns: FloatArray) -> FloatArray:
        if not len(columns):
            return np.zeros(0, np.float32)
        push = self._synthesiser.push_noise if self._decoder.smooth else self._synthesiser.push
        return push(columns)

    def _fade_out(self) -> None:
        samples = self._synthesiser.finish()
        self._stand_in = _NO_COLUMNS
        samples[-_FADE:] = fade_out(samples[-_FADE:])
        with self._lock:
            self._jitter_buffer.faded_out(len(samples))
            self._append(samples)
            self._active = False

    def _append(self, samples: FloatArray) -> None:
        self._queue = np.concatenate([self._queue, samples])
        self._put += len(samples)

    def _enqueue(self, columns: FloatArray, samples: FloatArray, kept: int) -> None:
        """Queue the samples; the columns' own sound begins `kept` samples after their first."""
        first = self._put + kept + HOP
        self._columns.extend((first + HOP * k, column) for k, column in enumerate(columns))
        self._append(samples)

    def _cut(self, keep: int) -> None:
        self._put -= len(self._queue) - keep
        self._queue = fade_out(self._queue[:keep])
        while self._columns and self._columns[-1][0] > self._put:
            self._columns.pop()
        while self._marks and self._marks[-1].end > self._put:
            self._marks.pop()

    # --- the mixer's thread --------------------------------------------------------------------

    def spare(self) -> int:
        """How many samples may be pulled now; more than their time has come for only in a pause."""
        with self._lock:
            self._let_pass()
            return self._jitter_buffer.spare

    def pull(self, n: int, play_time: float, early: int = 0) -> FloatArray:
        """The next `n` samples; silence where there are none. Never waits for decoding.

        No louder than speech at full scale, whatever came (see `Limiter`).
        play_time: monotonic seconds at which the first of them will be in the air; early: how many
        are taken before the loudspeaker needs them, which no more is done than it can `spare`.
        """
        now = self._clock()
        device = play_time - now
        with self._lock:
            ready = self._jitter_buffer.pull(n, early)
            self._pulled = now
            samples, self._queue = self._queue[:ready], self._queue[ready:]
            before = self._taken
            self._taken += ready
            while self._marks and self._marks[0].end <= self._taken:
                mark = self._marks.popleft()
                played = play_time + (mark.end - before) / SAMPLE_RATE
                latency = _latency(mark, played, device)
                _keep(self._latencies, latency, _MEASURED_SECONDS, _length, _MEASURED)
            shown = []
            while self._columns and self._columns[0][0] <= self._taken:
                shown.append(self._columns.popleft()[1])
            buffer = self._jitter_buffer
            lacking = ready < n and not buffer.idle
            self.low = buffer.low or (buffer.wary and not self._prepared)
        if self._broken and ready:
            samples = fade_in(samples)
        if lacking and ready:
            samples = fade_out(samples)
        self._broken = ready < n
        out = np.concatenate((samples, np.zeros(n - ready, np.float32))) if ready < n else samples
        if self.tap is not None:
            self.tap(out, self._active, play_time)
        out = self._limiter.process(self._as_loud_as_wanted(out))
        if shown:
            self._history.push(shown)
        self._level.push(out)
        return out

    def _let_pass(self) -> None:
        """Let time go on to now, which pulls tell of only where none is early."""
        if self._jitter_buffer.early:
            self._jitter_buffer.passed(round((self._clock() - self._pulled) * SAMPLE_RATE))

    def _as_loud_as_wanted(self, samples: FloatArray) -> FloatArray:
        """The samples by the volume, which changes gradually."""
        before, self._gain = self._gain, self.volume.gain
        if before == self._gain == 1.0:
            return samples
        return samples * np.linspace(before, self._gain, len(samples), dtype=np.float32)

    # --- for everyone --------------------------------------------------------------------------

    def snapshot(self) -> Party:
        """What is known and heard of the party; latencies are medians over the last seconds.

        Their parts add up to the total for each frame. network is all the time from a frame's last
        sample in the air to its packet's arrival; total is how much later a sample is in the air
        here than it was there, which is also where the cross-correlation of both has its peak.
        """
        with self._lock:
            return Party(
                party=self.party,
                name=self.name,
                fingerprint=self.fingerprint,
                preset=self.preset,
                code=self.code,
                verified=self.verified,
                recording=self.recording,
                volume=self.volume,
                delay=self._delay(),
                heard=not self.skipped,
                level_db=self._level.decibel(),
                active=self._active,
                spectrogram=self._history.snapshot(),
                rate=self._rate.snapshot(),
                arrivals=replace(self._jitter_buffer.counters),
                latency=_median(self._latencies),
                real_time=self._real_time(),
                grown=self._growth.seconds,
            )

    @property
    def active(self) -> bool:
        """Whether what came last is speech."""
        return self._active

    def real_time(self) -> float:
        """Seconds of decoding per second of speech, lately."""
        with self._lock:
            return self._real_time()

    def look(self, now: float) -> str | None:
        """What to tell people of its delay, if anything; to be asked a few times a second."""
        with self._lock:
            total = _median(self._latencies).total
            return self._growth.update(now, total, self._delay())

    def _delay(self) -> int:
        return STEP_MS * (self._latest.steps if self._latest else FRAME_STEPS)

    def _real_time(self) -> float:
        speech = sum(length for _, length in self._work)
        return sum(seconds for seconds, _ in self._work) / speech if speech else 0.0

    def ahead(self) -> bool:
        """Whether packets that have come wait to be decoded."""
        with self._lock:
            return self._jitter_buffer.ahead()

    def pending(self) -> bool:
        """Whether something that was said has not been played yet."""
        with self._lock:
            return bool(self._marks) or self._jitter_buffer.ahead()


def _latency(mark: _Mark, played: float, device: float) -> Latency:
    """The parts of the time that a packet took, whose last sample was in the air at `played`.

    Of a packet that was too late for its beginning only the rest has been waited for.
    """
    playout = played - mark.seconds - mark.arrived - mark.decode - device
    return Latency(
        frame=mark.seconds + min(playout, 0.0),
        network=None if mark.captured is None else mark.arrived - mark.captured,
        playout=max(playout, 0.0),
        decode=mark.decode,
        device=device,
        total=None if mark.captured is None else played - mark.captured,
    )


Item = TypeVar("Item")


def _keep(
    items: deque[Item],
    item: Item,
    seconds: float,
    length: Callable[[Item], float],
    least: int = 1,
) -> None:
    """Add an item, and drop old ones beyond so many seconds of speech."""
    items.append(item)
    total = sum(map(length, items))
    while len(items) > least and total - length(items[0]) > seconds:
        total -= length(items.popleft())


def _length(latency: Latency) -> float:
    return latency.frame


def _median(latencies: Iterable[Latency]) -> Latency:
    parts: dict[str, Any] = {}
    for name in ("frame", "network", "playout", "decode", "device", "total"):
        known = [value for each in latencies if (value := getattr(each, name)) is not None]
        if known:
            parts[name] = median(known)
    return Latency(**parts)
