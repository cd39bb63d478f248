"""The messages of the voice link, byte by byte: see docs/wire.md.

One message per ZeroMQ frame, all numbers big-endian. Messages of the handshake describe themselves:
type and protocol version (a byte each), the session id (four bytes, 0 before there is one), the
body, and the CRC-32 of everything before. Once a connection is in talk, both ends know the version,
and on a secured link CURVE vouches for every byte and for the connection it belongs to: there a
message is its type and its body alone. On an unsecured link the session id still comes after the
type, which keeps out recordings of other sessions, and the CRC-32 at the end. REFUSE keeps its form
in all versions, so that any caller can be told why it is not let in.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from codec.errors import BadInput, BadStream, WrongVersion
from codec.packet import FRAME_STEPS, MAX_SESSION_PACKET

PROTOCOL_VERSION = 2
HEADER_BYTES = 6
SESSION_BYTES = 4
CRC_BYTES = 4
MAX_NAME = 64  # bytes of UTF-8
MAX_PRESET = 16
MAX_REASON = 200
MAX_TEXT = 200
MAX_PACKET = MAX_SESSION_PACKET
AUDIO_BYTES = 8  # type and party, number, transmit and age, before the packet
CAPTURE_BYTES = 1  # in some of these messages
ECHO_BYTES = 6
_TALK_BYTES = SESSION_BYTES + CRC_BYTES  # on an unsecured link
MAX_MESSAGE = AUDIO_BYTES + CAPTURE_BYTES + ECHO_BYTES + MAX_PACKET + _TALK_BYTES
MODEL_ID_BYTES = 8
NONCE_BYTES = 8
KEY_BYTES = 32
NO_KEY = bytes(KEY_BYTES)
STAMP_BITS = 24
STAMP_STEP = 16e-6  # seconds; stamps wrap after 268 s
NUMBER_BITS = 16
STEP_SECONDS = 0.064  # of sound in one latent step, which packets are numbered by
MAX_STEPS = FRAME_STEPS  # of a packet
AGE_BITS = 16
AGE_STEP = 0.00025
NO_AGE = (1 << AGE_BITS) - 1
CAPTURE_STEP = 0.002
NO_CAPTURE = 255
AGO_STEP = 1 / 16  # seconds, of how long ago an over was said
MOST_AGO = (1 << 16) - 1
OVER_STEPS = 960  # of an over that is sent late, and of what is kept of a voice: a minute
HUB = 0  # the listener's party number
PARTIES = 16  # numbers that a party can have, to speak
MAX_PARTY = PARTIES - 1

# Letters of the world's languages have three marks at most, and rarely four.
_MOST_MARKS = 4
# Printable to Python, and yet nothing is seen of them: fillers of Hangul, the blank of Braille ...
_UNSEEN = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# ... and marks that join, or choose among forms of a character.
_UNSEEN_MARKS = frozenset(
    map(
        chr,
        (0x034F, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10),
         *range(0xE0100, 0xE01F0)),
    )
)  # fmt: skip

_HEADER = struct.Struct(">BBI")
_MODEL_ID = re.compile(r"[0-9a-f]{16}")


class Type(IntEnum):
    """The first byte of a message; of AUDIO, its highest bit."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    JOINED = 4
    LEFT = 5
    HEARTBEAT = 7
    PRESET = 8
    DELAY = 9
    BYE = 10
    WHO = 11
    KEY = 12
    KEY_WANTED = 13
    TEXT = 14
    RECORDING = 15
    LATE = 16
    GOT = 17
    AUDIO = 0x80


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
class Echo:
    """The two times that answer a stamp, of NTP's on-wire protocol (RFC 5905, section 8).

    origin: the latest stamp received from the other side, as it came; hold: how long ago that was
    when this message was sent, in steps of STAMP_STEP seconds, 24 bits.
    """

    origin: int
    hold: int


@dataclass(frozen=True)
class Audio:
    """One session packet.

    number: of its first latent step, modulo 2^16; transmit: when the message was sent, a stamp of
    the sender's clock (of a hub, when it passed the packet on); age: how long before that the
    packet's last sample was in the air, in steps of AGE_STEP seconds, NO_AGE when not known;
    capture: how long samples take from the air to the party's encoder, in steps of CAPTURE_STEP
    seconds, NO_CAPTURE when not known or longer, None when it is what it was.
    """

    party: int
    number: int
    transmit: int
    packet: bytes
    age: int = NO_AGE
    capture: int | None = None
    echo: Echo | None = None


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life where nothing else was said lately. transmit: when it was sent, a stamp."""

    transmit: int
    echo: Echo | None = None


@dataclass(frozen=True)
class KeyWanted:
    """Somebody cannot decode a party's voice before it sends a key packet."""

    party: int


