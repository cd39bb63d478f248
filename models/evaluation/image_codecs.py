"""The measured image codecs: sotto's and the installed peers."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from codec.errors import BadInput
from codec.image.base import ImageCodec
from codec.image.settings import EncodeSettings

Pixels = NDArray[np.uint8]
PEERS = ("jpeg", "webp", "avif", "jxl", "hevc")
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class MeasuredCodec:
    """A codec at a list of settings; `encode` returns the file, `decode` the pixels.

    span: the lowest and highest integer setting, for a codec without target rates.
    """

    name: str
    settings: tuple[float, ...]
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes], Pixels]
    span: tuple[int, int] | None = None

    def encode_at(self, pixels: Pixels, bpp: float) -> bytes:
        """The largest file of at most `bpp` bits per pixel, or else that of the lowest setting."""
        if self.span is None:
            return self.encode(pixels, self.settings[0])
        low, high = self.span
        best = self.encode(pixels, low)
        while low < high:
            middle = (low + high + 1) // 2
            data = self.encode(pixels, middle)
            if 8 * len(data) <= bpp * pixels.shape[0] * pixels.shape[1]:
                low, best = middle, data
            else:
                high = middle - 1
        return best


def pillow_codec(name: str, form: str, settings: Sequence[float]) -> MeasuredCodec:
    """A codec that is built into Pillow, or registered with it."""

    def encode(pixels: Pixels, quality: float) -> bytes:
        out = io.BytesIO()
        more = {"method": 6} if form == "WEBP" else {}
        Image.fromarray(pixels).save(out, form, quality=int(quality), **more)
        return out.getvalue()

    def decode(data: bytes) -> Pixels:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    return MeasuredCodec(name, tuple(settings), encode, decode, (1, 95))


def hevc_codec(settings: Sequence[float]) -> MeasuredCodec:
    """HEVC intra, 4:4:4, encoded by heif-enc and decoded by heif-convert."""

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            raise BadInput(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-200:]}")

    def encode(pixels: Pixels, quality: float) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "a.png"), Path(folder, "a.heic")
            Image.fromarray(pixels).save(source)
            run("heif-enc", "-q", str(int(quality)), "-p", "chroma=444", "-o", str(target),
                str(source))  # fmt: skip
            return target.read_bytes()

    def decode(data: bytes) -> Pixels:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "a.heic"), Path(folder, "a.png")
            source.write_bytes(data)
            run("heif-convert", str(source), str(target))
            return np.asarray(Image.open(target).convert("RGB"))

    return MeasuredCodec("hevc", tuple(settings), encode, decode, (1, 95))


def own_codec(
    name: str,
    codec: ImageCodec,
    settings: EncodeSettings,
    points: Sequence[float],
    option: Literal["quality", "bpp"] = "quality",
) -> MeasuredCodec:
    """Sotto's codec at fixed rate points, at its only one, or at targets in bits per pixel."""
    one_rate = codec.preset.one_rate and option == "quality"

    def encode(pixels: Pixels, point: float) -> bytes:
        changes: dict[str, Any] = {} if one_rate else {option: point}
        return codec.encode(pixels, replace(settings, **changes))

    points = (0.0,) if one_rate else tuple(points)
    return MeasuredCodec(name, points, encode, lambda data: codec.decode(data)[:, :, :3])


def peers(names: Sequence[str]) -> list[MeasuredCodec]:
    """The named peers that are installed."""
    found = []
    if "jpeg" in names:
        found.append(pillow_codec("jpeg", "JPEG", (5, 10, 15, 25, 40, 60, 80)))
    if "webp" in names and features.check("webp"):
        found.append(pillow_codec("webp", "WEBP", (1, 5, 15, 30, 50, 70, 85, 92)))
    if "avif" in names and features.check("avif"):
        found.append(pillow_codec("avif", "AVIF", (10, 20, 30, 45, 60, 75, 85)))
    if "jxl" in names and find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401  # teaches Pillow the format

        found.append(pillow_codec("jxl", "JXL", (1, 10, 25, 45, 65, 80, 90)))
    if "hevc" in names and shutil.which("heif-enc") and shutil.which("heif-convert"):
        found.append(hevc_codec((8, 16, 24, 32, 40, 48, 56)))
    return found
