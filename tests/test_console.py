"""What a person is told: one line at a time, and a bar only where it can be seen."""

from __future__ import annotations

import io
import json

import pytest

from codec.console import Bar, note
from codec.errors import BadInput
from codec.image.settings import SearchProgress
from models.training.interruption import Interruption
from models.training.journal import Journal
from models.training.outcome import status_of
from tui.terminal.progress import Progress
from tui.terminal.steps import show_search


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def _terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = _Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def test_a_reason_of_several_lines_is_one(capsys) -> None:
    note("first\n   second")
    assert capsys.readouterr().err == "sotto: first second\n"


@pytest.mark.parametrize("stderr", [None, _Full()])
def test_a_stderr_that_is_gone_stops_nothing(stderr, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", stderr)
    with Bar("work") as bar:
        bar.update(0.5)
        bar.note("half")
    note("done")


def test_in_a_pipe_there_is_no_bar(capsys) -> None:
    with Bar("work") as bar:
        bar.describe("other work")
        bar.update(0.5, "half")
        bar.note("a line")
    assert capsys.readouterr().err == "sotto: a line\n"


def test_on_a_terminal_there_is_one(monkeypatch) -> None:
    terminal = _terminal(monkeypatch)
    with Bar("[red]work", 4.0, "{task.completed:.0f} pieces") as bar:
        bar.update(3.0, "nearly")
        bar.note("[bold] is no markup")
    seen = terminal.getvalue()
    assert "[red]work" in seen
    assert "3 pieces" in seen
    assert "nearly" in seen
    assert "sotto: [bold] is no markup" in seen


def test_speed_and_cost_are_told(monkeypatch) -> None:
    terminal = _terminal(monkeypatch)
    with Progress("encode", 10.0) as progress:
        progress.advance(5.0)
    with Bar("search") as bar:
        show_search(bar, SearchProgress(0.5, 0.75, 12))
    seen = terminal.getvalue()
    assert "5 s" in seen
    assert "x real time" in seen
    assert "step 12  cost 75.0 %" in seen


def test_a_training_tells_its_loss_and_only_one_process_talks(monkeypatch, tmp_path) -> None:
    terminal = _terminal(monkeypatch)
    with Journal(None, "two") as journal:
        journal.step(1, 0.1, 0.2, {"loss": 1.0}, 30.0)
        journal.note("unheard")
    assert terminal.getvalue() == ""
    with Journal(tmp_path, "one", every=2) as journal:
        journal.step(2, 0.1, 0.25, {"loss": 0.5}, 30.0)
        journal.note("heard")
    seen = terminal.getvalue()
    assert "25%" in seen
    assert "step 2  loss 0.5000  30 frames/s" in seen
    assert "sotto: heard" in seen
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line == {"step": 2, "minutes": 0.1, "loss": 0.5}


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (None, 0, ""),
        (BadInput("no data"), 1, "sotto: no data\n"),
        (OSError(28, "No space left on device", "a"), 1, "sotto: a: No space left on device\n"),
        (KeyboardInterrupt(), 130, "sotto: interrupted\n"),
    ],
)
def test_how_a_training_ends(error, status, line, capsys) -> None:
    def work() -> None:
        if error is not None:
            raise error

    assert status_of(work) == status
    assert capsys.readouterr().err == line


def test_a_training_that_was_stopped_says_how_to_go_on(capsys) -> None:
    interruption = Interruption()
    interruption.number = 15
    assert status_of(lambda: None, interruption) == 143
    assert "goes on from it" in capsys.readouterr().err
