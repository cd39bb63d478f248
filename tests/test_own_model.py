"""A model that one trains is a model that one uses: --model, and the export of any stage."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.container import ContainerWriter, StreamHeader
from codec.errors import BadInput, WrongModel
from codec.image.base import ImageCodec
from codec.speech.codec import SpeechCodec
from codec.speech.encoder import live_encoder
from codec.speech.presets import PRESETS, find_preset
from models.description import shipped_id
from models.evaluation import image
from models.evaluation.coding import LiveSotto, Sotto, sotto_codecs
from models.evaluation.speech import Settings, benchmark
from models.folder import WEIGHTS, load_speech_model, save_model
from stream.link.caller import Caller
from stream.link.endpoint import Endpoint
from stream.link.events import AudioArrived, CallState, Joined, Notice, Offer
from stream.link.listener import Listener
from tests.conftest import CLIPS
from tests.link_peers import GUEST, HOST, MODEL, OPEN, Ear
from tests.tiny_image_model import make_model, photograph
from tests.tiny_training import SETTINGS, pack, training
from tui.cli import main

SECONDS = 3
PATIENCE = 120.0
SHIPPED = str(shipped_id("speech"))
SILENT = ["--insecure", "--output", "none", "--headless", "--iterations", "0"]


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
    assert main([*argv, "--of", "four"]) == 2


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
        assert main(["decode", "--force", coded, decoded]) == 1
        err = capsys.readouterr().err
        assert id_of(model) in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model but for one tensor of its generator."""
    changed = load_speech_model("speech", model)
    overhead = json.loads((model / "model.json").read_text())["huffman_overhead"]
    with torch.no_grad():
        changed.generator.leave.bias.add_(0.01)  # type: ignore[union-attr, operator]
    folder = tmp_path_factory.mktemp("other") / "model"
    assert save_model(changed, folder, {"huffman_overhead": overhead}) != id_of(model)
    return folder


