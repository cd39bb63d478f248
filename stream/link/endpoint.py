"""Our end of the voice link: the I/O thread, its queues, counters and events.

What the listener and the caller share. The I/O thread owns every socket; what it reports comes as
events, and what it is told is never waited for. docs/wire.md says what goes over the wire, and why.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import zmq
from zmq.utils.monitor import parse_monitor_message

from codec.errors import BadInput, BadStream, SottoError
from stream.link import wire
from stream.link.allowance import Allowance
from stream.link.authentication import RateLimit, Security
from stream.link.clock import LinkClock
from stream.link.events import (
    FAULT,
    AudioArrived,
    CallState,
    Event,
    EventQueue,
    Joined,
    KeyWanted,
    Link,
    Notice,
    Offer,
    OverArrived,
    PresetChanged,
    RecordingChanged,
    Rings,
    StateChanged,
    TextArrived,
    Verified,
)
from stream.link.impairment import ImpairedQueue, Impairment
from stream.link.keys import fingerprint
from stream.link.overs import Kept, Over
from stream.link.peers import Peer, Role, TrustWatch
from stream.link.ringing import Answer
from stream.link.session import (
    WRITER_SPARES,
    KeyRequests,
    Outgoing,
    Participant,
    Session,
    text_allowance,
)
from stream.link.traffic import CURVE_BYTES, Traffic, envelope

Socket = zmq.Socket[bytes]

_OUTGOING = 32  # packets between the encoder and the I/O thread: 2 s of the shortest
_HIGH_WATER = 64  # messages per connection inside libzmq, each way
_KERNEL_BYTES = 16384
_LONGEST_SLEEP = 0.25
_HANDSHAKE_MS = 5000
FAREWELL_MS = 300
_MONITORED = 256  # events of libzmq's monitor per round
_LATE = 15.0  # seconds: audio captured longer ago is a replay, or of no use
_EARLY = 2.0
SAME_MODEL = "both need the same (--preset, --model)"
KEY_PAUSE = 0.25  # seconds between requests for a key packet to one party
_KEYS_TAKEN = (
    2  # requests of a party reported in twice that time: the network may push two together
)
_COUNTING = 0.25  # seconds between looks at the kernel's counters

_monitors = itertools.count()


@dataclass(frozen=True)
class _OverEnded:
    """An over of ours has ended. ended: our monotonic clock."""

    over: int
    ended: float


class Endpoint(ABC):
    """Our end of a connection.

    `start` opens the sockets; from then on they belong to the I/O thread. All else may be called
    from any thread and does not wait for the network, but `events` from one consumer only.
    """

    def __init__(self, offer: Offer, security: Security, clock: Callable[[], float]) -> None:
        wire.Talk(None).encode(
            wire.Preset(0, offer.preset)
        )  # raises BadInput where it would not fit
        if len(offer.name.encode("utf-8", "replace")) > wire.MAX_NAME:
            raise BadInput(f"the name is longer than {wire.MAX_NAME} bytes")
        self._offer = Offer(offer.model_id, offer.preset, wire.clipped(offer.name), offer.room)
        self._security = security
        self._clock = clock
        self._link_clock = LinkClock(clock())
        self._events = EventQueue()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._poller = zmq.Poller()
        self._outgoing: deque[Outgoing | wire.Preset | wire.Text | wire.Recording | _OverEnded] = (
            deque()
        )
        self._keys_asked: deque[int] = deque(maxlen=64)  # parties whose key packets we want
        self._answers: deque[tuple[Answer, Rings | None]] = deque(maxlen=8)
        self._keys_verified: deque[str] = deque(maxlen=64)
        self._key_requests = KeyRequests(KEY_PAUSE)
        self._key_limits: dict[int, RateLimit] = {}
        self._own_texts = text_allowance(WRITER_SPARES)
        # By number on the wire, for as long as we are there: a party that comes anew gains nothing.
        self._text_limits: dict[int, Allowance] = {}
        self._lock = threading.Lock()
        self._awake, self._wake = socket.socketpair()
        for end in (self._awake, self._wake):
            end.setblocking(False)
        self._poller.register(self._awake, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="sotto-io", daemon=True)
        self._started = self._closed = False
        self._closing = threading.Event()
        self._farewell = ""
        self._state: CallState | None = None
        self._preset = offer.preset
        self._party = wire.HUB  # our own number
        self._recording: bool | None = None  # whether we record, None if we never did
        self._trust_watch = TrustWatch()
        self._peers_damaged = False
        # Unknown peers use up nothing of what is to be said of those in the call.
        self._notice_limits = {unknown: RateLimit(10, 10.0) for unknown in (False, True)}
        # Written by the I/O thread alone, replaced or incremented as a whole, read by anyone.
        self._sent_bytes = self._received_bytes = 0
        self._ip_bytes = self._ip_bytes_before = (0, 0)  # in all; on connections that are over
        self._count_at = -math.inf
        self._unknown_peers = self._reconnections = self._dropped = 0
        self._audible = False
        self._participants: dict[int, Participant] = {}
        self._delays: dict[int, float] = {}
        self._rejections: dict[int, int] = {}
        self._link = Link("", False, security.own_fingerprint)

    # --- for everyone -------------------------------------------------------------------------

    def start(self) -> None:
        """Open the connection. Raises SottoError if that is refused at once."""
        if self._started or self._closed:
            raise SottoError("this connection has been used already")
        try:
            self._open()
        except BaseException:
            self._started = False
            self._closed = True
            self._release()
            raise
        self._started = True
        self._thread.start()

    def send(
        self,
        packet: bytes,
        step: int,
        captured: float,
        capture: float | None = None,
        over: int | None = None,
    ) -> bool:
        """Send one session packet to everybody.

        step: number of its first latent step since the voice began, not negative; captured: when
        its last sample was in the air, our monotonic clock; capture: seconds that samples take from
        the air to the encoder; over: the number of the over that it belongs to, if it is to be
        delivered late where it cannot be at once (see `Kept`).

        Never blocks. False if the packet is dropped, as nobody is connected or the line is full.
        Raises BadInput for what can be no packet.
        """
        if not 0 < len(packet) <= wire.MAX_PACKET:
            raise BadInput(f"a packet of {len(packet)} bytes is no packet")
        if step < 0:
            raise BadInput(f"a packet cannot begin at step {step}")
        wanted = self._audible or (over is not None and bool(self._participants))
        if not wanted or self._closing.is_set():
            return False
        number = step % (1 << wire.NUMBER_BITS)
        since, delay = self._clock(), wire.capture_steps(capture)
        over = None if over is None else over % (1 << wire.NUMBER_BITS)
        item = Outgoing(wire.HUB, number, captured, bytes(packet), since, delay, over)
        with self._lock:
            # What is kept is not to be lost on its way to where it is.
            if len(self._outgoing) >= (_OUTGOING if over is None else wire.OVER_STEPS):
                return False
            self._outgoing.append(item)
        self._wake_up()
        return True

    def end_over(self, over: int, ended: float) -> None:
        """An over has ended: no packet of it will follow. ended: when, our monotonic clock."""
        self._outgoing.append(_OverEnded(over % (1 << wire.NUMBER_BITS), ended))
        self._wake_up()

    def ask_for_key(self, party: int) -> None:
        """Ask a party for a key packet: something of its voice is lost.

        At once, but no more than every KEY_PAUSE seconds; in between requests are merged into one
        that goes out then. Unknown parties are ignored.
        """
        if party in self._participants:
            self._keys_asked.append(party)
            self._wake_up()

    def announce_preset(self, preset: str) -> None:
        """Tell the others by which preset our voice is coded from now on."""
        message = wire.Preset(0, preset)
        wire.Talk(None).encode(message)  # raises BadInput where it would not fit
        self._outgoing.append(message)
        self._wake_up()

    def send_text(self, text: str) -> bool:
        """Send a line of text to everybody; what could do harm on their screens becomes blanks.

        False if nobody is connected. Raises BadInput for nothing, for more than MAX_TEXT bytes of
        UTF-8, and for more lines at once than the others would take.
        """
        text = wire.harmless(text)
        if not text:
            raise BadInput("there is nothing in this line")
        if (size := len(text.encode("utf-8"))) > wire.MAX_TEXT:
            raise BadInput(f"a line has at most {wire.MAX_TEXT} bytes, and this one {size}")
        if not self._audible or self._closing.is_set():
            return False
        with self._lock:
            if not self._own_texts.take(1.0, self._clock()):
                raise BadInput("these are many lines at once: wait a few seconds")
            self._outgoing.append(wire.Text(wire.HUB, text))
        self._wake_up()
        return True

    def tell_recording(self, on: bool) -> None:
        """Tell the others, and whoever comes later, whether we record."""
        self._outgoing.append(wire.Recording(wire.HUB, on))
        self._wake_up()

    def answer(self, answer: Answer, ringing: Rings | None = None) -> None:
        """Say what is to become of the caller that rings, if one does.

        ringing: the event that the answer is about, None for whoever rings. Another caller may ring
        by the time a person has decided; nothing then happens.
        """
        self._answers.append((answer, ringing))
        self._wake_up()

    def verify(self, party: int, code: str) -> None:
        """Remember with the known peers that a person has compared `code` with a party.

        Writes their file. Raises SottoError if that fails, if the party has another code or none,
        or if it is not among the known peers.
        """
        participant = self._participants.get(party)
        if participant is None or not code or participant.code != code:
            raise BadInput("this is not the code of anybody who is here now")
        peer = self._known_peer(participant)
        if peer is None:
            shown = participant.shown or "this party"
            raise BadInput(f"{shown} is not among the known peers: see sotto peers add")
        self._security.known.verify(peer.name, key=peer.key)
        self._keys_verified.append(peer.key)
        self._wake_up()

    def events(self, timeout: float) -> list[Event]:
        """What has happened since the last call; waits up to `timeout` seconds for something."""
        return self._events.take(timeout)

    def link(self) -> Link:
        """The connection as it is now."""
        return self._link

    def unreached(self) -> str:
        """Why nobody has been reached yet; "" if somebody has, or if nobody is called."""
        return ""

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes (sent, received) on connections in talk: messages with ZeroMQ's envelopes."""
        return self._sent_bytes, self._received_bytes

    def ip_bytes(self) -> tuple[int, int]:
        """Bytes of IP packets (sent, received) on connections that came into talk.

        On Linux these are the kernel's own counts of each TCP connection, handshakes,
        retransmissions and acknowledgements included, a quarter of a second old at most. They are
        estimated (`traffic.Estimate`) on other systems.
        """
        return self._ip_bytes

    def one_way(self, party: int) -> float | None:
        """Measured network delay from a party to us in seconds, None while not known."""
        return self._delays.get(party)

    def rejected(self, party: int) -> int:
        """Messages of a party rejected as damaged, replayed, foreign or meaningless."""
        return self._rejections.get(party, 0)

    def impair(self, impairment: Impairment) -> None:
        """Spoil the audio that arrives, as a bad network would; before `start`."""
        self._events = ImpairedQueue(impairment, self._clock)

    def close(self, reason: str = "hung up") -> None:
        """Say goodbye and end the I/O thread; returns when it is down.

        reason: for the other side as well.
        """
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._farewell = wire.clipped(reason)
            self._closing.set()
            if self._started:
                self._wake_up()
            else:
                self._release()
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    # --- the I/O thread -----------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Make the sockets; raises SottoError."""

    @abstractmethod
    def _serve(self, ready: dict[object, int]) -> None:
        """Take what has arrived at sockets; bounded work."""

    @abstractmethod
    def _tick(self, now: float) -> float:
        """Do what is due; returns when something is next."""

    @abstractmethod
    def _peer(self) -> str:
        """Whom we are connected to, for people."""

    @abstractmethod
    def _sessions(self) -> list[Session]:
        """The connections in talk."""

    @abstractmethod
    def _places(self) -> list[tuple[Kept, Session | None]]:
        """What each place we send to has not got of our overs, and the connection to it."""

    @abstractmethod
    def _speaker(self, sender: int, party: int) -> Participant | None:
        """Whom a message of `sender` is about, None if it may not speak for `party`."""

    @abstractmethod
    def _request_key(self, party: int) -> None:
        """Ask a party we know for a key packet."""

    @abstractmethod
    def _trusted_peers(self) -> Iterable[Peer]:
        """Whom the known peers trust for our part in a call. Raises SottoError."""

    @abstractmethod
    def _known_peer(self, participant: Participant) -> Peer | None:
        """Whom the known peers have by a party's key, for its part in the call."""

    @abstractmethod
    def _hung_up(self, sender: int, why: str) -> None:
        """`sender` has said goodbye."""

    def _pollers(self) -> zmq.Poller:
        return self._poller

    def _run(self) -> None:
        wake_at = -math.inf  # a clock may be negative
        try:
            while not self._closing.is_set() and not self._over():
                wait = min(max(wake_at - self._clock(), 0.0), _LONGEST_SLEEP)
                ready: dict[object, int] = dict(self._pollers().poll(int(1000 * wait) + 1))
                with contextlib.suppress(BlockingIOError):
                    self._awake.recv(4096)
                # Before what has arrived: what was said until now is not for whoever answers next.
                self._take_requests()
                self._serve(ready)
                if self._over():
                    break
                now = self._clock()
                wake_at = min(self._tick(now), self._send_key_requests(now))
                self._tell_of_overs()
                self._link = self._describe()
                if now >= self._count_at:
                    self._count_at = now + _COUNTING
                    self._count(now)
            self._audible = False
            if self._closing.is_set():
                self._tell_all(wire.Bye(self._farewell), self._clock())
                self._change(CallState.ENDED, self._farewell)
        except SottoError as error:
            self._fail(str(error))
        except Exception as error:  # whoever waits for events must learn of it, whatever it is
            text = " ".join(str(error).split())
            self._fail(f"internal error: {type(error).__name__}: {text}")
        finally:
            self._audible = False
            self._release()

    def _take_requests(self) -> None:
        while self._keys_asked:
            self._key_requests.want(self._keys_asked.popleft())
        while self._keys_verified:
            key = self._keys_verified.popleft()
            for participant in self._participants.values():
                if participant.key == key:
                    self._see_verified(participant, True)
        while self._outgoing:
            said = self._outgoing.popleft()
            if isinstance(said, _OverEnded):
                for kept, _ in self._places():
                    kept.end(said.over, said.ended)
                continue
            item = replace(said, party=self._party)
            if isinstance(item, Outgoing):
                self._queue(item)
                continue
            if isinstance(item, wire.Recording):
                self._recording = item.on
                self._tell_recording(item, self._clock())
                continue
            if isinstance(item, wire.Preset):
                self._preset = item.preset
            if not self._tell_all(item, self._clock()) and isinstance(item, wire.Text):
                self._notice("warning", "the line of text has not reached everybody")

    def _queue(self, item: Outgoing, but: Session | None = None) -> None:
        """Send a packet on all connections, now or soon."""
        sessions = self._sessions()
        self._dropped += not sessions and item.over is None
        if item.over is not None:
            for kept, session in self._places():
                kept.say(item.over, item.number, item.packet)
                if session is None:
                    kept.dropped(item.number)
        for session in sessions:
            if session is not but:
                session.queue(item, self._clock())

    def _tell_all(self, message: wire.Message, now: float, but: Session | None = None) -> bool:
        """Say something on all connections; False if one is full, or there are none."""
        said = [session.say(message, now) for session in self._sessions() if session is not but]
        return bool(said) and all(said)

    def _tell_recording(
        self, message: wire.Recording, now: float, but: Session | None = None
    ) -> None:
        for session in self._sessions():
            if session is not but:
                session.tell(message, now)

    def _send_key_requests(self, now: float) -> float:
        """Ask for key packets; returns when that is next due."""
        for party in self._key_requests.due(now):
            if party in self._participants:
                self._request_key(party)
        return self._key_requests.next_at()

    def _tell_of_overs(self) -> None:
        """Tell people what has become of what they said."""
        for kept, _ in self._places():
            for text in kept.news:
                self._notice("info", text)
            kept.news.clear()

    def _count(self, now: float) -> None:
        """Look how much has gone over the network."""
        found = [s.traffic.total(now, s.remote.round_trip) for s in self._sessions()]
        sent, received = zip(self._ip_bytes_before, *found, strict=True)
        self._ip_bytes = sum(sent), sum(received)

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # full, or closed when the thread has just ended
            self._wake.send(b"\0")

    def _release(self) -> None:
        self._context.destroy(linger=None if self._started else 0)
        self._awake.close()
        self._wake.close()

    # --- for both kinds -----------------------------------------------------------------------

    def _over(self) -> bool:
        return self._state is not None and self._state.over

    def _change(self, state: CallState, reason: str) -> None:
        if state is not self._state and not self._over():
            self._link = self._describe()  # never behind what the events say
            self._state = state
            self._events.put(StateChanged(state, reason))

    def _fail(self, reason: str) -> None:
        """End for a fault of our own, and tell both sides, but only ours what it is.

        Must not fail itself.
        """
        self._audible = False
        if not self._over():
            self._state = CallState.FAILED
            self._events.put(StateChanged(CallState.FAILED, reason))
            with contextlib.suppress(Exception):
                self._tell_all(wire.Bye(FAULT), math.nan)  # the clock may be why

    def _notice(self, level: str, text: str, kind: str = "", *, unknown: bool = False) -> None:
        """Add a line to the log, unless somebody fills it.

        kind: see `Notice`; unknown: an unknown peer has caused it.
        """
        if self._notice_limits[unknown].allow(self._clock()):
            self._events.put(Notice(level, text, kind))

    def _describe(self) -> Link:
        sessions = self._sessions()
        trips = [trip for s in sessions if (trip := s.remote.round_trip) is not None]
        return Link(
            peer=self._peer(),
            secured=self._security.secured and bool(sessions),
            own_fingerprint=self._security.own_fingerprint,
            round_trip=max(trips, default=None),
            clock_offset=sessions[0].remote.offset if sessions else None,
            reconnections=self._reconnections,
            strangers=self._unknown_peers,
            dropped=self._dropped + sum(s.dropped for s in sessions),
            kept=max((kept.seconds for kept, _ in self._places()), default=0.0),
        )

    def _reject(self, party: int) -> None:
        self._rejections = {**self._rejections, party: self._rejections.get(party, 0) + 1}

    def _joined(self, p: Participant, *, agreed: bool) -> None:
        self._events.put(
            Joined(
                p.party,
                p.name,
                p.preset,
                p.fingerprint,
                agreed,
                local=p.local,
                code=p.code,
                verified=p.verified,
            )
        )
        self._events.put(KeyWanted(p.party))  # it has heard nothing yet, or missed something

    def _trust(self, record: Callable[[str], Peer], key: str) -> bool:
        """Trust on first use: record a key whose owner has proved to have it, if that works."""
        try:
            peer = record(key)
        except SottoError as error:
            self._notice("error", str(error))
            return False
        role = "to call us" if peer.role is Role.CALLER else "when we call"
        text = f"the new key {fingerprint(key)} is now trusted {role}, as {peer.name}"
        self._events.put(Notice("warning", text))  # of these there are few, and none may be missed
        return True

    def _revoked(self, now: float) -> list[str]:
        """Keys in the call that have been taken out of the known peers."""
        return self._trust_watch.revoked(now, self._trusted_keys)

    def _see_verified(self, participant: Participant, verified: bool) -> None:
        """Whether a person has made sure of a party's key; only of those at the other end."""
        if participant.code and participant.verified != verified:
            participant.verified = verified
            self._events.put(Verified(participant.party, verified))

    def _trusted_keys(self) -> Collection[str] | None:
        """The keys that the known peers trust for our part in a call, None if they are damaged.

        Another program may meanwhile have noted there that a key is verified, or is no more.
        """
        try:
            verified = {peer.key: peer.verified for peer in self._trusted_peers()}
        except SottoError as error:
            if not self._peers_damaged:
                self._peers_damaged = True
                self._notice("error", f"no key can be looked up: {error}")
            return None
        self._peers_damaged = False
        for participant in self._participants.values():
            if participant.key in verified:
                self._see_verified(participant, verified[participant.key])
        return verified.keys()

    def _end_session(self, session: Session) -> None:
        """Forget a connection; what waited for it is dropped."""
        session.discard()
        self._dropped += session.dropped
        sent, received = session.traffic.total(self._clock(), session.remote.round_trip)
        self._ip_bytes_before = self._ip_bytes_before[0] + sent, self._ip_bytes_before[1] + received

    # --- messages of a connection in talk -----------------------------------------------------

    def _hear(self, sender: int, session: Session, data: bytes, now: float) -> bool:
        """Take a message; False if it is rejected. sender: the party at the connection's end."""
        try:
            message = session.receive(data, now)
        except Exception:  # nothing that a peer sends ends the call, whatever we make of it
            self._reject(sender)
            return False
        self._received_bytes += envelope(len(data), self._security.secured)
        if isinstance(message, wire.Bye):
            self._hung_up(sender, wire.clipped(message.reason) or "hung up")
            return True
        if isinstance(message, (wire.Audio, wire.Preset, wire.Text, wire.Recording, wire.Late)):
            speaker = self._speaker(sender, message.party)
            if speaker is not None:
                if isinstance(message, wire.Audio):
                    return self._take_audio(speaker, session, message, now) is not None
                if isinstance(message, wire.Late):
                    return self._take_late(speaker, session, message, now)
                if isinstance(message, wire.Text):
                    if self._take_text(speaker, message, now) is not None:
                        return True
                elif speaker.changes.take(1.0, now):
                    if isinstance(message, wire.Preset):
                        self._take_preset(speaker, message)
                    elif message.on != bool(speaker.recording):
                        self._take_recording(speaker, message, now)
                    return True
        elif isinstance(message, wire.Heartbeat):
            return True
        elif isinstance(message, wire.Got):
            if session.take_answer(message, now):
                return True
        elif isinstance(message, wire.KeyWanted):
            if self._take_key_request(sender, message.party, now):
                return True
        elif self._take_news(message, now):
            return True
        self._reject(sender)
        return False

    def _take_news(self, message: wire.Message, now: float) -> bool:
        """Take what only one kind of endpoint understands; False if we do not."""
        return False

    def _take_key_request(self, sender: int, party: int, now: float) -> bool:
        """Somebody wants a key packet; False unless `party`, by its number on the wire, is us."""
        if party != self._party:
            return False
        limit = self._key_limits.setdefault(sender, RateLimit(_KEYS_TAKEN, _KEYS_TAKEN * KEY_PAUSE))
        if limit.allow(now):
            self._events.put(KeyWanted(sender))
        return True

    def _take_audio(
        self, speaker: Participant, session: Session, audio: wire.Audio, now: float
    ) -> Outgoing | None:
        """Report a packet; returns it as it may be passed on, None if it is rejected."""
        captured = session.captured(audio, now)
        untimely = captured is not None and not now - _LATE < captured < now + _EARLY
        if (
            untimely
            or not speaker.window.check(audio.number)
            or not speaker.allowance.take(wire.packet_steps(audio.packet), now)
        ):
            self._reject(speaker.party)
            return None
        number, packet = audio.number, audio.packet
        if audio.capture is not None:
            speaker.capture = audio.capture
        delay = wire.capture_seconds(speaker.capture)
        self._events.put(AudioArrived(speaker.party, number, packet, captured, now, delay))
        return Outgoing(speaker.party, number, captured, packet, now, speaker.capture)

    def _take_late(
        self, speaker: Participant, session: Session, late: wire.Late, now: float
    ) -> bool:
        """Take a packet of an over that was said a while ago; False if it is rejected."""
        try:
            overs = speaker.arriving.take(late, speaker.party, now)
        except BadStream:
            self._reject(speaker.party)
            return False
        session.answer(wire.Got(late.party, late.over, speaker.arriving.got(late.over)))
        for over in overs:
            self._take_over(speaker, over)
        return True

    def _take_over(self, speaker: Participant, over: Over) -> None:
        """An over has come to its end, late."""
        self._events.put(OverArrived(over))

    def _forget(self, participant: Participant) -> None:
        """A party is gone for good: what has come of its over, and what never reached it."""
        for over in participant.arriving.finish(participant.party):
            self._take_over(participant, over)
        if seconds := participant.kept.give_up():
            name = participant.shown or "the other side"
            self._notice("warning", f"{seconds:.0f} s of what you said have never reached {name}")

    def _take_preset(self, speaker: Participant, message: wire.Preset) -> None:
        speaker.preset = wire.clipped(message.preset)
        self._events.put(PresetChanged(speaker.party, speaker.preset))
        text = f"{speaker.shown or 'the other side'} now uses {speaker.preset}"
        self._notice("info", text, f"preset {speaker.party % wire.PARTIES}")

    def _take_recording(self, speaker: Participant, message: wire.Recording, now: float) -> None:
        """A party begins to record, or does so no more."""
        speaker.recording = message.on
        self._events.put(RecordingChanged(speaker.party, message.on))

    def _take_text(self, speaker: Participant, message: wire.Text, now: float) -> wire.Text | None:
        """Report a line; returns it as it may be passed on, None if it is rejected."""
        limit = self._text_limits.setdefault(message.party, text_allowance())
        text = wire.clipped(message.text, wire.MAX_TEXT)
        if not limit.take(1.0, now) or not text:
            return None
        self._events.put(TextArrived(speaker.party, text))
        return wire.Text(speaker.party, text)

    # --- sockets ------------------------------------------------------------------------------

    def _configure(self, end: Socket) -> None:
        """Small buffers: what cannot be sent now is worthless soon."""
        end.linger = FAREWELL_MS
        end.sndhwm = end.rcvhwm = _HIGH_WATER
        end.sndbuf = end.rcvbuf = _KERNEL_BYTES
        end.maxmsgsize = wire.MAX_MESSAGE + (CURVE_BYTES if self._security.secured else 0)
        end.handshake_ivl = _HANDSHAKE_MS
        end.ipv6 = True
        end.tcp_keepalive = 1
        end.tcp_keepalive_idle = 10
        end.tcp_keepalive_intvl = 5
        end.tcp_keepalive_cnt = 3

    def _new_session(
        self,
        number: int,
        transmit: Callable[[bytes], bool],
        descriptor: int | None,
        now: float,
        kept: Kept,
    ) -> Session:
        """A connection comes into talk. descriptor: of its TCP socket, if that is known."""
        secured = self._security.secured
        session = None if secured else number
        return Session(session, self._link_clock, transmit, now, Traffic(secured, descriptor), kept)


def descriptor_of(frame: zmq.Frame) -> int | None:
    """The file descriptor of the connection that a message came by, None if it is not known."""
    try:
        return int(frame.get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError):
        return None


def arrived(end: Socket, most: int) -> Iterator[list[zmq.Frame]]:
    """The messages that have come, at most so many; never blocks."""
    for _ in range(most):
        try:
            frames = end.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        yield frames


def watch(context: zmq.Context[Socket], watched: Socket, events: int) -> Socket:
    """The monitor of `watched`, under an address of its own."""
    # pyzmq's own helper names it by a file descriptor, which may be in use again.
    address = f"inproc://monitor-{next(_monitors)}"
    watched.monitor(address, events)
    monitor = context.socket(zmq.PAIR)
    monitor.linger = 0
    monitor.connect(address)
    return monitor


def monitored(monitor: Socket) -> list[tuple[int, int]]:
    """(event, value) as they have come, at most some; never blocks."""
    found = [
        parse_monitor_message([frame.bytes for frame in frames])
        for frames in arrived(monitor, _MONITORED)
    ]
    return [(int(event["event"]), int(event["value"])) for event in found]
