"""A preset and its loaded model, which every encoder and decoder of speech works with."""

from __future__ import annotations

from functools import cached_property

import torch

from codec.errors import BadInput
from codec.search.problem import Distance
from codec.speech.presets import Preset


class SpeechEngine:
    """One preset with its networks loaded on a device.

    Raises BadInput for a broken model, and one without the rate point of the preset.

    networks: as trained; searchable: as the search runs them; coders: entropy coders by name;
    qualities: number of rate points; channels: latents of a step; model_id: 16 hex digits.
    """

    def __init__(self, preset: Preset, device: torch.device) -> None:
        from models.folder import load_speech_model, search_networks

        self.settings = preset
        self.preset = preset.name
        self.device = device
        model = load_speech_model(preset.model)
        if preset.quality >= model.qualities:
            raise BadInput(f"{preset.model} holds no model for preset {preset.name!r}")
        self.networks = model = model.to(device)
        self.searchable = search_networks(model)
        self.model_id = model.model_id
        self.coders = model.coders
        self.qualities = model.qualities
        self.channels = next(iter(model.coders.values())).channels

    @property
    def sliding(self) -> bool:
        """Whether packets may hold less than a frame."""
        return self.networks.generator_past is not None

    @cached_property
    def distance(self) -> Distance:
        """The distance that encoders minimise; decoders never load it."""
        return self.networks.frame_distance()
