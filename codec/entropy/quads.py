"""Static tables for latents that mostly are at rest: the symbols of quads.

A quad is what one channel has in four successive steps. Where all of it is within one level of
rest, it is one symbol, so a latent can cost less than a bit; other quads are an escape, and two
symbols for pairs of levels. A frame is its quads, by step and then by channel, and after them the
pairs of the escaped ones. The coders of `codec.entropy.static` code them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.entropy.latent_coder import Int8
from codec.entropy.static import MAX_COUNT, Read, StaticCounts, Symbols

QUAD = 4  # steps
ESCAPE = 3**QUAD  # the symbol of a quad that reaches further than a level from rest
MAX_LEVELS = 64  # of whose pairs a table of TABLE_BITS has room for several times as many
_PLACES = np.array([27, 9, 3, 1])


@dataclass(frozen=True)
class QuadCounts(StaticCounts):
    """How often each quad and, in escaped quads, each pair of levels occurred, all positive.

    quads: int64 [ESCAPE + 1], the levels of a quad relative to rest are its digits in base 3, the
    first step's the most significant; pairs: int64 [levels, levels], in two successive steps; rest:
    the level around which the quads are.
    """

    quads: NDArray[np.int64]
    pairs: NDArray[np.int64]
    rest: int

    def check(self) -> None:
        quads, pairs = self.quads, self.pairs
        square = pairs.ndim == 2 and pairs.shape[0] == pairs.shape[1]
        if not square or pairs.dtype != np.int64 or not 3 <= len(pairs) <= MAX_LEVELS:
            raise ValueError("counts of pairs must be int64 [levels, levels]")
        if quads.shape != (ESCAPE + 1,) or quads.dtype != np.int64:
            raise ValueError(f"counts of quads must be int64 [{ESCAPE + 1}]")
        if min(quads.min(), pairs.min()) < 1 or max(quads.max(), pairs.max()) > MAX_COUNT:
            raise ValueError("symbol counts must be positive and bounded")
        if not 1 <= self.rest <= len(pairs) - 2:
            raise ValueError("there must be levels on both sides of rest")

    @property
    def levels(self) -> int:
        return len(self.pairs)

    @property
    def tables(self) -> tuple[NDArray[np.int64], ...]:
        return self.quads, self.pairs.reshape(-1)

    def pair_bits(self) -> NDArray[np.float64]:
        """Ideal code lengths in bits of pairs of levels, escaped or not: [levels, levels]."""
        shares = all_pairs(self.quads, self.pairs, self.rest)
        bits: NDArray[np.float64] = -np.log2(shares)
        return bits

    def symbols(self, q: NDArray[np.integer]) -> tuple[Symbols, Symbols]:
        """Those of the quads of indices [S, C], and of the pairs of the escaped ones."""
        q = np.asarray(q, np.int32)
        missing = np.full((-len(q) % QUAD, q.shape[1]), self.rest, np.int32)
        quads = np.concatenate((q, missing)).reshape(-1, QUAD, q.shape[1]).transpose(0, 2, 1)
        return self._symbols_of(quads.reshape(-1, QUAD))

    def indices(self, read: Read, steps: int, channels: int) -> Int8:
        found = read(0, -(-steps // QUAD) * channels)
        escaped = found == ESCAPE
        pairs = read(1, 2 * int(escaped.sum()))
        quads = found[:, None] // _PLACES % 3 + (self.rest - 1)
        quads[escaped] = np.stack(np.divmod(pairs, self.levels), 1).reshape(-1, QUAD)
        q = quads.reshape(-1, channels, QUAD).transpose(0, 2, 1).reshape(-1, channels)
        return np.ascontiguousarray(q[:steps], np.int8)

    def counted(self, quads: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How often the quads [N, QUAD] of indices have each symbol: [ESCAPE + 1], and the pairs
        of the escaped ones: [levels, levels]."""
        found, pairs = self._symbols_of(np.asarray(quads, np.int32))
        count = self.levels
        return (
            np.bincount(found, minlength=ESCAPE + 1),
            np.bincount(pairs, minlength=count**2).reshape(count, count),
        )

    def _symbols_of(self, quads: NDArray[np.int32]) -> tuple[Symbols, Symbols]:
        digits = quads - (self.rest - 1)
        escaped = ((digits < 0) | (digits > 2)).any(1)
        found = np.where(escaped, ESCAPE, digits @ _PLACES).astype(np.int32)
        pairs = quads[escaped].reshape(-1, 2)
        return found, np.ascontiguousarray(pairs[:, 0] * self.levels + pairs[:, 1])


def all_pairs(quads: NDArray[Any], pairs: NDArray[Any], rest: int) -> NDArray[np.float64]:
    """Shares [levels, levels] of the pairs in all quads; see `QuadCounts`.

    The pairs are of escaped quads, two in each of them.
    """
    total = pairs * (2.0 * quads[ESCAPE] / pairs.sum())
    small = quads[:ESCAPE].astype(np.float64).reshape(3, 3, 3, 3)
    near = slice(rest - 1, rest + 2)
    total[near, near] += small.sum((2, 3)) + small.sum((0, 1))
    shares: NDArray[np.float64] = total / total.sum()
    return shares
