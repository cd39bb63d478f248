"""Pictures and their latent maps, in windows and tiles.

Maps of any size pass through the networks in windows, which bounds memory. A window is widened by
the networks' receptive field and its output cropped again, so the result is the same as for the
whole map. Tiles are coded independently, so one can be lost without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.device import fast_in_half
from codec.errors import BadStream
from codec.image.alpha import unpack_alpha
from codec.image.container import STRIDE, Area, ImageFile, Payload
from codec.image.pictures import Picture
from codec.search.problem import Networks, RateModel

WINDOW = 64  # largest side of a window, in cells
MARGIN = 1  # cells around a searched window whose pixels count in its distance
STRIP = 256  # rows of pixels rounded at a time


class MapNetwork(Protocol):
    """An encoder or generator: maps pixels to cells or cells to pixels, at rate points [B].

    sight: reach of the receptive field to each side, in cells.
    """

    @property
    def sight(self) -> int: ...

    def __call__(self, x: Tensor, rate: Tensor) -> Tensor: ...


# --- Planes of pixels.


def padded_planes(rgb: NDArray[np.uint8], unit: int = STRIDE) -> Tensor:
    """A picture [H, W, 3] padded to whole units by mirroring: [1, 3, >= H, >= W] in [0, 1]."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % unit), (0, -width % unit), (0, 0)), mode="symmetric")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255.0


def picture_of(file: ImageFile, y: Tensor, notes: list[str]) -> Picture:
    """A generated picture y [1, 3, >= height, >= width] in [0, 1], with its file's alpha plane.

    notes: damage besides that in the file's own notes.
    """
    header = file.header
    rgb = np.empty((header.height, header.width, 3), np.uint8)
    for top in range(0, header.height, STRIP):
        # In strips: float32 copies of a whole picture would be large.
        rows = slice(top, min(top + STRIP, header.height))
        strip = (255.0 * y[0, :, rows, : header.width]).round().to(torch.uint8)
        rgb[rows] = strip.permute(1, 2, 0).cpu().numpy()
    if header.grey:
        rgb = np.repeat(rgb[:, :, 1:2], 3, axis=2)
    alpha = None
    notes = [*file.notes, *notes]
    if header.alpha:
        alpha = np.full(rgb.shape[:2], 255, np.uint8)
        if file.alpha is not None and file.alpha.whole:
            try:
                alpha = unpack_alpha(file.alpha.data, header.height, header.width)
            except BadStream as error:
                notes.append(str(error))
    return Picture(rgb, alpha, header.grey, notes)


