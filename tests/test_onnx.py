"""`sotto export onnx`: what onnxruntime computes is what PyTorch does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.folder import load_speech_model
from models.networks.speech import SpeechModel
from tui.cli import main

NETWORKS = ("encoder", "generator", "prior")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    assert main(["export", "onnx", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def description(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "onnx.json").read_text())
    return found


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    found = load_speech_model("speech")
    assert isinstance(found, SpeechModel)
    return found


def test_the_description_is_of_the_files(
    folder: Path, description: dict[str, Any], model: SpeechModel
) -> None:
    assert {file.name for file in folder.iterdir()} == {
        "onnx.json", *(f"{name}.onnx" for name in NETWORKS)
    }  # fmt: skip
    assert description["model_id"] == model.model_id
    assert description["licence"] == "CC BY 4.0"
    runtime = pytest.importorskip("onnxruntime")
    for name, network in zip(NETWORKS, description["networks"], strict=True):
        assert (network["name"], network["file"]) == (name, f"{name}.onnx")
        assert network["opset"] >= 18
        session = runtime.InferenceSession(folder / network["file"])
        for told, found in (
            (network["inputs"], session.get_inputs()), (network["outputs"], session.get_outputs())
        ):  # fmt: skip
            assert [(each["name"], each["shape"]) for each in told] == [
                (each.name, each.shape) for each in found
            ]
            assert {each["dtype"] for each in told} == {"float32"}
            assert all(each["what"] for each in told)
    encoder, generator, _ = description["networks"]
    assert encoder["inputs"][0]["shape"] == ["batch", "8*steps", 128]
    assert encoder["outputs"][0]["shape"] == ["batch", "steps", 192]
    assert generator["outputs"][0]["shape"] == ["batch", "8*steps", 128]


@pytest.mark.parametrize(("frames", "steps"), [(1, 16), (3, 5), (1, 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_agrees_with_pytorch(
    folder: Path, description: dict[str, Any], model: SpeechModel, name: str, frames: int,
    steps: int,
) -> None:  # fmt: skip
    """Within the tolerance that the description states, of the largest value."""
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(5)
    rate = rng.uniform(0.0, 2.0, frames).astype(np.float32)
    if name == "encoder":
        taken = rng.uniform(-1.0, 1.0, (frames, 8 * steps, 128)).astype(np.float32)
    else:
        taken = np.rint(rng.normal(0.0, 3.0, (frames, steps, 192))).astype(np.float32)
    with torch.no_grad():
        wanted = getattr(model, name)(torch.from_numpy(taken), torch.from_numpy(rate))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    session = runtime.InferenceSession(folder / f"{name}.onnx")
    first, second = (each.name for each in session.get_inputs())
    found = session.run(None, {first: taken, second: rate})
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        largest = float(other.abs().max())
        assert one.shape == tuple(other.shape)
        assert np.abs(one - other.numpy()).max() <= description["tolerance"] * largest


def test_files_that_are_there_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert main(["export", "onnx", str(folder)]) == 1
    assert "exists" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_without_its_packages_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "models.inference.onnx_export", raising=False)
    monkeypatch.delattr("models.inference.onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "onnx", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "sotto[onnx]" in printed
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    weights = Path(__file__).resolve().parents[1] / "models" / "weights"
    out = str(tmp_path / "out")
    assert main(["export", "onnx", "--model", str(weights / "paper"), out]) == 1
    assert "no model of the speech presets" in capsys.readouterr().err
    assert main(["export", "onnx", "--model", str(weights / "photo"), out]) == 1
    assert not (tmp_path / "out").exists()
