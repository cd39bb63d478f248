"""A model folder appears whole or not at all, and takes the place of nothing but a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.errors import BadInput
from models.training.folders import new_model_folder


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_model_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "models" / "mine"
    with new_model_folder(out) as folder:
        (folder / "model.json").write_text("1")
        (folder / "model.json").chmod(0o600)
        assert not out.exists()
    assert _files(tmp_path) == ["models", "models/mine", "models/mine/model.json"]
    assert out.stat().st_mode & 0o777 == 0o755
    assert (out / "model.json").stat().st_mode & 0o777 == 0o644


def test_an_older_model_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "model.json").write_text("old")
    (out / "old.safetensors").write_text("old")
    with pytest.raises(RuntimeError), new_model_folder(out) as folder:
        (folder / "model.json").write_text("half")
        raise RuntimeError
    assert _files(tmp_path) == ["mine", "mine/model.json", "mine/old.safetensors"]
    assert (out / "model.json").read_text() == "old"
    with new_model_folder(out) as folder:
        (folder / "model.json").write_text("new")
    assert _files(tmp_path) == ["mine", "mine/model.json"]
    assert (out / "model.json").read_text() == "new"


def test_what_is_no_model_stays(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("sir")
    with pytest.raises(BadInput, match="no model folder"), new_model_folder(tmp_path / "letters"):
        pytest.fail("the block must not be entered")
    assert _files(tmp_path) == ["letters", "letters/dear.txt"]
