"""The listening end of the voice link: one call, or the hub of a room."""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import zmq

from codec.errors import BadInput, SottoError, WrongVersion
from stream.link import wire
from stream.link.address import Address, look_up, parse_address
from stream.link.allowance import Allowance
from stream.link.authentication import (
    FAILURES,
    Authenticator,
    NewKeys,
    RateLimit,
    Security,
    secure_listener,
)
from stream.link.clock import microseconds
from stream.link.endpoint import (
    SAME_MODEL,
    Endpoint,
    Socket,
    arrived,
    descriptor_of,
    monitored,
    watch,
)
from stream.link.events import CallState, Left, Link, Offer, RingOver, Rings
from stream.link.keys import fingerprint, key_bytes
from stream.link.overs import Kept, Over
from stream.link.peers import Peer, Role, shown_name
from stream.link.proxy import Introduction, Proxy
from stream.link.ringing import Answer, Doorbell, Verdict
from stream.link.session import (
    Outgoing,
    Participant,
    ReplayWindow,
    Session,
    news_allowance,
)
from stream.link.traffic import envelope

PATIENCE = 120.0
MAX_PARTIES = 8
_LONGEST_HELLO = 160
_PER_ROUND = 64  # messages taken before timers are looked at
_WASTED_PER_ROUND = 32
_COOLDOWN = 0.01  # seconds without reading after that many messages of no use
_DELAY_INTERVAL = 5.0
_SILENT = 1.5  # seconds: a caller with the key of a party this silent is that party, restarted
_LAST_WORDS = 0.5  # seconds in which what came by a closed connection is read
_ARRIVALS_KEPT = 256  # keys
_OPEN_RATE, _OPEN_BURST = 7.0, 64.0  # arrivals of callers without keys, all together
_NOT_TAKEN = "the listener does not take the call"
_UNKNOWN_KEY = "your key is not among the listener's known peers"


