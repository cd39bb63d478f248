"""Phase gradient heap integration over one block of columns, compiled ahead of time.

Source: Prusa, Balazs, Sondergaard, "A noniterative method for reconstruction of phase from STFT
magnitude", IEEE/ACM TASLP 25(5), 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.kernels import kernel
from codec.kernels.ahead import ahead_of_time

_SMALL = 15  # fewer bins than these are sorted by insertion


@kernel()
def _insert(
    keys: NDArray[np.float32], heap: NDArray[np.int32], count: int, key: float, index: int
) -> None:
    """Add a bin to a max-heap of `count` bins, ordered by their keys."""
    slot = count
    while slot > 0:
        parent = (slot - 1) >> 1
        if keys[parent] >= key:
            break
        keys[slot] = keys[parent]
        heap[slot] = heap[parent]
        slot = parent
    keys[slot] = key
    heap[slot] = index


@kernel()
def _drop_top(keys: NDArray[np.float32], heap: NDArray[np.int32], count: int) -> None:
    """Remove the bin with the largest key from a max-heap of `count` bins."""
    last = count - 1
    key = keys[last]
    index = heap[last]
    slot = 0
    while True:
        child = 2 * slot + 1
        if child >= last:
            break
        if child + 1 < last and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[slot] = keys[child]
        heap[slot] = heap[child]
        slot = child
    keys[slot] = key
    heap[slot] = index


@kernel()
def loudest_first(
    order: NDArray[np.int64], loud: NDArray[np.float32], stack: NDArray[np.int32]
) -> None:
    """Sort bins, the loudest first: a quicksort with the median of three as the pivot.

    Which of equally loud ones comes first is part of what a stream decodes to. stack: for twice the
    logarithm of their number.
    """
    low, high, held = 0, len(order) - 1, 0
    while True:
        while high - low >= _SMALL:
            middle = (low + high) >> 1
            if loud[order[middle]] > loud[order[low]]:
                order[low], order[middle] = order[middle], order[low]
            if loud[order[high]] > loud[order[middle]]:
                order[high], order[middle] = order[middle], order[high]
            if loud[order[middle]] > loud[order[low]]:
                order[low], order[middle] = order[middle], order[low]
            pivot = loud[order[middle]]
            order[high], order[middle] = order[middle], order[high]
            i, j = low, high - 1
            while True:
                while i < high and loud[order[i]] > pivot:
                    i += 1
                while j >= low and pivot > loud[order[j]]:
                    j -= 1
                if i >= j:
                    break
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
            order[i], order[high] = order[high], order[i]
            # The longer part waits, so that few do.
            if high - i > i - low:
                stack[held], stack[held + 1] = i + 1, high
                high = i - 1
            else:
                stack[held], stack[held + 1] = low, i - 1
                low = i + 1
            held += 2
        for i in range(low + 1, high + 1):
            bin_ = order[i]
            j = i
            while j > low and loud[bin_] > loud[order[j - 1]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = bin_
        if held == 0:
            return
        held -= 2
        low, high = stack[held], stack[held + 1]


# Without the interpreter's lock, so that audio callbacks need not wait for it.
@ahead_of_time(
    "f4[::1]", "f4[::1]", "f4[::1]", "f4", "f8[::1]", "b1[::1]", "i8", "f4[::1]", "i4[::1]",
    "i8[::1]",
)  # fmt: skip
@kernel(nogil=True)
def _spread(
    loud: NDArray[np.float32],
    along: NDArray[np.float32],
    across: NDArray[np.float32],
    threshold: float,
    angle: NDArray[np.float64],
    done: NDArray[np.bool_],
    bins: int,
    keys: NDArray[np.float32],
    heap: NDArray[np.int32],
    starts: NDArray[np.int64],
) -> None:
    """`integrate` of arrays [columns * bins]; keys, heap, starts: working memory of that size."""
    size = len(loud)
    columns = size // bins
    count = 0
    for i in range(size):
        if done[i] and loud[i] > threshold:
            _insert(keys, heap, count, loud[i], np.int32(i))
            count += 1

    # Islands begin in order of loudness; sorted only once the seeds have spread as far as they can.
    total = 0
    cursor = -1
    while True:
        if count == 0:
            if cursor < 0:
                for i in range(size):
                    if not done[i] and loud[i] > threshold:
                        starts[total] = i
                        total += 1
                loudest_first(starts[:total], loud, heap)
                cursor = 0
            while cursor < total and done[starts[cursor]]:
                cursor += 1
            if cursor == total:
                return
            start = starts[cursor]
            angle[start] = 0.0
            done[start] = True
            _insert(keys, heap, 0, loud[start], np.int32(start))
            count = 1
        here = np.int64(heap[0])
        _drop_top(keys, heap, count)
        count -= 1
        column = here // bins
        bin_ = here - column * bins
        for side in range(4):
            if side == 0:
                inside, there = column + 1 < columns, here + bins
            elif side == 1:
                inside, there = column > 0, here - bins
            elif side == 2:
                inside, there = bin_ + 1 < bins, here + 1
            else:
                inside, there = bin_ > 0, here - 1
            if not inside or done[there] or not loud[there] > threshold:
                continue
            if side < 2:
                step = 0.5 * (along[here] + along[there])
            else:
                step = 0.5 * (across[here] + across[there])
            angle[there] = angle[here] + (step if side % 2 == 0 else -step)
            done[there] = True
            _insert(keys, heap, count, loud[there], np.int32(there))
            count += 1


def integrate(
    level: NDArray[np.float32],
    slope_time: NDArray[np.float32],
    slope_frequency: NDArray[np.float32],
    threshold: float,
    phase: NDArray[np.float64],
    known: NDArray[np.bool_],
) -> None:
    """Spread phases from the loudest bins outward, by the trapezoidal rule, in place.

    All arrays are [columns, bins]. level: log magnitude; only bins above `threshold` take part.
    slope_time: phase advance per column; slope_frequency: per bin (radians). phase: filled where
    `known` becomes true. Bins that are known at the start are the seeds; an island that no seed
    reaches starts at its loudest bin with phase 0. Raises ValueError where phase or known is not
    contiguous.
    """
    if not (phase.flags.c_contiguous and known.flags.c_contiguous):
        raise ValueError("phase and known must be contiguous")
    loud, along, across = (part.ravel() for part in (level, slope_time, slope_frequency))
    memory = (np.empty(level.size, kind) for kind in (np.float32, np.int32, np.int64))
    grown = phase.reshape(-1), known.reshape(-1)
    _spread(loud, along, across, threshold, *grown, level.shape[1], *memory)
