"""Networks of the speech preset `paper`: those of the other presets, with few latents.

The system is that of Liu et al. (2020): levels shared by all latents, one static table, a Huffman
code, one rate. Encoder and generator are the modules of `models.networks.speech` at latent steps of
16 hops with 64 channels, so that a frame has 512 latents. They are always asked for rate point 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codec.entropy.quantiser import Quantiser
from codec.entropy.speech_context import MAX_INDEX
from codec.entropy.static import LevelHuffmanCoder, StaticRangeCoder, SymbolCounts
from models.networks.paper import StaticModel, check_levels
from models.networks.speech import Encoder, Generator
from models.networks.speech_shape import FrameShape


@dataclass(frozen=True)
class PaperShape(FrameShape):
    """Sizes of the networks; stored with the weights. reach: of the latents, in steps."""

    patch: int = 16
    channels: int = 64
    levels: int = 16
    reach: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The generator takes no latents beyond MAX_INDEX.
        check_levels(self.levels, self.reach, MAX_INDEX)


class PaperEncoder(Encoder):
    """E(x): log-mel frame to bounded latents, the warm start of the search."""

    shape: PaperShape

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, T, M] in [-1, 1], rate: [B] -> latents [B, S, C] within ±reach."""
        return super().forward(x, rate).clamp(-self.shape.reach, self.shape.reach)


class PaperModel(StaticModel):
    """The speech networks with quantiser and table, as the codec and its search use them."""

    kind = "paper"
    title = family = "paper"
    shape_type = PaperShape
    shape: PaperShape
    encoder: PaperEncoder
    generator: Generator

    def __init__(self, shape: PaperShape, quantiser: Quantiser, counts: SymbolCounts) -> None:
        super().__init__(shape, quantiser, counts)
        self.encoder, self.generator = PaperEncoder(shape), Generator(shape)
        self.coders = {
            "range": StaticRangeCoder(counts, shape.steps, shape.channels),
            "huffman": LevelHuffmanCoder(counts, shape.steps, shape.channels),
        }
