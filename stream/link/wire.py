"""The messages of the voice link: what two ends say to each other, byte by byte.

One message per ZeroMQ frame, all numbers big-endian:

    byte 0      type
    byte 1      protocol version
    bytes 2-5   session id, agreed in the handshake; 0 before there is one
    bytes 6-    body
    last 4      CRC-32 of everything before

The session id ties a message to one handshake, so that what was recorded in another session is
rejected even where nothing is encrypted. The checksum (CRC-32/ISO-HDLC, polynomial 0x04C11DB7, the
one of Ethernet and zlib) detects every single-bit error and every burst of up to 32 bits. It and
the version keep their places in all versions; REFUSE keeps its whole form, so that an end can be
told why by one of any version.

docs/wire.md says what the messages mean and when they are sent.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

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

    model_id: 16 lower-case hex digits; name: at most MAX_NAME bytes of UTF-8; room: the caller is
    ready to hear several parties; nonce: drawn once per caller and kept when it returns; attempt:
    counts up with every connection the caller makes, so that a recorded HELLO is of no use.
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

    party: the caller's number; instance: drawn once per listener, so that a caller which returns
    knows whether it speaks with the one it left; preset: the one agreed on.
    """

    party: int
    instance: bytes
    model_id: str
    preset: str
    name: str
    room: bool


@dataclass(frozen=True)
class Refuse:
    """The listener's answer to a caller it does not let in, with a reason for people."""

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

    party: whose voice; sequence: counts a party's packets, 32 bits; captured: when the frame's
    last sample was in the air, a stamp of the clock of whoever sends this message (the room's hub
    converts), NO_STAMP when not known; capture: how long samples take from the air to the party's
    encoder, in steps of CAPTURE_STEP seconds, NO_CAPTURE when not known or longer.
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


Message = (
    Hello
    | Welcome
    | Refuse
    | PartyJoined
    | PartyLeft
    | Audio
    | Heartbeat
    | Preset
    | Delay
    | Bye
    | Who
    | Key
)


def encode(message: Message, session: int = 0) -> bytes:
    """The bytes of `message`. Raises BadInput if a value does not fit its field."""
    kind, write = _WRITERS[type(message)]
    head = _HEADER.pack(kind, PROTOCOL_VERSION, _checked(session, 32, "session id"))
    data = head + write(message)
    return data + zlib.crc32(data).to_bytes(CRC_BYTES, "big")


def decode(data: bytes | bytearray | memoryview) -> tuple[int, Message]:
    """The session id and the message in `data`, which must be exactly one message.

    Raises BadStream for a damaged or meaningless message, WrongVersion for an intact one of
    another protocol version (but REFUSE is read in every version).
    """
    if not HEADER_BYTES + CRC_BYTES <= len(data) <= MAX_MESSAGE:
        raise BadStream(f"a message of {len(data)} bytes is no message")
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
    read = _READERS.get(kind)
    if read is None:
        raise BadStream(f"message is of unknown type {kind}")
    body = _Body(data[HEADER_BYTES:end])
    message = read(body)
    body.finish()
    return session, message


def capture_steps(seconds: float | None) -> int:
    """A capture delay as it goes over the wire."""
    steps = NO_CAPTURE if seconds is None else round(max(seconds, 0.0) / CAPTURE_STEP)
    return min(steps, NO_CAPTURE)


def capture_seconds(steps: int) -> float | None:
    """A capture delay as it came over the wire."""
    return None if steps == NO_CAPTURE else steps * CAPTURE_STEP


def clipped(text: str, limit: int) -> str:
    """`text` without control characters and cut to at most `limit` bytes of UTF-8."""
    printable = "".join(c if c.isprintable() else " " for c in text).strip()
    return printable.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


# --- writing --------------------------------------------------------------------------------------


def _checked(value: int, bits: int, name: str) -> int:
    if not 0 <= value < 1 << bits:
        raise BadInput(f"{name} {value} does not fit in {bits} bits")
    return value


