"""A preset and its loaded model, which every encoder and decoder of speech works with."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from codec.errors import BadInput
from codec.files.paths import display_name
from codec.search.problem import Distance
from codec.speech.presets import Preset, find_preset, presets_of


class SpeechEngine:
    """One preset with its networks loaded on a device.

    Raises BadInput for a broken model, and one of another kind than the preset needs.

    networks: as trained; searchable: as the search runs them; coders: entropy coders by name;
    qualities: number of rate points; channels: latents of a step; model_id: 16 hex digits.
    """

    def __init__(self, preset: Preset, device: torch.device) -> None:
        from models.folder import load_speech_model, search_networks

        self.settings = preset
        self.preset = preset.name
        self.device = device
        model = load_speech_model(preset.model)
        if model.family != preset.family:
            raise BadInput(
                f"{display_name(preset.model)} holds no model for preset {preset.name!r} "
                f"(but for {', '.join(presets_of(model.family))})"
            )
        self.networks = model = model.to(device)
        self.searchable = search_networks(model)
        self.model_id = model.model_id
        self.coders = model.coders
        self.qualities = model.qualities
        self.channels = next(iter(model.coders.values())).channels

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
        return self.networks.generator_past is not None

    @cached_property
    def distance(self) -> Distance:
        """The distance that encoders minimise; decoders never load it."""
        return self.networks.frame_distance()
