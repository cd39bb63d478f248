"""Audio to container and back, frame by frame in constant memory, around a `SpeechCodec`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from codec.container import ByteSink, ContainerReader, ContainerWriter, Lost, StreamHeader
from codec.errors import BadInput, BadStream, SottoError
from codec.packet import pack
from codec.signal.samples import SAMPLE_RATE, FloatArray

FRAME_SAMPLES = 16_384
# The exact length is only known at the end of a pipe; until then this much is held back, since
# the last frame is padded.
_HELD_BACK = 2 * FRAME_SAMPLES

OnSeconds = Callable[[float], None]


EntropyName = Literal["range", "huffman"]


class Encoder(Protocol):
    """Streaming encoder: 16 kHz samples in, packets of whole frames out."""

    def push(self, samples: FloatArray, /) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class Decoder(Protocol):
    """Streaming decoder: packets (None for a lost one) in, 16 kHz samples out."""

    def push(self, packet: bytes | None, /) -> FloatArray: ...

    def finish(self) -> FloatArray: ...


class Codec(Protocol):
    """What the commands need of a `codec.speech.codec.SpeechCodec`."""

    preset: str
    model_id: str

    def header(self) -> StreamHeader: ...

    def encoder(
        self,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        group: int = 1,
    ) -> Encoder: ...

    def decoder(self) -> Decoder: ...


@dataclass(frozen=True)
class EncodeOptions:
    """How hard to search, and how to write down what was found."""

    iterations: int | None = None
    budget: float | None = None
    search: bool = True
    entropy: EntropyName | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> EncodeOptions:
        """From the options that `tui.terminal.options.add_encoding` adds."""
        return cls(args.iterations, args.budget, not args.no_search, args.entropy)


@dataclass(frozen=True)
class Encoded:
    """samples: at 16 kHz; codec_seconds: time spent in the codec, files and resampling excluded."""

    samples: int
    frames: int
    codec_seconds: float


@dataclass(frozen=True)
class Decoded:
    """concealed: frames that were missing, damaged or dropped on purpose (`simulated`)."""

    samples: int
    frames: int
    concealed: int
    simulated: int
    codec_seconds: float


def load_codec(preset: str, device: str) -> Codec:
    """The speech codec of a preset. Raises SottoError if it cannot be loaded."""
    # Only here: this imports torch.
    try:
        from codec.speech.codec import SpeechCodec
    except ModuleNotFoundError as error:
        raise SottoError(f"the codec cannot be loaded: {error}") from error
    codec: Codec = SpeechCodec.load(preset, device)
    return codec


def encode_stream(
    codec: Codec,
    blocks: Iterable[FloatArray],
    sink: ByteSink,
    options: EncodeOptions,
    on_seconds: OnSeconds,
) -> Encoded:
    """Encode 16 kHz mono blocks [n] into a whole container written to `sink`.

    The same packets as `SpeechCodec.encode` gives for all of the samples at once.
    """
    from codec.speech.codec import GROUP

    clock = _Clock()
    with clock:
        encoder = codec.encoder(
            options.iterations, options.budget, options.search, options.entropy, group=GROUP
        )
    writer = ContainerWriter(sink, codec.header())
    samples = 0
    for block in blocks:
        samples += len(block)
        with clock:
            packets = encoder.push(block)
        for packet in packets:
            writer.write(packet)
        on_seconds(len(block) / SAMPLE_RATE)
    with clock:
        packets = encoder.finish()
    for packet in packets:
        writer.write(packet)
    writer.finish(samples)
    return Encoded(samples, writer.frames, clock.seconds)


def decode_stream(
    codec: Codec,
    reader: ContainerReader,
    write: Callable[[FloatArray], None],
    on_seconds: OnSeconds,
    lost: Iterator[bool] | None = None,
    total_samples: int | None = None,
) -> Decoded:
    """Decode a container into blocks [n] of 16 kHz mono, trimmed to the exact length.

    lost: for every packet read, whether to drop it. total_samples: the length, if known already.
    Raises BadStream if the container holds no frame, WrongModel if it is another model's.
    """
    clock = _Clock()
    with clock:
        decoder = codec.decoder()
    tail = _Tail(write, total_samples)
    frames = concealed = simulated = 0
    for packet in _packets(reader):
        frames += 1
        dropped = packet is not None and lost is not None and next(lost)
        simulated += dropped
        with clock:
            samples = None if packet is None or dropped else _decoded(decoder, packet)
            if samples is None:
                concealed += 1
                samples = decoder.push(None)
        tail.push(samples)
        on_seconds(FRAME_SAMPLES / SAMPLE_RATE)
    if not frames:
        raise BadStream("the stream holds no frames")
    with clock:
        rest = decoder.finish()
    tail.push(rest)
    written = tail.finish(reader.total_samples)
    return Decoded(written, frames, concealed, simulated, clock.seconds)


def open_speech(reader: ContainerReader, name: str) -> StreamHeader:
    """The header of a container, which must hold speech. Raises BadInput if not."""
    header = reader.header
    if header.kind != "speech":
        raise BadInput(f"{name} holds an image, not speech")
    if (header.sample_rate, header.frame_samples) != (SAMPLE_RATE, FRAME_SAMPLES):
        raise BadInput(
            f"{name} holds frames of {header.frame_samples} samples at {header.sample_rate} Hz; "
            f"only {FRAME_SAMPLES} at {SAMPLE_RATE} Hz can be decoded"
        )
    return header


def _decoded(decoder: Decoder, packet: bytes) -> FloatArray | None:
    """The packet's samples; None if it is damaged in a way that its checksum let pass."""
    try:
        return decoder.push(packet)
    except BadStream:
        return None


def _packets(reader: ContainerReader) -> Iterator[bytes | None]:
    """Every frame's packet in order, None for a lost one."""
    for item in reader:
        if isinstance(item, Lost):
            for _ in range(item.count):
                yield None
        else:
            yield pack(item)


class _Tail:
    """Passes samples on, holding back what a length known only at the end may still cut off."""

    def __init__(self, write: Callable[[FloatArray], None], total: int | None) -> None:
        self._write, self._total = write, total
        self._held = np.zeros(0, np.float32)
        self._written = 0

    def push(self, samples: FloatArray) -> None:
        self._held = np.concatenate([self._held, samples])
        ready = len(self._held) if self._total is not None else len(self._held) - _HELD_BACK
        if ready > 0:
            self._pass(ready)

    def finish(self, total: int | None) -> int:
        """The rest, up to `total` samples in all; returns how many were written."""
        if self._total is None:
            self._total = total
        self._pass(len(self._held))
        return self._written

    def _pass(self, count: int) -> None:
        room = count if self._total is None else max(self._total - self._written, 0)
        ready, self._held = self._held[: min(count, room)], self._held[count:]
        if len(ready):
            self._write(ready)
            self._written += len(ready)


class _Clock:
    """Wall-clock seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started
