"""The image codec: pixels to `.stim` files and back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.image_context import QUALITY_STEPS
from codec.errors import BadInput, BadStream
from codec.image.base import PictureCodec
from codec.image.container import ImageFile, Payload, Tile, read_header
from codec.image.photo_encoder import Encoder, LoadedPreset
from codec.image.pictures import Picture
from codec.image.planes import picture_of
from codec.image.presets import DEFAULT_IMAGE_PRESET, ImagePreset
from codec.image.registry import codec_for_header, load_image_codec
from codec.image.settings import EncodeSettings, Progress
from codec.image.tiling import decode_map

__all__ = ["EncodeSettings", "ImageCodec", "Progress"]


class ImageCodec(PictureCodec):
    """The preset `photo`, networks loaded; `load` and `for_file` give the codec of any preset."""

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.image.store import load_image_model
        from models.networks.photo import mean_channels

        super().__init__(preset, device)
        model = load_image_model(preset.family)
        self.networks = model.networks.to(device)
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        basis = self.networks.generator.basis.detach().cpu()
        self._smooth: NDArray[np.bool_] = mean_channels(basis).numpy()
        self.coder = model.coder
        self.model_id = model.model_id

    @classmethod
    def load(cls, preset: str = DEFAULT_IMAGE_PRESET, device: str = "auto") -> PictureCodec:
        """The codec of a preset, which may be of another class with the same methods.

        Raises BadInput for an unknown preset or device, or a broken model.
        """
        return load_image_codec(preset, device)

    @classmethod
    def for_file(cls, data: bytes, device: str = "auto") -> PictureCodec:
        """The codec that made a file. Raises BadStream if the file is none or unknown here."""
        return codec_for_header(read_header(data), device)

    def encode_picture(
        self,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> bytes:
        if settings.entropy == "huffman":
            raise BadInput(f"preset {self.preset} has no Huffman codes, only the range coder")
        loaded = LoadedPreset(self.networks, self.coder, self.model_id, self.settings, self.device)
        return Encoder(loaded, picture, settings, progress, clock).run()

    def decode_payloads(self, file: ImageFile) -> Picture:
        z, quality, notes = self._latents(file)
        y = decode_map(self.networks.generator, z.to(self.device), quality / QUALITY_STEPS)
        return picture_of(file, y, notes)

    def _latents(self, file: ImageFile) -> tuple[Tensor, int, list[str]]:
        """The map of a file [1, C, rows, columns], its quality, and what was wrong."""
        tiles = file.header.tiles()
        known = [p for p in file.payloads if p is not None]
        if not known:
            raise BadStream("nothing of the picture is left")
        quality = max({p.quality for p in known}, key=[p.quality for p in known].count)
        rows, columns = file.header.cells
        channels = self.coder.model.channels
        q = np.zeros((rows, columns, channels), np.int16)
        have = np.zeros((rows, columns), bool)
        notes: list[str] = []

        def read(tile: Tile, payload: Payload | None) -> None:
            if payload is None or payload.quality != quality:
                return
            try:
                part, cells = self.coder.decode(
                    payload.data, quality, tile.height, tile.width, whole=payload.whole
                )
            except BadStream as error:
                notes.append(str(error))
                return
            place = np.s_[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            q[place] = part
            have[place] = (np.arange(part.shape[0] * part.shape[1]) < cells).reshape(part.shape[:2])

        # The compiled walk lets go of the interpreter: tiles run side by side.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, tiles, file.payloads))
        if not have.any():
            raise BadStream("nothing of the picture is left")
        if not have.all():
            _fill(q, have, self._smooth)
        z = torch.from_numpy(q.astype(np.float32)).permute(2, 0, 1)[None]
        return z, quality, notes


def _fill(q: NDArray[np.int16], have: NDArray[np.bool_], smooth: NDArray[np.bool_]) -> None:
    """Give lost cells the mean colour of the nearest cells that are known; some must be.

    q: [rows, columns, C]; have: [rows, columns]; smooth: [C], the channels of the mean.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~have, return_distances=False, return_indices=True)
    lost = ~have
    source = q[nearest[0][lost], nearest[1][lost]]
    source[:, ~smooth] = 0
    q[lost] = source
