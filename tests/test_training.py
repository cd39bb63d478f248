"""Training end to end on synthetic frames with tiny networks: learns, resumes, exports, codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from codec.entropy.speech_context import MAX_INDEX
from codec.errors import BadInput
from models.folder import WEIGHTS, load_speech_model
from models.networks.speech import SpeechModel
from models.training import checkpoints
from models.training import schedule as schedules
from models.training.distributed import alone
from models.training.frames import FrameShards
from models.training.log import draw_curves, read_log
from models.training.loop import Run
from models.training.objectives import Objective, noise_like
from models.training.schedule import Schedule, SpeechTraining, train_speech, trained_model
from models.training.speech_paper import PaperTask
from tests.tiny_training import FEATURE_SHAPE, SETTINGS, SHAPE, pack, synthetic_columns, training
from tui.cli import main


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def trained(packed: Path, tmp_path_factory) -> Path:
    """WORK of a whole tiny training: stage one, centres, stage two, export."""
    work = tmp_path_factory.mktemp("work")
    tiny = training(packed, work, 40)
    assert tiny.stage("one", None)
    tiny.centres()
    assert training(packed, work, 6).stage("two", None)
    tiny.export()
    return work


def test_the_loss_falls(trained: Path):
    log = read_log(trained / "one" / "log.jsonl")
    assert [entry["step"] for entry in log] == list(range(1, 41))
    first = np.mean([entry["distance"] for entry in log[:5]])
    assert np.mean([entry["distance"] for entry in log[-5:]]) < 0.9 * first
    # The adversarial term joined at the half, and the bit price was steered.
    assert "discriminator" not in log[18] and "discriminator" in log[25]
    assert log[-1]["log_price_1"] != log[0]["log_price_1"]


def test_curves_are_drawn(trained: Path):
    assert (trained / "one" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_an_empty_log_are_none(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text("not json\n[1]\n")
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["one", "two"])
def test_a_resumed_stage_equals_an_uninterrupted_one(packed, trained, tmp_path, name):
    """Same losses to 1e-6: every draw depends on the step alone, all state is in the checkpoint."""
    steps = {"one": 8, "two": 4}[name]
    works = [tmp_path / "whole", tmp_path / "halves"]
    for work in works:
        work.mkdir()
        shutil.copytree(trained / "centres", work / "centres")
    assert training(packed, works[0], steps).stage(name, None)

    stopped = training(packed, works[1], steps, run=StopAfter(steps // 2 + 1))
    assert not stopped.stage(name, None)
    assert len(read_log(works[1] / name / "log.jsonl")) == steps // 2
    assert training(packed, works[1], steps).stage(name, None)

    logs = [read_log(work / name / "log.jsonl") for work in works]
    assert [e["step"] for e in logs[0]] == [e["step"] for e in logs[1]] == [*range(1, steps + 1)]
    for whole, halves in zip(*logs, strict=True):
        for key in ("loss", "bits", "gradient", "log_price_0", "learning_rate"):
            assert halves[key] == pytest.approx(whole[key], rel=1e-6), (key, whole["step"])
    states = [trained_model(work, name).state_dict() for work in works]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=1e-6)


class StopAfter(Run):
    """Stops when it is looked at for the nth time, as if Ctrl-C came then."""

    def __init__(self, looks: int) -> None:
        super().__init__(looks, count(60, 60).__next__)


def test_a_finished_stage_is_not_trained_again(packed: Path, trained: Path):
    newest = checkpoints.latest_checkpoint(trained / "one")
    assert newest is not None
    before = (newest / "state.json").stat().st_mtime_ns
    assert training(packed, trained, 40).stage("one", None)
    assert (newest / "state.json").stat().st_mtime_ns == before


def test_another_seed_is_refused(packed: Path, trained: Path):
    with pytest.raises(BadInput, match="seed"):
        training(packed, trained, 40, replace(SETTINGS, seed=1)).stage("one", None)


def test_stage_two_needs_centres(packed: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="centres"):
        training(packed, tmp_path, 1).stage("two", None)


def test_a_training_goes_on_from_a_model(packed: Path, trained: Path, tmp_path: Path):
    """Its first errors are the old model's, not those of a start from principal components."""
    again = training(packed, tmp_path, 4, replace(SETTINGS, rate=1e-6))
    again.schedule = replace(again.schedule, start=trained / "model")
    assert again.stage("one", None)
    fresh = read_log(trained / "one" / "log.jsonl")[:4]
    log = read_log(tmp_path / "one" / "log.jsonl")
    assert np.mean([e["distance"] for e in log]) < 0.95 * np.mean([e["distance"] for e in fresh])
    start = json.loads((trained / "model" / "model.json").read_text())
    assert log[0]["log_price_0"] == pytest.approx(start["log_rate_weights"][0], abs=1e-3)
    again.centres()
    kept = load_speech_model("speech", trained / "model").state_dict()["generator.centres"]
    found = trained_model(tmp_path, "centres").generator.centres
    torch.testing.assert_close(found, kept.to(found.dtype))


