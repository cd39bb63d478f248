"""The context model of images, and the range coder for their tiles.

The context of a cell is six earlier cells, relative to a linear prediction from the nearest four:
the values of the first channels of those four, and the magnitudes (log2(1 + |d|), in quarters) of
all six, summed over bands of channels. Contexts do not cross tiles, so tiles are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.entropy import range_coder
from codec.entropy.context_model import (
    WEIGHT_ONE,
    Cell,
    ContextModel,
    Int16,
    Int32,
    Network,
    clip,
    deviations,
    enter_group,
    start_cell,
)
from codec.entropy.range_coder import TABLE_BITS, UInt8, UInt64, peek, put, take
from codec.errors import BadStream
from codec.kernels import kernel

MAX_INDEX = 1023
ANCHORS = 4
QUALITY_STEPS = 64  # quality k is rate point k / 64
QUALITIES = (ANCHORS - 1) * QUALITY_STEPS + 1
# (rows up, columns left) of the context cells: magnitudes of all, values of the first NEAR.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
NEAR = 4
REACH = 40  # largest deviation in a table; larger ones are escapes
SYMBOLS = 2 * REACH + 3  # escape below, -REACH..REACH, escape above
ESCAPE_BITS = 13
MAX_GAIN = 6 * WEIGHT_ONE  # largest sum of a channel's absolute prediction weights

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class ImageContext(ContextModel):
    """The context model of images as stored: H hidden units, C channels, V values, M bands."""

    max_index = MAX_INDEX
    scale_classes = 60
    log_scale_start = -3.4
    reach = REACH
    symbols = SYMBOLS
    qualities = QUALITIES

    groups: Int32
    bands: Int32
    predict: Int16  # [NEAR, C]
    near: Int16  # [NEAR * V, H]
    around: Int16  # [len(NEIGHBOURS) * M, H], for magnitudes in quarters
    within: Int16  # for magnitudes in quarters
    offset: Int32  # [ANCHORS, H] bias at each rate anchor, 1/1024
    middle: Int16
    middle_bias: Int32
    leave: Int16
    location_bias: Int32
    scale_bias: Int32  # [ANCHORS, C] at each rate anchor, 1/65536, 0 is log_scale_start
    tables: NDArray[np.uint32]

    def shapes(self, channels: int, hidden: int) -> dict[str, tuple[int, ...]]:
        return {
            "bands": (channels,),
            "predict": (NEAR, channels),
            "near": (NEAR * (len(self.near) // NEAR), hidden),
            "around": (len(NEIGHBOURS) * (len(self.around) // len(NEIGHBOURS)), hidden),
            "offset": (ANCHORS, hidden),
            "location_bias": (channels,),
            "scale_bias": (ANCHORS, channels),
        }

    def check(self) -> None:
        super().check()
        values, count = len(self.near) // NEAR, len(self.around) // len(NEIGHBOURS)
        inside = (self.bands >= 0) & (self.bands < count)
        if values > self.channels or count == 0 or not inside.all():
            raise ValueError("context model: values or bands are out of range")
        if np.abs(self.predict.astype(np.int64)).sum(axis=0).max(initial=0) > MAX_GAIN:
            raise ValueError("context model: the gain of the linear prediction is too large")
        if (self.tables[:, [0, REACH, REACH + 1, REACH + 2, -1]] == 0).any():
            raise ValueError("context model: a table lacks its middle or escape symbols")

    def view(self) -> dict[str, Any]:
        quarters = 4.0 * np.log2(1.0 + np.arange(8 * (MAX_INDEX + 1)))
        return {
            "neighbours": np.array(NEIGHBOURS, np.int32),
            "padded": True,
            "magnitudes": np.rint(quarters).astype(np.int32),
        }

    def biases(self, quality: int) -> dict[str, Any]:
        offset = between_anchors(self.offset, quality)
        scale_bias = between_anchors(self.scale_bias, quality)
        return {
            "offset": np.stack((offset, offset)),
            "leave_bias": np.concatenate((self.location_bias, scale_bias)),
        }

    def symbols_of(self, deviation: Int32) -> Int32:
        symbols: Int32 = np.clip(deviation, -REACH - 1, REACH + 1) + np.int32(REACH + 1)
        return symbols


def between_anchors(values: Int32, quality: int) -> Int32:
    """Interpolate rows [ANCHORS, N] at a quality, in integer arithmetic: [N]."""
    anchor = min(quality // QUALITY_STEPS, ANCHORS - 2)
    share = quality - anchor * QUALITY_STEPS
    low, high = values[anchor].astype(np.int64), values[anchor + 1].astype(np.int64)
    mixed = (low * (QUALITY_STEPS - share) + high * share + QUALITY_STEPS // 2) // QUALITY_STEPS
    result: Int32 = mixed.astype(np.int32)
    return result


@kernel()
def _encode(deviation: int, bounds: Int64, state: UInt64, out: UInt8) -> None:
    """Write one index, given as its deviation from the centre of its table."""
    symbol = clip(deviation, REACH + 1) + REACH + 1
    if bounds[symbol] == bounds[symbol + 1]:
        symbol = 0 if deviation < 0 else SYMBOLS - 1
    put(state, out, bounds[symbol], bounds[symbol + 1] - bounds[symbol])
    if symbol in (0, SYMBOLS - 1):
        half = 1 << (TABLE_BITS - 1)
        for bit in range(ESCAPE_BITS - 1, -1, -1):
            put(state, out, half * ((abs(deviation) >> bit) & 1), half)


@kernel()
def _decode(bounds: Int64, state: UInt64, data: UInt8) -> int:
    """Read what `_encode` wrote."""
    at = peek(state)
    symbol = REACH + 1
    while bounds[symbol] > at:
        symbol -= 1
    while bounds[symbol + 1] <= at:
        symbol += 1
    take(state, data, bounds[symbol], bounds[symbol + 1] - bounds[symbol])
    if symbol not in (0, SYMBOLS - 1):
        return symbol - 1 - REACH
    half, size = 1 << (TABLE_BITS - 1), 0
    for _ in range(ESCAPE_BITS):
        bit = int(peek(state)) >> (TABLE_BITS - 1)
        take(state, data, half * bit, half)
        size = 2 * size + bit
    return size if symbol else -size


@kernel(nogil=True)
def _write(deviation: Int32, tables: Int32, cumulative: Int64, state: UInt64, out: UInt8) -> None:
    """Write indices, given as their deviations and table numbers in coding order."""
    for k in range(len(tables)):
        _encode(deviation[k], cumulative[tables[k]], state, out)


@kernel(nogil=True)
def _read(
    network: Network,
    cell: Cell,
    q: Int16,
    cumulative: Int64,
    state: UInt64,
    data: UInt8,
    last_byte: int,
) -> int:
    """Read a tile q [h, w, C], up to the first cell that starts after `last_byte` bytes.

    Returns the number of cells read; for invalid data, -1 minus the number of cells before it.
    """
    cells, centre, table = 0, cell.out[1], cell.out[2]
    for row in range(q.shape[0]):
        for column in range(q.shape[1]):
            if np.int64(state[4]) > last_byte:
                return cells
            start = 0
            for group in range(len(network.groups)):
                enter_group(network, cell, q, row, column, group, start)
                end = start + network.groups[group]
                for c in range(start, end):
                    value = centre[c] + _decode(cumulative[table[c]], state, data)
                    if abs(value) > MAX_INDEX:
                        return -1 - cells
                    q[row, column, c] = value
                start = end
            cells += 1
    return cells


class ImageCoder:
    """Range coder over the context model's tables: tiles of indices [h, w, C] <-> bytes."""

    def __init__(self, model: ImageContext) -> None:
        model.check()
        self.model = model
        bounds = np.zeros((len(model.tables), SYMBOLS + 1), np.int64)
        np.cumsum(model.tables, axis=1, out=bounds[:, 1:])
        self._bounds = bounds
        with np.errstate(divide="ignore"):
            bits = TABLE_BITS - np.log2(model.tables)
        escape = np.where(np.arange(SYMBOLS) <= REACH, bits[:, :1], bits[:, -1:]) + ESCAPE_BITS
        self._bits = np.where(model.tables > 0, bits, escape)
        self._bits[:, [0, -1]] = escape[:, [0, -1]]

    def bits(self, q: NDArray[np.integer], quality: int) -> float:
        """Ideal code length of [h, w, C] indices under the stored tables."""
        deviation, tables = deviations(self.model, q, quality)
        return float(self._bits[tables, self.model.symbols_of(deviation)].sum())

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """Encode a tile of indices [h, w, C]. Raises ValueError for indices out of range."""
        if q.ndim != 3 or q.size == 0:
            raise ValueError(f"a tile is [h, w, {self.model.channels}] indices, not {q.shape}")
        deviation, tables = (part.reshape(-1) for part in deviations(self.model, q, quality))
        # An index takes at most one table symbol of 16 bits and an escape.
        out = np.empty(q.size * (TABLE_BITS + ESCAPE_BITS) // 8 + 64, np.uint8)
        state = range_coder.new_encoder()
        _write(deviation, tables, self._bounds, state, out)
        return bytes(out[1 : range_coder.finish(state, out)])

    def decode(
        self, payload: bytes, quality: int, height: int, width: int, *, whole: bool = True
    ) -> tuple[Int16, int]:
        """Inverse of `encode`: indices [height, width, C], and how many of the cells are known.

        If the payload is not `whole`, only the cells that its bytes determine are decoded; the
        others are 0. Raises BadStream when the bytes decode to indices out of range.
        """
        network = self.model.network(quality)
        q = np.zeros((height, width, self.model.channels), np.int16)
        data = np.frombuffer(payload, np.uint8).copy()
        # The decoder reads four bytes ahead of the symbols decoded so far.
        last = len(payload) if not whole else (1 << 62)
        state = range_coder.new_decoder(data)
        cells: int = _read(network, start_cell(network), q, self._bounds, state, data, last)
        if cells < 0 and whole:
            raise BadStream("payload is not a valid tile")
        if not whole:
            # The last cell may have been read past the end of the data.
            cells = max((cells if cells >= 0 else -1 - cells) - 1, 0)
            q.reshape(height * width, -1)[cells:] = 0
        return q, cells
