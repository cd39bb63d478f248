"""Which of the generator's numbers a tile's latents reach, as bytes.

One flag for each number, in the order in which photographs need them, so that set flags are many
at the front and few at the back. They go through the range coder with one probability, which
follows the flags (by 1/64 of its distance from each) and needs no side information.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.entropy import range_coder
from codec.entropy.range_coder import TABLE_BITS, finish, peek, put, take
from codec.errors import BadStream
from codec.kernels import kernel

Flags = NDArray[np.uint8]
_WHOLE = 1 << TABLE_BITS
_SHIFT = 6
_ENCODE, _DECODE = 0, 1


@kernel()
def _walk(mode: int, flags: Flags, state: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
    """Write the flags to `data`, or read them from it."""
    likely = _WHOLE >> 1  # of a set flag; stays between 63 and 2**16 - 63
    for k in range(len(flags)):
        if mode == _DECODE:
            flags[k] = np.uint8(1) if peek(state) < likely else np.uint8(0)
        start, size = (0, likely) if flags[k] else (likely, _WHOLE - likely)
        if mode == _DECODE:
            take(state, data, start, size)
        else:
            put(state, data, start, size)
        if flags[k]:
            likely += (_WHOLE - likely) >> _SHIFT
        else:
            likely -= likely >> _SHIFT


def encode_places(flags: Flags) -> bytes:
    """Flags [n], 0 or 1, to bytes."""
    out = np.empty(2 * len(flags) + 16, np.uint8)  # a flag takes 10 bits at most
    state = range_coder.new_encoder()
    _walk(_ENCODE, flags, state, out)
    return bytes(out[1 : finish(state, out)])


def decode_places(data: bytes, count: int) -> Flags:
    """Inverse of `encode_places`: [count]. Raises BadStream for bytes that it does not write."""
    held = np.frombuffer(data, np.uint8).copy()  # compiled for arrays that can be written to
    flags = np.zeros(count, np.uint8)
    _walk(_DECODE, flags, range_coder.new_decoder(held), held)
    if encode_places(flags) != data:
        raise BadStream("a tile's places are damaged")
    return flags