def test_the_encoder_is_drawn_to_other_indices_only():
    """Latents that would be rounded to what the search found are right as they are."""
    objective = Objective(SpeechModel(SHAPE))
    x, rate = torch.zeros(1, 128, 128), torch.ones(1)
    zeros = torch.zeros(1, SHAPE.steps, SHAPE.channels)
    z = objective.model.encoder(x, rate).detach()
    for far, pulled in ((0.0, False), (0.4, False), (0.9, True)):
        _, _, pull = objective(x, rate, zeros, z + far)
        assert bool(pull.detach() > 0) == pulled


def _stirred() -> Objective:
    """Of networks in which every weight counts: as made, their last layers are zero."""
    torch.manual_seed(0)
    objective = Objective(SpeechModel(SHAPE))
    for parameter in objective.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return objective


def test_frames_that_are_not_searched_keep_the_encoder_good():
    """Of a batch whose first half was searched, the second half's distance reaches the encoder."""
    objective = _stirred()
    model = objective.model
    x, rate = torch.rand(4, 128, 128) - 0.5, torch.ones(4)
    noise = torch.zeros(4, SHAPE.steps, SHAPE.channels)
    with torch.no_grad():
        searched = model.encoder(x, rate)[:2].round() + 3.0
    y, bits, pull = objective(x, rate, noise, searched)
    torch.testing.assert_close(y[:2], model.generator(searched, rate[:2]))
    torch.testing.assert_close(bits[:2], model.prior.bits(searched, rate[:2]).sum((1, 2)))
    assert bool((pull[:2] > 0).all()) and not bool(pull[2:].any())
    weight = model.encoder.leave.weight
    for half, reached in ((y[:2], False), (y[2:], True)):
        (slope,) = torch.autograd.grad(half.square().sum(), weight, retain_graph=True)
        assert bool(slope.any()) == reached


def test_the_prior_learns_from_what_is_coded_and_the_encoder_from_noisy_latents():
    objective = _stirred()
    model = objective.model
    x, rate = torch.rand(2, 128, 128) - 0.5, torch.ones(2)
    with torch.no_grad():
        coded = model.encoder(x, rate).round()
        expected = model.prior.bits(coded, rate).sum((1, 2))
    found = []
    for noise in noise_like(SHAPE.steps, SHAPE.channels, 2, torch.Generator().manual_seed(1)):
        _, bits, _ = objective(x, rate, noise.expand(2, -1, -1), None)
        torch.testing.assert_close(bits, expected)
        weights = model.prior.leave.weight, model.encoder.leave.weight
        found.append(torch.autograd.grad(bits.sum(), weights))
    (prior, encoder), (other_prior, other_encoder) = found
    assert bool(prior.any())
    torch.testing.assert_close(prior, other_prior)
    assert not torch.allclose(encoder, other_encoder, rtol=1e-2)


def test_a_training_starts_from_speech_models_only(packed: Path, tmp_path: Path):
    tiny = training(packed, tmp_path, 4)
    for start in (WEIGHTS / "paper", tmp_path / "nowhere"):
        tiny.schedule = replace(tiny.schedule, start=start)
        with pytest.raises(BadInput, match=r"paper|no folder with a model"):
            tiny.stage("one", None)


