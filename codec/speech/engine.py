"""What every encoder and decoder of speech works with: a preset and its model, loaded."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from codec.speech.presets import Preset

if TYPE_CHECKING:
    from models.networks.speech_distance import FrameDistance


class SpeechEngine:
    """One preset with its networks loaded on a device. Raises BadInput for a broken model.

    networks: as trained; searchable: as the search runs them; coders: entropy coders by name;
    qualities: how many rate points packets can name; model_id: 16 hex digits.
    """

    def __init__(self, preset: Preset, device: torch.device) -> None:
        from models.folder import load_model, search_networks

        self.settings = preset
        self.preset = preset.name
        self.device = device
        model = load_model(preset.family)
        self.networks = model.networks.to(device)
        self.searchable = search_networks(self.networks)
        self.model_id = model.model_id
        self.coders = model.coders
        self.qualities = model.qualities

    @cached_property
    def distance(self) -> FrameDistance:
        """F, which encoders descend; decoders never need it."""
        from models.networks.speech_distance import FrameDistance

        return FrameDistance().to(self.device)
