"""A model that one trains is a model that one uses: --model, and the export of any stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput, WrongModel
from codec.speech.codec import SpeechCodec
from codec.speech.presets import PRESETS, find_preset
from models.evaluation.coding import LiveSotto, Sotto, sotto_codecs
from models.evaluation.speech import Settings, benchmark
from models.folder import WEIGHTS
from tests.conftest import CLIPS
from tests.tiny_training import SETTINGS, pack, training
from tui.cli import main

SECONDS = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WORK of a stage one that is still going on."""
    packed, work = (tmp_path_factory.mktemp(name) for name in ("packed", "work"))
    pack(packed)
    settings = replace(SETTINGS, adversarial=0.0)
    task = training(packed, work, 100, settings).task("one", None)
    for _ in range(3):
        task.step(0.0)
    task.save(work / "one", 1.0)
    return work


@pytest.fixture(scope="module")
def model(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = tmp_path_factory.mktemp("packed")
    pack(packed)
    tiny = training(packed, work, 100)
    tiny.schedule = replace(tiny.schedule, exported="one")
    tiny.export()
    return work / "model"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    samples, rate = soundfile.read(CLIPS / "librispeech-672.flac", dtype="float32")
    soundfile.write(folder / "a.wav", samples[: SECONDS * rate], rate)
    return folder


def id_of(model: Path) -> str:
    return str(json.loads((model / "model.json").read_text())["model_id"])


def test_a_stage_that_is_not_finished_is_exported_only_if_named(work: Path, model: Path) -> None:
    assert (model / "generator.safetensors").is_file()
    packed = work / "packed"
    packed.mkdir()
    pack(packed)
    argv = ["train", "speech", "--data", str(packed), "--work", str(work), "--stage", "export"]
    assert main(argv) == 1
    assert main([*argv, "--of", "three"]) == 2


def test_encode_and_decode_with_a_model_of_ones_own(
    model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model", str(model)]
    for delay in ("1024", "64"):
        coded, decoded = (str(tmp_path / f"{delay}.{suffix}") for suffix in ("sotto", "wav"))
        source = str(clips / "a.wav")
        assert main(["encode", *own, "--no-search", "--delay", delay, source, coded]) == 0
        capsys.readouterr()
        assert main(["info", coded, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["model_id"] == id_of(model)
        assert main(["decode", *own, coded, decoded]) == 0
        assert soundfile.info(decoded).frames == SECONDS * 16_000
        capsys.readouterr()
        assert main(["decode", coded, decoded]) == 1
        err = capsys.readouterr().err
        assert id_of(model) in err and err.count("\n") == 1


def test_transcode_reports_the_model(
    model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["transcode", str(clips / "a.wav"), str(tmp_path / "a.wav"), "--no-search", "--json"]
    assert main([*argv, "--model", str(model)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["preset"], report["model_id"]) == ("2k", id_of(model))


@pytest.mark.parametrize("folder", ["nowhere", "empty", str(WEIGHTS / "paper")])
def test_what_cannot_serve_a_preset_is_one_line(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    target = tmp_path / "a.sotto"
    argv = ["encode", "--model", str(tmp_path / folder), str(clips / "a.wav"), str(target)]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith("sotto: ") and err.count("\n") == 1 and folder in err
    assert not target.exists()


def test_from_python(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    own = SpeechCodec.load("1k2", "cpu", model.name)
    assert (own.preset, own.model_id) == ("1k2", id_of(model))
    data = own.encode(np.zeros(8000, np.float32), 16_000, search=False)
    assert len(own.decode(data)) == 8000
    with pytest.raises(WrongModel):
        SpeechCodec.load("1k2", "cpu").decode(data)
    with pytest.raises(BadInput, match="2k"):
        SpeechCodec.load("2k", "cpu", WEIGHTS / "paper")
    assert find_preset("2k") is PRESETS["2k"]


def test_benchmarks_take_it(model: Path, clips: Path) -> None:
    """For the presets of the speech model, in every form."""
    for codec in sotto_codecs(["2k"], [10], delays=[64], live=True, model=model):
        assert isinstance(codec, Sotto) and codec.model == model
        assert isinstance(codec, LiveSotto) == codec.name.endswith("live")
    names = [codec.name for codec in benchmark(clips, Settings(peers=[])).codecs["Speech codecs"]]
    assert "sotto paper" in names
    own = benchmark(clips, Settings(peers=[], model=model)).codecs["Speech codecs"]
    assert {codec.name for codec in own} >= {"sotto 1k2", "sotto 2k", "sotto 3k6"}
    assert not any("paper" in codec.name for codec in own)


def test_the_benchmark_measures_it(model: Path, clips: Path) -> None:
    samples = soundfile.read(clips / "a.wav", dtype="float32")[0]
    shipped, own = (
        Sotto("sotto", "sotto", "2k", {"search": False}, "cpu", folder).run(samples)
        for folder in (None, model)
    )
    # One as small as this takes fewer bits, at any rate point.
    assert own.payload_bits < 0.8 * shipped.payload_bits
    assert len(own.decoded) == len(samples)


def test_the_benchmark_is_told_of_it(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Settings] = []

    def noted(folder: Path, settings: Settings) -> None:
        asked.append(settings)
        raise BadInput("enough")

    monkeypatch.setattr("models.evaluation.speech.benchmark", noted)
    assert main(["bench", "speech", str(clips), "--model", "mine", "--delay", "64"]) == 1
    assert "enough" in capsys.readouterr().err
    assert [(each.model, each.delays) for each in asked] == [(Path("mine"), [64])]


def test_the_ablation_is_of_the_shipped_model(
    model: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "speech", str(clips), "--model", str(model), "--ablation"]) == 2
    assert "--ablation" in capsys.readouterr().err
