"""One connection in talk: messages, heartbeats, the remote clock, and audio waiting to go out.

No sockets and no clock: every method is told the time. TCP delivers in order, so an echoed
heartbeat also says that all audio sent before it has arrived. That is what keeps a stalled
connection from filling the kernel's buffers with speech that would come out seconds late: without
a fresh echo, audio waits here, and is dropped when it is `STALE` seconds old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from codec.errors import BadStream
from stream.link import wire
from stream.link.clock import LinkClock, RemoteClock, seconds
from stream.link.keys import fingerprint

WINDOW = 64
INTERVAL = 0.75  # seconds between heartbeats
_FIRST_INTERVAL = 0.2
_FIRST_BEATS = 5
DEAD = 2.5  # seconds without a sign of life, on a link of short round trips
_LONGEST_DEAD = 10.0
STALE = 2.0
MAX_WAITING = 24  # packets
_RETRY = 0.1  # seconds between attempts to send what waits


class ReplayWindow:
    """The anti-replay window of RFC 4303, section 3.4.3: a bitmap of the latest WINDOW numbers.

    Numbers may come in any order as long as they are less than WINDOW behind the highest one.
    """

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # bit k: number `_highest` - k has been seen

    def check(self, sequence: int) -> bool:
        """Remember `sequence` (not negative); False if it was seen before or is too old to tell."""
        ahead = sequence - self._highest
        if ahead > 0:
            # A far jump empties the window; shifting by it would build a huge number first.
            self._seen = (self._seen << ahead if ahead < WINDOW else 0) & (1 << WINDOW) - 1 | 1
            self._highest = sequence
            return True
        if -ahead >= WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


@dataclass(frozen=True)
class Outgoing:
    """A packet on its way out. captured, since: our monotonic clock; capture: as in Audio."""

    party: int
    sequence: int
    captured: float | None
    packet: bytes
    since: float
    capture: int = wire.NO_CAPTURE


class Session:
    """State of one connection from its handshake on. Times are our monotonic clock, seconds."""

    def __init__(
        self, number: int, clock: LinkClock, transmit: Callable[[bytes], bool], now: float
    ) -> None:
        """number: the session id; transmit: sends a message, or says that it cannot now."""
        self.number = number
        self.remote = RemoteClock()
        self.heard_at = now
        self.dropped = 0  # packets that grew stale, found no room, or were left at the end
        self._clock = clock
        self._transmit = transmit
        self._next_beat = now
        self._beats = 0
        self._sent: deque[int] = deque(maxlen=16)
        self._origin = self._receive = wire.NO_STAMP
        self._acknowledged = now
        self._waiting: deque[Outgoing] = deque()

    def say(self, message: wire.Message) -> bool:
        """Send a message; False if the connection is full or gone."""
        return self._transmit(wire.encode(message, self.number))

    def receive(self, data: bytes, now: float) -> wire.Message:
        """The message in `data`. Raises SottoError if it is damaged or of another session."""
        number, message = wire.decode(data)
        if number != self.number:
            raise BadStream("message is of another session")
        self.heard_at = now
        if isinstance(message, wire.Heartbeat):
            self._take_beat(message, now)
        return message

    def tick(self, now: float) -> float:
        """Send what is due; returns when something is next, if nothing comes before."""
        if now >= self._next_beat:
            self._beats += 1
            self._next_beat = now + (_FIRST_INTERVAL if self._beats < _FIRST_BEATS else INTERVAL)
            stamp = self._clock.stamp(now)
            self._sent.append(stamp)
            self.say(wire.Heartbeat(stamp, self._origin, self._receive))
        self._flush(now)
        due = min(self._next_beat, self.heard_at + self.patience)
        return min(due, now + _RETRY) if self._waiting else due

    def _take_beat(self, beat: wire.Heartbeat, now: float) -> None:
        if self._origin == wire.NO_STAMP:
            self._next_beat = now  # the first one is answered at once: the clocks are soon known
        self._origin, self._receive = beat.transmit, self._clock.stamp(now)
        if beat.origin in self._sent:
            origin = self._clock.time(beat.origin)
            self._acknowledged = max(self._acknowledged, origin)
            self.remote.exchange(origin, seconds(beat.receive), seconds(beat.transmit), now)
        self.remote.heard(seconds(beat.transmit), now)

    @property
    def patience(self) -> float:
        """Seconds of silence after which a connection counts as dead."""
        longest = self.remote.longest_round_trip or 0.0
        return min(max(DEAD, 2.0 * INTERVAL + 2.0 * longest), _LONGEST_DEAD)

    def dead(self, now: float) -> str:
        """Why the connection counts as dead, "" while it does not."""
        silent = now - self.heard_at
        return f"nothing heard for {silent:.1f} s" if silent > self.patience else ""

    # --- audio --------------------------------------------------------------------------------

    def captured(self, stamp: int) -> float | None:
        """A capture time of the other side's clock in ours, None while that is not known."""
        return None if stamp == wire.NO_STAMP else self.remote.to_local(seconds(stamp))

    def queue(self, item: Outgoing, now: float) -> None:
        """Send a packet, now or soon; the oldest one that waits makes room if there is none."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(item)
        self._flush(now)

    def discard(self) -> None:
        """Drop all that waits: the connection is gone."""
        self.dropped += len(self._waiting)
        self._waiting.clear()

    def _flush(self, now: float) -> None:
        """Send what waits, unless the connection is stalled; drop what is stale."""
        while self._waiting and now - self._waiting[0].since > STALE:
            self._waiting.popleft()
            self.dropped += 1
        while self._waiting and not self._stalled(now):
            item = self._waiting[0]
            stamp = wire.NO_STAMP if item.captured is None else self._clock.stamp(item.captured)
            if not self.say(
                wire.Audio(item.party, item.sequence, stamp, item.packet, item.capture)
            ):
                return
            self._waiting.popleft()

    def _stalled(self, now: float) -> bool:
        """Whether what was sent last has not arrived when it should have."""
        longest = self.remote.longest_round_trip or 0.25
        return now - self._acknowledged > 2.0 * INTERVAL + 2.0 * longest


@dataclass
class Participant:
    """A party of the call other than us. key: its public key in Z85, "" on an unsecured link.

    The listener alone knows `session` (None while the connection is lost), `route` (of that
    connection), `nonce`, `attempt` and `lost_at`; a caller knows `delay` (seconds from the party
    to the listener, None before that is told) and `unconfirmed` (not named again since a
    reconnection).
    """

    party: int
    name: str
    key: str
    preset: str
    window: ReplayWindow = field(default_factory=ReplayWindow)
    session: Session | None = None
    route: bytes = b""
    nonce: bytes = b""
    attempt: int = 0
    lost_at: float = 0.0
    delay: float | None = None
    unconfirmed: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key) if self.key else ""
