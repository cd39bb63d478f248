"""The end that waits for calls: one call, or the hub of a room."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from codec.errors import BadInput, SottoError, WrongVersion
from stream.link.address import Address, look_up, parse_address
from stream.link.authentication import (
    FAILURES,
    Authenticator,
    RateLimit,
    Security,
    secure_listener,
)
from stream.link.clock import microseconds
from stream.link.endpoint import Endpoint, Socket, monitored, watch
from stream.link.events import (
    AudioArrived,
    CallState,
    Joined,
    Left,
    Link,
    Notice,
    Offer,
    PresetChanged,
)
from stream.link.keys import fingerprint, key_bytes
from stream.link.proxy import Guard
from stream.link.replay import ReplayWindow, Verdict
from stream.link.session import Conversation, Waiting
from stream.link.wire import (
    MAX_MESSAGE,
    NO_KEY,
    Audio,
    Bye,
    Delay,
    Heartbeat,
    Hello,
    Key,
    Message,
    PartyJoined,
    PartyLeft,
    Preset,
    Refusal,
    Refuse,
    Type,
    Welcome,
    Who,
    capture_seconds,
    clipped,
    decode,
    encode,
)

HUB = 0  # our own party number
MAX_PARTIES = 8
_LONGEST_HELLO = 160
_PER_ROUND = 64  # messages taken before timers are looked at
_STRANGE_PER_ROUND = 32
_COOLDOWN = 0.01  # seconds without reading after that many from strangers
_INTRODUCTIONS = 0.05  # seconds between looks at the introduction port
_DELAY_INTERVAL = 5.0
_SILENT = 1.2  # seconds: a caller with the key of a party this silent is that party, restarted
_PORT_TRIES = 20
_LATE = 15.0  # seconds: audio captured longer ago is a replay, or of no use
_EARLY = 2.0


@dataclass
class Member:
    """A party other than us. route: its connection in the ROUTER, None while that is lost."""

    party: int
    name: str
    key: str
    nonce: bytes
    attempt: int
    preset: str
    route: bytes | None = None
    talk: Conversation | None = None
    lost_at: float = 0.0
    window: ReplayWindow = field(default_factory=ReplayWindow)


class Listener(Endpoint):
    """Waits for callers on a ROUTER socket; see `stream.link.transport.listen`."""

    def __init__(
        self,
        bind: str,
        offer: Offer,
        security: Security,
        *,
        room: bool,
        max_parties: int,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(offer, security, clock)
        self._bind = parse_address(bind)
        if not 2 <= max_parties <= MAX_PARTIES:
            raise BadInput(f"a room has 2 to {MAX_PARTIES} parties, not {max_parties}")
        self._room = room
        self._max_parties = max_parties if room else 2
        self._patience = patience
        self._instance = secrets.token_bytes(8)
        self._members: dict[int, Member] = {}
        self._routes: dict[bytes, Member] = {}
        self._retired: deque[bytes] = deque(maxlen=64)
        self._refusals = RateLimit(10, 1.0)
        self._introductions = RateLimit(5, 1.0)
        self._quiet = zmq.Poller()
        self._quiet_until = -math.inf
        self._next_introduction = self._next_delays = -math.inf
        self._router: Socket
        self._introducer: Socket | None = None
        self._monitor: Socket | None = None
        self._authenticator: Authenticator | None = None
        self._guards: list[Guard] = []
        self.address = Address("", 0)

    @property
    def port(self) -> int:
        """The TCP port we are bound to, once started."""
        return self.address.port

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        found = look_up(self._bind)[0]
        self._security.check_reach([found], "listen on")
        self._router = self._context.socket(zmq.ROUTER)
        self._configure(self._router)
        self._router.router_mandatory = True
        keys = self._security.keys
        if keys is not None:
            self._security.known.entries()  # a damaged file is found out now
            # Before the port is bound: nobody may slip in unasked.
            self._authenticator = Authenticator(self._context, self._security, self._sent_away)
            secure_listener(self._router, keys)
            self._monitor = watch(
                self._context, self._router, FAILURES & ~zmq.EVENT_HANDSHAKE_FAILED_AUTH
            )
        self._bind_ports(found)
        for socket in (self._authenticator and self._authenticator.socket, self._monitor):
            if socket is not None:
                self._poller.register(socket, zmq.POLLIN)
                self._quiet.register(socket, zmq.POLLIN)
        self._quiet.register(self._awake, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._link = self._describe()
        self._change(CallState.WAITING, f"listening on {self.address}")

    def _bind_ports(self, found: Address) -> None:
        """Bind the port, and the one after it when we introduce ourselves."""
        introduce = self._security.secured and self._security.trust_new
        for last in range(_PORT_TRIES - 1, -1, -1):
            self.address = Address(found.host, self._bind_router(found))
            if not introduce:
                return
            introducer = self._context.socket(zmq.ROUTER)
            self._configure(introducer)
            introducer.linger = 0
            try:
                if self.address.port < 65535:
                    self._bind_guarded(introducer, Address(found.host, self.address.port + 1))
                    self._introducer = introducer
                    return
            except SottoError as error:
                if found.port or not last:
                    self._events.put(
                        Notice("warning", f"callers cannot be introduced to us: {error}")
                    )
                    introducer.close()
                    return
            introducer.close()
            if found.port:
                return
            self._router.unbind(_last_endpoint(self._router))

    def _bind_router(self, address: Address) -> int:
        """Bind the socket for calls; the port it came to be. Raises SottoError."""
        if self._security.secured:
            return _bind(self._router, address)
        return self._bind_guarded(self._router, address)

    def _bind_guarded(self, socket: Socket, address: Address) -> int:
        """Bind a socket without keys, which anybody may talk to, behind a guard."""
        guard = Guard(address, MAX_MESSAGE)
        self._guards.append(guard)
        try:
            socket.bind(guard.endpoint)
        except zmq.ZMQError as error:
            raise SottoError(f"cannot listen: {zmq.strerror(error.errno or 0)}") from None
        guard.start()
        return guard.port

    def _release(self) -> None:
        super()._release()
        for guard in self._guards:
            guard.close()

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
        """Take messages, fairly from all connections, but only so many of strangers at a time.

        What a stranger sends too fast waits in its own connection, which then stands still.
        """
        strange = 0
        for _ in range(_PER_ROUND):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            now = self._clock()
            route = frames[0].bytes
            member = self._routes.get(route)
            if member is not None and len(frames) == 2:
                self._hear(member, frames[1].bytes, now)
            elif member is not None:
                self._reject(member.party)
            elif not self._knock(route, frames[1:], now):
                strange += 1
                if strange >= _STRANGE_PER_ROUND:
                    self._quiet_until = now + _COOLDOWN
                    return

    def _tick(self, now: float) -> float:
        for guard in self._guards:
            if guard.failure is not None:
                raise SottoError(f"nobody can call any more: {guard.failure}")
        wake_at = now + 1.0
        for member in list(self._members.values()):
            talk = member.talk
            if talk is None:
                if now - member.lost_at > self._patience:
                    self._remove(member, "the connection was lost")
                else:
                    wake_at = min(wake_at, member.lost_at + self._patience)
                continue
            if talk.dead(now):
                self._lose(member, now, f"nothing heard for {now - talk.heard_at:.1f} s")
                continue
            beat = talk.beat(now)
            if beat is not None:
                self._say(member, talk.seal(beat))
            self._flush(member, now)
            self._unsent += talk.take_dropped()
            wake_at = min(wake_at, talk.wake_at())
            if talk.waiting:
                wake_at = min(wake_at, now + 0.1)
        if self._room and now >= self._next_delays:
            self._next_delays = now + _DELAY_INTERVAL
            self._tell_delays()
        if self._introducer is not None and now >= self._next_introduction:
            self._next_introduction = now + _INTRODUCTIONS
            self._introduce(self._introducer, now)
            wake_at = min(wake_at, self._next_introduction)
        self._delays = {
            member.party: delay
            for member in self._members.values()
            if member.talk is not None and (delay := member.talk.remote.one_way) is not None
        }
        return min(wake_at, self._quiet_until) if self._quiet_until > now else wake_at

    # --- strangers ----------------------------------------------------------------------------

    def _knock(self, route: bytes, frames: list[zmq.Frame], now: float) -> bool:
        """Somebody not in the call says something: a HELLO is answered, all else is not."""
        if len(frames) != 1 or len(frames[0]) > _LONGEST_HELLO:
            return self._stranger()
        data = frames[0].bytes
        if data[:1] != bytes([Type.HELLO]):
            # What was under way on a connection that its owner has given up is no attack.
            return True if route in self._retired else self._stranger()
        try:
            session, hello = decode(data)
        except WrongVersion as error:
            return self._refuse(route, Refusal.WRONG_VERSION, str(error), now)
        except SottoError:
            return self._stranger()
        if session != 0 or not isinstance(hello, Hello):
            return self._stranger()
        key = ""
        if self._security.secured:
            key = str(frames[0].get("User-Id"))
        return self._admit(route, hello, key, now)

    def _stranger(self) -> bool:
        self._strangers += 1
        return False

    def _admit(self, route: bytes, hello: Hello, key: str, now: float) -> bool:
        """Let a caller in, or tell it why not."""
        if hello.model_id != self._offer.model_id:
            why = (
                f"the listener's model is {self._offer.model_id} ({self._preset}), "
                f"the caller's {hello.model_id} ({clipped(hello.preset, 16)})"
            )
            return self._refuse(route, Refusal.WRONG_MODEL, why, now)
        for member in self._members.values():
            if member.key == key and member.nonce == hello.nonce:
                if hello.attempt <= member.attempt:
                    return self._stranger()  # a recording
                return self._return(member, route, hello, now)
        replaced = self._replaceable(key, now)
        others = len(self._members) - (replaced is not None)
        if others + 1 >= self._max_parties:
            if self._room:
                why = f"the room is full: {self._max_parties} parties are in it"
                return self._refuse(route, Refusal.ROOM_FULL, why, now)
            return self._refuse(route, Refusal.BUSY, "the listener is in another call", now)
        if replaced is None and key and any(m.key == key for m in self._members.values()):
            why = "a caller with this key is connected already"
            return self._refuse(route, Refusal.BUSY, why, now)
        party = next(n for n in range(1, MAX_PARTIES + 1) if n not in self._members)
        name = clipped(hello.name, 64)
        preset = self._preset if self._room else clipped(hello.preset, 16)
        member = Member(party, name, key, hello.nonce, hello.attempt, preset)
        if not self._connect(member, route, preset, now):
            return self._stranger()
        self._preset = preset
        self._received_bytes += self._envelope(len(encode(hello)))
        self._members[party] = member
        self._rejections = {**self._rejections, party: 0}
        self._record(member)
        print_ = fingerprint(key) if key else ""
        self._events.put(Joined(party, name, preset, print_))
        self._tell_others(member, PartyJoined(party, _wire_key(key), preset, name))
        if replaced is not None:
            self._remove(replaced, "called again")
        self._change(CallState.TALKING, f"{name or 'a caller'} is connected")
        return True

    def _replaceable(self, key: str, now: float) -> Member | None:
        """The member whose place a new caller may take: itself before a restart.

        Without keys nobody can be told from anybody, so whoever is lost may be replaced.
        """
        for member in self._members.values():
            silent = member.talk is None or now - member.talk.heard_at > _SILENT
            if key and member.key == key and silent:
                return member
            if not key and not self._room and member.talk is None:
                return member
        return None

    def _refuse(self, route: bytes, code: Refusal, why: str, now: float) -> bool:
        self._strangers += 1
        if self._refusals.allow(now):
            self._notice("warning", f"refused a caller: {why}")
            self._transmit(route, encode(Refuse(code, clipped(why, 200))))
        return False

    def _sent_away(self, print_: str, address: str) -> None:
        self._strangers += 1
        self._notice("warning", f"refused a caller from {address}: its key {print_} is not known")

    def _explain(self, failures: list[tuple[int, int]]) -> None:
        for event, value in failures:
            self._strangers += 1
            if event != zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                continue
            if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                self._notice("warning", "refused a caller that does not use keys")
            elif value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
                self._notice("warning", "a caller expected another key than ours")

    def _record(self, member: Member) -> None:
        """Trust on first use: write down who that was."""
        security = self._security
        if not (security.trust_new and member.key):
            return
        try:
            if not security.known.knows(member.key):
                name = security.known.add(member.name or "caller", member.key)
                self._notice(
                    "warning",
                    f"the key {fingerprint(member.key)} is new and now trusted as {name}",
                )
        except SottoError as error:
            self._notice("error", str(error))

    def _introduce(self, socket: Socket, now: float) -> None:
        """Tell callers who ask what our public key is, a few times a second."""
        keys = self._security.keys
        for _ in range(8):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                asked = len(frames) == 2 and isinstance(decode(frames[1])[1], Who)
            except SottoError:
                asked = False
            if not asked or keys is None or not self._introductions.allow(now):
                self._strangers += 1
                continue
            try:
                socket.send_multipart([frames[0], encode(Key(key_bytes(keys.public)))], zmq.NOBLOCK)
            except zmq.ZMQError:
                continue  # it has gone, or does not listen

    # --- members ------------------------------------------------------------------------------

    def _connect(self, member: Member, route: bytes, preset: str, now: float) -> bool:
        """Begin a conversation on a connection; the old one, if any, is forgotten.

        preset: ours. False, and nothing has changed, if the connection is closed already.
        """
        session = secrets.randbelow((1 << 32) - 1) + 1
        messages: list[Message] = [
            Welcome(
                member.party,
                self._instance,
                self._offer.model_id,
                member.preset,
                self._offer.name,
                self._room,
            )
        ]
        if preset != member.preset:
            messages.append(Preset(HUB, preset))
        messages += [
            PartyJoined(other.party, _wire_key(other.key), other.preset, other.name)
            for other in self._members.values()
            if other is not member
        ]
        greeting = [encode(message, session) for message in messages]
        if not all(self._transmit(route, data) for data in greeting):
            return False
        self._sent_bytes += sum(self._envelope(len(data)) for data in greeting)
        if member.route is not None:
            self._forget(member)
        member.route, member.talk = route, Conversation(session, self._link_clock, now)
        self._routes[route] = member
        self._audible = True
        return True

    def _return(self, member: Member, route: bytes, hello: Hello, now: float) -> bool:
        """A caller is back on a new connection, unless it has given that up again."""
        member.attempt = hello.attempt
        preset, member.preset = member.preset, clipped(hello.preset, 16)
        if not self._connect(member, route, self._preset, now):
            member.preset = preset
            return False
        self._reconnections += 1
        print_ = fingerprint(member.key) if member.key else ""
        joined = Joined(member.party, member.name, member.preset, print_, agreed=False)
        self._events.put(joined)
        if member.preset != preset:  # changed while it was away
            self._tell_others(member, Preset(member.party, member.preset))
        self._change(CallState.TALKING, f"{member.name or 'the caller'} is back")
        return True

    def _hear(self, member: Member, data: bytes, now: float) -> None:
        """A message on a member's connection."""
        talk = member.talk
        if talk is None:
            return
        try:
            session, message = decode(data)
        except SottoError:
            self._reject(member.party)
            return
        if session != talk.session:
            self._reject(member.party)
            return
        self._received_bytes += self._envelope(len(data))
        talk.heard(now)
        if isinstance(message, Heartbeat):
            talk.take_beat(message, now)
        elif isinstance(message, Audio) and message.party == member.party:
            self._take_audio(member, talk, message, now)
        elif isinstance(message, Preset) and message.party == member.party:
            member.preset = clipped(message.preset, 16)
            self._events.put(PresetChanged(member.party, member.preset))
            self._notice("info", f"{member.name or 'the caller'} now uses {member.preset}")
            self._tell_others(member, Preset(member.party, member.preset))
        elif isinstance(message, Bye):
            self._remove(member, clipped(message.reason, 200) or "hung up")
        else:
            self._reject(member.party)

    def _take_audio(self, member: Member, talk: Conversation, audio: Audio, now: float) -> None:
        captured = talk.captured(audio.captured)
        untimely = captured is not None and not now - _LATE < captured < now + _EARLY
        if untimely or member.window.check(audio.sequence) is not Verdict.FRESH:
            self._reject(member.party)
            return
        self._events.put(
            AudioArrived(member.party, audio.packet, captured, now, capture_seconds(audio.capture))
        )
        waiting = Waiting(member.party, audio.sequence, captured, audio.packet, now, audio.capture)
        for other in list(self._members.values()):
            if other is not member and other.talk is not None:
                other.talk.queue(waiting)
                self._flush(other, now)

    def _lose(self, member: Member, now: float, why: str) -> None:
        """A connection is gone; its owner has `patience` seconds to come back."""
        self._forget(member)
        member.lost_at = now
        if not any(m.talk for m in self._members.values()):
            self._audible = False
            self._change(CallState.RECONNECTING, why)
        else:
            self._notice("warning", f"lost {member.name or 'a party'}: {why}")

    def _forget(self, member: Member) -> None:
        if member.talk is not None:
            self._unsent += member.talk.take_dropped() + member.talk.waiting
        if member.route is not None:
            self._routes.pop(member.route, None)
            self._retired.append(member.route)
        member.route = member.talk = None

    def _remove(self, member: Member, why: str) -> None:
        """A party is gone for good."""
        self._forget(member)
        self._members.pop(member.party, None)
        self._events.put(Left(member.party, why))
        self._tell_others(member, PartyLeft(member.party, why))
        if not any(m.talk for m in self._members.values()):
            self._audible = False
            state = CallState.RECONNECTING if self._members else CallState.WAITING
            self._change(state, why)

    # --- sending ------------------------------------------------------------------------------

    def _take_outgoing(self, packet: bytes, captured: float, since: float, capture: int) -> None:
        waiting = Waiting(HUB, self._next_sequence(), captured, packet, since, capture)
        for member in list(self._members.values()):
            if member.talk is not None:
                member.talk.queue(waiting)
                self._flush(member, self._clock())

    def _announce(self, preset: str) -> None:
        self._tell_others(None, Preset(HUB, preset))

    def _tell_others(self, but: Member | None, message: Message) -> None:
        for member in list(self._members.values()):
            if member is not but and member.talk is not None:
                self._say(member, member.talk.seal(message))

    def _tell_delays(self) -> None:
        for member in list(self._members.values()):
            delay = None if member.talk is None else member.talk.remote.one_way
            if delay is not None:
                self._tell_others(member, Delay(member.party, microseconds(delay)))

    def _flush(self, member: Member, now: float) -> None:
        if member.talk is not None:
            member.talk.flush(now, lambda data: self._say(member, data))

    def _say(self, member: Member, data: bytes) -> bool:
        """Send to a member; False if its connection is full or gone."""
        if member.route is None or not self._transmit(member.route, data):
            return False
        self._sent_bytes += self._envelope(len(data))
        return True

    def _transmit(self, route: bytes, data: bytes) -> bool:
        try:
            self._router.send_multipart([route, data], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            member = self._routes.get(route)
            if member is not None:
                self._lose(member, self._clock(), "the connection was closed")
            return False
        return True

    def _say_bye(self, reason: str) -> None:
        self._tell_others(None, Bye(reason))

    def _describe(self) -> Link:
        talks = [m.talk.remote for m in self._members.values() if m.talk is not None]
        trips = [talk.round_trip for talk in talks if talk.round_trip is not None]
        return Link(
            peer=", ".join(m.name or f"party {m.party}" for m in self._members.values()),
            secured=self._security.secured,
            own_fingerprint=self._security.own_fingerprint,
            round_trip=max(trips, default=None),
            clock_offset=talks[0].offset if talks else None,
            reconnections=self._reconnections,
            strangers=self._strangers + sum(guard.turned_away for guard in self._guards),
        )


def _wire_key(key: str) -> bytes:
    return key_bytes(key) if key else NO_KEY


def _bind(socket: Socket, address: Address) -> int:
    """Bind, and the port it came to be. Raises SottoError."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        socket.bind(f"tcp://{host}:{address.port or '*'}")
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno or 0)
        raise SottoError(f"cannot listen on {address}: {why[:1].lower()}{why[1:]}") from None
    return int(_last_endpoint(socket).rpartition(":")[2])


def _last_endpoint(socket: Socket) -> str:
    data = socket.getsockopt(zmq.LAST_ENDPOINT)
    return data.rstrip(b"\0").decode("ascii") if isinstance(data, bytes) else ""
