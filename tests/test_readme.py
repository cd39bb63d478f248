"""The README is correct: its commands and Python examples run as written.

Code blocks are distinguished by their info string. ```` ```sh ```` blocks run in order, in one
folder that holds the beginnings of the shipped clips and pictures; ```` ```python ```` blocks run
there too, in an interpreter of their own. Blocks of plain `sotto` commands run in this process,
which saves starting a Python for each; those that need a shell get one. ```` ```sh no-test ```` is
for commands that need data, hours, a network or a sound card: those lines are checked word by word
against `--help` and `make -n`.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from tui.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SUBCOMMANDS_OF = {"image", "train", "bench", "export"}
# Commands of a no-test block that are the shell's or the system's own.
FOREIGN = {"cd", "git", "sudo", "source", "."}
BLOCK_SECONDS = 600
# As much as the examples need: three frames of speech, and more than one tile of a picture.
SPEECH_SECONDS = 2.2
PICTURE_PIXELS = (160, 96)


@dataclass(frozen=True)
class Block:
    """One fenced code block."""

    language: str
    marks: frozenset[str]
    code: str
    line: int  # of the opening fence, from 1

    @property
    def tested(self) -> bool:
        return "no-test" not in self.marks


def code_blocks(text: str) -> list[Block]:
    """All fenced blocks of a Markdown text, in order."""
    blocks = []
    opening: tuple[str, list[str], int] | None = None
    code: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"(`{3,})\s*([^`]*)$", line)
        if opening is None and fence:
            opening, code = (fence[1], fence[2].split(), number), []
        elif opening is not None and fence and not fence[2] and len(fence[1]) >= len(opening[0]):
            _, info, start = opening
            language = info[0] if info else ""
            body = "".join(f"{row}\n" for row in code)
            blocks.append(Block(language, frozenset(info[1:]), body, start))
            opening = None
        elif opening is not None:
            code.append(line)
    if opening is not None:
        raise ValueError(f"line {opening[2]}: this code block is never closed")
    return blocks


def commands(code: str) -> list[list[str]]:
    """The words of each simple command in a shell block: comments and continuations are resolved,
    and a pipeline or list gives one entry per command. Redirections are left out."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        redirected = False
        for word in [*words, ";"]:
            if set(word) <= set("|&;()"):
                if command:
                    found.append(command)
                command = []
            elif set(word) <= set("<>"):
                redirected = True
            elif redirected:
                redirected = False
            else:
                command.append(word)
    return found


def split_sotto(command: list[str]) -> tuple[list[str], list[str]]:
    """["sotto", "train", "speech", "--data", "DIR"] -> (["train", "speech"], ["--data"])."""
    depth = 2 if command[1:2] and command[1] in SUBCOMMANDS_OF else 1
    flags = [word.split("=")[0] for word in command[1 + depth :] if re.match(r"--?[a-z]", word)]
    return command[1 : 1 + depth], flags


def plain_commands(code: str) -> list[list[str]] | None:
    """The words of a block's commands, if all are `sotto` without anything that a shell adds."""
    if set(code) & set("|&;<>()$`*?~"):
        return None
    found = commands(code)
    return found if all(command[0] == "sotto" for command in found) else None


def readme_blocks(language: str, *, tested: bool) -> list[Block]:
    blocks = code_blocks(README.read_text(encoding="utf-8"))
    return [block for block in blocks if block.language == language and block.tested is tested]


