"""Huffman coding of latent indices: zero runs and values under static tables.

The entropy coder of Liu et al. (2020), made fit for sparse latents: within a step the channels are
scanned in order as (run of zeros, value) tokens, so that a zero may cost less than one bit. Tables
are integer counts over training frames, chosen by how far into the step a token starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy import MAX_INDEX, check_indices
from codec.errors import BadStream

LONGEST_RUN = 62  # this token: 62 zeros and no value
END = 63  # this token: the rest of the step is zero
RUN_TOKENS = 64
_ZONE_STARTS = np.array([0, 2, 4, 8, 16, 32, 64, 128])
ZONES = len(_ZONE_STARTS)

Token = tuple[int, int, int]  # table kind (0 run, 1 value), zone, symbol


@dataclass(frozen=True)
class RunModel:
    """Token counts: runs [ZONES, RUN_TOKENS] and values [ZONES, 2 * MAX_INDEX], all positive."""

    runs: NDArray[np.int64]
    values: NDArray[np.int64]

    def check(self) -> None:
        """Raise ValueError unless shapes and counts are usable."""
        for counts, width in ((self.runs, RUN_TOKENS), (self.values, 2 * MAX_INDEX)):
            if counts.shape != (ZONES, width) or counts.min() < 1 or counts.max() > 1 << 40:
                raise ValueError("Huffman tables have the wrong shape or counts")


def tokens_of(q: NDArray[np.int8]) -> list[Token]:
    """The token sequence of one frame [S, C]."""
    zone_of = np.searchsorted(_ZONE_STARTS, np.arange(q.shape[1] + 1), side="right") - 1
    tokens: list[Token] = []
    for row in q:
        position = 0
        for channel in np.flatnonzero(row):
            run = int(channel) - position
            while run >= LONGEST_RUN:
                tokens.append((0, int(zone_of[position]), LONGEST_RUN))
                run -= LONGEST_RUN
                position += LONGEST_RUN
            tokens.append((0, int(zone_of[position]), run))
            value = int(row[channel])
            symbol = value + MAX_INDEX - (value > 0)
            tokens.append((1, int(zone_of[channel]), symbol))
            position = int(channel) + 1
        if position < q.shape[1]:
            tokens.append((0, int(zone_of[position]), END))
    return tokens


def count_tokens(frames: list[NDArray[np.int8]]) -> RunModel:
    """Tables counted over training frames; every token counts at least once."""
    runs = np.ones((ZONES, RUN_TOKENS), np.int64)
    values = np.ones((ZONES, 2 * MAX_INDEX), np.int64)
    for frame in frames:
        for kind, zone, symbol in tokens_of(frame):
            (values if kind else runs)[zone, symbol] += 1
    return RunModel(runs, values)


class HuffmanCoder:
    """Huffman coder over a `RunModel`: [S, C] indices <-> bytes."""

    def __init__(self, model: RunModel, steps: int, channels: int, overhead: float) -> None:
        """overhead: bits spent per bit of the context model's ideal, on training frames."""
        model.check()
        self.steps, self.channels, self.overhead = steps, channels, overhead
        huffman = constriction.symbol.huffman
        tables = [[row / row.sum() for row in counts] for counts in (model.runs, model.values)]
        self._encode = [[huffman.EncoderHuffmanTree(p) for p in rows] for rows in tables]
        self._decode = [[huffman.DecoderHuffmanTree(p) for p in rows] for rows in tables]
        zones = np.searchsorted(_ZONE_STARTS, np.arange(channels + 1), side="right") - 1
        self._zone_of: list[int] = zones.tolist()

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """[S, C] indices to bytes; the tables do not depend on the quality."""
        indices = check_indices(q)
        if indices.shape != (self.steps, self.channels):
            raise ValueError(f"latents are {indices.shape}, not {(self.steps, self.channels)}")
        coder = constriction.symbol.QueueEncoder()
        for kind, zone, symbol in tokens_of(indices):
            coder.encode_symbol(symbol, self._encode[kind][zone])
        words, bits = coder.get_compressed()
        return words.astype("<u4").tobytes()[: (bits + 7) // 8]

    def decode(self, payload: bytes, quality: int) -> NDArray[np.int8]:
        """Inverse of `encode`. Raises BadStream when the tokens do not make a frame."""
        padded = payload + b"\0" * (-len(payload) % 4)
        decoder = constriction.symbol.QueueDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))
        q = np.zeros((self.steps, self.channels), np.int8)
        try:
            for row in q:
                position = 0
                while position < self.channels:
                    run = decoder.decode_symbol(self._decode[0][self._zone_of[position]])
                    if run == END:
                        break
                    position += run
                    if run == LONGEST_RUN and position <= self.channels:
                        continue
                    if position >= self.channels:
                        raise BadStream("payload's zero runs leave the frame")
                    symbol = decoder.decode_symbol(self._decode[1][self._zone_of[position]])
                    value = symbol - MAX_INDEX
                    row[position] = value + (value >= 0)
                    position += 1
        except (AssertionError, ValueError, IndexError) as error:
            raise BadStream("payload is not a valid latent frame") from error
        return q
