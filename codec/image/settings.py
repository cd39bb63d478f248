"""Settings of an encoding, and the progress it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from codec.errors import BadInput
from codec.image.pictures import Picture
from codec.image.presets import ImagePreset, Tune
from codec.search.methods import DESCENTS, METHODS, Method

DEFAULT_BPP = 0.29
# Bytes that a file may always have if no rate is given, however small the picture.
DEFAULT_LEAST = 200
MOST_STEPS = 100_000
# What the latents of preset `ganz` reach of h0: the entries that matter most to pictures in general
# or to one tile (the default); all of it, through a dense random layer; what the trained layer
# reaches; all of it, without a layer. Files have their number.
Places = Literal["fixed", "chosen", "dense", "keep", "none"]
PLACES: tuple[Places, ...] = get_args(Places)
MOST_BYTES = 1 << 40  # keeps huge rates within the range of integers


@dataclass(frozen=True)
class EncodeSettings:
    """How a picture is encoded.

    At most one of bpp (bits per pixel of the whole file), ratio (of 24-bit, or 8-bit grey, pixels
    to the file) and quality (0 to 100: a rate point, whatever its size); by default 0.29 bpp, or
    200 bytes if that is more.
    budget: seconds for the search; fast: few steps; search: False keeps the encoder's output;
    entropy: the coder, if the preset has more than one (`paper`, `ganz`: huffman or range);
    places: for preset `ganz`, what its latents reach; method: of the search, if the preset has more
    than one.
    """

    bpp: float | None = None
    ratio: float | None = None
    quality: float | None = None
    iterations: int | None = None
    budget: float | None = None
    fast: bool = False
    search: bool = True
    tune: Tune = "psnr"
    entropy: Literal["huffman", "range"] | None = None
    places: Places | None = None
    method: Method | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.bpp, self.ratio, self.quality)) > 1:
            raise BadInput("give only one of bpp, ratio and quality")
        for name in ("bpp", "ratio", "budget"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise BadInput(f"{name} {value} is not above 0")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise BadInput(f"quality {self.quality} is not between 0 and 100")
        if self.iterations is not None and self.iterations < 0:
            raise BadInput("iterations must not be negative")
        if self.tune not in ("psnr", "ms-ssim", "visual"):
            raise BadInput(f"unknown tune {self.tune!r} (psnr, ms-ssim or visual)")
        if self.entropy not in (None, "huffman", "range"):
            raise BadInput(f"unknown entropy coder {self.entropy!r} (huffman or range)")
        if self.places not in (None, *PLACES):
            raise BadInput(f"unknown places {self.places!r} ({', '.join(PLACES)})")
        if self.method not in (None, *METHODS, *DESCENTS):
            known = ", ".join((*METHODS, *DESCENTS))
            raise BadInput(f"unknown search method {self.method!r} ({known})")

    def steps(self, preset: ImagePreset) -> int:
        """The most steps of the search; with a budget, more than there is time for."""
        if not self.search:
            return 0
        if self.iterations is not None:
            return self.iterations
        if self.budget is not None:
            return MOST_STEPS
        return preset.fast if self.fast else preset.iterations

    def allowed_bytes(self, picture: Picture) -> int | None:
        """The most bytes that the file may have; None if a quality is given."""
        if self.quality is not None:
            return None
        pixels = picture.width * picture.height
        if self.ratio is not None:
            return int(min((1 if picture.grey else 3) * pixels / self.ratio, MOST_BYTES))
        if self.bpp is not None:
            return int(min(self.bpp * pixels / 8.0, MOST_BYTES))
        return max(int(DEFAULT_BPP * pixels / 8.0), DEFAULT_LEAST)


@dataclass(frozen=True)
class SearchProgress:
    """Progress of a search: share done in [0, 1], and the cost so far, relative to the start."""

    share: float
    cost: float | None
    steps: int
