"""GANZ: the random layer, the codec around it, damage, and the start of the training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codec import ImageCodec
from codec.entropy.range_coder import decode_flags, encode_flags
from codec.errors import BadInput, BadStream, WrongModel
from codec.image.container import Payload, read_image
from codec.image.ganz import PIXELS, GanzCodec, cut_tiles
from codec.image.ganz_search import descend, linear_latents, places_within
from codec.image.settings import EncodeSettings, Places, SearchProgress
from codec.packet import Entropy
from models.evaluation.ganz import keep_largest
from models.folder import load_ganz_model
from models.networks.first_layer import (
    ChosenFirstLayer,
    DenseFirstLayer,
    PlacedFirstLayer,
    as_entries,
    as_grid,
    as_spectrum,
    from_entries,
    per_number,
)
from models.networks.ganz import GanzShape
from models.networks.random_layer import RandomLayer, hadamard, random_order, random_signs
from models.training.log import read_log
from models.training.loop import Run, train
from models.training.photographs import Photographs
from tests.tiny_ganz_model import crop, photographs, tiny_ganz, tiny_task
from tests.tiny_image_model import photograph, psnr
from tui.cli import main

# Of Philox with the key (2020, stream); see the test.
GOLDEN_SIGNS = [-1, 1, 1, 1, 1, -1, -1, 1, -1, -1, 1, 1]
GOLDEN_ORDER = [3251, 1914, 976, 4911, 3671, 820]
GOLDEN_DIGEST = "123fc777788d131a"
GOLDEN_PLACES = "ade88919ce0c28a3"
# Eight square roots of three times the first numbers of a dense layer of 3 latents to 256.
GOLDEN_DENSE = [-1, -3, 3, 3, 1, -1, -3, -1, 3, -9, -17, -9]
# What a packet's quality field says of the first layer; one more if latents are coded.
FORMS = {"fixed": 0, "chosen": 2, "dense": 4, "keep": 6, "none": 8}
QUICK = EncodeSettings(ratio=48, iterations=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ganz")


@pytest.fixture(scope="module")
def codec(folder: Path) -> GanzCodec:
    return tiny_ganz(folder)


# --- the random layer ----------------------------------------------------------------------------


def test_the_random_layer_is_the_same_everywhere() -> None:
    # Raw integers only: no machine may ever get other ones.
    signs, order = random_signs(8192, 2020, 1), random_order(4915, 2020, 0)
    assert signs[:12].tolist() == GOLDEN_SIGNS
    assert order[:6].tolist() == GOLDEN_ORDER
    digest = hashlib.sha256(signs.tobytes() + order.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == GOLDEN_DIGEST
    assert abs(int(signs.sum())) < 400
    assert sorted(order) == list(range(4915))


@pytest.mark.parametrize("latents", [1, 2, 64, 100, 4915, 8192])
def test_the_random_layer_is_orthogonal(latents: int) -> None:
    layer = RandomLayer(latents)
    z = torch.randn(3, latents, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.transposed(layer(z)), z, atol=1e-4, rtol=0)
    torch.testing.assert_close(layer(z).norm(dim=1), z.norm(dim=1))


def test_the_random_layer_mixes() -> None:
    matrix = RandomLayer(100)(torch.eye(100))
    assert float((matrix.abs() > 1e-6).float().mean()) > 0.8
    assert float(matrix.abs().max()) < 0.3
    assert hadamard(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_random_latents_have_the_statistics_of_photographs() -> None:
    generator = torch.Generator().manual_seed(2)
    scales = torch.rand(2048, generator=generator) + 0.5
    layer = PlacedFirstLayer(1500, scales, torch.full((2048,), 0.2), torch.ones(32))
    h = layer(torch.randn(400, 1500, generator=generator))
    spectrum = as_spectrum(h)
    kept = layer.where
    assert float(scales[kept].min()) >= float(scales.sort(descending=True).values[1500])
    torch.testing.assert_close(spectrum[:, kept].std(0), scales[kept], rtol=0.25, atol=0)
    torch.testing.assert_close(as_grid(spectrum), h)


def test_chosen_numbers_are_reached_in_picture_units() -> None:
    spread, mean = torch.rand(40) + 0.5, torch.rand(2048)
    flags = torch.zeros(40 * 64, dtype=torch.uint8)
    flags[[3, 20 * 64 + 1, 40 * 64 - 1]] = 1
    layer = ChosenFirstLayer(flags, mean, spread)
    z = torch.tensor([[1.0, 2.0, -2.0]])
    h = layer(z)
    moved = h - layer(torch.zeros(1, 3))
    assert h.shape == (1, 40, 8, 8)
    torch.testing.assert_close(h[:, 1:20], as_grid(mean[None])[:, 1:20])
    # A smooth channel is moved as a whole or in part, the others at one place.
    assert [int((moved[0, c].abs() > 1e-6).sum()) for c in (0, 20, 39)] == [32, 1, 1]
    assert float((moved * spread[:, None, None]).norm()) == pytest.approx(3.0, rel=1e-4)
    torch.testing.assert_close(layer.search_units(z).norm(), torch.tensor(3.0))
    torch.testing.assert_close(layer.inverse(h), z)
    with pytest.raises(ValueError):
        ChosenFirstLayer(flags[:-64], mean, spread)


def test_entries_are_orthonormal() -> None:
    h = torch.randn(2, 20, 8, 8, generator=torch.Generator().manual_seed(3))
    entries = as_entries(h)
    torch.testing.assert_close(from_entries(entries), h)
    torch.testing.assert_close(entries.norm(), h.norm())
    torch.testing.assert_close(entries[:, 12 * 64 :], h[:, 12:].reshape(2, -1))
    even = as_entries(torch.ones(1, 12, 8, 8))
    assert (even > 1e-5).nonzero()[:, 1].tolist() == list(range(0, 12 * 64, 64))


def test_a_dense_layer_is_the_same_everywhere() -> None:
    layer = DenseFirstLayer(3, torch.ones(256), torch.zeros(256), torch.ones(4))
    matrix = as_spectrum(layer(torch.eye(3)))
    first = 8 * 3**0.5 * matrix[0, :12]
    torch.testing.assert_close(first, torch.tensor(GOLDEN_DENSE, dtype=torch.float32))
    assert float((matrix.abs() > 1e-6).float().mean()) > 0.8
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3) * 256 / 3)


@pytest.mark.parametrize("places", ["fixed", "dense", "keep", "none"])
def test_a_first_layer_knows_its_inverse(codec: GanzCodec, places: Places) -> None:
    count = codec.form.only_count(places) or 300
    layer = codec.model.first_layer(count, places)
    z = torch.randn(2, count, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(layer.inverse(layer(z)), z, atol=2e-3, rtol=0)
    torch.testing.assert_close(layer.from_search_units(layer.search_units(z)), z, atol=2e-3, rtol=0)
    # The linear synthesis keeps lengths in search units.
    body = codec.model.generator.body
    spread = body.spread[: layer.channels, None, None]
    moved = as_spectrum(spread * (layer(z) - layer(torch.zeros_like(z))))
    lengths = layer.search_units(z).norm(dim=1)
    torch.testing.assert_close(moved.norm(dim=1), lengths, rtol=1e-3, atol=0)
    with pytest.raises(ValueError):
        codec.model.first_layer(3000, places)


@pytest.mark.parametrize(
    "shape", [{"widths": (24, 8, 8, 8, 8)}, {"widths": (32, 8)}, {"details": -1}, {"details": 641}]
)
def test_impossible_shapes(shape: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        GanzShape(latents=16, **shape)


# --- the codec -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [24.0, 100.0, 333.3, 768.0])
def test_floats_are_as_many_as_the_ratio_says(codec: GanzCodec, ratio: float) -> None:
    size = 2 + 4 * int(PIXELS / ratio)
    fixed = read_image(codec.encode(crop(), _at(ratio, places="fixed"))).payloads[0]
    assert fixed is not None
    assert len(fixed.data) == size
    data = codec.encode(crop(), _at(ratio))
    chosen = read_image(data).payloads[0]
    assert chosen is not None
    assert size - 40 < len(chosen.data) <= size + 2  # 2 bytes where fixed places were better
    assert codec.decode(data).shape == (128, 128, 3)


def _at(ratio: float, **more) -> EncodeSettings:
    return EncodeSettings(ratio=ratio, iterations=2, **more)


def test_chosen_places_are_the_better_use_of_numbers(codec: GanzCodec) -> None:
    pixels = crop().copy()
    pixels[40:80, 30:60] = 255 - pixels[40:80, 30:60]
    scores = [
        psnr(codec.decode(codec.encode(pixels, _at(100, places=places))), pixels)
        for places in ("fixed", "chosen")
    ]
    assert scores[1] > scores[0] + 0.3


def test_other_first_layers(codec: GanzCodec) -> None:
    def score(places: Places, **more) -> float:
        settings = EncodeSettings(places=places, **({"iterations": 5} | more))
        data = codec.encode(crop(), settings)
        (payload,) = read_image(data).payloads
        assert payload is not None
        assert payload.quality == FORMS[places] + (settings.entropy is not None)
        return psnr(codec.decode(data), crop())

    dense = score("dense", ratio=48)
    # With as many latents as h0 has numbers it is the same without a layer.
    assert score("none") == pytest.approx(score("dense", ratio=24), abs=0.1)
    assert score("none") > dense + 1 > score("keep") + 1
    assert score("none", entropy="range") > 25
    # The paper's search takes many steps to less.
    sgd = [score("dense", ratio=48, method="sgd", iterations=n) for n in (5, 50)]
    assert sgd[0] + 2 < sgd[1] < dense - 1
    with pytest.raises(BadInput, match="16 latents"):
        score("keep", ratio=768)
    with pytest.raises(BadInput, match="at least"):
        score("none", bpp=1.0)
    assert score("keep", bpp=1.0) == score("keep")


def test_places_within_their_numbers() -> None:
    sizes = np.random.default_rng(1).gamma(0.3, size=2000).astype(np.float32)
    flags = places_within(sizes, 400)
    assert flags is not None
    taken = int(flags.sum()) + (2 + len(encode_flags(flags))) / 4
    assert 395 < taken <= 400
    assert sizes[flags == 1].min() >= sizes[flags == 0].max()
    assert places_within(sizes, 3) is None


@pytest.mark.parametrize("count", [1, 2, 77, 8192])
def test_places_survive(count: int) -> None:
    random = np.random.default_rng(count)
    for share in (0.0, 0.02, 0.6, 1.0):
        flags = (random.random(count) < share * np.linspace(2, 0, count)).astype(np.uint8)
        data = encode_flags(flags)
        assert (decode_flags(data, count) == flags).all()
        assert len(data) < count / 8 + 8
    for junk in (b"\0", b"\xff" * 30, random.bytes(9)):
        with pytest.raises(BadStream):
            decode_flags(junk + b"\0", count)


def test_places_are_coded_as_ever() -> None:
    flags = (np.arange(300) * 7919 % 300 > np.arange(300)).astype(np.uint8)
    assert hashlib.sha256(encode_flags(flags)).hexdigest()[:16] == GOLDEN_PLACES


def test_every_ratio_the_shape_has_room_for_works(codec: GanzCodec) -> None:
    most = codec.model.generator.shape.most_latents
    for ratio in (6.0, 24.5, 25.0, 40.0, 97.3, 767.9):
        settings = EncodeSettings(ratio=ratio, search=False, places="fixed")
        data = codec.encode(crop(), settings)
        (payload,) = read_image(data).payloads
        assert payload is not None
        latents = codec.form.latents_of(payload).z.shape[1]
        assert latents == (int(PIXELS / ratio) if ratio > 24.0 else most)
        assert codec.decode(data).shape == (128, 128, 3)


@pytest.mark.parametrize("ratio", [5.9, 769.0, 1e9])
def test_other_ratios_are_refused(codec: GanzCodec, ratio: float) -> None:
    with pytest.raises(BadInput, match="between 6 and 768"):
        codec.encode(crop(), EncodeSettings(ratio=ratio))


def test_what_the_preset_cannot_do_is_said(codec: GanzCodec) -> None:
    with pytest.raises(BadInput, match="no quality"):
        codec.encode(crop(), EncodeSettings(quality=50))
    with pytest.raises(BadInput, match="squared error"):
        codec.encode(crop(), EncodeSettings(tune="ms-ssim"))
    with pytest.raises(BadInput, match="1024"):
        codec.encode(np.zeros((128 * 33, 128 * 33, 3), np.uint8), QUICK)
    with pytest.raises(BadInput, match="at least"):
        codec.encode(crop(), EncodeSettings(bpp=0.05))


def test_more_latents_are_a_better_picture(codec: GanzCodec) -> None:
    scores = [
        psnr(codec.decode(codec.encode(crop(), EncodeSettings(ratio=r, iterations=5))), crop())
        for r in (768, 192, 30)
    ]
    assert scores[0] + 1 < scores[1] < scores[2] - 1


def test_the_search_pays(codec: GanzCodec) -> None:
    def score(settings: EncodeSettings) -> float:
        return psnr(codec.decode(codec.encode(crop(), settings)), crop())

    assert score(QUICK) > score(EncodeSettings(ratio=48, search=False)) + 0.2


@pytest.mark.parametrize("entropy", ["range", "huffman"])
def test_coded_latents_take_far_fewer_bytes(codec: GanzCodec, entropy: str) -> None:
    floats = codec.encode(crop(), QUICK)
    coded = codec.encode(
        crop(),
        EncodeSettings(ratio=48, iterations=5, entropy=entropy),  # type: ignore[arg-type]
    )
    assert len(coded) < 0.25 * len(floats)
    assert psnr(codec.decode(coded), codec.decode(floats)) > 28


@pytest.mark.parametrize("entropy", [None, "range"])
def test_no_more_bytes_than_asked(codec: GanzCodec, entropy: None) -> None:
    data = codec.encode(crop(), EncodeSettings(bpp=0.5, iterations=2, entropy=entropy))
    assert 0.35 * 128 * 128 < 8 * len(data) <= 0.5 * 128 * 128


@pytest.mark.parametrize("size", [(1, 1), (130, 5), (129, 200)])
def test_any_size(codec: GanzCodec, size: tuple[int, int]) -> None:
    picture = photograph(*size)
    data = codec.encode(picture, QUICK)
    decoded = codec.decode(data)
    assert decoded.shape == (size[1], size[0], 3)
    assert psnr(decoded, np.asarray(picture)) > 18


def test_alpha_and_grey(codec: GanzCodec) -> None:
    picture = photograph(40, 30).convert("L").convert("RGBA")
    picture.putalpha(photograph(40, 30, 3).convert("L"))
    decoded = codec.decode(codec.encode(picture, QUICK))
    assert (decoded[:, :, 3] == np.asarray(picture)[:, :, 3]).all()
    assert (decoded[:, :, 0] == decoded[:, :, 2]).all()


def test_tiles_are_the_picture_mirrored_out() -> None:
    pixels = np.asarray(photograph(200, 130))
    tiles, own = cut_tiles(pixels)
    assert tiles.shape == (4, 3, 128, 128)
    assert float(own.sum()) == 200 * 130
    back = (255 * tiles[1]).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(back[:, :72], pixels[:128, 128:], atol=0.01)
    np.testing.assert_allclose(back[:, 72:], pixels[:128, 144:][:, ::-1], atol=0.01)


def test_encoding_is_deterministic_and_tells_of_progress(codec: GanzCodec) -> None:
    seen: list[SearchProgress] = []
    data = codec.encode(crop(), QUICK, progress=seen.append)
    assert data == codec.encode(crop(), QUICK)
    assert seen[-1].share == 1.0
    assert seen[-1].cost is not None and seen[-1].cost < 1.0


def test_a_budget_ends_the_search(codec: GanzCodec) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    steps: list[int] = []
    codec.encode(
        photograph(200, 100), EncodeSettings(ratio=400, budget=30.0),
        progress=lambda p: steps.append(p.steps), clock=clock,
    )  # fmt: skip
    assert 2 < len(steps) < 40


@pytest.mark.parametrize("budget", [None, 20.0])
def test_a_picture_that_takes_more_than_foreseen(codec: GanzCodec, budget: float | None) -> None:
    """Noise, of which fewer latents must do: in one budget, and progress never runs backwards."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 256, 3)).astype(np.uint8)
    now, shares = [0.0], []

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    settings = EncodeSettings(
        bpp=0.4, budget=budget, iterations=5 if budget is None else None, entropy="range"
    )
    data = codec.encode(pixels, settings, progress=lambda p: shares.append(p.share), clock=clock)
    assert 8 * len(data) <= 0.4 * 128 * 256
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert now[0] < 24.0
    if budget is not None:
        searched = psnr(codec.decode(data), pixels)
        without = codec.encode(pixels, EncodeSettings(bpp=0.4, search=False, entropy="range"))
        assert searched > psnr(codec.decode(without), pixels)


