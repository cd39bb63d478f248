"""Entropy coders with one static table for all latents: Huffman and range coding.

Liu et al. (2020) use Huffman codes over the quantiser's levels, Chaulagain & Bhattarai (2023)
arithmetic coding; both coders here use the same integer counts over training frames. A frame has a
fixed number of symbols, so it needs no end marker. A decoder accepts only the bytes that its
encoder would write and raises BadStream for any others.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy.latent_coder import (
    Int8,
    LatentCoder,
    huffman_bytes,
    huffman_decoder,
    range_bytes,
    range_decoder,
    refusing,
)
from codec.entropy.quantiser import MAX_LEVELS
from codec.errors import BadStream

TABLE_BITS = 16
MAX_COUNT = 1 << 40


@dataclass(frozen=True)
class SymbolCounts:
    """How often each level occurred on training data: int64 [levels], all positive."""

    counts: NDArray[np.int64]

    def check(self) -> None:
        """Raise ValueError unless the counts are usable."""
        counts = self.counts
        if counts.ndim != 1 or counts.dtype != np.int64 or not 2 <= len(counts) <= MAX_LEVELS:
            raise ValueError("symbol counts must be int64 [levels]")
        if counts.min() < 1 or counts.max() > MAX_COUNT:
            raise ValueError("symbol counts must be positive and bounded")

    @property
    def levels(self) -> int:
        return len(self.counts)

    def bits(self) -> NDArray[np.float64]:
        """Ideal code lengths in bits, [levels]."""
        lengths: NDArray[np.float64] = -np.log2(self.counts / self.counts.sum())
        return lengths


def count_symbols(indices: NDArray[np.integer], levels: int) -> SymbolCounts:
    """Counts of training indices of any shape; every level is counted at least once."""
    return SymbolCounts(np.bincount(indices.reshape(-1), minlength=levels).astype(np.int64) + 1)


def table_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counts scaled to positive integers that sum to 2**TABLE_BITS, [levels]."""
    total = int(counts.sum())
    spare = (1 << TABLE_BITS) - len(counts)
    table = np.array([1 + spare * int(n) // total for n in counts], np.int64)
    table[int(counts.argmax())] += (1 << TABLE_BITS) - int(table.sum())
    return table


class _StaticCoder(LatentCoder):
    """Codes all latents with the same table; the bytes do not depend on the quality."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        counts.check()
        super().__init__(steps, channels)
        self.levels = counts.levels

    @abstractmethod
    def _write(self, symbols: NDArray[np.int32]) -> bytes:
        """Encode all symbols of a frame."""

    @abstractmethod
    def _read(self, payload: bytes, count: int) -> NDArray[np.int32]:
        """Decode `count` symbols."""

    def encode(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> bytes:
        self.check_shape(q)
        if q.min() < 0 or q.max() >= self.levels:
            raise ValueError(f"latent indices must lie in 0..{self.levels - 1}")
        return self._write(np.ascontiguousarray(q, np.int32).reshape(-1))

    def decode(
        self,
        payload: bytes,
        quality: int,
        steps: int | None = None,
        past: NDArray[np.integer] | None = None,
    ) -> Int8:
        with refusing():
            symbols = self._read(payload, (steps or self.steps) * self.channels)
        if self._write(symbols) != payload:
            raise BadStream("payload does not end with the frame")
        return symbols.astype(np.int8).reshape(-1, self.channels)


class StaticHuffmanCoder(_StaticCoder):
    """Huffman code over static counts: frames [S, C] <-> bytes."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        huffman = constriction.symbol.huffman
        weights = counts.counts.astype(np.float64)
        self._encoder = huffman.EncoderHuffmanTree(weights)
        self._decoder = huffman.DecoderHuffmanTree(weights)
        self.lengths = np.array([self._length(symbol) for symbol in range(counts.levels)])
        share = counts.counts / counts.counts.sum()
        # Mean code length relative to the entropy of the same counts.
        self.overhead = float((share * self.lengths).sum() / (share * counts.bits()).sum())

    def _length(self, symbol: int) -> int:
        coder = constriction.symbol.QueueEncoder()
        coder.encode_symbol(symbol, self._encoder)
        return int(coder.get_compressed()[1])

    def _write(self, symbols: NDArray[np.int32]) -> bytes:
        coder = constriction.symbol.QueueEncoder()
        for symbol in symbols.tolist():
            coder.encode_symbol(symbol, self._encoder)
        return huffman_bytes(coder)

    def _read(self, payload: bytes, count: int) -> NDArray[np.int32]:
        decoder = huffman_decoder(payload)
        return np.array([decoder.decode_symbol(self._decoder) for _ in range(count)], np.int32)


class StaticRangeCoder(_StaticCoder):
    """Range coder over static counts: frames [S, C] <-> bytes."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        probabilities = table_of(counts.counts) / float(1 << TABLE_BITS)
        self._model = constriction.stream.model.Categorical(probabilities, perfect=False)

    def _write(self, symbols: NDArray[np.int32]) -> bytes:
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(symbols, self._model)
        return range_bytes(coder)

    def _read(self, payload: bytes, count: int) -> NDArray[np.int32]:
        symbols: NDArray[np.int32] = range_decoder(payload).decode(self._model, count)
        return symbols