def cut_squares(planes: Tensor, side: int) -> Tensor:
    """Planes [1, C, R * side, S * side] as squares [R * S, C, side, side] in raster order."""
    rows, columns = planes.shape[2] // side, planes.shape[3] // side
    grid = planes.reshape(-1, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    return grid.reshape(rows * columns, -1, side, side).contiguous()


def join_squares(squares: Tensor, columns: int) -> Tensor:
    """Inverse of `cut_squares`."""
    count, channels, side = squares.shape[:3]
    grid = squares.reshape(count // columns, columns, channels, side, side)
    return grid.permute(2, 0, 3, 1, 4).reshape(1, channels, -1, columns * side)


# --- Maps through networks.


def areas(rows: int, columns: int, side: int) -> Iterator[Area]:
    """Cut a map into areas of at most `side` cells a side."""
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            yield Area(top, left, min(top + side, rows), min(left + side, columns))


@torch.no_grad()
def encode_map(encoder: MapNetwork, x: Tensor, rate: float, part: Area | None = None) -> Tensor:
    """Unrounded latents [1, C, rows, columns] of padded planes x [1, 3, H, W], or of a part."""
    rows, columns = x.shape[2] // STRIDE, x.shape[3] // STRIDE
    whole = part or Area(0, 0, rows, columns)
    rates = x.new_full((1,), rate)
    out = x.new_empty(0)
    for piece in areas(*whole.shape, WINDOW):
        area = piece.moved(whole.top, whole.left)
        wide = area.widened(encoder.sight, rows, columns)
        latents = encoder(wide.of(x, STRIDE), rates)
        if not out.numel():
            out = x.new_empty(1, latents.shape[1], *whole.shape)
        piece.of(out)[:] = area.within(wide).of(latents)
    return out


@torch.no_grad()
def decode_map(generator: MapNetwork, z: Tensor, rate: float) -> Tensor:
    """The picture [1, 3, H, W] in [0, 1] of latents [1, C, rows, columns]."""
    rows, columns = z.shape[2:]
    out = z.new_empty(1, 3, rows * STRIDE, columns * STRIDE)
    rates = z.new_full((1,), rate)
    for area in areas(rows, columns, WINDOW):
        wide = area.widened(generator.sight, rows, columns)
        y = generator(wide.of(z), rates)
        area.of(out, STRIDE)[:] = area.within(wide).of(y, STRIDE)
    return out.clamp_(0.0, 1.0)


# --- Tiles of a file.


def read_tiles(
    file: ImageFile,
    channels: int,
    usable: Callable[[Payload], bool],
    decode: Callable[[Area, Payload], tuple[NDArray[np.integer], int]],
) -> tuple[NDArray[np.int16], NDArray[np.bool_], list[str]]:
    """Indices of a file's cells [rows, columns, C], which cells are known, and notes of damage.

    decode: returns the indices of a tile [height, width, C], and how many of its cells, in raster
    order, are known. Raises BadStream if no cell of the picture is known.
    """
    indices = np.zeros((*file.header.cells, channels), np.int16)
    known = np.zeros(file.header.cells, bool)

    def read(tile: Area, payload: Payload | None) -> str | None:
        if payload is None or not usable(payload):
            return None
        try:
            part, count = decode(tile, payload)
        except BadStream as error:
            return str(error)
        tile.cells_of(indices)[:] = part
        tile.cells_of(known)[:] = (np.arange(part[:, :, 0].size) < count).reshape(tile.shape)
        return None

    # The compiled decoder releases the GIL, so tiles run in parallel.
    with ThreadPoolExecutor(2) as pool:
        notes = [note for note in pool.map(read, file.header.tiles(), file.payloads) if note]
    if not known.any():
        raise BadStream("nothing of the picture is left")
    return indices, known, notes


def fill_lost(z: Tensor, known: NDArray[np.bool_], smoothed: Callable[[Tensor], Tensor]) -> None:
    """Give lost cells of latents z [1, C, rows, columns] the colours of the nearest known ones.

    known: [rows, columns], not all False; smoothed: reduces latents to their cells' mean colours.
    """
    from scipy.ndimage import distance_transform_edt

    if known.all():
        return
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest[:, ~known]).long()
    with torch.no_grad():
        z[:, :, torch.from_numpy(~known)] = smoothed(z)[:, :, rows, columns]


# --- Search windows.


def frames_of(maps: Tensor) -> Tensor:
    """Maps [B, C, h, w] in the search's layout: cells in raster order, [B, h * w, C]."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, maps.shape[1])


def map_of(frames: Tensor, area: Area) -> Tensor:
    """Inverse of `frames_of` for maps of an area."""
    return frames.reshape(len(frames), *area.shape, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Window:
    """An area of whole tiles that is searched at once; tiles are relative to the area."""

    area: Area
    tiles: tuple[Area, ...]


def cut_windows(tiles: Sequence[Area], side: int) -> list[Window]:
    """Group neighbouring tiles into windows of at most `side` cells a side (or one tile)."""
    windows = []
    for top, bottom in _gather(sorted({(t.top, t.bottom) for t in tiles}), side):
        for left, right in _gather(sorted({(t.left, t.right) for t in tiles}), side):
            area = Area(top, left, bottom, right)
            inside = [t for t in tiles if top <= t.top < bottom and left <= t.left < right]
            windows.append(Window(area, tuple(t.within(area) for t in inside)))
    return windows


def _gather(spans: list[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in spans:
        if out and end - out[-1][0] <= side:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


class WindowTask:
    """One area of a picture, prepared for `codec.search.engine`.

    A frame holds the area's cells; the latents around the area stay fixed. networks: for the
    search; target: the pixels that count, [1 or B, 3, H, W].
    """

    def __init__(
        self,
        area: Area,
        z: Tensor,
        x: Tensor,
        size: tuple[int, int],
        generator: MapNetwork,
        prior: RateModel,
        quantise: Callable[[Tensor, float], Tensor],
        reach: float,
    ) -> None:
        """z: the picture's map [1, C, rows, columns]; x: its padded planes; size: (height, width)
        of the pixels that count."""
        rows, columns = z.shape[2:]
        self.area, self._generator, self._half = area, generator, fast_in_half(z.device)
        wide = area.widened(generator.sight + MARGIN, rows, columns)
        seen = area.widened(MARGIN, rows, columns)
        bottom, right = min(seen.bottom * STRIDE, size[0]), min(seen.right * STRIDE, size[1])
        self.target = x[..., seen.top * STRIDE : bottom, seen.left * STRIDE : right].contiguous()
        self._around = wide.of(z).clone()
        self._inner = area.within(wide)
        self._seen = area.within(seen)
        self._crop = (
            slice((seen.top - wide.top) * STRIDE, bottom - wide.top * STRIDE),
            slice((seen.left - wide.left) * STRIDE, right - wide.left * STRIDE),
        )
        self.networks = Networks(
            encoder=_no_encoder,
            generator=lambda frames, rate: self._draw(frames, rate, False),
            prior=prior,
            fast_generator=lambda frames, rate: self._draw(frames, rate, self._half),
            quantise=quantise,
            reach=reach,
        )

    def by_cell(self, x: Tensor) -> Tensor:
        """Sum a map like the target over the pixels of each cell of the area: [B, C, h, w].

        Pixels beyond the picture count as 0.
        """
        missing = -x.shape[2] % STRIDE, -x.shape[3] % STRIDE
        x = F.pad(x, (0, missing[1], 0, missing[0]))
        return self._seen.of(F.avg_pool2d(x, STRIDE) * STRIDE**2)

    def _draw(self, frames: Tensor, rate: Tensor, half: bool) -> Tensor:
        around, inner = self._around.expand(len(frames), -1, -1, -1), self._inner
        rows = slice(inner.top, inner.bottom)
        left, right = around[:, :, rows, : inner.left], around[:, :, rows, inner.right :]
        middle = torch.cat((left, map_of(frames, self.area), right), dim=3)
        parts = around[:, :, : inner.top], middle, around[:, :, inner.bottom :]
        whole = torch.cat(parts, dim=2).contiguous(memory_format=torch.channels_last)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=half):
            y = self._generator(whole, rate)
        return y[:, :, self._crop[0], self._crop[1]]


def _no_encoder(x: Tensor, rate: Tensor) -> Tensor:
    raise ValueError("the search of a window needs its start latents")
