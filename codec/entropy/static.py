"""Entropy coders with the same static tables for all frames: Huffman and range coding.

Liu et al. (2020) use Huffman codes over the quantiser's levels, Chaulagain & Bhattarai (2023)
arithmetic coding; both coders here use the same integer counts over training frames. How many
symbols a frame has follows from its size and the symbols before, so it needs no end marker. A
decoder accepts only the bytes that its encoder would write and raises BadStream for any others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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

Symbols = NDArray[np.int32]
Read = Callable[[int, int], Symbols]  # the next symbols by their table and number


class StaticCounts(ABC):
    """Counts over training frames, and which symbols of their tables a frame has."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError unless the counts are usable."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Latent indices lie in 0..levels-1."""

    @property
    @abstractmethod
    def tables(self) -> tuple[NDArray[np.int64], ...]:
        """The counts of each table's symbols, flat."""

    @abstractmethod
    def symbols(self, q: NDArray[np.integer]) -> tuple[Symbols, ...]:
        """Those of indices [S, C] in each table."""

    @abstractmethod
    def indices(self, read: Read, steps: int, channels: int) -> Int8:
        """Inverse of `symbols`: [steps, channels]."""


@dataclass(frozen=True)
class SymbolCounts(StaticCounts):
    """How often each level occurred on training data: int64 [levels], all positive."""

    counts: NDArray[np.int64]

    def check(self) -> None:
        counts = self.counts
        if counts.ndim != 1 or counts.dtype != np.int64 or not 2 <= len(counts) <= MAX_LEVELS:
            raise ValueError("symbol counts must be int64 [levels]")
        if counts.min() < 1 or counts.max() > MAX_COUNT:
            raise ValueError("symbol counts must be positive and bounded")

    @property
    def levels(self) -> int:
        return len(self.counts)

    @property
    def tables(self) -> tuple[NDArray[np.int64], ...]:
        return (self.counts,)

    def symbols(self, q: NDArray[np.integer]) -> tuple[Symbols, ...]:
        return (np.ascontiguousarray(q, np.int32).reshape(-1),)

    def indices(self, read: Read, steps: int, channels: int) -> Int8:
        return read(0, steps * channels).astype(np.int8).reshape(steps, channels)

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
    """The bytes do not depend on the quality."""

    def __init__(self, counts: StaticCounts, steps: int, channels: int) -> None:
        counts.check()
        super().__init__(steps, channels)
        self.counts = counts

    @abstractmethod
    def _write(self, symbols: tuple[Symbols, ...]) -> bytes:
        """Encode the symbols of a frame, table by table."""

    @abstractmethod
    def _reader(self, payload: bytes) -> Read:
        """Decodes what `_write` encoded."""

    def encode(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> bytes:
        self.check_shape(q)
        if q.min() < 0 or q.max() >= self.counts.levels:
            raise ValueError(f"latent indices must lie in 0..{self.counts.levels - 1}")
        return self._write(self.counts.symbols(q))

    def decode(
        self,
        payload: bytes,
        quality: int,
        steps: int | None = None,
        past: NDArray[np.integer] | None = None,
    ) -> Int8:
        with refusing():
            q = self.counts.indices(self._reader(payload), steps or self.steps, self.channels)
        if self._write(self.counts.symbols(q)) != payload:
            raise BadStream("payload does not end with the frame")
        return q


class StaticHuffmanCoder(_StaticCoder):
    """Huffman codes over static counts: frames [S, C] <-> bytes."""

    def __init__(self, counts: StaticCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        huffman = constriction.symbol.huffman
        tables = [table.astype(np.float64) for table in counts.tables]
        self._encoders = [huffman.EncoderHuffmanTree(table) for table in tables]
        self._decoders = [huffman.DecoderHuffmanTree(table) for table in tables]

    def _write(self, symbols: tuple[Symbols, ...]) -> bytes:
        coder = constriction.symbol.QueueEncoder()
        for part, tree in zip(symbols, self._encoders, strict=True):
            for symbol in part.tolist():
                coder.encode_symbol(symbol, tree)
        return huffman_bytes(coder)

    def _reader(self, payload: bytes) -> Read:
        decoder = huffman_decoder(payload)

        def read(table: int, count: int) -> Symbols:
            tree = self._decoders[table]
            return np.array([decoder.decode_symbol(tree) for _ in range(count)], np.int32)

        return read


class LevelHuffmanCoder(StaticHuffmanCoder):
    """A Huffman code over the levels, which knows its lengths [levels] in bits."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        self.lengths = np.array([self._length(symbol) for symbol in range(counts.levels)])

    def _length(self, symbol: int) -> int:
        coder = constriction.symbol.QueueEncoder()
        coder.encode_symbol(symbol, self._encoders[0])
        return int(coder.get_compressed()[1])


class StaticRangeCoder(_StaticCoder):
    """Range coder over static counts: frames [S, C] <-> bytes."""

    def __init__(self, counts: StaticCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        self._models = [
            constriction.stream.model.Categorical(
                table_of(table) / float(1 << TABLE_BITS), perfect=False
            )
            for table in counts.tables
        ]

    def _write(self, symbols: tuple[Symbols, ...]) -> bytes:
        coder = constriction.stream.queue.RangeEncoder()
        for part, model in zip(symbols, self._models, strict=True):
            coder.encode(part, model)
        return range_bytes(coder)

    def _reader(self, payload: bytes) -> Read:
        decoder = range_decoder(payload)

        def read(table: int, count: int) -> Symbols:
            symbols: Symbols = decoder.decode(self._models[table], count)
            return symbols

        return read
