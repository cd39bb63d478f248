"""Sounds of a page: scripts that hold FLAC, since a page read from a file may not fetch anything.

A script calls `sotto.sounds.arrived(NAME, {KEY: TEXT, ...})`; assets/sounds.js loads it when it is
wanted. The text has 15 bits of the FLAC in each UTF-16 unit, which makes it 7 % larger than the
FLAC, where base64 takes 33 %. All units are of one range without quotes, line ends and surrogates.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE

# Of 16 bits the two lowest are left zero: noise at -89 dBFS, for a quarter fewer bytes.
_STEP = 4
_UNIT_BITS = 15
_FIRST_UNIT = 0x3400  # up to 0xB3FF
_MOST = 32_764  # the largest multiple of _STEP in 16 bits

Samples = NDArray[np.floating]


def common_gain(signals: Mapping[str, Samples]) -> float:
    """The factor, 1 at most, by which no signal of a clip exceeds full scale."""
    peak = max((float(np.abs(samples).max(initial=0.0)) for samples in signals.values()), default=0)
    return min(1.0, 1.0 / peak) if peak > 0.0 else 1.0


def flac(samples: Samples) -> bytes:
    """Samples [n] at 16 kHz as FLAC of 14 bits; what exceeds full scale is clipped."""
    whole = np.rint(np.asarray(samples, np.float64) * (32_768 / _STEP)) * _STEP
    pcm = np.clip(whole, -32_768, _MOST).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return file.getvalue()


def text(data: bytes) -> str:
    """Bytes as text of 15 bits a character, the last of which is filled up with zeros."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    rows = np.pad(bits, (0, -len(bits) % _UNIT_BITS)).reshape(-1, _UNIT_BITS)
    units = rows.astype(np.uint16) @ (1 << np.arange(_UNIT_BITS, dtype=np.uint16)[::-1])
    return (units + _FIRST_UNIT).astype("<u2").tobytes().decode("utf-16-le")


def script(name: str, signals: Mapping[str, Samples]) -> bytes:
    """The script of a clip.

    name: by which the page asks for it; signals: samples [n] each at 16 kHz, by key, all brought
    down by one factor if any would exceed full scale.
    """
    gain = common_gain(signals)
    parts = (f"{json.dumps(key)}:{_string(samples, gain)}" for key, samples in signals.items())
    return f"sotto.sounds.arrived({json.dumps(name)},{{{','.join(parts)}}});\n".encode("utf-16")


def _string(samples: Samples, gain: float) -> str:
    data = flac(samples * gain)
    # The length says how much of the last character counts.
    return f'[{len(data)},"{text(data)}"]'
