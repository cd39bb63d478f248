"""Phase gradient heap integration over one block of columns, compiled with numba.

Source: Prusa, Balazs, Sondergaard, "A noniterative method for reconstruction of phase from STFT
magnitude", IEEE/ACM TASLP 25(5), 2017.

Importing this module compiles it, or reads the compiled form from numba's cache on disk, so
import it only where phases are reconstructed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.kernels import kernel


# Without the interpreter's lock, so that audio callbacks need not wait for them.
@kernel("void(f4[::1], i4[::1], i8, f4, i4)", nogil=True)
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


@kernel("void(f4[::1], i4[::1], i8)", nogil=True)
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


@kernel("void(f4[:,::1], f4[:,::1], f4[:,::1], f4, f8[:,::1], b1[:,::1])", nogil=True)
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
    reaches starts at its loudest bin with phase 0.
    """
    columns, bins = level.shape
    size = columns * bins
    loud = level.ravel()
    along = slope_time.ravel()
    across = slope_frequency.ravel()
    angle = phase.ravel()
    done = known.ravel()
    keys = np.empty(size, np.float32)
    heap = np.empty(size, np.int32)
    count = 0
    for i in range(size):
        if done[i] and loud[i] > threshold:
            _insert(keys, heap, count, loud[i], np.int32(i))
            count += 1

    # The order in which islands start; sorted only once the seeds have spread as far as they can.
    starts = np.empty(0, np.int64)
    cursor = -1
    while True:
        if count == 0:
            if cursor < 0:
                left = np.empty(size, np.int64)
                total = 0
                for i in range(size):
                    if not done[i] and loud[i] > threshold:
                        left[total] = i
                        total += 1
                starts = left[:total][np.argsort(-loud[left[:total]])]
                cursor = 0
            while cursor < len(starts) and done[starts[cursor]]:
                cursor += 1
            if cursor == len(starts):
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
