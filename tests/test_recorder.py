"""Recording both sides of a call to one file."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput
from stream.call.recorder import Recorder, check_recordable


@contextlib.contextmanager
def running(recorder: Recorder) -> Iterator[Recorder]:
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def test_a_recording_holds_both_sides_in_step(tmp_path):
    path = tmp_path / "call.wav"
    begun = 1000.0
    recorder = Recorder(path, clock=lambda: begun)
    recorder.start()
    click = np.zeros(160, np.float32)
    click[0] = 0.5
    for k in range(60):
        block = click if k == 30 else np.zeros(160, np.float32)
        recorder.sent(block, begun + (k + 1) * 0.01)
        # The other side begins later and, by its clock, says the same at the same time.
        if k >= 10:
            recorder.received(block, begun + k * 0.01)
    assert not path.exists()
    recorder.stop()
    recorder.stop()
    assert recorder.error is None
    both, rate = soundfile.read(path)
    assert rate == 16_000
    left, right = np.flatnonzero(both[:, 0]), np.flatnonzero(both[:, 1])
    assert len(left) == len(right) == 1
    assert left[0] == pytest.approx(30 * 160, abs=320)
    assert right[0] == pytest.approx(left[0], abs=2 * 160)
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_is_valid_while_it_grows(tmp_path):
    recorder = Recorder(tmp_path / "call.wav")
    with running(recorder):
        begun = time.monotonic()
        for k in range(100):
            for direction in (recorder.sent, recorder.received):
                direction(np.full(160, 0.25, np.float32), begun + k * 0.01)
        deadline = time.monotonic() + 60
        while recorder.frames < 8000 and time.monotonic() < deadline:
            time.sleep(0.05)
        (part,) = tmp_path.glob(".sotto-*.part")
        crashed = soundfile.read(part)[0]
    assert len(crashed) >= 8000


def test_a_recording_ends_when_the_format_is_full(tmp_path):
    path = tmp_path / "call.wav"
    with running(Recorder(path, max_frames=1000)) as recorder:
        begun = time.monotonic()
        for k in range(100):
            recorder.sent(np.zeros(160, np.float32), begun + k * 0.01)
            recorder.received(np.zeros(160, np.float32), begun + k * 0.01)
        deadline = time.monotonic() + 60
        while recorder.error is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert recorder.error is not None
        assert "full" in recorder.error
    assert soundfile.info(path).frames == 1000


def test_what_cannot_be_recorded_to_is_refused(tmp_path):
    for path in (tmp_path / "x.mp3", tmp_path / "no" / "x.wav", "-"):
        with pytest.raises(BadInput):
            Recorder(path).start()


def test_a_recording_replaces_nothing(tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(b"precious")
    with pytest.raises(BadInput, match=r"talk\.wav.*exists"):
        Recorder(path).start()
    with pytest.raises(BadInput, match=r"talk\.wav.*exists"):
        check_recordable(path)
    path.unlink()
    check_recordable(path)
    assert list(tmp_path.iterdir()) == []
    with running(Recorder(path)) as recorder:
        path.write_bytes(b"made meanwhile")
        (tmp_path / "talk-2.wav").write_bytes(b"and this")
    assert path.read_bytes() == b"made meanwhile"
    assert (tmp_path / "talk-2.wav").read_bytes() == b"and this"
    assert soundfile.info(tmp_path / "talk-3.wav").channels == 2
    assert recorder.name == str(tmp_path / "talk-3.wav") and recorder.error is None
    assert len(list(tmp_path.iterdir())) == 3


def test_a_recording_whose_folder_is_removed_ends_at_once(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with running(Recorder(folder / "talk.wav")) as recorder:
        shutil.rmtree(folder)
        deadline = time.monotonic() + 60
        while recorder.error is None and time.monotonic() < deadline:
            time.sleep(0.05)
        told = recorder.error or ""
        assert "removed" in told
    assert recorder.error == told
    assert not folder.exists()
