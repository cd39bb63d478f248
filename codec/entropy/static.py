"""Entropy coders with one static table for all latents: Huffman and range coding.

Huffman over the quantiser's levels is the coder of Liu et al. (2020), arithmetic coding that of
Chaulagain & Bhattarai (2023); both work here from the same integer counts over training frames.
A frame has a fixed number of symbols, so nothing marks its end. Both decoders accept exactly the
bytes that their encoder writes and raise BadStream for all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

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
        """Ideal code lengths, [levels]."""
        lengths: NDArray[np.float64] = -np.log2(self.counts / self.counts.sum())
        return lengths


def count_symbols(indices: NDArray[np.integer], levels: int) -> SymbolCounts:
    """Counts over training indices of any shape; every level counts at least once."""
    return SymbolCounts(np.bincount(indices.reshape(-1), minlength=levels).astype(np.int64) + 1)


def table_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positive integers in the proportions of the counts that sum to 2**TABLE_BITS, [levels]."""
    total = int(counts.sum())
    spare = (1 << TABLE_BITS) - len(counts)
    table = np.array([1 + spare * int(n) // total for n in counts], np.int64)
    table[int(counts.argmax())] += (1 << TABLE_BITS) - int(table.sum())
    return table


class _FrameCoder:
    """What both coders share: the shape of a frame and its checks."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        counts.check()
        self.levels = counts.levels
        self.shape = (steps, channels)

    def _symbols(self, q: NDArray[np.integer]) -> NDArray[np.int32]:
        if q.shape != self.shape:
            raise ValueError(f"latents are {q.shape}, not {self.shape}")
        if q.min() < 0 or q.max() >= self.levels:
            raise ValueError(f"latent indices must lie in 0..{self.levels - 1}")
        return np.ascontiguousarray(q, np.int32).reshape(-1)

    def _frame(self, symbols: NDArray[np.int32]) -> NDArray[np.int8]:
        return symbols.astype(np.int8).reshape(self.shape)


class StaticHuffmanCoder(_FrameCoder):
    """Huffman code over static counts: [S, C] indices <-> bytes."""

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        huffman = constriction.symbol.huffman
        weights = counts.counts.astype(np.float64)
        self._encode = huffman.EncoderHuffmanTree(weights)
        self._decode = huffman.DecoderHuffmanTree(weights)
        self.lengths = np.array([self._length(symbol) for symbol in range(counts.levels)])
        share = counts.counts / counts.counts.sum()
        # What the code costs over the ideal lengths of its own table.
        self.overhead = float((share * self.lengths).sum() / (share * counts.bits()).sum())

    def _length(self, symbol: int) -> int:
        coder = constriction.symbol.QueueEncoder()
        coder.encode_symbol(symbol, self._encode)
        return int(coder.get_compressed()[1])

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """[S, C] indices to bytes; the code does not depend on the quality."""
        coder = constriction.symbol.QueueEncoder()
        for symbol in self._symbols(q).tolist():
            coder.encode_symbol(symbol, self._encode)
        words, bits = coder.get_compressed()
        return words.astype("<u4").tobytes()[: (bits + 7) // 8]

    def decode(self, payload: bytes, quality: int) -> NDArray[np.int8]:
        """Inverse of `encode`. Raises BadStream for bytes that `encode` does not write."""
        padded = payload + b"\0" * (-len(payload) % 4)
        decoder = constriction.symbol.QueueDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))
        symbols = np.empty(self.shape[0] * self.shape[1], np.int32)
        try:
            for place in range(len(symbols)):
                symbols[place] = decoder.decode_symbol(self._decode)
        except (AssertionError, ValueError, IndexError) as error:
            raise BadStream("payload ends inside the frame") from error
        q = self._frame(symbols)
        if self.encode(q, quality) != payload:
            raise BadStream("payload does not end with the frame")
        return q


class StaticRangeCoder(_FrameCoder):
    """Range coder over static counts: [S, C] indices <-> bytes."""

    overhead = 1.0

    def __init__(self, counts: SymbolCounts, steps: int, channels: int) -> None:
        super().__init__(counts, steps, channels)
        probabilities = table_of(counts.counts) / float(1 << TABLE_BITS)
        self._model = constriction.stream.model.Categorical(probabilities, perfect=False)

    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """[S, C] indices to bytes (trailing zero bytes cut)."""
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(self._symbols(q), self._model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")

    def decode(self, payload: bytes, quality: int) -> NDArray[np.int8]:
        """Inverse of `encode`. Raises BadStream for bytes that `encode` does not write."""
        padded = payload + b"\0" * (-len(payload) % 4)
        coder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(padded, ">u4").astype(np.uint32)
        )
        try:
            symbols = coder.decode(self._model, self.shape[0] * self.shape[1])
        except (AssertionError, ValueError) as error:
            raise BadStream("payload is not a valid latent frame") from error
        q = self._frame(symbols)
        if self.encode(q, quality) != payload:
            raise BadStream("payload does not end with the frame")
        return q
