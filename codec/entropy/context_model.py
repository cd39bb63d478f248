"""Context models: trained priors in fixed point, which select a table for each index.

A table is selected by integer arithmetic on integers stored with the model, so all machines decode
the same symbols. A context model is the trained prior network for speech or images
(`models.networks`) in fixed point. It gives each latent index a location (in eighths) and a scale
class; the location's fraction and the class select a table counted on training data.

Indices are maps [h, w, C], coded cell by cell in raster order, and within a cell group by group of
channels. A frame of speech is a map one column wide.

Fixed-point formats: weights 1/1024, activations 1/64 in [0, 511], sums 1/1024 (first layer, whose
inputs are integers) or 1/65536 (later layers).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.entropy.range_coder import TABLE_BITS
from codec.errors import BadStream
from codec.kernels import kernel
from codec.kernels.ahead import Record, ahead_of_time

WEIGHT_ONE = 1024
MAX_WEIGHT, MAX_HIDDEN = 4095, 1000  # with activations up to 511, sums stay below 2**31
ACTIVATION_ONE = 64
MAX_ACTIVATION = 511
MAX_VALUE = 8  # limit of a neighbour's value as a network input
MAX_MAGNITUDE = 127  # limit of a neighbour's magnitudes, summed over a band of channels
MAX_LOCATION = 8 << 16  # limit of the correction to the linear prediction, 1/65536
FRACTIONS = 8

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
_INT32 = ("groups", "bands", "offset", "middle_bias", "leave_bias", "location_bias", "scale_bias")


class Network(NamedTuple):
    """A context model at one rate point, as the compiled code reads it.

    H hidden units, C channels. The inputs come from K neighbouring cells: the values of V channels
    of the first N (near) cells, and the magnitudes of all K cells in M bands of channels. Both are
    relative to a linear prediction of the cell from the near ones.
    """

    groups: Int32  # [number of groups] channels in each group, summing to C
    neighbours: Int32  # [K, 2] rows above the cell and columns to its left
    padded: bool  # a near cell outside the map is replaced by the one to the left, or else above
    predict: Int16  # [N, C] weights of the linear prediction
    bands: Int32  # [C] the band of each channel, in [0, M)
    magnitudes: Int32  # magnitudes, indexed by absolute value
    near: Int16  # [N * V, H] weights of the near cells' values
    around: Int16  # [K * M, H] weights of all cells' magnitudes
    within: Int16  # [2C, H] weights of values, then magnitudes, of the cell's earlier groups
    offset: Int32  # [2, H] bias of the first cell and of all others, 1/1024
    middle: Int16  # [H, H] output-major
    middle_bias: Int32  # [H], 1/65536
    leave: Int16  # [2C, H] output-major: locations, then log scales
    leave_bias: Int32  # [2C], 1/65536
    scale_classes: int


class Cell(NamedTuple):
    """Working memory for the current cell of a walk, made by `start_cell`."""

    sums: Int32  # [H] sums of the first layer
    hidden: Int16  # [2, H] activations of both layers
    out: Int32  # [3, C] linear prediction (1/1024), rounded location, table number
    seen: Int32  # [2, K] rows and columns of the neighbouring cells
    energy: Int32  # [M] magnitudes of one of them


class ContextModel(ABC):
    """The integers of a context model as they are stored; subclasses are frozen dataclasses.

    C channels, H hidden units.
    """

    max_index: ClassVar[int]  # latent indices lie in [-max_index, max_index]
    scale_classes: ClassVar[int]  # in eighths of a natural-log unit, from log_scale_start up
    log_scale_start: ClassVar[float]
    reach: ClassVar[int]  # largest deviation in a table
    symbols: ClassVar[int]
    qualities: ClassVar[int]  # number of rate points

    groups: Int32  # these five as in `Network`
    within: Int16
    middle: Int16
    middle_bias: Int32
    leave: Int16
    tables: NDArray[np.uint32]  # [FRACTIONS * scale_classes, symbols], rows sum to 2**TABLE_BITS

    @property
    def channels(self) -> int:
        return self.leave.shape[0] // 2

    @abstractmethod
    def shapes(self, channels: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """The required shapes of the arrays that only this subclass has."""

    @abstractmethod
    def view(self) -> dict[str, Any]:
        """The fields of `Network` that are derived from the stored ones, the same at all rates."""

    @abstractmethod
    def biases(self, quality: int) -> dict[str, Any]:
        """The fields of `Network` that depend on the rate point."""

    @abstractmethod
    def symbols_of(self, deviation: Int32) -> Int32:
        """Table symbols of deviations from the rounded locations, same shape."""

    def network(self, quality: int) -> Network:
        """The network at a rate point. Raises BadStream for an unknown quality."""
        if not 0 <= quality < self.qualities:
            raise BadStream(f"quality {quality} is not in 0..{self.qualities - 1}")
        return self._network._replace(**self.biases(quality))

    @cached_property
    def _network(self) -> Network:
        stored = {name: getattr(self, name) for name in Network._fields if hasattr(self, name)}
        known = stored | self.view() | self.biases(0)
        for name, value in known.items():
            if isinstance(value, np.ndarray):
                known[name] = np.ascontiguousarray(value)
        return Network(**known)

    def check(self) -> None:
        """Raise ValueError unless types, shapes and table sums agree.

        The compiled code does no bounds checks and relies on this method.
        """
        for field in fields(self):  # type: ignore[arg-type]
            kind = "int32" if field.name in _INT32 else "int16"
            kind = "uint32" if field.name == "tables" else kind
            self._require(field.name, "dtype", np.dtype(kind))
        if self.middle.ndim != 2 or self.leave.ndim != 2 or self.groups.ndim != 1:
            raise ValueError("context model: groups, middle or leave has the wrong dimensions")
        hidden, channels = self.middle.shape[0], self.channels
        shapes = {
            "within": (2 * channels, hidden),
            "middle": (hidden, hidden),
            "middle_bias": (hidden,),
            "leave": (2 * channels, hidden),
            "tables": (FRACTIONS * self.scale_classes, self.symbols),
        }
        for name, shape in (shapes | self.shapes(channels, hidden)).items():
            self._require(name, "shape", shape)
        unit, rest = divmod(hidden, max(self.groups.size, 1))
        if rest or unit == 0 or int(self.groups.sum()) != channels or (self.groups < 1).any():
            raise ValueError("context model: groups do not divide the channels and hidden units")
        heaviest = max(int(np.abs(w.astype(np.int32)).max()) for w in (self.middle, self.leave))
        if heaviest > MAX_WEIGHT or hidden > MAX_HIDDEN:
            raise ValueError("context model: sums of its products do not fit in 32 bits")
        if not (self.tables.sum(axis=1) == 1 << TABLE_BITS).all():
            raise ValueError("context model: table rows must sum to 2**16")

    def _require(self, name: str, attribute: str, wanted: Any) -> None:
        found = getattr(getattr(self, name), attribute)
        if found != wanted:
            raise ValueError(f"context model: {name} is {found}, not {wanted}")


def start_cell(network: Network) -> Cell:
    """Working memory for a walk."""
    hidden, channels = len(network.middle), len(network.bands)
    seen = len(network.neighbours)
    return Cell(
        np.zeros(hidden, np.int32),
        np.zeros((2, hidden), np.int16),
        np.zeros((3, channels), np.int32),
        np.zeros((2, seen), np.int32),
        np.zeros(len(network.around) // seen, np.int32),
    )


@kernel(inline="always")
def clip(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


@kernel(inline="always")
def _look_around(network: Network, cell: Cell, q: Int16, row: int, column: int) -> None:
    """Linear prediction of a cell, and the first layer's sums over the cells before it."""
    _, width, channels = q.shape
    neighbours, predict, magnitudes = network.neighbours, network.predict, network.magnitudes
    near, around, bands = network.near, network.around, network.bands
    sums, linear = cell.sums, cell.out[0]
    seen = len(neighbours)
    values, count = len(near) // len(predict), len(around) // seen
    offset = network.offset[0 if row == 0 and column == 0 else 1]
    for h in range(len(sums)):  # numba would copy an array assigned to one it may overlap
        sums[h] = offset[h]
    linear[:] = 0
    rows, columns, energy = cell.seen[0], cell.seen[1], cell.energy
    for k in range(seen):
        rows[k], columns[k] = row - neighbours[k, 0], column - neighbours[k, 1]
        if rows[k] < 0 or columns[k] < 0 or columns[k] >= width:
            rows[k] = -1
    spare = 0 if rows[0] >= 0 else 1
    for k in range(len(predict)):
        if rows[k] < 0 and network.padded:
            rows[k], columns[k] = rows[spare], columns[spare]
        if rows[k] >= 0:
            neighbour, weights = q[rows[k], columns[k]], predict[k]
            for c in range(channels):
                linear[c] += np.int32(weights[c]) * np.int32(neighbour[c])
    for k in range(seen):
        if rows[k] < 0:
            continue
        neighbour = q[rows[k], columns[k]]
        energy[:] = 0
        for c in range(channels):
            d = neighbour[c] - ((linear[c] + 512) >> 10)
            if d == 0:
                continue
            energy[bands[c]] += magnitudes[abs(d)]
            if k < len(predict) and c < values:
                clipped = np.int32(clip(d, MAX_VALUE))
                weights = near[k * values + c]
                for h in range(len(sums)):
                    sums[h] += clipped * np.int32(weights[h])
        for b in range(count):
            if energy[b] != 0:
                magnitude = np.int32(min(energy[b], MAX_MAGNITUDE))
                weights = around[k * count + b]
                for h in range(len(sums)):
                    sums[h] += magnitude * np.int32(weights[h])


