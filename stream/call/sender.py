"""The sending half of a call: source to packets, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from codec.errors import SottoError
from codec.signal.analysis import FRAME_SAMPLES, HOP, WINDOW
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.slots import DeviceSlot
from stream.audio.sources import Silence, Source
from stream.call.meters import ColumnHistory, LevelMeter, LoadMeter, RateMeter, Throughput
from stream.call.snapshot import Talker

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from codec.speech.live import EncodedFrame
    from stream.log import Journal


_CHUNK = SAMPLE_RATE // 25  # at most this much is analysed between two slices of search
_PATIENCE = 0.02  # seconds to wait for samples when there is nothing to search
_GATHER = 0.04  # seconds of samples to gather when nothing is searched: small bites cost more
_LOOK_AHEAD = (WINDOW - HOP) // 2  # samples beyond a frame's end that its last column sees
DEFAULT_TAIL = 0.06  # seconds of search after a frame's last sample
_FRAME_STEPS = 16  # latent steps in a frame
_BACKLOG = 0.5  # seconds of samples waiting, beyond the source's own latency, that mean overload
_NICENESS = 5  # the search yields to sound, network and screen


class Sender:
    """Encodes what the source gives, frame by frame, and hands packets to `send`.

    send(packet, captured, capture): captured is the monotonic time at which the frame's last sample
    was in the air, capture how long samples take from there to us; it returns False when the packet
    was dropped. encoded(samples, time_of_last): every sample that was encoded, for a recorder.

    Attributes: muted, push_to_talk, talking (with push-to-talk, whether the key is down).
    """

    def __init__(
        self,
        codec: SpeechCodec,
        slot: DeviceSlot[Source],
        send: Callable[[bytes, int, float, float | None], bool],
        journal: Journal,
        *,
        push_to_talk: bool = False,
        iterations: int | None = None,
        tail: float | None = None,
        encoded: Callable[[FloatArray, float], None] | None = None,
    ) -> None:
        from codec.signal.activity import ActivityDetector
        from codec.speech.live import LiveEncoder

        self.muted = self.talking = False
        self.push_to_talk = push_to_talk
        self._encoder = LiveEncoder(
            codec,
            iterations=iterations,
            tail=DEFAULT_TAIL if tail is None else tail,
            activity=ActivityDetector(),
        )
        self._slot = slot
        self._send = send
        self._journal = journal
        self._encoded = encoded
        self._stop = threading.Event()
        self._calling = threading.Event()
        self._another = threading.Event()  # a call has begun that no sample was encoded for yet
        self._thread = threading.Thread(target=self._run, name="sotto-encoder", daemon=True)
        self._level = LevelMeter()
        self._columns = ColumnHistory()
        self._rate = RateMeter()
        self._wire = Throughput()
        self._load = LoadMeter()
        self._latest: EncodedFrame | None = None
        self._frames = self._silent_frames = self._unsent = self._pushed = 0
        self._search_seconds: deque[float] = deque(maxlen=8)
        self._capture_seconds: deque[float] = deque(maxlen=32)
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
        """Code by another preset of the same model, from the next frame on. Raises BadInput."""
        self._encoder.set_preset(name)

    @property
    def open(self) -> bool:
        """Whether what the source gives is sent: not muted, and not waiting for push-to-talk."""
        return not self.muted and (self.talking or not self.push_to_talk)

    @property
    def behind(self) -> bool:
        """Whether the encoder does not keep up with the source."""
        return self._backlog > _BACKLOG

    def snapshot(self, now: float, wire_bytes: int) -> Talker:
        """`wire_bytes`: all bytes handed to the transport so far."""
        latest = self._latest
        return Talker(
            level_db=self._level.decibel(),
            active=latest is not None and latest.active,
            spectrogram=self._columns.snapshot(),
            rate=self._rate.snapshot(self._wire.update(now, wire_bytes)),
            frames=self._frames,
            silent_frames=self._silent_frames,
            steps=latest.steps if latest else 0,
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
            busy = False
            while not self._stop.is_set():
                self._slot.serve()
                if not busy:
                    self._stop.wait(self._spare_time())
                samples, when = self._slot.device.read(_CHUNK, 0.0 if busy else _PATIENCE)
                begun = time.monotonic()
                if len(samples):
                    self._take(samples, when)
                elif self._slot.device.ended:
                    self._go_silent()
                busy = len(samples) == _CHUNK or self._encoder.refine()
                self._load.push(begun, time.monotonic())
        except SottoError as error:
            self.failure = str(error)
        except Exception as error:  # the call's owner must learn of it, whatever it is
            self.failure = f"encoder failed: {type(error).__name__}: {error}"
        finally:
            self.source_ended.set()

    def _spare_time(self) -> float:
        """How long samples may gather without making the frame late."""
        missing = (self._frames + 1) * FRAME_SAMPLES + _LOOK_AHEAD - self._pushed
        left = missing / SAMPLE_RATE - (time.monotonic() - self._latest_sample)
        return min(max(left - _PATIENCE, 0.0), _GATHER)

    def _take(self, samples: FloatArray, when: float) -> None:
        """Encode samples whose last one was in the air at `when`."""
        lag = max(time.monotonic() - when, 0.0)
        self._backlog = lag - self._slot.device.latency
        self._capture_seconds.append(lag)
        self._level.push(samples)
        if not self._calling.is_set():
            return  # nobody to talk to: only the meter moves
        if self._another.is_set():
            self._another.clear()
            self._encoder.reset()
            self._pushed = self._frames * FRAME_SAMPLES
        if not self.open:
            samples = np.zeros_like(samples)
        if self._encoded is not None:
            self._encoded(samples, when)
        self._pushed += len(samples)
        self._latest_sample = when
        frames = self._encoder.push(samples)
        self._columns.push(self._encoder.columns())
        for frame in frames:
            end = (self._frames + 1) * FRAME_SAMPLES
            self._ship(frame, when - (self._pushed - end) / SAMPLE_RATE)

    def _ship(self, frame: EncodedFrame, captured: float) -> None:
        self._frames += 1
        self._silent_frames += not frame.active
        self._latest = frame
        self._rate.push(len(frame.packet))
        if frame.active:
            self._search_seconds.append(time.monotonic() - captured)
        step = (self._frames - 1) * _FRAME_STEPS
        if not self._send(frame.packet, step, captured, median(self._capture_seconds)):
            self._unsent += 1

    def _go_silent(self) -> None:
        """The source has ended: stay on the line in silence, which also fills the last frame."""
        self.source_ended.set()
        self._journal.info(f"{self._slot.name} has ended")
        self._slot.replace(Silence())


def median(values: deque[float]) -> float | None:
    """The median of recent measurements, None before the first."""
    recent = tuple(values)
    return float(np.median(recent)) if recent else None


def yield_priority() -> None:
    """Let the calling thread give way to others where the system schedules threads one by one."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
