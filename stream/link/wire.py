"""The messages of the voice link, byte by byte: see docs/wire.md.

One message per ZeroMQ frame, all numbers big-endian: type and protocol version (a byte each), the
session id (four bytes, 0 before there is one), the body, and the CRC-32 of everything before. The
session id ties a message to one handshake, so that a recording of another session is rejected even
where nothing is encrypted. REFUSE keeps its form in all versions, so that any caller can be told
why it is not let in.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from codec.errors import BadInput, BadStream, WrongVersion
from codec.packet import MAX_PACKET

PROTOCOL_VERSION = 1
HEADER_BYTES = 6
CRC_BYTES = 4
MAX_NAME = 64  # bytes of UTF-8
MAX_PRESET = 16
MAX_REASON = 200
AUDIO_BYTES = 12  # party, sequence, capture time and delay, before the packet
MAX_MESSAGE = HEADER_BYTES + AUDIO_BYTES + MAX_PACKET + CRC_BYTES
MODEL_ID_BYTES = 8
NONCE_BYTES = 8
KEY_BYTES = 32
NO_KEY = bytes(KEY_BYTES)
STAMP_BITS = 48
NO_STAMP = 0
CAPTURE_STEP = 0.002
NO_CAPTURE = 255
HUB = 0  # the listener's party number

_HEADER = struct.Struct(">BBI")
_MODEL_ID = re.compile(r"[0-9a-f]{16}")


class Type(IntEnum):
    """The first byte of a message."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    JOINED = 4
    LEFT = 5
    AUDIO = 6
    HEARTBEAT = 7
    PRESET = 8
    DELAY = 9
    BYE = 10
    WHO = 11
    KEY = 12


class Refusal(IntEnum):
    """Why a caller is not let in. Readers take codes they do not know for OTHER."""

    OTHER = 0
    WRONG_VERSION = 1
    WRONG_MODEL = 2
    BUSY = 3
    ROOM_FULL = 4


@dataclass(frozen=True)
class Hello:
    """A caller's first message.

    model_id: 16 lower-case hex digits; room: the caller can hear several parties; nonce: drawn once
    per caller and kept when it returns; attempt: counts the connections the caller makes, so that a
    recorded HELLO is of no use.
    """

    model_id: str
    preset: str
    name: str
    room: bool
    nonce: bytes
    attempt: int


@dataclass(frozen=True)
class Welcome:
    """The listener's answer.

    party: the caller's number; instance: drawn once per listener, so that a caller that returns
    knows a restarted one; preset: the one agreed on.
    """

    party: int
    instance: bytes
    model_id: str
    preset: str
    name: str
    room: bool


@dataclass(frozen=True)
class Refuse:
    """The listener's answer to a caller that it does not let in."""

    code: Refusal
    reason: str


@dataclass(frozen=True)
class PartyJoined:
    """Another party of the room. key: its public key, NO_KEY on an unsecured link."""

    party: int
    key: bytes
    preset: str
    name: str


@dataclass(frozen=True)
class PartyLeft:
    """A party has left the room."""

    party: int
    reason: str


