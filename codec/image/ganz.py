"""GANZ: preset `ganz` (Smedemark-Margulies, Park & Vann 2020).

A picture is padded by mirroring and cut into tiles of 128x128 pixels. A tile is stored as the d_c
latents that a search through the frozen generator with a random first layer finds: as 32-bit
floats, as in the paper, or quantised to shared levels and entropy-coded. In the paper d_c = N / R
and the layer is dense; here, by default, latents reach the entries of h0 that matter most to the
tile, and their places are stored instead of some latents.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.range_coder import decode_flags, encode_flags
from codec.entropy.static import StaticHuffmanCoder, StaticRangeCoder
from codec.errors import BadInput, BadStream
from codec.image.base import ImageCodec, Job
from codec.image.container import STRIDE, ImageFile, Payload
from codec.image.ganz_search import COUNT, NUMBER, SGD_STEPS, TileLatents, search_tile
from codec.image.pictures import Picture
from codec.image.presets import ImagePreset
from codec.image.settings import PLACES, Places
from codec.image.tiling import cut_squares, join_squares, padded_planes, picture_of
from codec.packet import Entropy
from codec.search.methods import DESCENTS, Method

if TYPE_CHECKING:
    from models.folder import FirstLayer, GanzModel

SIDE = 128  # side of a tile in pixels
PIXELS = 3 * SIDE * SIDE  # N
MAX_TILES = 1024
RATIOS = (6.0, 768.0)
DEFAULT_RATIO = 10.0
_SCALE = struct.Struct(">e")
_LARGEST = 1e4  # largest magnitude of a latent; typical ones are about 1
_TYPICAL = 0.6  # size of coded places relative to that of equally likely ones
_LEAST = int(PIXELS / RATIOS[1])  # fewest numbers per tile
_CORRECTIONS = 6
# A search changes the size of the coded latents by a smaller share than this.
_SEARCHED_SIZE = 0.01


class GanzCodec(ImageCodec):
    """The preset with its generator loaded.

    The ratio is N over the count of numbers per tile, 6 to 768, whatever their form: each latent is
    one number, and so are each 32 bits of places.
    """

    model: GanzModel
    tile = SIDE // STRIDE
    has_places = True
    methods = DESCENTS

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.folder import load_ganz_model

        super().__init__(preset, device)
        self.model = load_ganz_model(preset.model).to(device)
        self.form = TileForm(self.model, device)
        self._fixed_layer = functools.lru_cache(maxsize=32)(self.model.first_layer)

    def layer(
        self, latents: int, places: Places = "fixed", flags: NDArray[np.uint8] | None = None
    ) -> FirstLayer:
        """The first layer for a number of latents; flags: the chosen entries of h0."""
        if flags is None:
            return self._fixed_layer(latents, places)
        return self.model.first_layer(latents, places, flags)

    def encode_job(self, job: Job) -> bytes:
        if job.settings.quality is not None:
            raise BadInput(f"preset {self.preset.name} takes a ratio or bits per pixel, no quality")
        if job.settings.tune != "psnr":
            raise BadInput(f"preset {self.preset.name} minimises squared error only")
        return _Encoder(self, job).run()

    def decode_payloads(self, file: ImageFile) -> Picture:
        header = file.header
        if header.tile != self.tile or len(file.payloads) > MAX_TILES:
            raise BadStream(
                f"preset {self.preset.name} has up to {MAX_TILES} tiles of {SIDE} pixels"
            )
        notes: list[str] = []
        tiles: list[Tensor | None] = []
        for payload in file.payloads:
            tile = None
            if payload is not None and payload.whole:
                try:
                    tile = self._draw(self.form.latents_of(payload))
                except BadStream as error:
                    notes.append(str(error))
            tiles.append(tile)
        return picture_of(file, join_tiles(tiles, -(-header.width // SIDE)), notes)

    @torch.no_grad()
    def _draw(self, tile: TileLatents) -> Tensor:
        """A tile's pixels [3, 128, 128] in [0, 1]."""
        h = self.layer(tile.z.shape[1], tile.places, tile.flags)(tile.z)
        y: Tensor = self.model.generator.body(h)
        return y[0].clamp(0.0, 1.0)


