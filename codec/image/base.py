"""What all image systems are to whoever uses them, and what their files have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput, WrongModel
from codec.image.container import ImageFile, read_image
from codec.image.pictures import Picture, from_array, from_image
from codec.image.presets import ImagePreset
from codec.image.settings import EncodeSettings, Progress

if TYPE_CHECKING:
    from PIL import Image


class PictureCodec(ABC):
    """A loaded image system. model_id: 16 hex digits, the model its files must be of.

    has_places: whether `EncodeSettings.places` means anything to it.
    """

    model_id: str
    has_places = False

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        self.settings = preset
        self.preset = preset.name
        self.device = device

    def encode(
        self,
        picture: Picture | Image.Image | NDArray[np.uint8],
        settings: EncodeSettings | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> bytes:
        """A picture (Pillow image or uint8 array [H, W], [H, W, 3] or [H, W, 4]) to a file.

        Raises BadInput when it cannot be coded as the settings ask.
        """
        if isinstance(picture, np.ndarray):
            picture = from_array(picture)
        elif not isinstance(picture, Picture):
            picture = from_image(picture)
        settings = settings or EncodeSettings()
        if settings.places is not None and not self.has_places:
            raise BadInput(f"preset {self.preset} has no places to choose: preset ganz has")
        return self.encode_picture(picture, settings, progress, clock)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A file to pixels [H, W, 3], or [H, W, 4] if it has an alpha plane.

        Raises BadStream or WrongModel. Lost tiles are filled with what is around them.
        """
        picture = self.decode_file(read_image(data))
        if picture.alpha is None:
            return picture.rgb
        return np.concatenate((picture.rgb, picture.alpha[:, :, None]), axis=2)

    def decode_file(self, file: ImageFile) -> Picture:
        """A file that was read to a picture, whose notes say what is damaged.

        Raises BadStream or WrongModel.
        """
        if file.header.model_id != self.model_id:
            raise WrongModel(
                f"the picture was coded with model {file.header.model_id}, "
                f"the model at hand is {self.model_id} (preset {self.preset})"
            )
        return self.decode_payloads(file)

    @abstractmethod
    def encode_picture(
        self,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> bytes:
        """The file of a picture. Raises BadInput when it cannot be coded as the settings ask."""

    @abstractmethod
    def decode_payloads(self, file: ImageFile) -> Picture:
        """The picture of a file of this model. Raises BadStream when nothing of it is left."""