@dataclass(frozen=True)
class Audio:
    """One codec packet.

    sequence: counts a party's packets, 32 bits; captured: when the frame's last sample was in the
    air, a stamp of the sender's clock (a hub converts), NO_STAMP when not known; capture: how long
    samples take from the air to the party's encoder, in steps of CAPTURE_STEP seconds, NO_CAPTURE
    when not known or longer.
    """

    party: int
    sequence: int
    captured: int
    packet: bytes
    capture: int = NO_CAPTURE


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life, and the four times of NTP's on-wire protocol (RFC 5905, section 8).

    transmit: when this message was sent; origin: `transmit` of the latest heartbeat received from
    the other side, NO_STAMP before the first; receive: when that one arrived. The first and third
    are in the sender's clock, origin in the receiver's.
    """

    transmit: int
    origin: int
    receive: int


@dataclass(frozen=True)
class Preset:
    """A party codes its voice by another preset from its next frame on."""

    party: int
    preset: str


@dataclass(frozen=True)
class Delay:
    """From the hub: how long messages take from a party to the hub, in microseconds, 32 bits."""

    party: int
    microseconds: int


@dataclass(frozen=True)
class Bye:
    """The sender hangs up."""

    reason: str


@dataclass(frozen=True)
class Who:
    """To the introduction port: which public key does the listener have?"""


@dataclass(frozen=True)
class Key:
    """The answer to Who."""

    key: bytes


_Handshake = Hello | Welcome | Refuse | Who | Key
_Talk = PartyJoined | PartyLeft | Audio | Heartbeat | Preset | Delay | Bye
Message = _Handshake | _Talk


def encode(message: Message, session: int = 0) -> bytes:
    """The bytes of `message`. Raises BadInput if a value does not fit its field."""
    kind, names = _LAYOUTS[type(message)]
    data = _HEADER.pack(kind, PROTOCOL_VERSION, _checked(session, 32, "session id"))
    for name in names:
        data += _FIELDS[name].write(getattr(message, name), name.replace("_", " "))
    return data + zlib.crc32(data).to_bytes(CRC_BYTES, "big")


def decode(data: bytes | bytearray | memoryview) -> tuple[int, Message]:
    """The session id and the message in `data`, which must be exactly one message.

    Raises BadStream for a damaged or meaningless message, WrongVersion for an intact one of
    another protocol version (but REFUSE is read in every version).
    """
    if not HEADER_BYTES + CRC_BYTES <= len(data) <= MAX_MESSAGE:
        raise BadStream(f"a message cannot have {len(data)} bytes")
    data = bytes(data)
    end = len(data) - CRC_BYTES
    if zlib.crc32(data[:end]) != int.from_bytes(data[end:], "big"):
        raise BadStream("message is damaged: its checksum does not match")
    kind, version, session = _HEADER.unpack_from(data)
    if version != PROTOCOL_VERSION and kind != Type.REFUSE:
        raise WrongVersion(
            f"the other side speaks version {version} of the protocol, "
            f"this program version {PROTOCOL_VERSION}"
        )
    if kind not in _TYPES:
        raise BadStream(f"message is of unknown type {kind}")
    make = _TYPES[kind]
    body = _Body(data[HEADER_BYTES:end])
    message: Message = make(**{name: _FIELDS[name].read(body) for name in _LAYOUTS[make][1]})
    body.finish()
    return session, message


def capture_steps(seconds: float | None) -> int:
    """A capture delay as it goes over the wire."""
    steps = NO_CAPTURE if seconds is None else round(max(seconds, 0.0) / CAPTURE_STEP)
    return min(steps, NO_CAPTURE)


def capture_seconds(steps: int) -> float | None:
    """A capture delay as it came over the wire."""
    return None if steps == NO_CAPTURE else steps * CAPTURE_STEP


def clipped(text: str, limit: int = MAX_REASON) -> str:
    """`text` without control characters and cut to at most `limit` bytes of UTF-8."""
    printable = "".join(c if c.isprintable() else " " for c in text).strip()
    return printable.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


# --- fields ---------------------------------------------------------------------------------------


class _Body:
    """Takes a body apart from the front; BadStream where it ends too early or too late."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise BadStream("message is too short for its type")
        part, self._data = self._data[:count], self._data[count:]
        return part

    def remainder(self) -> bytes:
        return self.take(max(len(self._data), 1))

    def finish(self) -> None:
        if self._data:
            raise BadStream("message is too long for its type")


class _Field(Protocol):
    """One kind of value. `write` raises BadInput, `read` BadStream."""

    def write(self, value: Any, name: str, /) -> bytes: ...
    def read(self, body: _Body, /) -> Any: ...


