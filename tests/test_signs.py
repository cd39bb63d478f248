"""Where only ASCII can be written, signs have ASCII ones, and names stay readable."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.test_no_terminal import COMMANDS, ROOT, command, read
from tui.terminal import signs

TEXT = "● 3.26 ±.07 → ─│┌┤ Björn 名 …"
# A table, a line and a bar, as commands write them.
PROGRAM = """
import sys
from models.evaluation.tables import UNKNOWN, console, table
from tui import cli
from tui.terminal.console import Bar, note

def run(arguments):
    found = table("quality ±", ["name"], ["PESQ"])
    found.add_row("x" * 9 + "…", UNKNOWN)
    console(sys.stdout).print(found)
    print(sys.argv[1])
    with Bar("▲ work") as bar:
        bar.update(0.5, "→ half")
        bar.note("● a line")
    note("✗ the end")
    return 0

cli._dispatch = run
sys.exit(cli.main([]))
"""
LOCALES = ("LC_ALL", "LC_CTYPE", "LANG", "LANGUAGE", "PYTHONIOENCODING", "PYTHONUTF8")
ASCII_ONLY = {
    "LANG=C": {"LANG": "C"},
    "LC_ALL=C": {"LC_ALL": "C", "LANG": "de_DE.UTF-8"},
    "no locale": {},
    "an unknown locale": {"LC_ALL": "xx_XX.ISO-8859-1", "LANG": "C.UTF-8"},
    "PYTHONIOENCODING": {"PYTHONIOENCODING": "ascii", "LANG": "C.UTF-8"},
    "a terminal": {"TERM": "vt220", "LANG": "C.UTF-8"},
}


def environment(**more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in LOCALES}
    return {**known, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def on_a_terminal(words: list[str], variables: dict[str, str]) -> bytes:
    above, here = pty.openpty()
    with subprocess.Popen(words, env=variables, stdin=here, stdout=here, stderr=here) as process:
        os.close(here)
        written = read(above, process)
    os.close(above)
    assert process.returncode == 0, written
    return written


@pytest.mark.parametrize("variables", ASCII_ONLY.values(), ids=ASCII_ONLY)
def test_tables_bars_and_lines(variables: dict[str, str]) -> None:
    written = on_a_terminal([sys.executable, "-c", PROGRAM, "±"], environment(**variables))
    assert written.isascii()
    words = re.sub(rb"\x1b\[[?\d;]*[A-Za-z]", b"", written)
    assert b"?" not in words and b"\\" not in words
    for part in (b"quality ~", b"xxxxxxxxx.", b"! work", b"> half", b"* a line", b"x the end"):
        assert part in written, written


@pytest.mark.parametrize("locale", ["C.UTF-8", "C.utf8", "xx_XX.UTF-8", "xx_XX"])
def test_with_unicode_nothing_is_replaced(locale: str) -> None:
    written = on_a_terminal([sys.executable, "-c", PROGRAM, "±"], environment(LANG=locale))
    for part in ("quality ±", "▲ work", "● a line", "✗ the end", "┃"):
        assert part.encode() in written


@pytest.mark.parametrize("variables", [{"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_the_screen_of_a_call(variables: dict[str, str]) -> None:
    words = command([*COMMANDS[0], "--seconds", "0.5"], "loaded")
    written = on_a_terminal(words, environment(**variables))
    assert b"\x1b[" in written
    assert written.isascii()
    assert b"\\u" not in written and b"\\x" not in written


def test_every_sign_of_the_screen_has_another() -> None:
    seen = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "snapshots").glob("*.txt")
    )
    unknown = {each for each in seen if not each.isascii() and signs.sign(each) is None}
    assert not unknown


def test_signs_are_one_cell_of_ascii() -> None:
    for code in (*range(0x2500, 0x2580), *map(ord, "±×…–→●○■▲▼▸✓✗·»▁▂▃▄▅▆▇█▀░▒▓")):
        found = signs.sign(chr(code))
        assert found is not None and found.isascii() and len(found) == 1, chr(code)
    assert signs.sign("ö") is None
    assert [signs.sign(each) for each in "─│┌┤╭╰┼"] == ["-", "|", "+", "+", "+", "+", "+"]


@pytest.mark.parametrize(
    ("errors", "written"),
    [
        ("sotto-lines", "* 3.26 ~.07 > -|++ Bj\\xf6rn \\u540d ."),
        ("sotto-bytes", "* 3.26 ~.07 > -|++ Björn 名 ."),
        ("sotto-screen", "* 3.26 ~.07 > -|++ Bjorn __ ."),
    ],
)
def test_text_is_kept_as_far_as_it_can_be(errors: str, written: str) -> None:
    assert TEXT.encode("ascii", errors).decode() == written


def test_file_names_in_the_locale_of_c_are_their_bytes() -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.wav")
    assert name.encode("ascii", "sotto-bytes") == b"caf\xe9 \xc3\xa9.wav"
    assert "\ud800".encode("ascii", "sotto-bytes") == b"\\ud800"


def test_names_on_the_screen_keep_their_width() -> None:
    for name, cells in (("Zoë", 3), ("Ødegård", 7), ("Иван", 4), ("木村", 4), ("e\u0301", 1)):
        assert len(name.encode("ascii", "sotto-screen")) == cells, name
    composed = unicodedata.normalize("NFD", "Björn")
    assert composed.encode("ascii", "sotto-screen") == b"Bjorn"


def test_other_error_handlers_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="ascii", errors="replace") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", io.StringIO())
        signs.choose()
        assert stream.errors == "replace"
        with signs.on_screen():  # standard error is no file
            pass
