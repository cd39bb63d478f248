"""Running measurements, the journal, and snapshots as text."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from codec.errors import BadInput
from stream.audio.requests import Requests
from stream.call.meters import (
    RECENT_COLUMNS,
    ColumnHistory,
    LevelMeter,
    LoadMeter,
    RateMeter,
    Throughput,
)
from stream.call.snapshot import Latency, Listener, Rate, Snapshot, Talker
from stream.call.statistics import to_json, to_line
from stream.link.events import CallState, Link
from stream.log import Journal, LogLine, logfmt

WAIT = 20.0  # seconds anything may take on a busy machine


def test_the_level_is_the_peak_of_the_last_tenth_of_a_second():
    meter = LevelMeter()
    assert meter.decibel() == -100.0
    meter.push(np.full(160, 0.5, np.float32))
    assert meter.decibel() == pytest.approx(-6.02, abs=0.01)
    for _ in range(9):
        meter.push(np.full(160, -0.1, np.float32))
    assert meter.decibel() == pytest.approx(-6.02, abs=0.01)
    meter.push(np.full(160, 0.1, np.float32))
    assert meter.decibel() == pytest.approx(-20.0, abs=0.01)
    meter.push(np.zeros(0, np.float32))
    assert meter.decibel() == pytest.approx(-20.0, abs=0.01)


@pytest.mark.parametrize("sizes", [[3], [RECENT_COLUMNS], [500, 500, 1], [2000], [0, 7, 0]])
def test_the_column_history_keeps_the_latest(sizes):
    history = ColumnHistory()
    everything = np.random.default_rng(0).uniform(-1, 1, (sum(sizes), 128)).astype(np.float32)
    at = 0
    seen = 0
    for size in sizes:
        history.push(everything[at : at + size])
        at += size
        seen += min(size, RECENT_COLUMNS)
    picture = history.snapshot()
    assert np.array_equal(picture.columns, everything[-len(picture.columns) :])
    assert len(picture.columns) == min(seen, RECENT_COLUMNS)


def test_a_snapshot_of_columns_does_not_change_afterwards():
    history = ColumnHistory()
    history.push(np.zeros((4, 128), np.float32))
    before = history.snapshot()
    history.push(np.ones((4, 128), np.float32))
    assert not before.columns.any()
    assert history.snapshot().total == 8


def test_rates_are_per_second_of_speech():
    meter = RateMeter()
    assert meter.snapshot() == Rate()
    for size in [256, 128]:
        meter.push(size)
    rate = meter.snapshot(wire=5.0)
    assert rate.now == pytest.approx(1000.0)
    assert rate.average == pytest.approx(1500.0)
    assert rate.history == pytest.approx((2000.0, 1000.0))
    assert rate.wire == 5.0


def test_throughput_forgets_what_is_long_ago():
    meter = Throughput(window=2.0)
    rates = [meter.update(0.1 * k, 100 * k if k < 50 else 4900) for k in range(100)]
    assert rates[40] == pytest.approx(8000.0, rel=0.02)
    assert rates[-1] == pytest.approx(0.0, abs=1.0)


def test_load_is_the_busy_share_of_the_last_seconds():
    meter = LoadMeter()
    for second in range(20):
        meter.push(second, second + 0.25)
    assert meter.share(20.0) == pytest.approx(0.25, abs=0.01)
    assert meter.share(100.0) == 0.0


def test_asking_for_the_load_changes_nothing():
    """So several threads may ask: one takes nothing from another."""
    meter = LoadMeter()
    meter.push(0.0, 1.0)
    assert meter.share(100.0) == 0.0
    assert meter.share(4.0) == pytest.approx(0.2)


def test_what_the_load_meter_keeps_is_bounded_by_time():
    meter = LoadMeter()
    for k in range(10_000):
        meter.push(0.1 * k, 0.1 * k + 0.05)
    assert meter.share(1000.0) == pytest.approx(0.5, abs=0.02)
    assert len(meter._spans) < 60


def test_the_journal_is_bounded_numbered_and_readable_from_a_number_on():
    journal = Journal()
    for number in range(2000):
        journal.info(f"line {number}")
    lines = journal.after(1990)
    assert [line.number for line in lines] == list(range(1991, 2000))
    assert len(journal.after(-1)) < 1000


def test_journal_lines_cannot_forge_others():
    sink = io.StringIO()
    journal = Journal(sink)
    journal.write("warning", 'a "name"\nt=0 level=info msg="forged" \x1b[2J back\\slash')
    journal.close(WAIT)
    assert sink.getvalue().count("\n") == 1
    assert "\x1b" not in sink.getvalue()
    line = LogLine(0, 1.5, "info", 'say "hi" \\')
    assert logfmt(line) == 't=1.500 level=info msg="say \\"hi\\" \\\\"'


def test_a_journal_whose_reader_has_gone_goes_on():
    sink = io.StringIO()
    journal = Journal(sink)
    sink.close()
    journal.info("still here")
    journal.close(WAIT)
    assert journal.after(-1)[0].text == "still here"


def test_journal_levels_below_the_least_stay_out_of_the_sink():
    sink = io.StringIO()
    journal = Journal(sink, least="warning")
    journal.info("quiet")
    journal.error("loud")
    journal.close(WAIT)
    assert "quiet" not in sink.getvalue() and "loud" in sink.getvalue()
    assert len(journal.after(-1)) == 2


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader_of_the_journal_who_has_stopped(blocking):
    """What is too much for him is counted where it is missing; the rest he gets in order."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    with open(reading) as reader:
        with open(writing, "w") as sink:
            journal = Journal(sink)

            def fill() -> None:
                for number in range(6000):
                    journal.info(f"line {number} ".ljust(100, "x"))
                assert journal.after(5998)[0].number == 5999

            writer = threading.Thread(target=fill, daemon=True)
            writer.start()
            writer.join(WAIT)
            assert not writer.is_alive()
            said = [reader.readline()]
            while "missing" not in said[-1]:
                said.append(reader.readline())
            journal.info("after it")
            journal.close(WAIT)
        said += reader.readlines()
    numbers = [int(match.group(1)) for line in said if (match := re.search("line ([0-9]+)", line))]
    assert numbers == list(range(len(numbers)))
    (lost,) = [int(match.group(1)) for line in said if (match := re.search('"([0-9]+) l', line))]
    assert len(numbers) + lost == 6000
    assert "after it" in said[-1]


