"""Which class decodes the files of a preset: the one place where the image systems meet.

A preset names its class; a file names its preset by number. Every class is made from a preset and a
device and is a `PictureCodec`. To add a system: write the class, and add a preset that
names it to `codec.image.presets`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from codec.image.presets import ImagePreset, find_image_preset, numbered_image_preset

if TYPE_CHECKING:
    import torch

    from codec.image.base import PictureCodec
    from codec.image.container import ImageHeader


def load_image_codec(preset: str, device: str = "auto") -> PictureCodec:
    """The codec of a preset, loaded. Raises BadInput: unknown preset or device, broken model."""
    from codec.device import choose_device

    found = find_image_preset(preset)
    return _class_of(found)(found, choose_device(device))


def codec_for_header(header: ImageHeader, device: str = "auto") -> PictureCodec:
    """The codec that made a file. Raises BadStream if its preset is not known here."""
    return load_image_codec(numbered_image_preset(header.preset).name, device)


def _class_of(preset: ImagePreset) -> Callable[[ImagePreset, torch.device], PictureCodec]:
    # By name and late: the classes load torch and their networks, presets should not.
    module, name = preset.system.split(":")
    found: Callable[[ImagePreset, torch.device], PictureCodec]
    found = getattr(importlib.import_module(module), name)
    return found
