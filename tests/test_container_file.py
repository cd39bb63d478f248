"""The container file and its document: what they name exists, and nothing in it runs as root."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from pathlib import Path

import pytest

from stream.link.address import DEFAULT_PORT
from tests.test_readme import code_blocks, commands
from tui.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "Containerfile"
DOCUMENT = ROOT / "docs" / "container.md"
# Options of `podman run` that are followed by a value.
VALUED = {"-v", "-e", "-p", "--name", "--memory", "--security-opt"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) for each, lines that go on joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def values(name: str, *, last_stage: bool = False) -> list[str]:
    found = instructions()
    if last_stage:
        found = found[max(at for at, (each, _) in enumerate(found) if each == "FROM") :]
    return [rest for each, rest in found if each == name]


def volumes() -> list[str]:
    (text,) = values("VOLUME")
    return list(json.loads(text))


def variables() -> dict[str, str]:
    (text,) = values("ENV", last_stage=True)
    return dict(word.split("=", 1) for word in shlex.split(text))


def image_command() -> list[str]:
    (entry,), (default,) = values("ENTRYPOINT"), values("CMD")
    return [*json.loads(entry), *json.loads(default)]


def test_its_command_is_understood() -> None:
    args = build_parser().parse_args(image_command()[1:])
    assert args.command == "listen" and args.headless and args.keep
    assert args.input == args.output == "none"
    assert args.bind == f":{DEFAULT_PORT}"
    assert values("EXPOSE") == [f"{DEFAULT_PORT}/tcp"]


def test_nothing_runs_as_root() -> None:
    names = [name for name, _ in instructions()]
    last = len(names) - 1 - names[::-1].index("FROM")
    after = names.index("USER")
    assert after > last
    assert values("USER") == ["sotto"]
    (user,) = [rest for rest in values("RUN", last_stage=True) if "useradd" in rest]
    assert re.search(r"useradd --uid [1-9]\d* ", user)
    # Nobody becomes somebody else afterwards.
    assert names.index("ENTRYPOINT") > after
    assert "sudo" not in FILE.read_text()


def test_what_is_written_has_a_place_of_its_own() -> None:
    assert variables()["SOTTO_HOME"] in volumes()
    (made,) = [rest for rest in values("RUN", last_stage=True) if "install -d" in rest]
    places = made.rpartition(" -m 700 ")[2].split()
    assert {*volumes(), variables()["NUMBA_CACHE_DIR"]} == set(places)
    assert values("WORKDIR", last_stage=True)[0] in places


def test_what_it_copies_exists_and_is_let_in() -> None:
    patterns = (ROOT / ".dockerignore").read_text().split("\n")
    admitted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    copied = [words for rest in values("COPY") if not (words := rest.split())[0].startswith("--")]
    sources = [name for words in copied for name in words[:-1]]
    assert sorted(sources) == sorted(admitted)
    for name in sources:
        assert (ROOT / name).exists(), name
    # Everything that is installed is among them.
    packages = re.search(r"include = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    for pattern in re.findall(r'"(.*?)"', packages[1]):
        assert fnmatch.filter(sources, pattern), pattern


def test_it_has_the_torch_and_the_libraries_of_the_set_up() -> None:
    setup = (ROOT / "scripts" / "setup").read_text()
    pytorch = (ROOT / "scripts" / "install-torch").read_text()
    (version,) = re.findall(r"^torch=(\S+)$", pytorch, re.MULTILINE)
    assert any(f" {version}" in f" {rest}" for rest in values("RUN"))
    (index,) = re.findall(r"^cpu_index=(\S+)$", pytorch, re.MULTILINE)
    assert values("ARG") == [f"TORCH_INDEX={index}"]
    # Nothing is compiled.
    for package in ("libfftw3", "liblapack", "cmake", "make", "g++", "gcc"):
        assert not any(package in rest for rest in values("RUN"))
    for package in ("libportaudio2", "libsndfile1", "libasound2-plugins"):
        assert package in setup
        assert any(package in rest for rest in values("RUN", last_stage=True))


def sotto_commands() -> list[list[str]]:
    """The arguments of every `sotto` that the file and the document run."""
    found = [rest.split()[1:] for rest in values("RUN") if rest.startswith("sotto ")]
    for block in code_blocks(DOCUMENT.read_text(encoding="utf-8")):
        for words in commands(block.code):
            assert words[0] == "podman"
            if words[1] == "run":
                found.append(after_image(words[2:]))
    return found


def after_image(words: list[str]) -> list[str]:
    """What `podman run` hands to the image; without anything, the image's own command."""
    at = 0
    while words[at].startswith("-"):
        at += 2 if words[at] in VALUED else 1
    assert words[at] == "sotto", words
    return words[at + 1 :] or image_command()[1:]


@pytest.mark.parametrize("words", sotto_commands(), ids=" ".join)
def test_the_commands_exist(words: list[str]) -> None:
    args = build_parser([words[0]]).parse_args(words)
    for option in ("record", "send_file"):
        path = getattr(args, option, None)
        assert path is None or any(path.startswith(f"{volume}/") for volume in volumes())


def test_the_document_mounts_what_the_file_declares() -> None:
    text = DOCUMENT.read_text()
    mounted = set(re.findall(r"-v sotto-\w+:(\S+)", text))
    assert mounted == set(volumes())
    assert set(re.findall(r"-p (\d+:\d+)", text)) == {f"{DEFAULT_PORT}:{DEFAULT_PORT}"}
    assert len(sotto_commands()) >= 7
