"""The parts of the training: checkpoints, schedule, centres, drawn frames, data preparation."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from codec.entropy.quantiser import Quantiser
from codec.entropy.speech_context import MAX_INDEX
from codec.errors import BadInput
from models.networks.photo import PhotoModel
from models.training import checkpoints
from models.training.centres import kmeans_centres
from models.training.distributed import join
from models.training.frames import FrameShards, draw_frames
from models.training.image import ImageSettings, ImageTask
from models.training.loop import Budget, Run, Task, learning_rate
from models.training.prepare import prepare
from models.training.speech_paper import PaperSettings, PaperTask
from tests.test_paper import TINY as PAPER_SHAPE
from tests.tiny_ganz_model import photographs, tiny_task
from tests.tiny_image_model import SHAPE as IMAGE_SHAPE
from tests.tiny_training import pack, synthetic_columns


def test_checkpoints_split_large_tensors(tmp_path: Path):
    large = torch.arange(9_000_000, dtype=torch.float32).reshape(3000, 3000)
    tensors = {"large": large, "small": torch.ones(3), "step": torch.tensor(7.0)}
    path = checkpoints.save_checkpoint(tmp_path, 3, tensors, {"a": 1})
    parts = sorted(path.glob("*.safetensors"))
    assert len(parts) == 3
    assert all(part.stat().st_size <= checkpoints.PART_BYTES for part in parts)
    loaded, numbers = checkpoints.load_checkpoint(path)
    assert numbers == {"a": 1}
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert not list(tmp_path.glob("*.draft"))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path):
    for step in (1, 20, 300):
        checkpoints.save_checkpoint(tmp_path, step, {"x": torch.ones(1)}, {})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["checkpoint-00000020", "checkpoint-00000300"]
    assert checkpoints.latest_checkpoint(tmp_path) == tmp_path / names[-1]


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "json", "huge", "infinite", "list", "numbers"]
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str):
    path = checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(1000)}, {})
    part, state = path / "part-000.safetensors", path / "state.json"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:100])
    elif damage == "missing":
        part.unlink()
    elif damage == "json":
        state.write_text("{")
    else:
        bad = {
            "huge": {"parts": 10**9},
            "infinite": {"parts": float("inf")},
            "list": {"tensors": []},
            "numbers": {"numbers": 3},
        }
        state.write_text(json.dumps(json.loads(state.read_text()) | bad[damage]))
    with pytest.raises(BadInput):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("name", ["o.weight.exp_avg", "o.bias.step", "o.other.exp_avg", "o.weight"])
def test_moments_that_do_not_fit_are_refused(name: str):
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    whole = checkpoints.optimiser_tensors("o", optimiser, layer)
    checkpoints.load_optimiser("o", optimiser, layer, whole)
    with pytest.raises(BadInput, match="other networks"):
        checkpoints.load_optimiser("o", optimiser, layer, whole | {name: torch.ones(7)})


def two_stages(folder: Path) -> PaperTask:
    pack(folder)
    settings = PaperSettings(steps=2, shape=PAPER_SHAPE, start=None)
    task = PaperTask(FrameShards(folder), settings, Run(), torch.device("cpu"))
    task.quantiser = Quantiser(np.arange(PAPER_SHAPE.levels) - 7.5)
    return task


NUMBERS = {
    "two": ("step", "stage_start", "centres", "spent"),
    "ganz": ("stage", "step", "spent", "k", "began"),
    "image": ("stage", "step", "spent", "log_prices"),
}


BAD: list[object] = [None, [], {}, "x", ["x"] * 16, [1.0], float("inf")]


@pytest.mark.parametrize("name", list(NUMBERS))
def test_damaged_numbers_of_a_checkpoint_are_one_line(tmp_path: Path, name: str):
    task: Task
    if name == "two":
        task = two_stages(tmp_path)
    elif name == "ganz":
        task = tiny_task(tmp_path / "pictures")
    else:
        some, settings = photographs(tmp_path / "pictures"), ImageSettings(steps=1)
        task = ImageTask(PhotoModel(IMAGE_SHAPE), some, torch.device("cpu"), settings)
    task.save(tmp_path / "work", 1.0)
    path = checkpoints.latest_checkpoint(tmp_path / "work")
    assert path is not None and task.resume(path) == 1.0
    state = json.loads((path / "state.json").read_text())
    for key in NUMBERS[name]:
        for bad in BAD:
            if (key, bad) == ("centres", None) or key == "began" or bad == state["numbers"][key]:
                continue
            if key in ("spent", "k") and isinstance(bad, float):
                continue
            numbers = state["numbers"] | {key: bad}
            (path / "state.json").write_text(json.dumps(state | {"numbers": numbers}))
            with pytest.raises(BadInput) as caught:
                task.resume(path)
            assert "\n" not in str(caught.value)
        numbers = {k: v for k, v in state["numbers"].items() if k != key}
        (path / "state.json").write_text(json.dumps(state | {"numbers": numbers}))
        with pytest.raises(BadInput, match=key):
            task.resume(path)


def test_learning_rate_warms_up_holds_and_decays():
    def at(fraction: float, step: int = 1000) -> float:
        return learning_rate(fraction, step, 1.0, warmup=100, hold=0.3, floor=0.02)

    assert at(0.0, 0) == pytest.approx(0.01)
    assert at(0.2) == at(0.3) == 1.0
    assert 1.0 > at(0.5) > at(0.9) > at(1.0) == pytest.approx(0.02)


def test_the_clock_ends_a_stage_and_a_pause_ends_a_run():
    now = [100.0]
    run = Run(1.0, clock=lambda: now[0])
    now[0] += 10.0
    budget = Budget(minutes=2.0, spent=30.0, clock=lambda: now[0])
    assert budget.fraction(10**6) == pytest.approx(0.25)
    stops, shares = [], []
    for seconds in (49.0, 1.0, 40.0):
        now[0] += seconds
        stops.append(run.stops)
        shares.append(budget.fraction(0))
    assert stops == [False, True, True]
    assert shares == pytest.approx([79 / 120, 80 / 120, 1.0])


def test_a_signal_ends_a_run_without_a_pause():
    run = Run()
    before, run.signal = run.stops, signal.SIGINT
    assert (before, run.stops) == (False, True)


def test_centres_are_the_means_of_what_rounds_to_them():
    random = np.random.default_rng(0)
    z = np.stack((random.laplace(0, 2.0, 20_000), random.laplace(0, 0.1, 20_000)), axis=1)
    centres = kmeans_centres(z, scarce=0.0)
    assert centres.shape == (2, 31) and (np.diff(centres) > 0).all()
    for k in (-2, 0, 1):
        mean = z[np.rint(z[:, 0]) == k, 0].mean()
        assert centres[0, k + MAX_INDEX] == pytest.approx(mean, abs=2e-3)
    # The second channel never leaves the smallest whole numbers.
    assert (centres[1, MAX_INDEX + 3 :] == np.arange(3, MAX_INDEX + 1)).all()
    assert abs(centres[0, MAX_INDEX + 1]) < 1.0


def test_more_iterations_lower_the_error_of_the_centres():
    z = np.random.default_rng(1).laplace(0, 1.0, (20_000, 1))

    def error(centres: NDArray[np.float32]) -> float:
        return float(np.abs(z - centres[0][None]).min(axis=1).__pow__(2).mean())

    assert error(kmeans_centres(z, iterations=50)) < error(kmeans_centres(z))


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros(3), np.full((4, 2), np.nan)])
def test_centres_of_nothing_are_refused(bad):
    with pytest.raises(ValueError):
        kmeans_centres(bad)


def test_frames_drawn_on_a_device_look_like_those_of_the_shards():
    columns = torch.from_numpy(synthetic_columns(5000))
    x = draw_frames(columns, 256, np.random.default_rng(0))
    again = draw_frames(columns, 256, np.random.default_rng(0))
    assert x.shape == (256, 128, 128) and torch.equal(x, again)
    assert float(x.min()) >= -1.0 and float(x.max()) <= 1.0
    silent = (x == -1.0).all(-1).any(-1).float().mean()
    assert 0.01 < float(silent) < 0.15


def test_frames_are_drawn_from_shards_that_hold_one(tmp_path: Path):
    for number, count in enumerate((100, 300, 20)):
        np.save(tmp_path / f"train-{number:03d}.npy", np.full((count, 128), number, np.uint8))
    (tmp_path / "train.json").write_text('[{"shard": 2, "start": 0, "end": 20}]')
    shards = FrameShards(tmp_path)
    values = shards.batch(300, np.random.default_rng(0), augment=False)
    assert torch.equal(values, torch.full_like(values, 1 / 127.5 - 1.0))
    # The numbers of the index go on counting all of them.
    assert [len(shard) for shard in shards.shards] == [100, 300, 20]
    (tmp_path / "train-001.npy").unlink()
    with pytest.raises(BadInput, match="shorter than a frame"):
        FrameShards(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-000.npy", b""),
        ("train-000.npy", b"PK\x03\x04 an archive"),
        ("train-000.npy", None),
        ("train.json", b"{"),
        ("train.json", b"\xff\xfe"),
        ("train.json", b'{"shard": 0}'),
        ("train.json", b"[" * 100_000),
    ],
)
def test_damaged_shards_and_indices_are_one_line(tmp_path: Path, name: str, content: bytes | None):
    np.save(tmp_path / "train-000.npy", synthetic_columns(300))
    whole = (tmp_path / "train-000.npy").read_bytes()
    (tmp_path / name).write_bytes(whole[:5000] if content is None else content)
    with pytest.raises(BadInput) as caught:
        FrameShards(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [np.zeros((300, 64), np.uint8), np.zeros((300, 128))])
def test_arrays_of_something_else_are_no_shards(tmp_path: Path, columns: NDArray[np.generic]):
    np.save(tmp_path / "train-000.npy", columns)
    with pytest.raises(BadInput, match="no packed columns"):
        FrameShards(tmp_path)


@pytest.mark.parametrize("entry", [{}, {"shard": "x", "start": 0, "end": 9}, {"shard": 1}])
def test_utterances_without_a_place_are_one_line(tmp_path: Path, entry: dict[str, object]):
    pytest.importorskip("pocketsphinx")
    from models.training.utterances import english_utterances

    np.save(tmp_path / "train-000.npy", synthetic_columns(300))
    index = [{"text": "hello world", "lang": "en"} | entry]
    (tmp_path / "train.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="prepare"):
        english_utterances(FrameShards(tmp_path))


def test_a_team_waits_for_as_long_as_its_leader_works(monkeypatch: pytest.MonkeyPatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **more: seen.update(more)
    )
    team = join("cpu")
    assert team.rank == 1 and not team.leads
    timeout = seen["timeout"]
    assert isinstance(timeout, timedelta) and timeout >= timedelta(days=1)


def test_prepare_packs_what_can_be_read(tmp_path: Path):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.wav", "b.wav"):
        soundfile.write(data / "train" / name, random.normal(0, 0.1, 48_000), 16_000)
    (data / "train" / "bad.wav").write_bytes(b"no audio")
    rows = [
        ("file", "start", "end", "corpus", "speaker", "lang", "text"),
        ("a.wav", "0", "16000", "c", "s1", "en", 'say "hello'),
        ("a.wav", "16000", "48000", "c", "s1", "en", ""),
        ("b.wav", "0", "1000", "c", "s2", "de", "too short"),
        ("b.wav", "1000", "48000", "c", "s2", "de", "gut"),
        ("bad.wav", "0", "16000", "c", "s3", "en", "lost"),
    ]
    (data / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    seen = []
    done = prepare(
        data, tmp_path / "packed", processes=1, shard_bytes=60_000,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(done.skipped) == ["bad.wav"]
    paths = sorted((tmp_path / "packed").glob("train-*.npy"))
    assert len(paths) == done.shards > 1
    assert all(path.stat().st_size <= 60_000 for path in paths)
    shards = FrameShards(tmp_path / "packed")
    assert {str(e["text"]) for e in shards.index} == {'say "hello', "", "gut"}
    covered = sum(int(str(e["end"])) - int(str(e["start"])) for e in shards.index)
    assert covered == shards.columns
    # One column for every 128 samples, first to last.
    assert shards.columns == 125 + 250 + (48_000 - 1000 - 128) // 128 + 1


def write_speech(path: Path, seconds: float, rate: int, channels: int = 1, **how: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(path, samples.astype(np.float32), rate, **how)


def test_any_folder_of_recordings_can_be_packed(tmp_path: Path):
    """Without a table: all formats, rates, channels and subfolders; what is unusable is named."""
    data = tmp_path / "my recordings"
    write_speech(data / "a.wav", 1.0, 44_100, 2)
    write_speech(data / "ann" / "b.flac", 1.5, 16_000)
    write_speech(data / "ann" / "first day" / "c.mp3", 2.0, 22_050)
    write_speech(data / "bob" / "d.OGG", 1.0, 48_000, format="OGG")
    write_speech(data / "bob" / "e.wav", 1.0, 8_000, 1, subtype="PCM_U8")
    write_speech(data / "bob" / "short.wav", 0.1, 16_000)
    soundfile.write(data / "silent.wav", np.zeros(16_000), 16_000)
    (data / "bob" / "bad.wav").write_bytes(b"no audio")
    (data / "letter.txt").write_text("no audio either")
    (data / ".hidden.wav").write_bytes(b"")
    done = prepare(data, tmp_path / "packed", processes=1)
    assert sorted(done.skipped) == ["bob/bad.wav", "bob/short.wav", "silent.wav"]
    shards = FrameShards(tmp_path / "packed")
    assert done.utterances == len(shards.index) == 5
    assert {entry["speaker"] for entry in shards.index} == {"a.wav", "ann", "first day", "bob"}
    assert shards.columns == pytest.approx(6.5 * 125, abs=20)


def test_recordings_packed_elsewhere_are_the_same(tmp_path: Path):
    for name in ("a", "b", "c"):
        write_speech(tmp_path / "data" / name / "1.wav", 1.0, 16_000)
    asked = []

    def elsewhere(function: Any, items: Any) -> Any:
        for item in items:
            asked.append(item.path)
            yield "3 workers died of it" if item.name == "b/1.wav" else function(item)

    done = prepare(tmp_path / "data", tmp_path / "there", elsewhere=elsewhere)
    assert done.skipped == {"b/1.wav": "3 workers died of it"}
    assert len(asked) == 3 and all(path.is_absolute() for path in asked)
    (tmp_path / "data" / "b" / "1.wav").write_bytes(b"no audio")
    prepare(tmp_path / "data", tmp_path / "here", processes=1)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_long_recordings_are_packed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that hours take no more memory than minutes; none of it is lost at the seams."""
    write_speech(tmp_path / "data" / "long.wav", 10.0, 16_000)
    (tmp_path / "data" / "texts.tsv").write_text("file\ttext\nlong.wav\thello world\n")
    whole = prepare(tmp_path / "data", tmp_path / "packed", processes=1)
    (entry,) = FrameShards(tmp_path / "packed").index
    assert (entry["text"], entry["lang"]) == ("hello world", "en")
    monkeypatch.setattr("models.training.prepare._PIECE", 32_000)
    parts = prepare(tmp_path / "data", tmp_path / "packed", processes=1)
    index = FrameShards(tmp_path / "packed").index
    assert (parts.utterances, parts.skipped) == (5, {})
    assert parts.hours == pytest.approx(whole.hours, rel=0.01)
    assert {entry["text"] for entry in index} == {""}  # which words are where is unknown
    monkeypatch.setattr("models.training.prepare._LONGEST_FILE", 4 * 16_000)
    begun = prepare(tmp_path / "data", tmp_path / "packed", processes=1)
    assert 0 < begun.hours < parts.hours
    assert "hours are used" in begun.skipped["long.wav"]


@pytest.mark.parametrize(("content", "reason"), [(None, "is not a folder"), ("", "no audio")])
def test_a_folder_without_recordings_is_one_line(tmp_path: Path, content: str | None, reason: str):
    if content is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.txt").write_text(content)
    with pytest.raises(BadInput, match=reason):
        prepare(tmp_path / "data", tmp_path / "packed", processes=1)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("file\tstart\n", "lacks the column 'end'"),
        ("file\tstart\tend\n", "no utterances"),
        ("file\tstart\tend\na.wav\tx\t9\n", "sample numbers"),
        ("file\tstart\tend\n../a.wav\t0\t9\n", "not a plain file name"),
        ("file\tstart\tend\na.wav\t0\t9000\n", "could be packed"),
    ],
)
def test_prepare_refuses_tables_it_cannot_use(tmp_path: Path, table: str, reason: str):
    (tmp_path / "train.tsv").write_text(table)
    with pytest.raises(BadInput, match=reason):
        prepare(tmp_path, tmp_path / "packed", processes=1)
