"""Read and write picture files, as 8-bit pixels."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from codec.errors import BadInput, SottoError
from codec.files.paths import display_name, open_input, os_errors
from codec.image.alpha import fill_hidden
from codec.image.colour import to_srgb
from codec.image.container import MAX_PIXELS, MAX_SIDE

MAX_PICTURE_BYTES = 1 << 29
_ICONS = ("ICO", "ICNS", "CUR")  # several pictures of given sizes in a file
_ALPHA = frozenset({"PNG", "WEBP", "TIFF", "TGA", "AVIF", "JPEG2000", "SGI", "QOI"})
_INSTEAD = {"SGI": {"LA": "RGBA"}, "QOI": {"L": "RGB", "LA": "RGBA"}}  # of modes they do not have
_GIF_COLOURS = 256
# Keeps what Pillow logs about broken files off stderr, unless logging is configured.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Pixels = NDArray[np.uint8]


@dataclass
class Picture:
    """8-bit pixels in sRGB.

    rgb: [H, W, 3]; alpha: [H, W] or None; grey: whether the three colours are always equal.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    def image(self) -> Image.Image:
        """As a Pillow image: L, LA, RGB or RGBA."""
        parts = [self.rgb[:, :, 0]] if self.grey else list(np.moveaxis(self.rgb, 2, 0))
        if self.alpha is not None:
            parts.append(self.alpha)
        mode = ("L", "LA", "RGB", "RGBA")[2 * (not self.grey) + (self.alpha is not None)]
        return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(p)) for p in parts])


def read_picture(path: str) -> Picture:
    """Read a picture file, '-' for standard input. Raises BadInput with a one-line message."""
    with open_input(path) as file, os_errors("read", path):
        data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise BadInput(f"{display_name(path)} is over the limit of {MAX_PICTURE_BYTES >> 20} MiB")
    return open_picture(io.BytesIO(data), display_name(path))


def open_picture(file: BinaryIO, name: str = "the picture") -> Picture:
    """The first frame of a picture file, upright, as 8-bit pixels in sRGB. Raises BadInput.

    A file that ends early is read as far as it goes, with a note.
    """
    try:
        with warnings.catch_warnings():
            # Warnings would be extra lines on stderr; the size limit below is our own.
            warnings.simplefilter("ignore")
            image, notes = _loaded(file, name)
            picture = from_image(_upright(image), name)
            picture.notes[:0] = notes
            return picture
    except UnidentifiedImageError:
        raise BadInput(f"{name} is not a readable picture") from None
    except Image.DecompressionBombError:
        raise BadInput(f"{name} is too large") from None
    except SottoError:
        raise
    except Exception as error:  # Pillow's readers raise almost anything for broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, (OSError, SyntaxError)):
            reason = f"it is truncated or damaged ({reason})"
        raise BadInput(f"cannot read {name}: {reason}") from None


def _loaded(file: BinaryIO, name: str) -> tuple[Image.Image, list[str]]:
    """The first frame, as much of it as there is, and notes on what is missing."""
    start, notes = file.tell(), []
    image: Image.Image = Image.open(file)
    if image.format == "EPS":
        raise BadInput(f"{name} is a PostScript program, which is not run; give a PNG")
    if image.format in _ICONS:
        raise BadInput(f"{name} holds icons of several sizes; give one of them as a PNG")
    _check_size(image.width, image.height, name)
    if getattr(image, "is_animated", False):  # to count the frames may take hours
        notes.append(f"{name} holds several frames; only the first is used")
    try:
        with _LENIENCE, _quiet(image):
            image.load()
    except (OSError, SyntaxError) as error:  # the latter is for broken files as well
        file.seek(start)
        image = _load_truncated(file)
        if _is_blank(image):
            raise error from None
        notes.append(f"{name} is truncated or damaged; what can be read of it is used")
    return image, notes


_LENIENCE = threading.Lock()  # Pillow has one switch for all threads


def _load_truncated(file: BinaryIO) -> Image.Image:
    """The first frame of a file that ends early; what is missing is black or grey."""
    with _LENIENCE:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image = Image.open(file)
            with _quiet(image):
                image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    return image


@contextlib.contextmanager
def _quiet(image: Image.Image) -> Iterator[None]:
    """Keep what libtiff says of a broken file, by itself, off stderr; for one thread at a time."""
    try:
        kept = os.dup(2) if image.format == "TIFF" else None
    except OSError:  # closed
        kept = None
    if kept is None:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_blank(image: Image.Image) -> bool:
    """Whether all pixels are the same, as of a file that ends before its first."""
    return all((plane == plane[0, 0]).all() for plane in map(np.asarray, image.split()))


