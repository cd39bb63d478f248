"""What a decoder needs of a model, on arrays: symbols to latents, and latents to columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codec.entropy.latent_coder import LatentCoder
from codec.signal.samples import FloatArray


class FrameGenerator(Protocol):
    """A frozen generator with the entropy coders of its latents.

    model_id: 16 hex digits; family: of presets that it serves; coders: entropy coders by name;
    qualities: number of rate points; past: how many latent steps before its own it sees, None
    where it only takes whole frames.
    """

    model_id: str
    family: str
    coders: Mapping[str, LatentCoder]
    qualities: int
    past: int | None

    def latents_of(self, indices: NDArray[np.int8]) -> FloatArray:
        """Symbols to quantised latents, same shape."""

    def rescale(self, latents: FloatArray, rate: float, new_rate: float) -> FloatArray:
        """Latents [S, C] of a rate point in the steps of another."""

    def draw(self, latents: FloatArray, rate: float, steps: int) -> FloatArray:
        """Latents [B, S, C] at a rate point to the log-mel columns of the last `steps` of them,
        [B, STEP_HOPS * steps, N_MELS] where a frame has FRAME_STEPS."""
