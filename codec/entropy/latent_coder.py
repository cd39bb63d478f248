"""Base class of the entropy coders of latent frames; `constriction`'s words as bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream

Int8 = NDArray[np.int8]


class LatentCoder(ABC):
    """Entropy coder of frames of latent indices [S, C].

    `overhead` is its cost over the prior's ideal bits.
    """

    overhead = 1.0

    def __init__(self, steps: int, channels: int) -> None:
        self.shape = (steps, channels)

    @abstractmethod
    def encode(self, q: NDArray[np.integer], quality: int) -> bytes:
        """[S, C] indices to bytes. Raises ValueError for another shape, or out of range."""

    @abstractmethod
    def decode(self, payload: bytes, quality: int) -> Int8:
        """Inverse of `encode`. Raises BadStream for bytes that are no frame."""

    def check_shape(self, q: NDArray[np.integer]) -> None:
        """Raise ValueError for latents of another shape."""
        if q.shape != self.shape:
            raise ValueError(f"latents are {q.shape}, not {self.shape}")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn errors of `constriction` and of table look-ups into BadStream."""
    try:
        yield
    except (AssertionError, ValueError, IndexError) as error:
        raise BadStream("payload is not a valid latent frame") from error


def range_bytes(coder: constriction.stream.queue.RangeEncoder) -> bytes:
    """What a range encoder wrote, trailing zero bytes cut: decoders read zeros beyond the end."""
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype(">u4").tobytes().rstrip(b"\0")


def range_decoder(payload: bytes) -> constriction.stream.queue.RangeDecoder:
    """A decoder of `range_bytes`."""
    return constriction.stream.queue.RangeDecoder(_words(payload, ">u4"))


def huffman_bytes(coder: constriction.symbol.QueueEncoder) -> bytes:
    """What a symbol encoder wrote, in as many bytes as its bits need."""
    words, bits = coder.get_compressed()
    return bytes(words.astype("<u4").tobytes()[: (bits + 7) // 8])


def huffman_decoder(payload: bytes) -> constriction.symbol.QueueDecoder:
    """A decoder of `huffman_bytes`."""
    return constriction.symbol.QueueDecoder(_words(payload, "<u4"))


def _words(payload: bytes, order: str) -> NDArray[np.uint32]:
    padded = payload + b"\0" * (-len(payload) % 4)
    return np.frombuffer(padded, order).astype(np.uint32)
