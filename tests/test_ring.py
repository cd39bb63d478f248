"""The sample ring against the simplest model of it: a deque."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from stream.audio.ring import SampleRing

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["write", "read_into", "read"]), st.integers(0, 40)),
    max_size=60,
)


@given(capacity=st.integers(1, 32), actions=ACTIONS)
def test_behaves_like_a_bounded_deque(capacity, actions):
    ring = SampleRing(capacity)
    model: deque[float] = deque()
    next_value = 1.0
    dropped = 0
    for action, count in actions:
        if action == "write":
            block = np.arange(next_value, next_value + count, dtype=np.float32)
            next_value += count
            fits = min(count, capacity - len(model))
            assert ring.write(block) == fits
            model.extend(block[:fits].tolist())
            dropped += count - fits
        elif action == "read_into":
            out = np.full(count, -1.0, np.float32)
            got = ring.read_into(out)
            assert got == min(count, len(model))
            assert out[:got].tolist() == [model.popleft() for _ in range(got)]
            assert (out[got:] == -1.0).all()
        else:
            expected = [model.popleft() for _ in range(min(count, len(model)))]
            assert ring.read(count).tolist() == expected
        assert ring.available == len(model)
        assert ring.room == capacity - len(model)
        assert ring.dropped == dropped
        assert ring.written - ring.taken == len(model)


def test_two_threads_lose_and_invent_nothing():
    ring = SampleRing(257)
    total = 20_000
    source = np.arange(total, dtype=np.float32)
    seen: list[np.ndarray] = []

    def produce() -> None:
        at = 0
        while at < total:
            at += ring.write(source[at : at + min(101, ring.room)])
            time.sleep(0)

    writer = threading.Thread(target=produce, daemon=True)
    writer.start()
    got = 0
    while got < total and (writer.is_alive() or ring.available):
        block = ring.read(97)
        time.sleep(0)
        seen.append(block)
        got += len(block)
    writer.join(60)
    assert np.array_equal(np.concatenate(seen), source)
    assert ring.dropped == 0


def test_a_ring_without_room_is_refused():
    with pytest.raises(BadInput):
        SampleRing(0)
