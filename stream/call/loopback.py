"""A call with oneself: what the source says goes through the codec and comes out of the sink.

The halves of a call are joined without a connection, so that everything but the network is as it
would be in one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from codec.errors import SottoError
from stream.audio.frontend import FrontEnd, FrontEndMissing, Processing
from stream.audio.sinks import Loudspeaker, NullSink, Sink
from stream.audio.slots import DeviceSlot
from stream.audio.sources import Microphone, Silence, Source
from stream.call.receiver import Receiver, split
from stream.call.remote_stream import RemoteStream
from stream.call.sender import Sender
from stream.call.switching import short_turns
from stream.link.events import AudioArrived, Joined

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.log import Journal

_PARTY = 1
_NUMBERS = 1 << 16  # steps are counted modulo this on the wire
_LOOK_SECONDS = 0.1
DRAIN_SECONDS = 2.0  # beyond a packet, in which what was said last is to be heard


@dataclass(frozen=True)
class Heard:
    """What came of it.

    packets: sent, those of pauses included; spoken: those with speech; rate: bit/s of packets with
    their headers, on average; total: seconds from mouth to ear, median, None if nothing was heard;
    delay: length of packets, milliseconds; gaps: of both devices; late: packets that were not there
    in time, and lost ones.
    """

    packets: int
    spoken: int
    rate: float
    delay: int
    total: float | None
    gaps: int
    late: int


def loop_back(
    codec: SpeechCodec,
    source: Source,
    sink: Sink,
    journal: Journal,
    stop: threading.Event,
    *,
    seconds: float,
    delay: int,
    iterations: int | None = None,
    tail: float | None = None,
    processing: Processing | None = None,
    drain: float = DRAIN_SECONDS,
    progress: Callable[[float, float], None] = lambda level_db, left: None,
) -> Heard:
    """Say what `source` says to oneself for `seconds`, or until it ends or `stop` is set.

    delay: length of packets, milliseconds; iterations, tail: of the search, as in a call;
    processing: of a microphone's sound (None: all there is); drain: seconds, beyond the length of a
    packet, that what was said last has to be heard; progress(level in dB, seconds left).
    Raises SottoError if a device cannot be opened or breaks, or the codec fails.
    """
    streams: list[RemoteStream] = []

    def stream(codec: SpeechCodec, party: int) -> RemoteStream:
        streams.append(RemoteStream(codec, party))
        return streams[-1]

    def send(packet: bytes, step: int, captured: float, capture: float | None) -> bool:
        now = time.monotonic()
        receiver.arrive(AudioArrived(_PARTY, step % _NUMBERS, packet, captured, now, capture))
        return True

    inward = DeviceSlot("input", source, Microphone, Silence, journal)
    outward = DeviceSlot("output", sink, Loudspeaker, NullSink, journal)
    receiver = Receiver(
        codec, outward, journal, None, lambda party: sender.want_key(lost=True), stream
    )
    sender = Sender(
        codec,
        inward,
        send,
        journal,
        iterations=iterations,
        tail=tail,
        delay=delay,
    )
    if source.is_card:
        with contextlib.suppress(FrontEndMissing):
            front_end = FrontEnd(processing)
            sender.front_end = receiver.front_end = front_end
    receiver.join(Joined(_PARTY, "", codec.preset, ""))
    totals: list[float] = []
    late: int | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(short_turns())
        stack.callback(receiver.stop)
        stack.callback(sender.stop)
        receiver.start()
        sender.call(True)
        sender.start()
        end = time.monotonic() + seconds
        drained_by = end + delay / 1000.0 + drain
        while not stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            for failure in (sender.failure, receiver.failure, source.error, sink.error):
                if failure is not None:
                    raise SottoError(failure)
            talker = sender.snapshot(now, 0, 0)
            latency = split(streams[-1].snapshot().latency, 0.0, talker.capture)
            if latency.total is not None:
                totals.append(latency.total)
            progress(talker.level_db, max(end - now, 0.0))
            if sender.source_ended.is_set() and now < end:
                end, drained_by = now, now + delay / 1000.0 + drain
            if now >= end:
                if late is None:  # what follows is missed because nothing is sent
                    sender.call(False)
                    late = _late(streams[-1])
                if now >= drained_by or receiver.drained(_PARTY):
                    break
    talker = sender.snapshot(time.monotonic(), 0, 0)
    return Heard(
        packets=talker.frames,
        spoken=talker.frames - talker.silent_frames,
        rate=talker.rate.average,
        delay=delay,
        total=median(totals) if totals else None,
        gaps=inward.gaps + outward.gaps,
        late=_late(streams[-1]) if late is None else late,
    )


def _late(stream: RemoteStream) -> int:
    arrivals = stream.snapshot().arrivals
    return arrivals.lost + arrivals.late + arrivals.partly_late
