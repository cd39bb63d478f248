"""The image codec's own system: preset `photo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.entropy.image_context import QUALITY_STEPS
from codec.errors import BadInput, BadStream
from codec.image.base import ImageCodec, Job
from codec.image.container import Area, ImageFile, Payload
from codec.image.photo_encoder import TILE, PhotoEncoder
from codec.image.pictures import Picture
from codec.image.presets import ImagePreset
from codec.image.tiling import decode_map, fill_lost, picture_of, read_tiles
from codec.search.methods import METHODS

if TYPE_CHECKING:
    from models.folder import PhotoModel


class PhotoCodec(ImageCodec):
    """The preset with its networks loaded."""

    model: PhotoModel
    tile = TILE
    methods = METHODS

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.folder import load_photo_model

        super().__init__(preset, device)
        self.model = load_photo_model(preset.model).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode_job(self, job: Job) -> bytes:
        if job.settings.entropy == "huffman":
            raise BadInput(f"preset {self.preset.name} has no Huffman codes, only the range coder")
        return PhotoEncoder(self.model, self.device, job).run()

    def decode_payloads(self, file: ImageFile) -> Picture:
        coder, generator = self.model.coder, self.model.generator
        qualities = [p.quality for p in file.payloads if p is not None]
        if not qualities:
            raise BadStream("nothing of the picture is left")
        quality = max(set(qualities), key=qualities.count)

        def decode(tile: Area, payload: Payload) -> tuple[NDArray[np.int16], int]:
            return coder.decode(payload.data, quality, *tile.shape, whole=payload.whole)

        indices, known, notes = read_tiles(
            file, coder.model.channels, lambda p: p.quality == quality, decode
        )
        z = torch.from_numpy(indices.astype(np.float32)).permute(2, 0, 1)[None].to(self.device)
        fill_lost(z, known, generator.smoothed)
        y = decode_map(generator, z, quality / QUALITY_STEPS)
        return picture_of(file, y, notes)
