"""Which delay a machine keeps up with, and delays that grow."""

from __future__ import annotations

import pytest

from codec.errors import BadInput
from codec.packet import DELAYS
from stream.call.delays import (
    BEHIND_SECONDS,
    GROWN,
    SETTLE_SECONDS,
    FallBack,
    Growth,
    block_seconds,
    fitting,
    steps_of,
)


def test_delays_are_those_of_packets():
    assert [steps_of(delay) for delay in DELAYS] == [1, 2, 4, 8, 16]
    assert [block_seconds(delay) for delay in DELAYS] == [0.064, 0.128, 0.256, 0.256, 0.256]
    for wrong in (0, 65, 2048, -64):
        with pytest.raises(BadInput, match="64, 128, 256, 512, 1024"):
            steps_of(wrong)


@pytest.mark.parametrize(
    ("wished", "seconds", "delay"),
    [
        (64, {64: 0.03}, 64),
        (64, {64: 0.05, 128: 0.06}, 128),
        (64, {64: 0.05, 128: 0.1, 256: 0.1}, 256),
        (256, {256: 0.15}, 256),
        (256, {256: 0.16, 512: 0.15}, 512),
        (256, {256: 9.0, 512: 9.0}, 1024),
        (1024, {}, 1024),
    ],
)
def test_the_shortest_delay_that_the_machine_keeps_up_with(wished, seconds, delay):
    """Only as much is measured as has to be."""
    asked = []

    def measured(delay: int) -> float:
        asked.append(delay)
        return seconds[delay]

    assert fitting(wished, DELAYS, measured) == delay
    assert asked == list(seconds)


def test_where_only_whole_frames_are_possible_nothing_is_measured():
    assert fitting(256, (1024,), lambda delay: pytest.fail("measured")) == 1024
    assert fitting(1024, (64, 256), lambda delay: pytest.fail("measured")) == 256


def test_a_longer_delay_is_taken_after_seconds_of_being_behind():
    watch = FallBack()
    times = [0.1 * k for k in range(200)]
    assert not any(watch.update(now, False) for now in times)
    begin = 20.0
    assert not any(watch.update(begin + now, now % 1.0 > 0.05) for now in times)  # it catches up
    begin = 50.0
    watch = FallBack()
    taken = [now for now in times if watch.update(begin + now, True)]
    assert taken[0] == pytest.approx(BEHIND_SECONDS, abs=0.11)
    # The next one only when it is clear that this one is no help.
    assert taken[1] == pytest.approx(2 * BEHIND_SECONDS + SETTLE_SECONDS, abs=0.3)


def test_a_delay_that_grows_is_told_once_and_so_is_its_end():
    growth = Growth()
    said = {}
    for k in range(200):
        now = 0.5 * k
        total = 0.4 + min(max(now - 20.0, 0.0) * 0.05, 0.6) * (now < 60.0)
        if (text := growth.update(now, total, 256)) is not None:
            said[now] = text, growth.seconds
    (first, (grown, seconds)), (second, (back, none)) = said.items()
    assert 26.0 < first < 30.0 and second == 60.0
    assert grown.startswith("the delay has grown from 0.40 to 0.")
    assert back == "the delay is back to 0.40 s"
    assert seconds > GROWN and none == 0.0


def test_a_delay_that_stays_is_usual_after_a_minute():
    growth = Growth()
    texts = [growth.update(0.5 * k, 0.4 if k < 40 else 0.9, 256) for k in range(300)]
    assert sum(text is not None for text in texts) == 2
    assert texts[-1] is None and growth.seconds == 0.0


def test_another_length_of_packets_is_no_growth():
    growth = Growth()
    for k in range(100):
        assert (
            growth.update(0.5 * k, None if k < 5 else 0.4 + 0.8 * (k > 50), 64 << 4 * (k > 50))
            is None
        )
