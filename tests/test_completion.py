"""Shell completion, tried in bash, and the manual page."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_documents import _options
from tui import manual
from tui.cli import build_parser, main
from tui.commands import COMMANDS
from tui.commands.completion import SHELLS, mark

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "sotto.1"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "sotto.bash"
    with pytest.MonkeyPatch.context() as patch, open(file, "w", encoding="utf-8") as stream:
        patch.setattr("sys.stdout", stream)
        assert main(["completion", "bash"]) == 0
    return file


def completed(script: Path, folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    run = (
        f"source {script}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
        "entry=$(complete -p sotto) && entry=${entry##*-F } && ${entry%% *}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", run, "bash", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    (tmp_path / "talks").mkdir()
    assert set(COMMANDS) <= completed(script, tmp_path, "sotto", "")
    assert completed(script, tmp_path, "sotto", "de") == {"decode", "devices"}
    assert "speech" in completed(script, tmp_path, "sotto", "bench", "")
    assert completed(script, tmp_path, "sotto", "encode", "--no-s") == {"--no-search"}
    assert completed(script, tmp_path, "sotto", "encode", "--device", "c") == {"cpu", "cuda"}
    assert {"talk.wav", "talks"} <= completed(script, tmp_path, "sotto", "encode", "ta")
    assert completed(script, tmp_path, "sotto", "encode", "--model", "ta") == {"talks"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "transcode" in script
    assert "no-search" in script or shell == "tcsh"  # there shtab completes commands only


def test_other_shells_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "dos"]) == 2
    assert "bash" in capsys.readouterr().err


def test_switches_complete_no_files() -> None:
    parser = argparse.ArgumentParser()
    switch = parser.add_argument("--json", action="store_true")
    file = parser.add_argument("--log", metavar="FILE")
    folder = parser.add_argument("--model", metavar="FOLDER")
    number = parser.add_argument("--count", metavar="N")
    for action in (switch, file, folder, number):
        mark(action, "a file", "a folder")
    found = [getattr(action, "complete", None) for action in (switch, file, folder, number)]
    assert found == [None, "a file", "a folder", None]


# --- the manual page -----------------------------------------------------------------------------


def test_the_manual_is_that_of_the_options() -> None:
    kept, made = PAGE.read_text(encoding="utf-8"), manual.page()
    # The first line has the version, of which an environment may have another.
    assert kept.split("\n", 1)[1] == made.split("\n", 1)[1], "`make manual` renews docs/sotto.1"


def test_the_manual_names_every_command_and_option() -> None:
    text = PAGE.read_text(encoding="utf-8").replace(r"\-", "-")
    for name in COMMANDS:
        assert f"\n.SS {name}\n" in text
    missing = {each for each in _options(build_parser()) if each not in text}
    assert missing <= {"--help", "-h"}


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_set_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-wall", str(PAGE)],
        env={**os.environ, "GROFF_NO_SGR": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    # Bold letters are struck twice.
    plain = re.sub(r".\x08", "", done.stdout)
    assert "EXIT STATUS" in plain and "--no-search" in plain


def test_text_means_nothing_to_roff() -> None:
    assert manual._line(r"a\b 'c' - `d`") == r"a\eb \(aqc\(aq \- \(gad\(ga"
    assert manual._line(".SH none").startswith(r"\&.")


def test_the_wheel_has_the_manual() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"share/man/man1" = ["docs/sotto.1"]' in text
