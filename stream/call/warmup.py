"""Doing once, before a call, what takes longer the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.signal.analysis import FRAME_SAMPLES
from codec.signal.samples import SAMPLE_RATE

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec

_STEPS = 2
_TASKS = 3  # a frame, and a stand-in for the next


def warm_up(codec: SpeechCodec) -> None:
    """Encode and decode a second of noise, so that compiled code and buffers are in place."""
    from codec.speech.live import LiveEncoder
    from stream.call.remote_stream import Voice

    noise = np.random.default_rng(0).normal(0.0, 0.05, FRAME_SAMPLES + SAMPLE_RATE // 8)
    encoder = LiveEncoder(codec, iterations=_STEPS)
    voice = Voice(codec)
    for block in np.array_split(noise.astype(np.float32), 16):
        for frame in encoder.push(block):
            voice.arrive(frame.packet, None, 0.0)
        encoder.refine()
    for _ in range(_TASKS):
        voice.work()
        voice.pull(SAMPLE_RATE // 100, 0.0)
