"""The paper's image system: a tiny model, its files, their damage, and the shipped weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from codec import ImageCodec
from codec.entropy.quads import ESCAPE, QuadCounts
from codec.entropy.quantiser import Quantiser, fit_priced_centres
from codec.errors import BadInput, BadStream, WrongModel
from codec.image import paper as paper_codec
from codec.image.container import read_image
from codec.image.paper import PaperCodec
from codec.image.presets import ImagePreset, find_image_preset, numbered_image_preset
from codec.image.settings import EncodeSettings, SearchProgress
from codec.packet import Entropy
from models.folder import load_photo_paper_model, save_model
from models.networks.image_distance import PaperDistance
from models.networks.photo_paper import PaperImageModel, PaperImageShape
from models.training.image_paper import even_levels
from models.training.linear_start import start_paper_image
from models.training.quad_rate import bits_of, coded, quads_of, whole_counts
from tests.tiny_image_model import photograph, psnr, tiny_codec, training_pictures
from tui.cli import main

SHAPE = PaperImageShape(
    channels=24, levels=32, deep=8, deep_blocks=1, width=8, blocks=2, encoder_width=8,
    encoder_blocks=1,
)  # fmt: skip
NO_SEARCH = EncodeSettings(search=False)


def even_counts(quantiser: Quantiser) -> QuadCounts:
    levels = quantiser.levels
    pairs = np.ones((levels, levels), np.int64)
    return QuadCounts(np.ones(ESCAPE + 1, np.int64), pairs, quantiser.zero_level)


def make_model(folder: Path) -> str:
    """The linear codec with centres and counts from its own pictures, and a little residual."""
    torch.manual_seed(0)
    x = training_pictures()
    levels = SHAPE.levels
    start = even_levels(levels, SHAPE.reach)
    quantiser = Quantiser(start)
    model = PaperImageModel(SHAPE, quantiser, even_counts(quantiser))
    start_paper_image(model.encoder, model.generator, x)
    with torch.no_grad():
        # So that windows which disagree would be noticed.
        model.generator.leave.weight.normal_(0.0, 0.01)
        model.encoder.basis.mul_(0.85)  # so that the search has something to find
        z = model.encoder(x, torch.zeros(len(x)))
        quantiser = Quantiser(fit_priced_centres(z.numpy(), start, 0.1))
    found = even_counts(quantiser).counted(quads_of(quantiser.index(z)))
    counts = whole_counts(*found, quantiser.zero_level)
    done = PaperImageModel(SHAPE, quantiser, counts)
    done.price = 1e-4  # so low that the search does not give up much of F for bits
    done.load_state_dict(model.state_dict())
    return save_model(done, folder, {"name": "paper"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models") / "photo-paper"
    make_model(found)
    return found


@pytest.fixture(scope="module")
def codec(folder: Path) -> PaperCodec:
    preset = replace(find_image_preset("paper"), model=str(folder.resolve()), iterations=8, fast=3)
    return PaperCodec(preset, torch.device("cpu"))


def test_a_full_picture_is_cut_into_tiles(codec: PaperCodec) -> None:
    for size in ((768, 512), (512, 768)):
        file = read_image(codec.encode(photograph(*size), NO_SEARCH))
        rows, columns = file.header.cells
        assert rows * columns == 1536
        assert len(file.payloads) == 24


def test_round_trip_and_search(codec: PaperCodec) -> None:
    picture = photograph(120, 90)
    x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255.0
    distance, scores = PaperDistance(), []
    for settings in (NO_SEARCH, EncodeSettings(iterations=12)):
        decoded = codec.decode(codec.encode(picture, settings))
        assert decoded.shape == (90, 120, 3)
        y = torch.from_numpy(decoded).permute(2, 0, 1)[None] / 255.0
        scores.append(float(distance(x, y)))
    assert psnr(decoded, np.asarray(picture)) > 22.0
    assert scores[1] < 0.9 * scores[0]


@pytest.mark.parametrize("entropy", ["huffman", "range"])
def test_both_coders_carry_the_same_latents(
    codec: PaperCodec, entropy: Literal["huffman", "range"]
) -> None:
    picture = photograph(100, 60)
    data = codec.encode(picture, replace(NO_SEARCH, entropy=entropy))
    file = read_image(data)
    assert {p.entropy for p in file.payloads if p} == {Entropy[entropy.upper()]}
    other = codec.encode(picture, NO_SEARCH)
    assert np.array_equal(codec.decode(data), codec.decode(other))
    assert abs(len(data) - len(other)) < 0.03 * len(other)


def test_huffman_takes_what_its_table_says(codec: PaperCodec) -> None:
    picture = photograph(384, 256)
    file = read_image(codec.encode(picture, NO_SEARCH))
    x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255.0
    with torch.no_grad():
        z = codec.model.encoder(x, torch.zeros(1))
    counts = codec.model.counts
    wanted = bits_of(counts.counted(quads_of(codec.model.quantiser.index(z))), coded(counts))
    bits = sum(8 * len(p.data) for p in file.payloads if p)
    assert wanted <= bits < wanted + 8 * len(file.payloads)
    assert bits < 5 * z.numel()


@pytest.mark.parametrize("size", [(1, 1), (2, 17), (33, 5), (300, 3)])
def test_any_size(codec: PaperCodec, size: tuple[int, int]) -> None:
    data = codec.encode(photograph(*size), EncodeSettings(iterations=2))
    assert codec.decode(data).shape == (size[1], size[0], 3)


def test_grey_and_alpha(codec: PaperCodec) -> None:
    pixels = np.asarray(photograph(40, 30).convert("RGBA")).copy()
    pixels[:9, :, 3] = 7
    assert np.array_equal(codec.decode(codec.encode(pixels, NO_SEARCH))[:, :, 3], pixels[:, :, 3])
    grey = codec.decode(codec.encode(np.asarray(photograph(40, 30).convert("L")), NO_SEARCH))
    assert (grey[:, :, 0] == grey[:, :, 2]).all()


def test_windows_leave_no_seam(codec: PaperCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photograph(250, 170)
    data = codec.encode(picture, EncodeSettings(iterations=6))
    whole = codec.decode(data)
    monkeypatch.setattr("codec.image.tiling.WINDOW", 8)
    assert np.abs(codec.decode(data).astype(int) - whole).max() <= 1
    monkeypatch.setattr(paper_codec, "SEARCH_WINDOW", 8)
    parts = codec.decode(codec.encode(picture, EncodeSettings(iterations=6)))
    known = np.asarray(picture)
    assert psnr(parts, known) > psnr(whole, known) - 0.3


def test_one_rate(codec: PaperCodec) -> None:
    picture = photograph(160, 128)
    size = len(codec.encode(picture, NO_SEARCH))
    bpp = 8 * size / (160 * 128)
    for enough in (replace(NO_SEARCH, bpp=1.01 * bpp), replace(NO_SEARCH, ratio=23.7 / bpp)):
        assert len(codec.encode(picture, enough)) == size
    for less in (replace(NO_SEARCH, bpp=0.97 * bpp), replace(NO_SEARCH, ratio=25 / bpp)):
        with pytest.raises(BadInput, match="one rate"):
            codec.encode(picture, less)
    with pytest.raises(BadInput, match="no quality"):
        codec.encode(picture, EncodeSettings(quality=50))
    with pytest.raises(BadInput, match="no places"):
        codec.encode(picture, EncodeSettings(places="fixed"))
    with pytest.raises(BadInput, match="searched by admm or backprop, not by mean-field"):
        codec.encode(picture, EncodeSettings(method="mean-field"))
    steps: list[SearchProgress] = []
    with pytest.raises(BadInput, match="one rate"):
        codec.encode(picture, EncodeSettings(bpp=0.05), progress=steps.append)
    assert not steps  # known before the search


def test_progress_and_budget(codec: PaperCodec) -> None:
    seen: list[SearchProgress] = []
    codec.encode(photograph(64, 64), EncodeSettings(iterations=9), progress=seen.append)
    shares = [p.share for p in seen]
    assert shares == sorted(shares)
    assert seen[-1].share == 1.0
    assert seen[-1].cost is not None
    assert seen[-1].cost < 1.0
    now = [0.0]

    def clock() -> float:
        now[0] += 0.05
        return now[0]

    seen.clear()
    codec.encode(photograph(64, 64), EncodeSettings(budget=1.0), progress=seen.append, clock=clock)
    assert 3 < len(seen) < 40


def test_damage_costs_its_part(codec: PaperCodec) -> None:
    picture = photograph(384, 300)
    data = codec.encode(picture, NO_SEARCH)
    whole = codec.decode(data).astype(int)
    file = read_image(data)
    assert file.payloads[0] is not None
    # Somewhere in the payload of the first tile, behind headers of file, record and packet.
    flipped = bytearray(data)
    flipped[60] ^= 4
    broken = codec.decode_file(read_image(bytes(flipped)))
    assert "1 of 9 tiles damaged" in broken.notes
    apart = np.abs(broken.rgb.astype(int) - whole).max(axis=2)
    reach = 16 * codec.model.generator.sight
    assert apart[:100, :100].max() > 20
    assert apart[100 + reach :].max() == 0
    assert apart[:, 128 + reach :].max() == 0
    # Concealment is the colours around, not noise.
    assert psnr(broken.rgb, np.asarray(picture)) > 14.0
    half = codec.decode_file(read_image(data[: len(data) // 2]))
    assert half.rgb.shape == (300, 384, 3)
    assert half.notes
    for cut in (0, 10, 30):
        with pytest.raises(BadStream):
            codec.decode(data[:cut])


def test_networks_see_no_further_than_they_say() -> None:
    shape = replace(SHAPE, encoder_blocks=4, deep_blocks=2, blocks=3)
    quantiser = Quantiser(even_levels(shape.levels, shape.reach))
    model = PaperImageModel(shape, quantiser, even_counts(quantiser))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    for network, planes, side in ((model.encoder, 3, 16), (model.generator, shape.channels, 1)):
        cells = 2 * network.sight + 3
        x = torch.rand(1, planes, side * cells, side * cells, requires_grad=True)
        y = network(x, torch.zeros(1))
        size = y.shape[2] // cells
        middle = slice(size * (cells // 2), size * (cells // 2 + 1))
        y[..., middle, middle].square().sum().backward()
        assert x.grad is not None
        seen = torch.nn.functional.max_pool2d(x.grad.abs().sum(1), side)[0] > 0
        assert not seen[[0, -1]].any() and not seen[:, [0, -1]].any()
        assert seen[cells // 2, cells // 2]


def test_payloads_that_no_encoder_writes(codec: PaperCodec) -> None:
    file = read_image(codec.encode(photograph(64, 64), NO_SEARCH))
    payload = file.payloads[0]
    assert payload is not None
    for data in (payload.data[:-3], payload.data + b"\1", b""):
        file.payloads[0] = replace(payload, data=data)
        with pytest.raises(BadStream):
            codec.decode_file(file)


def test_wrong_models(codec: PaperCodec, folder: Path, tmp_path: Path) -> None:
    file = read_image(codec.encode(photograph(32, 32), NO_SEARCH))
    stranger = replace(file.header, model_id="0123456789abcdef")
    with pytest.raises(WrongModel):
        codec.decode_file(replace(file, header=stranger))
    description = json.loads((folder / "model.json").read_text())
    for change in (
        {"model_id": "0" * 16},
        {"shape": {**description["shape"], "levels": 16}},
        {"shape": {**description["shape"], "channels": 0}},
        {"shape": {**description["shape"], "rate": 3.1}},
        {"price": float("inf")},
        {"shape": 7},
        {"kind": "paper"},
    ):
        for part in folder.iterdir():
            (tmp_path / part.name).write_bytes(part.read_bytes())
        (tmp_path / "model.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(BadInput) as caught:
            load_photo_paper_model("photo-paper", tmp_path)
        assert "\n" not in str(caught.value)


def test_the_command_line(
    codec: PaperCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ImageCodec, "load", lambda *_: codec)
    source, coded, back = (str(tmp_path / n) for n in ("a.png", "a.stim", "b.png"))
    photograph(80, 60).save(source)
    args = ["image", "encode", source, coded, "--preset", "paper", "--iterations", "2"]
    assert main(args) == 0
    assert main(["image", "info", coded, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["preset"], found["entropy"], found["integrity"]) == ("paper", "huffman", "intact")
    assert main(["image", "decode", coded, back]) == 0
    with Image.open(back) as image:
        assert image.size == (80, 60)
    assert main([*args, "--entropy", "range"]) == 0
    capsys.readouterr()
    for wrong in (["--bpp", "0.1"], ["--quality", "50"]):
        assert main([*args, *wrong]) == 1
        said = capsys.readouterr().err
        assert "one rate" in said
        assert said.count("\n") == 1


def test_the_bench_shows_one_point_beside_a_curve(
    codec: PaperCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = tiny_codec(tmp_path / "photo")
    monkeypatch.setattr(ImageCodec, "load", lambda name, *_: codec if name == "paper" else photo)
    (tmp_path / "pictures").mkdir()
    photograph(80, 64).save(tmp_path / "pictures" / "a.png")
    args = ["bench", "image", str(tmp_path / "pictures"), "--preset", "paper", "--iterations", "1"]
    files = [str(tmp_path / n) for n in ("all.json", "curves.png", "crops.png")]
    more = ["--json", files[0], "--curves", files[1], "--crops", files[2], "--qualities", "20,80"]
    assert main([*args, *more, "--peers", "jpeg", "--at", "0.8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")] for line in lines]
    (row,) = [row for row in rows if row[1:2] == ["paper"]]
    assert all(float(cell) > 0.0 for cell in row[2:5])  # at the rate it has, whatever --at says
    assert all(Path(f).stat().st_size > 1000 for f in files)


def test_the_preset_is_found_by_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(find_image_preset("paper"), model=str(folder.resolve()))
    monkeypatch.setitem(paper_codec_presets(), "paper", tiny)
    codec = ImageCodec.load("paper", "cpu")
    assert isinstance(codec, PaperCodec)
    header = read_image(codec.encode(photograph(32, 32), NO_SEARCH)).header
    assert numbered_image_preset(header.preset) == tiny


def paper_codec_presets() -> dict[str, ImagePreset]:
    from codec.image.presets import IMAGE_PRESETS

    return IMAGE_PRESETS


def test_shipped_weights() -> None:
    """A floor under what they reach: catches broken weights or tables."""
    codec = ImageCodec.load("paper", "cpu")
    with Image.open(Path(__file__).parent / "images" / "kodak-23-parrots.png") as image:
        picture = np.asarray(image.convert("RGB"))
    data = codec.encode(picture, EncodeSettings(iterations=2))
    file = read_image(data)
    assert 0.2 < file.bits_per_pixel < 0.34
    assert file.intact
    assert psnr(codec.decode(data), picture) > 28.1