class Listener(Endpoint):
    """Waits for a call, or, with `room`, is the hub of up to `max_parties` - 1 callers.

    bind: HOST[:PORT], `*` for every interface, port 0 for any free one (see `port` after `start`);
    patience: seconds a lost party may take to come back before it has Left. `start` raises
    SottoError if the address cannot be bound, or must not be without keys.
    """

    def __init__(
        self,
        bind: str,
        offer: Offer,
        security: Security,
        *,
        room: bool = False,
        max_parties: int = MAX_PARTIES,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(offer, security, clock)
        self._bind = parse_address(bind)
        if not 2 <= max_parties <= MAX_PARTIES:
            raise BadInput(f"a room has 2 to {MAX_PARTIES} parties, not {max_parties}")
        self._room = room
        self._max_parties = max_parties if room else 2
        self._patience = patience
        self._instance = secrets.token_bytes(8)
        self._routes: dict[bytes, Participant] = {}
        self._retired: deque[bytes] = deque(maxlen=64)
        self._closed_since: dict[bytes, float] = {}  # routes that nothing can be sent to any more
        self._refusals = RateLimit(10, 1.0)
        self._arrivals: dict[str, Allowance] = {}  # by key: how often each may come, and come back
        self._quiet = zmq.Poller()
        self._quiet_until = -math.inf
        self._next_delays = -math.inf
        self._router: Socket
        self._monitor: Socket | None = None
        self._authenticator: Authenticator | None = None
        self._proxy: Proxy  # once there is a port
        self._distrusted: set[str] = set()  # keys taken out of the known peers since we began
        self._new_keys = NewKeys(security.trust_most if security.trust_new else 0)
        self._trusted_unrecorded: set[str] = set()  # new keys that could not be written down
        self._accepted: set[str] = set()  # keys that a person has let in for this call alone
        self._doorbell = Doorbell()
        self._waiting: tuple[bytes, zmq.Frame, wire.Hello] | None = None  # who rings, or may enter
        self._rings: Rings | None = None  # what has been said of who rings
        self.port = 0  # the TCP port we are bound to, once started

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        found = look_up(self._bind)[0]
        self._security.check_reach([found], "listen on")
        self._router = self._context.socket(zmq.ROUTER)
        self._configure(self._router)
        self._router.router_mandatory = True
        keys = self._security.keys
        if keys is not None:
            self._security.known.peers()  # a damaged file is found out now
            # Before the port is bound: nobody may slip in unasked.
            self._authenticator = Authenticator(self._context, self._admits, self._sent_away)
            secure_listener(self._router, keys)
            self._monitor = watch(
                self._context, self._router, FAILURES & ~zmq.EVENT_HANDSHAKE_FAILED_AUTH
            )
        self._bind_behind_proxy(found)
        self._proxy.start()
        for socket in (self._authenticator and self._authenticator.socket, self._monitor):
            if socket is not None:
                self._poller.register(socket, zmq.POLLIN)
                self._quiet.register(socket, zmq.POLLIN)
        self._quiet.register(self._awake, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._link = self._describe()
        self._change(CallState.WAITING, f"listening on {Address(found.host, self.port)}")

    def _bind_behind_proxy(self, address: Address) -> None:
        """Bind the port, to which anybody may connect, and what is behind it. Raises SottoError."""
        keys, introduction = self._security.keys, None
        if keys is not None and (self._security.trust_new or self._security.ring):
            answer = wire.encode(wire.Key(key_bytes(keys.public)))
            introduction = Introduction(wire.encode(wire.Who()), answer)
        limit = int(self._router.maxmsgsize)
        self._proxy = Proxy(address, limit, introduction=introduction)
        self.port = self._proxy.port
        try:
            self._router.bind(self._proxy.endpoint)
        except zmq.ZMQError as error:
            raise SottoError(f"cannot listen: {zmq.strerror(error.errno or 0)}") from None

    def _release(self) -> None:
        super()._release()
        if self.port:
            self._proxy.close()

    # --- the I/O thread -----------------------------------------------------------------------

    def _pollers(self) -> zmq.Poller:
        return self._quiet if self._clock() < self._quiet_until else self._poller

    def _serve(self, ready: dict[object, int]) -> None:
        if self._authenticator is not None and self._authenticator.socket in ready:
            self._authenticator.serve()
        if self._monitor is not None and self._monitor in ready:
            self._explain(monitored(self._monitor))
        if self._router in ready:
            self._receive()

    def _receive(self) -> None:
        """Take messages, fairly from all connections, but few at a time that are of no use.

        What an unknown peer, or a party, sends too fast waits in its own connection, which then
        stands still.
        """
        wasted = 0
        for frames in arrived(self._router, _PER_ROUND):
            now = self._clock()
            route = frames[0].bytes
            sender = self._routes.get(route)
            if sender is None:
                if not self._take_unknown(route, frames[1:], now):
                    wasted += 1
            elif len(frames) != 2 or sender.session is None:
                self._reject(sender.party)
                wasted += 1
            elif not self._hear(sender.party, sender.session, frames[1].bytes, now):
                wasted += 1
            if wasted >= _WASTED_PER_ROUND:
                self._quiet_until = now + _COOLDOWN
                return

    def _tick(self, now: float) -> float:
        if self._proxy.failure is not None:
            raise SottoError(self._proxy.failure)
        while self._answers:
            self._take_answer(*self._answers.popleft(), now)
        if self._doorbell.given_up(now):
            self._waiting = None
            self._ring_over("the caller has given up")
        for key in self._revoked(now):
            self._distrust(key, now)
        wake_at = now + 1.0
        if self._closed_since:
            self._lose_closed(now)
            wake_at = now + _COOLDOWN
        for participant in list(self._participants.values()):
            session = participant.session
            if session is None:
                until = participant.lost_at + self._patience
                if now > until:
                    self._remove(participant, "the connection was lost")
                wake_at = min(wake_at, max(until, now))
            elif why := session.dead(now):
                self._lose(participant, now, why)
            else:
                wake_at = min(wake_at, session.tick(now))
        if self._room and now >= self._next_delays:
            self._next_delays = now + _DELAY_INTERVAL
            self._tell_delays(now)
        self._delays = {
            p.party: way
            for p in self._participants.values()
            if p.session is not None and (way := p.session.remote.one_way) is not None
        }
        return min(wake_at, self._quiet_until) if self._quiet_until > now else wake_at

    # --- admission ----------------------------------------------------------------------------

    def _take_unknown(self, route: bytes, frames: list[zmq.Frame], now: float) -> bool:
        """Answer the HELLO of somebody not in the call, and nothing else.

        False if the message counts as one of an unknown peer.
        """
        if len(frames) != 1 or len(frames[0]) > _LONGEST_HELLO:
            return self._turn_away()
        data = frames[0].bytes
        if data[:1] != bytes([wire.Type.HELLO]):
            # What was under way on a connection that its owner has given up is no attack.
            return True if route in self._retired else self._turn_away()
        try:
            session, hello = wire.decode(data)
        except WrongVersion as error:
            return self._refuse(route, wire.Refusal.WRONG_VERSION, str(error), now)
        except SottoError:
            return self._turn_away()
        if session != 0 or not isinstance(hello, wire.Hello):
            return self._turn_away()
        key = ""
        if self._security.secured:
            key = str(frames[0].get("User-Id"))
        return self._admit(route, frames[0], hello, key, now)

    def _turn_away(self) -> bool:
        self._unknown_peers += 1
        return False

    def _admit(
        self, route: bytes, frame: zmq.Frame, hello: wire.Hello, key: str, now: float
    ) -> bool:
        """Let a caller in, or tell it why not."""
        if key and not self._admits(key):
            # Its connection is from before its key was taken out of the known peers.
            return self._refuse(route, wire.Refusal.OTHER, _UNKNOWN_KEY, now)
        if hello.model_id != self._offer.model_id:
            why = (
                f"the listener's model is {self._offer.model_id} ({self._preset}), "
                f"the caller's {hello.model_id} ({wire.clipped(hello.preset)}): {SAME_MODEL}"
            )
            return self._refuse(route, wire.Refusal.WRONG_MODEL, why, now)
        for known in self._participants.values():
            if known.key == key and known.nonce == hello.nonce:
                if hello.attempt <= known.attempt:
                    return self._turn_away()  # a recording
                return self._return(known, route, frame, hello, now)
        replaced = self._replaceable(key, now)
        others = len(self._participants) - (replaced is not None)
        if others + 1 >= self._max_parties:
            if self._room:
                why = f"the room is full: {self._max_parties} parties are in it"
                return self._refuse(route, wire.Refusal.ROOM_FULL, why, now)
            return self._refuse(route, wire.Refusal.BUSY, "the listener is in another call", now)
        if replaced is None and key and any(p.key == key for p in self._participants.values()):
            why = "a caller with this key is connected already"
            return self._refuse(route, wire.Refusal.BUSY, why, now)
        new = bool(key) and not self._security.knows_caller(key)
        new = new and key not in self._trusted_unrecorded | self._accepted
        trusted = new and self._may_trust(key, now)
        if new and not trusted and not self._security.ring:
            return self._refuse(route, wire.Refusal.BUSY, "too many new callers at once", now)
        who = key or hello.nonce.hex()
        rang = not trusted and self._has_to_ring(key, new, replaced)
        if rang and not self._ring(route, frame, hello, key, now):
            return False
        party = next(n for n in range(1, MAX_PARTIES + 1) if n not in self._participants)
        preset = self._preset if self._room else wire.clipped(hello.preset)
        newcomer = Participant(party, wire.clipped(hello.name), key, preset)
        newcomer.nonce, newcomer.attempt = hello.nonce, hello.attempt
        if not self._connect(newcomer, route, frame, preset, now):
            if trusted:
                self._new_keys.give_back()
            return self._turn_away()
        if rang and not self._doorbell.enter(who) and new:
            self._accepted.add(key)
            new = False
        self._preset = preset
        self._received_bytes += envelope(len(frame), self._security.secured)
        self._participants[party] = newcomer
        self._rejections = {**self._rejections, party: 0}
        if new and not self._trust(partial(self._security.known.record_caller, newcomer.name), key):
            self._trusted_unrecorded.add(key)
        self._recognise(newcomer)
        self._joined(newcomer, agreed=True)
        self._tell_all(_joined_message(newcomer), now, but=newcomer.session)
        if replaced is not None:
            self._remove(replaced, "called again")
        self._change(CallState.TALKING, f"{newcomer.shown or 'a caller'} is connected")
        return True

    def _may_trust(self, key: str, now: float) -> bool:
        return key not in self._distrusted and self._new_keys.take(now)

    def _has_to_ring(self, key: str, new: bool, replaced: Participant | None) -> bool:
        """Whether a person decides about a caller.

        In a room those who are known come and go as they like, and whose program was started again
        goes on with the call that was accepted.
        """
        if not self._security.ring:
            return False
        if not key:
            return not self._room
        return new or not (self._room or key in self._accepted or replaced is not None)

    def _ring(
        self, route: bytes, frame: zmq.Frame, hello: wire.Hello, key: str, now: float
    ) -> bool:
        """Whether a person has accepted a caller.

        Until then it hears nothing from us, and dials anew now and then.
        """
        known_key = bool(key) and self._security.knows_caller(key)
        verdict = self._doorbell.call(key or hello.nonce.hex(), now, known=known_key)
        if verdict is Verdict.ACCEPTED:
            return True
        if verdict is Verdict.REFUSED:
            self._refuse(route, wire.Refusal.OTHER, _NOT_TAKEN, now)
        elif verdict is Verdict.BUSY:
            self._refuse(route, wire.Refusal.BUSY, "another caller is ringing", now)
        else:
            self._waiting = route, frame, hello
            if verdict is Verdict.RINGS:
                if self._rings is not None:
                    self._ring_over("somebody known calls")
                known = self._security.caller(key) if key else None
                name = shown_name(known.name if known else "", wire.clipped(hello.name))
                print_ = fingerprint(key) if key else ""
                self._rings = Rings(name, print_, known=known_key)
                self._events.put(self._rings)
        return False

    def _ring_over(self, why: str) -> None:
        self._rings = None
        self._events.put(RingOver(why))

    def _take_answer(self, answer: Answer, ringing: Rings | None, now: float) -> None:
        """A person has decided about who rings."""
        if ringing is not None and ringing is not self._rings:
            return  # it was about somebody who has gone
        who = self._doorbell.answer(answer, now)
        waiting, self._waiting = self._waiting, None
        if not who or waiting is None:
            return
        route, frame, hello = waiting
        key = who if self._security.secured else ""
        if answer is Answer.REFUSE:
            self._ring_over("refused")
            self._refuse(route, wire.Refusal.OTHER, _NOT_TAKEN, now)
            return
        self._ring_over("accepted")
        # If this connection has been given up, the caller is let in on its next one.
        self._admit(route, frame, hello, key, now)

    def _recognise(self, participant: Participant) -> None:
        """Look up what a party is called here."""
        known = self._known_peer(participant)
        participant.local = "" if known is None else known.name
        participant.verified = known is not None and known.verified
        participant.code = participant.code or self._security.code_with(participant.key)
        if not participant.key or participant.key == self._security.peer_key:
            return
        # One that is not among the known peers now has this moment been taken out of them.
        if participant.key not in self._trusted_unrecorded | self._accepted:
            self._trust_watch.watch(participant.key)

    def _known_peer(self, participant: Participant) -> Peer | None:
        return self._security.caller(participant.key) if participant.key else None

    def _admits(self, key: str) -> bool:
        """Whether a key is let in; one that was taken out of the known peers only if it is back."""
        if self._security.knows_caller(key):
            return True
        if self._security.ring or key in self._trusted_unrecorded | self._accepted:
            return True
        return key not in self._distrusted and self._new_keys.left > 0

    def _distrust(self, key: str, now: float) -> None:
        """A key has been taken out of the known peers: whoever has it is no longer in the call."""
        self._distrusted.add(key)
        for participant in [p for p in self._participants.values() if p.key == key]:
            if participant.session is not None:
                participant.session.say(wire.Bye(_UNKNOWN_KEY), now)
            shown = participant.shown or "the caller"
            self._notice("warning", f"the key of {shown} is not among the known peers any more")
            self._remove(participant, "its key is not among the known peers any more")

    def _trusted_peers(self) -> list[Peer]:
        return [peer for peer in self._security.known.peers() if peer.role is Role.CALLER]

    def _replaceable(self, key: str, now: float) -> Participant | None:
        """Whose place a new caller may take: its own from before a restart.

        Without keys nobody can be told from anybody, so whoever is lost may be replaced.
        """
        for participant in self._participants.values():
            session = participant.session
            silent = session is None or now - session.heard_at > _SILENT
            if key and participant.key == key and silent:
                return participant
            if not key and not self._room and session is None:
                return participant
        return None

    def _refuse(self, route: bytes, code: wire.Refusal, why: str, now: float) -> bool:
        self._unknown_peers += 1
        if self._refusals.allow(now):
            self._notice("warning", f"refused a caller: {why}", unknown=True)
            self._send(route, wire.encode(wire.Refuse(code, wire.clipped(why))))
        return False

    def _sent_away(self, print_: str) -> None:
        self._unknown_peers += 1
        hosts = self._proxy.unknown_hosts()
        origin = f" from {hosts.pop()}" if len(hosts) == 1 else ""  # whose it is of several is open
        text = f"refused a caller{origin}: its key {print_} is not known"
        self._notice("warning", text, unknown=True)

    def _explain(self, failures: list[tuple[int, int]]) -> None:
        for event, value in failures:
            self._unknown_peers += 1
            if event != zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                continue
            if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                self._notice("warning", "refused a caller that uses no keys", unknown=True)
            elif value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
                text = "a caller expected another key than ours"
                self._notice("warning", text, unknown=True)

    # --- participants -------------------------------------------------------------------------

    def _connect(
        self, participant: Participant, route: bytes, frame: zmq.Frame, preset: str, now: float
    ) -> bool:
        """Begin a session on a connection; the old one, if any, is forgotten.

        preset: ours. False, and nothing has changed, if the connection is closed already, or its
        owner has come too often lately.
        """
        if not self._may_come(participant.key, now):
            return False
        number = secrets.randbelow((1 << 32) - 1) + 1
        line = self._proxy.keep(descriptor_of(frame))
        descriptor = None if line is None else line.descriptor
        session = self._new_session(
            number, lambda data: self._transmit(route, data), descriptor, now, participant.kept
        )
        p, offer = participant, self._offer
        welcome = wire.Welcome(
            p.party, self._instance, offer.model_id, p.preset, offer.name, self._room
        )
        greeting: list[wire.Message] = []
        if preset != p.preset:
            greeting.append(wire.Preset(wire.HUB, preset))
        others = [other for other in self._participants.values() if other is not p]
        greeting += map(_joined_message, others)
        said = self._transmit(route, wire.encode(welcome, number))
        if not said or not all(session.say(message, now) for message in greeting):
            if line is not None:
                self._proxy.let_go(line)
            return False
        records = [(other.party, other.recording) for other in others]
        for party, on in [(wire.HUB, self._recording), *records]:
            if on is not None:  # also that it does no more: it may have been on before
                session.tell(wire.Recording(party, on), now)
        self._disconnect(p)
        p.route, p.session, p.line = route, session, line
        self._routes[route] = p
        self._audible = True
        return True

    def _may_come(self, key: str, now: float) -> bool:
        """Whether the owner of a key has not come too often; without keys, whether nobody has."""
        known = self._arrivals.pop(key, None)
        if known is None:
            known = news_allowance() if key else Allowance(_OPEN_RATE, _OPEN_BURST)
        if len(self._arrivals) >= _ARRIVALS_KEPT:
            del self._arrivals[next(iter(self._arrivals))]  # who has not come for longest
        self._arrivals[key] = known
        return known.take(1.0, now)

    def _return(
        self,
        participant: Participant,
        route: bytes,
        frame: zmq.Frame,
        hello: wire.Hello,
        now: float,
    ) -> bool:
        """A caller is back on a new connection, unless it has given that up again."""
        participant.attempt = hello.attempt
        preset, participant.preset = participant.preset, wire.clipped(hello.preset)
        if not self._connect(participant, route, frame, self._preset, now):
            participant.preset = preset
            return False
        participant.window = ReplayWindow()
        self._reconnections += 1
        self._recognise(participant)
        self._joined(participant, agreed=False)
        for other in self._participants.values():
            if other is not participant:  # whose voice it has missed
                self._key_requests.want(other.party)
        if participant.preset != preset:  # changed while it was away
            self._tell_all(
                wire.Preset(participant.party, participant.preset), now, but=participant.session
            )
        self._change(CallState.TALKING, f"{participant.shown or 'the caller'} is back")
        return True

    def _speaker(self, sender: int, party: int) -> Participant | None:
        return self._participants.get(sender) if sender == party else None

    def _take_audio(
        self, speaker: Participant, session: Session, audio: wire.Audio, now: float
    ) -> Outgoing | None:
        item = super()._take_audio(speaker, session, audio, now)
        if item is not None:
            self._queue(item, but=session)
        return item

    def _take_key_request(self, sender: int, party: int, now: float) -> bool:
        if super()._take_key_request(sender, party, now):
            return True
        # A party that is gone may be asked for before its asker knows.
        if party in self._participants and party != sender:
            self._key_requests.want(party)
        return party != sender

    def _take_preset(self, speaker: Participant, message: wire.Preset) -> None:
        super()._take_preset(speaker, message)
        message = wire.Preset(speaker.party, speaker.preset)
        self._tell_all(message, self._clock(), but=speaker.session)

    def _take_recording(self, speaker: Participant, message: wire.Recording, now: float) -> None:
        super()._take_recording(speaker, message, now)
        passed_on = wire.Recording(speaker.party, message.on)
        self._tell_recording(passed_on, now, but=speaker.session)

    def _take_text(self, speaker: Participant, message: wire.Text, now: float) -> wire.Text | None:
        line = super()._take_text(speaker, message, now)
        if line is not None:
            self._tell_all(line, now, but=speaker.session)
        return line

    def _take_over(self, speaker: Participant, over: Over) -> None:
        super()._take_over(speaker, over)
        if not over.cut:
            for participant in self._participants.values():
                if participant is not speaker:
                    participant.kept.pass_on(over)

    def _hung_up(self, sender: int, why: str) -> None:
        self._remove(self._participants[sender], why)

    def _lose(self, participant: Participant, now: float, why: str) -> None:
        """A connection is gone; its owner has `patience` seconds to come back."""
        self._disconnect(participant)
        participant.lost_at = now
        if self._sessions():
            self._notice("warning", f"lost {participant.shown or 'a party'}: {why}")
        else:
            self._audible = False
            self._change(CallState.RECONNECTING, why)

    def _lose_closed(self, now: float) -> None:
        """Lose whose connection is closed, once what was said before has been read.

        Without that a goodbye would be missed whenever we speak before we read it, and who hung up
        be waited for.
        """
        unread = int(self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN
        for route, since in list(self._closed_since.items()):
            if not unread or now - since > _LAST_WORDS:
                self._lose(self._routes[route], now, "the connection was closed")

    def _disconnect(self, participant: Participant) -> None:
        if participant.session is not None:
            self._end_session(participant.session)
            del self._routes[participant.route]
            self._closed_since.pop(participant.route, None)
            self._retired.append(participant.route)
        if participant.line is not None:
            self._proxy.let_go(participant.line)
        participant.session = participant.line = None

    def _remove(self, participant: Participant, why: str) -> None:
        """A party is gone for good."""
        self._disconnect(participant)
        self._participants.pop(participant.party, None)
        if not any(p.key == participant.key for p in self._participants.values()):
            self._accepted.discard(participant.key)
        self._key_requests.forget(participant.party)
        self._key_limits.pop(participant.party, None)
        self._forget(participant)
        self._events.put(Left(participant.party, why))
        message = wire.PartyLeft(participant.party, why)
        self._tell_all(message, self._clock(), but=participant.session)
        if not self._sessions():
            self._audible = False
            state = CallState.RECONNECTING if self._participants else CallState.WAITING
            self._change(state, why)

    # --- sending ------------------------------------------------------------------------------

    def _tell_delays(self, now: float) -> None:
        for p in list(self._participants.values()):
            delay = None if p.session is None else p.session.remote.one_way
            if delay is not None:
                self._tell_all(wire.Delay(p.party, microseconds(delay)), now, but=p.session)

    def _transmit(self, route: bytes, data: bytes) -> bool:
        """Send to a party; False if its connection is full or gone."""
        if not self._send(route, data):
            return False
        self._sent_bytes += envelope(len(data), self._security.secured)
        return True

    def _send(self, route: bytes, data: bytes) -> bool:
        try:
            self._router.send_multipart([route, data], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            if route in self._routes:
                self._closed_since.setdefault(route, self._clock())
            return False
        return True

    def _request_key(self, party: int) -> None:
        session = self._participants[party].session
        if session is not None:
            session.say(wire.KeyWanted(party), self._clock())

    def _peer(self) -> str:
        return ", ".join(p.shown or f"party {p.party}" for p in self._participants.values())

    def _places(self) -> list[tuple[Kept, Session | None]]:
        return [(p.kept, p.session) for p in self._participants.values()]

    def _sessions(self) -> list[Session]:
        return [p.session for p in self._participants.values() if p.session is not None]

    def _describe(self) -> Link:
        link = super()._describe()
        turned_away = self._proxy.turned_away if self.port else 0
        return replace(link, strangers=link.strangers + turned_away)


def _joined_message(p: Participant) -> wire.PartyJoined:
    return wire.PartyJoined(p.party, key_bytes(p.key) if p.key else wire.NO_KEY, p.preset, p.name)
