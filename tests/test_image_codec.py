"""The image codec as a whole: any picture is accepted, size limits hold, damage stays local."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from codec import ImageCodec
from codec.entropy.image_context import QUALITIES
from codec.errors import BadInput, BadStream, WrongModel
from codec.image import photo_encoder
from codec.image.alpha import pack_alpha, unpack_alpha
from codec.image.container import ImageHeader, Payload, read_image, write_image
from codec.image.photo import PhotoCodec
from codec.image.photo_encoder import RatePoint
from codec.image.photo_prior import WindowPrior
from codec.image.pictures import from_array, from_image, open_picture
from codec.image.settings import EncodeSettings, SearchProgress
from codec.image.tiling import cut_windows, decode_map, encode_map, frames_of
from codec.search.methods import METHODS
from models.folder import load_photo_model
from models.networks.image_distance import ImageDistance, ms_ssim
from tests.tiny_image_model import make_model, photograph, psnr, tiny_codec
from tui.cli import main

IMAGES = Path(__file__).with_name("images")
QUICK = EncodeSettings(bpp=1.0, iterations=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "photo"


@pytest.fixture(scope="module")
def codec(folder: Path) -> PhotoCodec:
    return tiny_codec(folder)


@pytest.mark.parametrize("bpp", [0.3, 0.8, 2.0])
@pytest.mark.parametrize("iterations", [0, 6, 24])
def test_the_file_takes_no_more_than_asked(codec: PhotoCodec, bpp: float, iterations: int) -> None:
    picture = photograph(100, 75)
    data = codec.encode(picture, EncodeSettings(bpp=bpp, iterations=iterations))
    assert 8 * len(data) <= bpp * 100 * 75
    assert codec.decode(data).shape == (75, 100, 3)


def test_more_bits_are_a_better_picture(codec: PhotoCodec) -> None:
    picture = photograph(128, 96)
    scores = [
        psnr(codec.decode(codec.encode(picture, replace(QUICK, bpp=b))), np.asarray(picture))
        for b in (0.15, 0.3, 0.6)
    ]
    assert scores[0] + 0.5 < scores[1] < scores[2] - 0.5


@pytest.mark.parametrize("settings", [QUICK, EncodeSettings(search=False)])
def test_rates_below_the_coarsest_quality_are_met(
    codec: PhotoCodec, settings: EncodeSettings
) -> None:
    """With a higher price of a bit there, down to hardly more than an empty picture takes."""
    picture = photograph(160, 120)
    pixels, count = np.asarray(picture), 160 * 120
    coarsest = len(codec.encode(picture, replace(settings, bpp=None, quality=0)))
    with pytest.raises(BadInput, match=r"empty picture take (\d+)") as refused:
        codec.encode(picture, replace(settings, bpp=0.05))
    empty = int(str(refused.value).split()[-1])
    scores = []
    for share in (0.1, 0.4, 0.8):
        allowed = round(empty + share * (coarsest - empty))
        data = codec.encode(picture, replace(settings, bpp=(8 * allowed + 1) / count))
        payload = read_image(data).payloads[0]
        assert payload is not None and payload.quality == 0
        assert 0.97 * allowed <= len(data) <= allowed
        scores.append(psnr(codec.decode(data), pixels))
    assert scores[0] + 0.5 < scores[1] < scores[2] - 0.5


def test_rate_points_beyond_the_qualities_change_the_price_alone() -> None:
    inside, below = RatePoint(3), RatePoint(3).moved(-1.0)
    assert (inside.quality, inside.price) == (3, 1.0)
    assert below.quality == 0
    assert RatePoint(0).moved(-1e9).price > RatePoint(0).moved(-1.0).price > below.price > 1.0
    assert below.moved(1.0).quality == pytest.approx(3, abs=1)
    above = RatePoint(0).moved(1e9)
    assert (above.quality, above.moved(1.0)) == (QUALITIES - 1, above)
    assert above.price < 1.0


def test_room_that_the_finest_quality_leaves_is_used() -> None:
    """With the shipped weights, which leave enough of it."""
    codec, picture = ImageCodec.load("photo", "cpu"), photograph(96, 64)
    finest, more = (
        codec.encode(picture, EncodeSettings(bpp=bpp, quality=quality, fast=True))
        for bpp, quality in ((None, 100), (20.0, None))
    )
    pixels = np.asarray(picture)
    assert len(more) > 1.05 * len(finest)
    assert psnr(codec.decode(more), pixels) > psnr(codec.decode(finest), pixels) + 0.1


def test_the_search_pays(codec: PhotoCodec) -> None:
    picture = photograph(128, 96)
    x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255.0

    def cost(settings: EncodeSettings) -> float:
        data = codec.encode(picture, settings)
        y = torch.from_numpy(codec.decode(data)).permute(2, 0, 1)[None] / 255.0
        price = float(codec.model.price(torch.tensor([1.5])))
        distance = ImageDistance("psnr", price)
        return float(distance.against(distance.reference(x), y)) + 8 * len(data)

    without = cost(EncodeSettings(quality=50, search=False))
    assert cost(EncodeSettings(quality=50, iterations=25)) < 0.95 * without


def test_every_method_searches(codec: PhotoCodec) -> None:
    """Better than the encoder alone, and not as another does."""
    picture = photograph(100, 75)
    settings = EncodeSettings(bpp=1.0, iterations=12)
    pixels = np.asarray(picture)
    plain = codec.decode(codec.encode(picture, replace(settings, search=False)))
    files = [codec.encode(picture, replace(settings, method=method)) for method in METHODS]
    for data in files:
        assert psnr(codec.decode(data), pixels) > psnr(plain, pixels)
    assert len(set(files)) == len(METHODS)
    assert files[0] == codec.encode(picture, settings)


def test_the_search_sees_what_an_index_does_to_later_ones(codec: PhotoCodec) -> None:
    x = torch.from_numpy(np.asarray(photograph(96, 64)).copy()).permute(2, 0, 1)[None] / 255.0
    rate = torch.tensor([1.3])
    relaxed = encode_map(codec.model.encoder, x, 1.3)
    whole = relaxed.round()
    header = from_array(np.asarray(photograph(96, 64)))
    tiles = ImageHeader(header.width, header.height, codec.model_id).tiles()
    (window,) = cut_windows(tiles, 64)
    prior = WindowPrior(codec.model, window, False)
    z, q = frames_of(relaxed).requires_grad_(True), frames_of(whole)
    # The bits of the first cell alone hang on it alone; those of its neighbours as well.
    bits = prior.bits(z, rate, q)
    (slope,) = torch.autograd.grad(bits[:, 1:].sum(), z)
    assert slope[:, 0].abs().max() > 0
    # What is counted with a gradient is what is counted without, and what is coded.
    same = prior.bits(q.clone().requires_grad_(True), rate, q)
    torch.testing.assert_close(same.detach(), prior.bits(q, rate), atol=0, rtol=0)
    indices = whole[0].permute(1, 2, 0).numpy().astype(np.int16)
    assert same.sum().item() == pytest.approx(codec.model.coder.bits(indices, 83), rel=0.15)


def test_progress_tells_of_a_falling_cost(codec: PhotoCodec) -> None:
    seen: list[SearchProgress] = []
    codec.encode(photograph(64, 64), EncodeSettings(bpp=1.0, iterations=24), progress=seen.append)
    shares = [p.share for p in seen]
    assert shares == sorted(shares)
    assert seen[-1].share == 1.0
    assert seen[-1].cost is not None
    assert seen[-1].cost <= 1.0


def test_a_budget_ends_the_search(codec: PhotoCodec) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.05
        return now[0]

    steps: list[int] = []
    settings = EncodeSettings(bpp=1.0, budget=6.0)
    codec.encode(
        photograph(64, 64), settings, progress=lambda p: steps.append(p.steps), clock=clock
    )
    assert 10 < len(steps) < 150


@pytest.mark.parametrize("size", [(1, 1), (2, 17), (16, 16), (33, 5), (700, 3)])
def test_any_size(codec: PhotoCodec, size: tuple[int, int]) -> None:
    picture = photograph(*size)
    data = codec.encode(picture, EncodeSettings(quality=60, iterations=3))
    assert codec.decode(data).shape == (size[1], size[0], 3)


def test_windows_leave_no_seam(codec: PhotoCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 3, 16 * 11, 16 * 9)
    z = encode_map(codec.model.encoder, x, 1.2)
    y = decode_map(codec.model.generator, z.round(), 1.2)
    monkeypatch.setattr("codec.image.tiling.WINDOW", 4)
    torch.testing.assert_close(encode_map(codec.model.encoder, x, 1.2), z, atol=1e-4, rtol=0)
    again = decode_map(codec.model.generator, z.round(), 1.2)
    torch.testing.assert_close(again, y, atol=1e-5, rtol=0)


def test_a_picture_of_several_windows(codec: PhotoCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_encoder, "SEARCH_WINDOW", 8)
    monkeypatch.setattr(PhotoCodec, "tile", 8)
    picture = photograph(300, 200)
    data = codec.encode(picture, EncodeSettings(bpp=0.8, iterations=8))
    assert len(read_image(data).payloads) == 6
    assert 8 * len(data) <= 0.8 * 300 * 200
    whole = tiny_score(codec, picture, data)
    # Damage to one tile is damage to one tile, and to pixels the transform shares with it.
    file = read_image(data)
    file.payloads[4] = None
    broken = codec.decode_file(file).rgb.astype(int)
    apart = np.abs(broken - codec.decode(data)).max(axis=2)
    assert apart[:60].max() == 0
    assert apart[150:, 130:170].max() > 0
    assert whole > 24.0


def test_a_file_of_which_nothing_is_left_is_no_picture(
    codec: PhotoCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header = ImageHeader(300, 200, codec.model_id, tile=8)
    count = len(header.tiles())
    for quality, payloads in (
        (200, [b"\1\2\3"] * count),  # a rate point that there is not
        (100, [b"\xff" * 60] * count),  # indices that cannot be
    ):
        with pytest.raises(BadStream, match="nothing of the picture is left"):
            codec.decode(write_image(header, quality, payloads))
    monkeypatch.setattr(ImageCodec, "load", lambda *_: codec)
    coded, back = tmp_path / "a.stim", tmp_path / "a.png"
    coded.write_bytes(write_image(header, 200, [b"\1\2\3"] * count))
    assert main(["image", "decode", str(coded), str(back)]) == 1
    assert capsys.readouterr().err == "sotto: nothing of the picture is left\n"
    assert not back.exists()
    # One tile is enough.
    whole = read_image(codec.encode(photograph(300, 200), EncodeSettings(quality=40, search=False)))
    left = replace(whole, payloads=[Payload(200, b"", True)] * (len(whole.payloads) - 1))
    left.payloads.append(whole.payloads[-1])
    assert codec.decode_file(left).rgb.shape == (200, 300, 3)


@pytest.mark.parametrize("colour", [(200, 40, 40), (30, 60, 190), (240, 220, 20)])
def test_a_lost_tile_keeps_the_colour_around_it(colour: tuple[int, int, int]) -> None:
    """With the shipped weights: what makes up a mean colour is theirs."""
    codec = ImageCodec.load("photo", "cpu")
    picture = np.full((48, 560, 3), colour, np.uint8)
    file = read_image(codec.encode(picture, EncodeSettings(quality=60, search=False)))
    assert len(file.payloads) == 2
    file.payloads[1] = None
    shown = codec.decode_file(file).rgb[:, 320:].reshape(-1, 3).astype(float)
    assert np.abs(shown.mean(0) - colour).max() < 12


def test_a_short_search_for_ms_ssim_gains_and_fills_the_allowance() -> None:
    codec = ImageCodec.load("photo", "cpu")
    with Image.open(IMAGES / "kodak-05-motocross.png") as file:
        picture = np.asarray(file.convert("RGB"))
    settings = EncodeSettings(bpp=0.3, tune="ms-ssim", fast=True)
    plain = replace(settings, fast=False, search=False)
    files = [codec.encode(picture, each) for each in (plain, settings)]
    pictures = [picture, *(codec.decode(file) for file in files)]
    x, before, after = (torch.from_numpy(each / 255.0).permute(2, 0, 1)[None] for each in pictures)
    assert float(ms_ssim(x, after)) > float(ms_ssim(x, before)) + 0.001
    assert 0.98 < 8 * len(files[1]) / (0.3 * picture.shape[0] * picture.shape[1]) <= 1.0


def tiny_score(codec: PhotoCodec, picture: Image.Image, data: bytes) -> float:
    return psnr(codec.decode(data), np.asarray(picture))


def test_windows_are_made_of_whole_tiles(codec: PhotoCodec) -> None:
    header = ImageHeader(3000, 1700, codec.model_id, tile=32)
    windows = cut_windows(header.tiles(), 64)
    assert sum(len(w.tiles) for w in windows) == len(header.tiles())
    assert sum(math.prod(w.area.shape) for w in windows) == math.prod(header.cells)
    assert max(max(w.area.shape) for w in windows) <= 64


def test_grey_and_alpha_are_kept(codec: PhotoCodec) -> None:
    grey = photograph(40, 30).convert("L")
    file = read_image(codec.encode(grey, QUICK))
    assert file.header.grey
    assert codec.decode_file(file).image().mode == "L"
    mask = Image.fromarray((np.arange(1200).reshape(30, 40) % 251).astype(np.uint8))
    clear = photograph(40, 30)
    clear.putalpha(mask)
    data = codec.encode(clear, EncodeSettings(quality=50, iterations=2))
    pixels = codec.decode(data)
    assert pixels.shape == (30, 40, 4)
    assert (pixels[:, :, 3] == np.asarray(mask)).all()
    assert codec.decode_file(read_image(data)).image().mode == "RGBA"


def test_alpha_planes_are_bounded() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (9, 7)).astype(np.uint8)
    assert (unpack_alpha(pack_alpha(plane), 9, 7) == plane).all()
    for data in (
        b"",
        b"junk",
        pack_alpha(plane)[:-4],
        pack_alpha(np.zeros((4000, 4000), np.uint8)),
    ):
        with pytest.raises(BadStream):
            unpack_alpha(data, 9, 8)


def in_lab(picture: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    lab = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert lab is not None
    return lab


def test_all_that_pillow_reads() -> None:
    base = photograph(24, 20)
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV", "I", "F"):
        picture = from_image(base.convert(mode))
        assert picture.rgb.shape == (20, 24, 3), mode
        assert picture.alpha is None, mode
    for mode in ("YCbCr", "LAB", "HSV"):
        image = in_lab(base) if mode == "LAB" else base.convert(mode)
        assert image.mode == mode
        picture = from_image(image)
        assert picture.alpha is None, mode  # the A of LAB is a colour
        assert psnr(picture.rgb, np.asarray(base)) > 35, mode
    deep = Image.fromarray(np.full((4, 5), 0x8000, np.uint16))
    assert from_image(deep).rgb.mean() == pytest.approx(128, abs=1)


def test_orientation_and_frames() -> None:
    upright = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(30, 20).save(upright, "JPEG", exif=exif)
    upright.seek(0)
    assert open_picture(upright).rgb.shape == (30, 20, 3)
    moving = io.BytesIO()
    photograph(8, 8).save(moving, "GIF", save_all=True, append_images=[photograph(8, 8, 1)])
    moving.seek(0)
    assert "several frames" in open_picture(moving, "x.gif").notes[0]


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright(orientation: int) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(30, 20).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    file.seek(0)
    assert (open_picture(file).rgb == wanted).all()


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Exif data of (tag, type, count, value) entries, whatever they say."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


ROTATED = (0x0112, 3, 1, b"\6\0\0\0")


@pytest.mark.parametrize(
    ("exif", "shape"),
    [
        (exif_of(ROTATED, (0x0100, 1, 1, b"\1\1\1\1")), (30, 20, 3)),  # a width that is no number
        (exif_of(ROTATED, (0x011A, 2, 4, b"abc\0")), (30, 20, 3)),  # a resolution that is a text
        (exif_of((0x0112, 2, 4, b"abc\0")), (20, 30, 3)),
        (exif_of((0x0112, 5, 1, b"\xff\xff\xff\xff")), (20, 30, 3)),
        (exif_of(ROTATED)[:-12], (20, 30, 3)),
        (b"Exif\0\0XX*\0\x08\0\0\0", (20, 30, 3)),
    ],
)
def test_bad_exif_tags_cost_no_picture(
    exif: bytes, shape: tuple[int, int, int], recwarn: pytest.WarningsRecorder
) -> None:
    file = io.BytesIO()
    photograph(30, 20).save(file, "JPEG", exif=exif)
    file.seek(0)
    assert open_picture(file).rgb.shape == shape
    assert not list(recwarn)


def dds(flags: int) -> bytes:
    return b"DDS " + struct.pack("<7I44x8I20x", 124, 0x1007, 4, 4, 0, 0, 0, 32, flags, *[0] * 6)


def tiff_with_an_empty_frame() -> bytes:
    file = io.BytesIO()
    photograph(4, 4).save(file, "TIFF")
    data = bytearray(file.getvalue() + bytes(len(file.getvalue()) % 2))
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * entries, len(data))
    return bytes(data) + bytes(6)


def test_whatever_pillow_raises_is_one_line() -> None:
    """Of this file it raises NotImplementedError."""
    with pytest.raises(BadInput, match=r"^[^\n]+$"):
        open_picture(io.BytesIO(dds(0)), "x")


def test_a_frame_that_is_not_taken_may_be_damaged() -> None:
    """Counting the frames of this file, Pillow raises TypeError."""
    picture = open_picture(io.BytesIO(tiff_with_an_empty_frame()), "x")
    assert picture.rgb.shape == (4, 4, 3)
    assert any("first" in note for note in picture.notes)


def test_bad_pictures_are_one_line() -> None:
    good = io.BytesIO()
    photograph(64, 64).save(good, "PNG")
    for data in (b"", b"no picture", good.getvalue()[:200]):
        with pytest.raises(BadInput) as error:
            open_picture(io.BytesIO(data))
        assert "\n" not in str(error.value)
    for side in (12_000, 40_000):  # one below Pillow's own limit, one above
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        crc = struct.pack(">I", zlib.crc32(header))
        bomb = good.getvalue()[:12] + header + crc + good.getvalue()[33:]
        with pytest.raises(BadInput, match=r"too large|limits"):
            open_picture(io.BytesIO(bomb))
    for pixels in (np.zeros((3, 3), np.float32), np.zeros((3, 3, 2), np.uint8)):
        with pytest.raises(BadInput):
            from_array(pixels)
    with pytest.raises(BadInput):
        from_array(np.zeros((0, 3, 3), np.uint8))


def test_too_few_bytes_are_refused(codec: PhotoCodec) -> None:
    with pytest.raises(BadInput, match="does not fit"):
        codec.encode(photograph(32, 32), EncodeSettings(bpp=0.05))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bpp": 1.0, "ratio": 2.0}, {"bpp": -1.0}, {"bpp": float("nan")}, {"quality": 101.0},
        {"iterations": -1}, {"budget": 0.0}, {"tune": "taste"},
    ],
)  # fmt: skip
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        EncodeSettings(**wrong)  # type: ignore[arg-type]


def test_another_model_is_refused(codec: PhotoCodec, folder: Path, tmp_path: Path) -> None:
    data = bytearray(codec.encode(photograph(32, 32), QUICK))
    file = read_image(bytes(data))
    stranger = replace(file.header, model_id="0123456789abcdef")
    with pytest.raises(WrongModel):
        codec.decode_file(replace(file, header=stranger))
    make_model(tmp_path / "m")
    description = json.loads((tmp_path / "m" / "model.json").read_text())
    description["model_id"] = "0" * 16
    (tmp_path / "m" / "model.json").write_text(json.dumps(description))
    with pytest.raises(BadInput, match="do not match"):
        load_photo_model("photo", tmp_path / "m")


def test_ms_ssim_is_that_of_the_paper() -> None:
    x = torch.from_numpy(np.asarray(photograph(256, 256)).copy()).permute(2, 0, 1)[None] / 255.0
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(1))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    scores = [float(ms_ssim(x, (x + s * noise).clamp(0, 1))) for s in (0.02, 0.05, 0.1)]
    assert 1.0 > scores[0] > scores[1] > scores[2] > 0.3
    # A change of brightness alone hardly counts, other than in squared error.
    assert float(ms_ssim(x, x * 0.97)) > 0.99
    assert 0.0 < float(ms_ssim(x[..., :5, :3], x[..., :5, :3] * 0.5)) < 1.0


def test_the_command_line(
    codec: PhotoCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ImageCodec, "load", lambda *_: codec)
    source, coded, back = tmp_path / "a.png", tmp_path / "a.stim", tmp_path / "b.png"
    photograph(80, 60).save(source)
    args = ["image", "encode", str(source), str(coded), "--bpp", "1", "--iterations", "6"]
    assert main([*args, "--preview", str(tmp_path / "p.png")]) == 0
    with Image.open(tmp_path / "p.png") as shown:
        assert shown.size == (3 * 80 + 16, 60)
    assert main(["image", "info", str(coded), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["integrity"]) == (80, 60, "intact")
    assert found["bits_per_pixel"] <= 1.0
    assert main(["image", "info", str(coded)]) == 0
    assert "intact" in capsys.readouterr().out
    assert main(["image", "decode", str(coded), str(back)]) == 0
    with Image.open(back) as image:
        assert (image.size, image.mode) == ((80, 60), "RGB")
    for wrong in (["--bpp", "1", "--ratio", "3"], ["--bpp", "0"], ["--quality", "x"]):
        assert main(["image", "encode", str(source), str(coded), *wrong]) == 2
    assert main([*args, "--no-search"]) == 2
    capsys.readouterr()
    for bad in (
        ["image", "decode", str(source), str(back)],
        ["image", "decode", str(coded), str(tmp_path / "b.xyz")],
        ["image", "encode", str(tmp_path / "none.png"), str(coded)],
        ["image", "encode", str(coded), str(tmp_path / "c.stim")],
        ["image", "info", str(source)],
    ):
        assert main(bad) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("sotto: ")
    assert sys.stdout is not None
