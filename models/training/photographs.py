"""Random crops of the photographs in a folder, which are held in memory, or on a GPU at a few
scales.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
_FLIPPED, _TRANSPOSED = 0.5, 0.25  # shares of the crops
_HELD_OUT_SCALE = 0.7
# Of photographs on a GPU: evenly spread, 3 bytes and about 5 pixels for each pixel of a photograph.
_SCALES = (1.0, 0.94, 0.875, 0.81, 0.75, 0.69, 0.625, 0.56, 0.5)


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
        with _pool() as pool:
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
        self._held_out = usable[held_out - 1 :: held_out]

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """[count, 3, crop, crop] in [0, 1]."""
        crops = [self._random_crop(random) for _ in range(count)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255.0

    def held_out(self) -> Tensor:
        """Two crops of each photograph that is kept out of training: [N, 3, crop, crop].

        They lie beside or above each other, scaled down to hide artefacts of compression.
        """
        crops = []
        for image in self._held_out:
            side = min(self.crop / _HELD_OUT_SCALE, *image.size)
            for share in (0.25, 0.75):
                left, top = (
                    share * (length - side) if length == max(image.size) else (length - side) / 2
                    for length in image.size
                )
                box = left, top, left + side, top + side
                size = self.crop, self.crop
                crops.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box)))
        if not crops:
            return torch.zeros(0, 3, self.crop, self.crop)
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
        if random.random() < _FLIPPED:
            pixels = pixels[:, ::-1]
        if random.random() < _TRANSPOSED:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels)


class StoredPhotographs:
    """Photographs on a device, at a few scales, so that a batch of crops is but pixels picked out.

    Memory: about 15 bytes for each pixel of the photographs.
    """

    def __init__(self, photographs: Photographs, device: torch.device) -> None:
        self.crop, self._device = photographs.crop, device
        sizes, starts = [], []  # of each photograph, [width, height] and first pixel of each scale
        total = 0
        for image in photographs.training:
            scales = [s for s in _SCALES if s == 1.0 or s * min(image.size) >= self.crop]
            found = [(round(s * image.width), round(s * image.height)) for s in scales]
            sizes.append(found)
            counts = [width * height for width, height in found]
            starts.append(total + np.cumsum([0, *counts[:-1]]))
            total += sum(counts)
        self._sizes, self._starts = sizes, starts
        self._pixels = torch.empty(total, 3, dtype=torch.uint8, device=device)
        with _pool() as pool:
            scaled = pool.map(_scaled, photographs.training, sizes)
            for firsts, pieces in zip(starts, scaled, strict=True):
                for start, pixels in zip(firsts.tolist(), pieces, strict=True):
                    self._pixels[start : start + len(pixels)] = pixels.to(device)
        y, x = torch.meshgrid(torch.arange(self.crop), torch.arange(self.crop), indexing="ij")
        self._y, self._x = y.to(device), x.to(device)

    def batch(self, count: int, random: np.random.Generator) -> Tensor:
        """[count, 3, crop, crop] in [0, 1], on the device."""
        # A crop is a first pixel, and how far the next row and the next column are from it.
        where = np.array([self._random_crop(random) for _ in range(count)])
        first, down, across = sent(where, self._device)[:, :, None, None].unbind(1)
        pixels = self._pixels[first + down * self._y + across * self._x]
        return pixels.permute(0, 3, 1, 2).float() / 255.0

    def _random_crop(self, random: np.random.Generator) -> tuple[int, int, int]:
        number = random.integers(len(self._sizes))
        scale = random.integers(len(self._sizes[number]))
        width, height = self._sizes[number][scale]
        left = int(random.integers(width - self.crop + 1))
        first = int(self._starts[number][scale]) + left
        first += width * int(random.integers(height - self.crop + 1))
        down, across = width, 1
        if random.random() < _FLIPPED:
            first, across = first + self.crop - 1, -1
        if random.random() < _TRANSPOSED:
            down, across = across, down
        return first, down, across


def _scaled(image: Image.Image, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The pixels [N, 3] of a photograph at several sizes."""
    found = []
    for k, size in enumerate(sizes):
        filter_ = Image.Resampling.BICUBIC if k % 2 else Image.Resampling.LANCZOS
        scaled = image if size == image.size else image.resize(size, filter_)
        found.append(torch.from_numpy(np.array(scaled)).reshape(-1, 3))
    return found


def sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """Numbers on a device, without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(os.cpu_count() or 1, 16))


def _load(file: Path) -> Image.Image | None:
    """A picture in sRGB; None if Pillow cannot read it."""
    try:
        with Image.open(file) as image:
            return to_srgb(image)[0].convert("RGB")
    except Exception:
        return None
