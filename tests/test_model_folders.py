"""Model folders: written completely or not at all, replacing only other models, and loaded or else
refused with one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from codec.entropy.huffman import count_tokens
from codec.errors import BadInput
from codec.speech.codec import SpeechCodec
from models.folder import (
    load_ganz_model,
    load_photo_model,
    load_photo_paper_model,
    load_speech_model,
    new_model_folder,
    save_model,
)
from models.networks.photo import PhotoShape
from models.networks.speech import Prior, SpeechModel, SpeechShape
from models.stored import sizes as sizes_of
from models.training.tables import speech_context


def load_to_decode(name: str, folder: Path) -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu", folder, decoding=True)


LOADERS: dict[str, Callable[[str, Path], object]] = {
    "speech": load_speech_model,
    "decoder": load_to_decode,
    "image": load_photo_model,
    "ganz": load_ganz_model,
    "image-paper": load_photo_paper_model,
}
TINY = SpeechShape(
    channels=24, width=8, hidden=8, encoder_blocks=1, generator_blocks=1,
    prior_unit=4, prior_groups=(8, 16),
)  # fmt: skip


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


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '"x"', "7", "null", "[" * 100_000, "1" * 5_000, "\0", " " * (2 << 20) + "{}",
        '{"shape": []}', '{"shape": {}}', '{"shape": {"prior_groups": [], "widths": []}}',
        '{"kind": "paper", "shape": [1]}', '{"kind": "paper", "shape": "x"}',
        '{"kind": "image", "shape": [1]}', '{"kind": "ganz", "shape": [1]}',
        '{"kind": "image-paper", "shape": [1]}', '{"kind": ["paper"], "shape": 1}',
    ],
    ids=lambda text: text[:30].strip() or "nothing",
)  # fmt: skip
def test_broken_descriptions_are_one_line(tmp_path: Path, loader: str, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        LOADERS[loader]("mine", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    _save(TINY, folder)
    return folder


def _save(context_of: SpeechShape, folder: Path) -> None:
    context = speech_context(Prior(context_of), [])
    about = {"huffman_overhead": 1.3}
    model = SpeechModel(TINY)
    model.context, model.runs = context, count_tokens(context, [])
    save_model(model, folder, about)


def test_a_speech_model_comes_back(speech_folder: Path) -> None:
    model = load_speech_model("mine", speech_folder)
    q = np.ones((TINY.steps, TINY.channels), np.int8)
    for coder in model.coders.values():
        assert (coder.decode(coder.encode(q, 3), 3) == q).all()


def test_a_speech_model_decodes_alone(speech_folder: Path) -> None:
    found = load_to_decode("mine", speech_folder)
    assert found.model_id == load_speech_model("mine", speech_folder).model_id
    assert found.channels == TINY.channels


def test_a_context_of_other_channels_is_refused(tmp_path: Path) -> None:
    _save(SpeechShape(channels=12, prior_unit=4, prior_groups=(4, 8)), tmp_path)
    with pytest.raises(BadInput, match="disagree about the channels"):
        load_speech_model("mine", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"log_rate_weights": [-7.5]},
        {"log_rate_weights": [-7.5, float("nan"), -9.0]},
        {"log_rate_weights": 3},
        {"huffman_overhead": float("inf")},
        {"huffman_overhead": [1.3]},
    ],
)
def test_other_numbers_than_a_model_has_are_refused(
    speech_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    for part in speech_folder.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, **change}))
    with pytest.raises(BadInput, match="cannot load the speech model"):
        load_speech_model("mine", tmp_path)


def _without_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _huge(path: Path) -> None:
    os.truncate(path, 1 << 40)  # takes no room


def _claiming(path: Path) -> None:
    """A header that says it is as long as memory."""
    path.write_bytes((1 << 50).to_bytes(8, "little") + b"{}")


def _not_numbers(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, path)


def _one_changed(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path)


def _other_shape(path: Path) -> None:
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name].new_zeros(3, 5, 7)}, path)


def _one_more(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "more": next(iter(tensors.values())).new_zeros(3)}, path)


ANY_FILE = (_without_end, Path.unlink, _pipe, _folder, _loop, _huge)
WEIGHTS_ONLY = (_claiming, _not_numbers, _other_shape)
FAULTS = [
    *((name, fault) for name in ("model.json", "generator.safetensors") for fault in ANY_FILE),
    *(("encoder.safetensors", fault) for fault in WEIGHTS_ONLY),
    ("entropy.safetensors", _without_end),
    *(("generator.safetensors", fault) for fault in (_one_changed, _one_more, *WEIGHTS_ONLY)),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_damaged_folder_is_one_line(
    speech_folder: Path, tmp_path: Path, name: str, fault: Callable[[Path], None]
) -> None:
    """Whatever is in the place of a file, it is neither waited for nor read without bound."""
    folder = Path(shutil.copytree(speech_folder, tmp_path / "mine"))
    fault(folder / name)
    decoded = name != "encoder.safetensors"
    for load in (load_speech_model, load_to_decode) if decoded else (load_speech_model,):
        with pytest.raises(BadInput, match="mine") as caught:
            load("mine", folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_folder_is_one_line(tmp_path: Path, loader: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("{}")
    for name in ("loop", "file", "nothing", "loop/deeper", "file/deeper", "x" * 300):
        with pytest.raises(BadInput) as caught:
            LOADERS[loader]("mine", tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [".", "model.json", "generator.safetensors"])
def test_a_folder_without_rights_is_one_line(
    speech_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(speech_folder, tmp_path / "mine"))
    (folder / name).chmod(0)
    try:
        with pytest.raises(BadInput, match="permission denied"):
            load_speech_model("mine", folder)
    finally:
        (folder / name).chmod(0o700)


@pytest.mark.parametrize(
    "sizes",
    [
        {"patch": 0}, {"patch": 12}, {"hops": 1 << 40}, {"mels": -1}, {"channels": 1 << 30},
        {"width": 0}, {"hidden": 1 << 20}, {"encoder_blocks": 10**6}, {"generator_blocks": -1},
        {"prior_unit": 300}, {"prior_groups": ()}, {"prior_groups": (-1, 193)},
        {"width": float("nan")},
    ],
)  # fmt: skip
def test_impossible_speech_shapes(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SpeechShape(**sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 1 << 30}, {"deep": 0}, {"width": -3}, {"encoder_width": 1 << 20},
        {"blocks": 10**6}, {"prior_values": 400}, {"prior_unit": 501}, {"prior_groups": [400, -80]},
    ],
)  # fmt: skip
def test_impossible_image_shapes(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        PhotoShape(**sizes_of({"shape": {"prior_groups": [20, 300], **sizes}}))
