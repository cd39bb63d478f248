"""The documents are correct: the paths, modules and options that they name exist."""

from __future__ import annotations

import argparse
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tui.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# A path or dotted name that begins with a folder of the tree.
_PATH = re.compile(r"(?<![\w./-])(?:codec|docs|models|scripts|stream|tests|tui)/[\w./-]*\w/?")
_DOTTED = re.compile(r"(?<![\w./-])(?:codec|models|stream|tests|tui)(?:\.[A-Za-z_]\w*)+")
# Options of other programs, and of the tests' own.
_FOREIGN = {
    "--plain", "--no-deps",
    "--build-arg", "--cap-drop", "--memory", "--rm", "--security-opt", "--userns",
}  # fmt: skip


def _code(text: str) -> str:
    """What stands in backticks, and the lines of code blocks."""
    fenced = re.findall(r"^```.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*re.findall(r"`([^`]+)`", rest), *fenced])


def _exists(path: str) -> bool:
    """Also as a module without its suffix, as diagrams name it."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _options(subparser)


@pytest.fixture(scope="module")
def options() -> frozenset[str]:
    return frozenset(_options(build_parser())) | _FOREIGN


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document: Path, options: frozenset[str]) -> None:
    text = document.read_text(encoding="utf-8")
    code = _code(text)

    paths = set(_PATH.findall(code))
    assert sorted(path for path in paths if not _exists(path)) == []

    modules = {path.name for part in ("codec", "models", "stream", "tests", "tui")
               for path in (ROOT / part).rglob("*.py")}  # fmt: skip
    assert set(re.findall(r"`(\w+\.py)`", text)) <= modules

    for name in {name for name in _DOTTED.findall(code) if not _exists(name)}:
        pkgutil.resolve_name(name)

    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
    assert sorted(named - options) == []

    links = (target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text))
    local = {target for target in links if target and "://" not in target}
    assert sorted(target for target in local if not (document.parent / target).exists()) == []


_HEADINGS = (
    "Rate", "Band", "Data", "Training", "Licences", "Figures", "Known failures", "Not for",
)  # fmt: skip


@pytest.mark.parametrize(
    "folder",
    sorted(path.name for path in (ROOT / "models" / "weights").iterdir() if path.is_dir()),
)
def test_every_model_has_a_card(folder: str) -> None:
    text = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    card = re.compile(r"^## Model card: `weights/([^`]+)`\n(.*?)(?=^## |\Z)", re.M | re.S)
    part = re.compile(r"^- \*\*([^*]+)\.\*\* (.*?)(?=^- \*\*|\Z)", re.M | re.S)
    found = part.findall(dict(card.findall(text))[folder])
    assert tuple(name for name, _ in found) == _HEADINGS
    told = dict(found)
    assert "GPL-3.0-or-later" in told["Licences"] and "CC BY" in told["Licences"]
    assert "`sotto " in told["Figures"]  # the command that prints them


def test_paths_and_modules_are_found_in_code() -> None:
    code = _code("see `a/codec/x.py`, `tui/app/` and `stream.link`\n```\ncodec/y\n```\n")
    assert _PATH.findall(code) == ["tui/app/", "codec/y"]
    assert _DOTTED.findall(code) == ["stream.link"]
