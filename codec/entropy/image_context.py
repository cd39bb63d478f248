"""Entropy coding of image latents: the trained prior in exact integers, and counted tables.

Everything that decides a table is integer arithmetic on integers stored with the model, so that any
two machines decode the same symbols (the prior is `models.networks.photo.Prior`; formats as in
`context_model`). It names, for each latent index, a location (in eighths) and a scale class; each
class owns a table counted on training data. The range coder turns the symbols into bytes.

Indices are coded cell by cell in raster order, in each cell channel by channel. Contexts reach no
further than the tile, so that tiles are independent of each other.

Fixed-point formats: weights 1/1024, activations 1/64 in [0, 511], sums 1/1024 (first layer, whose
inputs are whole numbers; log magnitudes are in quarters) or 1/65536 (later layers).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from codec.entropy import range_coder
from codec.entropy.range_coder import TABLE_BITS, peek, put, take
from codec.errors import BadStream
from codec.kernels import kernel

MAX_INDEX = 1023  # latent indices lie in [-MAX_INDEX, MAX_INDEX]
ANCHORS = 4
QUALITY_STEPS = 64  # quality k stands for rate point k / 64
QUALITIES = (ANCHORS - 1) * QUALITY_STEPS + 1
# (rows up, columns left) of the cells in view; of the first NEAR the values, of all magnitudes.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
NEAR = 4
MAX_VALUE = 8
MAX_BAND = 127  # quarters
WEIGHT_ONE = 1024
MAX_WEIGHT = 4095  # with 511 and up to 1000 hidden units, sums stay below 2**31
ACTIVATION_ONE = 64
MAX_ACTIVATION = 511
MAX_LOCATION = 8 << 16
LOG_SCALE_START = -3.4
SCALE_CLASSES = 60  # eighths of a natural-log unit
FRACTIONS = 8
REACH = 40  # of a table around its centre; what lies beyond is an escape
SYMBOLS = 2 * REACH + 3  # escape below, -REACH..REACH, escape above
ESCAPE_BITS = 13
MEASURE, ENCODE, DECODE = 0, 1, 2
MAX_GAIN = 6 * WEIGHT_ONE  # of the linear prediction, over all near cells

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]

# log2(1 + n) in quarters.
_QUARTERS = np.rint(4.0 * np.log2(1.0 + np.arange(8 * (MAX_INDEX + 1)))).astype(np.int32)
_UP = np.array([up for up, _ in NEIGHBOURS], np.int32)
_LEFT = np.array([left for _, left in NEIGHBOURS], np.int32)


@dataclass(frozen=True)
class ImageContext:
    """The fixed-point prior and its tables. H hidden units, C channels, V values, N bands."""

    groups: Int32  # [number of groups] channels of each group, summing to C
    bands: Int32  # [C] the band of each channel, in [0, N)
    predict: Int16  # [NEAR, C] weights of the linear prediction
    near: Int16  # [NEAR * V, H] values of the near cells
    around: Int16  # [len(NEIGHBOURS) * N, H] band magnitudes of all cells, per quarter
    within: Int16  # [2C, H] values, then magnitudes (per quarter) of earlier groups
    offset: Int32  # [ANCHORS, H] bias at each rate anchor, 1/1024
    middle: Int16  # [H, H] output-major
    middle_bias: Int32  # [H], 1/65536
    leave: Int16  # [2C, H] output-major: locations, then log scales
    location_bias: Int32  # [C], 1/65536
    scale_bias: Int32  # [ANCHORS, C] at each rate anchor, 1/65536, 0 is LOG_SCALE_START
    tables: NDArray[np.uint32]  # [FRACTIONS * SCALE_CLASSES, SYMBOLS], rows sum to 2**TABLE_BITS

    @property
    def channels(self) -> int:
        return self.leave.shape[0] // 2

    def check(self) -> None:
        """Raise ValueError unless shapes, sums and ranges agree."""
        hidden, channels = self.middle.shape[0], self.channels
        values = self.near.shape[0] // NEAR
        count = self.around.shape[0] // len(NEIGHBOURS)
        unit, rest = divmod(hidden, max(len(self.groups), 1))
        wanted = {
            "bands": (channels,),
            "predict": (NEAR, channels),
            "near": (NEAR * values, hidden),
            "around": (len(NEIGHBOURS) * count, hidden),
            "within": (2 * channels, hidden),
            "offset": (ANCHORS, hidden),
            "middle": (hidden, hidden),
            "middle_bias": (hidden,),
            "leave": (2 * channels, hidden),
            "location_bias": (channels,),
            "scale_bias": (ANCHORS, channels),
            "tables": (FRACTIONS * SCALE_CLASSES, SYMBOLS),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"image context: {name} is {getattr(self, name).shape}, not {shape}"
                )
        for name, kind in _TYPES.items():
            if getattr(self, name).dtype != kind:
                raise ValueError(f"image context: {name} is {getattr(self, name).dtype}")
        if rest or unit == 0 or int(self.groups.sum()) != channels or (self.groups < 1).any():
            raise ValueError("image context: groups do not divide the channels and hidden units")
        if values > channels or count == 0 or not ((self.bands >= 0) & (self.bands < count)).all():
            raise ValueError("image context: values or bands are out of range")
        if np.abs(self.predict.astype(np.int64)).sum(axis=0).max(initial=0) > MAX_GAIN:
            raise ValueError("image context: the linear prediction has too large a gain")
        if not (self.tables.sum(axis=1) == 1 << TABLE_BITS).all():
            raise ValueError("image context: table rows must sum to 2**16")
        if (self.tables[:, [0, REACH, REACH + 1, REACH + 2, -1]] == 0).any():
            raise ValueError("image context: tables need their middle and their escapes")


_TYPES = {
    field.name: np.dtype(
        np.uint32
        if field.name == "tables"
        else np.int32
        if field.name in ("groups", "bands", "offset", "middle_bias", "location_bias", "scale_bias")
        else np.int16
    )
    for field in fields(ImageContext)
}


@kernel(inline="always")
def _clip(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


@kernel()
def _look_around(
    q: Int16,
    row: int,
    column: int,
    bands: Int32,
    predict: Int16,
    near: Int16,
    around: Int16,
    up: Int32,
    left: Int32,
    quarters: Int32,
    offset: Int32,
    linear: Int32,
    sums: Int32,
) -> None:
    """linear[C] <- the prediction of a cell, 1/1024; sums[H] <- first-layer sums of its past."""
    _, width, channels = q.shape
    count = around.shape[0] // len(up)
    values = near.shape[0] // NEAR
    sums[:] = offset
    linear[:] = 0
    rows = np.empty(len(up), np.int32)
    columns = np.empty(len(up), np.int32)
    for k in range(len(up)):
        rows[k], columns[k] = row - up[k], column - left[k]
        if rows[k] < 0 or columns[k] < 0 or columns[k] >= width:
            rows[k] = -1
    spare = 0 if rows[0] >= 0 else 1
    for k in range(NEAR):
        if rows[k] < 0:
            rows[k], columns[k] = rows[spare], columns[spare]
        if rows[k] >= 0:
            for c in range(channels):
                linear[c] += np.int32(predict[k, c]) * np.int32(q[rows[k], columns[k], c])
    energy = np.empty(count, np.int32)
    for k in range(len(up)):
        if rows[k] < 0:
            continue
        energy[:] = 0
        for c in range(channels):
            d = q[rows[k], columns[k], c] - ((linear[c] + 512) >> 10)
            if d == 0:
                continue
            energy[bands[c]] += quarters[abs(d)]
            if k < NEAR and c < values:
                clipped = np.int32(_clip(d, MAX_VALUE))
                weights = near[k * values + c]
                for h in range(len(sums)):
                    sums[h] += clipped * np.int32(weights[h])
        for b in range(count):
            if energy[b] != 0:
                magnitude = np.int32(min(energy[b], MAX_BAND))
                weights = around[k * count + b]
                for h in range(len(sums)):
                    sums[h] += magnitude * np.int32(weights[h])


@kernel()
def _group(
    group: int,
    start: int,
    size: int,
    unit: int,
    sums: Int32,
    linear: Int32,
    hidden1: Int32,
    hidden2: Int32,
    middle: Int16,
    middle_bias: Int32,
    leave: Int16,
    location_bias: Int32,
    scale_bias: Int32,
    centre: Int32,
    table: Int32,
) -> None:
    """Nearest whole location and table number of the `size` channels from `start` on."""
    channels = len(centre)
    low, high = group * unit, (group + 1) * unit
    for h in range(low, high):
        hidden1[h] = min(max((sums[h] + 8) >> 4, 0), MAX_ACTIVATION)
    for h in range(low, high):
        total = middle_bias[h]
        for i in range(high):
            total += np.int32(np.int32(middle[h, i]) * hidden1[i])
        hidden2[h] = min(max((total + 512) >> 10, 0), MAX_ACTIVATION)
    for c in range(start, start + size):
        location: int = location_bias[c]
        scale: int = scale_bias[c]
        for i in range(high):
            location += np.int32(leave[c, i]) * hidden2[i]
            scale += np.int32(leave[channels + c, i]) * hidden2[i]
        eighths = (_clip(location, MAX_LOCATION) + (int(linear[c]) << 6) + (1 << 12)) >> 13
        whole = (eighths + 4) >> 3
        fraction = eighths - 8 * whole + 4
        scale_class = min(max(scale >> 13, 0), SCALE_CLASSES - 1)
        centre[c] = whole
        table[c] = fraction * SCALE_CLASSES + scale_class


@kernel(inline="always")
def _feed(d: int, c: int, channels: int, within: Int16, quarters: Int32, sums: Int32) -> None:
    """Add an index (less its prediction) to the first-layer sums of the groups after it."""
    if d == 0:
        return
    clipped = np.int32(_clip(d, MAX_VALUE))
    magnitude = np.int32(quarters[abs(d)])
    values, magnitudes = within[c], within[channels + c]
    for h in range(len(sums)):
        sums[h] += clipped * np.int32(values[h]) + magnitude * np.int32(magnitudes[h])


@kernel()
def _encode(
    deviation: int, bounds: NDArray[np.int64], state: NDArray[np.uint64], out: NDArray[np.uint8]
) -> None:
    """Write one index, given as its distance from the centre of its table."""
    symbol = _clip(deviation, REACH + 1) + REACH + 1
    if bounds[symbol] == bounds[symbol + 1]:
        symbol = 0 if deviation < 0 else SYMBOLS - 1
    put(state, out, bounds[symbol], bounds[symbol + 1] - bounds[symbol])
    if symbol in (0, SYMBOLS - 1):
        half = 1 << (TABLE_BITS - 1)
        for bit in range(ESCAPE_BITS - 1, -1, -1):
            put(state, out, half * ((abs(deviation) >> bit) & 1), half)


@kernel()
def _decode(bounds: NDArray[np.int64], state: NDArray[np.uint64], data: NDArray[np.uint8]) -> int:
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
def _walk(
    mode: int,
    q: Int16,
    groups: Int32,
    bands: Int32,
    predict: Int16,
    near: Int16,
    around: Int16,
    within: Int16,
    offset: Int32,
    middle: Int16,
    middle_bias: Int32,
    leave: Int16,
    location_bias: Int32,
    scale_bias: Int32,
    up: Int32,
    left: Int32,
    quarters: Int32,
    cumulative: NDArray[np.int64],
    state: NDArray[np.uint64],
    data: NDArray[np.uint8],
    centres: Int32,
    tables: Int32,
    last_byte: int,
) -> int:
    """One walk over the cells of a tile q [h, w, C] in coding order.

    MEASURE fills centres and tables [h, w, C]; ENCODE writes q to `data`; DECODE reads `data` into
    q, up to the first cell that starts after `last_byte` bytes. Returns the cells done; for
    data that cannot be, -1 less the cells before it.
    """
    height, width, channels = q.shape
    hidden = middle.shape[0]
    unit = hidden // len(groups)
    sums = np.empty(hidden, np.int32)
    hidden1 = np.zeros(hidden, np.int32)
    hidden2 = np.zeros(hidden, np.int32)
    linear = np.empty(channels, np.int32)
    centre = np.zeros(channels, np.int32)
    table = np.zeros(channels, np.int32)
    cells = 0
    for row in range(height):
        for column in range(width):
            if mode == DECODE and np.int64(state[4]) > last_byte:
                return cells
            _look_around(
                q, row, column, bands, predict, near, around, up, left, quarters, offset,
                linear, sums,
            )  # fmt: skip
            start = 0
            for group in range(len(groups)):
                size = groups[group]
                _group(
                    group, start, size, unit, sums, linear, hidden1, hidden2, middle,
                    middle_bias, leave, location_bias, scale_bias, centre, table,
                )  # fmt: skip
                for c in range(start, start + size):
                    if mode == MEASURE:
                        centres[row, column, c] = centre[c]
                        tables[row, column, c] = table[c]
                    elif mode == ENCODE:
                        deviation = int(q[row, column, c]) - int(centre[c])
                        _encode(deviation, cumulative[table[c]], state, data)
                    else:
                        value = centre[c] + _decode(cumulative[table[c]], state, data)
                        if abs(value) > MAX_INDEX:
                            return -1 - cells
                        q[row, column, c] = value
                    d = q[row, column, c] - ((linear[c] + 512) >> 10)
                    _feed(d, c, channels, within, quarters, sums)
                start += size
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

    def contexts(self, q: Int16, quality: int) -> tuple[Int32, Int32]:
        """Whole locations and table numbers of the indices of a tile q, each [h, w, C]."""
        centres, tables = np.empty(q.shape, np.int32), np.empty(q.shape, np.int32)
        nothing = np.empty(0, np.uint8)
        self._run(MEASURE, q, quality, range_coder.new_encoder(), nothing, centres, tables, 0)
        return centres, tables

    def bits(self, q: NDArray[np.integer], quality: int) -> float:
        """Ideal code length of [h, w, C] indices under the stored tables."""
        indices = self._checked(q)
        centres, tables = self.contexts(indices, quality)
        symbols = np.clip(indices - centres, -REACH - 1, REACH + 1) + REACH + 1
        return float(self._bits[tables, symbols].sum())

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """A tile of indices [h, w, C] to bytes. Raises ValueError for indices out of range."""
        indices = self._checked(q)
        # No index takes more than one table symbol of 16 bits and its escape.
        out = np.empty(indices.size * (TABLE_BITS + ESCAPE_BITS) // 8 + 64, np.uint8)
        state = range_coder.new_encoder()
        self._run(ENCODE, indices, quality, state, out, *_NO_CONTEXTS, 0)
        return bytes(out[1 : range_coder.finish(state, out)])

    def decode(
        self, payload: bytes, quality: int, height: int, width: int, *, whole: bool = True
    ) -> tuple[Int16, int]:
        """Inverse of `encode`: indices [height, width, C] and how many cells of them are known.

        Of a payload that is not `whole`, only the cells that are certain are decoded; the others
        are 0. Raises BadStream when the bytes decode to impossible indices.
        """
        q = np.zeros((height, width, self.model.channels), np.int16)
        data = np.frombuffer(payload, np.uint8).copy()
        # Four bytes are read ahead of what the symbols so far depend on.
        last = len(payload) if not whole else (1 << 62)
        state = range_coder.new_decoder(data)
        cells = self._run(DECODE, q, quality, state, data, *_NO_CONTEXTS, last)
        if cells < 0 and whole:
            raise BadStream("payload is not a valid tile")
        if not whole:
            # The last of them may have been read beyond the end.
            cells = max((cells if cells >= 0 else -1 - cells) - 1, 0)
            q.reshape(height * width, -1)[cells:] = 0
        return q, cells

    def _checked(self, q: NDArray[np.integer]) -> Int16:
        if q.ndim != 3 or q.shape[2] != self.model.channels or q.size == 0:
            raise ValueError(f"a tile is [h, w, {self.model.channels}] indices, not {q.shape}")
        if np.abs(q).max() > MAX_INDEX:
            raise ValueError(f"latent indices must be within ±{MAX_INDEX}")
        return np.ascontiguousarray(q, dtype=np.int16)

    def _run(
        self,
        mode: int,
        q: Int16,
        quality: int,
        state: NDArray[np.uint64],
        data: NDArray[np.uint8],
        centres: Int32,
        tables: Int32,
        last_byte: int,
    ) -> int:
        if not 0 <= quality < QUALITIES:
            raise BadStream(f"quality {quality} is none of the {QUALITIES} there are")
        m = self.model
        done: int = _walk(
            mode, q, m.groups, m.bands, m.predict, m.near, m.around, m.within,
            between_anchors(m.offset, quality), m.middle, m.middle_bias, m.leave,
            m.location_bias, between_anchors(m.scale_bias, quality), _UP, _LEFT, _QUARTERS,
            self._bounds, state, data, centres, tables, last_byte,
        )  # fmt: skip
        return done


_NO_CONTEXTS = np.empty((0, 0, 0), np.int32), np.empty((0, 0, 0), np.int32)


def between_anchors(values: Int32, quality: int) -> Int32:
    """Rows [ANCHORS, N] interpolated at a quality, in integers: [N]."""
    anchor = min(quality // QUALITY_STEPS, ANCHORS - 2)
    share = quality - anchor * QUALITY_STEPS
    low, high = values[anchor].astype(np.int64), values[anchor + 1].astype(np.int64)
    mixed = (low * (QUALITY_STEPS - share) + high * share + QUALITY_STEPS // 2) // QUALITY_STEPS
    result: Int32 = mixed.astype(np.int32)
    return result