def test_centres_belong_to_the_exported_model(trained: Path):
    state = load_speech_model("speech", trained / "model").state_dict()
    centres = state["generator.centres"].numpy()
    assert centres.shape == (SHAPE.channels, 2 * MAX_INDEX + 1)
    assert (np.diff(centres) > 0).all()
    assert np.abs(centres - np.arange(-MAX_INDEX, MAX_INDEX + 1)).max() > 1e-3


def test_the_export_codes_speech(trained: Path, clip: NDArray[np.float32]):
    from codec.speech.codec import SpeechCodec
    from codec.speech.presets import find_preset

    preset = replace(find_preset("2k"), model=str((trained / "model").resolve()))
    codec = SpeechCodec(preset, torch.device("cpu"))
    data = codec.encode(clip[:32768], 16_000, iterations=2)
    decoded = codec.decode(data)
    assert len(decoded) == 32768
    assert np.isfinite(decoded).all() and np.abs(decoded).max() > 1e-3


def test_export_replaces_a_model_and_nothing_else(packed: Path, trained: Path, tmp_path: Path):
    kept = tmp_path / "letters"
    kept.mkdir()
    (kept / "dear.txt").write_text("sir")
    again = training(packed, trained, 6)
    again.schedule = replace(again.schedule, out=kept)
    with pytest.raises(BadInput, match="no model folder"):
        again.export()
    assert [p.name for p in kept.iterdir()] == ["dear.txt"]


def test_the_feature_network_trains_resumes_and_loads(packed: Path, tmp_path: Path):
    pytest.importorskip("pocketsphinx")
    from models.networks.features import FeatureDistance, load_features

    rate = training(packed, tmp_path / "a", 6).features(None)
    assert rate is not None and 0.0 <= rate <= 1.5
    folder = tmp_path / "a" / "features" / "model"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4 << 20

    paused = training(packed, tmp_path / "b", 6, run=StopAfter(3))
    assert paused.features(None) is None
    assert training(packed, tmp_path / "b", 6).features(None) is not None
    losses = [
        [e["loss"] for e in read_log(tmp_path / name / "features" / "log.jsonl")] for name in "ab"
    ]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    networks = [load_features(tmp_path / n / "features" / "model").state_dict() for n in "ab"]
    for key, value in networks[0].items():
        torch.testing.assert_close(networks[1][key], value, rtol=1e-3, atol=1e-4)

    distance = FeatureDistance(load_features(folder))
    x = torch.from_numpy(synthetic_columns(128)).float()[None] / 127.5 - 1.0
    y = (x + 0.05 * torch.randn_like(x)).requires_grad_(True)
    near = distance(x, y)
    near.sum().backward()
    assert y.grad is not None and float(y.grad.abs().max()) > 0
    assert distance(x, x).item() == 0.0 < near.item() < distance(x, -x).item()


@pytest.fixture(scope="module")
def one_feature_step(packed: Path, tmp_path_factory) -> Path:
    """WORK of a feature network that was trained for one step."""
    pytest.importorskip("pocketsphinx")
    work = tmp_path_factory.mktemp("features")
    assert training(packed, work, 1).features(None) is not None
    return work


@pytest.mark.parametrize("layers", [2, 3])
def test_the_feature_network_goes_on_from_another(
    packed: Path, one_feature_step: Path, tmp_path: Path, layers: int
):
    """Of fewer layers, perhaps: what follows those it lacks is new."""
    from models.networks.features import load_features
    from models.training.features import FeatureSettings, FeatureTask

    start = one_feature_step / "features" / "model"
    shape = replace(FEATURE_SHAPE, layers=layers)
    settings = FeatureSettings(steps=1, columns=1200, shape=shape, start=start)
    task = FeatureTask(FrameShards(packed), [], settings, torch.device("cpu"))
    before, after = load_features(start).state_dict(), task.average.state_dict()
    new = {key for key in after if not torch.equal(after[key], before.get(key, torch.tensor(0)))}
    new = {key.split(".")[0] for key in new if not key.startswith("spread")}
    assert new == ({"recurrent", "leave"} if layers > FEATURE_SHAPE.layers else set())
    torch.testing.assert_close(after["recurrent.weight_hh_l1"], before["recurrent.weight_hh_l1"])
    assert task.average.shape == shape
    with pytest.raises(BadInput, match=r"features\.json"):
        FeatureTask(FrameShards(packed), [], replace(settings, start=tmp_path), task.device)


