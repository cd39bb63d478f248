"""How loud each voice is played: steps, limits, and for whom it is remembered."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from stream.audio.limiter import PEAK
from stream.audio.sinks import NullSink
from stream.audio.slots import Hotplug, SoundSystem
from stream.audio.sources import Silence
from stream.call.receiver import Receiver
from stream.call.remote_stream import RemoteStream
from stream.call.volume import LOUDEST_DB, QUIETEST_DB, STEP_DB, Volume
from stream.link.events import Joined
from stream.log import Journal
from tests.test_remote_stream import ClipDecoder, Clock, Ear, said, steady, stream_of

NO_CODEC = cast(SpeechCodec, None)


def test_volumes_go_in_steps_and_no_further_than_they_may():
    volume = Volume()
    assert (volume.gain, str(volume)) == (1.0, "")
    assert str(volume.louder(1)) == f"+{STEP_DB} dB" and str(volume.louder(-1)) == f"-{STEP_DB} dB"
    assert volume.louder(2).gain == pytest.approx(10 ** (2 * STEP_DB / 20))
    assert volume.louder(100) == Volume(LOUDEST_DB) and volume.louder(-100) == Volume(QUIETEST_DB)
    quiet = Volume(-6)
    assert quiet.switched().gain == 0.0 and str(quiet.switched()) == "muted"
    assert quiet.switched().switched() == quiet
    assert quiet.switched().louder(1) == Volume(-3)
    for wrong in (1, LOUDEST_DB + STEP_DB, QUIETEST_DB - STEP_DB):
        with pytest.raises(BadInput, match="in steps of 3"):
            Volume(wrong)


def played(clip, volume):
    """What is heard of four seconds of the clip."""
    clock = Clock()
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    ear.stream.volume = volume
    ear.listen(steady(said(4.096, 4)), 5.5)
    assert ear.stream.snapshot().volume == volume
    return ear.samples, ear.stream.snapshot()


def test_a_voice_is_played_as_loud_as_wanted_and_never_too_loud(clip):
    usual, _ = played(clip, Volume())
    quiet, _ = played(clip, Volume(-12))
    # But for the very beginning, until which nothing is heard.
    np.testing.assert_allclose(quiet, usual * 10 ** (-12 / 20), atol=1e-4)
    loud, _ = played(clip, Volume(12))
    assert PEAK >= np.abs(loud).max() > 1.2 * np.abs(usual).max()
    full, _ = played(clip / np.abs(clip).max(), Volume(12))
    assert np.abs(full).max() <= PEAK  # the limiter comes after it
    nothing, snapshot = played(clip, Volume(muted=True))
    assert not nothing[SAMPLE_RATE // 10 :].any()
    assert snapshot.arrivals.received == 16 and snapshot.arrivals.lost == 0


def test_a_change_makes_no_click(clip):
    clock = Clock()
    ear = Ear(stream_of(ClipDecoder(clip), clock), clock)
    ear.listen(steady(said(4.096, 4)), 2.0)
    ear.stream.volume = Volume(muted=True)
    before = ear.stream.pull(160, clock.now)
    after = ear.stream.pull(160, clock.now)
    assert not after.any()
    assert abs(before[-1]) < 1e-6 and np.abs(before[:80]).max() > 0.0


def receiver() -> Receiver:
    decoder = cast(PacketDecoder, ClipDecoder(np.zeros(16_000, np.float32)))
    slot = Hotplug(Silence(), NullSink(), SoundSystem(), Journal()).output
    return Receiver(
        NO_CODEC,
        slot,
        Journal(),
        stream=lambda codec, party: RemoteStream(codec, party, decoder=decoder),
    )


def volume_of(ears: Receiver, party: int) -> Volume:
    return ears._streams[party].volume


def test_a_volume_is_remembered_for_who_has_the_key():
    ears = receiver()
    ears.join(Joined(1, "ann", "2k", "aaaa-bbbb"))
    ears.set_volume(1, Volume(6))
    ears.set_volume(9, Volume(6))  # who has left
    ears.join(Joined(1, "ann", "2k", "aaaa-bbbb"))  # her connection was lost
    assert volume_of(ears, 1) == Volume(6)
    ears.leave(1)
    ears.join(Joined(1, "eve", "2k", "cccc-dddd"))
    ears.join(Joined(2, "ann", "2k", "aaaa-bbbb"))
    assert (volume_of(ears, 1), volume_of(ears, 2)) == (Volume(), Volume(6))
    ears.join(Joined(2, "eve", "2k", "cccc-dddd"))  # before the last words have been played
    assert volume_of(ears, 2) == Volume()


def test_without_keys_nobody_gets_the_volume_of_another():
    ears = receiver()
    ears.join(Joined(1, "ann", "2k", ""))
    ears.set_volume(1, Volume(muted=True))
    ears.join(Joined(1, "ann", "2k", ""))
    assert volume_of(ears, 1).muted
    ears.join(Joined(1, "eve", "2k", ""))
    assert volume_of(ears, 1) == Volume()
    ears.set_volume(1, Volume(muted=True))
    ears.leave(1)
    ears.join(Joined(1, "eve", "2k", ""))
    assert volume_of(ears, 1) == Volume()


def test_no_more_volumes_are_remembered_than_people_can_have_set():
    ears = receiver()
    for number in range(200):
        ears.join(Joined(1, "ann", "2k", f"key {number}"))
        ears.set_volume(1, Volume(3))
    assert len(ears._volumes) <= 64
