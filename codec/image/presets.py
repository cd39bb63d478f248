"""The presets of the image codec: their models and the defaults of their search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codec.errors import BadInput, BadStream

Tune = Literal["psnr", "ms-ssim", "visual"]  # the measure that an encoding is best at


@dataclass(frozen=True)
class ImagePreset:
    """A model and how its latents are searched.

    number: what files say; model: its folder of weights; iterations: default search steps;
    fast: those of the fast mode; one_rate: whether it has no rate to choose.
    """

    name: str
    number: int
    model: str
    iterations: int
    fast: int
    one_rate: bool = False


IMAGE_PRESETS: dict[str, ImagePreset] = {
    preset.name: preset
    for preset in (
        ImagePreset("photo", 0, "photo", iterations=24, fast=6),
        ImagePreset("paper", 1, "photo-paper", iterations=40, fast=8, one_rate=True),
        ImagePreset("ganz", 2, "ganz", iterations=15, fast=5),
    )
}
DEFAULT_IMAGE_PRESET = "photo"


def find_image_preset(name: str) -> ImagePreset:
    """The preset of that name; BadInput naming the known ones otherwise."""
    try:
        return IMAGE_PRESETS[name]
    except KeyError:
        known = ", ".join(IMAGE_PRESETS)
        raise BadInput(f"unknown image preset {name!r} (known: {known})") from None


def numbered_image_preset(number: int) -> ImagePreset:
    """The preset that files know by this number; BadStream if there is none."""
    for preset in IMAGE_PRESETS.values():
        if preset.number == number:
            return preset
    raise BadStream(f"the picture was made with preset number {number}, which is not known here")