@kernel(inline="always")
def _feed(network: Network, cell: Cell, q: Int16, group: int, start: int) -> None:
    """Add the previous group of a cell q [C], which ends at `start`, to the first layer.

    Only the sums of units that have yet to be read, those from `group` on, are updated.
    """
    within, magnitudes = network.within, network.magnitudes
    sums, linear = cell.sums, cell.out[0]
    unread = group * (len(sums) // len(network.groups))
    sums = sums[unread:]
    for c in range(start - network.groups[group - 1], start):
        d = q[c] - ((linear[c] + 512) >> 10)
        if d == 0:
            continue
        clipped = np.int32(clip(d, MAX_VALUE))
        magnitude = np.int32(magnitudes[abs(d)])
        of_value, of_magnitude = within[c, unread:], within[len(q) + c, unread:]
        for h in range(len(sums)):
            sums[h] += clipped * np.int32(of_value[h]) + magnitude * np.int32(of_magnitude[h])


@kernel(inline="always")
def _dot(weights: Int16, activations: Int16, count: int) -> np.int32:
    """Dot product of the first `count` values in 32 bits, for which CPUs have an instruction."""
    total = np.int32(0)
    for i in range(count):
        total = np.int32(total + np.int32(weights[i]) * np.int32(activations[i]))
    return total


@kernel(inline="always")
def _look_up(network: Network, cell: Cell, group: int, start: int) -> None:
    """Rounded locations and table numbers of the group of channels that begins at `start`."""
    middle, middle_bias = network.middle, network.middle_bias
    leave, leave_bias = network.leave, network.leave_bias
    sums, hidden1, hidden2 = cell.sums, cell.hidden[0], cell.hidden[1]
    linear, centre, table = cell.out[0], cell.out[1], cell.out[2]
    channels = len(centre)
    unit = len(sums) // len(network.groups)
    low, high = group * unit, (group + 1) * unit
    for h in range(low, high):
        hidden1[h] = min(max((sums[h] + 8) >> 4, 0), MAX_ACTIVATION)
    for h in range(low, high):
        total = int(middle_bias[h]) + _dot(middle[h], hidden1, high)
        hidden2[h] = min(max((total + 512) >> 10, 0), MAX_ACTIVATION)
    for c in range(start, start + network.groups[group]):
        location = int(leave_bias[c]) + _dot(leave[c], hidden2, high)
        scale = int(leave_bias[channels + c]) + _dot(leave[channels + c], hidden2, high)
        eighths = (clip(location, MAX_LOCATION) + (int(linear[c]) << 6) + (1 << 12)) >> 13
        whole = (eighths + 4) >> 3
        fraction = eighths - 8 * whole + 4
        centre[c] = whole
        scale_class = min(max(scale >> 13, 0), network.scale_classes - 1)
        table[c] = fraction * network.scale_classes + scale_class


@kernel()
def enter_group(
    network: Network, cell: Cell, q: Int16, row: int, column: int, group: int, start: int
) -> None:
    """Compute the centres and tables of a group of a cell's channels, which begins at `start`.

    Call it for each group in turn, once all earlier indices are in q [h, w, C].
    """
    if group == 0:
        _look_around(network, cell, q, row, column)
    else:
        _feed(network, cell, q[row, column], group, start)
    _look_up(network, cell, group, start)


_NETWORK = Record(
    Network, "i4[::1]", "i4[:,::1]", "b1", "i2[:,::1]", "i4[::1]", "i4[::1]", "i2[:,::1]",
    "i2[:,::1]", "i2[:,::1]", "i4[:,::1]", "i2[:,::1]", "i4[::1]", "i2[:,::1]", "i4[::1]", "i8",
)  # fmt: skip
_CELL = Record(Cell, "i4[::1]", "i2[:,::1]", "i4[:,::1]", "i4[:,::1]", "i4[::1]")
# For decoders, which enter a group only when they know those before it.
_enter_group = ahead_of_time(_NETWORK, _CELL, "i2[:,:,::1]", "i8", "i8", "i8", "i8")(enter_group)


# Only whole walks release the GIL: single steps take microseconds, and getting the lock back from
# a busy thread takes milliseconds.
@kernel(nogil=True)
def _walk(network: Network, cell: Cell, q: Int16, centres: Int32, tables: Int32) -> None:
    """Fill centres and tables [h, w, C] for a known map q [h, w, C]."""
    for row in range(q.shape[0]):
        for column in range(q.shape[1]):
            start = 0
            for group in range(len(network.groups)):
                enter_group(network, cell, q, row, column, group, start)
                start += network.groups[group]
            centres[row, column] = cell.out[1]
            tables[row, column] = cell.out[2]


def deviations(
    model: ContextModel,
    q: NDArray[np.integer],
    quality: int,
    past: NDArray[np.integer] | None = None,
) -> tuple[Int32, Int32]:
    """Deviations of known indices, [h, w, C] or steps [S, C], from their rounded locations, and
    their table numbers; both have the same shape.

    past: [P, C] indices of the steps before, if the context looks back to these. Raises ValueError
    for the wrong number of channels and for indices out of range.
    """
    if past is not None:
        distances, tables = deviations(model, np.concatenate((past, q)), quality)
        return distances[len(past) :], tables[len(past) :]
    if q.shape[-1] != model.channels:
        raise ValueError(f"the model has {model.channels} channels, not {q.shape[-1]}")
    if max(q.max(initial=0), -int(q.min(initial=0))) > model.max_index:
        raise ValueError(f"latent indices must be within ±{model.max_index}")
    network = model.network(quality)
    indices = np.ascontiguousarray(q, dtype=np.int16).reshape(len(q), -1, model.channels)
    centres, tables = np.empty(indices.shape, np.int32), np.empty(indices.shape, np.int32)
    _walk(network, start_cell(network), indices, centres, tables)
    return (indices - centres).reshape(q.shape), tables.reshape(q.shape)


class ContextWalk:
    """The contexts of steps [S, C] that are being decoded, group by group.

    past: [P, C] indices of the steps before them, if the context looks back to these. Iterating
    yields, for every group in coding order, the slots of its indices within `q` and their rounded
    locations and table numbers, each [channels of the group]; the slots must be filled with `put`
    before the next step of the iteration.
    """

    def __init__(
        self,
        model: ContextModel,
        steps: int,
        quality: int,
        past: NDArray[np.integer] | None = None,
    ) -> None:
        self._model, self._network = model, model.network(quality)
        before = np.zeros((0, model.channels)) if past is None else past
        self._first = len(before)
        self._rows = np.zeros((self._first + steps, model.channels), np.int16)
        self._rows[: self._first] = before

    @property
    def q(self) -> Int16:
        """The indices [S, C]."""
        return self._rows[self._first :]

    def put(self, slots: Int16, values: NDArray[np.integer]) -> None:
        """Fill in decoded indices. Raises BadStream if they are out of range."""
        if np.abs(values).max(initial=0) > self._model.max_index:
            raise BadStream("payload decodes to latents out of range")
        slots[:] = values

    def __iter__(self) -> Iterator[tuple[Int16, Int32, Int32]]:
        cell = start_cell(self._network)
        _, centre, table = cell.out
        rows = self._rows
        enter = _enter_group.bound(self._network, cell, rows[:, None])
        sizes = self._model.groups.tolist()
        for row in range(self._first, len(rows)):
            start = 0
            for group, size in enumerate(sizes):
                enter(row, 0, group, start)
                part = slice(start, start + size)
                yield rows[row, part], centre[part], table[part]
                start += size
