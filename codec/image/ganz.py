"""GANZ as a codec: `--preset ganz` (Smedemark-Margulies, Park & Vann 2020).

A picture, mirrored out, is cut into tiles of 128x128 pixels. What is stored of each are the d_c
latents that a search through the frozen generator with a random first layer finds: as 32-bit
floats, which is the paper's form, or quantised to shared levels and entropy-coded. In the paper
d_c = N / R and the layer is the same for all pictures; here it can also reach what matters most to
the tile, and which numbers these are is stored in the place of some latents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BadInput, BadStream
from codec.image.base import PictureCodec
from codec.image.container import (
    STRIDE,
    ImageFile,
    ImageHeader,
    Payload,
    write_image,
)
from codec.image.ganz_form import CHOSEN, CODED, FLOATS, TileForm, TileLatents
from codec.image.pictures import Picture, pack_alpha
from codec.image.planes import picture_of
from codec.image.presets import ImagePreset
from codec.image.settings import EncodeSettings, Progress
from codec.packet import Entropy

if TYPE_CHECKING:
    from codec.image.ganz_search import Found
    from models.networks.ganz import RandomFirstLayer

SIDE = 128  # pixels a tile is wide and high
PIXELS = 3 * SIDE * SIDE  # N
TILE = SIDE // STRIDE
MAX_TILES = 1024
RATIOS = (6.0, 768.0)
DEFAULT_RATIO = 10.0
CHOOSING_STEPS = 10  # of the search that places are chosen by
_CORRECTIONS = 6
# A search changes the bytes that coded latents take by less than this.
_SEARCHED_SIZE = 0.01


class GanzCodec(PictureCodec):
    """The preset with its generator loaded.

    The ratio asked for is N over the numbers of a tile, 6 to 768, whatever form these take: its
    latents, and 32 bits of their places each.
    """

    has_places = True

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.ganz.store import load_ganz_model

        super().__init__(preset, device)
        self.model = load_ganz_model(preset.family).to(device)
        self.model_id = self.model.model_id
        self.form = TileForm(self.model, device)
        self.layer = functools.lru_cache(maxsize=8)(self._layer)

    def _layer(self, latents: int) -> RandomFirstLayer:
        return self.model.first_layer(latents)

    def layer_of(self, tile: TileLatents) -> RandomFirstLayer:
        """The first layer that a tile's latents go through."""
        if tile.flags is None:
            return self.layer(tile.z.shape[1])
        return self.model.first_layer(tile.z.shape[1], torch.from_numpy(tile.flags))

    def encode_picture(
        self,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> bytes:
        return _Encoder(self, picture, settings, progress, clock).run()

    def decode_payloads(self, file: ImageFile) -> Picture:
        header = file.header
        if header.tile != TILE or len(file.payloads) > MAX_TILES:
            raise BadStream(f"preset {self.preset} has up to {MAX_TILES} tiles of {SIDE} pixels")
        notes: list[str] = []
        tiles = [self._tile(payload, notes) for payload in file.payloads]
        rows, columns = tile_grid(header)
        return picture_of(file, join_tiles(tiles, rows, columns), notes)

    def _tile(self, payload: Payload | None, notes: list[str]) -> Tensor | None:
        """A tile as drawn, [3, 128, 128] in [0, 1]; None if it is lost, with a note of why."""
        if payload is None or not payload.whole:
            return None
        try:
            tile = self.form.latents_of(payload)
        except BadStream as error:
            notes.append(str(error))
            return None
        with torch.no_grad():
            y: Tensor = self.model.generator.body(self.layer_of(tile)(tile.z))
        return y[0].clamp(0.0, 1.0)


def tile_grid(header: ImageHeader) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-header.height // SIDE), -(-header.width // SIDE)


def cut_tiles(rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """A picture [H, W, 3], mirrored out, as tiles [T, 3, 128, 128] in [0, 1] in raster order, and
    which of their pixels are the picture's own, [T, 1, 128, 128]."""
    height, width = rgb.shape[:2]
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    more = (0, rows * SIDE - height), (0, columns * SIDE - width)
    padded = np.pad(rgb, (*more, (0, 0)), mode="symmetric")
    own = np.pad(np.ones((height, width, 1), np.uint8), (*more, (0, 0)))
    parts = []
    for plane in (padded, own):
        grid = plane.reshape(rows, SIDE, columns, SIDE, -1).transpose(0, 2, 4, 1, 3)
        parts.append(torch.from_numpy(grid.reshape(rows * columns, -1, SIDE, SIDE).copy()).float())
    return parts[0] / 255.0, parts[1]


def join_tiles(tiles: list[Tensor | None], rows: int, columns: int) -> Tensor:
    """Tiles in raster order as one picture [1, 3, 128 rows, 128 columns]; lost ones get the mean
    colour of the nearest. Raises BadStream if none is left."""
    known = {k: tile for k, tile in enumerate(tiles) if tile is not None}
    if not known:
        raise BadStream("nothing of the picture is left")
    places = np.array([divmod(k, columns) for k in known])
    whole = []
    for number, tile in enumerate(tiles):
        if tile is None:
            distance = np.square(places - np.array(divmod(number, columns))).sum(1)
            near = known[list(known)[int(distance.argmin())]]
            tile = near.mean((1, 2), keepdim=True).expand(-1, SIDE, SIDE)
        whole.append(tile)
    grid = torch.stack(whole).reshape(rows, columns, 3, SIDE, SIDE)
    return grid.permute(2, 0, 3, 1, 4).reshape(1, 3, rows * SIDE, columns * SIDE)


class _Encoder:
    """One picture on its way to a file."""

    def __init__(
        self,
        codec: GanzCodec,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        if settings.quality is not None:
            raise BadInput(f"preset {codec.preset} takes a ratio or bits per pixel, no quality")
        if settings.tune != "psnr":
            raise BadInput(f"preset {codec.preset} searches for the least squared error only")
        self.codec, self.settings = codec, settings
        self._progress, self._clock = progress, clock
        self._begun = clock()
        self.header = ImageHeader(
            picture.width, picture.height, codec.model_id, codec.settings.number, TILE,
            picture.grey, picture.alpha is not None,
        )  # fmt: skip
        rows, columns = tile_grid(self.header)
        if rows * columns > MAX_TILES:
            raise BadInput(
                f"a picture of {picture.width}x{picture.height} pixels is {rows * columns} tiles, "
                f"preset {codec.preset} takes {MAX_TILES}"
            )
        self.alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        self.tiles, self.own = (part.to(codec.device) for part in cut_tiles(picture.rgb))
        names = {"range": Entropy.RANGE, "huffman": Entropy.HUFFMAN, None: None}
        self.kind = names[settings.entropy]
        self.chosen = settings.places != "fixed"
        asked = settings.bpp is not None
        self.allowed = settings.allowed_bytes(picture) if asked else None

    def run(self) -> bytes:
        """Encode; the file's bytes."""
        count, steps = self._count(), self.settings.steps(self.codec.settings)
        if self.allowed is None or self.kind is None:
            data, cost = self._encoded(count, steps, (0.0, 1.0))
        else:
            data, cost = self._fitted(count, steps, self.allowed)
        if self._progress is not None:
            self._progress(Progress(1.0, cost, steps))
        return data

    def _fitted(self, count: int, steps: int, allowed: int) -> tuple[bytes, float | None]:
        """`_encoded` with as many numbers as fit: coded latents can take more than foreseen."""
        if self.settings.budget is not None:
            # The time is for one search: how many numbers fit is found out without any.
            for _ in range(_CORRECTIONS):
                size = len(self._encoded(count, 0, None)[0])
                if size <= (1.0 - _SEARCHED_SIZE) * allowed or count == self._least():
                    break
                count = self._fewer(count, size, allowed)
        for attempt in range(_CORRECTIONS):
            # Another search may have to follow, and must not seem to begin anew.
            left = 0.1**attempt
            data, cost = self._encoded(count, steps, (1.0 - left, 1.0 - 0.1 * left))
            if len(data) <= allowed:
                return data, cost
            count = self._fewer(count, len(data), allowed)
        raise BadInput(f"the picture does not fit in {allowed} bytes")

    def _fewer(self, count: int, size: int, allowed: int) -> int:
        """How many numbers to try where so many take more bytes than are allowed."""
        return max(int(count * min(allowed / size, 0.99)), self._least())

    def _encoded(
        self, count: int, steps: int, span: tuple[float, float] | None
    ) -> tuple[bytes, float | None]:
        """The file with `count` numbers a tile, and the last tile's cost as a share of its start;
        span: the shares of the whole work that its progress begins and ends at (None: untold)."""
        tiles, cost = self._search(count, steps, span)
        form = self.codec.form
        payloads = [form.payload_of(tile, self.kind, self.chosen) for tile in tiles]
        return self._file(payloads), cost

    def _least(self) -> int:
        return int(PIXELS / RATIOS[1])

    def _count(self) -> int:
        """d_c for what was asked. Raises BadInput when there is none."""
        most, least = self.codec.model.generator.shape.most_latents, self._least()
        if self.allowed is None:
            ratio = DEFAULT_RATIO if self.settings.ratio is None else self.settings.ratio
            if not RATIOS[0] <= ratio <= RATIOS[1]:
                raise BadInput(
                    f"ratio {ratio:g} is not between {RATIOS[0]:g} and {RATIOS[1]:g}, which preset "
                    f"{self.codec.preset} has"
                )
            return min(int(PIXELS / ratio), most)
        smallest = self._expected_size(least)
        if smallest > self.allowed:
            bpp = 8 * smallest / (self.header.width * self.header.height)
            raise BadInput(
                f"preset {self.codec.preset} takes at least {smallest} bytes here ({bpp:.3f} bits "
                f"per pixel), {self.allowed} are allowed"
            )
        while least < most:
            middle = (least + most + 1) // 2
            if self._expected_size(middle) <= self.allowed:
                least = middle
            else:
                most = middle - 1
        return least

    def _expected_size(self, count: int) -> int:
        """Bytes of the file with so many numbers a tile; for floats the most there can be."""
        size = self.codec.form.expected_size(count, self.kind is not None, self.chosen)
        return len(self._file([bytes(size)] * len(self.tiles)))

    def _file(self, payloads: list[bytes]) -> bytes:
        form = (FLOATS if self.kind is None else CODED) | (CHOSEN if self.chosen else 0)
        kind = self.kind or Entropy.RANGE
        return write_image(self.header, form, payloads, self.alpha, kind)

    def _search(
        self, count: int, steps: int, span: tuple[float, float] | None
    ) -> tuple[list[TileLatents], float | None]:
        """Searched latents of every tile, `count` numbers each, their places included; and as
        `_encoded`."""
        budget, total = self.settings.budget, len(self.tiles)
        found, cost = [], None
        for number in range(total):
            until = None
            if budget is not None:
                left = budget - (self._clock() - self._begun)
                until = self._clock() + left / (total - number)

            def expired(until: float | None = until) -> bool:
                return until is not None and self._clock() >= until

            def report(done: int, share: float, number: int = number) -> None:
                if self._progress is not None and span is not None:
                    part = done / steps if budget is None else 0.0
                    whole = span[0] + (span[1] - span[0]) * (number + part) / total
                    self._progress(Progress(whole, share, done))

            tile, result = self._search_tile(number, count, steps, expired, report)
            cost = result.cost / max(result.start_cost, 1e-12)
            found.append(tile)
        return found, cost

    def _search_tile(
        self,
        number: int,
        count: int,
        steps: int,
        expired: Callable[[], bool],
        report: Callable[[int, float], None],
    ) -> tuple[TileLatents, Found]:
        from codec.image.ganz_search import choose_places, search_tile

        codec, one = self.codec, slice(number, number + 1)
        body, x, own = codec.model.generator.body, self.tiles[one], self.own[one]
        flags, first, layer = None, None, codec.layer(count)
        if self.chosen:
            whole, most = codec.layer(codec.form.most), min(steps, CHOOSING_STEPS)
            choice = choose_places(body, whole, x, own, count, most, expired)
            if choice is not None:
                flags, first = choice
                layer = codec.model.first_layer(first.shape[1], torch.from_numpy(flags))
        found = search_tile(body, layer, x, own, steps, first=first, expired=expired, report=report)
        return TileLatents(found.latents, flags), found
