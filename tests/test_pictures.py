"""Picture files as people have them: colour profiles, hidden pixels, cut ends, icons."""

from __future__ import annotations

import io
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from codec.errors import BadInput
from codec.image.alpha import fill_hidden, pack_alpha
from codec.image.pictures import (
    Picture,
    from_array,
    from_image,
    left_out,
    open_picture,
    picture_bytes,
    save_format,
)
from codec.image.settings import EncodeSettings
from tests.icc_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    grey_profile,
    matrix_of,
    rgb_profile,
)
from tests.tiny_image_model import photograph, psnr, tiny_codec


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def opened(data: bytes, name: str = "a.picture") -> Picture:
    return open_picture(io.BytesIO(data), name)


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light to bytes."""
    linear = linear.clip(0, 1)
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return 255 * curved


# --- Colour profiles.


@pytest.mark.parametrize("colours", [DISPLAY_P3, ADOBE_RGB])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_wide_colours_become_srgb(colours, form: str) -> None:
    pixels = np.array([(200, 60, 60), (90, 160, 70), (60, 60, 160), (128, 128, 128)], np.uint8)
    image = Image.fromarray(pixels.repeat(16, axis=0).reshape(4, 16, 3).repeat(16, axis=0))
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    options |= {"lossless": True} if form == "WEBP" else {}
    picture = opened(saved(image, form, icc_profile=rgb_profile(colours, 2.2), **options))
    light = np.linalg.inv(matrix_of(SRGB)) @ matrix_of(colours) @ ((pixels / 255.0) ** 2.2).T
    found = picture.rgb[8::16, 8].astype(int)
    assert np.abs(found - srgb_of(light.T)).max() < 3
    assert np.abs(found - pixels).max() > 12
    assert picture.notes == []


def test_alpha_and_palettes_are_kept_by_a_profile() -> None:
    profile = rgb_profile(DISPLAY_P3, 2.2)
    image = photograph(20, 16)
    wanted = opened(saved(image, "PNG", icc_profile=profile)).rgb
    assert psnr(wanted, np.asarray(image)) < 40
    plane = (np.arange(320).reshape(16, 20) % 250 + 1).astype(np.uint8)
    clear = image.copy()
    clear.putalpha(Image.fromarray(plane))
    picture = opened(saved(clear, "PNG", icc_profile=profile))
    assert (picture.rgb == wanted).all()
    assert picture.alpha is not None
    assert (picture.alpha == plane).all()
    few = image.quantize(16)
    picture = opened(saved(few, "PNG", icc_profile=profile))
    assert (picture.rgb == opened(saved(few.convert("RGB"), "PNG", icc_profile=profile)).rgb).all()
    few.info["transparency"] = 3
    picture = opened(saved(few, "PNG", icc_profile=profile))
    assert picture.alpha is not None
    assert ((picture.alpha == 0) == (np.asarray(few) == 3)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
@pytest.mark.parametrize("profile", [grey_profile(1.0), rgb_profile(SRGB, 1.0)])
def test_grey_stays_grey(mode: str, profile: bytes) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(257 * ramp.astype(np.uint16)) if "16" in mode else Image.fromarray(ramp)
    if mode == "LA":
        image.putalpha(Image.fromarray(ramp // 2 + 1))
    picture = opened(saved(image, "PNG", icc_profile=profile))
    assert picture.grey
    assert (picture.alpha is not None) == (mode == "LA")
    assert np.abs(picture.rgb[:, :, 0] - srgb_of(ramp / 255.0)).max() < 2


def test_inks_become_srgb() -> None:
    """A press whose black is dark blue and whose other inks do nothing."""
    lab = np.full((2, 2, 2, 2, 3), (100.0, 0.0, 0.0))
    lab[..., 1, :] = (30.0, 20.0, -50.0)
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, :3] = 255
    inks[:, 32:, 3] = 255
    image = Image.fromarray(inks, "CMYK")
    for form in ("TIFF", "JPEG"):
        options = {"quality": 100} if form == "JPEG" else {}
        data = saved(image, form, icc_profile=cmyk_profile(lab), **options)
        picture = opened(data)
        paper, cyan, black = (picture.rgb[8, x].astype(int) for x in (4, 24, 44))
        assert min(paper) > 250, form
        assert min(cyan) > 250, form
        assert black[2] > black[0] + 60, form
        assert picture.notes == []
        plain = opened(saved(image, form, **options)).rgb
        assert plain[8, 24].max() < 60  # as Pillow has it: all inks at full


def test_srgb_is_left_as_it_is() -> None:
    image = photograph(40, 30)
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (opened(saved(image, "PNG", icc_profile=data)).rgb == np.asarray(image)).all()


@pytest.mark.parametrize(
    ("mode", "profile", "said"),
    [
        ("RGB", b"no profile", "damaged"),
        ("RGB", rgb_profile(DISPLAY_P3, 2.2)[:150], "damaged"),
        ("RGB", rgb_profile(DISPLAY_P3, 2.2)[:128] + bytes(300), "damaged"),
        ("CMYK", cmyk_profile(np.zeros((2, 2, 2, 2, 3)))[:-900], "damaged"),
        ("RGB", grey_profile(2.2), "for GRAY"),
        ("RGB", cmyk_profile(np.zeros((2, 2, 2, 2, 3))), "for CMYK"),
        ("CMYK", rgb_profile(DISPLAY_P3, 2.2), "for RGB"),
        ("L", cmyk_profile(np.zeros((2, 2, 2, 2, 3))), "for CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_a_note(mode: str, profile: bytes, said: str) -> None:
    image = photograph(20, 16).convert(mode)
    plain, data = saved(image, "TIFF"), saved(image, "TIFF", icc_profile=profile)
    picture = opened(data, "photo.tif")
    assert (picture.rgb == opened(plain).rgb).all()
    (note,) = picture.notes
    assert note.startswith("photo.tif: its colour profile is ")
    assert said in note


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_profile_is_survived(data: st.DataObject) -> None:
    profile = bytearray(data.draw(st.sampled_from([
        rgb_profile(ADOBE_RGB, 2.2), cmyk_profile(np.zeros((2, 2, 2, 2, 3))), grey_profile(1.8),
    ])))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 6))):
        profile[data.draw(st.integers(0, min(400, len(profile) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    image = photograph(9, 7).convert(data.draw(st.sampled_from(["RGB", "CMYK", "L", "LA", "P"])))
    image.info["icc_profile"] = bytes(profile)
    assert from_image(image).rgb.shape == (7, 9, 3)


# --- What transparency hides.


def hidden_noise(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture [H, W, 3], the same with noise but for an ellipse, and the alpha plane of it."""
    height, width = inside.shape[:2]
    y, x = np.mgrid[:height, :width]
    seen = ((y / height - 0.5) / 0.42) ** 2 + ((x / width - 0.5) / 0.3) ** 2 < 1
    noise = np.random.default_rng(0).integers(0, 256, inside.shape).astype(np.uint8)
    return inside, np.where(seen[:, :, None], inside, noise), (255 * seen).astype(np.uint8)