def test_damage_costs_its_tile_only(codec: GanzCodec) -> None:
    picture = photograph(256, 128)
    data = codec.encode(picture, QUICK)
    whole = codec.decode(data)
    broken = bytearray(data)
    broken[len(data) // 4] ^= 4
    file = read_image(bytes(broken))
    found = codec.decode_file(file)
    assert file.damaged_tiles == 1
    assert found.notes
    assert (found.rgb[:, 128:] == whole[:, 128:]).all()
    assert np.ptp(found.rgb[:, :128], axis=(0, 1)).max() == 0  # one colour
    short = codec.decode(data[: len(data) * 2 // 3])
    assert (short[:, :128] == whole[:, :128]).all()
    with pytest.raises(BadStream):
        codec.decode(data[:30])


def test_another_model_is_refused(codec: GanzCodec) -> None:
    data = codec.encode(crop(), QUICK)
    file = read_image(data)
    with pytest.raises(WrongModel):
        codec.decode_file(_as(file, model_id="0123456789abcdef"))
    with pytest.raises(BadStream, match="tiles"):
        codec.decode_file(_as(file, tile=32))


def _as(file, **changes):
    return replace(file, header=replace(file.header, **changes))


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (0, b""),
        (0, b"\0"),
        (0, b"\0\0"),
        (0, b"\xff\xff" + bytes(4)),
        (0, b"\0\2" + bytes(4)),
        (0, b"\0\1\x7f\xc0\0\0"),  # not a number
        (0, b"\0\1\x7f\x7f\xff\xff"),
        (1, b"\0\4"),
        (1, b"\0\4\x7e\0abc"),
        (1, b"\0\4\xbc\0abc"),
        (1, b"\0\4\x3c\0" + b"\xff" * 40),
        (2, b"\0\1"),
        (2, b"\0\1\0\0" + bytes(3)),
        (2, b"\0\1\0\5" + bytes(4)),
        (2, b"\0\1\0\4" + b"\x80\1\2\3" + bytes(4)),
        (3, b"\0\4\x3c\0\0"),
        (5, b"\0\4\x3c\0\0"),
        (6, b"\0\1" + bytes(4)),  # the trained layer has 16 latents
        (7, b"\0\1\x3c\0\0"),
        (8, b"\0\1" + bytes(4)),
        (10, b"\0\1" + bytes(4)),
    ],
)
def test_impossible_payloads(codec: GanzCodec, form: int, data: bytes) -> None:
    with pytest.raises(BadStream):
        codec.form.latents_of(Payload(form, data, True))


def test_random_payloads_never_do_worse_than_raise(codec: GanzCodec) -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        data = b"\0" + random.bytes(int(random.integers(1, 80)))
        form = int(random.integers(1, 10))
        for kind in (Entropy.RANGE, Entropy.HUFFMAN):
            try:
                z = codec.form.latents_of(Payload(form, data, True, kind)).z
            except BadStream:
                continue
            assert torch.isfinite(z).all()


def test_a_damaged_model_is_refused(codec: GanzCodec, folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder / "ganz", copy)
    described = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(described | {"model_id": "0" * 16}))
    with pytest.raises(BadInput, match="model id"):
        load_ganz_model("ganz", copy)
    (copy / "model.json").write_text(json.dumps(described | {"shape": {"widths": [3]}}))
    with pytest.raises(BadInput, match="cannot load"):
        load_ganz_model("ganz", copy)


