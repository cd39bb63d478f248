"""The first paper's image system: preset `paper`.

Few latents of 64 levels shared by all of them, ADMM search from the encoder's output for the lowest
F = L_MS-SSIM + α·MSE and bits, Huffman coding with one static table (Liu et al. 2020). It has one
rate. `docs/image.md` lists the differences from the paper.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.latent_coder import LatentCoder
from codec.entropy.static import StaticHuffmanCoder, StaticRangeCoder
from codec.errors import BadInput
from codec.image.base import ImageCodec, Job
from codec.image.container import Area, ImageFile, Payload
from codec.image.pictures import Picture
from codec.image.presets import ImagePreset, Tune
from codec.image.tiling import (
    WindowTask,
    areas,
    decode_map,
    encode_map,
    fill_lost,
    frames_of,
    map_of,
    padded_planes,
    picture_of,
    read_tiles,
)
from codec.packet import Entropy
from codec.search.engine import search
from codec.search.methods import OF_ANY_LATENTS, Method
from codec.search.problem import Problem, SearchSettings

if TYPE_CHECKING:
    from models.folder import PaperImageModel

SEARCH_WINDOW = 64  # largest side of a search window, in cells
STEP = 0.1  # first step size of the search, in levels


class PaperCodec(ImageCodec):
    """The preset with its networks loaded."""

    model: PaperImageModel
    tile = 8  # cells a side; a damaged packet costs one tile
    methods = OF_ANY_LATENTS

    def __init__(self, preset: ImagePreset, device: torch.device) -> None:
        from models.folder import load_photo_paper_model

        super().__init__(preset, device)
        self.model = load_photo_paper_model(preset.model).to(device)
        # A picture has few sizes of tiles.
        self._coder_of = functools.lru_cache(maxsize=64)(self._new_coder)

    def encode_job(self, job: Job) -> bytes:
        settings = job.settings
        if settings.quality is not None:
            raise BadInput(f"preset {self.preset.name} has one rate and takes no quality")
        kind = Entropy.HUFFMAN if settings.entropy in (None, "huffman") else Entropy.RANGE
        asked = settings.bpp is not None or settings.ratio is not None
        allowed = settings.allowed_bytes(job.picture) if asked else None
        if allowed is not None:
            # With the shortest codes: refuse what cannot fit before the search.
            least = np.full((*job.header.cells, self._channels), self.model.counts.rest, np.int8)
            self._check(self._file(job, least, kind), job, allowed, "at least ")
        latents = self._search(job)
        data = self._file(job, self.model.indices_of(latents[0].permute(1, 2, 0)), kind)
        if allowed is not None:
            self._check(data, job, allowed)
        return data

    def decode_payloads(self, file: ImageFile) -> Picture:
        def decode(tile: Area, payload: Payload) -> tuple[NDArray[np.int8], int]:
            frame = self._coder(payload.entropy, tile).decode(payload.data, 0)
            return frame.reshape(*tile.shape, -1), len(frame)

        indices, known, notes = read_tiles(file, self._channels, lambda p: p.whole, decode)
        z = self.model.latents_of(indices.astype(np.int8)).permute(2, 0, 1)[None].contiguous()
        fill_lost(z, known, self.model.generator.smoothed)
        return picture_of(file, decode_map(self.model.generator, z, 0.0), notes)

    @property
    def _channels(self) -> int:
        return self.model.encoder.shape.channels

    def _file(self, job: Job, indices: NDArray[np.int8], kind: Entropy) -> bytes:
        """Code indices [rows, columns, C] as a file."""
        payloads = [
            self._coder(kind, tile).encode(tile.cells_of(indices).reshape(-1, self._channels), 0)
            for tile in job.header.tiles()
        ]
        return job.file(0, payloads, kind)

    def _check(self, data: bytes, job: Job, allowed: int, about: str = "") -> None:
        """Raise BadInput if `data` has more bytes than allowed."""
        if len(data) > allowed:
            bpp = 8 * len(data) / (job.header.width * job.header.height)
            raise BadInput(
                f"preset {self.preset.name} has one rate: this picture takes {about}{len(data)} "
                f"bytes ({bpp:.3f} bits per pixel), but only {allowed} are allowed"
            )

    def _coder(self, kind: Entropy, tile: Area) -> LatentCoder:
        rows, columns = tile.shape
        return self._coder_of(kind, rows * columns)

    def _new_coder(self, kind: Entropy, cells: int) -> LatentCoder:
        made = StaticHuffmanCoder if kind is Entropy.HUFFMAN else StaticRangeCoder
        return made(self.model.counts, cells, self._channels)

    def _search(self, job: Job) -> Tensor:
        """Quantised latents [1, C, rows, columns], searched window by window."""
        x = padded_planes(job.picture.rgb).to(self.device)
        z = encode_map(self.model.encoder, x, 0.0)
        latents = self.model.quantise(z)
        windows = list(areas(*job.header.cells, SEARCH_WINDOW)) if job.steps else []
        begun, seconds, cost = job.clock(), job.settings.budget, None
        for number, window in enumerate(windows):
            budget = None
            if seconds is not None:
                left = seconds - (job.clock() - begun)
                budget = max(left, 0.0) / (len(windows) - number)

            def report(share: float, now: float, steps: int, number: int = number) -> None:
                nonlocal cost
                cost = now
                job.report((number + share) / len(windows), cost, steps)

            task = window_task(self.model, window, latents, x)
            found = search(
                priced(self.model, task, job.settings.tune),
                search_settings(
                    self.model.penalty, job.steps, budget, job.settings.method or "admm"
                ),
                start=frames_of(window.of(z)), clock=job.clock, report=report,
            )  # fmt: skip
            window.of(latents)[:] = map_of(found.indices, window)
        job.report(1.0, cost, job.steps)
        return latents


def search_settings(
    penalty: float, iterations: int, budget: float | None = None, method: Method = "admm"
) -> SearchSettings:
    """With the penalty for ADMM that the model was trained at."""
    return SearchSettings(
        method, iterations, budget=budget, step=STEP, penalty=penalty,
        check_every=max(min(iterations // 4, 10), 1),
    )  # fmt: skip


def priced(
    model: PaperImageModel, task: WindowTask, tune: Tune, x: Tensor | None = None
) -> Problem:
    """The search problem of a window; x: targets [B, 3, H, W] in place of its own."""
    x = task.target if x is None else x
    distance, none = model.picture_distance(tune), x.new_zeros(len(x))
    weight = torch.full_like(none, model.price_for(distance.alpha))
    return Problem(task.networks, distance, x, none, weight)


def window_task(model: PaperImageModel, window: Area, latents: Tensor, x: Tensor) -> WindowTask:
    """The search task of a window. latents: those of the whole picture, [1, C, rows, columns];
    x: the picture's padded planes, all of which count."""
    size = x.shape[2], x.shape[3]
    return WindowTask(
        window, latents, x, size, model.generator, model.prior, model.quantise, model.reach
    )
