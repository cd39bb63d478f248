"""`sotto image` as users see it: every odd picture works or gives a clear one-line error."""

from __future__ import annotations

import io
import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codec.image.base import ImageCodec
from codec.image.container import FILE_HEADER_BYTES, read_image
from codec.image.photo import PhotoCodec
from codec.image.pictures import from_image
from codec.image.presets import find_image_preset
from codec.image.settings import EncodeSettings
from codec.packet import checksum
from tests.tiny_image_model import photograph, psnr, tiny_codec
from tui.cli import main

IMAGES = Path(__file__).parent / "images"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> ImageCodec:
    return tiny_codec(tmp_path_factory.mktemp("models") / "photo")


@pytest.fixture(autouse=True)
def _tiny(codec: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageCodec, "load", lambda *_: codec)


def sotto(*words: object) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        return main(["image", *map(str, words)])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("sotto: ")
    return said.err


def through(source: Path, *options: object) -> Image.Image:
    """A picture file encoded and decoded."""
    coded, back = source.with_suffix(".stim"), source.with_suffix(".back.png")
    assert sotto("encode", source, coded, *(options or ("--quality", 60, "--no-search"))) == 0
    assert sotto("decode", coded, back) == 0
    with Image.open(back) as image:
        image.load()
        return image


def as_png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def with_header(png: bytes, width: int, height: int) -> bytes:
    """A PNG that says it is of another size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is no picture\n" * 40,
    "signature": lambda: b"\x89PNG\r\n\x1a\n",
    "no-pixels.png": lambda: as_png(photograph(64, 48))[:60],
    "no-pixels.jpg": lambda: _saved(photograph(200, 150), "JPEG")[:600],
    "no-end.gif": lambda: _saved(photograph(64, 48), "GIF")[:300],
    "icon.ico": lambda: _saved(photograph(64, 64), "ICO"),
    "crc.png": lambda: _flipped(as_png(photograph(64, 48)), 20),
    "bomb-200-megapixels.png": lambda: with_header(as_png(photograph(8, 8)), 20_000, 10_000),
    "bomb-4-gigapixels.png": lambda: with_header(as_png(photograph(8, 8)), 65_535, 65_535),
    "wider-than-a-file.png": lambda: with_header(as_png(photograph(8, 8)), 70_000, 10),
    "nothing.png": lambda: with_header(as_png(photograph(8, 8)), 0, 10),
}


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _flipped(data: bytes, at: int, bit: int = 3) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, coded = tmp_path / name, tmp_path / "a.stim"
    source.write_bytes(BAD[name]())
    assert sotto("encode", source, coded) == 1
    assert name in one_line(capsys)
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["truncated.png", "truncated.jpg"])
def test_what_is_left_of_a_picture_is_coded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _saved(photograph(64, 48), "PNG" if name.endswith("png") else "JPEG")
    (tmp_path / name).write_bytes(whole[: 3 * len(whole) // 4])
    back = np.asarray(through(tmp_path / name).convert("RGB"))
    assert "is truncated or damaged; what can be read of it is used" in one_line(capsys)
    assert psnr(back[:16], np.asarray(photograph(64, 48))[:16]) > 24


def test_icons_are_not_written(
    four_tiles: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.stim").write_bytes(four_tiles)
    assert sotto("decode", tmp_path / "a.stim", tmp_path / "a.ico") == 1
    assert "icons of given sizes" in one_line(capsys)
    assert not (tmp_path / "a.ico").exists()


GOOD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "grey.png": ("L", lambda: as_png(photograph(40, 30).convert("L"))),
    "bits.png": ("L", lambda: as_png(photograph(40, 30).convert("1"))),
    "palette.png": ("RGB", lambda: as_png(photograph(40, 30).convert("P"))),
    "cmyk.jpg": ("RGB", lambda: _saved(photograph(40, 30).convert("CMYK"), "JPEG")),
    "cmyk.tif": ("RGB", lambda: _saved(photograph(40, 30).convert("CMYK"), "TIFF")),
    "ycbcr.tif": ("RGB", lambda: _saved(photograph(40, 30).convert("YCbCr"), "TIFF")),
    "floats.tif": ("L", lambda: _saved(photograph(40, 30).convert("F"), "TIFF")),
    "deep.png": ("L", lambda: as_png(Image.fromarray(257 * _grey(40, 30).astype(np.uint16)))),
    "clear-grey.png": ("LA", lambda: as_png(_clear(photograph(40, 30).convert("L")))),
    "clear.png": ("RGBA", lambda: as_png(_clear(photograph(40, 30)))),
    "clear.webp": ("RGBA", lambda: _saved(_clear(photograph(40, 30)), "WEBP")),
    "opaque.png": ("RGB", lambda: as_png(photograph(40, 30).convert("RGBA"))),
    "picture.bmp": ("RGB", lambda: _saved(photograph(40, 30), "BMP")),
    "picture.ppm": ("RGB", lambda: _saved(photograph(40, 30), "PPM")),
}


def _grey(width: int, height: int) -> np.ndarray:
    return np.asarray(photograph(width, height).convert("L"))


def _clear(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray((np.arange(1200).reshape(30, 40) % 251).astype(np.uint8)))
    return image


@pytest.mark.parametrize("name", GOOD)
def test_kinds_of_pictures(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mode, data = GOOD[name]
    source = tmp_path / name
    source.write_bytes(data())
    back = through(source)
    assert (back.size, back.mode) == ((40, 30), mode)
    with Image.open(io.BytesIO(data())) as image:
        wanted = np.asarray(image.convert("RGB") if "deep" not in name else photograph(40, 30))
    if mode in ("L", "LA"):
        wanted = np.asarray(Image.fromarray(wanted).convert("L").convert("RGB"))
    if name not in ("bits.png", "palette.png"):  # whose dots are beyond any model so small
        assert psnr(np.asarray(back.convert("RGB")), wanted) > 24
    if mode in ("LA", "RGBA"):
        plane = np.asarray(back.getchannel("A"))
        assert (plane == np.arange(1200).reshape(30, 40) % 251).all()
    assert capsys.readouterr().err == ""


def test_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying = photograph(60, 40)
    (tmp_path / "a.jpg").write_bytes(_saved(lying, "JPEG", exif=exif, quality=95))
    back = through(tmp_path / "a.jpg")
    assert back.size == (40, 60)
    upright = np.asarray(lying.transpose(Image.Transpose.ROTATE_270))
    assert psnr(np.asarray(back), upright) > 24


def test_of_an_animation_the_first_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = photograph(40, 30).quantize(32)
    frames = [photograph(40, 30, seed).quantize(32) for seed in (1, 2)]
    source = tmp_path / "moving.gif"
    source.write_bytes(_saved(first, "GIF", save_all=True, append_images=frames))
    back = through(source)
    assert "several frames" in one_line(capsys)
    assert psnr(np.asarray(back.convert("RGB")), np.asarray(first.convert("RGB"))) > 24


def test_a_picture_like_a_thread(tmp_path: Path) -> None:
    photograph(30_000, 10).save(tmp_path / "a.png")
    assert through(tmp_path / "a.png").size == (30_000, 10)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 16), (10, 1501)])
def test_sizes(size: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(*size).save(tmp_path / "a.png")
    # Without a rate that was asked for, even the smallest picture finds room.
    back = through(tmp_path / "a.png", "--no-search")
    assert back.size == size
    assert capsys.readouterr().err == ""
    allowed = max(0.29 * size[0] * size[1] / 8, 200)
    assert (tmp_path / "a.stim").stat().st_size <= allowed


def test_a_size_that_cannot_be_met_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(16, 16).save(tmp_path / "a.png")
    assert sotto("encode", tmp_path / "a.png", tmp_path / "a.stim", "--bpp", "0.1") == 1
    assert "does not fit in 3 bytes" in one_line(capsys)
    assert not (tmp_path / "a.stim").exists()


def test_a_rate_that_nothing_comes_near_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 48), (90, 120, 60)).save(tmp_path / "flat.png")
    photograph(64, 48).save(tmp_path / "a.png")
    assert (
        sotto("encode", tmp_path / "flat.png", tmp_path / "flat.stim", "--bpp", "2", "--fast") == 0
    )
    taken = (tmp_path / "flat.stim").stat().st_size
    assert f"takes {taken} of the 768 bytes allowed" in one_line(capsys)
    assert sotto("encode", tmp_path / "flat.png", tmp_path / "b.stim") == 0
    assert sotto("encode", tmp_path / "a.png", tmp_path / "a.stim", "--bpp", "0.8", "--fast") == 0
    assert capsys.readouterr().err == ""


def test_the_size_of_a_file_that_is_not_written_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 48), (90, 120, 60)).save(tmp_path / "flat.png")
    options = ("--bpp", "2", "--fast", "--preview", "/dev/full")
    assert sotto("encode", tmp_path / "flat.png", tmp_path / "flat.stim", *options) == 1
    assert "cannot write /dev/full" in one_line(capsys)
    assert not (tmp_path / "flat.stim").exists()


@pytest.mark.parametrize("options", [("--bpp", "1e300"), ("--ratio", "1e-300"), ("--bpp", "30")])
def test_all_the_room_there_is(options: tuple[str, str], tmp_path: Path) -> None:
    photograph(33, 20).save(tmp_path / "a.png")
    back = through(tmp_path / "a.png", *options, "--fast")
    assert psnr(np.asarray(back), np.asarray(photograph(33, 20))) > 24


@pytest.fixture(scope="module")
def four_tiles(codec: ImageCodec) -> bytes:
    data = codec.encode(photograph(600, 560), EncodeSettings(quality=40.0, search=False))
    assert len(read_image(data).payloads) == 4
    return data


@pytest.fixture
def coded(four_tiles: bytes, tmp_path: Path) -> Path:
    """A file of four tiles."""
    (tmp_path / "a.stim").write_bytes(four_tiles)
    return tmp_path / "a.stim"


def test_a_damaged_tile_costs_that_tile(coded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, back = coded.with_name("whole.png"), coded.with_name("back.png")
    assert sotto("decode", coded, whole) == 0
    coded.write_bytes(_flipped(coded.read_bytes(), coded.stat().st_size - 9))  # in the last tile
    assert sotto("info", coded, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tiles"], found["damaged_tiles"]) == (4, 1)
    assert "1 of 4 tiles damaged" in found["integrity"]
    assert sotto("decode", coded, back) == 0
    assert "1 of 4 tiles damaged" in capsys.readouterr().err
    with Image.open(whole) as a, Image.open(back) as b:
        apart = np.abs(np.asarray(a).astype(int) - np.asarray(b)).max(axis=2)
    # The transform and the network reach a few cells into the neighbours, no further.
    assert apart[350:, 350:].max() > 8
    assert apart[:230].max() == 0
    assert apart[:, :250].max() == 0


def test_truncated_files_decode_as_far_as_they_go(
    coded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, back = coded.read_bytes(), coded.with_name("back.png")
    for end in (len(data) - 1, len(data) // 2):
        coded.write_bytes(data[:end])
        assert sotto("decode", coded, back) == 0
        assert "tiles damaged" in capsys.readouterr().err
        back.unlink()
    for end in (FILE_HEADER_BYTES + 5, FILE_HEADER_BYTES, 10, 0):
        coded.write_bytes(data[:end])
        assert sotto("decode", coded, back) == 1
        one_line(capsys)
        assert not back.exists()


def test_a_damaged_header_is_one_line(coded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, back = coded.read_bytes(), coded.with_name("back.png")
    for at in (0, 4, 6, 7, 9, 15, 21):
        coded.write_bytes(_flipped(data, at))
        for words in (("decode", coded, back), ("info", coded)):
            assert sotto(*words) == 1
            one_line(capsys)


def test_another_model_and_other_presets_are_one_line(
    coded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, back = coded.read_bytes(), coded.with_name("back.png")

    def signed(place: int) -> bytes:
        head = bytearray(data[: FILE_HEADER_BYTES - 2])
        head[place] ^= 0x55
        return bytes(head) + checksum(bytes(head)).to_bytes(2, "big") + data[FILE_HEADER_BYTES:]

    coded.write_bytes(signed(12))
    assert sotto("decode", coded, back) == 1
    assert "model" in one_line(capsys)
    coded.write_bytes(signed(6))
    assert sotto("decode", coded, back) == 1
    assert "preset number" in one_line(capsys)
    assert sotto("info", coded) == 0
    assert not back.exists()


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_is_survived(seed: int, coded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(seed)
    data, back = bytearray(coded.read_bytes()), coded.with_name("back.png")
    for at in random.integers(FILE_HEADER_BYTES, len(data), random.integers(1, 40)).tolist():
        data[at] = int(random.integers(256))
    coded.write_bytes(bytes(data))
    done = sotto("decode", coded, back)
    assert back.exists() == (done == 0)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert all(line.startswith("sotto: ") for line in said.splitlines())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_and_nothing_in_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = IMAGES / "kodak-23-parrots.png", tmp_path / "a.stim"
    options = ("--iterations", 8, "--quality", 30)
    assert sotto("encode", source, out, *options) == 0
    assert capsys.readouterr() == ("", "")
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert sotto("encode", source, out, *options) == 0
    shown = screen.getvalue()
    assert "cost" in shown
    assert "%" in shown


def test_the_preview_shows_what_was_lost(tmp_path: Path) -> None:
    source, out, shown = IMAGES / "kodak-07-window.png", tmp_path / "a.stim", tmp_path / "p.png"
    assert sotto("encode", source, out, "--no-search", "--preview", shown) == 0
    assert sotto("decode", out, tmp_path / "back.png") == 0
    with Image.open(source) as image:
        original = np.asarray(image.convert("RGB"))
    with Image.open(tmp_path / "back.png") as image:
        decoded = np.asarray(image.convert("RGB"))
    with Image.open(shown) as image:
        preview = np.asarray(image)
    height, width = original.shape[:2]
    assert preview.shape == (height, 3 * width + 16, 3)
    assert (preview[:, :width] == original).all()
    assert (preview[:, width + 8 : 2 * width + 8] == decoded).all()
    assert abs(preview[:, 2 * width + 16 :].mean() - 128) < 8


def test_outputs_that_cannot_be_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: ImageCodec
) -> None:
    source, out = tmp_path / "a.png", tmp_path / "a.stim"
    photograph(16, 16).save(source)
    before = source.read_bytes()
    for wrong in (
        (source, source),
        (source, out, "--preview", source),
        (source, out, "--preview", out),
    ):
        assert sotto("encode", *wrong) == 2
    capsys.readouterr()
    for wrong in ((source, tmp_path / "no" / "a.stim"), (source, out, "--preview", tmp_path)):
        assert sotto("encode", *wrong) == 1
        one_line(capsys)
    assert source.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [source]


def test_the_rate_is_met_from_below() -> None:
    codec = PhotoCodec(find_image_preset("photo"), torch.device("cpu"))
    alone, fast = EncodeSettings(bpp=0.5, search=False), EncodeSettings(bpp=1.0, fast=True)
    for name, settings in (("kodak-05-motocross", alone), ("kodak-23-parrots", fast)):
        with Image.open(IMAGES / f"{name}.png") as image:
            data = codec.encode(from_image(image), settings)
        taken = 8 * len(data) / (240 * 160)
        assert 0.985 * (settings.bpp or 0) < taken <= (settings.bpp or 0)
