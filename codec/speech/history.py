"""The latents already coded, as they bear on those that follow: for encoder and decoder alike.

The generator sees the last few latent steps, in whatever way they came to be known; the entropy
coder only those that both sides are sure of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.packet import FRAME_STEPS
from codec.search.sliding import Past

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

CONTEXT_STEPS = 2  # that the entropy coder looks back to


class History:
    """The end of what was coded. Immutable parts, so that `copy.copy` keeps a state."""

    def __init__(self, codec: SpeechEngine) -> None:
        self._networks, self._device = codec.networks, codec.device
        self._channels = codec.channels
        self._seen = codec.networks.generator_past or 0
        # Beyond what is seen, so that guesses of up to a frame can be taken back.
        self._kept = self._seen + FRAME_STEPS if self._seen else 0
        self.clear()

    def clear(self) -> None:
        """Forget everything, as before a stream begins and after a pause."""
        self.forget()
        self.context: NDArray[np.int8] | None = None

    def forget(self) -> None:
        """Forget what the generator sees."""
        self._latents = torch.zeros((1, 0, self._channels), device=self._device)
        self._rate = torch.zeros(1, device=self._device)

    def add(self, indices: NDArray[np.int8], rate: Tensor, *, chained: bool = True) -> None:
        """The indices [S, C] of the next steps, at rate point [1]; chained: they follow on."""
        self.append(self._networks.latents_of(indices)[None].to(self._device), rate)
        self.learn(indices, chained=chained)

    def learn(self, indices: NDArray[np.int8], *, chained: bool) -> None:
        """Indices [S, C], for the entropy coder alone."""
        before = self.context if chained else None
        known = indices if before is None else np.concatenate((before, indices))
        self.context = known[-CONTEXT_STEPS:]

    def append(self, latents: Tensor, rate: Tensor) -> None:
        """Latents [1, S, C] of the next steps, for the generator alone; they may be guesses."""
        before = self._networks.rescale(self._latents, self._rate, rate)
        joined = torch.cat((before, latents), dim=1)
        self._latents, self._rate = joined[:, max(joined.shape[1] - self._kept, 0) :], rate

    def drop(self, steps: int) -> None:
        """Take back the last guesses."""
        self._latents = self._latents[:, : max(self._latents.shape[1] - steps, 0)]

    def past(self, rate: Tensor, steps: int, begun: int = 0, *, chained: bool) -> Past:
        """What the networks see before more steps at rate point [1]; chained: the prior too.

        steps: of their whole packet, of which the last `begun` steps here are the beginning: beyond
        a frame that ends with the packet, a decoder sees nothing.
        """
        room = min(self._seen, FRAME_STEPS - steps + begun)
        latents = self._networks.rescale(self._latents, self._rate, rate)
        latents = latents[:, max(latents.shape[1] - room, 0) :]
        context = torch.zeros((1, 0, self._channels), device=self._device)
        if chained and self.context is not None:
            context = torch.from_numpy(self.context.astype(np.float32))[None].to(self._device)
        return Past(latents, context)