@dataclass(frozen=True)
class Text:
    """A party has written a line."""

    party: int
    text: str


@dataclass(frozen=True)
class Recording:
    """Whether a party records the call."""

    party: int
    on: bool


@dataclass(frozen=True)
class Late:
    """A session packet of an over that was said a while ago.

    over: counts a party's overs, modulo 2^16; index: of the packet in it; last: it ends the over;
    again: some of the over was also sent when it was said; number: of the packet's first latent
    step, modulo 2^16; ago: how long before this message was sent the over had ended, in steps of
    AGO_STEP seconds, MOST_AGO for longer ones.
    """

    party: int
    over: int
    index: int
    last: bool
    again: bool
    number: int
    ago: int
    packet: bytes


@dataclass(frozen=True)
class Got:
    """Of an over that a party sends late, the first `count` packets have come."""

    party: int
    over: int
    count: int


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
    """Before ZMTP: which public key does the listener have?"""


@dataclass(frozen=True)
class Key:
    """The answer to Who."""

    key: bytes


Handshake = Hello | Welcome | Refuse | Who | Key
Message = (
    PartyJoined
    | PartyLeft
    | Audio
    | Heartbeat
    | Preset
    | Delay
    | Bye
    | KeyWanted
    | Text
    | Recording
    | Late
    | Got
)


def encode(message: Handshake, session: int = 0) -> bytes:
    """The bytes of a message of the handshake. Raises BadInput if a value does not fit."""
    kind, names = _HANDSHAKE[type(message)]
    data = _HEADER.pack(kind, PROTOCOL_VERSION, _checked(session, 32, "session id"))
    return _sealed(data + _written(message, names))


def decode(data: bytes | bytearray | memoryview) -> tuple[int, Handshake]:
    """The session id and the message of the handshake in `data`, exactly one message.

    Raises BadStream for a damaged or meaningless message, WrongVersion for an intact one of
    another protocol version (but REFUSE is read in every version).
    """
    if not HEADER_BYTES + CRC_BYTES <= len(data) <= MAX_MESSAGE:
        raise BadStream(f"a message cannot have {len(data)} bytes")
    data = _unsealed(bytes(data))
    kind, version, session = _HEADER.unpack_from(data)
    if version != PROTOCOL_VERSION and kind != Type.REFUSE:
        raise WrongVersion(
            f"the other side speaks version {version} of the protocol, "
            f"this program version {PROTOCOL_VERSION}"
        )
    if kind not in _HANDSHAKE_TYPES:
        raise BadStream(f"message is of unknown type {kind}")
    make = _HANDSHAKE_TYPES[kind]
    body = _Body(data[HEADER_BYTES:])
    message: Handshake = make(**_read(body, _HANDSHAKE[make][1]))
    body.finish()
    return session, message


@dataclass(frozen=True)
class Talk:
    """How the messages of one connection in talk are written.

    session: the session id on an unsecured link, None where CURVE vouches for the connection.
    """

    session: int | None

    def encode(self, message: Message) -> bytes:
        """The bytes of `message`. Raises BadInput if a value does not fit its field."""
        if isinstance(message, Audio):
            first, body = _audio_written(message)
        else:
            first, names = _TALK[type(message)]
            body = _written(message, names)
        if self.session is None:
            return bytes([first]) + body
        return _sealed(bytes([first]) + self._mark(self.session) + body)

    def decode(self, data: bytes | bytearray | memoryview) -> Message:
        """The message in `data`, which must be exactly one. Raises BadStream."""
        if not 1 <= len(data) <= MAX_MESSAGE:
            raise BadStream(f"a message cannot have {len(data)} bytes")
        data = bytes(data)
        if self.session is not None:
            data = _unsealed(data)
            if data[1 : 1 + SESSION_BYTES] != self._mark(self.session):
                raise BadStream("message is of another session")
            data = data[:1] + data[1 + SESSION_BYTES :]
        first, body = data[0], _Body(data[1:])
        message: Message
        if first & Type.AUDIO:
            message = _audio_read(first, body)
        elif first in _TALK_TYPES:
            make = _TALK_TYPES[first]
            message = make(**_read(body, _TALK[make][1]))
        else:
            raise BadStream(f"message is of unknown type {first}")
        body.finish()
        return message

    @staticmethod
    def _mark(session: int) -> bytes:
        return _checked(session, 32, "session id").to_bytes(SESSION_BYTES, "big")