@pytest.fixture(scope="module")
def coded(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coded") / "a.sotto"
    argv = ["encode", "--no-search", "--model", str(model), str(clips / "a.wav"), str(path)]
    assert main(argv) == 0
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("sotto: ") and said.err.count("\n") == 1, said
    return said.err


def test_info_says_where_the_model_is(
    model: Path, coded: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "shipped.sotto"
    with shipped.open("wb") as file:
        ContainerWriter(file, StreamHeader("2k", SHIPPED)).finish(0)
    for path, own, place, words in (
        (shipped, [], "shipped", f"{SHIPPED} (shipped)"),
        (coded, ["--model", str(model)], "given", f"{id_of(model)} (given)"),
        (coded, [], "elsewhere", f"{id_of(model)} (not the shipped one: "),
    ):
        assert main(["info", str(path), "--json", *own]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == place
        assert main(["info", str(path), *own]) == 0
        said = capsys.readouterr().out
        assert words in said and ("--model FOLDER" in said) == (place == "elsewhere")


@pytest.mark.parametrize("command", ["info", "decode"])
def test_the_model_that_is_needed_is_named(
    command: str,
    model: Path,
    other: Path,
    coded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = [str(tmp_path / "a.wav")] if command == "decode" else []
    capsys.readouterr()
    for folder in (other, tmp_path / "nowhere", WEIGHTS / "paper", WEIGHTS / "photo"):
        assert main([command, "--model", str(folder), str(coded), *target]) == 1
        err = one_line(capsys)
        assert id_of(model) in err and "(preset 2k)" in err
        assert ("--model FOLDER" in err) if folder is other else (str(folder) in err)
    assert not list(tmp_path.iterdir())


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


def test_a_preset_needs_its_own_kind_of_model(model: Path) -> None:
    for preset, folder, serves in (("1k2", WEIGHTS / "paper", "paper"), ("paper", model, "2k")):
        with pytest.raises(BadInput, match=f"no model for preset '{preset}' .*{serves}"):
            SpeechCodec.load(preset, "cpu", folder)


def test_the_preset_changes_within_a_stream(model: Path) -> None:
    """As a call does, whose model stays the same."""
    encoder = live_encoder(SpeechCodec.load("2k", "cpu", model), 4)
    encoder.set_preset("1k2")
    with pytest.raises(BadInput, match="another model"):
        encoder.set_preset("paper")


def refused(ear: Ear, *model_ids: str) -> None:
    """Check that a listener has told its log of one whom it refused for its model."""
    notice = ear.until(lambda event: isinstance(event, Notice))
    assert notice.text.startswith("refused a caller: ") and "--model" in notice.text
    assert all(model_id in notice.text for model_id in model_ids)
    assert not any(isinstance(event, (Joined, AudioArrived)) for event in ear.heard)


Ends = Callable[[Endpoint], Ear]


def test_a_call_needs_the_listeners_model(
    model: Path, other: Path, clips: Path, ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has another is refused, in one line at both ends, and is not heard."""
    ear = ends(Listener("127.0.0.1:0", Offer(id_of(model), "2k", "Ann"), OPEN))
    call = ["call", f"127.0.0.1:{ear.endpoint.port}", *SILENT]
    assert main([*call, "--input", "none", "--model", str(other)]) == 1
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "sotto: " in line)
    assert id_of(model) in told and id_of(other) in told and "--model" in told
    refused(ear, id_of(model), id_of(other))
    assert main([*call, "--send-file", str(clips / "a.wav"), "--model", str(model)]) == 0
    ear.until(lambda event: isinstance(event, AudioArrived))


def test_a_listener_offers_its_model(
    model: Path, other: Path, ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reasons: list[str] = []

    def call() -> None:
        """With the wrong model, then with the right one; hang up."""
        for folder, state in ((other, CallState.REFUSED), (model, CallState.TALKING)):
            offer = Offer(id_of(folder), "2k", "Bob")
            ear = ends(Caller("127.0.0.1", port, offer, OPEN, give_up=PATIENCE))
            reasons.append(ear.state(state, PATIENCE).reason)
            ear.endpoint.close("enough")

    caller = threading.Thread(target=call)
    caller.start()
    argv = ["listen", "--bind", f"127.0.0.1:{port}", *SILENT, "--input", "none"]
    assert main([*argv, "--model", str(model)]) == 0
    caller.join()
    logged = capsys.readouterr().err.splitlines()
    (noted,) = (line for line in logged if "refused a caller" in line)
    for line in (noted, reasons[0]):
        assert id_of(model) in line and id_of(other) in line and "--model" in line


def test_a_room_has_one_model(ends: Ends) -> None:
    ear = ends(Listener("127.0.0.1:0", HOST, OPEN, room=True))
    stranger = replace(GUEST, model_id="0" * 16)
    guest = ends(Caller("127.0.0.1", ear.endpoint.port, stranger, OPEN))
    assert "both need the same" in guest.state(CallState.REFUSED).reason
    refused(ear, MODEL, "0" * 16)


# Pictures


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for pictures."""
    folder = tmp_path_factory.mktemp("photo")
    make_model(folder)
    return folder


def test_pictures_with_a_model_of_ones_own(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, coded, back = (tmp_path / name for name in ("a.png", "a.stim", "b.png"))
    photograph(48, 32).save(source)

    def run(action: str, *words: object) -> int:
        return main(["image", action, *map(str, words)])

    own = ["--model", photo]
    assert run("encode", source, coded, "--quality", 60, "--no-search", *own) == 0
    assert run("decode", coded, back, *own) == 0
    assert run("info", coded, "--json", *own) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model_id"], told["model"]) == (id_of(photo), "given")
    assert run("info", coded) == 0
    assert f"{id_of(photo)} (not the shipped one: " in capsys.readouterr().out
    for folder in (None, tmp_path / "nowhere", WEIGHTS / "speech", WEIGHTS / "photo"):
        other = [] if folder is None else ["--model", folder]
        for action, *more in (("decode", tmp_path / "c.png"), ("info",)):
            if folder is not None or action == "decode":
                assert run(action, coded, *more, *other) == 1
                err = one_line(capsys)
                assert id_of(photo) in err and "(preset photo)" in err
    assert sorted(tmp_path.iterdir()) == [source, coded, back]
    assert run("encode", source, tmp_path / "c.stim", "--preset", "ganz", *own) == 1
    assert "GANZ model" in one_line(capsys)


def test_picture_benchmarks_take_it(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve of a preset with one rate is that of the shipped default preset."""
    loaded: list[tuple[object, ...]] = []

    def note(*how: object) -> ImageCodec:
        loaded.append(how)
        return load("photo", "cpu", photo)

    load = ImageCodec.load
    monkeypatch.setattr(ImageCodec, "load", note)
    settings = image.Settings(model=photo, peers=(), device="cpu", search=False, qualities=(60.0,))
    settings.load()
    replace(settings, preset="paper").load()
    assert loaded == [
        ("photo", "cpu", photo), ("photo", "cpu", None), ("paper", "cpu", photo),
    ]  # fmt: skip


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
    papers = benchmark(clips, Settings(peers=[], model=WEIGHTS / "paper")).codecs["Speech codecs"]
    assert {codec.name for codec in papers} >= {"sotto paper"}
    assert not any("2k" in codec.name for codec in papers)
    with pytest.raises(BadInput, match="cannot load the speech model"):
        benchmark(clips, Settings(peers=[], presets=["2k"], model=clips))


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
