"""Base class of the entropy coders of latents; `constriction`'s words as bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream

Int8 = NDArray[np.int8]

_SPARE = 5  # bytes that the end of a range coder's payload may have too many


class LatentCoder(ABC):
    """Entropy coder of latent indices [S, C], of a whole frame or of fewer steps.

    `overhead` is its cost over the prior's ideal bits; `sees_past` says whether the steps before
    help to code those that follow.
    """

    overhead = 1.0
    sees_past = False

    def __init__(self, steps: int, channels: int) -> None:
        """steps: of a frame, which are the most."""
        self.steps, self.channels = steps, channels

    @abstractmethod
    def encode(
        self, q: NDArray[np.integer], quality: int, past: NDArray[np.integer] | None = None
    ) -> bytes:
        """[S, C] indices to bytes. Raises ValueError for another shape, or out of range.

        past: [P, C] indices of the steps before, where the decoder will have them.
        """

    @abstractmethod
    def decode(
        self,
        payload: bytes,
        quality: int,
        steps: int | None = None,
        past: NDArray[np.integer] | None = None,
    ) -> Int8:
        """Inverse of `encode`; steps: S, None for a frame. Raises BadStream for other bytes."""

    def check_shape(self, q: NDArray[np.integer]) -> None:
        """Raise ValueError for latents of another shape."""
        if q.ndim != 2 or not 1 <= len(q) <= self.steps or q.shape[1] != self.channels:
            raise ValueError(f"latents are {q.shape}, not {(self.steps, self.channels)} at most")


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


def shortest(payload: bytes, sufficient: Callable[[bytes], bool]) -> bytes:
    """The shortest bytes that do what a range encoder's `payload` does.

    The encoder ends with whole words, but every number in its last interval will do: those cut
    short by a few bytes are tried, and the next larger ones. Saves 12 bits of a payload on average.
    """
    # Not down to no bytes at all, which would say silence.
    for length in range(max(len(payload) - _SPARE, 1), len(payload)):
        number = int.from_bytes(payload[:length], "big")
        for candidate in (number, number + 1):
            if candidate < 1 << 8 * length:
                shorter = candidate.to_bytes(length, "big")
                if sufficient(shorter):
                    return shorter
    return payload


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