def test_what_is_hidden_costs_next_to_nothing(tmp_path: Path) -> None:
    codec = tiny_codec(tmp_path / "photo")
    inside, noisy, alpha = hidden_noise(np.asarray(photograph(160, 120)))
    quality = EncodeSettings(quality=60, search=False)
    filled = from_array(np.dstack((noisy, alpha)))
    assert filled.alpha is not None
    assert (filled.rgb[alpha > 0] == inside[alpha > 0]).all()
    plane = len(pack_alpha(alpha))
    sizes = [
        len(codec.encode(picture, quality)) - plane * (picture.alpha is not None)
        for picture in (filled, Picture(noisy, alpha), from_array(inside))
    ]
    assert sizes[0] < 0.6 * sizes[1]
    assert sizes[0] < 0.9 * sizes[2]
    seen = alpha > 0

    def score(picture: Picture) -> float:
        decoded = codec.decode(codec.encode(picture, quality))[:, :, :3]
        return psnr(decoded[seen][None], inside[seen][None])

    assert score(filled) > score(Picture(noisy, alpha)) + 2.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_hidden_pixels_lie_among_the_visible(
    height: int, width: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rgb = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    alpha = np.where(random.random((height, width)) < share, 0, 1 + 254 * (rgb[:, :, 0] > 99))
    before, alpha = rgb.copy(), alpha.astype(np.uint8)
    filled = fill_hidden(rgb, alpha)
    assert (rgb == before).all()
    seen = alpha > 0
    assert (filled[seen] == rgb[seen]).all()
    if seen.any():
        assert (filled >= rgb[seen].min(axis=0)).all()
        assert (filled <= rgb[seen].max(axis=0)).all()
    else:
        assert len(np.unique(filled)) == 1
    equal = fill_hidden(rgb[:, :, :1].repeat(3, axis=2), alpha)
    assert (equal == equal[:, :, :1]).all()


def test_a_grey_picture_is_grey_whatever_hides_in_it() -> None:
    grey = np.asarray(photograph(40, 30).convert("L"))[:, :, None].repeat(3, axis=2)
    _, noisy, alpha = hidden_noise(grey)
    assert from_array(np.dstack((noisy, alpha))).grey


# --- Files that end early, and icons.


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("PNG", {}),
        ("GIF", {"interlace": False}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
    ],
)
def test_a_file_that_ends_early_is_read_as_far_as_it_goes(
    form: str, options: dict[str, object]
) -> None:
    data = saved(photograph(120, 90), form, **options)
    whole = opened(data).rgb
    for share in (0.6, 0.9):
        picture = opened(data[: int(share * len(data))], "photo")
        assert picture.notes == ["photo is truncated or damaged; what can be read of it is used"]
        assert picture.rgb.shape == whole.shape
        part = slice(45, 90) if form == "BMP" else slice(0, 40)  # which begins with the last row
        least = 20 if options.get("progressive") else 40
        assert psnr(picture.rgb[part], whole[part]) > least
        assert (picture.rgb != whole).any()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_without_its_end_marker_a_jpeg_is_whole() -> None:
    data = saved(photograph(96, 64), "JPEG")
    assert data[-2:] == b"\xff\xd9"
    picture = opened(data[:-2], "a.jpg")
    assert (picture.rgb == opened(data).rgb).all()
    assert len(picture.notes) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "JPEG2000", "AVIF"])
