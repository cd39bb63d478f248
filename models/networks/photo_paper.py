"""Networks of the image preset `paper`: those of `photo`, with few latents and at one rate.

The system is that of Liu et al. (2020): levels shared by all latents, one static table, a Huffman
code. Encoder and generator are the modules of `models.networks.photo` with the channels that matter
most, conditioned on one rate point. Most latents are zero, so the tables are of quads
(`codec.entropy.quads`): of one channel in four neighbouring cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.entropy.quads import MAX_LEVELS, QuadCounts
from codec.entropy.quantiser import Quantiser
from codec.search.problem import RateModel
from models.networks.paper import PairPrior, StaticModel, check_levels
from models.networks.photo import PhotoEncoder, PhotoGenerator, PhotoModel, TransformShape
from models.stored import Arrays

if TYPE_CHECKING:
    from codec.image.presets import Tune
    from models.networks.image_distance import PaperDistance

MAX_REACH = 128.0
# What 1 - MS-SSIM counts for in the price of a bit, as a weight of the squared error.
SIMILARITY_WEIGHT = 80.0


@dataclass(frozen=True)
class PaperImageShape(TransformShape):
    """Sizes of the networks; stored with the weights. rate: the rate point they are held at."""

    channels: int = 56
    levels: int = 63
    reach: float = 54.0
    rate: float = 1.2

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit together and are bounded."""
        super().__post_init__()
        check_levels(self.levels, self.reach, MAX_REACH)
        if self.levels > MAX_LEVELS or not 0.0 <= self.rate <= 3.0:
            raise ValueError("paper levels or the rate point are out of range")


class PaperImageEncoder(PhotoEncoder):
    """E(x): picture to bounded latents, the warm start of the search."""

    shape: PaperImageShape

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, 3, 16h, 16w] in [0, 1], rate: [B], unused -> latents [B, C, h, w] in ±reach."""
        reach = self.shape.reach
        return super().forward(x, torch.full_like(rate, self.shape.rate)).clamp(-reach, reach)


class PaperImageGenerator(PhotoGenerator):
    """G(z): latents to a picture; a linear synthesis plus a convolutional residual."""

    shape: PaperImageShape

    def forward(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, C, h, w] latents, rate: [B], unused -> [B, 3, 16h, 16w], nominally in [0, 1]."""
        return super().forward(z, torch.full_like(rate, self.shape.rate))


class PaperImageModel(StaticModel):
    """The image networks with quantiser and table, as the codec and its search use them."""

    kind = "image-paper"
    title = "photo-paper"
    hashed = ("centres", "quads", "pairs")
    shape_type = PaperImageShape
    counts: QuadCounts
    shape: PaperImageShape
    encoder: PaperImageEncoder
    generator: PaperImageGenerator

    def __init__(self, shape: PaperImageShape, quantiser: Quantiser, counts: QuadCounts) -> None:
        super().__init__(shape, quantiser, counts)
        self.encoder = PaperImageEncoder(shape)
        self.generator = PaperImageGenerator(shape)
        # Shared, as in `PhotoModel`.
        self.encoder.gains = self.generator.gains
        self.penalty, self.price = 1e-2, 5e-3

    @staticmethod
    def prior_of(quantiser: Quantiser, counts: QuadCounts) -> RateModel:
        return PairPrior(quantiser, counts)

    @classmethod
    def read_tables(cls, tables: Arrays) -> tuple[Quantiser, QuadCounts]:
        quantiser = Quantiser(tables["centres"])
        quads, pairs = (np.ascontiguousarray(tables[name]) for name in ("quads", "pairs"))
        counts = QuadCounts(quads, pairs, quantiser.zero_level)
        counts.check()
        if quantiser.levels != counts.levels:
            raise ValueError("there are other numbers of centres and of counts")
        return quantiser, counts

    def tables(self) -> Arrays:
        centres = np.ascontiguousarray(self.quantiser.centres.cpu().numpy())
        return {"centres": centres, "quads": self.counts.quads, "pairs": self.counts.pairs}

    def price_for(self, alpha: float) -> float:
        """The price of a bit where the squared error has another weight, for about as many bits."""
        from models.networks.image_distance import ALPHAS

        return self.price * (alpha + SIMILARITY_WEIGHT) / (ALPHAS["psnr"] + SIMILARITY_WEIGHT)

    def picture_distance(self, tune: Tune) -> PaperDistance:
        """F, which the search lowers."""
        from models.networks.image_distance import ALPHAS, PaperDistance

        return PaperDistance(ALPHAS[tune])


def take_photo_networks(
    encoder: PaperImageEncoder, generator: PaperImageGenerator, photo: PhotoModel
) -> None:
    """Copy the networks of a `photo` model, of its channels those of the largest deviation.

    Raises ValueError if they are of other sizes.
    """
    count = encoder.shape.channels
    kept = photo.generator.spread.argsort(descending=True)[:count]
    for own, other in ((encoder, photo.encoder), (generator, photo.generator)):
        state = {}
        for name, new in own.state_dict().items():
            old = other.state_dict()[name]
            for k, (size, wanted) in enumerate(zip(old.shape, new.shape, strict=True)):
                if size != wanted and (size, wanted) == (photo.shape.channels, count):
                    old = old.index_select(k, kept)
            if old.shape != new.shape:
                raise ValueError(f"{name} has {tuple(old.shape)} weights, not {tuple(new.shape)}")
            state[name] = old
        own.load_state_dict(state)
