"""A stand-in for `codec.speech.codec`: the same streaming interface, no network, no torch.

A frame is stored as 1 000 evenly spaced 8-bit samples, enough to preserve low tones. Run as a
program, it is the `sotto` command line on top of this codec.
"""

from __future__ import annotations

import os
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.container import StreamHeader
from codec.errors import BadStream, SottoError
from codec.packet import Packet, short_id
from codec.signal.samples import FloatArray

FRAME = 16_384
KEPT = 1_000
MODEL_ID = "0123456789abcdef"
# Names the file that a slow codec creates once it has coded a frame.
STARTED = "FAKE_SPEECH_STARTED"
STUCK = "FAKE_SPEECH_STUCK"  # if there, decoders never get beyond their first frame
_POSITIONS = np.linspace(0, FRAME - 1, KEPT)


@dataclass(frozen=True)
class EncodedPacket:
    """What of `codec.speech.encoder.EncodedPacket` files need."""

    packet: Packet


class SpeechCodec:
    """Loads presets '2k' and 'slow' (which sleeps for every frame)."""

    def __init__(self, preset: str) -> None:
        self.preset, self.model_id = preset, MODEL_ID
        self.pause = 0.05 if preset == "slow" else 0.0

    @classmethod
    def load(
        cls,
        preset: str = "2k",
        device: str = "auto",
        model: Path | None = None,
        decoding: bool = False,
    ) -> SpeechCodec:
        if preset not in ("2k", "slow"):
            raise SottoError(f"there is no preset {preset!r}")
        return cls(preset)

    def header(self, steps: int = 16) -> StreamHeader:
        return StreamHeader(preset=self.preset, model_id=self.model_id)

    def encoder(
        self,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: str = "range",
        group: int = 1,
        method: str | None = None,
        steps: int = 16,
        most_bytes: int | None = None,
    ) -> _Encoder:
        return _Encoder(self.pause)

    def decoder(self, steps: int = 16) -> _Decoder:
        return _Stuck(self.pause) if STUCK in os.environ else _Decoder(self.pause)


def _work(pause: float) -> None:
    time.sleep(pause)
    if pause and STARTED in os.environ:
        Path(os.environ[STARTED]).touch()


class _Encoder:
    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._held = np.zeros(0, np.float32)
        self._sequence = 0

    def push(self, samples: FloatArray) -> list[EncodedPacket]:
        self._held = np.concatenate([self._held, samples])
        packets = []
        while len(self._held) >= FRAME:
            packets.append(self._frame(self._held[:FRAME]))
            self._held = self._held[FRAME:]
        return packets

    def finish(self) -> list[EncodedPacket]:
        if not len(self._held):
            return []
        return [self._frame(np.pad(self._held, (0, FRAME - len(self._held))))]

    def _frame(self, samples: FloatArray) -> EncodedPacket:
        _work(self._pause)
        kept = np.interp(_POSITIONS, np.arange(FRAME), samples)
        payload = np.rint(kept * 127 + 128).astype(np.uint8).tobytes()
        sequence, self._sequence = self._sequence, (self._sequence + 1) % 65_536
        return EncodedPacket(Packet(sequence, 0, payload, short_id(MODEL_ID)))


class _Decoder:
    def __init__(self, pause: float) -> None:
        self._pause = pause

    def push(self, packet: Packet | None) -> FloatArray:
        _work(self._pause)
        if packet is None:
            return np.zeros(FRAME, np.float32)
        if len(packet.payload) != KEPT:
            raise BadStream("not a whole frame")
        kept = (np.frombuffer(packet.payload, np.uint8).astype(np.float32) - 128) / 127
        return np.interp(np.arange(FRAME), _POSITIONS, kept).astype(np.float32)

    def finish(self) -> FloatArray:
        return np.zeros(0, np.float32)


class _Stuck(_Decoder):
    _pushed = 0

    def push(self, packet: Packet | None) -> FloatArray:
        self._pushed += 1
        if self._pushed > 1:
            time.sleep(600.0)
        return super().push(packet)


def stand_in() -> types.ModuleType:
    """What to import as `codec.speech.codec`."""
    module = types.ModuleType("codec.speech.codec")
    module.__dict__.update(SpeechCodec=SpeechCodec)
    return module


if __name__ in ("__main__", "__mp_main__"):  # the latter in workers
    sys.modules["codec.speech.codec"] = stand_in()

if __name__ == "__main__":
    from tui.cli import main

    sys.exit(main())
