"""The paper's image system as the codec loads it: networks, shared centres, static tables.

The folder is that of `models.paper` with other networks, and so is the model id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.errors import BadInput
from models.family import loading, read_description
from models.folder import WEIGHTS
from models.networks.image_distance import Tune, ms_ssim_to, similarity_reference
from models.networks.photo import STRIDE
from models.networks.photo_paper import PaperImageEncoder, PaperImageGenerator, PaperImageShape
from models.paper import StaticModel, fill, read_tables, save, shape_fields

KIND = "image-paper"
# The weight of the squared error beside 1 - MS-SSIM; the paper leaves it open.
ALPHAS: dict[Tune, float] = {"psnr": 250.0, "visual": 50.0, "ms-ssim": 5.0}
TRAINED_FOR = ALPHAS["psnr"]


class PaperImageModel(StaticModel):
    """The image networks with quantiser and table, as the codec and its search use them."""

    encoder: PaperImageEncoder
    generator: PaperImageGenerator

    def __init__(
        self, shape: PaperImageShape, quantiser: Quantiser, counts: SymbolCounts, model_id: str = ""
    ) -> None:
        super().__init__(shape, quantiser, counts, shape.reach)
        self.encoder = PaperImageEncoder(shape)
        self.generator = PaperImageGenerator(shape)
        self.model_id = model_id


class PaperDistance:
    """F = L_MS-SSIM + α·MSE (Liu et al. 2020, section 4.1), times the number of cells.

    So scaled, what one latent changes does not depend on the size of the picture.
    """

    def __init__(self, alpha: float = TRAINED_FOR) -> None:
        self.alpha = alpha

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part, computed once: x [B, 3, H, W] in [0, 1]."""
        return (x, *similarity_reference(x))

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded pictures y [B, 3, H, W]: [B]."""
        y = y.float()
        error = (y - reference[0]).square().mean((1, 2, 3))
        dissimilarity = 1.0 - ms_ssim_to(reference[1:], y)
        cells = y.shape[2] * y.shape[3] / STRIDE**2
        return cells * (dissimilarity + self.alpha * error)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """F(x, y): [B]."""
        return self.against(self.reference(x), y)


def save_paper_image_model(model: PaperImageModel, folder: Path, about: dict[str, Any]) -> str:
    """Write a model folder, weights as float16; returns the model id."""
    return save(model, folder, about, KIND)


def load_paper_image_model(family: str, folder: Path | None = None) -> PaperImageModel:
    """The shipped (or given) model folder, checked. Raises BadInput when it is unusable."""
    folder = folder or WEIGHTS / family
    with loading(f"image model {family!r}", folder):
        description = read_description(folder)
        if description.get("kind") != KIND:
            raise BadInput(f"{folder} holds no image model of the paper's system")
        shape = PaperImageShape(**shape_fields(description))
        shape.check()
        quantiser, counts = read_tables(folder, shape.levels)
        model = PaperImageModel(shape, quantiser, counts, str(description["model_id"]))
        fill(model, folder, description)
    return model


def no_counts(levels: int) -> SymbolCounts:
    """A flat table, for models that are still in training."""
    return SymbolCounts(np.ones(levels, np.int64))
