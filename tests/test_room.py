"""Eight parties over loopback TCP, each hearing the mix of the others: everything but the codec.

A packet holds the pitch of its speaker's tone; decoding it plays that tone for a while.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from codec.errors import BadStream
from codec.packet import Packet
from codec.signal.analysis import N_MELS, STEP_HOPS
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import Frame, PacketDecoder
from stream.audio.sinks import NullSink
from stream.audio.slots import Hotplug, SoundSystem
from stream.audio.sources import Silence
from stream.call.receiver import Receiver
from stream.call.remote_stream import RemoteStream
from stream.call.snapshot import Arrivals, Party
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.endpoint import Endpoint
from stream.link.events import (
    AudioArrived,
    CallState,
    Joined,
    Left,
    Offer,
    PresetChanged,
    StateChanged,
)
from stream.link.listener import MAX_PARTIES, Listener
from stream.log import Journal

SPAN = 0.25  # seconds of sound in a packet
TAIL = 1.0  # seconds that a tone goes on, so that packets late on a busy machine leave no gap
TONES = [400 + 150 * k for k in range(MAX_PARTIES + 1)]
LEVEL = 0.1
OFFER = Offer("9f3c0a1b2c3d4e5f", "2k", "")
WAIT = 60.0
NO_CODEC = cast(SpeechCodec, None)


class Tone:
    """A remote stream whose packets name a tone. cost: seconds of decoding per second of sound."""

    def __init__(self, party: int, cost: Callable[[], float]) -> None:
        self.party = party
        self.name = self.fingerprint = self.preset = ""
        self.joined = time.monotonic()
        self.capture: float | None = None
        self.skipped = self.low = False
        self._packets: deque[bytes] = deque(maxlen=8)
        self._cost = cost
        self._hertz = self._left = self._at = 0
        self._received = 0

    def arrive(self, packet: bytes, step: int, captured: float | None, arrived: float) -> None:
        self._packets.append(packet)
        self._received += 1

    def returned(self) -> None:
        """Nothing changes."""

    def look(self, now: float) -> str | None:
        return None

    def pause(self) -> None:
        self._packets.clear()

    def work(self) -> bool:
        if not self._packets:
            return False
        time.sleep(self._cost() * SPAN)
        self._hertz = int(self._packets.popleft())
        self._left = int((SPAN + TAIL) * SAMPLE_RATE)
        return True

    def spare(self) -> int:
        return 0

    def pull(self, n: int, play_time: float, early: int = 0) -> FloatArray:
        at = np.arange(self._at, self._at + n)
        self._at += n
        sounding = np.arange(n) < self._left
        self._left = max(self._left - n, 0)
        wave = LEVEL * np.sin(2 * np.pi * self._hertz / SAMPLE_RATE * at) * sounding
        return wave.astype(np.float32)

    def pending(self) -> bool:
        return bool(self._packets)

    ahead = pending

    def snapshot(self) -> Party:
        return Party(
            self.party,
            self.name,
            preset=self.preset,
            heard=not self.skipped,
            arrivals=Arrivals(received=self._received),
        )

    def real_time(self) -> float:
        return self._cost()


class Ear(NullSink):
    """Keeps the last second of what is played."""

    def __init__(self) -> None:
        super().__init__()
        self._played: deque[FloatArray] = deque(maxlen=400)

    def write(self, samples: FloatArray) -> None:
        super().write(samples)
        self._played.append(samples.copy())

    def tones(self) -> set[int]:
        """The tones in the latest half second."""
        played = list(self._played) or [np.zeros(0, np.float32)]
        samples = np.concatenate(played)[-SAMPLE_RATE // 2 :]
        if len(samples) < SAMPLE_RATE // 2:
            return set()
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) / (len(samples) / 4)
        return {hertz for hertz in TONES if spectrum[hertz // 2] > LEVEL / 4}


class Side:
    """One end: says its tone four times a second, and plays the mix of what it hears."""

    def __init__(
        self, endpoint: Endpoint, tone: int, cost: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.endpoint, self.tone = endpoint, tone
        self.ear, self.journal = Ear(), Journal()
        self.present: dict[int, str] = {}
        self.steps = 0  # spoken so far
        self.states: list[StateChanged] = []
        slot = Hotplug(Silence(), self.ear, SoundSystem(), self.journal).output
        self.receiver = Receiver(
            NO_CODEC,
            slot,
            self.journal,
            stream=lambda codec, party: cast(RemoteStream, Tone(party, cost)),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Side:
        self.receiver.start()
        self.endpoint.start()
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._stop.set()
        self._thread.join(5.0)
        self.endpoint.close("bye")
        self.receiver.stop()

    def listeners(self) -> dict[str, Party]:
        found = self.receiver.snapshot(time.monotonic(), 0, 0, self.endpoint)
        return {party.name.strip('"'): party for party in found}

    def log(self) -> str:
        return "\n".join(line.text for line in self.journal.after(-1))

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            for event in self.endpoint.events(0.02):
                if isinstance(event, AudioArrived):
                    self.receiver.arrive(event)
                elif isinstance(event, Joined):
                    self.present[event.party] = event.name
                    self.receiver.join(event)
                elif isinstance(event, Left):
                    self.present.pop(event.party, None)
                    self.receiver.leave(event.party)
                elif isinstance(event, PresetChanged):
                    self.receiver.set_preset(event.party, event.preset)
                elif isinstance(event, StateChanged):
                    self.states.append(event)
            now = time.monotonic()
            if now >= due:
                due = max(due + SPAN, now)
                # Packets of a voice must differ.
                packet = b"%d " % self.tone + b" " * (int(now / SPAN) % 3)
                self.endpoint.send(packet, self.steps, now)
                self.steps += 4


def eventually(condition: Callable[[], object], what: str) -> None:
    """Fail unless the condition comes true in time."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def hears(party: Side, everyone: list[Side]) -> None:
    """Wait until a party hears all the others, and not itself."""
    others = {other.tone for other in everyone if other is not party}
    eventually(lambda: party.ear.tones() == others, f"{party.tone} hears {others}")


