"""The image codec: pixels to `.stim` files and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BadInput, BadStream, WrongModel
from codec.image.container import (
    FILE_HEADER_BYTES,
    ImageFile,
    ImageHeader,
    Payload,
    Tile,
    read_header,
    read_image,
    write_image,
)
from codec.image.context import QUALITIES, QUALITY_STEPS
from codec.image.maps import decode_map, encode_map
from codec.image.pictures import Picture, from_array, from_image, pack_alpha
from codec.image.planes import padded_planes, picture_of
from codec.image.presets import DEFAULT_IMAGE_PRESET, ImagePreset
from codec.image.registry import PictureCodec, codec_for_header, load_image_codec
from codec.image.windows import Window, WindowTask, cut_windows, round_latents, tile_bits
from codec.search import Descent, Distance, SearchSettings

if TYPE_CHECKING:
    from PIL import Image

    from models.image.distance import Tune

DEFAULT_BPP = 0.29
SEARCH_WINDOW = 64  # cells a searched window is wide and high at most
TILE = 32  # cells a tile is wide and high at most
# The search spends fewer bits than the rounded latents of the encoder at the same rate point; it
# starts from a finer one by this factor.
_SEARCH_SAVES = 0.8
_SAMPLED_WINDOWS = 6
_MAX_CUTS = 6
_CORRECTIONS = 2  # of the rate point after the main search
_AIM = 0.997  # of the allowance
_PROBE_AIM = 1.04
_LOG_BITS_PER_QUALITY = 0.016  # how much more the next quality takes, about


@dataclass(frozen=True)
class EncodeSettings:
    """How a picture is encoded.

    At most one of bpp (bits per pixel of the whole file), ratio (of 24-bit, or 8-bit grey, pixels
    to the file) and quality (0 to 100: a rate point, whatever it takes); by default 0.29 bpp.
    budget: seconds for the search; fast: few steps; search: False takes the encoder's output;
    entropy: the coder, where a preset has more than one (`paper`: huffman or range).
    """

    bpp: float | None = None
    ratio: float | None = None
    quality: float | None = None
    iterations: int | None = None
    budget: float | None = None
    fast: bool = False
    search: bool = True
    tune: Tune = "psnr"
    entropy: Literal["huffman", "range"] | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.bpp, self.ratio, self.quality)) > 1:
            raise BadInput("give one of bpp, ratio and quality")
        for name in ("bpp", "ratio", "budget"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise BadInput(f"{name} {value} is not above 0")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise BadInput(f"quality {self.quality} is not between 0 and 100")
        if self.iterations is not None and self.iterations < 0:
            raise BadInput("iterations must not be negative")
        if self.tune not in ("psnr", "ms-ssim", "visual"):
            raise BadInput(f"unknown tune {self.tune!r} (psnr, ms-ssim or visual)")
        if self.entropy not in (None, "huffman", "range"):
            raise BadInput(f"unknown entropy coder {self.entropy!r} (huffman or range)")

    def allowed_bytes(self, picture: Picture) -> int | None:
        """The most bytes that the file may have; None for a quality."""
        if self.quality is not None:
            return None
        bpp = self.bpp if self.bpp is not None else DEFAULT_BPP
        if self.ratio is not None:
            bpp = (8.0 if picture.grey else 24.0) / self.ratio
        return int(bpp * picture.width * picture.height / 8.0)


@dataclass(frozen=True)
class Progress:
    """Where an encoding is: share done in [0, 1], and the search's relative cost so far."""

    share: float
    cost: float | None
    steps: int


@dataclass
class _Coded:
    """Latents of the whole picture at one quality, and what they take."""

    quality: int
    latents: Tensor  # [1, C, rows, columns] whole numbers
    payloads: list[bytes]
    size: int  # of the file


