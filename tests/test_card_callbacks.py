"""What a sound card calls: the compiled form against the one in Python, and against a model."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.audio.callbacks import Playing, Recording, RingCallback

RATE = 16_000
CALLED = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p,
    ctypes.c_ulong, ctypes.c_void_p,
)  # fmt: skip
Call = Callable[[np.ndarray, "np.ndarray | None", bool], None]
compiled_here = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="compiled callbacks are for Linux"
)


def as_portaudio(callback: RingCallback, channels: int) -> Call:
    """Calls the compiled form as PortAudio does."""
    found = callback.compiled(channels)
    assert found is not None
    function, data = CALLED(found[0]), found[1]
    records = isinstance(callback, Recording)

    def call(block: np.ndarray, times: np.ndarray | None = None, lost: bool = False) -> None:
        times = np.array([1.0, 1.01, 1.02]) if times is None else times
        there = (block.ctypes.data, None) if records else (None, block.ctypes.data)
        flags = (2 if records else 4) if lost else 0
        assert function(*there, len(block), times.ctypes.data, flags, data) == 0

    return call


def in_python(callback: RingCallback) -> Call:
    def call(block: np.ndarray, times: np.ndarray | None = None, lost: bool = False) -> None:
        adc, current, dac = (1.0, 1.01, 1.02) if times is None else times
        told = SimpleNamespace(inputBufferAdcTime=adc, currentTime=current, outputBufferDacTime=dac)
        status: Any = SimpleNamespace(input_overflow=lost, output_underflow=lost)
        callback(block, told, status, time.monotonic())

    return call


# Blocks as (samples, flagged, samples moved by us between this block and the next).
BLOCKS = st.lists(
    st.tuples(st.integers(1, 300), st.booleans(), st.integers(0, 400)), min_size=1, max_size=40
)
AGES = st.floats(-1.0, 1.0)


@compiled_here
@given(blocks=BLOCKS, channels=st.integers(1, 3), seed=st.integers(0, 9), age=AGES)
def test_a_microphone_is_recorded_alike_by_both(blocks, channels, seed, age):
    draw = np.random.default_rng(seed)
    both = [Recording(RATE, 0.05), Recording(RATE, 0.05)]
    calls = [as_portaudio(both[0], channels), in_python(both[1])]
    times = np.array([5.0 - age, 5.0, 5.0])
    said: list[np.ndarray] = []
    heard: list[np.ndarray] = []
    losses = 0
    for count, lost, taken in blocks:
        block = draw.normal(size=(count, channels)).astype(np.float32)
        fits = min(count, both[0].ring.room)
        said.append(block[:fits].mean(axis=1))
        losses += lost or fits < count
        for call in calls:
            call(block, times, lost)
        pieces = [callback.ring.read(taken) for callback in both]
        assert np.array_equal(pieces[0], pieces[1])
        heard.append(pieces[0])
        for callback in both:
            assert callback.lost == losses
        positions = [callback.clock.time_of(callback.ring.written) for callback in both]
        assert positions[0] == pytest.approx(positions[1], abs=0.05)
    assert both[0].calls == both[1].calls == len(blocks)
    heard.append(both[0].ring.read(RATE))
    assert np.allclose(np.concatenate(heard), np.concatenate(said), atol=1e-6)


@compiled_here
@given(blocks=BLOCKS, channels=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_loudspeaker_is_played_to_alike_by_both(blocks, channels, seed):
    draw = np.random.default_rng(seed)
    both = [Playing(RATE), Playing(RATE)]
    calls = [as_portaudio(both[0], channels), in_python(both[1])]
    for count, lost, written in blocks:
        samples = draw.uniform(-1.0, 1.0, written).astype(np.float32)
        played = []
        for callback, call in zip(both, calls, strict=True):
            callback.ring.write(samples)
            block = np.full((count, channels), 9.0, np.float32)
            call(block, None, lost)
            played.append(block)
        assert np.array_equal(played[0], played[1])
        assert np.abs(played[0]).max() <= 1.0
        assert (played[0] == played[0][:, :1]).all()
        one, other = ((p.calls, p.lost, p.ran_dry, p.silent, p.ring.taken) for p in both)
        assert one == other
        assert one[3] + one[4] == sum(n for n, *_ in blocks[: one[0]])


@pytest.mark.parametrize("form", [pytest.param("compiled", marks=compiled_here), "python"])
def test_a_loudspeaker_fades_where_samples_run_out_and_return(form):
    playing = Playing(RATE)
    call = as_portaudio(playing, 1) if form == "compiled" else in_python(playing)

    def played(count: int) -> np.ndarray:
        block = np.full((count, 1), 9.0, np.float32)
        call(block, None, False)
        return block[:, 0]

    for _ in range(5):  # PortAudio fills its buffers
        playing.ring.write(np.ones(10, np.float32))
        assert not played(80).any()
    assert playing.ran_dry == 0 and playing.ring.taken == 0
    playing.ring.write(np.ones(110, np.float32))
    first = played(80)
    assert (np.diff(first) >= 0.0).all() and first[0] < 0.1 and (first[48:] == 1.0).all()
    assert (played(80) == 1.0).all()
    last = played(80)
    assert playing.ran_dry == 1 and playing.silent == 5 * 80 + 80
    assert (np.diff(last) <= 0.0).all() and last[0] > 0.9 and not last[48:].any()
    assert not played(80).any()
    assert playing.ran_dry == 1


@compiled_here
def test_a_compiled_callback_tells_our_time():
    recording, playing = Recording(RATE, 1.0), Playing(RATE)
    before = time.monotonic()
    as_portaudio(recording, 1)(np.zeros((80, 1), np.float32), np.array([3.0, 3.005, 0.0]), False)
    as_portaudio(playing, 1)(np.zeros((80, 1), np.float32), np.array([0.0, 7.0, 7.03]), False)
    after = time.monotonic()
    when = recording.clock.time_of(80)  # the end of a block that began 5 ms ago
    assert when is not None and before <= when <= after
    when = playing.clock.time_of(0)
    assert when is not None and before + 0.03 <= when <= after + 0.03 + 1e-6


@compiled_here
@pytest.mark.parametrize("callback", [Recording(RATE, 1.0), Playing(RATE)])
def test_a_block_that_is_not_there_is_passed_over(callback):
    function, data = callback.compiled(1)
    assert CALLED(function)(None, None, 80, np.zeros(3).ctypes.data, 0, data) == 0
    assert callback.calls == 0


@compiled_here
def test_samples_are_in_place_when_their_number_is_told():
    """With a card that calls from a thread of its own, as fast as it can."""
    recording = Recording(RATE, 0.1)
    call = as_portaudio(recording, 1)
    total, step = 400_000, 40
    values = np.arange(total, dtype=np.float32)[:, None]

    def card() -> None:
        at = 0
        while at < total:
            if recording.ring.room >= step:
                call(np.ascontiguousarray(values[at : at + step]), None, False)
                at += step

    thread = threading.Thread(target=card, daemon=True)
    thread.start()
    seen: list[np.ndarray] = []
    while thread.is_alive() or recording.ring.available:
        seen.append(recording.ring.read(97))
    assert np.array_equal(np.concatenate(seen), values[:, 0])
    assert recording.lost == 0
