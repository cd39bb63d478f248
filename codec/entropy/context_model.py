"""Entropy coding of latent indices: context-modelled integer tables, range coder or Huffman.

Everything that decides a table is integer arithmetic on integers stored with the model, so that any
two machines decode the same symbols. The context model is the trained prior network
(`models.networks.speech`) in fixed point: int16 weights, 9-bit activations, 32-bit sums. It names,
for each latent index, a location (in eighths) and a scale class; each class owns a table counted on
training data. `constriction`'s range coder (Bamler 2022) turns the symbols into bytes.

Fixed-point formats: weights 1/1024, activations 1/64 in [0, 511], sums 1/1024 (first layer, whose
inputs are whole numbers) or 1/65536 (later layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream
from codec.kernels import kernel

MAX_INDEX = 15  # latent indices lie in [-MAX_INDEX, MAX_INDEX]
WEIGHT_ONE = 1024
MAX_WEIGHT = 4095  # with 511 and up to 1000 hidden units, sums stay below 2**31
ACTIVATION_ONE = 64
MAX_ACTIVATION = 511
LOCATION_SHIFT = 13  # 1/65536 -> eighths
SCALE_SHIFT = 13  # 1/65536 -> eighths of a natural-log unit
LOCATION_LIMIT = 64  # eighths
LOG_SCALE_START = -2.6
SCALE_CLASSES = 36
FRACTIONS = 8
REACH = MAX_INDEX + LOCATION_LIMIT // FRACTIONS  # largest |index - nearest whole location|
SYMBOLS = 2 * REACH + 1
TABLE_BITS = 16
QUALITIES = 17  # quality k stands for rate point k / 8

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class ContextModel:
    """The fixed-point prior and its tables. H hidden units, C channels, S steps."""

    groups: Int32  # [number of groups] channels of each group, summing to C
    past: Int16  # [4C + 1, H] value and magnitude one and two steps back; then the first-step flag
    within: Int16  # [2C, H] value and magnitude of earlier groups of the same step
    offset: Int32  # [QUALITIES, H] bias at each rate point, 1/1024
    middle: Int16  # [H, H] output-major
    middle_bias: Int32  # [H], 1/65536
    leave: Int16  # [2C, H] output-major: locations, then log scales
    leave_bias: Int32  # [2C], 1/65536
    tables: NDArray[np.uint32]  # [FRACTIONS * SCALE_CLASSES, SYMBOLS], rows sum to 2**TABLE_BITS

    @property
    def channels(self) -> int:
        return self.leave.shape[0] // 2

    def check(self) -> None:
        """Raise ValueError unless types, shapes and table sums agree.

        The compiled walk looks at no bounds: what passes here lets it leave no array.
        """
        for name, kind in _TYPES.items():
            if getattr(self, name).dtype != kind:
                raise ValueError(f"context model: {name} is {getattr(self, name).dtype}")
        count = self.groups.size
        if self.middle.ndim != 2 or self.leave.ndim != 2 or self.groups.shape != (count,):
            raise ValueError("context model: groups, middle or leave have other dimensions")
        hidden, channels = self.middle.shape[0], self.channels
        unit, rest = divmod(hidden, max(count, 1))
        wanted = {
            "past": (4 * channels + 1, hidden),
            "within": (2 * channels, hidden),
            "offset": (QUALITIES, hidden),
            "middle": (hidden, hidden),
            "middle_bias": (hidden,),
            "leave": (2 * channels, hidden),
            "leave_bias": (2 * channels,),
            "tables": (FRACTIONS * SCALE_CLASSES, SYMBOLS),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"context model: {name} is {getattr(self, name).shape}, not {shape}"
                )
        if rest or unit == 0 or int(self.groups.sum()) != channels or (self.groups < 1).any():
            raise ValueError("context model: groups do not divide the channels and hidden units")
        if not (self.tables.sum(axis=1) == 1 << TABLE_BITS).all() or (self.tables == 0).any():
            raise ValueError("context model: table rows must be positive and sum to 2**16")


_TYPES: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(("past", "within", "middle", "leave"), np.dtype(np.int16)),
    **dict.fromkeys(("groups", "offset", "middle_bias", "leave_bias"), np.dtype(np.int32)),
    "tables": np.dtype(np.uint32),
}


@kernel(inline="always")
def _add_features(value: int, of_value: Int16, of_magnitude: Int16, sums: Int32) -> None:
    """sums += clipped value and magnitude of one index, times their weight rows."""
    clipped = np.int32(min(max(value, -8), 8))
    magnitude = np.int32(min(abs(value), 4))
    for h in range(len(sums)):
        sums[h] += clipped * np.int32(of_value[h]) + magnitude * np.int32(of_magnitude[h])


@kernel()
def _first_layer(
    q: Int8, step: int, past: Int16, offset: Int32, channels: int, sums: Int32
) -> None:
    """sums[H] <- first-layer sums from the two steps before `step` (zero outside the frame)."""
    sums[:] = offset
    for back in range(2):
        source = step - 1 - back
        if source < 0:
            continue
        base = back * 2 * channels
        for c in range(channels):
            value = int(q[source, c])
            if value == 0:
                continue
            _add_features(value, past[base + c], past[base + channels + c], sums)
    if step == 0:
        for h in range(len(sums)):
            sums[h] += np.int32(past[4 * channels, h])


@kernel()
def _group(
    group: int,
    start: int,
    count: int,
    channels: int,
    unit: int,
    sums: Int32,
    hidden1: Int32,
    hidden2: Int32,
    middle: Int16,
    middle_bias: Int32,
    leave: Int16,
    leave_bias: Int32,
    centre: Int32,
    table: Int32,
) -> None:
    """Nearest whole location and table number of the `count` channels from `start` on."""
    low, high = group * unit, (group + 1) * unit
    for h in range(low, high):
        hidden1[h] = min(max((sums[h] + 8) >> 4, 0), MAX_ACTIVATION)
    for h in range(low, high):
        total = middle_bias[h]
        for i in range(high):
            total += np.int32(np.int32(middle[h, i]) * hidden1[i])
        hidden2[h] = min(max((total + 512) >> 10, 0), MAX_ACTIVATION)
    for j in range(count):
        c = start + j
        location: int = leave_bias[c]
        scale: int = leave_bias[channels + c]
        for i in range(high):
            location += np.int32(leave[c, i]) * hidden2[i]
            scale += np.int32(leave[channels + c, i]) * hidden2[i]
        eighths = (location + (1 << (LOCATION_SHIFT - 1))) >> LOCATION_SHIFT
        eighths = min(max(eighths, -LOCATION_LIMIT), LOCATION_LIMIT)
        whole = (eighths + 4) >> 3
        fraction = eighths - 8 * whole + 4
        scale_class = min(max(scale >> SCALE_SHIFT, 0), SCALE_CLASSES - 1)
        centre[c] = whole
        table[c] = fraction * SCALE_CLASSES + scale_class


@kernel()
def _feed(row: Int8, start: int, count: int, channels: int, within: Int16, sums: Int32) -> None:
    """Add the indices of one decoded group to the first-layer sums of the groups after it."""
    for c in range(start, start + count):
        value = int(row[c])
        if value != 0:
            _add_features(value, within[c], within[channels + c], sums)


# Only this kernel gives up the interpreter's lock: the others run for microseconds, and to get the
# lock back from a busy thread takes milliseconds.
@kernel(nogil=True)
def _all_classes(
    q: Int8,
    groups: Int32,
    past: Int16,
    within: Int16,
    offset: Int32,
    middle: Int16,
    middle_bias: Int32,
    leave: Int16,
    leave_bias: Int32,
    centre: Int32,
    table: Int32,
) -> None:
    """Contexts of a whole frame whose indices q [S, C] are known; fills centre and table [S, C]."""
    channels, hidden = q.shape[1], middle.shape[0]
    unit = hidden // len(groups)
    sums = np.empty(hidden, np.int32)
    hidden1 = np.zeros(hidden, np.int32)
    hidden2 = np.zeros(hidden, np.int32)
    for step in range(q.shape[0]):
        _first_layer(q, step, past, offset, channels, sums)
        start = 0
        for group in range(len(groups)):
            count = groups[group]
            _group(
                group, start, count, channels, unit, sums, hidden1, hidden2,
                middle, middle_bias, leave, leave_bias, centre[step], table[step],
            )  # fmt: skip
            _feed(q[step], start, count, channels, within, sums)
            start += count


def check_indices(q: NDArray[np.integer]) -> Int8:
    """[S, C] whole numbers as int8; ValueError outside [-MAX_INDEX, MAX_INDEX]."""
    if q.ndim != 2 or np.abs(q).max(initial=0) > MAX_INDEX:
        raise ValueError("latent indices must be [steps, channels] within ±15")
    return np.ascontiguousarray(q, dtype=np.int8)


def contexts(model: ContextModel, q: Int8, quality: int) -> tuple[Int32, Int32]:
    """Whole locations and table numbers of every index of a known frame q [S, C], each [S, C].

    Raises ValueError for another number of channels than the model's.
    """
    if q.shape[1] != model.channels:
        raise ValueError(f"the model is of {model.channels} channels, not {q.shape[1]}")
    centre = np.empty(q.shape, np.int32)
    table = np.empty(q.shape, np.int32)
    _all_classes(
        q, model.groups, model.past, model.within, model.offset[quality], model.middle,
        model.middle_bias, model.leave, model.leave_bias, centre, table,
    )  # fmt: skip
    return centre, table


class RangeCoder:
    """Range coder over the context model's tables: [S, C] indices <-> bytes."""

    overhead = 1.0

    def __init__(self, model: ContextModel, steps: int) -> None:
        model.check()
        self.model = model
        self.steps = steps
        self._probabilities = model.tables / float(1 << TABLE_BITS)
        self._bits = TABLE_BITS - np.log2(model.tables)
        self._family = constriction.stream.model.Categorical(perfect=False)

    def bits(self, q: NDArray[np.integer], quality: int) -> float:
        """Ideal code length of [S, C] indices under the stored tables."""
        indices = check_indices(q)
        centre, table = contexts(self.model, indices, quality)
        return float(self._bits[table, indices - centre + REACH].sum())

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """[S, C] indices to bytes (trailing zero bytes cut)."""
        indices = check_indices(q)
        if indices.shape != (self.steps, self.model.channels):
            raise ValueError(f"latents are {indices.shape}, the model's differ")
        centre, table = contexts(self.model, indices, quality)
        coder = constriction.stream.queue.RangeEncoder()
        symbols = (indices - centre + REACH).reshape(-1).astype(np.int32)
        coder.encode(symbols, self._family, self._probabilities[table.reshape(-1)])
        words: NDArray[np.uint32] = coder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")

    def decode(self, payload: bytes, quality: int) -> Int8:
        """Inverse of `encode`. Raises BadStream when the bytes decode to impossible indices."""
        padded = payload + b"\0" * (-len(payload) % 4)
        words = np.frombuffer(padded, ">u4").astype(np.uint32)
        coder = constriction.stream.queue.RangeDecoder(words)
        walk = ContextWalk(self.model, self.steps, quality)
        for values, centre, table in walk:
            try:
                symbols = coder.decode(self._family, self._probabilities[table])
            except (AssertionError, ValueError) as error:
                raise BadStream("payload is not a valid latent frame") from error
            walk.put(values, symbols - REACH + centre)
        return walk.q


