"""Speech models as decoders see them, without PyTorch: entropy coders and the generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.entropy.latent_coder import LatentCoder
from codec.entropy.speech_context import QUALITIES
from codec.signal.samples import FloatArray
from codec.speech.generator import FrameGenerator
from models.inference.written_out import WrittenGenerator
from models.networks.speech_shape import HASHED, SpeechShape, SpeechTables
from models.stored import ENTROPY, GENERATOR, check_identity, read_arrays, sizes


class SpeechGenerator(FrameGenerator):
    """The generator of a speech model, written out."""

    family = "speech"
    qualities = QUALITIES

    def __init__(
        self, model_id: str, coders: Mapping[str, LatentCoder], generator: WrittenGenerator
    ) -> None:
        self.model_id, self.coders = model_id, coders
        self.past = generator.shape.generator_past
        self._generator = generator

    @classmethod
    def read(cls, folder: Path, description: Mapping[str, Any]) -> SpeechGenerator:
        """That of a model folder. Raises what `models.stored.loading` turns into BadInput."""
        shape = SpeechShape(**sizes(description))
        tables = SpeechTables.read(description, read_arrays(folder / ENTROPY), shape)
        generator = WrittenGenerator(read_arrays(folder / GENERATOR), shape)
        model_id = check_identity(folder, description, HASHED)
        return cls(model_id, tables.coders(shape.steps), generator)

    def latents_of(self, indices: NDArray[np.int8]) -> FloatArray:
        return indices.astype(np.float32)

    def rescale(self, latents: FloatArray, rate: float, new_rate: float) -> FloatArray:
        """Centres are taken as even."""
        if rate == new_rate:
            return latents
        before, after = self._generator.gains(np.array([rate, new_rate], np.float32))
        rescaled: FloatArray = latents * (after / before)
        return rescaled

    def draw(self, latents: FloatArray, rate: float, steps: int) -> FloatArray:
        rates = np.full(len(latents), rate, np.float32)
        return self._generator.newest(latents, rates, steps)
