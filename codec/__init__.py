"""The codec: analysis, phase, latent search, entropy coding, packets and containers.

`codec.SpeechCodec` and `codec.ImageCodec` are imported on first use, so that programs which only
look at containers do not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.image.base import ImageCodec
    from codec.speech.codec import SpeechCodec

__all__ = ["ImageCodec", "SpeechCodec"]


_MODULES = {"ImageCodec": "codec.image.base", "SpeechCodec": "codec.speech.codec"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'codec' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
