"""A ring of samples between a sound card's callback and the thread that works on them.

One thread writes, one other thread reads, and neither ever waits: what does not fit is dropped and
counted. The positions are plain integers that only ever grow, each
written by one side alone, and a position is moved only after the samples are in place; so no lock
is needed, and the callback does nothing but copy.
"""

from __future__ import annotations

import numpy as np

from codec.errors import BadInput
from codec.signal.samples import FloatArray


class SampleRing:
    """Single-producer, single-consumer ring of float32 samples, allocated once.

    capacity: samples it holds at most. Raises BadInput if that is not positive.

    Attributes: written, taken (samples since it was made: the writer's and the reader's position);
    dropped (samples that did not fit).
    """

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise BadInput(f"a ring of {capacity} samples holds nothing")
        self._samples = np.zeros(capacity, np.float32)
        self.capacity = capacity
        self.written = 0
        self.taken = 0
        self.dropped = 0

    @property
    def available(self) -> int:
        """Samples that can be read now; a reader may rely on at least this many."""
        return self.written - self.taken

    @property
    def room(self) -> int:
        """Samples that can be written now; a writer may rely on at least this many."""
        return self.capacity - (self.written - self.taken)

    def write(self, samples: FloatArray) -> int:
        """Append samples [n]; returns how many fitted. The rest, the newest, is dropped."""
        count = min(len(samples), self.room)
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self._samples[start : start + first] = samples[:first]
        if first < count:
            self._samples[: count - first] = samples[first:count]
        self.dropped += len(samples) - count
        self.written += count
        return count

    def read_into(self, out: FloatArray) -> int:
        """Move the oldest samples into `out` [n]; returns how many there were for it."""
        count = min(len(out), self.available)
        start = self.taken % self.capacity
        first = min(count, self.capacity - start)
        out[:first] = self._samples[start : start + first]
        if first < count:
            out[first:count] = self._samples[: count - first]
        self.taken += count
        return count

    def read(self, most: int) -> FloatArray:
        """The oldest samples, at most `most` of them, as a new array."""
        out = np.empty(min(max(most, 0), self.available), np.float32)
        self.read_into(out)
        return out