def misses(party: Side, leaver: Side, left: int) -> None:
    """Wait until a party does not hear another any more, and knows that it has left."""
    eventually(lambda: leaver.tone not in party.ear.tones(), "the leaver is silent")
    eventually(lambda: len(party.present) == left, "the leaver has left")


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def hub(stack: contextlib.ExitStack, cost: Callable[[], float] = lambda: 0.0) -> Side:
    endpoint = Listener("127.0.0.1:0", replace(OFFER, name="hub"), Security(), room=True)
    return stack.enter_context(Side(endpoint, TONES[0], cost))


def guest(stack: contextlib.ExitStack, port: int, number: int) -> Side:
    offer = replace(OFFER, name=f"guest {number}", room=True)
    return stack.enter_context(Side(Caller("127.0.0.1", port, offer, Security()), TONES[number]))


def test_eight_hear_each_other_a_ninth_is_refused_and_a_place_is_free_when_one_leaves(stack):
    first = hub(stack)
    port = first.endpoint.port  # type: ignore[attr-defined]
    leaver_stack = stack.enter_context(contextlib.ExitStack())
    parties = [first, *(guest(stack, port, k) for k in range(1, MAX_PARTIES - 1))]
    leaver = guest(leaver_stack, port, MAX_PARTIES - 1)
    everyone = [*parties, leaver]
    for party in everyone:
        hears(party, everyone)
        assert len(party.present) == MAX_PARTIES - 1
    late = guest(stack, port, MAX_PARTIES)
    eventually(lambda: late.states and late.states[-1].state is CallState.REFUSED, "refused")
    assert late.states[-1].reason == "the room is full: 8 parties are in it"
    assert not late.present

    leaver_stack.close()
    for party in parties:
        misses(party, leaver, MAX_PARTIES - 2)
    newcomer = guest(stack, port, MAX_PARTIES)
    everyone = [*parties, newcomer]
    for party in everyone:
        hears(party, everyone)
    for party in everyone:
        heard = party.listeners().values()
        assert all(party.heard and party.arrivals.received > 0 for party in heard)


def test_who_cannot_be_decoded_is_not_heard_and_is_heard_again_when_there_is_time(
    stack, monkeypatch
):
    for name, value in (("PATIENCE", 0.5), ("SETTLE", 1.0), ("CALM", 1.0)):
        monkeypatch.setattr(f"stream.call.capacity.{name}", value)
    cost = [0.55]
    first = hub(stack, lambda: cost[0])
    port = first.endpoint.port  # type: ignore[attr-defined]
    one = guest(stack, port, 1)
    eventually(lambda: first.ear.tones() == {one.tone}, "the first guest is heard")
    two = guest(stack, port, 2)
    eventually(lambda: len(first.listeners()) == 2, "both are here")
    eventually(lambda: not first.listeners()["guest 2"].heard, "the second is dropped")
    assert first.listeners()["guest 1"].heard
    assert 'cannot decode 2 voices at once: "guest 2" is not heard' in first.log()
    eventually(lambda: first.ear.tones() == {one.tone}, "only the first is heard")
    # The others are no slower: they hear each other and the hub.
    eventually(lambda: one.ear.tones() == {first.tone, two.tone}, "the guests hear all")
    cost[0] = 0.02
    eventually(lambda: first.listeners()["guest 2"].heard, "the second is taken back")
    eventually(lambda: first.ear.tones() == {one.tone, two.tone}, "and heard")
    assert 'there is time again to decode "guest 2"' in first.log()
    assert first.listeners()["guest 2"].preset == "2k"