def test_the_descent_finds_a_minimum() -> None:
    target = torch.tensor([[3.0, -1.0, 0.5]])
    weights = torch.tensor([1.0, 30.0, 4.0])
    found = descend(lambda w: (weights * (w - target).square()).sum() + 1.0, torch.zeros(1, 3), 25)
    torch.testing.assert_close(found.latents, target, atol=1e-3, rtol=0)
    assert found.cost == pytest.approx(1.0, abs=1e-4)
    assert found.start_cost == pytest.approx(41.0)


def test_linear_latents_are_exact_without_convolutions(codec: GanzCodec) -> None:
    generator = codec.model.generator
    layer = codec.layer(2048)
    z = torch.randn(1, 2048, generator=torch.Generator().manual_seed(0))
    picture = generator.body.draw(layer(z))
    torch.testing.assert_close(linear_latents(generator.body, layer, picture), z, atol=2e-2, rtol=0)


# --- training ------------------------------------------------------------------------------------


def test_training_learns_resumes_and_exports(folder: Path, tmp_path: Path) -> None:
    task = tiny_task(folder / "pictures", steps=6)
    assert train(task, tmp_path, Run())
    log = read_log(tmp_path / "log.jsonl")
    assert log[-1]["step"] == 6
    assert {"real", "fake", "k", "convergence", "psnr"} <= set(log[-1])
    again = tiny_task(folder / "pictures", steps=7)
    assert train(again, tmp_path, Run())
    assert again.steps == 7
    assert again.began
    moved = (again.generator.first.weight - task.generator.first.weight).detach().abs().max()
    assert 0 < float(moved) < 0.1