class ImageCodec:
    """One preset with its networks loaded."""

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.image.store import load_image_model

        self.settings = preset
        self.preset = preset.name
        self.device = device
        model = load_image_model(preset.family)
        self.networks = model.networks.to(device)
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.coder = model.coder
        self.model_id = model.model_id

    @classmethod
    def load(cls, preset: str = DEFAULT_IMAGE_PRESET, device: str = "auto") -> PictureCodec:
        """The codec of a preset, which may be of another class with the same methods.

        Raises BadInput for an unknown preset or device, or a broken model.
        """
        return load_image_codec(preset, device)

    @classmethod
    def for_file(cls, data: bytes, device: str = "auto") -> PictureCodec:
        """The codec that made a file. Raises BadStream if the file is none or unknown here."""
        return codec_for_header(read_header(data), device)

    def encode(
        self,
        picture: Picture | Image.Image | NDArray[np.uint8],
        settings: EncodeSettings | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> bytes:
        """A picture (Pillow image or uint8 array [H, W], [H, W, 3] or [H, W, 4]) to a file.

        Raises BadInput when the picture cannot be coded, or not in so few bytes.
        """
        if isinstance(picture, np.ndarray):
            picture = from_array(picture)
        elif not isinstance(picture, Picture):
            picture = from_image(picture)
        settings = settings or EncodeSettings()
        if settings.entropy == "huffman":
            raise BadInput(f"preset {self.preset} has no Huffman codes, only the range coder")
        encoder = _Encoder(self, picture, settings, progress, clock)
        return encoder.run()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A file to pixels [H, W, 3], or [H, W, 4] if it has an alpha plane.

        Raises BadStream or WrongModel. Damaged tiles are filled with what is around them.
        """
        picture = self.decode_file(read_image(data))
        if picture.alpha is None:
            return picture.rgb
        return np.concatenate((picture.rgb, picture.alpha[:, :, None]), axis=2)

    def decode_file(self, file: ImageFile) -> Picture:
        """A file that was read to a picture; its notes say what is damaged."""
        header = file.header
        if header.model_id != self.model_id:
            raise WrongModel(
                f"the picture was coded with model {header.model_id}, "
                f"the model at hand is {self.model_id} (preset {self.preset})"
            )
        z, quality, notes = self._latents(file)
        y = decode_map(self.networks.generator, z.to(self.device), quality / QUALITY_STEPS)
        return picture_of(file, y, notes)

    def _latents(self, file: ImageFile) -> tuple[Tensor, int, list[str]]:
        """The map of a file [1, C, rows, columns], its quality, and what was wrong."""
        tiles = file.header.tiles()
        known = [p for p in file.payloads if p is not None]
        if not known:
            raise BadStream("nothing of the picture is left")
        quality = max({p.quality for p in known}, key=[p.quality for p in known].count)
        rows, columns = file.header.cells
        channels = self.coder.model.channels
        q = np.zeros((rows, columns, channels), np.int16)
        have = np.zeros((rows, columns), bool)
        notes: list[str] = []

        def read(tile: Tile, payload: Payload | None) -> None:
            if payload is None or payload.quality != quality:
                return
            try:
                part, cells = self.coder.decode(
                    payload.data, quality, tile.height, tile.width, whole=payload.whole
                )
            except BadStream as error:
                notes.append(str(error))
                return
            place = np.s_[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            q[place] = part
            have[place] = (np.arange(part.shape[0] * part.shape[1]) < cells).reshape(part.shape[:2])

        # The compiled walk lets go of the interpreter: tiles run side by side.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, tiles, file.payloads))
        if not have.all():
            _fill(q, have)
        z = torch.from_numpy(q.astype(np.float32)).permute(2, 0, 1)[None]
        return z, quality, notes


def _fill(q: NDArray[np.int16], have: NDArray[np.bool_]) -> None:
    """Give lost cells the smooth channels of the nearest cells that are known."""
    from scipy.ndimage import distance_transform_edt

    if not have.any():
        return
    nearest = distance_transform_edt(~have, return_distances=False, return_indices=True)
    lost = ~have
    source = q[nearest[0][lost], nearest[1][lost]]
    source[:, _SMOOTH:] = 0
    q[lost] = source


_SMOOTH = 1  # channels that are constant over a cell come first


class _Encoder:
    """One picture on its way to a file."""

    def __init__(
        self,
        codec: ImageCodec,
        picture: Picture,
        settings: EncodeSettings,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.codec, self.settings = codec, settings
        self._report, self._clock = progress, clock
        self._cost: float | None = None  # of the last window, as a share of its start
        self.header = ImageHeader(
            picture.width, picture.height, codec.model_id, codec.settings.number, TILE,
            picture.grey, picture.alpha is not None,
        )  # fmt: skip
        self.alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        self.x = padded_planes(picture, self.header).to(codec.device)
        self.size = picture.height, picture.width
        self.windows = cut_windows(self.header.tiles(), SEARCH_WINDOW)
        self.allowed = settings.allowed_bytes(picture)
        self._half = codec.device.type == "cuda" or bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )

    def run(self) -> bytes:
        """Encode; the file's bytes."""
        iterations = self._iterations()
        if self.allowed is None:
            quality = round((self.settings.quality or 0.0) / 100.0 * (QUALITIES - 1))
        else:
            saved = _SEARCH_SAVES if iterations else 1.0
            quality = self._quality_for(self._tile_bits_allowed() / saved)
        z = self._encoded(quality)
        if iterations:
            coded = self._search(quality, z, iterations)
        else:
            coded = self._code(quality, round_latents(z))
        coded = self._fit(coded)
        if self._report is not None:
            self._report(Progress(1.0, self._cost, iterations))
        return write_image(self.header, coded.quality, coded.payloads, self.alpha)

    def _encoded(self, quality: int) -> Tensor:
        return encode_map(self.codec.networks.encoder, self.x, quality / QUALITY_STEPS)

    def _iterations(self) -> int:
        s, preset = self.settings, self.codec.settings
        if not s.search:
            return 0
        if s.iterations is not None:
            return s.iterations
        if s.budget is not None:
            return 100_000
        return preset.fast if s.fast else preset.iterations

    def _tile_bits_allowed(self) -> float:
        """Bits for the tiles alone, without headers, in the whole picture."""
        if self.allowed is None:
            raise ValueError("a quality has no allowance")
        spent = FILE_HEADER_BYTES + 16 * len(self.header.tiles())
        if self.alpha is not None:
            spent += len(self.alpha) + 16
        return max(8.0 * (self.allowed - spent), 1.0)

    def _quality_for(self, bits: float) -> int:
        """The finest quality whose rounded latents take about this many bits at most."""
        windows = self.windows
        if len(windows) > _SAMPLED_WINDOWS:
            picks = np.linspace(0, len(windows) - 1, _SAMPLED_WINDOWS).astype(int)
            windows = [windows[k] for k in picks]
        cells = sum(w.shape[0] * w.shape[1] for w in windows)
        rows, columns = self.header.cells
        bits *= cells / (rows * columns)
        low, high = 0, QUALITIES - 1
        while low < high:
            middle = (low + high + 1) // 2
            if sum(self._window_bits(w, middle) for w in windows) <= bits:
                low = middle
            else:
                high = middle - 1
        return low

    @torch.no_grad()
    def _window_bits(self, window: Window, quality: int) -> float:
        """Bits of a window's rounded latents by the float prior."""
        rate = quality / QUALITY_STEPS
        z = round_latents(encode_map(self.codec.networks.encoder, self.x, rate, window.area))
        return self._prior_bits(window, z, rate)

    @torch.no_grad()
    def _prior_bits(self, window: Window, q: Tensor, rate: float) -> float:
        with torch.autocast(q.device.type, torch.bfloat16, enabled=self._half):
            bits = tile_bits(self.codec.networks, window.tiles, q, q.new_full((1,), rate), q)
        return float(bits.float().sum())

    def _code(self, quality: int, latents: Tensor) -> _Coded:
        """Entropy-code whole latents."""
        q = latents[0].permute(1, 2, 0).cpu().numpy().astype(np.int16)

        def write(tile: Tile) -> bytes:
            part = q[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            return self.codec.coder.encode(part, quality)

        with ThreadPoolExecutor(2) as pool:
            payloads = list(pool.map(write, self.header.tiles()))
        size = len(write_image(self.header, quality, payloads, self.alpha))
        return _Coded(quality, latents, payloads, size)

    def _search(self, quality: int, z: Tensor, iterations: int) -> _Coded:
        """The quantised latents that the search finds, near the allowance if there is one.

        Every latent of the picture is searched at the same price of a bit; the allowance is met by
        the choice of the rate point, which a short search finds and later ones correct.
        """
        plan = _Plan(iterations, self.settings.budget, self._clock, self.allowed is not None)
        if self.allowed is None:
            return self._code(quality, self._descend(quality, z, plan.main, plan, 0))
        allowed = self._tile_bits_allowed()
        if plan.probe:
            probed = self._code(quality, self._descend(quality, z, plan.probe, plan, 0))
            # The main search will save a little more than the short one did.
            wanted = self._corrected(probed, _PROBE_AIM * allowed)
            if wanted != quality:
                quality, z = wanted, self._encoded(wanted)
        coded = self._code(quality, self._descend(quality, z, plan.main, plan, plan.probe))
        best = coded
        at = plan.probe + plan.main
        for _ in range(_CORRECTIONS):
            wanted = self._corrected(coded, allowed)
            if wanted == coded.quality or not plan.correction:
                break  # near enough, or too few steps to correct anything
            start = coded.latents * (self._gains(wanted) / self._gains(coded.quality))
            coded = self._code(wanted, self._descend(wanted, start, plan.correction, plan, at))
            at += plan.correction
            if self._distance_to(allowed, coded) < self._distance_to(allowed, best):
                best = coded
        return best

    def _distance_to(self, allowed: float, coded: _Coded) -> float:
        """How badly a file misses its allowance: what is above must be cut off, which is worse."""
        excess = 8.0 * sum(map(len, coded.payloads)) / allowed - 1.0
        return 3.0 * excess if excess > 0.0 else -excess

    def _gains(self, quality: int) -> Tensor:
        rate = self.x.new_full((1,), quality / QUALITY_STEPS)
        gains: Tensor = self.codec.networks.generator.gains(rate)
        return gains

    def _corrected(self, coded: _Coded, allowed: float) -> int:
        """The quality at which this search would have met the allowance."""
        excess = np.log(8.0 * sum(map(len, coded.payloads)) / (_AIM * allowed))
        change = round(excess / _LOG_BITS_PER_QUALITY)
        return int(np.clip(coded.quality - change, 0, QUALITIES - 1))

    def _descend(self, quality: int, z: Tensor, iterations: int, plan: _Plan, done: int) -> Tensor:
        """Searched latents of the whole picture, from a map of unrounded ones, window by window."""
        from models.image.distance import ImageDistance

        networks = self.codec.networks
        rate = self.x.new_full((1,), quality / QUALITY_STEPS)
        price = self.codec.settings.price * float(networks.price(rate))
        distance = ImageDistance(self.settings.tune, price)
        latents = round_latents(z)
        total = len(self.windows)
        until = plan.deadline(done, iterations)
        for number, window in enumerate(self.windows):
            now = self._clock()
            limit = None if until is None else now + (until - now) / (total - number)
            task = WindowTask(networks, window, latents, self.x, self.size, self._half)

            def report(share: float, cost: float, steps: int, number: int = number) -> None:
                if self._report is not None:
                    part = (number + min(share, 1.0)) / total
                    whole = (done + part * iterations) / plan.total
                    self._report(Progress(min(whole, 1.0), cost, steps))

            start = window.latents(z)
            found = self._search_window(task, distance, rate, start, iterations, limit, report)
            window.area.of(latents)[:] = window.as_map(found)
        return latents

    def _search_window(
        self,
        task: WindowTask,
        distance: Distance,
        rate: Tensor,
        start: Tensor,
        iterations: int,
        until: float | None,
        report: Callable[[float, float, int], None],
    ) -> Tensor:
        settings = search_settings(iterations)
        descent = Descent(
            task.networks, distance, task.target, rate, torch.ones_like(rate), settings, start
        )
        costs, _ = descent.score()
        first = best_cost = float(costs[0])
        best = descent.candidates[0]
        begun = self._clock()
        done = scored = 0
        while True:
            share = done / iterations
            if until is not None:
                share = max(share, (self._clock() - begun) / max(until - begun, 1e-9))
            ended = share >= 1.0
            if not ended:
                descent.step(settings.step * (1.0 - 0.9 * share))
                done += 1
            if scored < done and (ended or done % settings.check_every == 0):
                costs, _ = descent.score()
                for option, cost in zip(descent.candidates, costs, strict=True):
                    if float(cost) < best_cost:
                        best, best_cost = option, float(cost)
                scored = done
            self._cost = best_cost / max(first, 1e-9)
            report(share, self._cost, done)
            if ended:
                return best

    def _fit(self, coded: _Coded) -> _Coded:
        """Latents whose file is no larger than allowed; raises BadInput if there are none."""
        if self.allowed is None:
            return coded
        for _ in range(_MAX_CUTS):
            if coded.size <= self.allowed:
                return coded
            excess = 1.03 * 8.0 * (coded.size - self.allowed) + 16.0
            coded = self._code(coded.quality, self._cheaper(coded, excess))
        least = self._code(0, torch.zeros_like(coded.latents))
        if least.size > self.allowed:
            raise BadInput(
                f"the picture does not fit in {self.allowed} bytes: headers and an empty picture "
                f"take {least.size}"
            )
        return coded if coded.size <= self.allowed else least

    @torch.no_grad()
    def _cheaper(self, coded: _Coded, excess: float) -> Tensor:
        """The latents with some indices one nearer to zero, to save about this many bits.

        Those that the prior expected least go first: they save the most for the same error.
        """
        networks = self.codec.networks
        rate = self.x.new_full((1,), coded.quality / QUALITY_STEPS)
        latents = coded.latents.clone()
        savings = torch.zeros_like(latents)
        for window in self.windows:
            part = window.area.of(latents)
            now = tile_bits(networks, window.tiles, part, rate, part)
            smaller = part - part.sign()
            then = tile_bits(networks, window.tiles, smaller, rate, part)
            window.area.of(savings)[:] = torch.where(part != 0, now - then, 0.0)
        flat = savings.flatten()
        order = flat.argsort(descending=True)
        total = flat[order].cumsum(0)
        count = int((total < excess).sum()) + 1
        chosen = order[: min(count, int((flat > 0).sum()))]
        values = latents.flatten()
        values[chosen] -= values[chosen].sign()
        return values.reshape(latents.shape)


class _Plan:
    """How many steps each part of a search gets, and by when it must end."""

    def __init__(
        self,
        iterations: int,
        budget: float | None,
        clock: Callable[[], float],
        corrected: bool,
    ) -> None:
        self.probe = self.correction = 0
        if corrected and iterations >= 20:
            self.probe = self.correction = max(iterations // 8, 5)
        elif corrected and iterations >= 6:
            self.probe = 2 * iterations // 5
        self.main = max(iterations - self.probe - _CORRECTIONS * self.correction, 1)
        self.total = self.probe + self.main + _CORRECTIONS * self.correction
        self._begun, self._budget = clock(), budget

    def deadline(self, done: int, iterations: int) -> float | None:
        """When the part that follows `done` steps must end."""
        if self._budget is None:
            return None
        return self._begun + self._budget * (done + iterations) / self.total


def search_settings(iterations: int) -> SearchSettings:
    """Steps long enough to get somewhere in so few iterations."""
    step = min(0.12, max(0.04, 2.0 / max(iterations, 1)))
    return SearchSettings(iterations=iterations, step=step, coupling=5.0, check_every=10)
