"""A packet: a piece of speech or a tile of a picture, coded, and its two forms as bytes.

Speech is counted in latent steps of 64 ms; a packet holds 1, 2, 4, 8 or 16 of them, which make a
frame. The *file form* stands for itself:

    byte 0     version (3 bits) | kind (2) | entropy coder (1) | chained (1) | reserved, 0 (1)
    byte 1     quality index: the rate point the latents are scaled for
    bytes 2-3  short model id: the first 16 bits of the 64-bit model id
    bytes 4-5  sequence number, wraps at 65 536
    bytes 6-7  CRC-16 of bytes 0-5 followed by the payload
    bytes 8-   payload, at most `MAX_PAYLOAD` bytes, of images `MAX_IMAGE_PAYLOAD`

The *session form* leaves to its carrier what that knows: the length of the packet, the model, the
number of its first step, and that it is intact.

    byte 0     kind (2 bits) | entropy coder (1) | chained (1) | log2 of its steps (3) | 0 (1)
    byte 1     quality index
    bytes 2-   payload, at most `MAX_PAYLOAD` bytes

All numbers are big-endian. The carrier of a packet gives its length.

The checksum of the file form is CRC-16/IBM-3740 ("CCITT-FALSE": polynomial 0x1021, initial value
0xFFFF), which is in the standard library. The polynomial has the factor x + 1 and x has order
32 767 modulo it, so in packets of up to 32 767 bits (ours have at most 32 760) every 1-, 2- and
3-bit error and every error of an odd number of bits is detected: Hamming distance 4. No 16 check
bits do better at this length: distance 5 needs 1 + n + n(n-1)/2 <= 2^16 (Hamming bound), n <= 361
bits. Other damage passes with probability 2^-16.
"""

from __future__ import annotations

import binascii
import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from codec.errors import BadInput, BadStream, WrongVersion

PACKET_VERSION = 1
HEADER_BYTES = 8
MAX_PAYLOAD = 1024
MAX_PACKET = HEADER_BYTES + MAX_PAYLOAD
# Images are files: longer packets cost them fewer headers. As long as the checksum is at its best.
MAX_IMAGE_PAYLOAD = 4087
MAX_IMAGE_PACKET = HEADER_BYTES + MAX_IMAGE_PAYLOAD
SEQUENCE_MODULUS = 1 << 16
SESSION_HEADER_BYTES = 2
MAX_SESSION_PACKET = SESSION_HEADER_BYTES + MAX_PAYLOAD
STEPS = (1, 2, 4, 8, 16)  # latent steps that a packet of speech may hold
FRAME_STEPS = STEPS[-1]
STEP_MS = 64
DELAYS = tuple(steps * STEP_MS for steps in STEPS)  # milliseconds of speech in a packet
CALL_DELAY = 256  # of a call that asks for no other

_FIELDS = struct.Struct(">BBHH")
_CRC_START = 0xFFFF
_RESERVED_KIND = 3
_MODEL_ID = re.compile(r"[0-9a-fA-F]{16}")


class Kind(IntEnum):
    """What the payload describes."""

    SPEECH = 0
    IMAGE = 1
    COMFORT_NOISE = 2


class Entropy(IntEnum):
    """Which entropy coder wrote the payload."""

    RANGE = 0
    HUFFMAN = 1


@dataclass(frozen=True)
class Packet:
    """A piece of speech or of a picture, coded.

    sequence: 16-bit number, in the file form counted in packets, in the session form in steps;
    model_id: 16-bit unsigned; quality: 8-bit unsigned; payload: at most `max_payload(kind)` bytes;
    chained: the payload can only be decoded after the packet before this one, in images that it
    continues that of the packet before; steps: one of `STEPS`. Raises `BadInput` if a value does
    not fit its field.
    """

    sequence: int
    quality: int
    payload: bytes
    model_id: int
    kind: Kind = Kind.SPEECH
    entropy: Entropy = Entropy.RANGE
    chained: bool = False
    steps: int = FRAME_STEPS

    def __post_init__(self) -> None:
        for name, bits in (("sequence", 16), ("quality", 8), ("model_id", 16)):
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise BadInput(f"packet {name} {value} does not fit in {bits} bits")
        try:
            # Plain integers are accepted if they have a meaning.
            object.__setattr__(self, "kind", Kind(self.kind))
            object.__setattr__(self, "entropy", Entropy(self.entropy))
        except ValueError as reason:
            raise BadInput(f"packet cannot be written: {reason}") from None
        if self.steps not in STEPS:
            raise BadInput(f"a packet cannot hold {self.steps} steps")
        if len(self.payload) > max_payload(self.kind):
            raise BadInput(
                f"packet payload of {len(self.payload)} bytes exceeds the limit of "
                f"{max_payload(self.kind)}"
            )

    @property
    def pause(self) -> bool:
        """Whether it holds no speech: comfort noise or silence, which go on until the next packet
        says otherwise."""
        return self.kind is Kind.COMFORT_NOISE or not self.payload


def max_payload(kind: Kind) -> int:
    """The most payload bytes of a packet of this kind."""
    return MAX_IMAGE_PAYLOAD if kind is Kind.IMAGE else MAX_PAYLOAD


def fits(most: int | None, steps: int) -> bool:
    """Whether packets of so many latent steps can carry speech within a limit in bytes: within
    less, loud or noisy ones become noise."""
    return most is None or most >= SESSION_HEADER_BYTES + 8 * steps