def test_k_follows_the_balance(folder: Path) -> None:
    task = tiny_task(folder / "pictures")
    task.start()
    task.begin_began()
    before = task.k
    values = {name: float(value) for name, value in task.step(0.9).items()}
    difference = task.settings.balance * values["real"] - values["fake"]
    assert task.k == pytest.approx(max(before + task.settings.gain * difference, 0.0))
    assert values["convergence"] == pytest.approx(values["real"] + abs(difference))


def test_the_auto_encoder_phase_lowers_the_error(folder: Path) -> None:
    task = tiny_task(folder / "pictures")
    task.settings = replace(task.settings, rate=2e-2)  # of which the warm-up is not over
    task.start()
    x = photographs(folder / "pictures").batch(6, np.random.default_rng(5))
    passed = [task.passed_on(x, np.random.default_rng(seed)) for seed in (6, 7, 8)]

    @torch.no_grad()
    def errors() -> list[float]:
        return [float((task.average.body(h) - x).square().mean()) for h in passed]

    before = errors()
    losses = [float(task.step(0.25 * k / 40)["loss"]) for k in range(40)]
    assert np.isfinite(losses).all()
    after = errors()
    assert all(new < 0.9995 * start for new, start in zip(after, before, strict=True))
    # The convolutions do it, not the linear synthesis.
    body = task.average.body
    linear = [float((body.draw(h) - x).square().mean().detach()) for h in passed]
    assert all(new < 0.9999 * alone for new, alone in zip(after, linear, strict=True))


