"""The rate term of the paper's image system: what latents cost by running tables.

The tables are counted on the latents of the last steps, and the price of a bit is steered so that
their Huffman codes take as many bits as are wanted.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from codec.entropy.quads import ESCAPE, QUAD, QuadCounts
from codec.entropy.quantiser import Quantiser
from models.networks.paper import pair_bits

_TABLE_EVERY = 25  # batches that are counted
_GAIN, _MOST = 0.02, 0.003  # of the price's logarithm: per relative error of the rate, per batch
_TOTAL = 1 << 30  # of whole counts


def huffman_lengths(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Code lengths in bits of symbols [N] of these weights."""
    lengths = np.zeros(len(weights), np.int64)
    heap = [(float(weight), k, [k]) for k, weight in enumerate(weights)]
    heapq.heapify(heap)
    for made in range(len(weights), 2 * len(weights) - 1):
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        lengths[members] += 1
        heapq.heappush(heap, (first[0] + second[0], made, members))
    return lengths


def quads_of(indices: Tensor) -> NDArray[np.int64]:
    """Quads [N, QUAD] along the rows of maps [B, C, h, w]; columns that do not fill one are left
    out."""
    columns = indices.shape[3] // QUAD * QUAD
    quads: NDArray[np.int64] = indices[..., :columns].cpu().numpy()
    return quads.reshape(-1, QUAD)


def whole_counts(quads: NDArray[Any], pairs: NDArray[Any], rest: int) -> QuadCounts:
    """Counts [ESCAPE + 1] and [levels, levels] as the entropy coders want them.

    They are smoothed, to suit others than those that were counted: of pairs some of each one's
    share is spread over similar ones, and some over all pairs of its levels.
    """
    levels = len(pairs)
    share = pairs / max(pairs.sum(), 1e-9)
    near = uniform_filter(share, 5, mode="constant")
    product = (share.sum(1) + 1e-6)[:, None] * (share.sum(0) + 1e-6)
    share = 0.93 * share + 0.05 * near / max(near.sum(), 1e-9) + 0.02 * product / product.sum()
    even = (quads + 1e-5 * quads.sum() + 1e-9) / max(quads.sum(), 1e-9)
    whole = [np.maximum((part / part.sum() * _TOTAL).astype(np.int64), 1) for part in (even, share)]
    return QuadCounts(whole[0], whole[1].reshape(levels, levels), rest)


class QuadRate(nn.Module):
    """Running counts, the price of a bit, and the mean bits of a cell.

    target: bits that a cell may take; rest: the level around which the quads are.
    """

    quads: Tensor
    pairs: Tensor
    price: Tensor
    mean: Tensor
    rest: Tensor

    def __init__(self, levels: int, rest: int, target: float, price: float) -> None:
        super().__init__()
        self.target = target
        numbers = {
            "quads": torch.zeros(ESCAPE + 1), "pairs": torch.zeros(levels, levels),
            "price": torch.tensor(price), "mean": torch.tensor(target),
            "rest": torch.tensor(rest),
        }  # fmt: skip
        for name, value in numbers.items():
            self.register_buffer(name, value.double())
        self._batches = 0
        self._lengths = torch.zeros(0)
        self._code = coded(self.counts)

    @property
    def counts(self) -> QuadCounts:
        """The tables as they are now."""
        return whole_counts(self.quads.cpu().numpy(), self.pairs.cpu().numpy(), int(self.rest))

    def forget(self, rest: int) -> None:
        """Begin to count anew, for other levels."""
        for counts in (self.quads, self.pairs):
            counts.zero_()
        self.rest.fill_(rest)
        self._batches = 0

    @torch.no_grad()
    def count(self, indices: Tensor, kept: float = 0.99, *, steer: bool = True) -> None:
        """Count maps [B, C, h, w] and steer the price; kept: of what was before."""
        all_of = quads_of(indices)
        found = self.counts.counted(all_of)
        if not self.quads.any():
            self._add(found, 0.0)
        if self._batches % _TABLE_EVERY == 0:
            self._code = coded(self.counts)
            lengths = self._code[0].pair_bits().astype(np.float32)
            self._lengths = torch.from_numpy(lengths).to(self.pairs.device)
        if steer:
            cells = all_of.size / indices.shape[1]
            self.mean.lerp_(self.mean.new_tensor(bits_of(found, self._code) / cells), 1.0 - kept)
            error = _GAIN * (self.mean / self.target - 1.0)
            # A batch of many counts for as much as so many of few.
            self.price.mul_(torch.exp(error.clamp(-_MOST, _MOST) * (1.0 - kept) / 0.01))
        self._add(found, kept)
        self._batches += 1

    def _add(self, found: tuple[NDArray[np.int64], NDArray[np.int64]], kept: float) -> None:
        for counts, new in zip((self.quads, self.pairs), found, strict=True):
            counts.lerp_(torch.from_numpy(new).to(counts), 1.0 - kept)

    def bits(self, z: Tensor, quantiser: Quantiser) -> Tensor:
        """Bits of a cell of latents z [B, C, h, w] as they are, about: [B]."""
        columns = z.shape[3] // 2 * 2
        first, second = z[..., 0:columns:2], z[..., 1:columns:2]
        bits = pair_bits(first, second, quantiser.centres, self._lengths)
        return bits.sum((1, 2, 3)) / (z.shape[2] * columns)


Code = tuple[QuadCounts, NDArray[np.int64], NDArray[np.int64]]


def coded(counts: QuadCounts) -> Code:
    """Tables with the lengths of their Huffman codes, in their shapes."""
    parts = [
        huffman_lengths(part.reshape(-1).astype(np.float64)).reshape(part.shape)
        for part in (counts.quads, counts.pairs)
    ]
    return counts, parts[0], parts[1]


def bits_of(found: tuple[NDArray[np.int64], NDArray[np.int64]], code: Code) -> float:
    """Bits that `QuadCounts.counted` quads take."""
    return float(sum((n * length).sum() for n, length in zip(found, code[1:], strict=True)))
