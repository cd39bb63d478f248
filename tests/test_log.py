"""The log of a call, which never blocks its callers."""

from __future__ import annotations

import io
import os
import re
import threading
import time

import pytest

from stream.log import Floodgate, Journal, LogLine, logfmt

WAIT = 60.0  # seconds anything may take on a busy machine


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
    at = 0
    for line in said:
        if match := re.search("line ([0-9]+)", line):
            assert int(match.group(1)) == at
            at += 1
        elif match := re.search('"([0-9]+) l', line):
            at += int(match.group(1))
    assert at == 6000
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


def test_a_flood_of_one_kind_leaves_the_rest_of_the_log_alone():
    gate = Floodgate(at_once=3, seconds=60.0, kinds=4)
    passed = [gate.admit("party 1", f"line {k}", 0.01 * k) for k in range(1000)]
    assert passed[:3] == ["line 0", "line 1", "line 2"] and set(passed[3:]) == {None}
    assert gate.admit("party 2", "Bob is here", 10.0) == "Bob is here"
    assert gate.admit("party 1", "again", 59.0) is None
    assert gate.admit("party 1", "again", 60.5) == "again (998 lines like this left out)"
    assert gate.admit("party 1", "again", 61.0) is None
    assert gate.admit("party 1", "again", 0.0) is None  # a clock that is set back
    for kind in range(100):
        gate.admit(f"kind {kind}", "", 70.0)
    assert len(gate._kinds) == 4


def test_what_matters_is_still_in_the_log_after_hours_of_a_flood():
    now = 0.0
    journal = Journal(clock=lambda: now)
    journal.error("the microphone is gone")
    for second in range(4 * 3600):
        now = float(second)
        journal.caused("party 3", "info", "here, and gone")
    kept = [line.text for line in journal.after(-1)]
    assert kept[0] == "the microphone is gone" and len(kept) < 260
    assert kept[-1].startswith("here, and gone (")