def test_held_out_pictures_follow_the_training(folder: Path) -> None:
    task = tiny_task(folder / "pictures")
    task.start()
    assert task.held_out() == {}  # of so few
    task.photographs = Photographs(folder / "pictures", crop=128, held_out=2)
    figures = task.held_out()
    assert figures["held_out_24"] == pytest.approx(figures["linear_24"])
    assert figures["linear_24"] > figures["linear_96"] + 1 > 20


def test_the_convolutions_work_in_units_of_what_is_lost(codec: GanzCodec) -> None:
    # With twice the entries they add twice as much, and nothing else.
    body = codec.model.generator.body
    h = torch.randn(1, 48, 8, 8, generator=torch.Generator().manual_seed(1))
    h = h * (h.abs() > 1)
    added = [(body(size * h) - body.draw(size * h)).detach() for size in (1.0, 2.0)]
    assert float(added[0].abs().mean()) > 1e-3
    torch.testing.assert_close(added[1], 2.0 * added[0], rtol=2e-3, atol=1e-4)


def test_features_are_passed_on_as_first_layers_do(folder: Path) -> None:
    task = tiny_task(folder / "pictures")
    task.start()
    x = photographs(folder / "pictures").batch(3, np.random.default_rng(5))
    everything = as_spectrum(task.features(x)[:, :32]) - task.generator.first.mean
    middle = torch.nn.functional.pad(
        as_grid(task.generator.first.mean[None]), (0, 0, 0, 0, 0, 16)
    ).detach()
    entries = as_entries(task.features(x) - middle)
    kinds = set()
    for seed in range(6):
        h = task.passed_on(x, np.random.default_rng(seed))
        chosen = h.shape[1] == 48
        if chosen:
            passed, wanted = as_entries(h - middle), entries
        else:
            passed, wanted = (as_spectrum(h) - task.generator.first.mean).detach(), everything
        reached = passed.abs() > 1e-4
        torch.testing.assert_close(passed, wanted * reached, atol=2e-4, rtol=0)
        kinds.add((chosen, bool((reached[0] != reached[1]).sum() < 0.1 * reached[0].sum())))
    assert kinds == {(True, False), (False, True)}
    task.settings = replace(task.settings, places=("dense",))
    h = task.passed_on(x, np.random.default_rng(0))
    passed = (as_spectrum(h) - task.generator.first.mean).detach()
    spread = per_number(task.generator.body.spread[:32])
    lost = ((passed - everything) * spread).norm() / (everything * spread).norm()
    assert 0.1 < float(lost.detach()) < 0.5
    assert float((passed.abs() > 1e-6).float().mean()) > 0.99


