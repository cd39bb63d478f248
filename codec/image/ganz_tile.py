"""What a tile of the `ganz` preset is in a file: latents, and which numbers of h0 they reach.

A payload, big-endian: the number of latents in two bytes; if they are coded, their root mean square
as a half-precision number; if their places are chosen, the length of the places in two bytes (0:
fixed after all) and these (`encode_flags`); then the latents, as 32-bit floats or as the
entropy coder's bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.range_coder import UInt8, decode_flags, encode_flags
from codec.entropy.static import StaticHuffmanCoder, StaticRangeCoder
from codec.errors import BadStream
from codec.image.container import Payload
from codec.packet import Entropy

if TYPE_CHECKING:
    from models.folder import GanzModel

FLOATS, CODED, CHOSEN = 0, 1, 2  # what packets say as their quality: one of two, and a flag
NUMBER = 4  # bytes a float takes
_COUNT = struct.Struct(">H")
_SCALE = struct.Struct(">e")
_LARGEST = 1e4  # magnitude of a latent; they are about 1
_TYPICAL = 0.93  # of what places would take if any were as likely as the others


@dataclass(frozen=True)
class TileLatents:
    """Latents [1, d_c] and the numbers of h0 that they reach: flags in the order of the layer
    (`models.networks.ganz.reach_order`), or None for the first d_c of them."""

    z: Tensor
    flags: UInt8 | None = None


def places_within(sizes: NDArray[np.float32], numbers: int) -> UInt8 | None:
    """Flags for the largest of `sizes`, so many that with their places in bytes they take no more
    than `numbers` floats. None when fixed places leave out less."""
    order = np.argsort(-sizes, kind="stable")
    kept = min(numbers, len(sizes) - 1)
    while kept > 0:
        flags = np.zeros(len(sizes), np.uint8)
        flags[order[:kept]] = 1
        needed = -(-(_COUNT.size + len(encode_flags(flags))) // NUMBER)
        if kept + needed <= numbers:
            lost = np.square(sizes, dtype=np.float64)
            return flags if lost[flags == 0].sum() < lost[numbers:].sum() else None
        kept = min(numbers - needed, kept - 1)
    return None


class TileForm:
    """Tiles to payloads and back, for one model."""

    def __init__(self, model: GanzModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self.most = model.generator.shape.most_latents

    def payload_of(self, tile: TileLatents, kind: Entropy | None, chosen: bool) -> bytes:
        """A tile's bytes; kind: the coder, None for 32-bit floats; chosen: the form has places."""
        values = tile.z[0].detach().cpu().numpy()
        out = _COUNT.pack(len(values))
        scale = self.scale_of(values)
        if kind is not None:
            out += _SCALE.pack(scale)
        if chosen:
            places = b"" if tile.flags is None else encode_flags(tile.flags)
            out += _COUNT.pack(len(places)) + places
        if kind is None:
            return out + values.astype(">f4").tobytes()
        indices = self.model.quantiser.index(tile.z.detach() / scale)[0].cpu().numpy()
        return out + self._coder(kind, len(values)).encode(indices[None].astype(np.int8), 0)

    @staticmethod
    def scale_of(values: NDArray[np.float32]) -> float:
        """The size of latents, rounded to a half-precision number."""
        size = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        return float(np.float16(min(max(size, 1e-3), 1e3)))

    def latents_of(self, payload: Payload) -> TileLatents:
        """Inverse of `payload_of`. Raises BadStream for bytes that it does not write."""
        data, form = payload.data, payload.quality
        if not FLOATS <= form <= CODED | CHOSEN:
            raise BadStream("a tile is of an unknown form")
        coded = bool(form & CODED)
        count, at = int(self._take(_COUNT, data, 0)), _COUNT.size
        if not 1 <= count <= self.most:
            raise BadStream(f"a tile of {count} latents is impossible")
        scale = 1.0
        if coded:
            scale, at = self._take(_SCALE, data, at), at + _SCALE.size
            if not (np.isfinite(scale) and 0.0 < scale <= _LARGEST):
                raise BadStream("a tile's latents are out of range")
        flags = None
        if form & CHOSEN:
            length, at = int(self._take(_COUNT, data, at)), at + _COUNT.size
            if length:
                flags = decode_flags(data[at : at + length], self.most)
                if int(flags.sum()) != count:
                    raise BadStream("a tile has another number of places than of latents")
            at += length
        rest = data[at:]
        if not coded:
            return TileLatents(self._floats(rest, count), flags)
        indices = self._coder(payload.entropy, count).decode(rest, 0)
        levels = torch.from_numpy(indices.astype(np.int64)).to(self.device)
        return TileLatents(scale * self.model.quantiser.value(levels), flags)

    @staticmethod
    def _take(field: struct.Struct, data: bytes, at: int) -> float:
        if len(data) < at + field.size:
            raise BadStream("a tile is too short")
        return float(field.unpack_from(data, at)[0])

    def _floats(self, data: bytes, count: int) -> Tensor:
        if len(data) != NUMBER * count:
            raise BadStream("a tile has another size than its latents")
        values = np.frombuffer(data, ">f4").astype(np.float32)
        if not (np.isfinite(values).all() and np.abs(values).max() <= _LARGEST):
            raise BadStream("a tile's latents are out of range")
        return torch.from_numpy(values)[None].to(self.device)

    def expected_size(self, numbers: int, coded: bool, chosen: bool) -> int:
        """Bytes of a payload with so many numbers; for floats the most there can be."""
        if not coded:
            return _COUNT.size + NUMBER * numbers + (_COUNT.size if chosen else 0)
        size, kept = _COUNT.size + _SCALE.size, float(numbers)
        if chosen:
            share = min(max(numbers / self.most, 1e-6), 1.0 - 1e-6)
            surprise = -share * np.log2(share) - (1.0 - share) * np.log2(1.0 - share)
            places = _TYPICAL * self.most * surprise / 8
            size += _COUNT.size + int(places)
            kept = max(kept - places / NUMBER, 1.0)
        counts = self.model.counts
        shares = counts.counts / counts.counts.sum()
        return size + int(kept * float((shares * counts.bits()).sum()) / 8) + 2

    def _coder(self, kind: Entropy, count: int) -> StaticHuffmanCoder | StaticRangeCoder:
        made = StaticHuffmanCoder if kind is Entropy.HUFFMAN else StaticRangeCoder
        return made(self.model.counts, 1, count)
