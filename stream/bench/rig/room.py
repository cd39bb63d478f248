"""A room between a loudspeaker and a microphone: what is played comes back as an echo."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.bench.rig import prefer

ECHO_SECONDS, ECHO_DB = 0.06, -10.0
_DECAY_DB = 60.0  # from the beginning of the response to its end
_BLOCK = SAMPLE_RATE // 100


def response(seed: int) -> FloatArray:
    """Decaying noise: an impulse response [n] that lets ECHO_DB of white noise through."""
    count = round(ECHO_SECONDS * SAMPLE_RATE)
    decay = 10.0 ** (-_DECAY_DB / 20.0 * np.arange(count) / count)
    values = np.random.default_rng(seed).normal(size=count) * decay
    values *= 10.0 ** (ECHO_DB / 20.0) / np.sqrt(np.sum(values**2))
    return values.astype(np.float32)


class Reverberation:
    """Convolves sound with a response, block after block."""

    def __init__(self, response: FloatArray) -> None:
        self._response = response
        self._tail = np.zeros(len(response) - 1, np.float32)

    def process(self, samples: FloatArray) -> FloatArray:
        """The echo [n] of samples [n]."""
        if not len(samples):
            return samples
        whole = np.convolve(samples, self._response)
        whole[: len(self._tail)] += self._tail
        self._tail = whole[len(samples) :].astype(np.float32)
        return whole[: len(samples)].astype(np.float32)


class Room:
    """Hands what one process records to another that plays it, as its echo, until stopped.

    start(argv, **files) starts a process. recorder, player: command lines, of raw 32-bit samples,
    16 kHz, mono. What they take to pass the sound on is part of the room.
    """

    def __init__(
        self,
        start: Callable[..., subprocess.Popen[bytes]],
        recorder: list[str],
        player: list[str],
        seed: int,
    ) -> None:
        self._reverberation = Reverberation(response(seed))
        self._recorder = start(recorder, stdout=subprocess.PIPE)
        self._player = start(player, stdin=subprocess.PIPE)
        self._thread = threading.Thread(target=self._run, name="room", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it fall silent; the processes are ended by whoever has started them."""
        self._recorder.terminate()
        self._thread.join(5.0)

    def _run(self) -> None:
        prefer(threading.get_native_id())
        source, target = self._recorder.stdout, self._player.stdin
        assert source is not None and target is not None
        with contextlib.suppress(OSError, ValueError):
            while data := source.read(4 * _BLOCK):
                samples = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
                target.write(self._reverberation.process(samples).tobytes())
                target.flush()