def test_bad_training_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ganz", "--data", str(tmp_path), "--work", str(tmp_path)]) == 1
    assert "no photographs" in capsys.readouterr().err
    for wrong in (["--minutes", "-1"], ["--latents", "0"], ["--places", "keep"]):
        assert main(["train", "ganz", "--data", "x", "--work", "y", *wrong]) == 2


# --- the baseline --------------------------------------------------------------------------------


def test_wavelets_of_a_constant_picture_are_one_number() -> None:
    flat = np.full((128, 128, 3), (10, 90, 200), np.uint8)
    assert (keep_largest(flat, 1) == flat).all()
    assert (keep_largest(flat, 0) == 0).all()


def test_wavelets_of_a_step_by_hand() -> None:
    # Orthonormal: what is dropped is what the squared error is.
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 1] = np.add.outer(np.arange(8) * 9, np.arange(8) * 5) + 60
    import pywt

    with pytest.warns(UserWarning):
        parts = pywt.wavedec2(pixels[:, :, 1].astype(float), "db4", "periodization", 3)
    values = np.sort(np.abs(pywt.coeffs_to_array(parts)[0]).ravel())[::-1]
    kept = keep_largest(pixels, 12).astype(float)
    error = np.square(kept[:, :, 1] - pixels[:, :, 1]).sum()
    assert error == pytest.approx(np.square(values[12:]).sum(), rel=0.15)


# --- the shipped model ---------------------------------------------------------------------------


def test_the_shipped_model() -> None:
    codec = ImageCodec.load("ganz", "cpu")
    with Image.open(Path(__file__).parent / "images" / "kodak-23-parrots.png") as image:
        pixels = np.asarray(image.convert("RGB"))[100:228, 100:228]
    scores = {}
    for ratio in (10.0, 192.0):
        data = codec.encode(pixels, EncodeSettings(ratio=ratio, iterations=5))
        scores[ratio] = psnr(codec.decode(data), pixels)
        fixed = EncodeSettings(ratio=ratio, iterations=5, places="fixed")
        assert scores[ratio] > psnr(codec.decode(codec.encode(pixels, fixed)), pixels) + 1
    assert scores[192.0] > psnr(keep_largest(pixels, int(PIXELS / 192) // 3), pixels)
    assert scores[10.0] > 36
    assert scores[10.0] > scores[192.0] + 3
