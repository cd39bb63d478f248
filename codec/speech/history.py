"""The latents already coded, as they bear on those that follow: for encoder and decoder alike.

The generator sees the last few latent steps, in whatever way they came to be known; the entropy
coder only those that both sides are sure of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.packet import FRAME_STEPS
from codec.signal.samples import FloatArray
from codec.speech.generator import FrameGenerator

CONTEXT_STEPS = 2  # that the entropy coder looks back to


class Known(NamedTuple):
    """What comes before some steps: latents [P, C] in the units of a rate point, as the generator
    sees them, and the symbols [K, C] that the entropy prior looks back to."""

    latents: FloatArray
    context: NDArray[np.int8]

    def same(self, other: Known) -> bool:
        """Whether the networks see the same after both."""
        return np.array_equal(self.latents, other.latents) and np.array_equal(
            self.context, other.context
        )


class History:
    """The end of what was coded. Immutable parts, so that `copy.copy` keeps a state."""

    def __init__(self, generator: FrameGenerator) -> None:
        self._generator = generator
        self._channels = next(iter(generator.coders.values())).channels
        self._seen = generator.past or 0
        # Beyond what is seen, so that guesses of up to a frame can be taken back.
        self._kept = self._seen + FRAME_STEPS if self._seen else 0
        self.clear()

    def clear(self) -> None:
        """Forget everything, as before a stream begins and after a pause."""
        self.forget()
        self.context: NDArray[np.int8] | None = None

    def forget(self) -> None:
        """Forget what the generator sees."""
        self._latents = np.zeros((0, self._channels), np.float32)
        self._rate = 0.0

    def add(self, indices: NDArray[np.int8], rate: float, *, chained: bool = True) -> None:
        """The indices [S, C] of the next steps, at a rate point; chained: they follow on."""
        self.append(self._generator.latents_of(indices), rate)
        self.learn(indices, chained=chained)

    def learn(self, indices: NDArray[np.int8], *, chained: bool) -> None:
        """Indices [S, C], for the entropy coder alone."""
        before = self.context if chained else None
        known = indices if before is None else np.concatenate((before, indices))
        self.context = known[-CONTEXT_STEPS:]

    def append(self, latents: FloatArray, rate: float) -> None:
        """Latents [S, C] of the next steps, for the generator alone; they may be guesses."""
        joined = np.concatenate((self._at(rate), latents))
        self._latents, self._rate = joined[max(len(joined) - self._kept, 0) :], rate

    def drop(self, steps: int) -> None:
        """Take back the last guesses."""
        self._latents = self._latents[: max(len(self._latents) - steps, 0)]

    def before(self, rate: float, steps: int, begun: int = 0, *, chained: bool) -> Known:
        """What the networks see before more steps at a rate point; chained: the prior too.

        steps: of their whole packet, of which the last `begun` steps here are the beginning: beyond
        a frame that ends with the packet, a decoder sees nothing.
        """
        room = min(self._seen, FRAME_STEPS - steps + begun)
        latents = self._at(rate)
        context = self.context if chained else None
        if context is None:
            context = np.zeros((0, self._channels), np.int8)
        return Known(latents[max(len(latents) - room, 0) :], context)

    def _at(self, rate: float) -> FloatArray:
        return self._generator.rescale(self._latents, self._rate, rate)