def environment(folder: Path) -> dict[str, str]:
    """The caller's environment with this checkout's `sotto` first on the path."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    shim = programs / "sotto"
    start = "import sys; from tui.cli import main; sys.exit(main())"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{start}" "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def run(command: list[str], folder: Path, variables: dict[str, str], what: str) -> str:
    """Run to success, else fail the test with what the command printed. Returns its output."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"{what}: still running after {BLOCK_SECONDS} s")
    if done.returncode:
        pytest.fail(f"{what}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to the README's examples, with less in it."""
    folder = tmp_path / "checkout" / "tests"
    for name in ("clips", "images"):
        (folder / name).mkdir(parents=True)
    (folder.parent / "models").mkdir()
    (folder.parent / "models" / "weights").symlink_to(ROOT / "models" / "weights")
    for path in (ROOT / "tests" / "clips").glob("*.flac"):
        samples, rate = soundfile.read(path, dtype="int16", frames=int(SPEECH_SECONDS * 16_000))
        soundfile.write(folder / "clips" / path.name, samples, rate)
    for path in (ROOT / "tests" / "images").glob("*.png"):
        with Image.open(path) as picture:
            picture.crop((0, 0, *PICTURE_PIXELS)).save(folder / "images" / path.name)
    return folder.parent


def test_shell_examples(
    tmp_path: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    variables = environment(tmp_path)
    monkeypatch.chdir(checkout)
    blocks = readme_blocks("sh", tested=True)
    used = {tuple(command[:2]) for block in blocks for command in commands(block.code)}
    assert {("sotto", name) for name in ("encode", "decode", "transcode", "info")} <= used
    plain = 0
    for block in blocks:
        where = f"README.md:{block.line}"
        words = plain_commands(block.code)
        if words is None:
            # As typed at a prompt, except that the first failure ends it.
            script = f"set -e -o pipefail\n{block.code}"
            run(["bash", "-c", script], checkout, variables, where)
            continue
        for command in words:
            assert main(command[1:]) == 0, f"{where}: {shlex.join(command)}: {capfd.readouterr()}"
            plain += 1
    assert 0 < plain < sum(len(commands(block.code)) for block in blocks)


def test_python_examples(tmp_path: Path, checkout: Path) -> None:
    """All in one interpreter, but each with its own names."""
    blocks = readme_blocks("python", tested=True)
    assert len(blocks) >= 2
    assert not readme_blocks("python", tested=False)
    files = [tmp_path / f"README.md:{block.line}" for block in blocks]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block.code, encoding="utf-8")
    one_by_one = "import runpy, sys\nfor path in sys.argv[1:]: runpy.run_path(path)"
    command = [sys.executable, "-c", one_by_one, *map(str, files)]
    run(command, checkout, environment(tmp_path), "README.md")


def test_commands_that_are_not_run_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = environment(tmp_path)

    @lru_cache
    def help_words(*subcommand: str) -> frozenset[str]:
        assert main([*subcommand, "--help"]) == 0, subcommand
        text = capsys.readouterr().out
        return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))

    checked = 0
    for block in readme_blocks("sh", tested=False):
        where = f"README.md:{block.line}"
        for command in commands(block.code):
            if command[0] == "sotto":
                subcommand, flags = split_sotto(command)
                unknown = set(flags) - help_words(*subcommand)
                assert not unknown, f"{where}: sotto {' '.join(subcommand)} has no {unknown}"
                checked += 1
            elif command[0] == "make":
                run(["make", "-n", *command[1:]], ROOT, variables, where)
                checked += 1
            else:
                assert command[0] in FOREIGN, f"{where}: nothing checks {command}"
    assert checked >= 4


def test_local_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README.read_text(encoding="utf-8"))
    local = [target.split("#")[0] for target in targets if "://" not in target]
    assert local
    assert [target for target in local if target and not (ROOT / target).exists()] == []


# --- the extraction itself -----------------------------------------------------------------------

MARKDOWN = """\
Text, `inline` and
```sh
sotto encode a.flac a.sotto  # a comment
cat a.sotto | sotto decode - - \\
    --loss-rate 0.1 > 'a b.wav' && ls
```
````sh no-test slow
```
make demo
````
```
no language
```
"""


def test_blocks_are_found_with_language_marks_and_line() -> None:
    first, second, third = code_blocks(MARKDOWN)
    assert (first.language, first.tested, first.line) == ("sh", True, 2)
    assert first.code.startswith("sotto encode") and first.code.endswith("&& ls\n")
    assert (second.language, second.tested) == ("sh", False)
    assert second.marks == {"no-test", "slow"}
    assert second.code == "```\nmake demo\n"
    assert (third.language, third.code, third.line) == ("", "no language\n", 11)


def test_an_unclosed_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 3"):
        code_blocks("a\n\n```sh\nls\n")


def test_commands_are_taken_apart() -> None:
    assert commands(code_blocks(MARKDOWN)[0].code) == [
        ["sotto", "encode", "a.flac", "a.sotto"],
        ["cat", "a.sotto"],
        ["sotto", "decode", "-", "-", "--loss-rate", "0.1"],
        ["ls"],
    ]


def test_subcommands_and_flags_are_told_apart() -> None:
    train = ["sotto", "train", "speech", "--data", "DIR", "--minutes=5"]
    assert split_sotto(train) == (["train", "speech"], ["--data", "--minutes"])
    assert split_sotto(["sotto", "encode", "-", "x.sotto"]) == (["encode"], [])


def test_what_needs_a_shell_is_told_from_what_does_not() -> None:
    assert plain_commands("sotto info a.sotto  # here\nsotto encode \\\n  a 'b c'\n") == [
        ["sotto", "info", "a.sotto"],
        ["sotto", "encode", "a", "b c"],
    ]
    for code in ("ls", "sotto info a > b", "sotto info *.sotto", "sotto listen &\nwait"):
        assert plain_commands(code) is None


def test_a_failing_command_fails_the_test(tmp_path: Path) -> None:
    script = ["bash", "-c", "set -e -o pipefail\nfalse | true\ntrue"]
    with pytest.raises(pytest.fail.Exception, match=r"README\.md:1: exit 1"):
        run(script, tmp_path, dict(os.environ), "README.md:1")
