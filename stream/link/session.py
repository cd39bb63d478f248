"""One connection in talk: messages, signs of life, the remote clock, and audio waiting to go out.

No sockets and no clock: every method is told the time. Whatever is said carries the time it was
sent at; about once a second it also echoes the latest such stamp of the other side. A heartbeat
goes out only where nothing else was said. TCP delivers in order, so an echo also says that all that
was sent before has arrived. That is what keeps a stalled connection from filling the kernel's
buffers with speech that would come out seconds late: without an echo in time, audio waits here, and
is dropped when it is `STALE` seconds old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from codec.errors import BadStream
from codec.packet import unwrap_sequence
from stream.link import wire
from stream.link.allowance import Allowance
from stream.link.clock import LinkClock, RemoteClock
from stream.link.keys import fingerprint
from stream.link.overs import Arriving, Kept
from stream.link.peers import shown_name
from stream.link.proxy import Line
from stream.link.traffic import Traffic

WINDOW = 256  # latent steps: 16 s
INTERVAL = 1.1  # seconds without a word before a heartbeat; packets of 1.024 s do without
ECHO = 1.06  # seconds between echoes at most: packets of all lengths fill 1.024 s
_LONGEST_HOLD = 1.3  # seconds after which a stamp that nothing else echoes gets a heartbeat
_FIRST_INTERVAL = 0.2
_FIRST_BEATS = 5
DEAD = 2.5  # seconds without a sign of life, on a link of short round trips
_LIVELY = 1.5  # and without one where round trips are long, besides two of these
_LONGEST_DEAD = 10.0
STALE = 2.0
_VOICES = 7  # that a hub passes on over one connection
MAX_WAITING = _VOICES * round(STALE / wire.STEP_SECONDS)  # packets
_CAPTURE_PAUSE = 1.0  # seconds between two capture delays said of a party, if it has changed
_CAPTURE_INTERVAL = 8.0  # and if it has not
_RETRY = 0.05  # seconds between attempts to send what waits
_UNECHOED = 2048  # stamps
RATE = 1.05 / wire.STEP_SECONDS  # latent steps per second that a voice may bring: clocks differ
BURST = 96.0  # and at once: what a stall held back, 1.5 s before it shows, STALE after, and more

TEXT_BURST, TEXT_SECONDS = 10.0, 5.0  # lines of text at once, and seconds for each one more
WRITER_SPARES = 2.0  # of those at once, that who writes leaves to clocks and network


# Messages per second, and at once, that a connection may bring. A hub that passes on seven voices
# after a stall brings that many; anybody else sends an eighth of it.
MESSAGE_RATE = 200.0
MESSAGE_BURST = 1000.0
NEWS_BURST, NEWS_SECONDS = 16.0, 1.0  # news of one kind at once, and seconds for each one more


class ReplayWindow:
    """The anti-replay window of RFC 4303, section 3.4.3: a bitmap of the latest WINDOW numbers.

    Numbers are of latent steps, modulo 2^16, taken for those nearest to the highest so far. They
    may come in any order as long as they are less than WINDOW behind that one. A window serves one
    connection: after a long absence a voice may be anywhere.
    """

    def __init__(self) -> None:
        self._highest: int | None = None
        self._seen = 0  # bit k: number `_highest` - k has been seen

    def check(self, number: int) -> bool:
        """Remember `number` (16 bits); False if it was seen before or is too old to tell."""
        if self._highest is None:
            self._highest, self._seen = number, 1
            return True
        ahead = unwrap_sequence(self._highest, number) - self._highest
        if ahead > 0:
            # A far jump empties the window; shifting by it would build a huge number first.
            self._seen = (self._seen << ahead if ahead < WINDOW else 0) & (1 << WINDOW) - 1 | 1
            self._highest += ahead
            return True
        if -ahead >= WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


def voice_allowance() -> Allowance:
    """How much sound a party may send, in latent steps.

    A voice brings one step each 64 ms, and at most BURST of them at once, as when a connection that
    stood still goes on. A packet takes as many as it says it holds, so neither many packets nor
    long ones give those who decode them more than one voice's work.
    """
    return Allowance(RATE, BURST)


def news_allowance() -> Allowance:
    """How often a party may come, change its preset, begin or end recording, or report who comes
    and goes.

    Each is passed on to everybody, shown and logged.
    """
    return Allowance(1.0 / NEWS_SECONDS, NEWS_BURST)


def text_allowance(spare: float = 0.0) -> Allowance:
    """How many lines of text a party may write.

    spare: of those at once, how many not. Who writes keeps to fewer than who reads lets pass, so
    that none is lost between them.
    """
    return Allowance(1.0 / TEXT_SECONDS, TEXT_BURST - spare)


class KeyRequests:
    """Requests for key packets, merged so that none goes to a party before `pause` has passed."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._wanted: set[int] = set()
        self._asked: dict[int, float] = {}

    def want(self, party: int) -> None:
        self._wanted.add(party)

    def forget(self, party: int) -> None:
        """The party is gone, and so is who wanted something of it."""
        self._wanted.discard(party)
        self._asked.pop(party, None)

    def due(self, now: float) -> list[int]:
        """The parties to be asked now; they count as asked."""
        found = [party for party in self._wanted if now >= self._ready(party)]
        self._wanted.difference_update(found)
        self._asked.update(dict.fromkeys(found, now))
        return found

    def next_at(self) -> float:
        """When the next one is due."""
        return min(map(self._ready, self._wanted), default=float("inf"))

    def _ready(self, party: int) -> float:
        return self._asked.get(party, -float("inf")) + self._pause


