"""The sending half of a call: source to packets, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from codec.errors import SottoError
from codec.packet import CALL_DELAY, pack_session
from codec.signal.analysis import LEAD, STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import FrontEnd
from stream.audio.slots import DeviceSlot
from stream.audio.sources import POLL, Silence, Source
from stream.call.delays import steps_of
from stream.call.meters import ColumnHistory, LevelMeter, LoadMeter, RateMeter, Throughput
from stream.call.overs import OverMarks
from stream.call.snapshot import Talker

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from codec.speech.encoder import EncodedPacket
    from stream.log import Journal


_CHUNK = SAMPLE_RATE // 8  # at most this much is read at once
_PATIENCE = 0.02  # seconds to wait for samples
_GATHER = 0.04  # seconds of samples to gather while a packet is far from whole: bites cost more
_BITE = 0.005  # seconds of samples that sound cards give at once
# Seconds before the last one can be here, to wait for what completes a packet. Longer than a source
# waits between two looks, or each wait would make the next one longer.
_EARLY = POLL + 0.001
_BACKLOG = 0.4  # seconds of samples waiting, beyond the source's own latency, that mean overload
_HURRY = 0.15  # seconds of them with which blocks are searched for less time
_HURRIED = 0.25  # of it
_NICENESS = 5  # the search yields to sound, network and screen


class Send(Protocol):
    """Takes packets on their way; see `Sender`."""

    def __call__(
        self, packet: bytes, step: int, captured: float, capture: float | None, /
    ) -> bool: ...


class SendOver(Protocol):
    """Takes those of an over, which are not to be lost."""

    def __call__(
        self, packet: bytes, step: int, captured: float, capture: float | None, over: int, /
    ) -> bool: ...


class Sender:
    """Encodes what the source gives, packet by packet, and hands them to `send`.

    send(packet, step, captured, capture): a session packet, the number of its first step, the
    monotonic time at which its last sample was in the air, and how long samples take from there to
    us; it returns False when the packet was dropped. send_over: as `send`, with the number of the
    over that the packet belongs to, for what is said with push-to-talk (None: `send` has that too);
    end_over(over, ended): all of it has been sent; ended: when its last sample was in the air.
    encoded(samples, time_of_last): every sample that was encoded, for a recorder. delay: length of
    packets, milliseconds; tail: seconds of search after the last sample of a block (None: what
    suits the delay); most_bytes: of a packet.
    Raises BadInput for a delay that the codec's packets cannot have.

    Attributes: muted, push_to_talk, talking (with push-to-talk, whether the key is down), front_end
    (what a microphone's sound goes through; that of other sources never does).
    """

    def __init__(
        self,
        codec: SpeechCodec,
        slot: DeviceSlot[Source],
        send: Send,
        journal: Journal,
        *,
        push_to_talk: bool = False,
        iterations: int | None = None,
        tail: float | None = None,
        delay: int = CALL_DELAY,
        most_bytes: int | None = None,
        encoded: Callable[[FloatArray, float], None] | None = None,
        send_over: SendOver | None = None,
        end_over: Callable[[int, float], None] = lambda over, ended: None,
    ) -> None:
        from codec.speech.encoder import live_encoder, tail_of

        self.muted = self.talking = False
        self.push_to_talk = push_to_talk
        self.front_end: FrontEnd | None = None
        self._front_end_failed = False
        self._tail = tail_of if tail is None else lambda steps: tail
        self._encoder = live_encoder(
            codec, steps_of(delay), iterations=iterations, tail=tail, most_bytes=most_bytes
        )
        self._delay = delay
        self._requests: deque[Callable[[], None]] = deque(maxlen=64)
        self._slot = slot
        self._send, self._send_over, self._end_over = send, send_over, end_over
        self._marks = OverMarks()
        self._journal = journal
        self._encoded = encoded
        self._stop = threading.Event()
        self._calling = threading.Event()
        self._another = threading.Event()  # a call has begun that no sample was encoded for yet
        self._thread = threading.Thread(target=self._run, name="sotto-encoder", daemon=True)
        self._level = LevelMeter()
        self._columns = ColumnHistory()
        self._rate = RateMeter()
        self._wire, self._ip = Throughput(), Throughput()
        self._load = LoadMeter()
        self._latest: EncodedPacket | None = None
        self._frames = self._silent_frames = self._unsent = 0
        self._pushed = 0  # samples, on the scale of the steps' numbers
        self._end = 0  # the step after the latest packet
        self._search_seconds: deque[float] = deque(maxlen=8)
        self._capture_seconds: deque[float] = deque(maxlen=32)
        self._arrival_seconds: deque[float] = deque(maxlen=32)  # from the air to us, unprocessed
        self._backlog = 0.0
        self._latest_sample = time.monotonic()
        self.source_ended = threading.Event()
        self.failure: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the source; returns when both are down."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._slot.stop()

    def call(self, wanted: bool) -> None:
        """Whether packets are wanted; the source is opened when they first are.

        Each call begins with what is said from then on: what was said to those who have hung up is
        not sent to those who call next.
        """
        if wanted:
            if not self._calling.is_set():
                self._another.set()
            self._calling.set()
        else:
            self._calling.clear()

    def set_preset(self, name: str) -> None:
        """Code by another preset of the same model, from the next packet on. Raises BadInput."""
        self._encoder.set_preset(name)

    @property
    def delay(self) -> int:
        """Length of packets, milliseconds."""
        return self._delay

    def set_delay(self, delay: int) -> None:
        """Let packets last so many milliseconds from the next one on; nothing is left out.

        Raises BadInput for a delay that the codec's packets cannot have.
        """
        self._encoder.set_steps(steps_of(delay))
        self._delay = delay

    def want_key(self, *, lost: bool) -> None:
        """Somebody cannot decode our voice before the next key packet; lost: a packet was."""
        # Carried out between two packets: the encoder is not to be touched meanwhile.
        self._requests.append(lambda: self._encoder.want_key(lost))

    @property
    def open(self) -> bool:
        """Whether what the source gives is sent: not muted, and not waiting for push-to-talk."""
        return not self.muted and (self.talking or not self.push_to_talk)

    @property
    def speaking(self) -> bool:
        """Whether we say something: the key is down, or speech came last from an open microphone,
        as is known when a packet is whole."""
        latest = self._latest
        return self.open and (self.push_to_talk or (latest is not None and latest.active))

    @property
    def behind(self) -> bool:
        """Whether the encoder does not keep up with the source."""
        return self._backlog > _BACKLOG

    def snapshot(self, now: float, wire_bytes: int, ip_bytes: int) -> Talker:
        """wire_bytes, ip_bytes: handed to the transport, and sent in IP packets, so far."""
        latest = self._latest
        return Talker(
            level_db=self._level.decibel(),
            active=latest is not None and latest.active,
            spectrogram=self._columns.snapshot(),
            rate=self._rate.snapshot(
                self._wire.update(now, wire_bytes), self._ip.update(now, ip_bytes)
            ),
            delay=self._delay,
            frames=self._frames,
            silent_frames=self._silent_frames,
            steps=latest.iterations if latest else 0,
            cost=latest.cost if latest else 0.0,
            start_cost=latest.start_cost if latest else 0.0,
            real_time=self._load.share(now),
            overflows=self._slot.gaps,
            unsent=self._unsent,
            capture=median(self._capture_seconds),
            search=median(self._search_seconds),
        )

    def _run(self) -> None:
        yield_priority()
        try:
            while not self._calling.wait(_PATIENCE):
                self._slot.serve()
                if self._stop.is_set():
                    return
            self._slot.start()
            while not self._stop.is_set():
                self._slot.serve()
                time.sleep(self._spare_time())
                samples, when = self._slot.device.read(self._wanted(), _PATIENCE)
                self._latest_sample = when
                begun = time.monotonic()
                self._say_notes()
                if len(samples):
                    self._arrival_seconds.append(max(begun - when, 0.0))
                    self._take(*self._processed(samples, when))
                elif self._slot.device.ended:
                    self._go_silent()
                self._load.push(begun, time.monotonic())
        except SottoError as error:
            self.failure = str(error)
        except Exception as error:  # the call's owner must learn of it, whatever it is
            self.failure = f"encoder failed: {type(error).__name__}: {error}"
        finally:
            self.source_ended.set()

    @property
    def _missing(self) -> int:
        """Samples that are missing for the next packet: its own, and what its last column sees."""
        return max((self._end + self._encoder.steps) * STEP_SAMPLES + LEAD - self._pushed, 1)

    def _wanted(self) -> int:
        """How many samples to read: no more than complete a packet, so that none waits for more."""
        behind = self._backlog > _HURRY
        if behind or not self._calling.is_set():
            return _CHUNK
        front_end, missing = self._in_use, self._missing
        return min(_CHUNK, missing if front_end is None else front_end.needed(missing))

    @property
    def _in_use(self) -> FrontEnd | None:
        """The front end, where the source is a microphone."""
        return self.front_end if self._slot.device.is_card else None

    def _processed(self, samples: FloatArray, when: float) -> tuple[FloatArray, float]:
        """What the front end has ready, and when the last of that was in the air.

        It needs whole blocks, so that may be none.
        """
        front_end = self._in_use
        if front_end is None:
            return samples, when
        ready = front_end.capture(samples, when - len(samples) / SAMPLE_RATE)
        if front_end.error is not None and not self._front_end_failed:
            self._front_end_failed = True
            self._journal.warning(front_end.error)
        return ready, when - front_end.held / SAMPLE_RATE

    def _say_notes(self) -> None:
        notes = self._slot.device.notes
        while notes:
            self._journal.warning(notes.popleft())

    def _spare_time(self) -> float:
        """How long samples may gather without making the packet late."""
        if self._backlog > _HURRY:
            return 0.0
        age = time.monotonic() - self._latest_sample - min(self._arrival_seconds, default=0.0)
        pause = self._latest is not None and not self._latest.active
        return gathering(self._wanted(), self._missing, age, pause=pause)

    def _take(self, samples: FloatArray, when: float) -> None:
        """Encode samples whose last one was in the air at `when`."""
        if not len(samples):
            return
        lag = max(time.monotonic() - when, 0.0)
        front_end = self._in_use
        held = 0 if front_end is None else front_end.held
        self._backlog = lag - self._slot.device.latency - held / SAMPLE_RATE
        self._capture_seconds.append(lag)
        self._level.push(samples)
        if not self._calling.is_set():
            return  # nobody to talk to: only the meter moves
        if self._another.is_set():
            self._another.clear()
            self._encoder.reset()
            self._pushed = self._end * STEP_SAMPLES
        is_open = self.open
        down = is_open and self.push_to_talk
        if not is_open:
            samples = np.zeros_like(samples)
        if self._encoded is not None:
            self._encoded(samples, when)
        while self._requests:
            self._requests.popleft()()
        haste = _HURRIED if self._backlog > _HURRY else 1.0
        # What is left of the tail: so packets leave at the same age, however the sound card's
        # blocks lie in them. Where they do not, all of them have to be waited for.
        left = max(haste * self._tail(self._encoder.steps) - lag, 0.0)
        self._encoder.set_budget(left, haste)
        first, self._pushed = self._pushed, self._pushed + len(samples)
        if self._marks.push(first, self._pushed, down=down):
            self._encoder.want_key()  # it may have to be understood without what was before
        packets = self._encoder.push(samples)
        self._columns.push(self._encoder.columns())
        for packet in packets:
            self._end = packet.step + packet.steps
            self._ship(packet, when - (self._pushed - self._end * STEP_SAMPLES) / SAMPLE_RATE)

    def _ship(self, encoded: EncodedPacket, captured: float) -> None:
        self._frames += 1
        self._silent_frames += not encoded.active
        self._latest = encoded
        packet = b"" if encoded.packet is None else pack_session(encoded.packet)
        self._rate.push(len(packet), encoded.steps)
        if encoded.active:
            self._search_seconds.append(time.monotonic() - captured)
        length = encoded.steps * STEP_SAMPLES
        first = encoded.step * STEP_SAMPLES
        over, ended = self._marks.packet(first, first + length)
        if ended is not None:
            self._end_over(ended, captured - length / SAMPLE_RATE)
        if not packet:
            return
        capture = median(self._capture_seconds)
        if over is None or self._send_over is None:
            sent = self._send(packet, encoded.step, captured, capture)
        else:
            sent = self._send_over(packet, encoded.step, captured, capture, over)
        self._unsent += not sent

    def _go_silent(self) -> None:
        """The source has ended: stay on the line in silence, which also fills the last packet."""
        self.source_ended.set()
        self._journal.info(f"{self._slot.name} has ended")
        self._slot.replace(Silence())


def gathering(wanted: int, missing: int, age: float, *, pause: bool) -> float:
    """Seconds for which samples may gather before the next are read.

    wanted: samples to be read until a packet is whole, of which the last ones may be read apart;
    missing: samples that it lacks; age: seconds since the last one that was read could be; pause:
    whether the packet before was one of a pause.
    """
    # What there is of a block is searched while its next step is being said.
    until_step = ((wanted - 1) % STEP_SAMPLES + 1) / SAMPLE_RATE - age
    if pause and missing > STEP_SAMPLES:
        return max(until_step + _BITE, 0.0)  # at once, as there is most likely nothing to search
    return min(max(until_step - _EARLY, 0.0), _GATHER)


def median(values: deque[float]) -> float | None:
    """The median of recent measurements, None before the first."""
    recent = tuple(values)
    return float(np.median(recent)) if recent else None


def yield_priority() -> None:
    """Let the calling thread give way to others where the system schedules threads one by one."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
