"""A call at one moment: plain values for screens, logs and statistics files.

The call's threads write their own counters; what shows them asks for a `Snapshot` a few times a
second. Nothing here refers back to live objects, so a snapshot may be kept and compared.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from codec.signal.analysis import N_MELS
from codec.signal.samples import FloatArray
from stream.call.volume import AS_IT_CAME, Volume
from stream.link.events import CallState, Link, Rings

QUIETEST_DB = -100.0
_DECIMALS = 6  # of numbers in JSON


class FrontEndState(Enum):
    """Echo cancellation, noise suppression and gain control of the microphone: not wanted or no
    microphone, working, switched off, or impossible here."""

    NONE = "none"
    ON = "on"
    OFF = "off"
    MISSING = "missing"


@dataclass(frozen=True)
class Spectrogram:
    """The latest log-mel columns of one direction.

    columns: [n, N_MELS] in [-1, 1], oldest first, at most a few seconds of them; total: how many
    columns there have been since the call began, so that a reader can tell which ones are new.
    """

    columns: FloatArray
    total: int


NO_SPECTROGRAM = Spectrogram(np.zeros((0, N_MELS), np.float32), 0)


@dataclass(frozen=True)
class Rate:
    """Bits of codec packets (header and payload) per second of speech.

    now: the latest second; average: over the call; history: per second, oldest first, at most 120.
    wire: all bytes handed to the transport, its own messages and envelopes included, and ip: all of
    the IP packets that carry them; both as bits per second over the last few seconds.
    """

    now: float = 0.0
    average: float = 0.0
    history: tuple[float, ...] = ()
    wire: float = 0.0
    ip: float = 0.0


@dataclass(frozen=True)
class Talker:
    """Our own speech on its way out.

    level_db: peak of the last tenth of a second, dB of full scale; active: the latest packet held
    speech; delay: length of packets in milliseconds; frames, silent_frames: packets so far, those
    of pauses included, which mostly need not be sent; steps, cost, start_cost: of the latest search
    (cost is F + λR after it, start_cost the warm start's); real_time: encoder seconds per second of
    speech, averaged; overflows: capture gaps counted by the sound system or our ring; unsent:
    packets dropped because nobody was connected or the connection was full; capture, search:
    seconds from the air to the encoder, and from a packet's last sample to its being sent.
    """

    level_db: float = QUIETEST_DB
    active: bool = False
    spectrogram: Spectrogram = NO_SPECTROGRAM
    rate: Rate = Rate()
    delay: int = 1024
    frames: int = 0
    silent_frames: int = 0
    steps: int = 0
    cost: float = 0.0
    start_cost: float = 0.0
    real_time: float = 0.0
    overflows: int = 0
    unsent: int = 0
    capture: float | None = None
    search: float | None = None


@dataclass
class Arrivals:
    """What became of the packets of one remote party; its jitter buffer counts them.

    received: valid packets; lost: packets that never came in time; late: packets whose time had
    passed altogether; partly_late: packets of which only the rest could be played; reordered,
    duplicates, rejected (damaged, replayed or foreign); concealed: seconds of concealment;
    stretched, shortened: columns inserted and removed to follow clocks and jitter; underruns:
    times the loudspeaker found nothing to play.
    """

    received: int = 0
    lost: int = 0
    late: int = 0
    partly_late: int = 0
    reordered: int = 0
    duplicates: int = 0
    rejected: int = 0
    concealed: float = 0.0
    stretched: int = 0
    shortened: int = 0
    underruns: int = 0


@dataclass(frozen=True)
class Latency:
    """Where the time from mouth to ear goes, in seconds; None where not measured yet.

    frame: the length of a packet, paid while it fills; capture: sound card and ring; search: from
    the packet's last sample to its packet (with the capture where that is not known); network: one
    way, from both clocks; playout: waiting in the jitter buffer; decode: packet to samples;
    device: samples to air; total: mouth to ear.
    """

    frame: float = 1.024
    capture: float | None = None
    search: float | None = None
    network: float | None = None
    playout: float | None = None
    decode: float | None = None
    device: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class Party:
    """A remote party and its speech on the way in.

    party: its number in the call; name: for people, what it is called here and in quotes what it
    calls itself; code, verified: the authentication string to compare, and whether a person has
    made sure of the key; recording: it says that it records; preset: what its speech is coded with,
    "" before that is known; delay:
    length of its packets in milliseconds; heard: False while the machine has no time to decode it;
    grown: seconds by which it is heard later than it was not long ago, 0 if that is not worth a
    word; volume: how loud it is played here, which the level is of.
    """

    party: int = 0
    name: str = ""
    fingerprint: str = ""
    preset: str = ""
    delay: int = 1024
    heard: bool = True
    level_db: float = QUIETEST_DB
    active: bool = False
    spectrogram: Spectrogram = NO_SPECTROGRAM
    rate: Rate = Rate()
    arrivals: Arrivals = field(default_factory=Arrivals)
    latency: Latency = Latency()
    real_time: float = 0.0
    grown: float = 0.0
    code: str = ""
    verified: bool = False
    recording: bool = False
    volume: Volume = AS_IT_CAME


@dataclass(frozen=True)
class LateOver:
    """What a remote party said a while ago, and could not be heard then.

    name: whose it is; ago, seconds: since it ended, and how long it lasts; again: some of it was
    also heard when it was said; playing: now, else when it is quiet; waiting: seconds of others
    after it.
    """

    name: str
    ago: float
    seconds: float
    again: bool = False
    playing: bool = False
    waiting: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """Everything there is to see of a call.

    presets, delays: those that may be changed to, the latter in milliseconds; talking: our voice
    is sent; keeping: it is kept, to be delivered late; late: what comes late of others; recording,
    recording_overs: the file and the folder that are written to, "" if none is; ringing: a caller
    that waits to be let in.
    """

    state: CallState
    seconds: float
    preset: str
    presets: tuple[str, ...]
    model_id: str
    talker: Talker
    listeners: tuple[Party, ...]
    link: Link
    input_device: str
    output_device: str
    front_end: FrontEndState = FrontEndState.NONE
    muted: bool = False
    push_to_talk: bool = False
    talking: bool = False
    keeping: bool = False
    late: LateOver | None = None
    recording: str = ""
    recording_overs: str = ""
    delays: tuple[int, ...] = ()
    room: bool = False
    overloaded: bool = False
    ringing: Rings | None = None
    reason: str = ""

    def to_json(self) -> str:
        """One JSON object on one line: all but pictures and histories."""
        return json.dumps(_plain(self), allow_nan=False)


def _plain(value: Any) -> Any:
    """Dataclasses as objects, enums as their names, numbers JSON can hold."""
    if isinstance(value, Enum):
        return value.name.lower()
    if is_dataclass(value):
        return {
            field.name: _plain(part)
            for field in fields(value)
            if not isinstance(part := getattr(value, field.name), Spectrogram)
            and field.name != "history"
        }
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), _DECIMALS) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
