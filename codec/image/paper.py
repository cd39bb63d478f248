"""The first paper's image system as a codec: `--preset paper`.

20 000 latents per 768x512 pixels, 64 levels that all latents share, ADMM search from the encoder's
output for the lowest F = L_MS-SSIM + α·MSE, Huffman coding (Liu et al. 2020). It has one rate. A
picture of any size is coded as it stands, 13 latents per cell of 16x16 pixels. `docs/image.md` says
what differs from the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.device import fast_in_half
from codec.entropy.latents import LatentCoder
from codec.entropy.static import StaticHuffmanCoder, StaticRangeCoder, SymbolCounts
from codec.errors import BadInput, BadStream
from codec.image.base import PictureCodec
from codec.image.container import (
    STRIDE,
    ImageFile,
    ImageHeader,
    Payload,
    Tile,
    write_image,
)
from codec.image.pictures import Picture, pack_alpha
from codec.image.planes import padded_planes, picture_of
from codec.image.presets import ImagePreset
from codec.image.settings import EncodeSettings, Progress
from codec.image.tiling import Area, areas, decode_map, encode_map
from codec.packet import Entropy
from codec.search.admm import Networks, SearchSettings, search

if TYPE_CHECKING:
    from models.image.paper import PaperImageModel

TILE = 8  # cells a tile is wide and high at most: what a damaged packet costs
SEARCH_WINDOW = 64  # cells searched at once, a side at most
MARGIN = 1  # cells around a window whose pixels count in its distance
STEP = 0.3  # of the search's descent at first, in levels


class PaperImageCodec(PictureCodec):
    """The preset with its networks loaded."""

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.image.paper import load_paper_image_model

        super().__init__(preset, device)
        self.model = load_paper_image_model(preset.family).to(device)
        self.model_id = self.model.model_id

    def encode_picture(
        self,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> bytes:
        if settings.quality is not None:
            raise BadInput(f"preset {self.preset} has one rate: it takes no quality")
        header = ImageHeader(
            picture.width, picture.height, self.model_id, self.settings.number, TILE,
            picture.grey, picture.alpha is not None,
        )  # fmt: skip
        alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        kind = Entropy.HUFFMAN if settings.entropy in (None, "huffman") else Entropy.RANGE
        asked = settings.bpp is not None or settings.ratio is not None
        allowed = settings.allowed_bytes(picture) if asked else None
        if allowed is not None:
            # The shortest codes there are: what cannot fit is refused before the search.
            shape = (*header.cells, self.model.encoder.shape.channels)
            least = np.full(shape, self._cheapest, np.int8)
            self._check(self._write(header, least, kind, alpha), header, allowed, "at least ")
        x = padded_planes(picture, header).to(self.device)
        latents = _Searcher(self, x, settings, progress, clock).run()
        data = self._write(header, self.model.indices_of(latents[0].permute(1, 2, 0)), kind, alpha)
        if allowed is not None:
            self._check(data, header, allowed)
        return data

    def decode_payloads(self, file: ImageFile) -> Picture:
        z, notes = self._latents(file)
        return picture_of(file, decode_map(self.model.generator, z, 0.0), notes)

    @functools.cached_property
    def _cheapest(self) -> int:
        """The level with the shortest code."""
        return int(self.model.counts.counts.argmax())

    def _write(
        self, header: ImageHeader, indices: NDArray[np.int8], kind: Entropy, alpha: bytes | None
    ) -> bytes:
        """The file of indices [rows, columns, C]."""
        channels = indices.shape[2]
        payloads = [
            self._coder(kind, tile).encode(_part(indices, tile).reshape(-1, channels), 0)
            for tile in header.tiles()
        ]
        return write_image(header, 0, payloads, alpha, kind)

    def _check(self, data: bytes, header: ImageHeader, allowed: int, about: str = "") -> None:
        """Raise BadInput for more bytes than allowed."""
        if len(data) > allowed:
            bpp = 8 * len(data) / (header.width * header.height)
            raise BadInput(
                f"preset {self.preset} has one rate: this picture takes {about}{len(data)} bytes "
                f"({bpp:.3f} bits per pixel), {allowed} are allowed"
            )

    def _coder(self, kind: Entropy, tile: Tile) -> LatentCoder:
        channels = self.model.encoder.shape.channels
        return _static_coder(kind, self._table, tile.height * tile.width, channels)

    @functools.cached_property
    def _table(self) -> tuple[int, ...]:
        return tuple(self.model.counts.counts.tolist())

    def _latents(self, file: ImageFile) -> tuple[Tensor, list[str]]:
        """The map of a file [1, C, rows, columns], and what was wrong."""
        rows, columns = file.header.cells
        indices = np.zeros((rows, columns, self.model.encoder.shape.channels), np.int8)
        have = np.zeros((rows, columns), bool)
        notes: list[str] = []
        for tile, payload in zip(file.header.tiles(), file.payloads, strict=True):
            if payload is not None and payload.whole:
                try:
                    _part(indices, tile)[:] = self._decoded(tile, payload)
                    _part(have, tile)[:] = True
                except BadStream as error:
                    notes.append(str(error))
        if not have.any():
            raise BadStream("nothing of the picture is left")
        z = self.model.latents_of(indices).permute(2, 0, 1)[None].contiguous()
        return (z if have.all() else self._filled(z, have)), notes

    def _decoded(self, tile: Tile, payload: Payload) -> NDArray[np.int8]:
        found = self._coder(payload.entropy, tile).decode(payload.data, 0)
        return found.reshape(tile.height, tile.width, -1)

    @torch.no_grad()
    def _filled(self, z: Tensor, have: NDArray[np.bool_]) -> Tensor:
        """z with the mean colours of the nearest known cells where cells are lost."""
        from scipy.ndimage import distance_transform_edt

        row, column = distance_transform_edt(~have, return_distances=False, return_indices=True)
        nearest = self.model.generator.smoothed(z)[:, :, torch.from_numpy(row), column]
        known = torch.from_numpy(have).to(z.device)
        return torch.where(known, z, nearest)


@functools.lru_cache(maxsize=64)
def _static_coder(kind: Entropy, table: tuple[int, ...], cells: int, channels: int) -> LatentCoder:
    """The coder of a tile; few sizes of tiles occur in a picture."""
    made = StaticHuffmanCoder if kind is Entropy.HUFFMAN else StaticRangeCoder
    return made(SymbolCounts(np.array(table, np.int64)), cells, channels)


def _part(values: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """The part of an array [rows, columns, ...] that is a tile's."""
    return values[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


class _Searcher:
    """The search over a whole picture, window by window; neighbouring windows are held fixed."""

    def __init__(
        self,
        codec: PaperImageCodec,
        x: Tensor,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        from models.image.paper import ALPHAS, PaperDistance

        self._model, self._x, self._clock, self._progress = codec.model, x, clock, progress
        self._distance = PaperDistance(ALPHAS[settings.tune])
        self._iterations = settings.steps(codec.settings)
        self._budget = settings.budget
        self._cost: float | None = None

    def run(self) -> Tensor:
        """Quantised latents [1, C, rows, columns]."""
        z = encode_map(self._model.encoder, self._x, 0.0)
        latents = self._model.quantise(z)
        rows, columns = z.shape[2:]
        windows = list(areas(rows, columns, SEARCH_WINDOW))
        begun = self._clock()
        for number, window in enumerate(windows if self._iterations else []):
            budget = None
            if self._budget is not None:
                left = self._budget - (self._clock() - begun)
                budget = max(left, 0.0) / (len(windows) - number)
            done = number / len(windows)
            found = self._search(z, latents, window, budget, done, 1.0 / len(windows))
            window.of(latents)[:] = found
        if self._progress is not None:
            self._progress(Progress(1.0, self._cost, self._iterations))
        return latents

    def _search(
        self,
        z: Tensor,
        latents: Tensor,
        window: Area,
        budget: float | None,
        done: float,
        share: float,
    ) -> Tensor:
        """The window's searched latents, given unrounded ones and what is quantised so far."""
        rows, columns = z.shape[2:]
        wide = window.widened(self._model.generator.sight + MARGIN, rows, columns)
        networks = window_networks(self._model, latents, window, wide)
        target = window.widened(MARGIN, rows, columns).of(self._x, STRIDE)

        def report(part: float, cost: float, steps: int) -> None:
            self._cost = cost
            if self._progress is not None:
                self._progress(Progress(done + share * part, cost, steps))

        none = z.new_zeros(1)
        found = search(
            networks, self._distance, target, none, none,
            search_settings(self._model.penalty, self._iterations, budget),
            start=as_frames(wide.of(z)), clock=self._clock, report=report,
        )  # fmt: skip
        return window.within(wide).of(as_map(found.indices, wide))


def as_frames(z: Tensor) -> Tensor:
    """Maps [B, C, h, w] as the search knows latents, [B, h * w, C]."""
    return z.flatten(2).transpose(1, 2).contiguous()


def as_map(frames: Tensor, area: Area) -> Tensor:
    """Inverse of `as_frames` for maps of an area."""
    shape = len(frames), -1, area.bottom - area.top, area.right - area.left
    return frames.transpose(1, 2).reshape(shape)


def search_settings(penalty: float, iterations: int, budget: float | None = None) -> SearchSettings:
    """ADMM with a penalty of its own, since there is no bit price to derive it from."""
    return SearchSettings(
        iterations=iterations, budget=budget, step=STEP, penalty=penalty,
        check_every=max(min(iterations // 4, 10), 1),
    )  # fmt: skip


def window_networks(model: PaperImageModel, latents: Tensor, window: Area, wide: Area) -> Networks:
    """What the search needs for a window: frames are the latents of `wide`, those around the window
    are held at `latents` [B or 1, C, rows, columns]; the picture is the window's with its margin.
    """
    rows, columns = latents.shape[2:]
    held = wide.of(latents).clone()
    inner = window.within(wide)
    free = torch.zeros(held.shape[2:], dtype=torch.bool, device=held.device)
    inner.of(free)[:] = True
    seen = window.widened(MARGIN, rows, columns).within(wide)
    half = fast_in_half(held.device)

    def draw(frames: Tensor, rate: Tensor, half: bool) -> Tensor:
        z = torch.where(free, as_map(frames, wide), held)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=half):
            y: Tensor = model.generator(z.contiguous(memory_format=torch.channels_last), rate)
        return seen.of(y, STRIDE)

    return Networks(
        encoder=lambda x, rate: as_frames(model.encoder(x, rate)),
        generator=lambda frames, rate: draw(frames, rate, False),
        prior=model.prior,
        sketch=lambda frames, rate: draw(frames, rate, half),
        quantise=model.quantise,
        reach=model.reach,
    )
