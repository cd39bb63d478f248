"""Snapshots of a call as JSON and as a line of text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stream.call.snapshot import Latency, LateOver, Party, Rate, Snapshot, Talker
from stream.link.events import CallState, Link
from tui.headless import to_line


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
            Party(1, "ann", preset="1k2", latency=Latency(total=1.2345)),
            Party(2, "bob", heard=False),
        ),
        link=Link("ann", True, dropped=7),
        input_device="mic",
        output_device="speaker",
    )


def test_a_snapshot_is_one_line_of_valid_json_without_pictures():
    text = snapshot().to_json()
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
    assert "1950 bit/s (IP 0) 61 steps dropped 7" in line
    assert "dropped" not in to_line(replace(snapshot(), link=Link("ann", True)))
    assert "in 1k2 0 bit/s" in line
    assert "1234 ms" in line
    assert line.endswith("in not heard")
    assert "grown" not in line
    assert "records" not in line
    first, *others = snapshot().listeners
    for recorded in (first, *others):
        text = to_line(replace(snapshot(), listeners=(replace(recorded, recording=True),)))
        assert text.endswith(" (records)")
    kept = replace(snapshot(), link=replace(snapshot().link, kept=4.4))
    assert " | kept 4 s | " in to_line(kept)
    over = LateOver('"Ann"', 12.3, 5.0)
    assert ' | late: "Ann", 12 s ago | ' in to_line(replace(snapshot(), late=over))
    assert json.loads(replace(snapshot(), late=over).to_json())["late"]["ago"] == 12.3
    late = replace(snapshot(), listeners=(replace(first, grown=0.31), *others))
    assert "delay 1234 ms (grown by 310)" in to_line(late)
