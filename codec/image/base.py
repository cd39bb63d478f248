"""The image codec as its users see it: load a preset, encode pictures, decode files.

To add a system, subclass `ImageCodec`, name the class in `ImageCodec.load` and add a preset.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.errors import GIVE_MODEL, BadInput, WrongModel
from codec.image.alpha import pack_alpha
from codec.image.container import ImageFile, ImageHeader, read_image, write_image
from codec.image.pictures import Picture, from_array, from_image
from codec.image.presets import DEFAULT_IMAGE_PRESET, ImagePreset, find_image_preset
from codec.image.settings import EncodeSettings, SearchProgress
from codec.packet import Entropy
from codec.search.methods import Method

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from models.folder import Model


class Job:
    """A picture on its way to a file: what was asked for, and what every system needs.

    alpha: the packed alpha plane; steps: of the search, at most.
    """

    def __init__(
        self,
        codec: ImageCodec,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[SearchProgress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.picture, self.settings = picture, settings
        self.clock, self._progress = clock, progress
        self.steps = settings.steps(codec.preset)
        self.alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        self.header = ImageHeader(
            picture.width, picture.height, codec.model_id, codec.preset.number, codec.tile,
            picture.grey, picture.alpha is not None,
        )  # fmt: skip

    def report(self, share: float, cost: float | None, steps: int) -> None:
        """Pass on the share done, the best cost as a share of the start's, and the steps taken."""
        if self._progress is not None:
            self._progress(SearchProgress(share, cost, steps))

    def file(self, quality: int, payloads: list[bytes], entropy: Entropy = Entropy.RANGE) -> bytes:
        """The file with the payloads of all tiles."""
        return write_image(self.header, quality, payloads, self.alpha, entropy)


class ImageCodec(ABC):
    """A loaded preset.

    tile: the most cells that a tile of its files is wide and high; has_places: whether it knows
    `EncodeSettings.places`; methods: of search that it has, the usual one first.
    """

    model: Model
    tile: int
    has_places = False
    methods: tuple[Method, ...] = ()

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        self.preset, self.device = preset, device

    @property
    def model_id(self) -> str:
        """16 hex digits: the model that its files must name."""
        return self.model.model_id

    @staticmethod
    def load(
        preset: str = DEFAULT_IMAGE_PRESET, device: str = "auto", model: str | Path | None = None
    ) -> ImageCodec:
        """The codec of a preset, with the weights in the folder `model` if one is given.

        Raises BadInput for an unknown preset or device, and for a model that is broken or cannot
        serve the preset.
        """
        # Only here: these load torch.
        from codec.device import choose_device
        from codec.image.ganz import GanzCodec
        from codec.image.paper import PaperCodec
        from codec.image.photo import PhotoCodec

        found = find_image_preset(preset, model)
        systems: dict[str, type[PhotoCodec] | type[PaperCodec] | type[GanzCodec]]
        systems = {"photo": PhotoCodec, "paper": PaperCodec, "ganz": GanzCodec}
        return systems[preset](found, choose_device(device))

    def encode(
        self,
        picture: Picture | Image.Image | NDArray[np.uint8],
        settings: EncodeSettings | None = None,
        *,
        progress: Callable[[SearchProgress], None] | None = None,
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
            raise BadInput(f"preset {self.preset.name} has no places to choose: preset ganz has")
        if settings.method is not None and settings.method not in self.methods:
            known = " or ".join(self.methods) or "a method of its own"
            raise BadInput(
                f"preset {self.preset.name} is searched by {known}, not by {settings.method}"
            )
        return self.encode_job(Job(self, picture, settings, progress, clock))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A file to pixels [H, W, 3], or [H, W, 4] if it has an alpha plane.

        Raises BadStream or WrongModel. Lost tiles are filled with what is around them.
        """
        picture = self.decode_file(read_image(data))
        if picture.alpha is None:
            return picture.rgb
        return np.concatenate((picture.rgb, picture.alpha[:, :, None]), axis=2)

    def decode_file(self, file: ImageFile) -> Picture:
        """A parsed file to a picture, whose notes name the damage.

        Raises BadStream or WrongModel.
        """
        self.require_model(file)
        return self.decode_payloads(file)

    def require_model(self, file: ImageFile) -> None:
        """Raise WrongModel unless the file was coded with this model."""
        if file.header.model_id != self.model_id:
            raise WrongModel(
                f"the picture was coded with model {file.header.model_id}, "
                f"the model at hand is {self.model_id} (preset {self.preset.name}): {GIVE_MODEL}"
            )

    @abstractmethod
    def encode_job(self, job: Job) -> bytes:
        """The file of a picture. Raises BadInput when it cannot be coded as the settings ask."""

    @abstractmethod
    def decode_payloads(self, file: ImageFile) -> Picture:
        """The picture of a file of this model. Raises BadStream when nothing of it is left."""