def packet_steps(packet: bytes) -> int:
    """How many latent steps a session packet says it holds, at most MAX_STEPS.

    Three bits of its first byte are the logarithm; what else is in it is the codec's business.
    """
    return min(1 << (packet[0] >> 1 & 7), MAX_STEPS) if packet else 1


def packet_chained(packet: bytes) -> bool:
    """Whether a session packet says that it can be decoded only after the one before it."""
    return bool(packet and packet[0] & 0x10)


def ago_steps(seconds: float) -> int:
    """How long ago an over was said, as it goes over the wire."""
    return min(round(max(seconds, 0.0) / AGO_STEP), MOST_AGO)


def age_steps(seconds: float | None) -> int:
    """The age of a packet as it goes over the wire; the longest one stands for longer ones."""
    return NO_AGE if seconds is None else min(round(max(seconds, 0.0) / AGE_STEP), NO_AGE - 1)


def age_seconds(steps: int) -> float | None:
    """The age of a packet as it came over the wire, None when it is not known."""
    return None if steps == NO_AGE else steps * AGE_STEP


def stamp_steps(seconds: float) -> int:
    """A span of time in steps of a stamp; the longest one stands for longer ones."""
    return min(max(round(seconds / STAMP_STEP), 0), (1 << STAMP_BITS) - 1)


def capture_steps(seconds: float | None) -> int:
    """A capture delay as it goes over the wire."""
    steps = NO_CAPTURE if seconds is None else round(max(seconds, 0.0) / CAPTURE_STEP)
    return min(steps, NO_CAPTURE)


def capture_seconds(steps: int) -> float | None:
    """A capture delay as it came over the wire."""
    return None if steps == NO_CAPTURE else steps * CAPTURE_STEP


def harmless(text: str) -> str:
    """`text` on one line, with blanks for characters that control terminals, hide others or cannot
    be seen, and without marks that stand on nothing or are piled up on a letter.
    """
    kept: list[str] = []
    marks = _MOST_MARKS  # on what is before, which at first is what somebody else has written
    for c in text:
        if unicodedata.category(c) in ("Mn", "Me"):
            marks += 1
            if marks <= _MOST_MARKS and c not in _UNSEEN_MARKS:
                kept.append(c)
            continue
        c = c if c.isprintable() and c not in _UNSEEN else " "
        marks = _MOST_MARKS if c.isspace() else 0
        kept.append(c)
    return "".join(kept).strip()


def clipped(text: str, limit: int = MAX_REASON) -> str:
    """What is harmless of `text`, cut to at most `limit` bytes of UTF-8."""
    return harmless(text).encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


# --- fields ---------------------------------------------------------------------------------------