class Cheap:
    """A decoder of noise; chained packets need the one before them."""

    smooth = False

    def __init__(self) -> None:
        self._known = -1
        self.decoded = 0

    def decode(self, packet: Packet) -> Frame:
        self.feed(packet)
        self.decoded += packet.steps
        return Frame(np.full((STEP_HOPS * packet.steps, N_MELS), -0.9, np.float32), True)

    def feed(self, packet: Packet) -> None:
        if packet.chained and packet.sequence != self._known:
            raise BadStream("its past is missing")
        self._known = packet.sequence + packet.steps

    def conceal(self, steps: int) -> FloatArray:
        return np.full((STEP_HOPS * steps, N_MELS), -0.95, np.float32)


def test_a_hostile_voice_takes_bounded_work_and_nobody_else_s_time(stack):
    """64 ms packets at 100 a second, without their past, of wrong kinds and lengths."""
    decoder = Cheap()
    first = hub(stack)
    make = first.receiver._make_stream

    def stream(codec: SpeechCodec, party: int) -> RemoteStream:
        if party == 1:
            return make(codec, party)
        return RemoteStream(NO_CODEC, party, decoder=cast(PacketDecoder, decoder))

    first.receiver._make_stream = stream
    port = first.endpoint.port  # type: ignore[attr-defined]
    one = guest(stack, port, 1)
    eventually(lambda: first.ear.tones() == {one.tone}, "the first guest is heard")
    offer = replace(OFFER, name="hostile", room=True)
    hostile = Caller("127.0.0.1", port, offer, Security())
    hostile.start()
    stack.callback(hostile.close)
    eventually(lambda: "hostile" in first.listeners(), "it is let in")
    begun = time.monotonic()
    silent = sent = 0
    while time.monotonic() - begun < 4.0:
        flags = (0x00, 0x10, 0x00, 0x08, 0xC0, 0x4F, 0x10)[sent % 7]
        hostile.send(bytes([flags, sent % 256]) + b"nonsense", sent, time.monotonic())
        sent += 1
        time.sleep(0.01)
        if sent % 50 == 0 and sent > 100:
            silent += one.tone not in first.ear.tones()
    assert silent == 0
    seconds = time.monotonic() - begun
    assert 0 < decoder.decoded * 0.064 < 2.0 * seconds + 6.0
    eventually(lambda: one.tone in first.ear.tones(), "the first is still heard")
    assert first.receiver.failure is None


class Fragile(Cheap):
    """Fails in a way that nobody has thought of, as long as it is told to."""

    failing = True

    def decode(self, packet: Packet) -> Frame:
        if self.failing:
            raise OSError(24, "Too many open files", "/home/ann/table.npy")
        return super().decode(packet)


def test_a_voice_that_cannot_be_decoded_is_tried_again_and_ends_nothing(stack, monkeypatch):
    monkeypatch.setattr("stream.call.receiver._FAILED_SECONDS", 0.3)
    made: list[Fragile] = []
    first = hub(stack)
    make = first.receiver._make_stream

    def stream(codec: SpeechCodec, party: int) -> RemoteStream:
        if party == 1:
            return make(codec, party)
        made.append(Fragile())
        return RemoteStream(NO_CODEC, party, decoder=cast(PacketDecoder, made[-1]))

    first.receiver._make_stream = stream
    port = first.endpoint.port  # type: ignore[attr-defined]
    one = guest(stack, port, 1)
    eventually(lambda: first.ear.tones() == {one.tone}, "the first guest is heard")
    bad = Caller("127.0.0.1", port, replace(OFFER, name="bad", room=True), Security())
    bad.start()
    stack.callback(bad.close)
    eventually(lambda: "bad" in first.listeners(), "it is let in")
    sent = 0

    def say_until(condition: Callable[[], bool], what: str) -> None:
        def said() -> bool:
            nonlocal sent
            bad.send(b"\0\0voice", sent, time.monotonic())
            sent += 1
            return condition()

        eventually(said, what)

    say_until(lambda: len(made) > 2, "it begins anew, again and again")
    lines = [line.text for line in first.journal.after(-1) if line.level == "error"]
    assert lines[0].startswith('"bad" could not be decoded: OSError')
    monkeypatch.setattr(Fragile, "failing", False)
    say_until(lambda: made[-1].decoded > 0, "it is heard in the end")
    assert first.receiver.failure is None
    assert first.ear.tones() >= {one.tone}
    assert first.listeners().keys() == {"guest 1", "bad"}
