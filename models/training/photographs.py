"""Random crops of the photographs in a folder, which are held in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from codec.errors import BadInput
from codec.files.paths import APPLE_DOUBLE
from codec.image.colour import to_srgb

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".tif", ".tiff", ".bmp")
MAX_SIDE = 4096
MAX_BYTES = 8 << 30  # of decoded pixels held in memory
# The smallest scale of a photograph; scaling down hides its own compression artefacts.
SMALLEST_SCALE = 0.5


class Photographs:
    """Random crops of the photographs in a folder.

    Every `held_out`-th file is kept out of training. Raises BadInput if the folder holds no usable
    photograph.
    """

    def __init__(
        self,
        folder: Path,
        *,
        crop: int = 256,
        held_out: int = 48,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.crop = crop
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(APPLE_DOUBLE)
        )
        with ThreadPoolExecutor(2) as pool:
            # From the headers, before any picture is loaded.
            pixels = list(pool.map(self._pixels, files))
            total = 3 * sum(pixels)
            if total > MAX_BYTES:
                limit = MAX_BYTES >> 20
                raise BadInput(f"{folder} holds {total >> 20} MiB of pixels, the limit is {limit}")
            wanted = [file for file, count in zip(files, pixels, strict=True) if count]
            usable = [image for image in pool.map(_load, wanted) if image is not None]
        if not usable:
            raise BadInput(f"no photographs of at least {crop}x{crop} pixels in {folder}")
        if len(usable) < len(files):
            note(f"{len(files) - len(usable)} pictures are unreadable, too small or too large")
        # None is held out of fewer than `held_out`.
        self.training = [image for k, image in enumerate(usable) if (k + 1) % held_out]

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """[count, 3, crop, crop] in [0, 1]."""
        crops = [self._random_crop(random) for _ in range(count)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255.0

    def _pixels(self, file: Path) -> int:
        """Pixel count from a picture's header; 0 if it is unreadable, too small or too large."""
        try:
            with Image.open(file) as image:
                width, height = image.size
        except Exception:
            return 0
        fits = self.crop <= min(width, height) and max(width, height) <= MAX_SIDE
        return width * height if fits else 0

    def _random_crop(self, random: np.random.Generator) -> NDArray[np.uint8]:
        image = self.training[random.integers(len(self.training))]
        smallest = max(SMALLEST_SCALE, self.crop / min(image.size))
        side = self.crop / random.uniform(smallest, 1.0)
        left = random.uniform(0.0, image.width - side)
        top = random.uniform(0.0, image.height - side)
        if side < 1.02 * self.crop:
            left, top, side = int(left), int(top), float(self.crop)
        piece = image.resize(
            (self.crop, self.crop),
            Image.Resampling.LANCZOS if random.random() < 0.5 else Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        pixels: NDArray[np.uint8] = np.asarray(piece)
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        if random.random() < 0.25:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels)


def _load(file: Path) -> Image.Image | None:
    """A picture in sRGB; None if Pillow cannot read it."""
    try:
        with Image.open(file) as image:
            return to_srgb(image)[0].convert("RGB")
    except Exception:
        return None
