"""The other half of a call: one voice per remote party, decoded, mixed and played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from codec.errors import SottoError
from codec.signal.samples import FloatArray
from stream.audio.requests import Requests
from stream.audio.sinks import NullSink, Sink
from stream.audio.slots import Jack
from stream.call.capacity import Capacity, Demand
from stream.call.meters import LoadMeter, Throughput
from stream.call.snapshot import Latency, Listener

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.call.remote_stream import Voice
    from stream.link.events import AudioArrived
    from stream.log import Journal


_IDLE_SECONDS = 0.01  # between looks for what is due; whatever arrives is seen at once
_MIX_SECONDS = 0.006
_LEAST_BLOCK = 64
_LIMIT = 0.98  # loudest sample of a mix
_LOOK_SECONDS = 0.5  # between looks whether there is time for all voices


class Connection(Protocol):
    """What the transport knows of each party."""

    def one_way(self, party: int) -> float | None: ...
    def rejected(self, party: int) -> int: ...


class Party:
    """A remote party as we hear it."""

    def __init__(self, number: int, name: str, fingerprint: str, voice: Voice) -> None:
        self.number = number
        self.name = name
        self.fingerprint = fingerprint
        self.preset = ""  # what its voice is coded with, as it says
        self.voice = voice
        self.joined = time.monotonic()
        self.capture: float | None = None  # seconds from the air to its encoder, as it says
        self.shed = False  # not listened to, because the machine does not carry it


class Hearing:
    """Decodes what arrives from every party and plays the mix, in two threads.

    The decoder thread does the heavy work; the mixer thread only moves samples, so that a frame
    which takes long to decode never starves the loudspeaker. heard(samples,
    time_of_first): all that is played; voice: makes a party's voice, None for a `Voice` of `codec`.
    """

    def __init__(
        self,
        codec: SpeechCodec,
        sink: Sink,
        journal: Journal,
        heard: Callable[[FloatArray, float], None] | None = None,
        voice: Callable[[], Voice] | None = None,
    ) -> None:
        self._codec = codec
        self._make_voice = voice
        self._journal = journal
        self._heard = heard
        self._parties: dict[int, Party] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._something = threading.Event()  # has arrived
        self._requests = Requests(journal)
        self.jack: Jack[Sink] = Jack(
            sink, NullSink, lambda sink: sink.underruns, self._requests, journal
        )
        self._load = LoadMeter()
        self._capacity = Capacity()
        self._next_look = 0.0
        self._wire = Throughput()
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for name, work in (("sotto-decoder", self._decode), ("sotto-mixer", self._mix))
        ]
        self.failure: str | None = None

    def start(self) -> None:
        """Open the sink and begin. Raises SottoError when the sink cannot be opened."""
        self.jack.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads and the sink; returns when they are down."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5.0)
        self.jack.stop()

    def join(self, number: int, name: str, fingerprint: str, preset: str = "") -> None:
        """A party can now be heard; one that comes back keeps its voice and its counters."""
        with self._lock:
            party = self._parties.get(number)
            if party is None:
                party = self._parties[number] = Party(number, name, fingerprint, self._voice())
            party.name, party.fingerprint, party.preset = name, fingerprint, preset

    def _voice(self) -> Voice:
        from stream.call.remote_stream import Voice

        return Voice(self._codec) if self._make_voice is None else self._make_voice()

    def leave(self, number: int) -> None:
        """Forget a party."""
        with self._lock:
            self._parties.pop(number, None)
            self._capacity.forget(number)

    def set_preset(self, number: int, preset: str) -> None:
        """A party says that its voice is coded with another preset."""
        party = self._parties.get(number)
        if party is not None:
            party.preset = preset

    def arrive(self, audio: AudioArrived) -> None:
        """Take a packet of a party; unknown parties are ignored."""
        party = self._parties.get(audio.party)
        if party is not None and not party.shed:
            party.capture = audio.capture
            party.voice.arrive(audio.packet, audio.captured, audio.arrived)
            self._something.set()

    @property
    def overloaded(self) -> bool:
        """Whether the machine has no time to decode all that it is decoding."""
        return self._capacity.overloaded

    def load(self, now: float) -> float:
        """Share of the decoder thread's time that it is busy."""
        return self._load.share(now)

    def drained(self, number: int) -> bool:
        """Whether all that came from a party has been played."""
        party = self._parties.get(number)
        return party is None or not party.voice.pending()

    def snapshot(self, now: float, wire_bytes: int, connection: Connection) -> tuple[Listener, ...]:
        """What is heard of each party, in the order they came.

        wire_bytes: all that came over the connection so far; with several parties each is shown
        the whole.
        """
        wire = self._wire.update(now, wire_bytes)
        parties = sorted(self._present(), key=lambda party: party.joined)
        return tuple(self._listener(party, wire, connection) for party in parties)

    def _listener(self, party: Party, wire: float, connection: Connection) -> Listener:
        voice = party.voice
        arrivals = voice.arrivals()
        underruns = arrivals.underruns + self.jack.gaps
        rejected = arrivals.rejected + connection.rejected(party.number)
        latency = split(voice.latency(), connection.one_way(party.number), party.capture)
        return Listener(
            party=party.number,
            name=party.name,
            fingerprint=party.fingerprint,
            preset=party.preset,
            heard=not party.shed,
            level_db=voice.level_db(),
            active=voice.active,
            spectrogram=voice.spectrogram(),
            rate=replace(voice.rate(), wire=wire),
            arrivals=replace(arrivals, underruns=underruns, rejected=rejected),
            latency=latency,
            real_time=voice.real_time(),
        )

    def _present(self) -> list[Party]:
        with self._lock:
            return list(self._parties.values())

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
        except SottoError as error:
            self.failure = str(error)
        except Exception as error:  # the call's owner must learn of it, whatever it is
            self.failure = f"playback failed: {type(error).__name__}: {error}"

    def _decode(self) -> None:
        begun = time.monotonic()
        parties = self._present()
        # Those not listened to as well: what they said last is to end without a click.
        worked = [party.voice.work() for party in parties]
        if any(worked):
            self._load.push(begun, time.monotonic())
        else:
            self._something.wait(_IDLE_SECONDS)
            self._something.clear()
        if begun >= self._next_look:
            self._next_look = begun + _LOOK_SECONDS
            self._balance(begun)

    def _balance(self, now: float) -> None:
        """Listen to as many parties as there is time to decode."""
        with self._lock:
            parties = dict(self._parties)
            demands: tuple[list[Demand], list[Demand]] = ([], [])
            for party in parties.values():
                demand = Demand(party.number, party.joined, party.voice.real_time())
                demands[party.shed].append(demand)
            change = self._capacity.consider(now, self.load(now), *demands)
        for number in change.drop:
            party = parties[number]
            party.shed = True
            party.voice.leave_off()
            self._journal.warning(
                f"this machine cannot decode {len(demands[False])} voices at once:"
                f" {party.name or number} is not heard"
            )
        for number in change.take:
            party = parties[number]
            party.shed = False
            self._journal.info(f"there is time again: {party.name or number} is heard")

    def _mix(self) -> None:
        self._requests.serve()
        sink = self.jack.plug
        room = sink.room()
        if room < _LEAST_BLOCK:
            self._stop.wait(_MIX_SECONDS)
            return
        play_time = sink.play_time()
        mix = np.zeros(room, np.float32)
        for party in self._present():
            mix += party.voice.pull(room, play_time)
        np.clip(mix, -_LIMIT, _LIMIT, out=mix)
        sink.write(mix)
        self.jack.report()
        if self._heard is not None:
            self._heard(mix, play_time)


def split(latency: Latency, one_way: float | None, capture: float | None) -> Latency:
    """Tell the sender's shares of the time from the air to our door from the network's.

    latency.network: all of it; one_way, capture: what is known of its parts.
    """
    if latency.network is None or one_way is None:
        return latency
    network = min(max(one_way, 0.0), latency.network)
    before = latency.network - network
    if capture is not None:
        capture = min(capture, before)
        before -= capture
    return replace(latency, network=network, capture=capture, search=before)