class _Body:
    """Takes a body apart from the front; BadStream where it ends too early or too late."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

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


class _MaybeEcho:
    """At the end of a body, where it is all that is left, or missing."""

    def write(self, value: Echo | None, name: str) -> bytes:
        return b"" if value is None else _written(value, _ECHO)

    def read(self, body: _Body) -> Echo | None:
        return Echo(**_read(body, _ECHO)) if body else None


class _Packet:
    """All that is left of the body."""

    def write(self, value: bytes, name: str) -> bytes:
        if not 0 < len(value) <= MAX_PACKET:
            raise BadInput(f"a {name} cannot have {len(value)} bytes")
        return value

    def read(self, body: _Body) -> bytes:
        packet = body.remainder()
        if len(packet) > MAX_PACKET:
            raise BadStream(f"a packet cannot have {len(packet)} bytes")
        return packet


def _checked(value: int, bits: int, name: str) -> int:
    if not 0 <= value < 1 << bits:
        raise BadInput(f"{name} {value} does not fit in {bits} bits")
    return value


_FIELDS: dict[str, _Field] = {
    "again": _Flag(8),
    "age": _Number(AGE_BITS),
    "ago": _Number(16),
    "attempt": _Number(32),
    "capture": _Number(8),
    "code": _Code(8),
    "count": _Number(16),
    "echo": _MaybeEcho(),
    "hold": _Number(STAMP_BITS),
    "index": _Number(16),
    "instance": _Bytes(NONCE_BYTES),
    "key": _Bytes(KEY_BYTES),
    "last": _Flag(8),
    "microseconds": _Number(32),
    "model_id": _ModelId(),
    "name": _Text(MAX_NAME),
    "nonce": _Bytes(NONCE_BYTES),
    "number": _Number(NUMBER_BITS),
    "on": _Flag(8),
    "origin": _Number(STAMP_BITS),
    "over": _Number(16),
    "packet": _Packet(),
    "party": _Number(8),
    "preset": _Text(MAX_PRESET),
    "reason": _Text(MAX_REASON),
    "room": _Flag(8),
    "text": _Text(MAX_TEXT),
    "transmit": _Number(STAMP_BITS),
}

# The type byte of each message, and its fields in the order in which they are sent.
_HANDSHAKE: dict[type, tuple[Type, tuple[str, ...]]] = {
    Hello: (Type.HELLO, ("nonce", "attempt", "model_id", "room", "preset", "name")),
    Welcome: (Type.WELCOME, ("instance", "party", "model_id", "room", "preset", "name")),
    Refuse: (Type.REFUSE, ("code", "reason")),
    Who: (Type.WHO, ()),
    Key: (Type.KEY, ("key",)),
}
_HANDSHAKE_TYPES = {kind: message for message, (kind, _) in _HANDSHAKE.items()}
_TALK: dict[type, tuple[Type, tuple[str, ...]]] = {
    PartyJoined: (Type.JOINED, ("party", "key", "preset", "name")),
    PartyLeft: (Type.LEFT, ("party", "reason")),
    Heartbeat: (Type.HEARTBEAT, ("transmit", "echo")),
    Preset: (Type.PRESET, ("party", "preset")),
    Delay: (Type.DELAY, ("party", "microseconds")),
    Bye: (Type.BYE, ("reason",)),
    KeyWanted: (Type.KEY_WANTED, ("party",)),
    Text: (Type.TEXT, ("party", "text")),
    Recording: (Type.RECORDING, ("party", "on")),
    Late: (Type.LATE, ("party", "over", "index", "last", "again", "number", "ago", "packet")),
    Got: (Type.GOT, ("party", "over", "count")),
}
_TALK_TYPES: dict[int, type] = {kind: message for message, (kind, _) in _TALK.items()}
# AUDIO, which comes often, packs its type with two flags and the party: 1 e c 0 p p p p.
_ECHO_FLAG, _CAPTURE_FLAG, _RESERVED, _PARTY = 0x40, 0x20, 0x10, 0x0F
_AUDIO = ("number", "transmit", "age")
_ECHO = ("origin", "hold")


def _written(message: object, names: tuple[str, ...]) -> bytes:
    return b"".join(
        _FIELDS[name].write(getattr(message, name), name.replace("_", " ")) for name in names
    )


def _read(body: _Body, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _FIELDS[name].read(body) for name in names}


def _audio_written(audio: Audio) -> tuple[int, bytes]:
    first = Type.AUDIO | _checked(audio.party, 4, "party")
    body = _written(audio, _AUDIO)
    if audio.capture is not None:
        first |= _CAPTURE_FLAG
        body += _written(audio, ("capture",))
    if audio.echo is not None:
        first |= _ECHO_FLAG
        body += _written(audio.echo, _ECHO)
    return first, body + _written(audio, ("packet",))


def _audio_read(first: int, body: _Body) -> Audio:
    if first & _RESERVED:
        raise BadStream("message sets a reserved bit")
    fields = _read(body, _AUDIO)
    if first & _CAPTURE_FLAG:
        fields |= _read(body, ("capture",))
    echo = Echo(**_read(body, _ECHO)) if first & _ECHO_FLAG else None
    return Audio(party=first & _PARTY, echo=echo, **fields, **_read(body, ("packet",)))


def _sealed(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(CRC_BYTES, "big")


def _unsealed(data: bytes) -> bytes:
    """What the checksum at the end is of. Raises BadStream if it does not match."""
    end = len(data) - CRC_BYTES
    if end < 1 or zlib.crc32(data[:end]) != int.from_bytes(data[end:], "big"):
        raise BadStream("message is damaged: its checksum does not match")
    return data[:end]
