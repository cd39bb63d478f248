"""Compile and cache the numba kernels once, so that a fresh install codes without a wait."""

from __future__ import annotations

import numpy as np

from codec.speech.codec import SpeechCodec


def main() -> None:
    """Code and decode a second of noise; the compiled kernels stay in numba's cache."""
    codec = SpeechCodec.load(device="cpu")
    noise = np.random.default_rng(0).normal(0.0, 0.05, 20_000).astype(np.float32)
    codec.decode(codec.encode(noise, 16_000, iterations=1))


if __name__ == "__main__":
    main()
