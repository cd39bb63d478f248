"""Console output: one line at a time, and a progress bar only on a terminal."""

from __future__ import annotations

import importlib
import io
import json

import pytest

from codec.errors import BadInput
from codec.image.settings import SearchProgress
from models.training.log import TrainingLog
from tui.terminal.console import Bar, note
from tui.terminal.exit_status import exit_status, extra
from tui.terminal.progress import Progress, StageProgress
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


def test_what_a_file_says_moves_no_terminal(capsys, monkeypatch) -> None:
    note("its profile is for \x1bc\u202e:x:")
    screen = _terminal(monkeypatch)
    with Bar("encode") as bar:
        bar.note("for \x1b]0;x\x07 :smile:")
    said = capsys.readouterr().err + screen.getvalue()
    assert r"for \x1bc\u202e:x:" in said and r"for \x1b]0;x\x07 :smile:" in said


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


def test_stages_are_drawn_in_turn(monkeypatch) -> None:
    terminal = _terminal(monkeypatch)
    with StageProgress() as progress:
        progress.note("before")
        progress.show("one", 0.25, "step 2  loss 0.5000  30/s")
        progress.note("within")
        progress.show("two", 0.5, "step 9")
    seen = terminal.getvalue()
    for part in ("sotto: before", "one", "25%", "loss 0.5000  30/s", "sotto: within", "two", "50%"):
        assert part in seen


def test_a_log_has_means_and_only_one_process_writes_it(tmp_path) -> None:
    for folder in (None, tmp_path):
        log = TrainingLog(folder, every=2)
        log.step(1, 0.05, {"loss": 1.0})
        log.step(2, 0.1, {"loss": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line == {"step": 2, "minutes": 0.1, "loss": 0.75}


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (None, 0, ""),
        (BadInput("no data"), 1, "sotto: no data\n"),
        (OSError(28, "No space left on device", "a"), 1, "sotto: a: no space left on device\n"),
        (MemoryError(), 1, "sotto: out of memory\n"),
        (ValueError("x"), 1, "sotto: unexpected ValueError: x (set SOTTO_DEBUG=1 to see where)\n"),
        (SystemExit(143), 143, ""),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "sotto: interrupted\n"),
    ],
)
def test_how_a_command_ends(error, status, line, capsys, monkeypatch) -> None:
    monkeypatch.delenv("SOTTO_DEBUG", raising=False)

    def work() -> int:
        if error is not None:
            raise error
        return 0

    assert exit_status(work) == status
    assert capsys.readouterr().err == line


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(BadInput, match=r"a_package_nobody_has.*sotto\[train\]"), extra("train"):
        importlib.import_module("a_package_nobody_has")
    with pytest.raises(ModuleNotFoundError, match=r"codec\.no_such_module"), extra("train"):
        importlib.import_module("codec.no_such_module")