def check_fits(most: int | None, steps: int) -> None:
    """Raises BadInput unless `fits`."""
    if not fits(most, steps):
        delay, least = steps * STEP_MS, SESSION_HEADER_BYTES + 8 * steps
        raise BadInput(f"packets of {delay} ms need {least} bytes, {most} are allowed")


def checksum(data: bytes, start: int = _CRC_START) -> int:
    """CRC-16/IBM-3740 of `data`, continued from `start`; 0x29B1 for b"123456789"."""
    return binascii.crc_hqx(data, start)


def pack(packet: Packet) -> bytes:
    """The file form of `packet`: HEADER_BYTES, then its payload. Raises BadInput for speech of
    fewer steps than a frame, which this form cannot tell from one."""
    if packet.steps != FRAME_STEPS:
        raise BadInput(f"a packet of {packet.steps} steps has no file form")
    flags = (
        PACKET_VERSION << 5
        | packet.kind << 3
        | packet.entropy << 2
        | (0b10 if packet.chained else 0)
    )
    fields = _FIELDS.pack(flags, packet.quality, packet.model_id, packet.sequence)
    crc = checksum(packet.payload, checksum(fields))
    return fields + crc.to_bytes(2, "big") + packet.payload


def unpack(data: bytes | bytearray | memoryview) -> Packet:
    """The packet in `data`, which must be exactly one packet.

    The checksum, which has the same place and polynomial in every version, is verified before the
    version: a flipped version bit is no later version.

    Raises `BadStream` for a damaged packet, `WrongVersion` for an intact one of another version.
    """
    if len(data) < HEADER_BYTES:
        raise BadStream(
            f"packet of {len(data)} bytes is shorter than its {HEADER_BYTES}-byte header"
        )
    limit = MAX_IMAGE_PACKET if data[0] >> 3 & 0b11 == Kind.IMAGE else MAX_PACKET
    if len(data) > limit:
        raise BadStream(f"packet of {len(data)} bytes is longer than the limit of {limit}")
    data = bytes(data)
    fields, payload = data[: _FIELDS.size], data[HEADER_BYTES:]
    if checksum(payload, checksum(fields)) != int.from_bytes(data[6:8], "big"):
        raise BadStream("packet is damaged: its checksum does not match")
    flags, quality, model_id, sequence = _FIELDS.unpack(fields)
    version = flags >> 5
    if version != PACKET_VERSION:
        raise WrongVersion(
            f"packet is of format version {version}, this program reads version {PACKET_VERSION}"
        )
    if flags & 1:
        raise BadStream("packet sets a reserved bit")
    kind = flags >> 3 & 0b11
    if kind == _RESERVED_KIND:
        raise BadStream(f"packet is of reserved kind {kind}")
    return Packet(
        sequence=sequence,
        quality=quality,
        payload=payload,
        model_id=model_id,
        kind=Kind(kind),
        entropy=Entropy(flags >> 2 & 1),
        chained=bool(flags & 0b10),
    )


def pack_session(packet: Packet) -> bytes:
    """The session form of a packet of speech: SESSION_HEADER_BYTES, then its payload.

    Raises BadInput for a packet of an image.
    """
    if packet.kind is Kind.IMAGE:
        raise BadInput("a packet of an image has no session form")
    flags = packet.kind << 6 | packet.entropy << 5 | packet.chained << 4
    header = bytes([flags | packet.steps.bit_length() - 1 << 1, packet.quality])
    return header + packet.payload


def unpack_session(data: bytes | bytearray | memoryview, sequence: int, model_id: int) -> Packet:
    """The packet in the session form `data`.

    sequence: the number of its first step, modulo `SEQUENCE_MODULUS`; model_id: its 16 bits, as the
    carrier knows them. Raises `BadStream` for what is no such packet.
    """
    data = bytes(data)
    if not SESSION_HEADER_BYTES <= len(data) <= MAX_SESSION_PACKET:
        raise BadStream(f"a packet of speech cannot have {len(data)} bytes")
    flags, quality = data[:SESSION_HEADER_BYTES]
    kind, exponent = flags >> 6, flags >> 1 & 0b111
    if kind not in (Kind.SPEECH, Kind.COMFORT_NOISE) or flags & 1 or exponent >= len(STEPS):
        raise BadStream("packet is of a reserved kind or length, or sets a reserved bit")
    return Packet(
        sequence=sequence,
        quality=quality,
        payload=data[SESSION_HEADER_BYTES:],
        model_id=model_id,
        kind=Kind(kind),
        entropy=Entropy(flags >> 5 & 1),
        chained=bool(flags >> 4 & 1),
        steps=1 << exponent,
    )


def short_id(model_id_hex: str) -> int:
    """The 16 bits of a model id that travel in packets: its first four hex digits.

    Raises `BadInput` unless `model_id_hex` is 16 hex digits.
    """
    if not _MODEL_ID.fullmatch(model_id_hex):
        raise BadInput(f"model id {model_id_hex!r} is not 16 hex digits")
    return int(model_id_hex[:4], 16)


def unwrap_sequence(previous: int, wrapped: int) -> int:
    """The full sequence number nearest to `previous` that wraps to `wrapped`.

    previous: an unwrapped sequence number; wrapped: a 16-bit one. The result lies in
    [previous - 32768, previous + 32767] and may be negative: a packet from before the first.
    """
    half = SEQUENCE_MODULUS // 2
    return previous + (wrapped - previous + half) % SEQUENCE_MODULUS - half