@pytest.mark.parametrize("key", ["step", "epoch", "place", "spent"])
def test_a_damaged_checkpoint_of_the_feature_network_is_one_line(
    packed, one_feature_step, tmp_path: Path, key: str
):
    shutil.copytree(one_feature_step, tmp_path, dirs_exist_ok=True)
    path = checkpoints.latest_checkpoint(tmp_path / "features")
    assert path is not None
    state = json.loads((path / "state.json").read_text())
    del state["numbers"][key]
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(BadInput, match=f"lacks '{key}'"):
        training(packed, tmp_path, 2).features(None)


def test_a_damaged_feature_network_is_refused(tmp_path: Path):
    from models.networks.features import PhoneRecogniser, load_features, save_features

    save_features(PhoneRecogniser(), tmp_path, {})
    weights = tmp_path / "features.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BadInput):
        load_features(tmp_path)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--help"], 0),
        ([], 2),
        (["--data", "x", "--work", "y", "--minutes", "0"], 2),
        (["--data", "x", "--work", "y", "--batch", "-1"], 2),
        (["--data", "missing", "--work", "w"], 1),
        (["--data", "missing", "--work", "w", "--stage", "export"], 1),
    ],
)
def test_exit_status(tmp_path: Path, monkeypatch, capsys, argv, status):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "speech", *argv]) == status
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if status == 1:
        assert err.startswith("sotto: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("pause", "done", "whole"),
    [(30, [], False), (45, ["one"], False), (70, ["one", "centres"], False),
     (100, ["one", "centres", "two"], False), (130, ["one", "centres", "two", "export"], True)],
)  # fmt: skip
def test_a_pause_is_of_the_whole_run(tmp_path: Path, monkeypatch, pause, done, whole):
    """Half an hour for each of prepare, one, centres, two and export; one and two can be cut."""
    now, begun = [0.0], []
    run = Run(pause, lambda: now[0])

    def spend(minutes: int) -> None:
        now[0] += 60.0 * minutes

    def prepare(data: Path, target: Path, *_: object) -> None:
        spend(30)
        target.mkdir(parents=True)
        pack(target)

    def take(name: str) -> bool:
        begun.append(name)
        for _ in range(30 if name in ("one", "two") else 1):
            if run.stops:
                return False
            spend(1 if name in ("one", "two") else 30)
        return True

    monkeypatch.setattr(schedules, "_prepare", prepare)
    monkeypatch.setattr(SpeechTraining, "do", lambda self, stage, minutes: take(stage))
    stages = ("prepare", "one", "centres", "two", "export")
    alone_here = alone(torch.device("cpu"))
    finished = train_speech(Schedule(tmp_path), tmp_path / "x", stages, alone_here, run)
    assert begun == done
    assert finished == whole


