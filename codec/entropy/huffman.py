"""Huffman coding of latent indices: runs of predicted values and differences from them.

The entropy coder of Liu et al. (2020), adapted to latents that mostly equal the value predicted by
the context model. A frame is coded as (run of predicted indices, difference) tokens, so an index
can cost less than one bit. Tables are integer counts over training frames, selected by the scale
class of the index at which a token starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy.context_model import ContextWalk, deviations
from codec.entropy.latent_coder import (
    Int8,
    LatentCoder,
    huffman_bytes,
    huffman_decoder,
    refusing,
)
from codec.entropy.speech_context import SpeechContext
from codec.errors import BadStream

LONGEST_RUN = 62  # this token: 62 predicted indices and no difference
END = 63  # this token: the rest of the step is as predicted
RUN_TOKENS = 64
REACH = SpeechContext.reach
VALUE_TOKENS = 2 * REACH
_CLASSES_PER_ZONE = 3
ZONES = SpeechContext.scale_classes // _CLASSES_PER_ZONE

Token = tuple[bool, int, int]  # is a difference, zone, symbol
Frame = tuple[NDArray[np.int8], int]  # indices [S, C] and quality


@dataclass(frozen=True)
class RunModel:
    """Token counts: runs [ZONES, RUN_TOKENS] and differences [ZONES, VALUE_TOKENS], positive."""

    runs: NDArray[np.int64]
    values: NDArray[np.int64]

    def check(self) -> None:
        """Raise ValueError unless shapes and counts are usable."""
        for counts, width in ((self.runs, RUN_TOKENS), (self.values, VALUE_TOKENS)):
            if counts.dtype != np.int64 or counts.shape != (ZONES, width):
                raise ValueError("Huffman tables have the wrong type or shape")
            if counts.min() < 1 or counts.max() > 1 << 40:
                raise ValueError("Huffman tables have counts out of range")


def zone_of(table: NDArray[np.int32]) -> NDArray[np.int32]:
    """The zones of the context model's table numbers, same shape."""
    zones: NDArray[np.int32] = table % SpeechContext.scale_classes // _CLASSES_PER_ZONE
    return zones


def tokens_of(
    model: SpeechContext,
    q: NDArray[np.integer],
    quality: int,
    past: NDArray[np.integer] | None = None,
) -> list[Token]:
    """The token sequence of latents [S, C]; past: those of the steps before, [P, C]."""
    deviation, table = deviations(model, q, quality, past)
    tokens: list[Token] = []
    for differences, zones in zip(deviation, zone_of(table).tolist(), strict=True):
        position = 0
        for channel in np.flatnonzero(differences).tolist():
            run = channel - position
            while run >= LONGEST_RUN:
                tokens.append((False, zones[position], LONGEST_RUN))
                run -= LONGEST_RUN
                position += LONGEST_RUN
            tokens.append((False, zones[position], run))
            value = int(differences[channel])
            tokens.append((True, zones[channel], value + REACH - (value > 0)))
            position = channel + 1
        if position < len(differences):
            tokens.append((False, zones[position], END))
    return tokens


def count_tokens(model: SpeechContext, frames: list[Frame]) -> RunModel:
    """Tables counted over training frames; every token is counted at least once."""
    runs = np.ones((ZONES, RUN_TOKENS), np.int64)
    values = np.ones((ZONES, VALUE_TOKENS), np.int64)
    for indices, quality in frames:
        for is_value, zone, symbol in tokens_of(model, indices, quality):
            (values if is_value else runs)[zone, symbol] += 1
    return RunModel(runs, values)


class HuffmanCoder(LatentCoder):
    """Huffman coder of latents [S, C] over a `RunModel`."""

    sees_past = True

    def __init__(self, model: SpeechContext, runs: RunModel, steps: int, overhead: float) -> None:
        """overhead: bits relative to the context model's ideal code length, on training frames."""
        runs.check()
        super().__init__(steps, model.channels)
        self.model, self.overhead = model, overhead
        huffman = constriction.symbol.huffman
        tables = [[row / row.sum() for row in counts] for counts in (runs.runs, runs.values)]
        self._encode = [[huffman.EncoderHuffmanTree(p) for p in rows] for rows in tables]
        self._decode = [[huffman.DecoderHuffmanTree(p) for p in rows] for rows in tables]

    def encode(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> bytes:
        self.check_shape(q)
        coder = constriction.symbol.QueueEncoder()
        for is_value, zone, symbol in tokens_of(self.model, q, quality, past):
            coder.encode_symbol(symbol, self._encode[is_value][zone])
        return huffman_bytes(coder)

    def decode(
        self,
        payload: bytes,
        quality: int,
        steps: int | None = None,
        past: NDArray[np.integer] | None = None,
    ) -> Int8:
        decoder = huffman_decoder(payload)
        walk = ContextWalk(self.model, steps or self.steps, quality, past)
        channels, channel = self.model.channels, 0
        expected, differs = 0, False  # indices left in the run, and whether a difference follows
        with refusing():
            for slots, centre, table in walk:
                values = centre.copy()
                for at, zone in enumerate(zone_of(table).tolist()):
                    if channel == 0:
                        expected, differs = 0, False
                    if expected == 0 and not differs:
                        run = decoder.decode_symbol(self._decode[0][zone])
                        differs = run < LONGEST_RUN
                        expected = channels - channel if run == END else run
                        if channel + expected + differs > channels:
                            raise BadStream("payload has a run past the end of a step")
                    if expected:
                        expected -= 1
                    else:
                        value = decoder.decode_symbol(self._decode[1][zone]) - REACH
                        values[at] += value + (value >= 0)
                        differs = False
                    channel = (channel + 1) % channels
                walk.put(slots, values)
        return walk.q.astype(np.int8)
