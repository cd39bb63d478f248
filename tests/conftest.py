"""Shared by several tests: the shipped clips, and reproducible property tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from numpy.typing import NDArray

from tests.browser import browser, open_page  # noqa: F401 - fixtures

CLIPS = Path(__file__).parent / "clips"

# No deadline: the first call of a numba kernel compiles it. In CI every run draws the same cases.
settings.register_profile("sotto", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("sotto")

# What is printed is compared with all its signs, also where no locale is set.
if {os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")} <= {"", "C", "POSIX"}:
    os.environ["LC_ALL"] = "C.UTF-8"

# As from a terminal: what starts the tests in the background, or by nohup, has these ignored, and
# so would have every program that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files that take longest begin first, so that no process is left alone with one at the end. The
# first of them has a call in real time, beside which the second leaves a core to spare.
LONGEST = (
    "test_link_live.py", "test_app.py", "test_readme.py", "test_other_device.py",
    "test_training.py", "test_evaluation.py", "test_sliding_encoder.py", "test_ratecontrol.py",
    "test_call.py", "test_audio_devices.py", "test_room.py", "test_reconnection.py",
    "test_listening_page.py", "test_decoding.py", "test_page_speech.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def clip_paths() -> list[Path]:
    """The shipped speech clips: 16 kHz mono FLAC, one speaker each."""
    return sorted(CLIPS.glob("*.flac"))


@pytest.fixture(scope="session")
def clip_path() -> Path:
    """One shipped clip, 5.05 s."""
    return CLIPS / "librispeech-6930.flac"


@pytest.fixture
def clip(clip_path: Path) -> NDArray[np.float32]:
    """The samples of `clip_path`: [80800] at 16 kHz, full scale 1."""
    samples, _ = soundfile.read(clip_path, dtype="float32")
    return samples


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw no curves, which takes longer than a few steps of a tiny network."""
    monkeypatch.setattr("models.training.log.draw", lambda *panels, **options: None)


@pytest.fixture
def ends() -> Iterator[Callable[[Any], Any]]:
    """start(endpoint) -> Ear, which collects its events; everything is closed at the end."""
    from tests.link_peers import Ear

    with contextlib.ExitStack() as stack:

        def start(endpoint: Any) -> Any:
            stack.callback(endpoint.close)
            endpoint.start()
            return Ear(endpoint)

        yield start
