"""Programs of several subjects: which there are, and what happens when one cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.subjects import run_subject


@pytest.fixture
def subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """One that works, one that lacks a package, one that is broken, one that is not shipped."""
    sources = {
        "subject_fine": "def main(argv):\n    return len(argv)\n",
        "subject_lacking": "import a_package_nobody_has\n",
        "subject_broken": "import codec.no_such_module\n",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return {name.removeprefix("subject_"): name for name in [*sources, "subject_absent"]}


def test_the_rest_of_the_line_is_the_subjects(subjects) -> None:
    assert run_subject("train", subjects, ["fine", "--a", "b"]) == 2
    assert run_subject("train", subjects, ["fine"]) == 0


@pytest.mark.parametrize("argv", [[], ["absent"], ["--fine"]])
def test_no_known_subject_is_wrong_usage(subjects, argv, capsys) -> None:
    assert run_subject("bench", subjects, argv, "DIR") == 2
    assert capsys.readouterr().err == "usage: sotto bench {fine,lacking,broken} DIR\n"


def test_help_is_no_failure(subjects, capsys) -> None:
    assert run_subject("train", subjects, ["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: sotto train {fine,lacking,broken} [options]")


def test_an_absent_package_names_the_extra(subjects, capsys) -> None:
    assert run_subject("train", subjects, ["lacking"]) == 1
    heard = capsys.readouterr().err
    assert "a_package_nobody_has" in heard
    assert heard.endswith("install sotto with its train extra, sotto[train]\n")
    assert heard.count("\n") == 1


def test_a_fault_of_our_own_is_not_hidden(subjects) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"codec\.no_such_module"):
        run_subject("train", subjects, ["broken"])
