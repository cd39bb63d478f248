"""Each over of each speaker in a file of its own: cut where it is silent, dated, never replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput
from codec.signal.samples import SAMPLE_RATE
from stream.call.over_files import LONGEST, SILENCE, Cutter, OverFiles, check_folder
from stream.link.events import CallState
from tests.test_call import CollectingSink, codec, make, parties, recorded, wait_until, wires

__all__ = ["codec"]

BLOCK = 800
NOON = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


class Speaker:
    """Says blocks of noise and silence, in time."""

    def __init__(self, push, start: float = 50.0) -> None:
        self.push = push
        self.at = start

    def say(self, seconds: float, active: bool = True, level: float = 0.1):
        """What came to its end meanwhile."""
        found = []
        for _ in range(round(seconds * SAMPLE_RATE / BLOCK)):
            samples = np.full(BLOCK, level if active else 0.0, np.float32)
            if (over := self.push(samples, active, self.at)) is not None:
                found.append(over)
            self.at += BLOCK / SAMPLE_RATE
        return found

    def hush(self, seconds: float):
        return self.say(seconds, active=False)


def seconds(over) -> float:
    return len(over[1]) / SAMPLE_RATE


def test_an_over_begins_a_little_before_speech_and_ends_after_a_silence():
    speaker = Speaker(Cutter(0.5).push)
    assert not speaker.hush(10.0)
    assert not speaker.say(3.0)
    assert not speaker.hush(SILENCE - 0.1)
    (over,) = speaker.hush(1.0)
    assert over[0] == pytest.approx(59.5, abs=0.06)
    assert seconds(over) == pytest.approx(0.5 + 3.0 + 0.4, abs=0.1)
    assert over[1][: BLOCK * 2].max() == 0.0
    assert np.abs(over[1]).max() == pytest.approx(0.1, rel=0.01)
    assert not speaker.hush(20.0)


def test_short_silences_belong_to_an_over_and_clicks_are_none():
    cutter = Cutter(0.2)
    speaker = Speaker(cutter.push)
    for _ in range(3):
        assert not speaker.say(1.0)
        assert not speaker.hush(SILENCE - 0.2)
    (over,) = speaker.hush(2.0)
    assert seconds(over) == pytest.approx(3.0 + 2 * (SILENCE - 0.2) + 0.4, abs=0.15)
    speaker.say(0.1)
    assert not speaker.hush(5.0)
    assert cutter.finish() is None


def test_who_talks_without_end_gets_several_files_and_none_of_it_is_lost():
    cutter = Cutter(0.2)
    found = Speaker(cutter.push).say(2.5 * LONGEST)
    assert [round(seconds(over)) for over in found] == [round(LONGEST)] * 2
    rest = cutter.finish()
    assert rest is not None and seconds(rest) == pytest.approx(0.5 * LONGEST, abs=0.1)
    assert found[1][0] == pytest.approx(50.0 + LONGEST, abs=0.1)


def test_a_recording_is_no_louder_than_what_is_heard():
    cutter = Cutter(0.2)
    speaker = Speaker(cutter.push)
    speaker.say(1.0, level=30.0)
    over = cutter.finish()
    assert over is not None and np.abs(over[1]).max() <= 0.98


class Folder:
    """Over files with a clock by hand."""

    def __init__(self, path: Path, **limits) -> None:
        self.path = path
        self.now = 50.0
        self.files = OverFiles(
            path, clock=lambda: self.now, today=lambda: NOON + self.now - 50.0, **limits
        )
        self.files.start()

    def say(self, name: str, length: float, speaker: object = 1, pause: float = 2.0) -> None:
        for active, duration in ((True, length), (False, pause)):
            for _ in range(round(duration * SAMPLE_RATE / BLOCK)):
                block = np.full(BLOCK, 0.1 if active else 0.0, np.float32)
                self.files.push(speaker, name, block, active, self.now)
                self.now += BLOCK / SAMPLE_RATE

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "log" / "overs")


def test_files_are_named_by_the_time_and_the_speaker(folder):
    folder.say('ann "Ännchen"', 1.0)
    folder.say("../../etc/\x1b[2Jpasswd", 1.0, speaker=2)
    folder.say("日本", 1.0, speaker=3)
    folder.files.late('ann "Ännchen"', np.full(SAMPLE_RATE, 0.1, np.float32), 30.0)
    folder.files.stop()
    assert folder.names() == [
        "20231114T221259Z-ann-annchen-late.wav",
        "20231114T221320Z-ann-annchen.wav",
        "20231114T221323Z-etc-2jpasswd.wav",
        "20231114T221326Z-somebody.wav",
    ]
    samples, rate = soundfile.read(folder.path / "20231114T221320Z-ann-annchen.wav")
    assert rate == SAMPLE_RATE
    assert len(samples) / rate == pytest.approx(1.4, abs=0.1)


def test_no_file_is_ever_replaced(folder):
    taken = folder.path / "20231114T221320Z-ann.wav"
    taken.write_bytes(b"mine")
    (folder.path / "20231114T221320Z-ann-2.wav").symlink_to(folder.path / "nowhere")
    for speaker in (1, 2):
        folder.now = 50.0
        folder.say("Ann", 0.5, speaker=speaker)
    folder.files.stop()
    assert taken.read_bytes() == b"mine"
    assert folder.names() == [
        "20231114T221320Z-ann-2.wav",
        "20231114T221320Z-ann-3.wav",
        "20231114T221320Z-ann-4.wav",
        "20231114T221320Z-ann.wav",
    ]
    assert not (folder.path / "nowhere").exists()


def test_what_is_not_over_at_the_end_is_written_too_and_nothing_half(folder):
    folder.say("Ann", 1.0, pause=0.0)
    assert not [name for name in folder.names() if name.endswith(".wav")]
    folder.files.stop()
    folder.files.stop()
    assert len(folder.names()) == folder.files.files == 1
    folder.say("Ann", 1.0)
    assert len(folder.names()) == 1


def test_who_is_gone_has_said_what_there_is(folder):
    folder.say("Ann", 1.0, pause=0.0)
    folder.now += 10.0
    wait_until(lambda: folder.files.files == 1)
    folder.files.stop()


def test_another_one_of_the_same_number_gets_files_of_his_own(folder):
    folder.say("Ann", 1.0, pause=0.0)
    folder.say("Bob", 1.0)
    folder.files.stop()
    assert [name.split("-")[1] for name in folder.names()] == ["ann.wav", "bob.wav"]


@pytest.mark.parametrize("limits", [{"most_bytes": 100_000}, {"most_files": 2}])
def test_files_are_bounded_in_size_and_number(tmp_path, limits):
    folder = Folder(tmp_path, **limits)
    for _ in range(5):
        folder.say("Ann", 1.0)
    folder.files.stop()
    assert len(folder.names()) == 2
    assert folder.files.error is not None and "is full" in folder.files.error
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert total == folder.files.bytes <= 100_000


def test_a_folder_that_cannot_be_written_is_refused_and_one_that_goes_ends_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    for path in (file, file / "below"):
        with pytest.raises(BadInput):
            check_folder(path)
        with pytest.raises(BadInput):
            OverFiles(path).start()
    check_folder(tmp_path / "one" / "two")
    assert not (tmp_path / "one").exists()
    folder = Folder(tmp_path / "one")
    (tmp_path / "one").rmdir()
    (tmp_path / "one").write_text("in the way")
    folder.say("Ann", 1.0)
    wait_until(lambda: folder.files.error is not None)
    folder.files.stop()
    assert "recording to" in str(folder.files.error)


def test_the_others_are_told_and_both_sides_are_in_the_folder(codec, tmp_path):
    one, two = wires()
    call, other = make(codec, one), make(codec, two, CollectingSink())
    call.start()
    other.start()
    try:
        wait_until(lambda: parties(other))
        call.set_recording(str(tmp_path / "all.wav"))
        wait_until(lambda: recorded(other) == [True])
        call.record_overs(str(tmp_path / "overs"))
        assert call.snapshot().recording_overs == str(tmp_path / "overs")
        call.set_recording(None)
        wait_until(lambda: call.snapshot().talker.frames >= 12 and parties(call))
        wait_until(lambda: parties(call)[0].arrivals.received >= 12)
        assert recorded(other) == [True]
        call.record_overs(None)
        wait_until(lambda: recorded(other) == [False])
        assert call.snapshot().state is CallState.TALKING
    finally:
        call.close()
        other.close()
    names = sorted(path.name for path in (tmp_path / "overs").iterdir())
    assert {re.sub("^[0-9TZ]*-(.*?)(-[0-9])?.wav$", r"\1", name) for name in names} == {
        "own",
        "not-one",
    }
    for name in names:
        samples, _ = soundfile.read(tmp_path / "overs" / name)
        assert np.abs(samples).max() > 0.01
