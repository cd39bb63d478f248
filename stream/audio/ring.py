"""A ring of samples between a sound card's callback and the thread that works on them.

One thread writes, one other thread reads, and neither ever waits: what does not fit is dropped and
counted. The positions only ever grow, each written by one side alone, and a position is moved only
after the samples are in place; so no lock is needed. They are arrays of one number, since one side
may be compiled code (`stream.audio.callbacks`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.signal.samples import FloatArray


class SampleRing:
    """Single-producer, single-consumer ring of float32 samples, allocated once.

    capacity: samples it holds at most; written, taken: arrays of one int64 in which the writer's or
    the reader's position is kept, where that is not ours. Raises BadInput if it holds nothing.

    Attributes: samples (the ring itself), positions (written and taken, arrays of one number);
    dropped (samples that did not fit).
    """

    def __init__(
        self,
        capacity: int,
        *,
        written: NDArray[np.int64] | None = None,
        taken: NDArray[np.int64] | None = None,
    ) -> None:
        if capacity <= 0:
            raise BadInput(f"a ring of {capacity} samples holds nothing")
        self.samples = np.zeros(capacity, np.float32)
        self.capacity = capacity
        self.positions = tuple(
            np.zeros(1, np.int64) if position is None else position for position in (written, taken)
        )
        self._written, self._taken = self.positions
        self.dropped = 0

    @property
    def written(self) -> int:
        """Samples written since it was made: the writer's position."""
        return int(self._written[0])

    @property
    def taken(self) -> int:
        """Samples taken since it was made: the reader's position."""
        return int(self._taken[0])

    @property
    def available(self) -> int:
        """Samples that can be read now; a reader may rely on at least this many."""
        return self.written - self.taken

    @property
    def room(self) -> int:
        """Samples that can be written now; a writer may rely on at least this many."""
        return self.capacity - self.available

    def write(self, samples: FloatArray) -> int:
        """Append samples [n]; returns how many fitted. The rest, the newest, is dropped."""
        count = min(len(samples), self.room)
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self.samples[start : start + first] = samples[:first]
        if first < count:
            self.samples[: count - first] = samples[first:count]
        self.dropped += len(samples) - count
        self._written += count
        return count

    def read_into(self, out: FloatArray) -> int:
        """Move the oldest samples into `out` [n]; returns how many there were for it."""
        count = min(len(out), self.available)
        start = self.taken % self.capacity
        first = min(count, self.capacity - start)
        out[:first] = self.samples[start : start + first]
        if first < count:
            out[first:count] = self.samples[: count - first]
        self._taken += count
        return count

    def read(self, most: int) -> FloatArray:
        """The oldest samples, at most `most` of them, as a new array."""
        out = np.empty(min(max(most, 0), self.available), np.float32)
        self.read_into(out)
        return out
