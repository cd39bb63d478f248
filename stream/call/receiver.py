"""The receiving half of a call: remote streams are decoded, mixed and played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from codec.errors import SottoError
from codec.signal.samples import FloatArray
from stream.audio.frontend import FrontEnd
from stream.audio.limiter import Limiter
from stream.audio.sinks import Sink
from stream.audio.slots import DeviceSlot
from stream.call.capacity import Capacity
from stream.call.meters import LoadMeter, Throughput
from stream.call.remote_stream import RemoteStream
from stream.call.snapshot import Latency, Party

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.link.endpoint import Endpoint
    from stream.link.events import AudioArrived, Joined
    from stream.log import Journal


_IDLE_SECONDS = 0.01  # between looks for what is due; whatever arrives is seen at once
_MIX_SECONDS = 0.005
_LEAST_BLOCK = 64
_LOOK_SECONDS = 0.5  # between looks whether there is time for all parties


class Receiver:
    """Decodes what arrives from every party and plays the mix, in two threads.

    The decoder thread does the heavy work; the mixer thread only moves samples, so that a frame
    which takes long to decode never starves the loudspeaker. played(samples, time_of_first): all
    that is played; key_missed(party): a party has to be asked for a key packet; stream(codec,
    party): makes a party's stream.

    Attribute front_end: is told what a loudspeaker plays, so that its echo can be cancelled.
    """

    def __init__(
        self,
        codec: SpeechCodec,
        slot: DeviceSlot[Sink],
        journal: Journal,
        played: Callable[[FloatArray, float], None] | None = None,
        key_missed: Callable[[int], None] = lambda party: None,
        stream: Callable[[SpeechCodec, int], RemoteStream] = RemoteStream,
    ) -> None:
        self._codec = codec
        self._slot = slot
        self._journal = journal
        self._played = played
        self._key_missed = key_missed
        self._make_stream = stream
        self._streams: dict[int, RemoteStream] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._something = threading.Event()  # has arrived
        self._limiter = Limiter()  # of the mix
        self.front_end: FrontEnd | None = None
        self._load = LoadMeter()
        self._capacity = Capacity()
        self._next_look = 0.0
        self._wire, self._ip = Throughput(), Throughput()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name=name, daemon=True)
            for name, work in (("sotto-decoder", self._decode), ("sotto-mixer", self._mix))
        ]
        self.failure: str | None = None

    def start(self) -> None:
        """Open the sink and begin. Raises SottoError when the sink cannot be opened."""
        self._slot.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads and the sink; returns when they are down."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5.0)
        self._slot.stop()

    def join(self, party: Joined) -> None:
        """A party can now be heard; one that comes back keeps its stream and its counters."""
        with self._lock:
            stream = self._streams.get(party.party)
            if stream is None:
                stream = self._make_stream(self._codec, party.party)
                stream.key_missed = partial(self._key_missed, party.party)
                self._streams[party.party] = stream
            else:
                stream.returned()
            stream.name, stream.fingerprint = party.shown, party.fingerprint
            stream.preset = party.preset
            stream.code, stream.verified = party.code, party.verified

    def leave(self, party: int) -> None:
        """Forget a party."""
        with self._lock:
            self._streams.pop(party, None)
            self._capacity.forget(party)

    def set_preset(self, party: int, preset: str) -> None:
        """A party says that its speech is coded with another preset."""
        stream = self._streams.get(party)
        if stream is not None:
            stream.preset = preset

    def arrive(self, audio: AudioArrived) -> None:
        """Take a packet of a party; unknown parties are ignored."""
        stream = self._streams.get(audio.party)
        if stream is not None and not stream.skipped:
            stream.capture = audio.capture
            stream.arrive(audio.packet, audio.step, audio.captured, audio.arrived)
            self._something.set()

    @property
    def overloaded(self) -> bool:
        """Whether the machine has no time to decode all that it is decoding."""
        return self._capacity.overloaded

    def drained(self, party: int) -> bool:
        """Whether all that came from a party has been played."""
        stream = self._streams.get(party)
        return stream is None or not stream.pending()

    def snapshot(
        self, now: float, wire_bytes: int, ip_bytes: int, endpoint: Endpoint
    ) -> tuple[Party, ...]:
        """What is heard of each party, in the order they came.

        wire_bytes, ip_bytes: all that came over the connection, and in IP packets, so far; with
        several parties each is shown the whole.
        """
        wire, ip = self._wire.update(now, wire_bytes), self._ip.update(now, ip_bytes)
        parties = []
        for stream in sorted(self._present(), key=lambda stream: stream.joined):
            party = stream.snapshot()
            party.arrivals.underruns += self._slot.gaps
            party.arrivals.rejected += endpoint.rejected(stream.party)
            latency = split(party.latency, endpoint.one_way(stream.party), stream.capture)
            rate = replace(party.rate, wire=wire, ip=ip)
            parties.append(replace(party, rate=rate, latency=latency))
        return tuple(parties)

    def _present(self) -> list[RemoteStream]:
        with self._lock:
            return list(self._streams.values())

    def _repeat(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
        except SottoError as error:
            self.failure = str(error)
        except Exception as error:  # the call's owner must learn of it, whatever it is
            self.failure = f"playback failed: {type(error).__name__}: {error}"

    def _decode(self) -> None:
        begun = time.monotonic()
        # Those that are skipped as well: what they said last is to end without a click.
        worked = [stream.work() for stream in self._present()]
        now = time.monotonic()
        if any(worked):
            self._load.push(begun, now)
        else:
            self._something.wait(_IDLE_SECONDS)
            self._something.clear()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._balance(now)
            for stream in self._present():
                if (text := stream.look(now)) is not None:
                    self._journal.info(f"{stream.name or stream.party}: {text}")

    def _balance(self, now: float) -> None:
        """Listen to as many parties as there is time to decode."""
        with self._lock:
            streams = list(self._streams.values())
            drop, take = self._capacity.consider(now, self._load.share(now), streams)
        heard = sum(not stream.skipped for stream in streams)
        for stream in drop:
            stream.skipped = True
            stream.pause()
            self._journal.warning(
                f"this machine cannot decode {heard} voices at once:"
                f" {stream.name or stream.party} is not heard"
            )
        for stream in take:
            stream.skipped = False
            self._journal.info(f"there is time again to decode {stream.name or stream.party}")

    def _mix(self) -> None:
        self._slot.serve()
        sink = self._slot.device
        room = sink.room()
        if room < _LEAST_BLOCK:
            self._stop.wait(_MIX_SECONDS)
            return
        play_time = sink.play_time()
        mix = np.zeros(room, np.float32)
        for stream in self._present():
            mix += stream.pull(room, play_time)
        mix = self._limiter.process(mix)
        sink.write(mix)
        if self.front_end is not None and sink.is_card:
            self.front_end.render(mix)
        if self._played is not None:
            self._played(mix, play_time)


def split(latency: Latency, one_way: float | None, capture: float | None) -> Latency:
    """Tell the sender's shares of the time from the air to our socket from the network's.

    latency.network: all of it; one_way, capture: what is known of its parts.
    """
    if latency.network is None or one_way is None:
        return latency
    both = max(latency.network, 0.0)  # clocks are compared to some milliseconds only
    network = min(max(one_way, 0.0), both)
    before = both - network
    if capture is not None:
        capture = min(capture, before)
        before -= capture
    return replace(latency, network=network, capture=capture, search=before)
