"""A call: source, codec, connection and sink joined up, and what a screen needs to steer it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from codec.errors import BadInput, SottoError
from codec.packet import CALL_DELAY, DELAYS, Packet, fits, pack_session
from codec.signal.analysis import LEAD, N_MELS, STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.signal.synthesis import SpeechSynthesiser
from codec.speech.presets import find_preset, presets_of
from stream.audio.chime import call_begins
from stream.audio.devices import DeviceNames
from stream.audio.frontend import FrontEnd, FrontEndMissing, Processing
from stream.audio.sinks import Sink
from stream.audio.slots import Hotplug, SoundSystem
from stream.audio.sources import Source
from stream.call.delays import (
    SEARCH_STEPS,
    WHOLE_FRAMES,
    FallBack,
    fitting,
    steps_of,
)
from stream.call.over_files import OverFiles
from stream.call.receiver import Receiver
from stream.call.recorder import FRAME_BYTES, MAX_FRAMES, Recorder
from stream.call.remote_stream import RemoteStream
from stream.call.sender import Sender
from stream.call.snapshot import FrontEndState, Snapshot
from stream.call.switching import short_turns
from stream.call.volume import Volume
from stream.link.events import (
    FAULT,
    AudioArrived,
    CallState,
    Event,
    Joined,
    KeyWanted,
    Left,
    Notice,
    OverArrived,
    PresetChanged,
    RecordingChanged,
    RingOver,
    Rings,
    StateChanged,
    TextArrived,
    Verified,
)
from stream.link.ringing import Answer
from stream.link.wire import PARTIES
from stream.log import Journal, LogLine

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.link.endpoint import Endpoint
    from stream.link.overs import Over


_EVENT_WAIT = 0.05
_GOODBYE_SECONDS = 0.5  # from the end of the source to hanging up, beyond the length of a packet
_NEW_SECONDS = 1.0  # in which a party that has come lacks a key packet for no other reason
_DRAIN_SECONDS = 4.0  # in which what a party said last has to be played
_OWN_LEAD = 0.2  # seconds before the first packet of speech that a recorded over of ours begins
_LOG_SECONDS = 1.0  # for the reader of the log to take its last lines
_OVER = (CallState.ENDED, CallState.REFUSED, CallState.FAILED)


@dataclass(frozen=True)
class CallSettings:
    """How a call is to run.

    delay: length of our packets in milliseconds; measured: what `warm_up` found this machine to
    take, by delays; most_bytes: limit of our packets; iterations, tail: search steps of a block and
    seconds of search after its last sample (None: defaults); patience: seconds a lost connection is
    given to come back; lasting: wait for the next caller when a call ends; hang_up: end the call
    when the source ends; processing: of a microphone's sound, by the front end; recording_bytes:
    the most that a recording takes (None: what its format holds); on_ring: called when a caller
    rings, on_joined: when a party can be heard; neither may block; chime: whether a loudspeaker
    plays two notes when a call begins.
    """

    preset: str
    room: bool = False
    delay: int = CALL_DELAY
    measured: Mapping[int, float] = field(default_factory=dict)
    most_bytes: int | None = None
    iterations: int | None = None
    tail: float | None = None
    push_to_talk: bool = False
    patience: float = 60.0
    lasting: bool = False
    hang_up: bool = False
    processing: Processing = field(default_factory=Processing)
    recording_bytes: int | None = None
    on_ring: Callable[[Rings], None] | None = None
    on_joined: Callable[[Joined], None] | None = None
    chime: bool = False


class Call:
    """A running call. Its methods may be called from any thread and return at once."""

    def __init__(
        self,
        codec: SpeechCodec,
        endpoint: Endpoint,
        source: Source,
        sink: Sink,
        settings: CallSettings,
        journal: Journal,
        sound: SoundSystem | None = None,
        front_end: Callable[[Processing], FrontEnd] = FrontEnd,
    ) -> None:
        """front_end: makes one, when a microphone is first used."""
        sound = sound or SoundSystem()
        self._make_front_end = front_end
        self._front_end: FrontEnd | None = None
        self._front_end_missing = False
        self._codec = codec
        self._endpoint = endpoint
        self._settings = settings
        self._journal = journal
        self._preset = settings.preset
        self._recorder: Recorder | None = None
        self._recording = ""
        self._over_files: OverFiles | None = None
        self._told_recording = False
        self._changing_recording = threading.Lock()
        self._cards = Hotplug(source, sink, sound, journal)
        self._fall_back = FallBack()
        self._sender = Sender(
            codec,
            self._cards.input,
            endpoint.send,
            journal,
            push_to_talk=settings.push_to_talk,
            iterations=settings.iterations,
            tail=settings.tail,
            delay=self._first_delay(),
            most_bytes=settings.most_bytes,
            encoded=self._record_sent,
            send_over=endpoint.send,
            end_over=endpoint.end_over,
        )
        self._receiver = Receiver(
            codec,
            self._cards.output,
            journal,
            self._record_received,
            endpoint.ask_for_key,
            decoded_late=self._record_late,
            heard=self._record_heard,
        )
        self._state = CallState.WAITING
        self._reason = ""
        self._begun = self._lost_since = time.monotonic()
        self._present: dict[int, str] = {}  # names
        self._ringing: Rings | None = None
        self._compared: dict[int, str] = {}  # authentication strings that have been shown
        self._leaving: dict[int, tuple[float, str]] = {}  # by when, and why
        self._came = -math.inf  # when somebody last came or came back
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sotto-call", daemon=True)
        self._closing = threading.Lock()
        self._turns = contextlib.ExitStack()

    def start(self) -> None:
        """Open the sink and the connection. Raises SottoError when either is refused."""
        self._turns.enter_context(short_turns())
        if self._cards.input.card is not None:
            self._have_front_end()
        self._receiver.start()
        try:
            self._endpoint.start()
        except SottoError:
            self._receiver.stop()
            self._turns.close()
            raise
        self._sender.start()
        self._cards.start()
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Whether the call is over; waits up to `timeout` seconds for it."""
        return self._over.wait(timeout)

    def close(self) -> None:
        """Hang up if the call is not over yet, end every thread, finish recording and log."""
        with self._closing:
            self._end(CallState.ENDED, "hung up")
            self._endpoint.close(FAULT if self._state is CallState.FAILED else self._reason)
            self._cards.stop()
            self._sender.stop()
            self._receiver.stop()
            if self._thread.is_alive() and threading.current_thread() is not self._thread:
                self._thread.join(5.0)
            self.set_recording(None)
            self.record_overs(None)
            self._journal.close(_LOG_SECONDS)
            self._turns.close()

    # --- what a screen shows ------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        sent, received = self._endpoint.wire_bytes()
        ip_sent, ip_received = self._endpoint.ip_bytes()
        talker = self._sender.snapshot(now, sent, ip_sent)
        listeners = self._receiver.snapshot(now, received, ip_received, self._endpoint)
        return Snapshot(
            state=self._state,
            seconds=now - self._begun,
            preset=self._preset,
            presets=self.presets(),
            model_id=self._codec.model_id,
            talker=talker,
            listeners=listeners,
            link=self._endpoint.link(),
            input_device=self._cards.input.name,
            output_device=self._cards.output.name,
            front_end=self._front_end_state(),
            muted=self._sender.muted,
            push_to_talk=self._sender.push_to_talk,
            talking=self._sender.open and self._state is CallState.TALKING,
            keeping=self._sender.push_to_talk
            and self._sender.open
            and self._state is CallState.RECONNECTING,
            late=self._receiver.late(now),
            recording=self._recording,
            recording_overs="" if (files := self._over_files) is None else files.name,
            delays=self.delays(),
            room=self._settings.room,
            overloaded=self._receiver.overloaded or self._sender.behind,
            ringing=self._ringing,
            reason=self._reason,
        )

    def log_lines(self, after: int) -> list[LogLine]:
        """The journal's lines numbered above `after`."""
        return self._journal.after(after)

    def presets(self) -> tuple[str, ...]:
        """The presets that may be changed to during the call: those of the same model."""
        return presets_of(find_preset(self._preset).family)

    def delays(self) -> tuple[int, ...]:
        """The lengths that our packets may have, in milliseconds."""
        most = self._settings.most_bytes
        known = DELAYS if self._codec.sliding else (WHOLE_FRAMES,)
        return tuple(delay for delay in known if fits(most, steps_of(delay)))

    def devices(self) -> DeviceNames:
        """The sound cards as seen last; asking makes the call look for new ones."""
        return self._cards.devices()

    def devices_seen(self) -> DeviceNames | None:
        """The sound cards as seen last, without another look."""
        return self._cards.seen()

    # --- what a screen may ask for ------------------------------------------------------------

    def set_muted(self, muted: bool) -> None:
        self._sender.muted = muted
        self._journal.info("muted" if muted else "unmuted")

    def set_push_to_talk(self, on: bool) -> None:
        self._sender.talking = False
        self._sender.push_to_talk = on
        self._journal.info(f"push-to-talk {'on' if on else 'off'}")

    def talk(self, on: bool) -> None:
        """While push-to-talk is on: begin or stop talking."""
        self._sender.talking = on

    def set_preset(self, name: str) -> None:
        """Code our speech by another preset from the next frame on. Raises BadInput."""
        if name not in self.presets():
            raise BadInput(f"preset {name!r} cannot be changed to during this call")
        self._preset = name
        self._sender.set_preset(name)
        self._endpoint.announce_preset(name)
        self._journal.info(f"preset is now {name}")

    def set_delay(self, delay: int) -> None:
        """Let our packets last so many milliseconds from the next one on. Raises BadInput."""
        if delay not in self.delays():
            known = ", ".join(map(str, self.delays()))
            raise BadInput(f"the delay cannot be {delay} ms (one of {known})")
        self._sender.set_delay(delay)
        self._journal.info(f"delay is now {delay} ms")

    def set_front_end(self, on: bool) -> None:
        """Echo cancellation, noise suppression and gain control of the microphone.

        Raises BadInput where there is none of them.
        """
        if self._front_end is None:
            why = "livekit is missing here" if self._front_end_missing else "nothing to switch"
            raise BadInput(f"echo cancellation and noise suppression: {why}")
        self._front_end.enabled = on
        self._journal.info(f"echo cancellation and noise suppression {'on' if on else 'off'}")

    def set_input(self, name: str) -> None:
        """Change to a microphone, also one plugged in meanwhile."""
        self._have_front_end()
        self._cards.open_input(name)

    def set_output(self, name: str) -> None:
        """Change to a loudspeaker, also one plugged in meanwhile."""
        self._cards.open_output(name)

    def set_recording(self, path: str | None) -> None:
        """Record both sides to `path`, or finish the recording. Raises SottoError."""
        with self._changing_recording:
            self._change_recording(path)

    def record_overs(self, folder: str | None) -> None:
        """Write each over of each speaker to a file in a folder, or do so no more.

        Raises SottoError where nothing can be written.
        """
        with self._changing_recording:
            self._change_over_files(folder)

    def send_text(self, text: str) -> None:
        """Write a line to the others. Raises BadInput where it cannot be sent."""
        if not self._endpoint.send_text(text):
            raise BadInput("nobody is connected: the line has not been sent")
        self._journal.said(f"you: {text}")

    def set_volume(self, party: int, volume: Volume) -> None:
        """Play a remote party louder or quieter; whoever has left is ignored."""
        self._receiver.set_volume(party, volume)

    def verify(self, party: int, code: str) -> None:
        """Remember that a person has compared the code with a party. Raises SottoError."""
        self._endpoint.verify(party, code)

    def answer(self, answer: Answer, ringing: Rings) -> None:
        """Decide about a caller that rings, if it still does."""
        self._endpoint.answer(answer, ringing)

    def hang_up(self) -> None:
        self._end(CallState.ENDED, "hung up")

    def run_out(self) -> None:
        """Hang up since the call's time is over; if it has reached nobody it has failed."""
        if why := self._endpoint.unreached():
            self._end(CallState.FAILED, why)
        self.hang_up()

    def _change_recording(self, path: str | None) -> None:
        most = self._settings.recording_bytes
        frames = MAX_FRAMES if most is None else most // FRAME_BYTES
        recorder = None if path is None else Recorder(path, max_frames=frames)
        if recorder is not None:
            recorder.start()
        self._recorder, before = recorder, self._recorder
        self._recording = path or ""
        self._tell_recording()
        if before is not None:
            before.stop()
            self._tell_recorded(before.error, f"recorded {before.name}")
        if path is not None:
            self._journal.info(f"recording to {path}")

    def _change_over_files(self, folder: str | None) -> None:
        most = self._settings.recording_bytes
        files = None if folder is None else OverFiles(folder, most_bytes=most)
        if files is not None:
            files.start()
        self._over_files, before = files, self._over_files
        self._tell_recording()
        if before is not None:
            before.stop()
            self._tell_recorded(before.error, f"recorded {before.files} overs to {before.name}")
        if files is not None:
            self._journal.info(f"recording overs to {files.name}")

    def _tell_recorded(self, error: str | None, text: str) -> None:
        """Tell people what has become of a recording."""
        if error is None:
            self._journal.info(text)
        else:
            self._journal.warning(error)

    def _tell_recording(self) -> None:
        """Tell the others whether we record, in one way or another, if that has changed."""
        on = self._recorder is not None or self._over_files is not None
        if on != self._told_recording:
            self._told_recording = on
            self._endpoint.tell_recording(on)

    # --- the call's own thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # whoever waits for the end must learn of it, whatever it is
            self._end(CallState.FAILED, f"internal error: {type(error).__name__}: {error}")

    def _follow(self) -> None:
        """Handle what the connection reports, until the call is over."""
        hang_up_at: float | None = None
        while not self._over.is_set():
            for event in self._endpoint.events(_EVENT_WAIT):
                self._take(event)
            now = time.monotonic()
            failure = self._sender.failure or self._receiver.failure
            if failure is not None:
                self._end(CallState.FAILED, failure)
            for party, (deadline, reason) in tuple(self._leaving.items()):
                # What was said before the goodbye is played to its end.
                drained = now > deadline or self._receiver.drained(party)
                # That is bounded: at most two minutes of what comes late wait to be played.
                if drained and not self._receiver.late_pending(party):
                    self._leave(party, reason)
            if self._fall_back.update(now, self._sender.behind):
                self._take_longer()
            self._notice_end_of_recording()
            if self._gone(now):
                self._end(CallState.ENDED, "the other side is gone")
            if self._settings.hang_up and self._sender.source_ended.is_set():
                if hang_up_at is None:
                    hang_up_at = now + _GOODBYE_SECONDS + self._sender.delay / 1000
                if now > hang_up_at:
                    self._end(CallState.ENDED, "all input has been sent")

    def _notice_end_of_recording(self) -> None:
        """A recording that is full, or cannot be written, has ended by itself."""
        if (recorder := self._recorder) is not None and recorder.error is not None:
            with self._changing_recording:
                if self._recorder is recorder:
                    self._change_recording(None)
        if (files := self._over_files) is not None and files.error is not None:
            with self._changing_recording:
                if self._over_files is files:
                    self._change_over_files(None)

    def _have_front_end(self) -> None:
        """Make the front end, where one is wanted and there is none yet."""
        wanted = self._settings.processing
        if not wanted or self._front_end is not None or self._front_end_missing:
            return
        try:
            self._front_end = self._make_front_end(wanted)
        except FrontEndMissing as error:
            self._front_end_missing = True
            self._journal.warning(str(error))
        self._sender.front_end = self._receiver.front_end = self._front_end

    def _front_end_state(self) -> FrontEndState:
        if self._cards.input.card is None or not self._settings.processing:
            return FrontEndState.NONE
        if self._front_end is None or self._front_end.error is not None:
            return FrontEndState.MISSING
        return FrontEndState.ON if self._front_end.enabled else FrontEndState.OFF

    def _first_delay(self) -> int:
        """The delay that is wished, or the next longer one that this machine is fast enough for."""
        wished, measured = self._settings.delay, self._settings.measured
        steps_of(wished)
        delay = fitting(wished, self.delays(), lambda delay: measured.get(delay, 0.0))
        if delay != wished and wished in self.delays():
            self._too_slow(wished, delay)
        elif delay != wished:
            self._journal.info(f"packets of {wished} ms are not possible here: taking {delay} ms")
        return delay

    def _take_longer(self) -> None:
        """The encoder does not keep up."""
        now = self._sender.delay
        longer = [delay for delay in self.delays() if delay > now]
        if longer:
            self._sender.set_delay(longer[0])
            self._too_slow(now, longer[0])

    def _too_slow(self, wished: int, delay: int) -> None:
        self._journal.warning(f"falling back to {delay} ms: this machine is too slow for {wished}")

    def _gone(self, now: float) -> bool:
        """Whether a lost connection has had its time to come back."""
        return (
            self._state is CallState.RECONNECTING
            and not (self._settings.room or self._settings.lasting)
            and now - self._lost_since > self._settings.patience
        )

    def _take(self, event: Event) -> None:
        if isinstance(event, AudioArrived):
            self._receiver.arrive(event)
        elif isinstance(event, Joined):
            self._receiver.join(event)
            here = self._present.keys() - self._leaving.keys()
            if not here:
                self._sender.call(False)  # those who are leaving get nothing of the new call
                if self._settings.chime and self._cards.output.device.is_card:
                    self._receiver.play(call_begins())
            self._came = time.monotonic()
            self._present[event.party] = name = event.shown or "somebody"
            self._leaving.pop(event.party, None)
            self._sender.call(True)
            key = f" (key {event.fingerprint})" if event.fingerprint else ""
            self._journal.caused(_kind("party", event.party), "info", f"{name} is here{key}")
            if event.code and not event.verified and self._compared.get(event.party) != event.code:
                self._compared[event.party] = event.code
                said = f"code, the same on both screens: {event.code}"
                self._journal.caused(_kind("party", event.party), "info", said)
            if event.agreed and event.preset != self._preset:
                self._agree(event.preset)
            if self._settings.on_joined is not None:
                self._settings.on_joined(event)
        elif isinstance(event, KeyWanted):
            # The hub of a room asks for all of its parties.
            self._sender.want_key(lost=time.monotonic() - self._came > _NEW_SECONDS)
        elif isinstance(event, PresetChanged):
            self._receiver.set_preset(event.party, event.preset)
        elif isinstance(event, Verified):
            self._receiver.set_verified(event.party, event.verified)
            name = self._present.get(event.party, "somebody")
            if event.verified:
                self._journal.info(f"{name} is verified from now on")
            else:
                self._journal.warning(f"{name} is not verified any more")
        elif isinstance(event, RecordingChanged):
            self._receiver.set_recording(event.party, event.on)
            name = self._present.get(event.party, "somebody")
            text = f"{name} records this call" if event.on else f"{name} records no more"
            level = "warning" if event.on else "info"
            self._journal.caused(_kind("recording", event.party), level, text)
        elif isinstance(event, OverArrived):
            self._take_late(event.over)
        elif isinstance(event, TextArrived):
            # The link has counted them: these are no flood.
            name = self._present.get(event.party, "somebody")
            self._journal.said(f"{name}: {event.text}")
        elif isinstance(event, Left):
            name = self._present.get(event.party, "somebody")
            text = f"{name} has left: {event.reason}"
            self._journal.caused(_kind("party", event.party), "info", text)
            self._receiver.set_recording(event.party, False)
            self._leaving[event.party] = (time.monotonic() + _DRAIN_SECONDS, event.reason)
        elif isinstance(event, StateChanged):
            self._change(event.state, event.reason)
        elif isinstance(event, Rings):
            self._ringing = event
            key = f"key {event.fingerprint}" if event.fingerprint else "without a key"
            text = f"{event.name or 'somebody'} rings ({key})"
            # Strangers may ring as long as we listen, and leave the lines of the known ones alone.
            self._journal.caused(f"rings {event.known}", "warning", text)
            if self._settings.on_ring is not None:
                self._settings.on_ring(event)
        elif isinstance(event, RingOver):
            known, self._ringing = self._ringing is not None and self._ringing.known, None
            text = f"it rings no more: {event.reason}"
            self._journal.caused(f"rings no more {known}", "info", text)
        elif isinstance(event, Notice):
            kind = "notice " + (event.kind or event.text.partition(" ")[0])  # "refused", "lost"
            self._journal.caused(kind, event.level, event.text)

    def _take_late(self, over: Over) -> None:
        """Something that could not be heard when it was said."""
        name = self._present.get(over.party, "somebody")
        ago = max(time.monotonic() - over.ended, 0.0)
        text = f"{name}, {ago:.0f} s ago: {over.seconds:.0f} s of speech have come late"
        text += ", once more and whole" if over.again else ""
        text += ", without its end" if over.cut else ""
        self._journal.caused(_kind("late", over.party), "info", text)
        if given_up := self._receiver.arrive_late(over, name):
            text = f"{given_up:.0f} s of what {name} said before are given up: too much waits"
            self._journal.caused(_kind("late", over.party), "warning", text)

    def _agree(self, preset: str) -> None:
        """Use the preset that was agreed on; where we cannot, announce the one we use."""
        if preset in self.presets():
            self._preset = preset
            self._sender.set_preset(preset)
        else:
            self._endpoint.announce_preset(self._preset)

    def _change(self, state: CallState, reason: str) -> None:
        if state in _OVER:
            self._end(state, reason)
            return
        if state is not self._state:
            text = state.value + (f": {reason}" if reason else "")
            self._journal.caused("state", "info", text)
        if state is CallState.RECONNECTING and self._state is not CallState.RECONNECTING:
            self._lost_since = time.monotonic()
        self._state, self._reason = state, reason

    def _leave(self, party: int, reason: str) -> None:
        self._leaving.pop(party, None)
        self._receiver.leave(party)
        self._present.pop(party, None)
        if self._present:
            return
        self._sender.call(False)
        if not self._settings.room and not self._settings.lasting:
            self._end(CallState.ENDED, reason)

    def _end(self, state: CallState, reason: str) -> None:
        if self._over.is_set():
            return
        self._state, self._reason = state, reason
        if kept := self._endpoint.link().kept:
            self._journal.warning(f"{kept:.0f} s of what you said have not been delivered")
        self._journal.write(
            "info" if state is CallState.ENDED else "error", f"{state.value}: {reason}"
        )
        self._over.set()

    def _record_sent(self, samples: FloatArray, time_of_last: float) -> None:
        if (recorder := self._recorder) is not None:
            recorder.sent(samples, time_of_last)
        if (files := self._over_files) is not None:
            # Speech is known for speech when its packet is whole.
            lead = _OWN_LEAD + self._sender.delay / 1000
            first = time_of_last - len(samples) / SAMPLE_RATE
            files.push(None, "own", samples, self._sender.speaking, first, lead)

    def _record_received(self, samples: FloatArray, time_of_first: float) -> None:
        if (recorder := self._recorder) is not None:
            recorder.received(samples, time_of_first)

    def _record_heard(
        self, party: int, name: str, samples: FloatArray, active: bool, time_of_first: float
    ) -> None:
        if (files := self._over_files) is not None:
            files.push(party, name or f"party {party}", samples, active, time_of_first)

    def _record_late(self, over: Over, name: str, samples: FloatArray) -> None:
        if (files := self._over_files) is not None:
            files.late(name, samples, over.ended)


