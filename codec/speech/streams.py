"""Speech into a container and back, block by block in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from codec.container import ContainerReader, ContainerWriter, Lost, StreamHeader
from codec.errors import BadStream
from codec.signal.analysis import FRAME_SAMPLES
from codec.signal.samples import FloatArray

if TYPE_CHECKING:
    from codec.speech.decoder import SpeechDecoder
    from codec.speech.encoder import EncodedPacket, SpeechEncoder

GROUP = 8  # frames searched side by side in files
_HELD_BACK = 2 * FRAME_SAMPLES  # of a stream whose end is not known yet


def encode_stream(
    encoder: SpeechEncoder, header: StreamHeader, blocks: Iterable[FloatArray], sink: BinaryIO
) -> int:
    """Write 16 kHz mono blocks [n], full scale 1, to `sink` as a whole container; its bytes."""
    writer = ContainerWriter(sink, header)
    samples = 0
    for block in blocks:
        samples += len(block)
        _write(writer, encoder.push(block))
    _write(writer, encoder.finish())
    writer.finish(samples)
    return writer.size


def _write(writer: ContainerWriter, packets: list[EncodedPacket]) -> None:
    for each in packets:
        if each.packet is not None:  # in calls alone: the pause goes on
            writer.write(each.packet)


def decode_stream(
    decoder: SpeechDecoder,
    reader: ContainerReader,
    losses: Iterator[bool] | None = None,
    total_samples: int | None = None,
) -> Iterator[FloatArray]:
    """Blocks [n] of 16 kHz mono, trimmed to the length of the stream; lost frames are concealed.

    losses: for every packet read, whether to drop it. total_samples: the length, if known already;
    else it is read at the end of the stream, and until then two frames are held back.
    """
    held = np.zeros(0, np.float32)
    done = 0
    for block in _decoded(decoder, reader, losses):
        if total_samples is None:
            held = np.concatenate((held, block))
            ready, held = held[:-_HELD_BACK], held[-_HELD_BACK:]
        else:
            ready = block[: total_samples - done]
        done += len(ready)
        yield ready
    end = reader.total_samples
    yield held if end is None else held[: max(end - done, 0)]


def _decoded(
    decoder: SpeechDecoder, reader: ContainerReader, losses: Iterator[bool] | None
) -> Iterator[FloatArray]:
    for item in reader:
        if isinstance(item, Lost):
            yield from (decoder.push(None) for _ in range(item.count))
        elif losses is not None and next(losses):
            yield decoder.push(None)
        else:
            try:
                yield decoder.push(item)
            except BadStream:  # damage that the packet's checksum did not notice
                yield decoder.push(None)
    yield decoder.finish()
