"""The simulated bad network, and its event queue."""

from __future__ import annotations

import pytest

from codec.errors import BadInput
from stream.link.events import (
    AudioArrived,
    EventQueue,
    Left,
)
from stream.link.impairment import ImpairedQueue, parse_impairment


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def impaired(text, count=400):
    clock = Clock()
    arriving = [AudioArrived(0, k, b"%d" % k, float(k), float(k)) for k in range(count)]
    channel = ImpairedQueue(parse_impairment(text), clock)
    for event in arriving:
        channel.put(event)
    channel.put(Left(0, ""))
    out = []
    while clock.now < count + 20:
        out += channel.take(0.0)
        clock.now += 0.1
    return [event for event in out if isinstance(event, AudioArrived)]


def test_impairment_loses_delays_and_doubles():
    heard = impaired("loss=0.1,burst=2,jitter=2.5,duplicate=0.05,seed=3")
    same = impaired("seed=3,duplicate=0.05,jitter=2.5,burst=2,loss=0.1")
    assert heard == same
    numbers = [int(event.packet) for event in heard]
    assert 15 <= 400 - len(set(numbers)) <= 80
    assert 5 <= len(numbers) - len(set(numbers)) <= 50
    assert numbers != sorted(numbers)
    assert all(0.0 <= event.arrived - event.captured <= 2.5 for event in heard)
    assert [event.arrived for event in heard] == sorted(event.arrived for event in heard)


def test_no_impairment_changes_nothing():
    heard = impaired("", 50)
    assert [event.packet for event in heard] == [b"%d" % k for k in range(50)]
    assert all(event.arrived == event.captured for event in heard)


@pytest.mark.parametrize(
    "text",
    [
        "loss",
        "loss=2",
        "loss=x",
        "loss=0.1,loss=0.1",
        "foo=1",
        "jitter=-1",
        "burst=0",
        "loss=nan",
        "loss=0.9,burst=1",
        "jitter=inf",
        "seed=1.5",
    ],
)
def test_impairments_that_make_no_sense(text):
    with pytest.raises(BadInput):
        parse_impairment(text)


def test_the_event_queue_is_bounded_and_keeps_what_matters():
    queue = EventQueue()
    for k in range(5000):
        queue.put(AudioArrived(0, k, b"", None, float(k)))
    queue.put(Left(0, "bye"))
    events = queue.take(0.0)
    assert len(events) < 1000
    assert events[-1] == Left(0, "bye")
    assert queue.take(0.0) == []