@dataclass(frozen=True)
class Outgoing:
    """A packet on its way out. number: of its first step, 16 bits; captured, since: our monotonic
    clock; capture: as in Audio; over: of which over of ours it is, if of any."""

    party: int
    number: int
    captured: float | None
    packet: bytes
    since: float
    capture: int = wire.NO_CAPTURE
    over: int | None = None


class Session:
    """State of one connection from its handshake on. Times are our monotonic clock, seconds."""

    def __init__(
        self,
        number: int | None,
        clock: LinkClock,
        transmit: Callable[[bytes], bool],
        now: float,
        traffic: Traffic | None = None,
        kept: Kept | None = None,
    ) -> None:
        """number: the session id, None where CURVE vouches for the connection.

        transmit: sends a message, or says that it cannot now; traffic: counts what passes; kept:
        the overs of who is at the other end, which outlast the connection.
        """
        self.traffic = Traffic(number is None, None) if traffic is None else traffic
        self.remote = RemoteClock()
        self.heard_at = now
        self.dropped = 0  # packets that grew stale, found no room, or were left at the end
        self._messages = Allowance(MESSAGE_RATE, MESSAGE_BURST)
        self._talk = wire.Talk(number)
        self._clock = clock
        self._transmit = transmit
        self._beats = 0
        self._next_first_beat = now
        self._said_at = now  # the latest stamp we sent, or tried to
        self._unechoed: dict[int, float] = {}  # stamps we sent, oldest first, and when
        self._heard_stamp = False
        self._origin: int | None = None  # the latest stamp received and not echoed yet
        self._origin_at = now
        self._owed_since: float | None = None  # arrival of the first stamp not echoed yet
        self._echoed_at = now
        self._waiting: deque[Outgoing] = deque()
        self._captures: dict[int, tuple[int, float]] = {}  # by party: what was said, and when
        self._untold: dict[int, wire.Recording] = {}  # by party: for what there was no room yet
        self._kept = Kept() if kept is None else kept
        self._answers: dict[int, wire.Got] = {}  # by party: to be given once what is here is read

    def say(self, message: wire.Message, now: float) -> bool:
        """Send a message; False if the connection is full or gone."""
        data = self._talk.encode(message)
        sent = self._transmit(data)
        if sent:
            self.traffic.sent(len(data), now, self.remote.round_trip)
        return sent

    def tell(self, message: wire.Recording, now: float) -> None:
        """Say how a party stands, now or as soon as there is room; only the latest counts."""
        self._untold[message.party] = message
        self._tell(now)

    def _tell(self, now: float) -> None:
        for party, message in list(self._untold.items()):
            if not self.say(message, now):
                return
            del self._untold[party]

    def answer(self, message: wire.Got) -> None:
        """Say soon what of an over has come; of a party only the latest counts."""
        self._answers[message.party] = message

    def take_answer(self, message: wire.Got, now: float) -> bool:
        """The other end says what it has of an over. False if that cannot be."""
        return self._kept.got(message, now, self.remote.round_trip)

    def receive(self, data: bytes, now: float) -> wire.Message:
        """The message in `data`. Raises BadStream if it is damaged, of another session, or comes
        sooner than anybody has something to say.
        """
        if not self._messages.take(1.0, now):
            raise BadStream("too many messages")
        message = self._talk.decode(data)
        self.heard_at = now
        self.traffic.received(len(data), now, self.remote.round_trip)
        if isinstance(message, (wire.Audio, wire.Heartbeat)):
            self._take_times(message.transmit, message.echo, now)
        return message

    def tick(self, now: float) -> float:
        """Send what is due; returns when something is next, if nothing comes before."""
        self._tell(now)
        self._flush(now)
        if now >= self._beat_due():
            self._beats += 1
            self._next_first_beat = now + _FIRST_INTERVAL
            self._speak(wire.Heartbeat, now, beat=True)
        self._send_late(now)
        due = min(self._beat_due(), self.heard_at + self.patience)
        waits = self._waiting or self._untold or self._answers or self._kept.busy
        return min(due, now + _RETRY) if waits else due

    def _beat_due(self) -> float:
        if self._beats < _FIRST_BEATS:
            return self._next_first_beat  # the clocks are soon known
        due = self._said_at + INTERVAL
        if self._owed_since is None:
            return due
        # Not sooner after another try than that: the connection may be full.
        return min(due, max(self._owed_since + _LONGEST_HOLD, self._said_at + _FIRST_INTERVAL))

    def _speak(
        self,
        message: Callable[[int, wire.Echo | None], wire.Message],
        now: float,
        *,
        beat: bool = False,
    ) -> bool:
        """Send a message that carries the time, and an echo where one is due."""
        gap = min(now - self._said_at, INTERVAL)
        echo = None
        # Audio comes again after about the same time: what can wait until then does.
        if self._origin is not None and (beat or now + gap - self._echoed_at > ECHO):
            echo = wire.Echo(self._origin, wire.stamp_steps(now - self._origin_at))
        stamp = self._clock.stamp(now)
        sent = self.say(message(stamp, echo), now)
        if sent:
            self._unechoed[stamp] = now
            if len(self._unechoed) > _UNECHOED:
                del self._unechoed[next(iter(self._unechoed))]
            if echo is not None:
                self._origin = self._owed_since = None
                self._echoed_at = now
        if sent or beat:
            self._said_at = now
        return sent

    def _take_times(self, transmit: int, echo: wire.Echo | None, now: float) -> None:
        transmitted = self.remote.heard(transmit, now)
        if echo is not None and echo.origin in self._unechoed:
            sent = self._unechoed[echo.origin]
            for stamp in list(self._unechoed):
                del self._unechoed[stamp]
                if stamp == echo.origin:
                    break
            self._kept.acknowledged(sent)
            received = transmitted - echo.hold * wire.STAMP_STEP
            self.remote.exchange(sent, received, transmitted, now)
        self.remote.delayed(transmitted, now)
        if not self._heard_stamp:
            self._heard_stamp = True
            self._next_first_beat = now  # the first one is answered at once
        self._origin, self._origin_at = transmit, now
        if self._owed_since is None:
            self._owed_since = now

    @property
    def patience(self) -> float:
        """Seconds of silence after which a connection counts as dead."""
        longest = self.remote.longest_round_trip or 0.0
        return min(max(DEAD, _LIVELY + 2.0 * longest), _LONGEST_DEAD)

    def dead(self, now: float) -> str:
        """Why the connection counts as dead, "" while it does not."""
        silent = now - self.heard_at
        return f"nothing heard for {silent:.1f} s" if silent > self.patience else ""

    # --- audio --------------------------------------------------------------------------------

    def captured(self, audio: wire.Audio, now: float) -> float | None:
        """When a packet just received was captured, in our clock, None while that is not known."""
        age = wire.age_seconds(audio.age)
        if age is None:
            return None
        return self.remote.to_local(self.remote.remote_time(audio.transmit, now) - age)

    def queue(self, item: Outgoing, now: float) -> None:
        """Send a packet, now or soon; the oldest one that waits makes room if there is none."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop()
        self._waiting.append(item)
        self._flush(now)

    def discard(self) -> None:
        """Drop all that waits: the connection is gone."""
        while self._waiting:
            self._drop()
        self._kept.broken()

    def _drop(self) -> None:
        """Drop the packet that has waited for longest."""
        item = self._waiting.popleft()
        self.dropped += 1
        if item.over is not None:
            self._kept.dropped(item.number)

    def _flush(self, now: float) -> None:
        """Send what waits, unless the connection is stalled; drop what is stale."""
        while self._waiting and now - self._waiting[0].since > STALE:
            self._drop()
        while self._waiting and not self._stalled(now):
            item = self._waiting[0]
            capture = item.capture if self._capture_due(item, now) else None
            if not self._speak(partial(_audio, item, capture, now), now):
                return
            if capture is not None:
                self._captures[item.party] = capture, now
            self._waiting.popleft()
            if item.over is not None:
                self._kept.sent(item.number, now)

    def _send_late(self, now: float) -> None:
        """Answer overs that come, and send those that are due while nothing live waits."""
        for party, message in list(self._answers.items()):
            if not self.say(message, now):
                return
            del self._answers[party]
        while not self._waiting and not self._stalled(now):
            late = self._kept.next(now)
            if late is None or not self.say(late, now):
                return
            self._kept.took(now)

    def _capture_due(self, item: Outgoing, now: float) -> bool:
        """Whether a packet says its capture delay: now and then, and soon when that changes."""
        if item.party not in self._captures:
            return True
        capture, said_at = self._captures[item.party]
        pause = _CAPTURE_INTERVAL if capture == item.capture else _CAPTURE_PAUSE
        return now - said_at > pause

    def _stalled(self, now: float) -> bool:
        """Whether the oldest that was sent has not been echoed when it should have been."""
        longest = self.remote.longest_round_trip or 0.25
        oldest = next(iter(self._unechoed.values()), now)
        return now - oldest > _LIVELY + 2.0 * longest


def _audio(
    item: Outgoing, capture: int | None, now: float, stamp: int, echo: wire.Echo | None
) -> wire.Audio:
    """The message of a packet that is sent now."""
    age = wire.age_steps(None if item.captured is None else now - item.captured)
    return wire.Audio(item.party, item.number, stamp, item.packet, age, capture, echo)


@dataclass
class Participant:
    """A party of the call other than us.

    name: what it calls itself; local: what it is called here, "" if it is not known; key: its
    public key in Z85, "" on an unsecured link; code: the authentication string of its key and ours,
    "" if it is not at the other end of a connection; verified: a person has made sure of its key.

    The listener alone knows `session` (None while the connection is lost), `route` (of that
    connection), `line` (in the proxy), `nonce`, `attempt` and `lost_at`; a caller knows `delay`
    (seconds from the party to the listener, None before that is told) and `unconfirmed` (not named
    again since a reconnection).
    """

    party: int
    name: str
    key: str
    preset: str
    window: ReplayWindow = field(default_factory=ReplayWindow)
    allowance: Allowance = field(default_factory=voice_allowance)
    changes: Allowance = field(default_factory=news_allowance)  # of its preset, and recordings
    arriving: Arriving = field(default_factory=Arriving)  # overs that it sends late
    kept: Kept = field(default_factory=Kept)  # overs that it has not got, if it is at the other end
    session: Session | None = None
    route: bytes = b""
    line: Line | None = None
    nonce: bytes = b""
    attempt: int = 0
    lost_at: float = 0.0
    delay: float | None = None
    capture: int = wire.NO_CAPTURE  # the latest it has told, as on the wire
    recording: bool | None = None  # whether it says that it records, None if it never did
    unconfirmed: bool = False
    local: str = ""
    code: str = ""
    verified: bool = False

    @property
    def shown(self) -> str:
        """Who it is, for people: see `shown_name`. Empty if nothing is known."""
        return shown_name(self.local, self.name)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key) if self.key else ""