# The transpose that undoes each orientation (Exif 2.32, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """A loaded image, turned as its Exif orientation says; unchanged if that cannot be read.

    Pillow's own `exif_transpose` also rewrites the other tags, and fails if one is broken.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above, but the pixels are good
        return image
    return image if turn is None else image.transpose(turn)


def _check_size(width: int, height: int, name: str) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS or min(width, height) < 1:
        raise BadInput(
            f"{name} has {width}x{height} pixels; the limits are {MAX_SIDE} per side and "
            f"{MAX_PIXELS >> 20} million"
        )


def from_image(image: Image.Image, name: str = "the picture") -> Picture:
    """A Pillow image of any mode as 8-bit pixels in sRGB, by its ICC profile if it has one.

    Raises BadInput for a size out of range.
    """
    _check_size(image.width, image.height, name)
    alpha = None
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        image = _eight_bits(image)
    image, problem = to_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    picture = _picture(np.asarray(image.convert("RGB")), alpha)
    if problem is not None:
        picture.notes.append(f"{name}: {problem}")
    return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale pixels of more than 8 bits to 8; floats are in [0, 1] if none is above 1."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    most = float(values.max(initial=0.0))
    if image.mode == "F":
        full = 1.0 if most <= 1.0 else 255.0 if most <= 255.0 else 65_535.0
    else:
        full = 255.0 if image.mode == "I" and most <= 255.0 else 65_535.0
    scaled = np.clip(values * (255.0 / full), 0.0, 255.0)
    eight = Image.fromarray(np.rint(scaled).astype(np.uint8))
    eight.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    return eight


def from_array(pixels: NDArray[np.generic]) -> Picture:
    """[H, W], [H, W, 1], [H, W, 3] or [H, W, 4] bytes as a picture. Raises BadInput."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise BadInput(
            f"pixels must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if planes.shape[2] not in (1, 3, 4):
        raise BadInput(f"pictures have 1, 3 or 4 planes, not {planes.shape[2]}")
    _check_size(planes.shape[1], planes.shape[0], "the picture")
    alpha = np.ascontiguousarray(planes[:, :, 3]) if planes.shape[2] == 4 else None
    return _picture(np.broadcast_to(planes[:, :, :3], (*planes.shape[:2], 3)), alpha)


def _picture(rgb: Pixels, alpha: Pixels | None) -> Picture:
    """A picture; an alpha plane that is opaque everywhere is dropped, and what it hides filled."""
    if alpha is not None and (alpha == 255).all():
        alpha = None
    if alpha is not None:
        rgb = fill_hidden(rgb, alpha)
    grey = bool((rgb == rgb[:, :, :1]).all())
    return Picture(np.ascontiguousarray(rgb), alpha, grey)


def save_format(path: str) -> str:
    """Pillow's format for a file name; PNG for pipes. Raises BadInput for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    if path == "-" or not suffix:
        return "PNG"
    try:
        found = Image.registered_extensions()[suffix]
    except KeyError:
        raise BadInput(f"{suffix!r} is not a known picture format") from None
    if found in _ICONS:
        raise BadInput(f"{suffix!r} files hold icons of given sizes; write a PNG")
    if found not in Image.SAVE:
        raise BadInput(f"pictures cannot be written as {suffix!r}")
    return found


def left_out(image: Image.Image, form: str) -> list[str]:
    """Lines on what a file of this format cannot hold of a picture."""
    lines = []
    if "A" in image.getbands() and form not in _ALPHA:
        lines.append(f"a {form} file holds no transparency: it is left out")
    if form == "GIF" and image.convert("RGB").getcolors(_GIF_COLOURS) is None:
        lines.append(f"a GIF file holds {_GIF_COLOURS} colours: the others become the nearest")
    return lines


def picture_bytes(image: Image.Image, form: str) -> bytes:
    """The bytes of a picture file, without what `left_out` names."""
    if "A" in image.getbands() and form not in _ALPHA:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode in _INSTEAD.get(form, {}):
        image = image.convert(_INSTEAD[form][image.mode])
    out = io.BytesIO()
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF") else {}
    try:
        image.save(out, form, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"cannot write the picture as {form}: {reason}") from None
    return out.getvalue()
