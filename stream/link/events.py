"""Events and figures that the link reports: plain values, and a bounded queue for them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from stream.link.overs import Over
from stream.link.peers import shown_name

FAULT = "its program has failed"  # all that others are told of a fault of ours
_FULL = 512
_LIMIT = 2048


class CallState(Enum):
    """Where a call stands."""

    WAITING = "waiting for a call"
    CONNECTING = "connecting"
    TALKING = "connected"
    RECONNECTING = "connection lost, trying again"
    REFUSED = "refused"
    ENDED = "ended"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing will follow."""
        return self in (CallState.REFUSED, CallState.ENDED, CallState.FAILED)


@dataclass(frozen=True)
class Link:
    """The connection as it is now.

    secured: somebody is connected, by keys; own_fingerprint: "" if we have no keys; round_trip,
    clock_offset (remote clock minus ours): seconds, None before they are measured; strangers: times
    an unknown peer was turned away; dropped: packets dropped before they were sent, because a
    connection stood still or was lost; kept: seconds of our overs that are to be delivered late.
    """

    peer: str = ""
    secured: bool = False
    own_fingerprint: str = ""
    round_trip: float | None = None
    clock_offset: float | None = None
    reconnections: int = 0
    strangers: int = 0
    dropped: int = 0
    kept: float = 0.0


@dataclass(frozen=True)
class Offer:
    """What we tell the other side. model_id: 16 hex digits; room: we can hear several parties."""

    model_id: str
    preset: str
    name: str
    room: bool = False


@dataclass(frozen=True)
class Joined:
    """A remote party can now be heard. preset: what it codes its voice with.

    name: what it calls itself; local: what it is called here, "" if it is not known; fingerprint:
    "" if unsecured; agreed: whether the preset is the one both ends have agreed on; code: the
    authentication string, the same at both ends, "" if unsecured or if the party is not at the
    other end of our connection; verified: a person has made sure of its key.
    Comes again, with the same party number, when a party's connection has been restored.
    """

    party: int
    name: str
    preset: str
    fingerprint: str
    agreed: bool = True
    local: str = ""
    code: str = ""
    verified: bool = False

    @property
    def shown(self) -> str:
        """Who it is, for people: see `shown_name`. Empty if nothing is known."""
        return shown_name(self.local, self.name)


@dataclass(frozen=True)
class PresetChanged:
    """A remote party codes its voice with another preset from now on."""

    party: int
    preset: str


@dataclass(frozen=True)
class Verified:
    """A person has just made sure of a remote party's key, or taken that back."""

    party: int
    verified: bool = True


@dataclass(frozen=True)
class Left:
    """A remote party is gone for good."""

    party: int
    reason: str


@dataclass(frozen=True)
class KeyWanted:
    """A remote party cannot decode our voice before we send a key packet.

    It says so, or it has just joined or come back. In a room the hub (party 0) asks for all.
    """

    party: int


@dataclass(frozen=True)
class TextArrived:
    """A remote party has written a line, which is harmless to show."""

    party: int
    text: str


@dataclass(frozen=True)
class RecordingChanged:
    """A remote party says that it records the call from now on, or does no more."""

    party: int
    on: bool


@dataclass(frozen=True)
class OverArrived:
    """An over that a remote party had to send late, whole but for the end where it is `cut`."""

    over: Over


@dataclass(frozen=True)
class AudioArrived:
    """A session packet, not yet unpacked; times in seconds of our monotonic clock.

    step: number of its first latent step, modulo 2^16; captured: when its last sample was in the
    air, None until the clocks are compared; capture: how long samples take from the air to the
    party's encoder, seconds, if it says so.
    """

    party: int
    step: int
    packet: bytes
    captured: float | None
    arrived: float
    capture: float | None = None


@dataclass(frozen=True)
class StateChanged:
    """Where the connection stands now, and why, in words for a person."""

    state: CallState
    reason: str


@dataclass(frozen=True)
class Rings:
    """A caller waits to be let in; see `Endpoint.answer`.

    name: for people, what it is called here, and in quotes what it calls itself; fingerprint: of
    the key it has, "" if there are no keys; known: the key is one of the known peers'.
    """

    name: str
    fingerprint: str
    known: bool = False


@dataclass(frozen=True)
class RingOver:
    """Nobody rings any more, and why."""

    reason: str


@dataclass(frozen=True)
class Notice:
    """A line for the log.

    level: debug, info, warning or error; kind: lines of one kind count as one flood, "" for those
    that begin with the same word.
    """

    level: str
    text: str
    kind: str = field(default="", compare=False)


Event = (
    Joined
    | PresetChanged
    | Verified
    | Left
    | AudioArrived
    | TextArrived
    | RecordingChanged
    | OverArrived
    | KeyWanted
    | StateChanged
    | Rings
    | RingOver
    | Notice
)

_DISPENSABLE = (AudioArrived, Notice, PresetChanged, KeyWanted)


class EventQueue:
    """Bounded queue from the I/O thread, which it never blocks, to the one consumer.

    A consumer that has fallen far behind loses audio, notices, news of presets and requests first.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_LIMIT)
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event, unless it may be lost and there are many."""
        with self._changed:
            dispensable = isinstance(event, _DISPENSABLE)
            if len(self._events) < _FULL or not dispensable:
                self._events.append(event)
                self._changed.notify()

    def take(self, timeout: float) -> list[Event]:
        """All events so far; waits up to `timeout` seconds for the first."""
        with self._changed:
            if not self._events and timeout > 0.0:
                self._changed.wait(timeout)
            events = list(self._events)
            self._events.clear()
            return events
