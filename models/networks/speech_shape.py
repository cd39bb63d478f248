"""Sizes and entropy coders of the speech networks, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codec.entropy.huffman import HuffmanCoder, RunModel
from codec.entropy.latent_coder import LatentCoder
from codec.entropy.speech_context import RangeCoder, SpeechContext
from models.stored import Arrays, context_of, finite, names_of, record_of

ANCHORS = 3  # trained rate points r = 0, 1, 2
HASHED = names_of("context", SpeechContext) + names_of("huffman", RunModel)


@dataclass(frozen=True)
class FrameShape:
    """Sizes of an encoder and a generator of log-mel frames.

    patch: hops of a latent step; width: of the residual stream, of which a row is four hops.
    """

    hops: int = 128
    mels: int = 128
    patch: int = 8
    channels: int = 192
    width: int = 384
    hidden: int = 576
    encoder_blocks: int = 4
    generator_blocks: int = 8

    @property
    def steps(self) -> int:
        return self.hops // self.patch

    @property
    def fold(self) -> int:
        """Rows of four hops in a latent step: blocks see one of them to each side."""
        return self.patch // 4

    @property
    def generator_past(self) -> int:
        """How many latent steps before its own the generator sees."""
        return -(-self.generator_blocks // self.fold)

    @property
    def encoder_past(self) -> int:
        """How many latent steps before its own the encoder sees."""
        return -(-self.encoder_blocks // self.fold)

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit together and are bounded."""
        if (self.hops, self.mels) != (128, 128) or self.patch not in (4, 8, 16, 32):
            raise ValueError("speech networks are made for 128x128 frames and patches of 4 to 32")
        if not all(1 <= size <= 2048 for size in (self.channels, self.width, self.hidden)):
            raise ValueError("speech network sizes are out of range")
        if not all(0 <= n <= 32 for n in (self.encoder_blocks, self.generator_blocks)):
            raise ValueError("speech network depths are out of range")


@dataclass(frozen=True)
class SpeechShape(FrameShape):
    """Sizes of the networks; stored with the weights."""

    prior_unit: int = 48
    prior_groups: tuple[int, ...] = (2, 2, 4, 8, 8, 8, 16, 16, 32, 32, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= size <= 2048 for size in (self.prior_unit, *self.prior_groups)):
            raise ValueError("speech network sizes are out of range")
        # More hidden units could sum beyond the 32 bits of `codec.entropy.context_model`.
        if not 1 <= self.prior_unit * len(self.prior_groups) <= 1000:
            raise ValueError("the prior's hidden units are out of range")


@dataclass(frozen=True)
class SpeechTables:
    """What the entropy coders are made of; overhead: of the Huffman coder, over the ideal bits."""

    context: SpeechContext
    runs: RunModel
    overhead: float

    @classmethod
    def read(
        cls, description: Mapping[str, Any], tables: Arrays, shape: SpeechShape
    ) -> SpeechTables:
        """Those of a model folder. Raises LookupError, TypeError or ValueError."""
        context = context_of(SpeechContext, tables, shape.channels)
        (overhead,) = finite([description["huffman_overhead"]], 1)
        return cls(context, record_of(RunModel, "huffman", tables), overhead)

    def coders(self, steps: int) -> dict[str, LatentCoder]:
        """The entropy coders of frames of so many latent steps, by name."""
        return {
            "range": RangeCoder(self.context, steps),
            "huffman": HuffmanCoder(self.context, self.runs, steps, self.overhead),
        }