def _kind(what: str, party: int) -> str:
    """Of which kind a line about a party is, for the journal's floodgate.

    A listener that says that it has been started again brings parties with new numbers: they are of
    the kinds of those before them.
    """
    return f"{what} {party % PARTIES}"


def warm_up(codec: SpeechCodec, delay: int = CALL_DELAY) -> dict[int, float]:
    """Encode and decode noise, so that compiled code and buffers are in place.

    Returns for the wished delay, and for longer ones while it is too slow, the seconds that a block
    takes on this machine (see `fitting`).
    """
    possible = DELAYS if codec.sliding else (WHOLE_FRAMES,)
    measured: dict[int, float] = {}
    packets: list[Packet] = []

    def seconds(delay: int) -> float:
        found, measured[delay] = _encoded_noise(codec, delay)
        packets[:] = found
        return measured[delay]

    fitting(delay, possible, seconds)
    if not packets:
        packets += _encoded_noise(codec, max(possible))[0]
    SpeechSynthesiser(variable=True).push_noise(np.full((1, N_MELS), -1.0, np.float32))
    stream = RemoteStream(codec)
    for packet in packets:
        stream.arrive(pack_session(packet), packet.sequence, None, 0.0)
    for _ in range(8):  # packets, and the concealment of the next
        stream.work()
        stream.pull(SAMPLE_RATE // 8, 0.0)
    return measured


def _encoded_noise(codec: SpeechCodec, delay: int) -> tuple[list[Packet], float]:
    """Packets of noise, and the least seconds that a block of them took."""
    from codec.speech.encoder import BLOCK, SpeechEncoder

    steps = steps_of(delay)
    count = 4 if steps <= BLOCK else 2  # the first one is slower
    noise = np.random.default_rng(0).normal(0.0, 0.05, count * steps * STEP_SAMPLES + LEAD)
    # As a call does, in haste, but for as long as it takes.
    encoder = SpeechEncoder(codec, SEARCH_STEPS, np.inf, steps=steps, block=BLOCK, session=True)
    encoded = encoder.push(noise.astype(np.float32))
    packets = [each.packet for each in encoded if each.packet is not None]
    return packets, min(each.seconds for each in encoded) / max(steps // BLOCK, 1)
