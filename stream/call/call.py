"""A call: source, codec, connection and sink, joined up, with what a screen needs to steer it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from codec.errors import BadInput, SottoError
from codec.signal.samples import FloatArray
from codec.speech.presets import PRESETS, find_preset
from stream.audio.devices import DeviceNames
from stream.audio.hotplug import Hotplug
from stream.audio.sinks import Sink
from stream.audio.sources import Source
from stream.call.receiver import Hearing
from stream.call.recorder import Recorder
from stream.call.sender import Gate, Speaking
from stream.call.snapshot import Snapshot
from stream.link.events import (
    AudioArrived,
    CallState,
    Event,
    Joined,
    Left,
    Link,
    Notice,
    PresetChanged,
    StateChanged,
)
from stream.log import Journal, LogLine

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec


_EVENT_WAIT = 0.05
_SWITCH_SECONDS = 0.001
_GOODBYE_SECONDS = 1.5  # from the end of the source to hanging up: its last frame fills up
_DRAIN_SECONDS = 4.0  # how long what a party said last may take to be played
_LOG_SECONDS = 1.0  # for whoever reads the log to take the last lines of it
_OVER = (CallState.ENDED, CallState.REFUSED, CallState.FAILED)


class Endpoint(Protocol):
    """Our end of the connection (see stream.link.endpoint)."""

    def start(self) -> None: ...
    def send(self, packet: bytes, captured: float, capture: float | None) -> bool: ...
    def announce_preset(self, preset: str) -> None: ...
    def events(self, timeout: float) -> list[Event]: ...
    def link(self) -> Link: ...
    def wire_bytes(self) -> tuple[int, int]: ...
    def one_way(self, party: int) -> float | None: ...
    def rejected(self, party: int) -> int: ...
    def close(self, reason: str) -> None: ...


@dataclass(frozen=True)
class CallSettings:
    """How a call is to run.

    iterations, tail: search steps per frame and seconds of search after its last sample (None:
    defaults); patience: seconds a lost connection is given to come back; lasting: wait for the
    next caller when a call ends; hang_up: end the call when the source ends.
    """

    preset: str
    room: bool = False
    iterations: int | None = None
    tail: float | None = None
    push_to_talk: bool = False
    patience: float = 60.0
    lasting: bool = False
    hang_up: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What the call reaches the machine by, so that tests can put other things there.

    source(name), sink(name): a microphone or loudspeaker by name; devices(): those this process
    knows; look(): those there are by now, as another process sees them (None: the same); refresh():
    let this process know of them, while none is open.
    """

    source: Callable[[str], Source]
    sink: Callable[[str], Sink]
    devices: Callable[[], DeviceNames]
    look: Callable[[], DeviceNames] | None = None
    refresh: Callable[[], None] = lambda: None


