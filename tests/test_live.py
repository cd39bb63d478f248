"""What the terminal front end does around a call, which is faked here."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from functools import partial
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import stream.call.call
from codec.errors import BadInput
from stream.audio.frontend import Processing
from stream.call.call import CallSettings
from stream.call.recorder import check_recordable
from stream.link.authentication import Security
from stream.link.events import Offer
from stream.link.listener import Listener
from tests.fake_call import FakeCall
from tui import headless, live
from tui.cli import main
from tui.terminal.signals import unwinding

OPTIONS = ["--headless", "--insecure", "--input", "none", "--output", "none"]


class Running(FakeCall):
    """A call as `run` makes it: it is over when told so."""

    made: ClassVar[list[Running]]

    def __init__(self, *parts: Any) -> None:
        super().__init__("talking")
        self.parts = parts
        self.over = threading.Event()
        self.closing: list[str] = []
        type(self).made.append(self)

    def start(self) -> None:
        self.closing.append("started")

    def wait(self, timeout: float) -> bool:
        return self.over.wait(timeout)

    def hang_up(self) -> None:
        super().hang_up()
        self.over.set()

    def close(self) -> None:
        self.closing.append("closing")
        self.set_recording(None)
        self.closing.append("closed")


def load(args: argparse.Namespace) -> tuple[SimpleNamespace, dict[int, float]]:
    return SimpleNamespace(model_id="6f3a91bc6f3a91bc", preset=args.preset), {}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> type[Running]:
    """The class of calls that `live.run` makes from now on, loading nothing."""

    Running.made = []
    monkeypatch.setattr(stream.call.call, "Call", Running)
    monkeypatch.setattr(live, "_load", load)
    return Running


def options(*more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    live.add_options(parser)
    return parser.parse_args([*OPTIONS, *more])


def run(args: argparse.Namespace) -> int:
    def connect(offer: Offer, keys: Security) -> Listener:
        return Listener("127.0.0.1:0", offer, keys)

    return live.run(args, connect)


def test_a_recording_gets_its_name_whatever_signals_come(
    running: type[Running], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = str(tmp_path / "x.wav")

    def wait(self: Running, timeout: float) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    def set_recording(self: Running, path: str | None) -> None:
        if path is None:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
        self.closing.append(f"recording {path}")

    monkeypatch.setattr(running, "wait", wait)
    monkeypatch.setattr(running, "set_recording", set_recording)
    with pytest.raises(SystemExit) as caught, unwinding():
        run(options("--record", record))
    assert caught.value.code == 128 + signal.SIGTERM
    (call,) = running.made
    assert call.closing == ["started", f"recording {record}", "closing", "recording None", "closed"]


def settings_of(running: type[Running]) -> CallSettings:
    """Those of the one call that was made."""
    (call,) = running.made
    (settings,) = [part for part in call.parts if isinstance(part, CallSettings)]
    return settings


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ((), Processing(True, True, True)),
        (("--no-echo-cancellation",), Processing(False, True, True)),
        (("--no-noise-suppression",), Processing(True, False, True)),
        (("--no-gain-control",), Processing(True, True, False)),
    ],
)
def test_what_a_microphone_goes_through_may_be_left_out(
    running: type[Running], more: tuple[str, ...], wanted: Processing
) -> None:
    assert run(options("--seconds", "0.1", *more)) == 0
    assert settings_of(running).processing == wanted


@pytest.mark.parametrize(("more", "wanted"), [((), True), (("--no-chime",), False)])
def test_a_call_begins_with_a_chime(
    running: type[Running], more: tuple[str, ...], wanted: bool
) -> None:
    assert run(options("--seconds", "0.1", *more)) == 0
    assert settings_of(running).chime is wanted


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of which nothing can be written; statistics try it often."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr(headless, "INTERVAL", 0.05)
    return "/dev/full"


def test_a_full_disk_ends_statistics_and_not_the_call(running: type[Running], full: str) -> None:
    assert run(options("--stats-json", full, "--seconds", "0.5")) == 0
    (call,) = running.made
    journal = call.parts[-1]
    (line,) = [line for line in journal.after(-1) if line.level == "warning"]
    assert "/dev/full" in line.text and "no space left" in line.text


def test_a_call_with_a_screen_hangs_up_in_time_without_statistics(full: str) -> None:
    call, warnings = Running(), Queue[str]()
    with headless.statistics_file(full) as statistics:
        watch = partial(
            headless.follow,
            call,
            warnings.put,
            statistics=statistics,
            seconds=0.5,
        )
        with live.following(call, watch):
            assert "no space left" in warnings.get(timeout=60)
            assert call.over.wait(60)
    assert warnings.empty()


def test_statistics_are_one_object_a_line(running: type[Running], tmp_path: Path) -> None:
    target = tmp_path / "figures.jsonl"
    assert run(options("--stats-json", str(target), "--seconds", "0.1")) == 0
    assert [json.loads(line)["state"] for line in target.read_text().splitlines()] == ["talking"]


def test_statistics_are_added_to_a_file_until_it_is_full(
    running: type[Running], tmp_path: Path
) -> None:
    target = tmp_path / "figures.jsonl"
    target.write_text("{}\n")
    assert run(options("--stats-json", str(target), "--seconds", "0.1")) == 0
    assert len(target.read_text().splitlines()) == 2
    size = 2**20
    target.write_text("x" * (size - 1) + "\n")
    assert run(options("--stats-json", str(target), "--seconds", "0.1", "--size-limit", "1")) == 0
    assert target.stat().st_size == size
    (line,) = [line for line in running.made[-1].parts[-1].after(-1) if line.level == "warning"]
    assert "figures.jsonl is full" in line.text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["listen", "--bind", ":99999"], "99999"),
        (["listen", "--bind", "127.0.0.1", "--name", "n" * 65], "name is longer than 64 bytes"),
        (["listen", "--bind", "127.0.0.1", "--impair", "los=1"], "'los=1'"),
        (["listen", "--bind", "127.0.0.1", "--preset", "2kk"], "'2kk'"),
        (["listen", "--bind", "127.0.0.1", "--record", "talk.mp3"], "talk.mp3"),
        (["call", "127.0.0.1", "--record", "nowhere/talk.wav"], "nowhere/talk.wav"),
        (["call", "127.0.0.1", "--record-overs", "/dev/null/overs"], "/dev/null/overs"),
    ],
)
def test_what_is_misspelt_is_said_before_loading(
    command: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def loading(args: argparse.Namespace) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(live, "_load", loading)
    monkeypatch.chdir(tmp_path)
    assert main([*command, *OPTIONS]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["", ":4747", "*", "[]", "localhost:0", "h:70000", "a b"])
def test_what_is_no_host_is_a_wrong_use(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "_load", lambda args: pytest.fail("too late"))
    assert main(["call", host, *OPTIONS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("NAME or HOST[:PORT] is wanted")


def test_a_line_is_said_by_a_call_without_a_screen(running: type[Running]) -> None:
    assert run(options("--say", "this is a recorder", "--seconds", "0.5")) == 0
    (call,) = running.made
    assert ("send_text", "this is a recorder") in call.calls


def test_standard_input_is_not_both_lines_and_sound_or_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for more in (["--headless", "--input", "-"], ["--headless", "--send-file", "-"], []):
        assert main(["call", "127.0.0.1", "--insecure", "--say", "-", *more]) == 2
        assert "standard input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "size"), [("ä" * 101, 202), ("x" * 201, 201), ("", 0), (" \u202e\n", 0)]
)
def test_a_line_that_cannot_be_sent_is_said_before_anybody_is_called(
    running: type[Running], capsys: pytest.CaptureFixture[str], line: str, size: int
) -> None:
    assert main(["call", "127.0.0.1", "--insecure", "--headless", "--say", line]) == 2
    assert f"and this one {size}" in capsys.readouterr().err
    assert not running.made


def test_overs_are_recorded_to_the_folder_that_is_named(
    running: type[Running], tmp_path: Path
) -> None:
    folder = str(tmp_path / "overs")
    assert run(options("--record-overs", folder, "--seconds", "0.1")) == 0
    assert ("record_overs", folder) in running.made[-1].calls


def test_looking_whether_one_can_record_leaves_no_trace(tmp_path: Path) -> None:
    before = tmp_path / "before.wav"
    before.write_bytes(b"an earlier call")
    with pytest.raises(BadInput, match="exists"):
        check_recordable(before)
    check_recordable(tmp_path / "new.wav")
    assert list(tmp_path.iterdir()) == [before]
    assert before.read_bytes() == b"an earlier call"