def test_any_cut_is_a_picture_or_one_line(form: str) -> None:
    data = saved(photograph(40, 30), form)
    whole = opened(data).rgb

    def check(end: int) -> None:
        try:
            picture = opened(data[:end], "cut")
        except BadInput as error:
            assert "\n" not in str(error)
            assert "cut" in str(error)
        else:
            assert len(np.unique(picture.rgb)) > 1
            assert len(picture.notes) == 1 or (picture.rgb == whole).all()

    for end in range(0, len(data), max(len(data) // 60, 1)):
        check(end)


def test_a_cut_file_is_noticed_in_every_thread() -> None:
    """Pillow's leniency is one switch: no thread may read a cut file without a note."""
    data = saved(photograph(300, 200), "PNG")[:-2000]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: opened(data), range(40)))
    assert [len(p.notes) for p in found] == [1] * 40


def test_libtiff_says_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(saved(photograph(80, 60), "TIFF", compression="tiff_lzw"))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(BadInput, match=r"^cannot read a\.tif: it is truncated or damaged"):
        opened(bytes(data), "a.tif")
    os.write(2, b"still there")
    assert capfd.readouterr() == ("", "still there")


def test_frames_are_not_counted() -> None:
    """Pillow looks for each directory of a TIFF among all before: a million would take hours."""
    many, pack = 20_000, struct.pack
    tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 278: 4, 279: 16}  # 4x4, grey, at 8
    listed = b"".join(pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    size = 2 + len(listed) + 4
    places = [24 + k * size for k in range(many)]
    data = b"II*\0" + pack("<I", places[0]) + bytes(range(16))
    for following in (*places[1:], 0):
        data += pack("<H", len(tags)) + listed + pack("<I", following)
    begun = time.process_time()
    picture = opened(data, "a.tif")
    assert time.process_time() - begun < 2
    assert picture.rgb.shape == (4, 4, 3)
    assert picture.notes == ["a.tif holds several frames; only the first is used"]


def test_postscript_is_not_run() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    with pytest.raises(BadInput, match=r"^a\.eps is a PostScript program, which is not run"):
        opened(program, "a.eps")


def test_icons_are_refused() -> None:
    icon = saved(photograph(64, 64), "ICO", sizes=[(16, 16), (32, 32)])
    with pytest.raises(BadInput, match=r"^a\.ico holds icons of several sizes; give one of them"):
        opened(icon, "a.ico")
    for name in ("a.ico", "A.ICO", "a.icns"):
        with pytest.raises(BadInput, match="icons of given sizes; write a PNG"):
            save_format(name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".jp2"])
def test_written_pictures_have_no_profile_and_their_size(suffix: str) -> None:
    data = saved(photograph(240, 160), "PNG", icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    written = picture_bytes(opened(data).image(), save_format("a" + suffix))
    with Image.open(io.BytesIO(written)) as image:
        assert image.size == (240, 160)
        assert "icc_profile" not in image.info


@pytest.mark.parametrize(
    ("suffix", "alpha", "said"),
    [
        (".png", True, []),
        (".jp2", True, []),
        (".sgi", True, []),
        (".jpg", True, ["a JPEG file holds no transparency: it is left out"]),
        (".jpg", False, []),
        (
            ".gif",
            True,
            [
                "a GIF file holds no transparency: it is left out",
                "a GIF file holds 256 colours: the others become the nearest",
            ],
        ),
    ],
)
@pytest.mark.parametrize("grey", [False, True])
def test_what_a_format_cannot_hold_is_said(
    suffix: str, alpha: bool, said: list[str], grey: bool
) -> None:
    image = photograph(64, 48).convert("L" if grey else "RGB")
    if alpha:
        image.putalpha(Image.fromarray(np.arange(64 * 48).reshape(48, 64).astype(np.uint8)))
    form = save_format("a" + suffix)
    if grey:
        said = [line for line in said if "colours" not in line]
    assert left_out(image, form) == said
    with Image.open(io.BytesIO(picture_bytes(image, form))) as written:
        if alpha:
            assert ("A" in written.getbands()) is not any("transparency" in line for line in said)
        if not said:
            shown, as_written = np.asarray(image.convert("RGB")), np.asarray(written.convert("RGB"))
            assert psnr(shown, as_written) > 35