def cut_tiles(rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Cut a picture [H, W, 3], padded by mirroring, into tiles [T, 3, 128, 128] in [0, 1].

    Also returns a mask of the pixels that are not padding, [T, 1, 128, 128]. In raster order.
    """
    planes = padded_planes(rgb, SIDE)
    own = torch.zeros_like(planes[:, :1])
    own[:, :, : rgb.shape[0], : rgb.shape[1]] = 1.0
    return cut_squares(planes, SIDE), cut_squares(own, SIDE)


def join_tiles(tiles: list[Tensor | None], columns: int) -> Tensor:
    """Tiles [3, 128, 128] in raster order as one picture [1, 3, H, W].

    Lost tiles get the mean colour of the nearest known one. Raises BadStream if all are lost.
    """
    known = {divmod(k, columns): tile for k, tile in enumerate(tiles) if tile is not None}
    if not known:
        raise BadStream("nothing of the picture is left")

    def filled(number: int) -> Tensor:
        row, column = divmod(number, columns)
        near = min(known, key=lambda at: (at[0] - row) ** 2 + (at[1] - column) ** 2)
        return known[near].mean((1, 2), keepdim=True).expand(-1, SIDE, SIDE)

    whole = [filled(k) if tile is None else tile for k, tile in enumerate(tiles)]
    return join_squares(torch.stack(whole), columns)


class _Encoder:
    """Encodes one picture."""

    def __init__(self, codec: GanzCodec, job: Job) -> None:
        self.codec, self.job = codec, job
        self._begun = job.clock()
        picture, settings = job.picture, job.settings
        count = len(job.header.tiles())
        if count > MAX_TILES:
            raise BadInput(
                f"a picture of {picture.width}x{picture.height} pixels has {count} tiles; "
                f"preset {codec.preset.name} takes at most {MAX_TILES}"
            )
        self.tiles, self.own = (part.to(codec.device) for part in cut_tiles(picture.rgb))
        self.kind = None if settings.entropy is None else Entropy[settings.entropy.upper()]
        self.places: Places = settings.places or "chosen"
        self.method: Method = settings.method or "lbfgs"
        most, only = codec.form.most, codec.form.only_count(self.places)
        if only is not None and only > most:
            raise BadInput(f"this model has no form of {only} latents: {most} at most")
        self.least, self.most = (_LEAST, most) if only is None else (only, only)
        self.allowed = None if settings.bpp is None else settings.allowed_bytes(picture)

    def run(self) -> bytes:
        """Encode; the file's bytes."""
        count, steps = self._count(), self.job.steps
        if self.method == "sgd" and self.job.settings.iterations is None:
            steps *= SGD_STEPS
        if self.allowed is None or self.kind is None:
            data, cost = self._encoded(count, steps, (0.0, 1.0))
        else:
            data, cost = self._fitted(count, steps, self.allowed)
        self.job.report(1.0, cost, steps)
        return data

    def _fitted(self, count: int, steps: int, allowed: int) -> tuple[bytes, float | None]:
        """`_encoded` with as many numbers as fit, since coded latents can exceed their estimate."""
        if self.job.settings.budget is not None:
            # The budget covers one search: find how many numbers fit without searching.
            for _ in range(_CORRECTIONS):
                size = len(self._encoded(count, 0, None)[0])
                if size <= (1.0 - _SEARCHED_SIZE) * allowed or count == self.least:
                    break
                count = self._fewer(count, size, allowed)
        for attempt in range(_CORRECTIONS):
            # Another search may have to follow, and progress must not run backwards.
            left = 0.1**attempt
            data, cost = self._encoded(count, steps, (1.0 - left, 1.0 - 0.1 * left))
            if len(data) <= allowed:
                return data, cost
            if count == self.least:
                break
            count = self._fewer(count, len(data), allowed)
        raise BadInput(f"the picture does not fit in {allowed} bytes")

    def _count(self) -> int:
        """Numbers per tile at the requested rate. Raises BadInput if it is out of range."""
        preset, settings = self.codec.preset.name, self.job.settings
        most = self.most
        if self.allowed is None:
            if self.least == most and settings.ratio is None:
                return most
            ratio = DEFAULT_RATIO if settings.ratio is None else settings.ratio
            if not RATIOS[0] <= ratio <= RATIOS[1]:
                raise BadInput(
                    f"ratio {ratio:g} is not between {RATIOS[0]:g} and {RATIOS[1]:g}, the range of "
                    f"preset {preset}"
                )
            count = int(PIXELS / ratio)
            if self.least == most != count:
                raise BadInput(
                    f"with places {self.places} a tile has {most} latents, a ratio of "
                    f"{PIXELS / most:g}, and no other"
                )
            return min(count, most)
        smallest = self._expected_size(self.least)
        if smallest > self.allowed:
            bpp = 8 * smallest / (self.job.header.width * self.job.header.height)
            raise BadInput(
                f"preset {preset} takes at least {smallest} bytes here ({bpp:.3f} bits per pixel), "
                f"but only {self.allowed} are allowed"
            )
        least = self.least
        while least < most:
            middle = (least + most + 1) // 2
            if self._expected_size(middle) <= self.allowed:
                least = middle
            else:
                most = middle - 1
        return least

    def _expected_size(self, count: int) -> int:
        """Expected bytes of the file with `count` numbers per tile; an upper bound for floats."""
        size = self.codec.form.expected_size(count, self.kind is not None, self.places)
        return len(self._file([bytes(size)] * len(self.tiles)))

    def _file(self, payloads: list[bytes]) -> bytes:
        form = form_number(self.places, self.kind is not None)
        return self.job.file(form, payloads, self.kind or Entropy.RANGE)

    def _fewer(self, count: int, size: int, allowed: int) -> int:
        """The count to try next if `count` numbers took `size` bytes."""
        return max(int(count * min(allowed / size, 0.99)), self.least)

    def _encoded(
        self, count: int, steps: int, span: tuple[float, float] | None
    ) -> tuple[bytes, float | None]:
        """The file with `count` numbers per tile, and the last tile's cost over its initial cost.

        span: the part of the whole progress, in [0, 1], that this covers (None: no reports).
        """
        job, budget, total = self.job, self.job.settings.budget, len(self.tiles)
        payloads, cost = [], None
        for number in range(total):
            until = None
            if budget is not None:
                left = budget - (job.clock() - self._begun)
                until = job.clock() + left / (total - number)

            def expired(until: float | None = until) -> bool:
                return until is not None and job.clock() >= until

            def report(done: int, share: float, number: int = number) -> None:
                if span is not None:
                    part = done / steps if budget is None else 0.0
                    whole = span[0] + (span[1] - span[0]) * (number + part) / total
                    job.report(whole, share, done)

            one = slice(number, number + 1)
            tile, found = search_tile(
                self.codec.model, self.codec.layer, self.tiles[one], self.own[one], count, steps,
                places=self.places, method=self.method, expired=expired, report=report,
            )  # fmt: skip
            cost = found.cost / max(found.start_cost, 1e-12)
            payloads.append(self.codec.form.payload_of(tile, self.kind, self.places))
        return self._file(payloads), cost


def form_number(places: Places, coded: bool) -> int:
    """A packet's quality field: twice the number of the places, and one if latents are coded."""
    return 2 * PLACES.index(places) + coded


class TileForm:
    """Converts tiles to payloads and back, for one model.

    A payload, big-endian: the number of latents in two bytes; if they are coded, their root mean
    square as a half-precision number; if their places may be chosen, the length of the places in
    two bytes (0: they are fixed) and the places (`encode_flags`); then the latents, as 32-bit
    floats or as the entropy coder's bytes. most: latents of any tile.
    """

    def __init__(self, model: GanzModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self.most = model.generator.shape.most_latents
        self.entries = model.generator.shape.entries

    def only_count(self, places: Places) -> int | None:
        """The number of latents where the first layer has only one; None where any will do."""
        shape = self.model.generator.shape
        return {"keep": shape.latents, "none": shape.features}.get(places)

    def payload_of(self, tile: TileLatents, kind: Entropy | None, places: Places) -> bytes:
        """A tile's bytes; kind: the coder, None for 32-bit floats."""
        values = tile.z[0].detach().cpu().numpy()
        out = COUNT.pack(len(values))
        scale = self.scale_of(values)
        if kind is not None:
            out += _SCALE.pack(scale)
        if places == "chosen":
            flags = b"" if tile.flags is None else encode_flags(tile.flags)
            out += COUNT.pack(len(flags)) + flags
        if kind is None:
            return out + values.astype(">f4").tobytes()
        indices = self.model.quantiser.index(tile.z.detach() / scale)[0].cpu().numpy()
        return out + self._coder(kind, len(values)).encode(indices[None].astype(np.int8), 0)

    @staticmethod
    def scale_of(values: NDArray[np.float32]) -> float:
        """The root mean square of latents, rounded to a half-precision number."""
        size = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        return float(np.float16(min(max(size, 1e-3), 1e3)))

    def latents_of(self, payload: Payload) -> TileLatents:
        """Inverse of `payload_of`. Raises BadStream for bytes that it does not write."""
        data, coded = payload.data, bool(payload.quality % 2)
        if not 0 <= payload.quality < 2 * len(PLACES):
            raise BadStream("a tile has an unknown form")
        places = PLACES[payload.quality // 2]
        count, at = int(self._take(COUNT, data, 0)), COUNT.size
        if not 1 <= count <= self.most or self.only_count(places) not in (None, count):
            raise BadStream(f"a tile cannot have {count} latents")
        scale = 1.0
        if coded:
            scale, at = self._take(_SCALE, data, at), at + _SCALE.size
            if not (np.isfinite(scale) and 0.0 < scale <= _LARGEST):
                raise BadStream("a tile's latents are out of range")
        flags = None
        if places == "chosen":
            length, at = int(self._take(COUNT, data, at)), at + COUNT.size
            if length:
                flags = decode_flags(data[at : at + length], self.entries)
                if int(flags.sum()) != count:
                    raise BadStream("a tile's numbers of places and latents differ")
            at += length
        rest = data[at:]
        if not coded:
            return TileLatents(self._floats(rest, count), flags, places)
        indices = self._coder(payload.entropy, count).decode(rest, 0)
        levels = torch.from_numpy(indices.astype(np.int64)).to(self.device)
        return TileLatents(scale * self.model.quantiser.value(levels), flags, places)

    @staticmethod
    def _take(field: struct.Struct, data: bytes, at: int) -> float:
        if len(data) < at + field.size:
            raise BadStream("a tile is too short")
        return float(field.unpack_from(data, at)[0])

    def _floats(self, data: bytes, count: int) -> Tensor:
        if len(data) != NUMBER * count:
            raise BadStream("a tile's size does not match its number of latents")
        values = np.frombuffer(data, ">f4").astype(np.float32)
        if not (np.isfinite(values).all() and np.abs(values).max() <= _LARGEST):
            raise BadStream("a tile's latents are out of range")
        return torch.from_numpy(values)[None].to(self.device)

    def expected_size(self, numbers: int, coded: bool, places: Places) -> int:
        """Expected bytes of a payload with `numbers` numbers; an upper bound for floats."""
        if not coded:
            return COUNT.size + NUMBER * numbers + (COUNT.size if places == "chosen" else 0)
        size, kept = COUNT.size + _SCALE.size, float(numbers)
        if places == "chosen":
            share = min(max(numbers / self.entries, 1e-6), 1.0 - 1e-6)
            entropy = -share * np.log2(share) - (1.0 - share) * np.log2(1.0 - share)
            flags = _TYPICAL * self.entries * entropy / 8
            size += COUNT.size + int(flags)
            kept = max(kept - flags / NUMBER, 1.0)
        counts = self.model.counts
        shares = counts.counts / counts.counts.sum()
        return size + int(kept * float((shares * counts.bits()).sum()) / 8) + 2

    def _coder(self, kind: Entropy, count: int) -> StaticHuffmanCoder | StaticRangeCoder:
        made = StaticHuffmanCoder if kind is Entropy.HUFFMAN else StaticRangeCoder
        return made(self.model.counts, 1, count)
