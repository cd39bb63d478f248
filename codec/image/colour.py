"""Colours of a picture file by its ICC profile, as sRGB."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms

_LEVELS = np.arange(256, dtype=np.uint8)
_STEPS = 9  # levels of each colour in the grid by which sRGB is recognised
# Profiles that say sRGB differ from each other by the rounding of their tables.
_SAME = 2
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
# What ImageCms raises for profiles: broken ones, ones that have no way to sRGB, and none at all if
# Pillow was built without it.
_FAILURES = (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError)


def to_srgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """An image of 8 bits in the colours of sRGB, and a note if its profile cannot be used.

    Grey stays grey, alpha as it is. An image without a profile, and one whose profile is sRGB to
    within rounding, are returned unchanged; so is one with a profile that is damaged, or of another
    kind of colours than the image has. The intent is relative colorimetric with black point
    compensation.
    """
    data = image.info.get("icc_profile")
    if not data:
        return image, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        if image.mode == "LAB":  # colours that are measured need no profile
            return image, None
        if space == "CMYK" and image.mode == "CMYK":
            return _transform(profile, "CMYK").apply(image), None
        if space == "GRAY" and image.mode in ("1", "L", "LA"):
            # Unoptimised: lcms's shortcut for grey is ten levels off in the dark.
            exact = _transform(profile, "L", ImageCms.Flags.NOOPTIMIZE)
            return _grey(image, exact), None
        if space == "RGB" and image.mode != "CMYK":
            return _from_rgb(image, _transform(profile, "RGB")), None
    except _FAILURES:
        return image, "its colour profile is damaged; its colours are taken as sRGB"
    return image, f"its colour profile is for {space}; its colours are taken as sRGB"


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _transform(
    profile: ImageCms.ImageCmsProfile, mode: str, more: ImageCms.Flags = ImageCms.Flags.NONE
) -> ImageCms.ImageCmsTransform:
    flags = _FLAGS | more
    return ImageCms.ImageCmsTransform(profile, _srgb(), mode, "RGB", _INTENT, flags=flags)


def _from_rgb(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    if _is_srgb(transform):
        return image
    if image.mode in ("1", "L", "LA"):
        return _grey(image, transform)
    if not image.has_transparency_data:
        return transform.apply(image.convert("RGB"))
    whole = image.convert("RGBA")
    colours = transform.apply(whole.convert("RGB"))
    colours.putalpha(whole.getchannel("A"))
    return colours


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform from RGB moves no colour by more than rounding does."""
    levels = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(grid))).astype(int)
    return bool(np.abs(moved - grid).max() <= _SAME)


def _grey(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Map the levels of a grey image (1, L, LA) through a transform, by a table of all 256."""
    ramp = Image.fromarray(_LEVELS[None])
    ramp = ramp if transform.input_mode == "L" else ramp.convert("RGB")
    table = np.asarray(transform.apply(ramp)).mean(axis=(0, 2)).round().astype(int).tolist()
    alpha = image.convert("LA").getchannel("A") if image.has_transparency_data else None
    grey = image.convert("L").point(table)
    if alpha is not None:
        grey.putalpha(alpha)
    grey.info.pop("icc_profile", None)
    return grey
