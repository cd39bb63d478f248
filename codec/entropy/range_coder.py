"""A byte-wise range coder over 16-bit integer tables, for compiled loops.

The carry-propagating coder of Martin (1979) as in LZMA: 32-bit range, 33-bit low, one pending byte
and a count of 0xFF behind it. State lives in a small array so that compiled functions can share it.
Past its end the input reads as zero bytes, so encoders drop trailing zeros.

`encode_flags` codes maps of bits with adaptive probabilities and no side information.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream
from codec.kernels import kernel

UInt8 = NDArray[np.uint8]
UInt64 = NDArray[np.uint64]

TABLE_BITS = 16
_LOW, _RANGE, _PENDING, _COUNT, _AT = 0, 1, 2, 3, 4  # of the encoder's state
_CODE = 0  # of the decoder's, which has _RANGE and _AT as well
_TOP = np.uint64(1 << 24)
_FULL = np.uint64(0xFFFFFFFF)
_EIGHT = np.uint64(8)
_BITS = np.uint64(TABLE_BITS)
_WHOLE = 1 << TABLE_BITS
# Flags come in maps of _SIDE * _SIDE. Their contexts are how many of the last maps have the flag at
# the same place set, and how many of the neighbours that come before it in its own map are.
_SIDE, _MAPS = 8, 8
_NEAR = 4
_RAREST = 64  # the smallest probability of a value, over 2**16
_SLOWEST = 126  # flags in a context, after which its probability moves 1/128 of the way to each


def new_encoder() -> UInt64:
    """The initial state of an encoder; the pending byte is the code's integer part, always 0."""
    return np.array([0, 0xFFFFFFFF, 0, 1, 0], np.uint64)


def new_decoder(data: UInt8) -> UInt64:
    """The state of a decoder at the start of `data`."""
    head = bytes(data[:4]).ljust(4, b"\0")
    return np.array([int.from_bytes(head, "big"), 0xFFFFFFFF, 0, 0, 4], np.uint64)


@kernel()
def _shift(state: UInt64, out: UInt8) -> None:
    """Shift the top byte of low out, resolving carries. `out` must have room."""
    low = state[_LOW]
    if low < np.uint64(0xFF000000) or low > _FULL:
        carry = np.uint8(low >> np.uint64(32))
        at = state[_AT]
        out[at] = np.uint8(state[_PENDING]) + carry
        at += np.uint64(1)
        for _ in range(np.int64(state[_COUNT]) - 1):
            out[at] = np.uint8(0xFF) + carry
            at += np.uint64(1)
        state[_AT] = at
        state[_COUNT] = 0
        state[_PENDING] = (low >> np.uint64(24)) & np.uint64(0xFF)
    state[_COUNT] += np.uint64(1)
    state[_LOW] = (low & np.uint64(0x00FFFFFF)) << _EIGHT


@kernel()
def put(state: UInt64, out: UInt8, start: int, size: int) -> None:
    """Encode the interval [start, start + size) of 2**TABLE_BITS."""
    part = state[_RANGE] >> _BITS
    state[_LOW] += part * np.uint64(start)
    state[_RANGE] = part * np.uint64(size)
    while state[_RANGE] < _TOP:
        state[_RANGE] = (state[_RANGE] << _EIGHT) & _FULL
        _shift(state, out)


@kernel()
def finish(state: UInt64, out: UInt8) -> np.int64:
    """Flush; the code is out[1 : size], without trailing zeros. Returns size, at least 1.

    out[0] is the integer part of the code: 0, since no carry can reach it.
    """
    for _ in range(5):
        _shift(state, out)
    size = np.int64(state[_AT])
    while size > 1 and out[size - 1] == 0:
        size -= 1
    return size


@kernel()
def peek(state: UInt64) -> np.int64:
    """The position in [0, 2**TABLE_BITS) that the next symbol's interval contains."""
    at = state[_CODE] // (state[_RANGE] >> _BITS)
    return min(np.int64(at), np.int64((1 << TABLE_BITS) - 1))


@kernel()
def take(state: UInt64, data: UInt8, start: int, size: int) -> None:
    """Consume the symbol whose interval is [start, start + size)."""
    part = state[_RANGE] >> _BITS
    state[_CODE] -= min(part * np.uint64(start), state[_CODE])
    state[_RANGE] = part * np.uint64(size)
    while state[_RANGE] < _TOP:
        state[_RANGE] = (state[_RANGE] << _EIGHT) & _FULL
        byte = np.uint64(0)
        if state[_AT] < np.uint64(len(data)):
            byte = np.uint64(data[state[_AT]])
        state[_AT] += np.uint64(1)
        state[_CODE] = ((state[_CODE] << _EIGHT) | byte) & _FULL


@kernel()
def _code_flags(decoding: bool, flags: UInt8, state: UInt64, data: UInt8) -> None:
    """Write the flags to `data`, or read them from it."""
    likely = np.full((_MAPS + 1) * _NEAR, _WHOLE >> 1, np.int64)  # probabilities of a set flag
    seen = np.zeros(len(likely), np.int64)
    place = _SIDE * _SIDE
    for k in range(len(flags)):
        context = 0
        for back in range(place, min(_MAPS * place, k) + 1, place):
            context += _NEAR * flags[k - back]
        column, row = k % _SIDE, k % place // _SIDE
        if column > 0:
            context += flags[k - 1]
        if row > 0:
            context += flags[k - _SIDE]
            if column < _SIDE - 1:
                context += flags[k - _SIDE + 1]
        share = likely[context]
        if decoding:
            flags[k] = np.uint8(1) if peek(state) < share else np.uint8(0)
        start, size = (0, share) if flags[k] else (share, _WHOLE - share)
        if decoding:
            take(state, data, start, size)
        else:
            put(state, data, start, size)
        pace = seen[context] + 2
        if flags[k]:
            share += (_WHOLE - share) // pace
        else:
            share -= share // pace
        likely[context] = min(max(share, _RAREST), _WHOLE - _RAREST)
        seen[context] = min(seen[context] + 1, _SLOWEST)


def encode_flags(flags: UInt8) -> bytes:
    """Encode flags [n], 0 or 1: maps of 8x8, one after the other, the last perhaps in part.

    They take the fewest bytes where set flags cluster, in a map or at the same place of many.
    """
    out = np.empty(2 * len(flags) + 16, np.uint8)  # a flag takes 10 bits at most
    state = new_encoder()
    _code_flags(False, flags, state, out)
    return bytes(out[1 : finish(state, out)])


def decode_flags(data: bytes, count: int) -> UInt8:
    """Inverse of `encode_flags`: [count]. Raises BadStream for bytes that it does not write."""
    held = np.frombuffer(data, np.uint8).copy()  # the kernel is compiled for writable arrays
    flags = np.zeros(count, np.uint8)
    _code_flags(True, flags, new_decoder(held), held)
    if encode_flags(flags) != data:
        raise BadStream("coded flags are damaged")
    return flags
