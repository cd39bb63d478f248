"""WAV as a stream: headers and samples as they are written, to pipes of unknown length as well.

Programs that write WAV to a pipe cannot go back to fill in the length, so they leave 0, 0x7FFFFFFF,
0xFFFFFFFF or (sox) 0x7FFFF000 less the header there. Such a stream ends where the pipe ends.

Layout of the chunks: IBM and Microsoft, "Multimedia Programming Interface and Data Specifications
1.0" (1991).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 44
MAX_DATA_BYTES = 0xFFFFFFFF - HEADER_BYTES
# Written for a length not yet known: the one placeholder that sox, too, reads without a warning.
UNKNOWN_LENGTH = 0x7FFFF000

_PCM = 1


def to_pcm16(samples: NDArray[np.float32]) -> bytes:
    """Float samples, full scale 1, to 16-bit little-endian; clipped, not-a-number is 0."""
    clean = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    data: bytes = np.clip(np.rint(clean * 32768.0), -32768, 32767).astype("<i2").tobytes()
    return data


def pcm16_header(sample_rate: int, data_bytes: int | None, channels: int = 1) -> bytes:
    """The 44 bytes before 16-bit samples; data_bytes None means not known yet."""
    length = UNKNOWN_LENGTH if data_bytes is None else data_bytes
    riff = length + HEADER_BYTES - 8
    frame = 2 * channels
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, _PCM, channels, sample_rate, frame * sample_rate, frame, 16
    )
    start, end = struct.pack("<4sI4s", b"RIFF", riff, b"WAVE"), struct.pack("<4sI", b"data", length)
    return start + form + end
