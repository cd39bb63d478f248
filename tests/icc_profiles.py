"""ICC profiles, byte by byte (ICC.1:2001-04), so that tests need no files of others."""

from __future__ import annotations

import struct

import numpy as np

# xy of red, green, blue, white (D65).
WHITE = (0.3127, 0.3290)
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), WHITE)
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), WHITE)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), WHITE)
D50 = np.array((0.9642, 1.0, 0.8249))
BRADFORD = np.array(
    ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
)

Colours = tuple[tuple[float, float], ...]


def matrix_of(colours: Colours) -> np.ndarray:
    """Linear RGB to XYZ, adapted to D50 (Bradford)."""
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in colours]).T
    white = xyz[:, 3]
    matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], white)
    gain = (BRADFORD @ D50) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD @ matrix


def rgb_profile(colours: Colours, gamma: float) -> bytes:
    """A display's profile: three colours and one gamma."""
    columns = [_xyz(column) for column in matrix_of(colours).T]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma)) + bytes(2)
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with one gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma)) + bytes(2)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk_profile(lab: np.ndarray) -> bytes:
    """A printer's profile: Lab colours [2, 2, 2, 2, 3] of no and full ink, linear between."""
    nodes = (lab * (2.55, 1.0, 1.0) + (0, 128, 128)).round().clip(0, 255).astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65_536 * (k % 4 == 0) for k in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * ramp + nodes.tobytes()
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + 3 * ramp})


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *np.round(65_536 * values).astype(int).tolist())


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"wtpt": _xyz(D50), b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    at, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        index += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I", at + len(body)) + b"lcms" + b"\2\x20\0\0" + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *np.round(65_536 * D50).astype(int).tolist())
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body
