"""The calling end of the voice link."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Callable
from functools import partial
from socket import create_connection

import zmq

from codec.errors import SottoError, WrongVersion
from stream.link import wire
from stream.link.address import Address, look_up
from stream.link.allowance import Allowance
from stream.link.authentication import FAILURES, Security, secure_caller
from stream.link.clock import seconds
from stream.link.endpoint import (
    FAREWELL_MS,
    SAME_MODEL,
    Endpoint,
    Socket,
    arrived,
    descriptor_of,
    monitored,
    watch,
)
from stream.link.events import CallState, Left, Offer
from stream.link.keys import fingerprint, key_text
from stream.link.overs import Kept
from stream.link.peers import Peer
from stream.link.session import (
    NEWS_BURST,
    NEWS_SECONDS,
    Participant,
    ReplayWindow,
    Session,
    news_allowance,
)
from stream.link.traffic import envelope

GIVE_UP = 30.0
_PARTY_NUMBERS = wire.PARTIES  # another listener that answers in one's place gets the next ones
_LEAST_CONNECT = 0.3  # seconds for a TCP connection to where one was before
_PATIENT = 8  # every so many attempts, one is given four times as long: the way may be another now
_FIRST_CONNECT = 1.5
_LEAST_HANDSHAKE = 1.0
_LONGEST_ATTEMPT = 6.0
_GROWTH = 1.5
_PAUSE = 0.25  # seconds between an attempt that failed and the next
_FAILED_HANDSHAKES = 2  # of the same kind, before the first talk, that are an answer
_INTRODUCTION = 1.5  # seconds for a connection, and for an answer
_ASKING = 0.05  # seconds between looks at whether the call has been given up
_KEY_BYTES = len(wire.encode(wire.Key(bytes(32))))
_REANNOUNCED = 3.0  # seconds: who is still in the room has been named again by then
_PER_ROUND = 64


class Caller(Endpoint):
    """Calls `host`, and calls again whenever the connection is lost.

    give_up: seconds after which a first connection that does not come about has FAILED; a lost one
    is tried again until `close`. `start` raises SottoError if the host is unknown, if its key is
    and `security` does not say to trust it, or if it is beyond this machine and there are no keys.
    """

    def __init__(
        self,
        host: str,
        port: int,
        offer: Offer,
        security: Security,
        *,
        give_up: float = GIVE_UP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(offer, security, clock)
        self._address = Address(host, port)
        self._give_up = give_up
        self._nonce = secrets.token_bytes(8)
        self._attempts = 0
        self._found: list[Address] = []
        self._listener_key = ""
        self._introduced = False  # the key is known from an introduction only
        self._socket: Socket | None = None
        self._monitor: Socket | None = None
        self._connected_at: float | None = None
        self._handshaken = False
        self._attempt_began = self._deadline = self._next_attempt = -math.inf
        self._connect_growth = self._handshake_growth = 1.0
        self._round_trip: float | None = None
        self._failures: dict[str, int] = {}
        self._trouble = ""
        self._session: Session | None = None
        self._kept = Kept()  # what the listener has not got of our overs
        self._instance = b""
        self._talks = news_allowance()  # connections that came into talk, soon after each other
        # Who comes and goes: as much as a hub takes of seven others.
        self._news = Allowance(7.0 / NEWS_SECONDS, 7.0 * NEWS_BURST)
        self._base = -_PARTY_NUMBERS
        self._sweep_at: float | None = None
        self._began = clock()

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        self._found = look_up(self._address)
        self._security.check_reach(self._found, "call")
        security = self._security
        if security.secured:
            known = security.known.listener_at(self._address.host, self._address.port)
            self._listener_key = security.peer_key or (known.key if known is not None else "")
            if security.peer_key is None and known is not None:
                self._trust_watch.watch(known.key)
            if not self._listener_key and not security.trust_new:
                raise SottoError(
                    f"the key of {self._address} is not known: give it with --peer-key, or accept "
                    "the one it shows with --trust-new"
                )
        self._began = self._clock()
        self._link = self._describe()
        self._change(CallState.CONNECTING, f"calling {self._address}")

    def unreached(self) -> str:
        if self._state is not CallState.CONNECTING:
            return ""
        return f"cannot reach {self._address}: {self._trouble or 'nobody answers'}"

    # --- the I/O thread -----------------------------------------------------------------------

    def _serve(self, ready: dict[object, int]) -> None:
        # Messages first: what was said before a connection closed still counts.
        if self._socket is not None and self._socket in ready:
            self._receive(self._socket)
        if self._monitor is not None and self._monitor in ready:
            for event, value in monitored(self._monitor):
                if self._monitor is None or self._over():
                    return
                self._happened(event, value, self._clock())

    def _receive(self, socket: Socket) -> None:
        for frames in arrived(socket, _PER_ROUND):
            now = self._clock()
            if len(frames) != 1:
                self._reject(self._base + wire.HUB)
            elif self._session is None:
                self._answered(socket, frames[0], now)
            else:
                self._hear(self._base + wire.HUB, self._session, frames[0].bytes, now)
            if self._socket is not socket or self._over():
                return

    def _tick(self, now: float) -> float:
        session = self._session
        if self._revoked(now):
            why = f"the key of {self._listener_name()} is not among the known peers any more"
            self._tell_all(wire.Bye(wire.clipped(why)), now)
            self._hung_up(self._base + wire.HUB, why)
            return now
        if session is not None:
            if why := session.dead(now):
                self._lose(now, why)
                return now
            wake_at = session.tick(now)
            if self._sweep_at is not None and now >= self._sweep_at:
                self._sweep()
            self._round_trip = session.remote.round_trip or self._round_trip
            self._measure(session)
            return wake_at
        if self._state is CallState.CONNECTING and now - self._began > self._give_up:
            self._change(CallState.FAILED, self.unreached())
            return now
        if self._socket is not None:
            if now < self._deadline:
                return self._deadline
            if self._connected_at is None:
                self._trouble = self._trouble or "nobody answers"
                self._connect_growth = min(self._connect_growth * _GROWTH, 4.0)
            else:
                self._trouble = "connected, but no answer comes: it may be ringing there"
                self._handshake_growth = min(self._handshake_growth * _GROWTH, 6.0)
            self._drop_socket()
            self._next_attempt = now
        if now >= self._next_attempt:
            self._attempt(now)
        return self._deadline if self._socket is not None else self._next_attempt

    # --- connecting ---------------------------------------------------------------------------

    def _attempt(self, now: float) -> None:
        """Open a new connection: TCP's own retransmissions would take ever longer."""
        security = self._security
        if security.secured and not self._listener_key and not self._ask_for_key():
            self._next_attempt = self._clock() + _PAUSE
            return
        now = self._clock()
        self._attempts += 1
        address = self._next_address()
        socket = self._dealer()
        if security.keys is not None:
            secure_caller(socket, security.keys, self._listener_key)
        events = (
            FAILURES
            | zmq.EVENT_CONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CLOSED
        )
        self._socket, self._monitor = socket, watch(self._context, socket, events)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._connected_at, self._handshaken = None, False
        self._attempt_began = now
        self._deadline = now + self._connect_patience()
        socket.connect(f"tcp://{address}")
        model, name, room = self._offer.model_id, self._offer.name, self._offer.room
        hello = wire.Hello(model, self._preset, name, room, self._nonce, self._attempts)
        self._transmit(wire.encode(hello))

    def _next_address(self) -> Address:
        return self._found[self._attempts % len(self._found) - 1]

    def _dealer(self) -> Socket:
        socket = self._context.socket(zmq.DEALER)
        self._configure(socket)
        socket.linger = 0
        socket.reconnect_ivl = -1
        return socket

    def _connect_patience(self) -> float:
        """Seconds for TCP's handshake, one round trip, on a link known or not yet known."""
        if self._round_trip is not None:
            patience = max(_LEAST_CONNECT, 2.5 * self._round_trip)
            patience *= 1 if self._attempts % _PATIENT else 4
            return min(patience, _LONGEST_ATTEMPT)
        return min(_FIRST_CONNECT * self._connect_growth, _LONGEST_ATTEMPT)

    def _happened(self, event: int, value: int, now: float) -> None:
        """What libzmq's monitor says of the present socket."""
        if event == zmq.EVENT_CONNECTED:
            self._connected_at = now
            self._connect_growth = 1.0
            # ZMTP's and CURVE's handshakes and ours take five round trips.
            trip = self._round_trip or now - self._attempt_began
            patience = max(_LEAST_HANDSHAKE, 8.0 * trip) * self._handshake_growth
            self._deadline = now + min(patience, _LONGEST_ATTEMPT)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._handshaken = True
            self._failures.clear()
        elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
            if self._session is not None:
                self._lose(now, "the connection was closed")
                return
            if self._connected_at is None:
                self._trouble = "nobody answers"
            elif not self._handshaken and not self._failures:
                self._handshake_failed("dropped", now)
                return
            self._retry(now)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused(
                f"the listener does not know our key {self._security.own_fingerprint}: "
                "it has to add it to its known peers"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            mismatch = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
            self._handshake_failed("mechanism" if mismatch else "foreign", now)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._handshake_failed("dropped", now)

    def _handshake_failed(self, kind: str, now: float) -> None:
        """A listener that hangs up in the middle: why, as far as can be told from here."""
        secured = self._security.secured
        if kind == "mechanism":
            why = "the listener uses no keys" if secured else "the listener requires a key"
        elif kind == "dropped" and secured:
            why = (
                f"the key of {self._address} is not the expected one, "
                f"{fingerprint(self._listener_key)}: it has changed, somebody else answers, or the "
                "listener uses no keys"
            )
        elif kind == "dropped":
            why = f"{self._address} hangs up: it requires a key, or does not speak this protocol"
        else:
            why = f"what answers at {self._address} does not speak this protocol"
        self._trouble = why
        self._failures[kind] = self._failures.get(kind, 0) + 1
        # While a call is interrupted, half-dead networks hang up too: only time tells.
        first = self._state is CallState.CONNECTING
        if first and (kind == "mechanism" or self._failures[kind] >= _FAILED_HANDSHAKES):
            self._refused(why)
        else:
            self._retry(now)

    def _retry(self, now: float) -> None:
        self._drop_socket()
        self._next_attempt = now + _PAUSE

    def _refused(self, why: str) -> None:
        self._drop_socket()
        self._change(CallState.REFUSED, why)

    def _drop_socket(self) -> None:
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            for socket in (self._socket, self._monitor):
                self._poller.unregister(socket)
                socket.close(0)
        self._socket = self._monitor = None

    def _ask_for_key(self) -> bool:
        """Ask the listener for its key; whether it said it."""
        address = self._next_address()
        self._listener_key = self._introduced_key(address)
        if self._listener_key:
            self._introduced = True
            return True
        self._attempts += 1  # the next address, if there are several
        self._trouble = (
            f"no key is shown at {address}: nobody is there, or the listener takes no new "
            "callers; then give its key with --peer-key"
        )
        return False

    def _introduced_key(self, address: Address) -> str:
        """The public key that is told at an address before ZMTP is spoken, "" if none is."""
        deadline = self._clock() + _INTRODUCTION
        answer = b""
        try:
            place = address.host, address.port
            with create_connection(place, _INTRODUCTION) as asking:
                asking.settimeout(_ASKING)
                asking.sendall(wire.encode(wire.Who()))
                while len(answer) < _KEY_BYTES and self._clock() < deadline:
                    if self._closing.is_set():
                        return ""
                    with contextlib.suppress(TimeoutError):
                        more = asking.recv(_KEY_BYTES - len(answer))
                        if not more:
                            return ""
                        answer += more
            message = wire.decode(answer)[1]
        except (OSError, SottoError):
            return ""  # not an introduction
        return key_text(message.key) if isinstance(message, wire.Key) else ""

    # --- the handshake ------------------------------------------------------------------------

    def _answered(self, socket: Socket, frame: zmq.Frame, now: float) -> None:
        """The first message of a connection: WELCOME or REFUSE."""
        data = frame.bytes
        try:
            session, message = wire.decode(data)
        except WrongVersion as error:
            self._refused(str(error))
            return
        except SottoError as error:
            self._trouble = f"cannot understand the listener's answer: {error}"
            self._retry(now)
            return
        if isinstance(message, wire.Refuse):
            self._refused(wire.clipped(message.reason) or "the listener refuses the call")
        elif not isinstance(message, wire.Welcome) or session == 0:
            self._trouble = "cannot understand the listener's answer"
            self._retry(now)
        elif message.model_id != self._offer.model_id:
            self._refused(
                f"the listener's model is {message.model_id}, ours {self._offer.model_id}: "
                f"{SAME_MODEL}"
            )
        else:
            self._received_bytes += envelope(len(data), self._security.secured)
            socket.linger = FAREWELL_MS
            descriptor = descriptor_of(frame)
            found = self._new_session(session, self._transmit, descriptor, now, self._kept)
            self._welcomed(found, message, now)

    def _welcomed(self, session: Session, welcome: wire.Welcome, now: float) -> None:
        again = self._state is CallState.RECONNECTING
        self._session = session
        self._party = welcome.party
        if welcome.instance != self._instance and not self._security.secured:
            self._give_up_kept()  # who knows who that is
        self._kept.move(welcome.party)
        self._handshake_growth = 1.0
        self._failures.clear()
        if self._introduced:
            self._introduced = False
            known = self._security.known
            if self._trust(partial(known.record_listener, self._address), self._listener_key):
                self._trust_watch.watch(self._listener_key)
        gone: list[int] = []
        changed = welcome.instance != self._instance
        if changed:
            # Another listener process: its voices and clock have begun anew.
            self._instance = welcome.instance
            self._preset = wire.clipped(welcome.preset)
            self._base += _PARTY_NUMBERS
            gone = list(self._participants)
            for participant in self._participants.values():
                self._forget(participant)
            self._participants = {}
        elif again:
            self._sweep_at = now + _REANNOUNCED
            for participant in self._participants.values():
                participant.unconfirmed = True
                participant.window = ReplayWindow()
        self._reconnections += again
        joined = wire.PartyJoined(wire.HUB, wire.NO_KEY, welcome.preset, welcome.name)
        self._join(joined, self._listener_key, agreed=changed)
        for party in gone:
            self._events.put(Left(party, "the listener was restarted"))
        if not changed and wire.clipped(welcome.preset) != self._preset:
            # Changed since that HELLO was sent.
            session.say(wire.Preset(self._party, self._preset), now)
        if self._recording is not None:
            session.tell(wire.Recording(self._party, self._recording), now)
        self._audible = True
        name = self._participants[self._base + wire.HUB].shown or str(self._address)
        self._change(CallState.TALKING, f"{name} is back" if again else f"connected to {name}")

    # --- talking ------------------------------------------------------------------------------

    def _speaker(self, sender: int, party: int) -> Participant | None:
        return self._participants.get(self._base + party)

    def _take_news(self, message: wire.Message, now: float) -> bool:
        news = isinstance(message, (wire.PartyJoined, wire.PartyLeft))
        if news and not self._news.take(1.0, now):
            return False
        if isinstance(message, wire.PartyJoined):
            if message.party in (wire.HUB, self._party) or message.party >= _PARTY_NUMBERS:
                return False
            self._join(message, "" if message.key == wire.NO_KEY else key_text(message.key))
            return True
        if not isinstance(message, (wire.PartyLeft, wire.Delay)):
            return False
        party = self._base + message.party
        participant = self._participants.get(party)
        if participant is None:
            return False
        if isinstance(message, wire.Delay):
            participant.delay = seconds(message.microseconds)
        elif message.party != wire.HUB:
            self._remove(party, wire.clipped(message.reason))
        return True

    def _join(self, joined: wire.PartyJoined, key: str, *, agreed: bool = False) -> None:
        party = self._base + joined.party
        name, preset = (
            wire.clipped(joined.name),
            wire.clipped(joined.preset),
        )
        participant = self._participants.get(party)
        if participant is None or (participant.key, participant.name) != (key, name):
            if participant is not None:
                self._remove(party, "replaced by somebody else")
            participant = self._participants[party] = Participant(party, name, key, preset)
        participant.preset, participant.unconfirmed = preset, False
        if joined.party == wire.HUB:
            participant.delay = 0.0
            self._recognise(participant)
        self._joined(participant, agreed=agreed)

    def _recognise(self, listener: Participant) -> None:
        """Look up what the listener is called here."""
        known = self._known_listener()
        listener.local = self._listener_name()
        listener.verified = known is not None and known.verified
        listener.code = listener.code or self._security.code_with(listener.key)

    def _known_peer(self, participant: Participant) -> Peer | None:
        at_the_other_end = participant.party == self._base + wire.HUB
        return self._known_listener() if at_the_other_end else None

    def _known_listener(self) -> Peer | None:
        known = self._security.listener_at(self._address.host, self._address.port)
        return known if known and known.key == self._listener_key else None

    def _listener_name(self) -> str:
        """What the listener is called here; where it is, if it has only proved to have its key."""
        if not self._security.secured:
            return ""
        known = self._known_listener()
        return str(self._address) if known is None else known.name

    def _remove(self, party: int, why: str) -> None:
        self._forget(self._participants.pop(party))
        self._key_requests.forget(party)
        self._events.put(Left(party, why))

    def _give_up_kept(self) -> None:
        if seconds := self._kept.give_up():
            text = f"{seconds:.0f} s of what you said have never reached the other side"
            self._notice("warning", text)

    def _sweep(self) -> None:
        """Forget who left the room while we were away."""
        self._sweep_at = None
        for participant in list(self._participants.values()):
            if participant.unconfirmed:
                self._remove(participant.party, "left while the connection was lost")

    def _measure(self, session: Session) -> None:
        way = session.remote.one_way
        self._delays = {
            p.party: way + p.delay
            for p in self._participants.values()
            if way is not None and p.delay is not None
        }

    def _lose(self, now: float, why: str) -> None:
        if self._session is not None:
            self._end_session(self._session)
        self._session = None
        self._audible = False
        self._drop_socket()
        # At once, but not for ever where a listener keeps letting us in and hanging up.
        self._next_attempt = now + self._talks.owe(1.0, now)
        self._change(CallState.RECONNECTING, why)

    def _trusted_peers(self) -> list[Peer]:
        found = self._security.known.listener_at(self._address.host, self._address.port)
        return [] if found is None else [found]

    def _hung_up(self, sender: int, why: str) -> None:
        self._audible = False
        self._give_up_kept()
        for party in list(self._participants):
            self._remove(party, why)
        self._change(CallState.ENDED, why)

    # --- sending ------------------------------------------------------------------------------

    def _transmit(self, data: bytes) -> bool:
        """Send to the listener; False if the connection is full or closing."""
        if self._socket is None:
            return False
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        self._sent_bytes += envelope(len(data), self._security.secured)
        return True

    def _request_key(self, party: int) -> None:
        if self._session is not None:
            self._session.say(wire.KeyWanted(party - self._base), self._clock())

    def _peer(self) -> str:
        return str(self._address)

    def _places(self) -> list[tuple[Kept, Session | None]]:
        return [(self._kept, self._session)] if self._participants else []

    def _sessions(self) -> list[Session]:
        return [] if self._session is None else [self._session]
