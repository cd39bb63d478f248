"""The fixed-seed random linear layer that replaces the generator's trained first one.

A Hadamard transform with random signs mixes the first 2^k of d numbers (2^k <= d < 2^(k+1)), a
second one the last 2^k of the result: a dense orthogonal matrix that is never stored. Its random
numbers are raw integers of Philox 4x64 (Salmon et al. 2011), the same on every machine.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SEED = 2020
_PASSES = 2


def random_signs(count: int, seed: int, stream: int) -> NDArray[np.int8]:
    """[count] of ±1: the top bits of Philox's integers."""
    raw = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.where(raw >> np.uint64(63), -1, 1).astype(np.int8)


def random_order(count: int, seed: int, stream: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1: the order in which Philox's integers lie."""
    raw = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(raw, kind="stable")


def hadamard(order: int) -> Tensor:
    """Sylvester's Hadamard matrix, [order, order] of ±1. Raises ValueError unless order is 2^k."""
    if order < 1 or order & (order - 1):
        raise ValueError(f"no Hadamard matrix of order {order} here")
    matrix = torch.ones(1, 1)
    while len(matrix) < order:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


class RandomLayer(nn.Module):
    """[B, d] latents to [B, d] numbers of the same norm, mixed at random."""

    signs: Tensor
    order: Tensor
    back: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, latents: int, seed: int = SEED) -> None:
        """Raises ValueError when there is no such layer."""
        super().__init__()
        if not 1 <= latents <= 1 << 20:
            raise ValueError(f"no random layer of {latents} latents")
        self.latents = latents
        exponent = latents.bit_length() - 1
        self._size = 1 << exponent
        order = torch.from_numpy(random_order(latents, seed, 0))
        signs = [random_signs(latents, seed, 1 + number) for number in range(_PASSES)]
        buffers = {
            "signs": torch.from_numpy(np.stack(signs)).float(),
            "order": order,
            "back": order.argsort(),
            "rows": hadamard(1 << (exponent - exponent // 2)),
            "columns": hadamard(1 << (exponent // 2)),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def _hadamard(self, x: Tensor) -> Tensor:
        # A large Hadamard matrix is the Kronecker product of two small ones. It is symmetric.
        grid = x.reshape(len(x), len(self.rows), len(self.columns))
        return (self.rows @ grid @ self.columns).reshape(x.shape) / self._size**0.5

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, d] -> [B, d]."""
        size, rest = self._size, self.latents - self._size
        x = z * self.signs[0]
        x = torch.cat((self._hadamard(x[:, :size]), x[:, size:]), 1) * self.signs[1]
        x = torch.cat((x[:, :rest], self._hadamard(x[:, rest:])), 1)
        return x[:, self.order]

    def transposed(self, h: Tensor) -> Tensor:
        """The transposed matrix, which is the inverse: [B, d] -> [B, d]."""
        size, rest = self._size, self.latents - self._size
        x = h[:, self.back]
        x = torch.cat((x[:, :rest], self._hadamard(x[:, rest:])), 1) * self.signs[1]
        return torch.cat((self._hadamard(x[:, :size]), x[:, size:]), 1) * self.signs[0]
