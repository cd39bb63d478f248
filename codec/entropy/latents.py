"""What latent frames of all families have in common, whatever quantiser they come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class LatentCoder(Protocol):
    """Entropy coder of latent frames; `overhead` is its cost over the prior's ideal bits."""

    overhead: float

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes: ...

    def decode(self, payload: bytes, quality: int) -> NDArray[np.int8]: ...


def thin_out(indices: NDArray[np.int8]) -> NDArray[np.int8]:
    """Zero a tenth (at least one) of the nonzero indices, those of the highest channels."""
    out = indices.copy()
    steps, channels = np.nonzero(out)
    order = np.argsort(-channels, kind="stable")
    drop = order[: max(len(order) // 10, 1)]
    out[steps[drop], channels[drop]] = 0
    return out
