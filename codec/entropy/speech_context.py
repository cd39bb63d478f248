"""The context model of speech and the range coder of its latents.

A step sees the values and magnitudes of all channels in the two steps before it.
`constriction`'s range coder (Bamler 2022) turns the symbols into bytes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy.context_model import (
    MAX_LOCATION,
    TABLE_BITS,
    ContextModel,
    ContextWalk,
    Int16,
    Int32,
    deviations,
)
from codec.entropy.latent_coder import (
    Int8,
    LatentCoder,
    range_bytes,
    range_decoder,
    refusing,
    shortest,
)

MAX_INDEX = 15
QUALITIES = 17  # quality k stands for rate point k / 8
_STEPS_SEEN = 2


@dataclass(frozen=True)
class SpeechContext(ContextModel):
    """The context model of speech as stored. H hidden units, C channels."""

    max_index = MAX_INDEX
    scale_classes = 36
    log_scale_start = -2.6
    reach = MAX_INDEX + (MAX_LOCATION >> 16)  # the largest |index - nearest whole location|
    symbols = 2 * reach + 1
    qualities = QUALITIES

    groups: Int32
    past: Int16  # [4C + 1, H] value and magnitude one and two steps back; then the first-step flag
    within: Int16
    offset: Int32  # [QUALITIES, H] bias at each rate point, 1/1024
    middle: Int16
    middle_bias: Int32
    leave: Int16
    leave_bias: Int32  # [2C] of locations, then log scales, 1/65536
    tables: NDArray[np.uint32]

    def shapes(self, channels: int, hidden: int) -> dict[str, tuple[int, ...]]:
        return {
            "past": (4 * channels + 1, hidden),
            "offset": (QUALITIES, hidden),
            "leave_bias": (2 * channels,),
        }

    def check(self) -> None:
        super().check()
        if (self.tables == 0).any():
            raise ValueError("context model: tables must be positive")

    def view(self) -> dict[str, Any]:
        channels = self.channels
        past = self.past[:-1].reshape(_STEPS_SEEN, 2, channels, -1)
        near, around = (past[:, part].reshape(_STEPS_SEEN * channels, -1) for part in (0, 1))
        return {
            "neighbours": np.array([(k + 1, 0) for k in range(_STEPS_SEEN)], np.int32),
            "padded": False,
            "predict": np.zeros((_STEPS_SEEN, channels), np.int16),
            "bands": np.arange(channels, dtype=np.int32),  # each channel is its own
            "magnitudes": np.minimum(np.arange(MAX_INDEX + 1), 4).astype(np.int32),
            "near": near,
            "around": around,
        }

    def biases(self, quality: int) -> dict[str, Any]:
        offset = self.offset[quality]
        return {"offset": np.stack((offset + self.past[-1], offset))}

    def symbols_of(self, deviation: Int32) -> Int32:
        symbols: Int32 = deviation + np.int32(self.reach)
        return symbols


class RangeCoder(LatentCoder):
    """Range coder of latents [S, C] over the context model's tables."""

    sees_past = True

    def __init__(self, model: SpeechContext, steps: int) -> None:
        model.check()
        super().__init__(steps, model.channels)
        self.model = model
        self._probabilities = model.tables / float(1 << TABLE_BITS)
        self._bits = TABLE_BITS - np.log2(model.tables)
        self._family = constriction.stream.model.Categorical(perfect=False)

    def bits(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> float:
        """Ideal code length of [S, C] indices under the stored tables."""
        deviation, table = deviations(self.model, q, quality, past)
        return float(self._bits[table, self.model.symbols_of(deviation)].sum())

    def encode(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> bytes:
        self.check_shape(q)
        deviation, table = (part.reshape(-1) for part in deviations(self.model, q, quality, past))
        coder = constriction.stream.queue.RangeEncoder()
        symbols, chances = self.model.symbols_of(deviation), self._probabilities[table]
        coder.encode(symbols, self._family, chances)

        def sufficient(payload: bytes) -> bool:
            with suppress(AssertionError):  # of constriction, for bytes that end too early
                found = range_decoder(payload).decode(self._family, chances)
                return np.array_equal(found, symbols)
            return False

        return shortest(range_bytes(coder), sufficient)

    def decode(
        self,
        payload: bytes,
        quality: int,
        steps: int | None = None,
        past: NDArray[np.integer] | None = None,
    ) -> Int8:
        coder = range_decoder(payload)
        walk = ContextWalk(self.model, steps or self.steps, quality, past)
        with refusing():
            for slots, centre, table in walk:
                symbols = coder.decode(self._family, self._probabilities[table])
                walk.put(slots, symbols - self.model.reach + centre)
        return walk.q.astype(np.int8)
