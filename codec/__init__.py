"""The codec: analysis, phase, latent search, entropy coding, packets and containers.

`codec.SpeechCodec` and `codec.ImageCodec` are the ways in; they are imported on first use, so that
tools which only look at containers do not load the networks' runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.image.base import ImageCodec
    from codec.speech.codec import SpeechCodec

__all__ = ["ImageCodec", "SpeechCodec"]


def __getattr__(name: str) -> Any:
    if name == "SpeechCodec":
        from codec.speech.codec import SpeechCodec

        return SpeechCodec
    if name == "ImageCodec":
        from codec.image.base import ImageCodec

        return ImageCodec
    raise AttributeError(f"module 'codec' has no attribute {name!r}")
