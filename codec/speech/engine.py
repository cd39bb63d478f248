"""A preset and its loaded model, which every encoder and decoder of speech works with."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from codec.errors import BadInput
from codec.files.paths import display_name
from codec.packet import FRAME_STEPS, STEPS
from codec.speech.generator import FrameGenerator
from codec.speech.presets import Preset, find_preset, presets_of

if TYPE_CHECKING:
    import torch

    from codec.search.problem import Distance, Networks
    from models.folder import FrameModel, Prepared


class SpeechEngine:
    """One preset with its model loaded on a device.

    decoding: without what only encoding takes; on the CPU, speech is then decoded without PyTorch.
    That is loaded where it is asked for after all. Raises BadInput for a broken model, and one of
    another kind than the preset needs.

    generator: as decoders run it; coders: entropy coders by name; qualities: number of rate points;
    channels: latents of a step; model_id: 16 hex digits.
    """

    def __init__(
        self, preset: Preset, device: torch.device | str, *, decoding: bool = False
    ) -> None:
        from models.folder import load_speech_generator

        self.settings = preset
        self.preset = preset.name
        self.device = device
        alone = load_speech_generator(preset.model) if decoding and str(device) == "cpu" else None
        self.generator: FrameGenerator = alone or self._prepared.generator
        family = self.generator.family
        if family != preset.family:
            raise BadInput(
                f"{display_name(preset.model)} holds no model for preset {preset.name!r} "
                f"(but for {', '.join(presets_of(family))})"
            )
        self.model_id = self.generator.model_id
        self.coders = self.generator.coders
        self.qualities = self.generator.qualities
        self.channels = next(iter(self.coders.values())).channels

    @cached_property
    def networks(self) -> FrameModel:
        """The model as trained."""
        from models.folder import load_speech_model

        return load_speech_model(self.settings.model).to(self.device)

    @property
    def searchable(self) -> Networks:
        """The networks as the search runs them."""
        return self._prepared.networks

    @property
    def quick_generator(self) -> FrameGenerator:
        """As `generator`, some thousandths off, in a third of the time."""
        return self._prepared.quick_generator

    @cached_property
    def _prepared(self) -> Prepared:
        from models.folder import prepared

        return prepared(self.networks)

    def sibling(self, name: str) -> Preset:
        """Another preset that this model serves, with this model.

        Raises BadInput for an unknown preset, or one of another kind of model.
        """
        preset = find_preset(name)
        if preset.family != self.settings.family:
            raise BadInput(
                f"preset {name!r} has another model than {self.preset!r}; it needs a new stream"
            )
        return replace(preset, model=self.settings.model)

    @property
    def sliding(self) -> bool:
        """Whether packets may hold less than a frame."""
        return self.generator.past is not None

    @cached_property
    def distance(self) -> Distance:
        """The distance that encoders minimise; decoders never load it."""
        return self._prepared.distance


def check_steps(codec: SpeechEngine, steps: int) -> int:
    """`steps`, if packets of the codec may hold so many. Raises BadInput."""
    if steps not in STEPS:
        raise BadInput(f"a packet cannot hold {steps} latent steps (one of {STEPS})")
    if steps != FRAME_STEPS and not codec.sliding:
        raise BadInput(f"preset {codec.preset} codes whole frames of 1024 ms only")
    return steps
