"""The presets of the image codec: their models and the defaults of their search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
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
        ImagePreset("photo", 0, "photo", iterations=20, fast=4),
        ImagePreset("paper", 1, "photo-paper", iterations=16, fast=6, one_rate=True),
        ImagePreset("ganz", 2, "ganz", iterations=15, fast=5),
    )
}
DEFAULT_IMAGE_PRESET = "photo"


def find_image_preset(name: str, model: str | Path | None = None) -> ImagePreset:
    """The preset of that name; BadInput naming the known ones otherwise.

    model: a model folder to use in place of the shipped weights.
    """
    try:
        preset = IMAGE_PRESETS[name]
    except KeyError:
        known = ", ".join(IMAGE_PRESETS)
        raise BadInput(f"unknown image preset {name!r} (known: {known})") from None
    # An absolute path is used as it is, instead of being looked up as a model's name.
    return preset if model is None else replace(preset, model=str(Path(model).absolute()))


def numbered_image_preset(number: int) -> ImagePreset:
    """The preset that files know by this number; BadStream if there is none."""
    for preset in IMAGE_PRESETS.values():
        if preset.number == number:
            return preset
    raise BadStream(f"the picture was made with preset number {number}, which is not known here")