@dataclass(frozen=True)
class _Number:
    bits: int

    def write(self, value: int, name: str) -> bytes:
        return _checked(value, self.bits, name).to_bytes(self.bits // 8, "big")

    def read(self, body: _Body) -> int:
        return int.from_bytes(body.take(self.bits // 8), "big")


class _Flag(_Number):
    def read(self, body: _Body) -> bool:
        value = super().read(body)
        if value > 1:
            raise BadStream("message sets a reserved bit")
        return value == 1


class _Code(_Number):
    def read(self, body: _Body) -> Refusal:
        code = super().read(body)
        return Refusal(code) if code in set(Refusal) else Refusal.OTHER


@dataclass(frozen=True)
class _Text:
    limit: int

    def write(self, value: str, name: str) -> bytes:
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadInput(f"the {name} is not Unicode text") from None
        if len(data) > self.limit:
            raise BadInput(f"the {name} is longer than {self.limit} bytes")
        return bytes([len(data)]) + data

    def read(self, body: _Body) -> str:
        length = body.take(1)[0]
        if length > self.limit:
            raise BadStream(f"message holds a text of {length} bytes, {self.limit} are allowed")
        try:
            return body.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise BadStream("message holds a text that is not UTF-8") from None


@dataclass(frozen=True)
class _Bytes:
    length: int

    def write(self, value: bytes, name: str) -> bytes:
        if len(value) != self.length:
            raise BadInput(f"the {name} has {len(value)} bytes, not {self.length}")
        return value

    def read(self, body: _Body) -> bytes:
        return body.take(self.length)


class _ModelId:
    def write(self, value: str, name: str) -> bytes:
        if not _MODEL_ID.fullmatch(value):
            raise BadInput(f"{name} {value!r} is not 16 lower-case hex digits")
        return bytes.fromhex(value)

    def read(self, body: _Body) -> str:
        return body.take(MODEL_ID_BYTES).hex()


class _Packet:
    """All that is left of the body."""

    def write(self, value: bytes, name: str) -> bytes:
        if not 0 < len(value) <= MAX_PACKET:
            raise BadInput(f"a {name} cannot have {len(value)} bytes")
        return value

    def read(self, body: _Body) -> bytes:
        return body.remainder()


def _checked(value: int, bits: int, name: str) -> int:
    if not 0 <= value < 1 << bits:
        raise BadInput(f"{name} {value} does not fit in {bits} bits")
    return value


_FIELDS: dict[str, _Field] = {
    "attempt": _Number(32),
    "capture": _Number(8),
    "captured": _Number(STAMP_BITS),
    "code": _Code(8),
    "instance": _Bytes(NONCE_BYTES),
    "key": _Bytes(KEY_BYTES),
    "microseconds": _Number(32),
    "model_id": _ModelId(),
    "name": _Text(MAX_NAME),
    "nonce": _Bytes(NONCE_BYTES),
    "origin": _Number(STAMP_BITS),
    "packet": _Packet(),
    "party": _Number(8),
    "preset": _Text(MAX_PRESET),
    "reason": _Text(MAX_REASON),
    "receive": _Number(STAMP_BITS),
    "room": _Flag(8),
    "sequence": _Number(32),
    "transmit": _Number(STAMP_BITS),
}

# The type byte of each message, and its fields in the order in which they are sent.
_LAYOUTS: dict[type, tuple[Type, tuple[str, ...]]] = {
    Hello: (Type.HELLO, ("nonce", "attempt", "model_id", "room", "preset", "name")),
    Welcome: (Type.WELCOME, ("instance", "party", "model_id", "room", "preset", "name")),
    Refuse: (Type.REFUSE, ("code", "reason")),
    PartyJoined: (Type.JOINED, ("party", "key", "preset", "name")),
    PartyLeft: (Type.LEFT, ("party", "reason")),
    Audio: (Type.AUDIO, ("party", "sequence", "captured", "capture", "packet")),
    Heartbeat: (Type.HEARTBEAT, ("transmit", "origin", "receive")),
    Preset: (Type.PRESET, ("party", "preset")),
    Delay: (Type.DELAY, ("party", "microseconds")),
    Bye: (Type.BYE, ("reason",)),
    Who: (Type.WHO, ()),
    Key: (Type.KEY, ("key",)),
}
_TYPES = {kind: message for message, (kind, _) in _LAYOUTS.items()}
