"""The `.stim` file: a short header, then a chain of packets for every tile.

    header   b"stim", version, flags, preset, tile cells, width, height (uint16 each), model id
             (8 bytes), CRC-16 of all that: 22 bytes
    records  uint16 length of the packet, the packet (`codec.packet`, kind IMAGE)

A packet's sequence number is that of its tile, in raster order; 65 535 is the alpha plane. The
payload of a tile that does not fit in one packet goes on in chained packets, whose first payload
byte counts 1, 2, ... The header is binary, unlike the JSON of speech files, whose length would cost
a small picture visible quality. Numbers are big-endian. `docs/image.md` has every detail.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any

from codec.errors import BadInput, BadStream, SottoError, WrongVersion
from codec.packet import (
    HEADER_BYTES,
    MAX_IMAGE_PACKET,
    MAX_IMAGE_PAYLOAD,
    PACKET_VERSION,
    Entropy,
    Kind,
    Packet,
    checksum,
    pack,
    short_id,
    unpack,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAGIC = b"stim"
VERSION = 1
STRIDE = 16  # pixels a cell is wide and high
MAX_SIDE = 65_535
MAX_PIXELS = 1 << 27
MAX_FILE = 1 << 27  # 8 bits per pixel of the largest picture
# How many times a reader resumes at bytes that only look like the start of a record.
MAX_FALSE_STARTS = 1 << 16
MAX_CHAIN = 256
ALPHA_SEQUENCE = 65_535
MIN_TILE, MAX_TILE = 8, 64

_HEADER = Struct(">4sBBBBHH8s")
_LENGTH = Struct(">H")
FILE_HEADER_BYTES = _HEADER.size + 2
_GREY, _ALPHA = 1, 2


@dataclass(frozen=True)
class Area:
    """A rectangle of cells: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.bottom - self.top, self.right - self.left

    def widened(self, cells: int, rows: int, columns: int) -> Area:
        """With `cells` more on every side, within a map of rows x columns."""
        return Area(
            max(self.top - cells, 0),
            max(self.left - cells, 0),
            min(self.bottom + cells, rows),
            min(self.right + cells, columns),
        )

    def moved(self, rows: int, columns: int) -> Area:
        """The same rectangle that many rows down and columns right."""
        return Area(self.top + rows, self.left + columns, self.bottom + rows, self.right + columns)

    def within(self, outer: Area) -> Area:
        """This rectangle in the coordinates of one around it."""
        return self.moved(-outer.top, -outer.left)

    def of(self, x: Tensor, unit: int = 1) -> Tensor:
        """This part of a map [..., rows * unit, columns * unit]."""
        return x[..., self.top * unit : self.bottom * unit, self.left * unit : self.right * unit]

    def cells_of(self, values: NDArray[Any]) -> NDArray[Any]:
        """This part of an array [rows, columns, ...]."""
        return values[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class ImageHeader:
    """What a decoder needs before the first tile.

    width, height: in pixels; preset: its number (`codec.image.presets`); tile: the most cells a
    tile is wide or high; model_id: 16 hex digits. Raises BadInput when a field is out of range.
    """

    width: int
    height: int
    model_id: str
    preset: int = 0
    tile: int = 32
    grey: bool = False
    alpha: bool = False

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if not 1 <= side <= MAX_SIDE:
                raise BadInput(f"pictures are 1 to {MAX_SIDE} pixels wide and high, not {side}")
        if self.width * self.height > MAX_PIXELS:
            raise BadInput(
                f"a picture of {self.width}x{self.height} pixels is over the limit of "
                f"{MAX_PIXELS >> 20} million"
            )
        if not MIN_TILE <= self.tile <= MAX_TILE or not 0 <= self.preset <= 255:
            raise BadInput(f"tile size {self.tile} or preset number {self.preset} is out of range")
        short_id(self.model_id)
        if len(self.tiles()) >= ALPHA_SEQUENCE:
            raise BadInput("the picture has too many tiles")

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        return -(-self.height // STRIDE), -(-self.width // STRIDE)

    def tiles(self) -> list[Area]:
        """The tiles in raster order, as even in size as they come."""
        rows, columns = (_cuts(n, self.tile) for n in self.cells)
        return [
            Area(top, left, bottom, right)
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ]


def _cuts(count: int, most: int) -> list[int]:
    parts = -(-count // most)
    return [k * count // parts for k in range(parts + 1)]


@dataclass(frozen=True)
class Payload:
    """The bytes of a tile or of the alpha plane; whole: False if packets at its end are lost."""

    quality: int
    data: bytes
    whole: bool
    entropy: Entropy = Entropy.RANGE


@dataclass
class ImageFile:
    """A `.stim` file as read; payloads: None for tiles of which nothing is left."""

    header: ImageHeader
    payloads: list[Payload | None]
    alpha: Payload | None
    size: int
    notes: list[str] = field(default_factory=list)

    @property
    def damaged_tiles(self) -> int:
        return sum(p is None or not p.whole for p in self.payloads)

    @property
    def intact(self) -> bool:
        return not self.notes

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file."""
        return 8.0 * self.size / (self.header.width * self.header.height)


def write_image(
    header: ImageHeader,
    quality: int,
    payloads: list[bytes],
    alpha: bytes | None = None,
    entropy: Entropy = Entropy.RANGE,
) -> bytes:
    """The file's bytes. Raises BadInput when a tile or the file is too long to be written."""
    flags = _GREY * header.grey | _ALPHA * header.alpha
    fields = _HEADER.pack(
        MAGIC, VERSION, flags, header.preset, header.tile, header.width, header.height,
        bytes.fromhex(header.model_id),
    )  # fmt: skip
    out = [fields, checksum(fields).to_bytes(2, "big")]
    model = short_id(header.model_id)
    everything = list(enumerate(payloads))
    if alpha is not None:
        everything.append((ALPHA_SEQUENCE, alpha))
    for sequence, payload in everything:
        for packet in _chain(sequence, quality, payload, model, entropy):
            data = pack(packet)
            out += [_LENGTH.pack(len(data)), data]
    size = sum(map(len, out))
    if size > MAX_FILE:
        raise BadInput(f"the picture takes {size} bytes, over the limit of {MAX_FILE}")
    return b"".join(out)


def _chain(
    sequence: int, quality: int, payload: bytes, model: int, entropy: Entropy
) -> list[Packet]:
    pieces = [payload[:MAX_IMAGE_PAYLOAD]]
    # A chain ends with a piece that is not full, so that a lost end is noticed.
    for at in range(MAX_IMAGE_PAYLOAD, len(payload) + 1, MAX_IMAGE_PAYLOAD - 1):
        number = len(pieces)
        if number >= MAX_CHAIN:
            raise BadInput(f"{len(payload)} bytes are too many for one tile")
        pieces.append(bytes([number]) + payload[at : at + MAX_IMAGE_PAYLOAD - 1])
    return [
        Packet(sequence, quality, piece, model, Kind.IMAGE, entropy, chained=k > 0)
        for k, piece in enumerate(pieces)
    ]


def read_header(data: bytes) -> ImageHeader:
    """The header of a file. Raises BadStream or WrongVersion."""
    if len(data) < FILE_HEADER_BYTES:
        raise BadStream("the file is too short to be a .stim picture")
    fields = data[: _HEADER.size]
    magic, version, flags, preset, tile, width, height, model = _HEADER.unpack(fields)
    if magic != MAGIC:
        raise BadStream("not a .stim picture")
    if checksum(fields) != int.from_bytes(data[_HEADER.size : FILE_HEADER_BYTES], "big"):
        raise BadStream("the header of the picture is damaged")
    if version != VERSION:
        raise WrongVersion(
            f"the picture is of format version {version}, this program reads version {VERSION}"
        )
    if flags & ~(_GREY | _ALPHA):
        raise BadStream("the header of the picture sets a reserved bit")
    try:
        return ImageHeader(
            width, height, model.hex(), preset, tile, bool(flags & _GREY), bool(flags & _ALPHA)
        )
    except BadInput as error:
        raise BadStream(f"the header of the picture is impossible: {error}") from error


def read_image(data: bytes) -> ImageFile:
    """All that can be read of a file. Raises what `read_header` raises."""
    if len(data) > MAX_FILE:
        raise BadStream(f"a picture of {len(data)} bytes is over the limit of {MAX_FILE}")
    header = read_header(data)
    tiles = header.tiles()
    pieces: dict[int, dict[int, Packet]] = {}
    skipped = 0
    at = FILE_HEADER_BYTES
    model = short_id(header.model_id)
    # An intact file has one short packet for every tile and alpha plane; all others are full.
    for _ in range(MAX_FALSE_STARTS + len(tiles) + len(data) // MAX_IMAGE_PACKET + 1):
        if at >= len(data):
            break
        packet, size = _record(data, at, model)
        if packet is None:
            start, at = at, _next_start(data, at, model)
            skipped += at - start
            continue
        at += size
        known = packet.sequence < len(tiles) or (packet.sequence == ALPHA_SEQUENCE and header.alpha)
        number = packet.payload[0] if packet.chained and packet.payload else 0
        if known and (number > 0) == packet.chained:
            pieces.setdefault(packet.sequence, {}).setdefault(number, packet)
    skipped += len(data) - at
    payloads = [_joined(pieces.get(k, {})) for k in range(len(tiles))]
    alpha = _joined(pieces.get(ALPHA_SEQUENCE, {})) if header.alpha else None
    found = ImageFile(header, payloads, alpha, len(data))
    _mark_truncation(found, pieces, skipped)
    return found


def _next_start(data: bytes, at: int, model: int) -> int:
    """Where after `at` the next record could start, by its model; the end if nowhere."""
    place = _LENGTH.size + 2
    found = data.find(model.to_bytes(2, "big"), at + 1 + place)
    return len(data) if found < 0 else found - place


def _record(data: bytes, at: int, model: int) -> tuple[Packet | None, int]:
    """The packet whose record starts at `at`, if there is one, and the record's size."""
    head = data[at : at + _LENGTH.size + 4]
    if len(head) < _LENGTH.size + 4:
        return None, 0
    (length,) = _LENGTH.unpack_from(head)
    # Checked before the checksum, so that finding the next record after damage stays fast.
    plausible = (
        HEADER_BYTES <= length <= MAX_IMAGE_PACKET
        and at + _LENGTH.size + length <= len(data)
        and head[2] >> 5 == PACKET_VERSION
        and head[2] >> 3 & 0b11 == Kind.IMAGE
        and int.from_bytes(head[4:6], "big") == model
    )
    if not plausible:
        return None, 0
    try:
        packet = unpack(data[at + _LENGTH.size : at + _LENGTH.size + length])
    except SottoError:
        return None, 0
    return packet, _LENGTH.size + length


def _joined(pieces: dict[int, Packet]) -> Payload | None:
    """The payload of a chain, up to the first packet that is missing."""
    if 0 not in pieces:
        return None
    first = pieces[0]
    parts, number = [first.payload], 1
    while number in pieces and len(parts[-1]) + (number > 1) == MAX_IMAGE_PAYLOAD:
        parts.append(pieces[number].payload[1:])
        number += 1
    # Only the last piece of a chain may be short.
    whole = len(parts[-1]) + (number > 1) < MAX_IMAGE_PAYLOAD
    return Payload(first.quality, b"".join(parts), whole, first.entropy)


def _mark_truncation(found: ImageFile, pieces: dict[int, dict[int, Packet]], skipped: int) -> None:
    if found.damaged_tiles:
        found.notes.append(f"{found.damaged_tiles} of {len(found.payloads)} tiles damaged")
    if found.header.alpha and (found.alpha is None or not found.alpha.whole):
        found.notes.append("the alpha plane is damaged")
    if skipped:
        found.notes.append(f"{skipped} bytes unreadable")
