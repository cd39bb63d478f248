"""The codec: analysis, phase, latent search, entropy coding, packets and containers.

`codec.SpeechCodec` is the way in; it is imported on first use, so that tools which only look at
containers do not load the networks' runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.speech import SpeechCodec

__all__ = ["SpeechCodec"]


def __getattr__(name: str) -> Any:
    if name == "SpeechCodec":
        from codec.speech import SpeechCodec

        return SpeechCodec
    raise AttributeError(f"module 'codec' has no attribute {name!r}")
