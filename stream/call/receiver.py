"""The receiving half of a call: remote streams are decoded, mixed and played."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from codec.errors import SottoError
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import FrontEnd
from stream.audio.limiter import Limiter
from stream.audio.sinks import Sink
from stream.audio.slots import DeviceSlot
from stream.call.capacity import Capacity
from stream.call.late import Decoded, LateVoice
from stream.call.meters import LoadMeter, Throughput
from stream.call.remote_stream import RemoteStream
from stream.call.snapshot import Latency, LateOver, Party
from stream.call.volume import Volume

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.link.endpoint import Endpoint
    from stream.link.events import AudioArrived, Joined
    from stream.link.overs import Over
    from stream.log import Journal


# Between looks for what is due while packets wait for their turn, and while none do. What arrives
# is seen at once, and so is what runs low.
_IDLE_SECONDS, _REST_SECONDS = 0.01, 0.1
_MIX_SECONDS = 0.005
_LEAST_BLOCK = 64
# Samples given to a sink before it wants them. In whole blocks of any sound card, or it would want
# more at once after them than it usually does.
_EARLY_BLOCK = SAMPLE_RATE // 100
_MOST_EARLY = 6 * _EARLY_BLOCK
_LOOK_SECONDS = 0.5  # between looks whether there is time for all parties
_MOST_VOLUMES = 64  # remembered
_FAILED_SECONDS = 5.0  # in which a voice that could not be decoded is not tried again

_T = TypeVar("_T")
Heard = Callable[[int, str, FloatArray, bool, float], None]


class Receiver:
    """Decodes what arrives from every party and plays the mix, in two threads.

    The decoder thread does the heavy work; the mixer thread only moves samples, so that a frame
    which takes long to decode never starves the loudspeaker. While all that is heard is pauses, it
    moves some before their time, and sleeps meanwhile. played(samples, time_of_first): all
    that is played; key_missed(party): a party has to be asked for a key packet; stream(codec,
    party): makes a party's stream; decoded_late(over, name, samples): what comes late, once all of
    it is decoded; heard(party, name, samples, active, time_of_first): what is heard of each party,
    whatever its volume.

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
        decoded_late: Decoded | None = None,
        heard: Heard | None = None,
    ) -> None:
        self._codec = codec
        self._slot = slot
        self._journal = journal
        self._played = played
        self._key_missed = key_missed
        self._make_stream = stream
        self._streams: dict[int, RemoteStream] = {}
        self._decoded_late, self._heard = decoded_late, heard
        self._late: LateVoice | None = None  # once something has come late
        self._failed: dict[int, float] = {}  # voices that could not be decoded, and until when
        self._volumes: dict[str, Volume] = {}  # of those who may come back, by their keys
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._something = threading.Event()  # has arrived, or runs low
        self._limiter = Limiter()  # of the mix
        self._sounds: deque[FloatArray] = deque()  # of our own, one after another
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
                stream = self._streams[party.party] = self._new_stream(party.party)
            else:
                stream.returned()
            # What was said last by another one of this number may still be playing.
            known_by = party.fingerprint or party.shown
            if known_by != (stream.fingerprint or stream.name):
                stream.volume = self._volumes.get(party.fingerprint, Volume())
            stream.name, stream.fingerprint = party.shown, party.fingerprint
            stream.preset = party.preset
            stream.code, stream.verified = party.code, party.verified

    def play(self, sound: FloatArray) -> None:
        """Play something of our own, [n] at 16 kHz, beside the voices."""
        self._sounds.append(sound)

    def leave(self, party: int) -> None:
        """Forget a party."""
        with self._lock:
            self._streams.pop(party, None)
            self._failed.pop(party, None)
            self._capacity.forget(party)

    def set_preset(self, party: int, preset: str) -> None:
        """A party says that its speech is coded with another preset."""
        stream = self._streams.get(party)
        if stream is not None:
            stream.preset = preset

    def set_volume(self, party: int, volume: Volume) -> None:
        """Play a party louder or quieter; who is known by a key is so again when it comes back."""
        with self._lock:
            stream = self._streams.get(party)
            if stream is None:
                return
            stream.volume = volume
            if stream.fingerprint:
                self._volumes.pop(stream.fingerprint, None)
                if len(self._volumes) >= _MOST_VOLUMES:
                    del self._volumes[next(iter(self._volumes))]  # changed longest ago
                self._volumes[stream.fingerprint] = volume

    def set_verified(self, party: int, verified: bool) -> None:
        """Whether a person has made sure of a party's key."""
        stream = self._streams.get(party)
        if stream is not None:
            stream.verified = verified

    def set_recording(self, party: int, on: bool) -> None:
        """A party says that it records, or does so no more."""
        stream = self._streams.get(party)
        if stream is not None:
            stream.recording = on

    def arrive(self, audio: AudioArrived) -> None:
        """Take a packet of a party; unknown parties are ignored."""
        stream = self._streams.get(audio.party)
        if stream is None or stream.skipped or audio.party in self._failed:
            return
        stream.capture = audio.capture
        take = partial(stream.arrive, audio.packet, audio.step, audio.captured, audio.arrived)
        self._guarded(stream, take, None)
        self._something.set()

    def arrive_late(self, over: Over, name: str) -> float:
        """Take an over that could not be sent when it was said. name: whose it is, for people.

        Returns how many seconds of earlier ones have been given up for it.
        """
        if self._late is None:
            self._late = LateVoice(self._codec, decoded=self._decoded_late)
        given_up = self._late.add(over, name)
        self._something.set()
        return given_up

    def late(self, now: float) -> LateOver | None:
        """What is played late, or will be next."""
        return None if self._late is None else self._late.snapshot(now)

    def late_pending(self, party: int) -> bool:
        """Whether something that came late from a party has not been played."""
        return self._late is not None and self._late.pending(party)

    @property
    def overloaded(self) -> bool:
        """Whether the machine has no time to decode all that it is decoding."""
        return self._capacity.overloaded

    def drained(self, party: int) -> bool:
        """Whether all that came from a party has been played, but for what came late."""
        stream = self._streams.get(party)
        return stream is None or party in self._failed or not stream.pending()

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

    def _sound(self) -> list[RemoteStream]:
        """The streams that can be decoded."""
        with self._lock:
            return [each for each in self._streams.values() if each.party not in self._failed]

    def _repeat(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
        except SottoError as error:
            self.failure = str(error)
        except Exception as error:  # the call's owner must learn of it, whatever it is
            self.failure = f"playback failed: {type(error).__name__}: {error}"

    def _guarded(self, stream: RemoteStream, task: Callable[[], _T], otherwise: _T) -> _T:
        """Do something with a stream; if that fails, in whatever way, only its voice suffers.

        It begins anew after a while, with nothing left of what it has made of the packets so far.
        """
        try:
            return task()
        except Exception as error:
            party = stream.party
            with self._lock:
                if self._streams.get(party) is not stream or party in self._failed:
                    return otherwise
                self._failed[party] = time.monotonic() + _FAILED_SECONDS
            what = f"{type(error).__name__}: {error}"
            text = f"{stream.name or party} could not be decoded: {what}"
            self._journal.caused(f"decoding {party}", "error", text)
            return otherwise

    def _begin_anew(self, now: float) -> None:
        """Give voices that could not be decoded another try."""
        for party in [party for party, until in list(self._failed.items()) if now > until]:
            with self._lock:
                old = self._streams.get(party)
                if old is not None and self._failed.pop(party, None) is not None:
                    stream = self._streams[party] = self._new_stream(party)
                    stream.name, stream.fingerprint = old.name, old.fingerprint
                    stream.code, stream.verified = old.code, old.verified
                    stream.preset, stream.joined = old.preset, old.joined
                    stream.recording, stream.volume = old.recording, old.volume
            self._key_missed(party)

    def _new_stream(self, party: int) -> RemoteStream:
        stream = self._make_stream(self._codec, party)
        stream.key_missed = partial(self._key_missed, party)
        if (heard := self._heard) is not None:
            stream.tap = lambda samples, active, when: heard(
                party, stream.name, samples, active, when
            )
        return stream

    def _decode(self) -> None:
        begun = time.monotonic()
        # Those that are skipped as well: what they said last is to end without a click.
        streams = self._sound()
        worked = [self._guarded(stream, stream.work, False) for stream in streams]
        worked.append(self._work_late())
        now = time.monotonic()
        if any(worked):
            self._load.push(begun, now)
        else:
            ahead = self._late is not None or any(stream.ahead() for stream in streams)
            self._something.wait(_IDLE_SECONDS if ahead else _REST_SECONDS)
            self._something.clear()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._begin_anew(now)
            self._balance(now)
            for stream in self._present():
                if (text := stream.look(now)) is not None:
                    name = stream.name or str(stream.party)
                    self._journal.caused(f"delay {stream.party}", "info", f"{name}: {text}")

    def _work_late(self) -> bool:
        """Decode something that came late; if that fails, in whatever way, only that is lost."""
        if (late := self._late) is None:
            return False
        try:
            return late.work()
        except Exception as error:
            name = late.give_up_current()
            what = f"{type(error).__name__}: {error}"
            text = f"what {name} said could not be decoded: {what}"
            self._journal.caused("decoding late", "error", text)
            return False

    def _volume_of(self, party: int) -> float:
        stream = self._streams.get(party)
        return 1.0 if stream is None else stream.volume.gain

    def _balance(self, now: float) -> None:
        """Listen to as many parties as there is time to decode."""
        with self._lock:
            streams = list(self._streams.values())
            drop, take = self._capacity.consider(now, self._load.share(now), streams)
        heard = sum(not stream.skipped for stream in streams)
        for stream in drop:
            stream.skipped = True
            stream.pause()
            text = (
                f"this machine cannot decode {heard} voices at once:"
                f" {stream.name or stream.party} is not heard"
            )
            self._journal.caused("voices", "warning", text)
        for stream in take:
            stream.skipped = False
            text = f"there is time again to decode {stream.name or stream.party}"
            self._journal.caused("voices", "info", text)

    def _mix(self) -> None:
        self._slot.serve()
        sink = self._slot.device
        room = sink.room()
        if room < _LEAST_BLOCK:
            time.sleep(_MIX_SECONDS)  # half of what it takes to wait for an event
            return
        play_time = sink.play_time()
        streams = self._sound()
        early = early_of(room, (self._guarded(stream, stream.spare, 0) for stream in streams))
        count = room + early
        mix = nothing = np.zeros(count, np.float32)
        for stream in streams:
            pull = partial(stream.pull, count, play_time, early)
            mix = mix + self._guarded(stream, pull, nothing)
        if any(stream.low for stream in streams):
            self._something.set()
        if self._late is not None:
            quiet = not any(stream.active for stream in streams)
            mix = mix + self._late.pull(count, quiet=quiet, gain=self._volume_of)
        own = self._own_sounds(count) if self._sounds else None
        mix = self._limiter.process(mix if own is None else mix + own)
        silence = sink.silence()
        sink.write(mix)
        if self.front_end is not None and sink.is_card:
            self.front_end.render(mix, play_time, silence)
        if self._played is not None:
            self._played(mix if own is None else mix - own, play_time)
        if early:
            time.sleep(early / SAMPLE_RATE)

    def _own_sounds(self, count: int) -> FloatArray:
        """The next samples of what `play` was given, [count]."""
        samples = np.zeros(count, np.float32)
        at = 0
        while self._sounds and at < count:
            sound = self._sounds.popleft()
            part = sound[: count - at]
            samples[at : at + len(part)] = part
            at += len(part)
            if len(part) < len(sound):
                self._sounds.appendleft(sound[len(part) :])
        return samples


def early_of(room: int, spares: Iterable[int]) -> int:
    """How many samples to give a sink beyond the `room` it has, before it wants them.

    spares: how many may be pulled from each stream.
    """
    spare = max(min(spares, default=room + _MOST_EARLY) - room, 0)
    return min(spare // _EARLY_BLOCK * _EARLY_BLOCK, _MOST_EARLY)


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
