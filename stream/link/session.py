"""One connection while it is in talk: heartbeats, the remote clock, and audio waiting to go out.

No sockets and no clock of its own: every method is told the time. TCP delivers in order, so an
echoed heartbeat also says that all audio sent before it has arrived. That is what keeps a stalled
connection from filling the kernel's buffers with speech that would come out seconds late: without
a fresh echo, audio waits here, and is dropped when it is `STALE` seconds old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from stream.link.clock import LinkClock, RemoteClock, seconds
from stream.link.wire import NO_CAPTURE, NO_STAMP, Audio, Heartbeat, Message, encode

INTERVAL = 0.75  # seconds between heartbeats
_FIRST_INTERVAL = 0.2
_FIRST_BEATS = 5
DEAD = 2.5  # seconds without a sign of life, on a link of short round trips
_LONGEST_DEAD = 10.0
STALE = 2.0
_WAITING = 24  # packets


@dataclass(frozen=True)
class Waiting:
    """A packet on its way out. captured, since: our monotonic clock; capture: as in Audio."""

    party: int
    sequence: int
    captured: float | None
    packet: bytes
    since: float
    capture: int = NO_CAPTURE


class Conversation:
    """State of one connection from its handshake on. Times are our monotonic clock, seconds."""

    def __init__(self, session: int, clock: LinkClock, now: float) -> None:
        self.session = session
        self.remote = RemoteClock()
        self.heard_at = now
        self.dropped = 0  # packets that grew stale or found no room
        self._clock = clock
        self._next_beat = now
        self._beats = 0
        self._sent: deque[int] = deque(maxlen=16)
        self._origin = self._receive = NO_STAMP
        self._acknowledged = now
        self._waiting: deque[Waiting] = deque()

    # --- heartbeats ---------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """A valid message of this call came."""
        self.heard_at = now

    def beat(self, now: float) -> Heartbeat | None:
        """The heartbeat to send now, if one is due."""
        if now < self._next_beat:
            return None
        self._beats += 1
        self._next_beat = now + (_FIRST_INTERVAL if self._beats < _FIRST_BEATS else INTERVAL)
        stamp = self._clock.stamp(now)
        self._sent.append(stamp)
        return Heartbeat(stamp, self._origin, self._receive)

    def take_beat(self, beat: Heartbeat, now: float) -> None:
        """Learn from the other side's heartbeat."""
        if self._origin == NO_STAMP:
            self._next_beat = now  # the first one is answered at once: the clocks are soon known
        self._origin, self._receive = beat.transmit, self._clock.stamp(now)
        if beat.origin in self._sent:
            origin = self._clock.time(beat.origin)
            self._acknowledged = max(self._acknowledged, origin)
            self.remote.exchange(origin, seconds(beat.receive), seconds(beat.transmit), now)
        self.remote.heard(seconds(beat.transmit), now)

    def dead(self, now: float) -> bool:
        """Whether the other side has been silent for too long."""
        return now - self.heard_at > self.patience

    @property
    def patience(self) -> float:
        """Seconds of silence after which a connection counts as dead."""
        longest = self.remote.longest_round_trip or 0.0
        return min(max(DEAD, 2.0 * INTERVAL + 2.0 * longest), _LONGEST_DEAD)

    def stalled(self, now: float) -> bool:
        """Whether what was sent last has not arrived when it should have."""
        longest = self.remote.longest_round_trip or 0.25
        return now - self._acknowledged > 2.0 * INTERVAL + 2.0 * longest

    def wake_at(self) -> float:
        """When there is something to do next, if nothing comes before."""
        return min(self._next_beat, self.heard_at + self.patience)

    # --- audio --------------------------------------------------------------------------------

    def captured(self, stamp: int) -> float | None:
        """A capture time of the other side's clock in ours, None while that is not known."""
        return None if stamp == NO_STAMP else self.remote.to_local(seconds(stamp))

    def queue(self, waiting: Waiting) -> None:
        """Put a packet in line; the oldest one makes room if there is none."""
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(waiting)

    def flush(self, now: float, transmit: Callable[[bytes], bool]) -> None:
        """Send what waits, unless the connection is stalled; forget what is stale."""
        while self._waiting and now - self._waiting[0].since > STALE:
            self._waiting.popleft()
            self.dropped += 1
        while self._waiting and not self.stalled(now):
            item = self._waiting[0]
            stamp = NO_STAMP if item.captured is None else self._clock.stamp(item.captured)
            message = Audio(item.party, item.sequence, stamp, item.packet, item.capture)
            if not transmit(self.seal(message)):
                return
            self._waiting.popleft()

    def take_dropped(self) -> int:
        """Packets dropped since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def seal(self, message: Message) -> bytes:
        """The bytes of a message of this call."""
        return encode(message, self.session)

    @property
    def waiting(self) -> int:
        """Packets in line."""
        return len(self._waiting)