class ContextWalk:
    """The contexts of a frame that is being decoded, group by group.

    Iterating yields, for every group in coding order, the place of its indices within `q` and
    their whole locations and table numbers, each [channels of the group]; the place must be filled
    with `put` before the next step of the iteration.
    """

    def __init__(self, model: ContextModel, steps: int, quality: int) -> None:
        self.model = model
        self.quality = quality
        self.q = np.zeros((steps, model.channels), np.int8)

    def put(self, place: Int8, values: NDArray[np.integer]) -> None:
        """Fill in decoded indices. Raises BadStream if they are out of range."""
        if np.abs(values).max(initial=0) > MAX_INDEX:
            raise BadStream("payload decodes to latents out of range")
        place[:] = values

    def __iter__(self) -> Iterator[tuple[Int8, Int32, Int32]]:
        m, q = self.model, self.q
        channels, hidden = m.channels, m.middle.shape[0]
        unit = hidden // len(m.groups)
        sums, hidden1, hidden2 = (np.zeros(hidden, np.int32) for _ in range(3))
        centre, table = (np.zeros(channels, np.int32) for _ in range(2))
        offset = m.offset[self.quality]
        for step in range(len(q)):
            _first_layer(q, step, m.past, offset, channels, sums)
            start = 0
            for group, count in enumerate(m.groups.tolist()):
                _group(
                    group, start, count, channels, unit, sums, hidden1, hidden2,
                    m.middle, m.middle_bias, m.leave, m.leave_bias, centre, table,
                )  # fmt: skip
                part = slice(start, start + count)
                yield q[step, part], centre[part], table[part]
                _feed(q[step], start, count, channels, m.within, sums)
                start += count