@pytest.mark.slow
def test_two_processes_train_together(packed: Path, tmp_path: Path):
    """Both see the same gradient and price: one log, one checkpoint, the loss of both in it."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.tiny_training import SETTINGS, SHAPE\n"
        "from models.training.distributed import join\n"
        "from models.training.frames import FrameShards\n"
        "from models.training.loop import Run, train\n"
        "from models.training.schedule import Schedule, SpeechTraining\n"
        "team = join('cpu')\n"
        "work = Path(sys.argv[2])\n"
        "schedule = Schedule(work, minutes=None, steps=10, stage=SETTINGS, shape=SHAPE,\n"
        "                    bits_scale=0.15)\n"
        "training = SpeechTraining(schedule, FrameShards(Path(sys.argv[1])), team, Run())\n"
        "task = training.task('one', None)\n"
        "assert train(task, work / 'one', Run())\n"
        "total = sum(float(p.double().sum()) for p in task.model.parameters())\n"
        "print(f'{team.rank} {task.steps} {total!r}', flush=True)\n"
        "team.leave()\n"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(packed), str(tmp_path / "work")],
        cwd=root, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = sorted(line.split() for line in done.stdout.splitlines() if line.count(" ") == 2)
    assert [line[:2] for line in told] == [["0", "10"], ["1", "10"]]
    assert told[0][2] == told[1][2]
    log = read_log(tmp_path / "work" / "one" / "log.jsonl")
    assert [entry["step"] for entry in log] == list(range(1, 11))
    assert log[-1]["distance"] < log[0]["distance"]


@pytest.mark.parametrize("listed", [False, True], ids=["any folder", "train.tsv"])
def test_recordings_are_packed_once(tmp_path: Path, listed: bool, clip: NDArray[np.float32]):
    """What one has recorded is enough; the next run goes on with what was packed."""
    data, work = tmp_path / "data", tmp_path / "work"
    files = data / "train" if listed else data / "monday"
    files.mkdir(parents=True)
    soundfile.write(files / "a.wav", clip, 16_000)
    (files / "bad.wav").write_bytes(b"no audio")
    if listed:
        rows = ("file\tstart\tend", "a.wav\t0\t40000", "bad.wav\t0\t9000")
        (data / "train.tsv").write_text("".join(f"{row}\n" for row in rows))
    argv = ["train", "speech", "--data", str(data), "--work", str(work), "--processes", "1"]
    for said in ("bad.wav", "is packed in"):
        lines: list[str] = []
        run = Run(note=lines.append)
        schedule = Schedule(work, processes=1)
        assert train_speech(schedule, data, ["prepare"], alone(torch.device("cpu")), run)
        assert any(said in line for line in lines), lines
    assert FrameShards(work / "data").columns > 200
    shutil.rmtree(files)
    assert main([*argv, "--stage", "prepare"]) == 0


def test_paper_packs_recordings_too(
    tmp_path: Path, clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
):
    trained: list[FrameShards] = []

    def note(task: PaperTask, work: Path, target: Path) -> str:
        trained.append(task.shards)
        return "a model"

    monkeypatch.setattr("tui.training.train_two_stages", note)
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.flac", clip, 16_000)
    argv = ["train", "paper", "--work", str(tmp_path / "work"), "--device", "cpu", "--steps", "1"]
    argv += ["--processes", "1", "--data"]
    assert main([*argv, str(tmp_path / "data")]) == 0
    packed = tmp_path / "packed"
    shutil.copytree(tmp_path / "work" / "data", packed)
    shutil.rmtree(tmp_path / "work")
    (packed / "train.json").unlink()
    assert main([*argv, str(packed)]) == 0
    assert [shards.columns for shards in trained] == [trained[0].columns] * 2
    assert main([*argv, str(tmp_path / "nowhere")]) == 1


def test_ctrl_c_writes_a_checkpoint_and_ends(packed: Path, tmp_path: Path):
    pytest.importorskip("pocketsphinx")
    root = Path(__file__).parent.parent
    work = tmp_path / "work"
    command = [sys.executable, "-m", "tui", "train", "speech", "--data", str(packed), "--work",
               str(work), "--stage", "features", "--minutes", "30", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            # Told when the training begins; from then on a signal is a flag.
            assert any("held out" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "the checkpoint is written" in err and "Traceback" not in err
    newest = checkpoints.latest_checkpoint(work / "features")
    assert newest is not None and not checkpoints.load_checkpoint(newest)[1]["finished"]


def test_the_exported_model_is_scored(trained: Path, clip: NDArray[np.float32], tmp_path: Path):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    from models.training.evaluate import evaluate, write_scores

    (tmp_path / "dev").mkdir()
    soundfile.write(tmp_path / "dev" / "a.wav", clip[:40_000], 16_000)
    (tmp_path / "dev" / "bad.wav").write_bytes(b"no audio")
    lines: list[str] = []
    scores = evaluate(
        trained / "model", tmp_path / "dev", torch.device("cpu"), iterations=1, note=lines.append
    )
    assert scores["clips"] == 1 and 100 < scores["bits_per_second"] < 3000
    # A model this small says little: that STOI could be computed is what counts.
    assert -1.0 <= scores["stoi"] <= 1.0
    assert lines[0].startswith("1 clips left out")
    write_scores(scores | {"pesq_wb": float("nan")}, tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["pesq_wb"] is None