def test_closing_a_journal_that_is_not_read_takes_no_longer_than_allowed():
    reading, writing = os.pipe()
    with open(reading):
        with open(writing, "w") as sink:
            journal = Journal(sink)
            for _ in range(3000):
                journal.info("x" * 100)
            begun = time.monotonic()
            journal.close(0.1)
            assert time.monotonic() - begun < WAIT / 2
        journal.info("later")


def test_requests_run_in_order_in_the_serving_thread_and_failures_are_told():
    journal = Journal()
    requests = Requests(journal)
    ran: list[object] = []

    def fail() -> None:
        raise BadInput("no such device")

    requests.post(lambda: ran.append(threading.get_ident()))
    requests.post(fail)
    requests.post(lambda: ran.append("last"))
    worker = threading.Thread(target=requests.serve)
    worker.start()
    worker.join(5)
    assert ran == [worker.ident, "last"]
    assert journal.after(-1)[0].text == "no such device"


def snapshot() -> Snapshot:
    """A call as it may look in its second minute."""
    return Snapshot(
        state=CallState.TALKING,
        seconds=83.4,
        preset="2k",
        presets=("2k",),
        model_id="0" * 16,
        talker=Talker(frames=80, steps=61, rate=Rate(now=1950.4), cost=float("nan")),
        listeners=(
            Listener(1, "ann", preset="1k2", latency=Latency(total=1.2345)),
            Listener(2, "bob", heard=False),
        ),
        link=Link("ann", True, dropped=7),
        input_device="mic",
        output_device="speaker",
    )


def test_a_snapshot_is_one_line_of_valid_json_without_pictures():
    text = to_json(snapshot())
    assert "\n" not in text
    values = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert values["state"] == "talking"
    assert values["talker"]["cost"] is None
    assert values["link"]["dropped"] == 7
    assert values["listeners"][0]["latency"]["total"] == 1.2345
    assert [item["preset"] for item in values["listeners"]] == ["1k2", ""]
    assert [item["heard"] for item in values["listeners"]] == [True, False]
    assert "spectrogram" not in values["talker"] and "history" not in values["talker"]["rate"]


def test_a_snapshot_as_text_holds_rate_and_delay():
    line = to_line(snapshot())
    assert "01:23 connected" in line
    assert "1950 bit/s 61 steps dropped 7" in line
    assert "dropped" not in to_line(replace(snapshot(), link=Link("ann", True)))
    assert "in 1k2 0 bit/s" in line
    assert "1234 ms" in line
    assert line.endswith("in not heard")