class Call:
    """A running call. Its methods may be called from any thread and return at once."""

    def __init__(
        self,
        codec: SpeechCodec,
        endpoint: Endpoint,
        source: Source,
        sink: Sink,
        settings: CallSettings,
        surroundings: Surroundings,
        journal: Journal,
    ) -> None:
        self._codec = codec
        self._endpoint = endpoint
        self._settings = settings
        self._journal = journal
        self._gate = Gate(settings.push_to_talk)
        self._preset = settings.preset
        self._recorder: Recorder | None = None
        self._recording = ""
        self._speaking = Speaking(
            codec,
            source,
            endpoint.send,
            journal,
            self._gate,
            iterations=settings.iterations,
            tail=settings.tail,
            said=self._said,
        )
        self._hearing = Hearing(codec, sink, journal, heard=self._heard)
        self._cards = Hotplug(
            self._speaking.jack,
            self._hearing.jack,
            surroundings.source,
            surroundings.sink,
            surroundings.devices,
            surroundings.look or surroundings.devices,
            surroundings.refresh,
            journal,
        )
        self._state = CallState.WAITING
        self._reason = ""
        self._begun = self._lost_since = time.monotonic()
        self._present: set[int] = set()
        self._leaving: dict[int, tuple[float, str]] = {}  # by when, and why
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sotto-call", daemon=True)
        self._closing = threading.Lock()

    def start(self) -> None:
        """Open the sink and the connection. Raises SottoError when either is refused."""
        # The default lets one thread keep the interpreter for 5 ms: too long for sound.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._hearing.start()
        try:
            self._endpoint.start()
        except SottoError:
            self._hearing.stop()
            raise
        self._speaking.start()
        self._cards.start()
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Whether the call is over; waits up to `timeout` seconds for it."""
        return self._over.wait(timeout)

    def close(self) -> None:
        """Hang up if the call is not over yet, end every thread, finish recording and log."""
        with self._closing:
            self._end(CallState.ENDED, "hung up")
            self._endpoint.close(self._reason)
            self._cards.stop()
            self._speaking.stop()
            self._hearing.stop()
            if self._thread.is_alive() and threading.current_thread() is not self._thread:
                self._thread.join(5.0)
            self.set_recording(None)
            self._journal.close(_LOG_SECONDS)

    # --- what a screen shows ------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        sent, received = self._endpoint.wire_bytes()
        talker = self._speaking.snapshot(now, sent)
        listeners = self._hearing.snapshot(now, received, self._endpoint)
        return Snapshot(
            state=self._state,
            seconds=now - self._begun,
            preset=self._preset,
            presets=self.presets(),
            model_id=self._codec.model_id,
            talker=talker,
            listeners=listeners,
            link=self._endpoint.link(),
            input_device=self._speaking.jack.name,
            output_device=self._hearing.jack.name,
            muted=self._gate.muted,
            push_to_talk=self._gate.push_to_talk,
            talking=self._gate.open and self._state is CallState.TALKING,
            recording=self._recording,
            room=self._settings.room,
            overloaded=self._hearing.overloaded or self._speaking.behind,
            reason=self._reason,
        )

    def log_lines(self, after: int) -> list[LogLine]:
        """The journal's lines numbered above `after`."""
        return self._journal.after(after)

    def presets(self) -> tuple[str, ...]:
        """The presets that may be changed to during the call: those of the same model."""
        family = find_preset(self._preset).family
        return tuple(name for name, preset in PRESETS.items() if preset.family == family)

    def devices(self) -> DeviceNames:
        """The sound cards as seen last; asking makes the call look for new ones."""
        return self._cards.devices()

    def devices_seen(self) -> DeviceNames | None:
        """The sound cards as seen last, without another look."""
        return self._cards.seen()

    # --- what a screen may ask for ------------------------------------------------------------

    def set_muted(self, muted: bool) -> None:
        self._gate.muted = muted
        self._journal.info("muted" if muted else "not muted any more")

    def set_push_to_talk(self, on: bool) -> None:
        self._gate.talking = False
        self._gate.push_to_talk = on
        self._journal.info(f"push-to-talk {'on' if on else 'off'}")

    def talk(self, on: bool) -> None:
        """While push-to-talk is on: begin or stop talking."""
        self._gate.talking = on

    def set_preset(self, name: str) -> None:
        """Code our voice by another preset from the next frame on. Raises BadInput."""
        if name not in self.presets():
            raise BadInput(f"preset {name!r} cannot be changed to during this call")
        self._preset = name
        self._speaking.set_preset(name)
        self._endpoint.announce_preset(name)
        self._journal.info(f"preset is now {name}")

    def set_input(self, name: str) -> None:
        """Change to a microphone, also one plugged in meanwhile."""
        self._cards.open_input(name)

    def set_output(self, name: str) -> None:
        """Change to a loudspeaker, also one plugged in meanwhile."""
        self._cards.open_output(name)

    def set_recording(self, path: str | None) -> None:
        """Record both sides to `path`, or finish the recording. Raises SottoError."""
        recorder = None if path is None else Recorder(path)
        if recorder is not None:
            recorder.start()
        self._recorder, before = recorder, self._recorder
        finished, self._recording = self._recording, path or ""
        if before is not None:
            before.stop()
            self._journal.info(before.error or f"recorded {finished}")
        if path is not None:
            self._journal.info(f"recording to {path}")

    def hang_up(self) -> None:
        self._end(CallState.ENDED, "hung up")

    # --- the call's own thread ----------------------------------------------------------------

    def _follow(self) -> None:
        """Carry what the connection reports to whom it concerns, until the call is over."""
        hang_up_at: float | None = None
        while not self._over.is_set():
            for event in self._endpoint.events(_EVENT_WAIT):
                self._take(event)
            now = time.monotonic()
            failure = self._speaking.failure or self._hearing.failure
            if failure is not None:
                self._end(CallState.FAILED, failure)
            for party, (deadline, reason) in tuple(self._leaving.items()):
                # What was said before the goodbye is heard to its end.
                if now > deadline or self._hearing.drained(party):
                    self._leave(party, reason)
            if self._gone(now):
                self._end(CallState.ENDED, "the other side is gone")
            if self._settings.hang_up and self._speaking.source_ended.is_set():
                hang_up_at = now + _GOODBYE_SECONDS if hang_up_at is None else hang_up_at
                if now > hang_up_at:
                    self._end(CallState.ENDED, "all was said")

    def _gone(self, now: float) -> bool:
        """Whether a lost connection has had its time to come back."""
        return (
            self._state is CallState.RECONNECTING
            and not (self._settings.room or self._settings.lasting)
            and now - self._lost_since > self._settings.patience
        )

    def _take(self, event: Event) -> None:
        if isinstance(event, AudioArrived):
            self._hearing.arrive(event)
        elif isinstance(event, Joined):
            self._hearing.join(event.party, event.name, event.fingerprint, event.preset)
            here = self._present - self._leaving.keys()
            if event.party not in here and not (self._settings.room and here):
                self._speaking.call(False)  # whoever is still heard to the end is not spoken to
            self._present.add(event.party)
            self._leaving.pop(event.party, None)
            self._speaking.call(True)
            key = f" (key {event.fingerprint})" if event.fingerprint else ""
            self._journal.info(f"{event.name or 'somebody'} is here{key}")
            if event.agreed and event.preset != self._preset:
                self._agree(event.preset)
        elif isinstance(event, PresetChanged):
            self._hearing.set_preset(event.party, event.preset)
        elif isinstance(event, Left):
            self._journal.info(f"party {event.party} left: {event.reason}")
            self._leaving[event.party] = (time.monotonic() + _DRAIN_SECONDS, event.reason)
        elif isinstance(event, StateChanged):
            self._change(event.state, event.reason)
        elif isinstance(event, Notice):
            self._journal.write(event.level, event.text)

    def _agree(self, preset: str) -> None:
        """Code our voice as agreed; say so where we cannot."""
        if preset in self.presets():
            self._preset = preset
            self._speaking.set_preset(preset)
        else:
            self._endpoint.announce_preset(self._preset)

    def _change(self, state: CallState, reason: str) -> None:
        if state in _OVER:
            self._end(state, reason)
            return
        if state is not self._state:
            self._journal.info(state.value + (f": {reason}" if reason else ""))
        if state is CallState.RECONNECTING and self._state is not CallState.RECONNECTING:
            self._lost_since = time.monotonic()
        self._state, self._reason = state, reason

    def _leave(self, party: int, reason: str) -> None:
        self._leaving.pop(party, None)
        self._hearing.leave(party)
        self._present.discard(party)
        if self._present:
            return
        self._speaking.call(False)
        if not self._settings.room and not self._settings.lasting:
            self._end(CallState.ENDED, reason)

    def _end(self, state: CallState, reason: str) -> None:
        if self._over.is_set():
            return
        self._state, self._reason = state, reason
        self._journal.write(
            "info" if state is CallState.ENDED else "error", f"{state.value}: {reason}"
        )
        self._over.set()

    def _said(self, samples: FloatArray, time_of_last: float) -> None:
        if (recorder := self._recorder) is not None:
            recorder.said(samples, time_of_last)

    def _heard(self, samples: FloatArray, time_of_first: float) -> None:
        if (recorder := self._recorder) is not None:
            recorder.heard(samples, time_of_first)
