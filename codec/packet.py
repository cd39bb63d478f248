"""A packet: one frame as an 8-byte header with a checksum and the entropy-coded payload.

    byte 0     version (3 bits) | kind (2) | entropy coder (1) | chained (1) | reserved, 0 (1)
    byte 1     quality index: the rate point the latents are scaled for
    bytes 2-3  short model id: the first 16 bits of the 64-bit model id
    bytes 4-5  sequence number, wraps at 65 536
    bytes 6-7  CRC-16 of bytes 0-5 followed by the payload
    bytes 8-   payload, at most `MAX_PAYLOAD` bytes, of images `MAX_IMAGE_PAYLOAD`

All numbers are big-endian. The carrier of a packet gives its length.

The checksum is CRC-16/IBM-3740 ("CCITT-FALSE": polynomial 0x1021, initial value 0xFFFF), which is
in the standard library. The polynomial has the factor x + 1 and x has order 32 767 modulo it, so
in packets of up to 32 767 bits (ours have at most 32 760) every 1-, 2- and 3-bit error and every
error of an odd number of bits is detected: Hamming distance 4. No 16 check bits do better at this
length: distance 5 needs 1 + n + n(n-1)/2 <= 2^16 (Hamming bound), n <= 361 bits. Other damage
passes with probability 2^-16.
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
    """One frame, coded.

    sequence, model_id: 16-bit unsigned; quality: 8-bit unsigned; payload: at most
    `max_payload(kind)` bytes; chained: decoding needs the frame before this one as context, in
    images that the payload continues that of the packet before. Raises `BadInput` if a value does
    not fit its field.
    """

    sequence: int
    quality: int
    payload: bytes
    model_id: int
    kind: Kind = Kind.SPEECH
    entropy: Entropy = Entropy.RANGE
    chained: bool = False

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
        if len(self.payload) > max_payload(self.kind):
            raise BadInput(
                f"packet payload of {len(self.payload)} bytes exceeds the limit of "
                f"{max_payload(self.kind)}"
            )


def max_payload(kind: Kind) -> int:
    """The most payload bytes of a packet of this kind."""
    return MAX_IMAGE_PAYLOAD if kind is Kind.IMAGE else MAX_PAYLOAD


def checksum(data: bytes, start: int = _CRC_START) -> int:
    """CRC-16/IBM-3740 of `data`, continued from `start`; 0x29B1 for b"123456789"."""
    return binascii.crc_hqx(data, start)


def pack(packet: Packet) -> bytes:
    """The bytes of `packet`: HEADER_BYTES, then its payload."""
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