def _number(value: int, bits: int, name: str) -> bytes:
    return _checked(value, bits, name).to_bytes(bits // 8, "big")


def _text(text: str, limit: int, name: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"the {name} is not Unicode text") from None
    if len(data) > limit:
        raise BadInput(f"the {name} is longer than {limit} bytes")
    return bytes([len(data)]) + data


def _fixed(data: bytes, length: int, name: str) -> bytes:
    if len(data) != length:
        raise BadInput(f"the {name} has {len(data)} bytes, not {length}")
    return data


def _model(model_id: str) -> bytes:
    if not _MODEL_ID.fullmatch(model_id):
        raise BadInput(f"model id {model_id!r} is not 16 lower-case hex digits")
    return bytes.fromhex(model_id)


def _party(party: int) -> bytes:
    return _number(party, 8, "party")


def _flag(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _write_hello(m: Hello) -> bytes:
    return (
        _fixed(m.nonce, NONCE_BYTES, "nonce")
        + _number(m.attempt, 32, "attempt")
        + _model(m.model_id)
        + _flag(m.room)
        + _text(m.preset, MAX_PRESET, "preset")
        + _text(m.name, MAX_NAME, "name")
    )


def _write_welcome(m: Welcome) -> bytes:
    return (
        _fixed(m.instance, NONCE_BYTES, "instance")
        + _party(m.party)
        + _model(m.model_id)
        + _flag(m.room)
        + _text(m.preset, MAX_PRESET, "preset")
        + _text(m.name, MAX_NAME, "name")
    )


def _write_refuse(m: Refuse) -> bytes:
    return _number(m.code, 8, "code") + _text(m.reason, MAX_REASON, "reason")


def _write_joined(m: PartyJoined) -> bytes:
    return (
        _party(m.party)
        + _fixed(m.key, KEY_BYTES, "public key")
        + _text(m.preset, MAX_PRESET, "preset")
        + _text(m.name, MAX_NAME, "name")
    )


def _write_audio(m: Audio) -> bytes:
    if not 0 < len(m.packet) <= MAX_PACKET:
        raise BadInput(f"a packet of {len(m.packet)} bytes is no packet")
    return (
        _party(m.party)
        + _number(m.sequence, 32, "sequence")
        + _number(m.captured, STAMP_BITS, "capture time")
        + _number(m.capture, 8, "capture delay")
        + m.packet
    )


def _write_heartbeat(m: Heartbeat) -> bytes:
    return b"".join(_number(t, STAMP_BITS, "time") for t in (m.transmit, m.origin, m.receive))


_WRITERS: dict[type, tuple[Type, Callable[..., bytes]]] = {
    Hello: (Type.HELLO, _write_hello),
    Welcome: (Type.WELCOME, _write_welcome),
    Refuse: (Type.REFUSE, _write_refuse),
    PartyJoined: (Type.JOINED, _write_joined),
    PartyLeft: (Type.LEFT, lambda m: _party(m.party) + _text(m.reason, MAX_REASON, "reason")),
    Audio: (Type.AUDIO, _write_audio),
    Heartbeat: (Type.HEARTBEAT, _write_heartbeat),
    Preset: (Type.PRESET, lambda m: _party(m.party) + _text(m.preset, MAX_PRESET, "preset")),
    Delay: (Type.DELAY, lambda m: _party(m.party) + _number(m.microseconds, 32, "delay")),
    Bye: (Type.BYE, lambda m: _text(m.reason, MAX_REASON, "reason")),
    Who: (Type.WHO, lambda m: b""),
    Key: (Type.KEY, lambda m: _fixed(m.key, KEY_BYTES, "public key")),
}


# --- reading --------------------------------------------------------------------------------------


class _Body:
    """Takes a body apart from the front; BadStream where it ends too early or too late."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise BadStream("message is too short for its type")
        part = self._data[self._position : end]
        self._position = end
        return part

    def number(self, bits: int) -> int:
        return int.from_bytes(self.take(bits // 8), "big")

    def flag(self) -> bool:
        value = self.number(8)
        if value > 1:
            raise BadStream("message sets a reserved bit")
        return value == 1

    def text(self, limit: int) -> str:
        length = self.number(8)
        if length > limit:
            raise BadStream(f"message holds a text of {length} bytes where {limit} are allowed")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise BadStream("message holds a text that is not UTF-8") from None

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise BadStream("message is too long for its type")


def _read_hello(body: _Body) -> Hello:
    nonce, attempt = body.take(NONCE_BYTES), body.number(32)
    model_id, room = body.take(MODEL_ID_BYTES).hex(), body.flag()
    return Hello(model_id, body.text(MAX_PRESET), body.text(MAX_NAME), room, nonce, attempt)


def _read_welcome(body: _Body) -> Welcome:
    instance, party = body.take(NONCE_BYTES), body.number(8)
    model_id, room = body.take(MODEL_ID_BYTES).hex(), body.flag()
    return Welcome(party, instance, model_id, body.text(MAX_PRESET), body.text(MAX_NAME), room)


def _read_refuse(body: _Body) -> Refuse:
    code = body.number(8)
    known = Refusal(code) if code in set(Refusal) else Refusal.OTHER
    return Refuse(known, body.text(MAX_REASON))


def _read_joined(body: _Body) -> PartyJoined:
    party, key = body.number(8), body.take(KEY_BYTES)
    return PartyJoined(party, key, body.text(MAX_PRESET), body.text(MAX_NAME))


def _read_audio(body: _Body) -> Audio:
    party, sequence, captured = body.number(8), body.number(32), body.number(STAMP_BITS)
    capture = body.number(8)
    packet = body.rest()
    if not packet:
        raise BadStream("message is too short for its type")
    return Audio(party, sequence, captured, packet, capture)


def _read_heartbeat(body: _Body) -> Heartbeat:
    return Heartbeat(body.number(STAMP_BITS), body.number(STAMP_BITS), body.number(STAMP_BITS))


_READERS: dict[int, Callable[[_Body], Message]] = {
    Type.HELLO: _read_hello,
    Type.WELCOME: _read_welcome,
    Type.REFUSE: _read_refuse,
    Type.JOINED: _read_joined,
    Type.LEFT: lambda body: PartyLeft(body.number(8), body.text(MAX_REASON)),
    Type.AUDIO: _read_audio,
    Type.HEARTBEAT: _read_heartbeat,
    Type.PRESET: lambda body: Preset(body.number(8), body.text(MAX_PRESET)),
    Type.DELAY: lambda body: Delay(body.number(8), body.number(32)),
    Type.BYE: lambda body: Bye(body.text(MAX_REASON)),
    Type.WHO: lambda body: Who(),
    Type.KEY: lambda body: Key(body.take(KEY_BYTES)),
}
