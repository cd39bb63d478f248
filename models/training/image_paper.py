"""Training of the image preset `paper`: two stages (`models.training.paper`) on crops.

In stage one even levels stand in for the quantiser. What latents cost by running tables of quads
(`models.training.quad_rate`) is part of the loss, at a price of a bit that is steered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.quads import QuadCounts
from codec.entropy.quantiser import Quantiser, fit_priced_centres
from codec.image.container import STRIDE, Area
from codec.image.paper import priced, search_settings, window_task
from codec.image.tiling import frames_of, map_of
from codec.search.engine import search
from models.folder import load_photo_model, model_folder
from models.networks.image_distance import PaperDistance, ms_ssim
from models.networks.paper import StaticModel
from models.networks.photo_paper import (
    PaperImageEncoder,
    PaperImageGenerator,
    PaperImageModel,
    PaperImageShape,
    take_photo_networks,
)
from models.training.export import IMAGE_LICENCE
from models.training.linear_start import start_paper_image
from models.training.loop import Run
from models.training.paper import Pair, TwoStageSettings, TwoStageTask
from models.training.photographs import Photographs, StoredPhotographs
from models.training.quad_rate import Code, QuadRate, bits_of, coded, quads_of, whole_counts

_COUNTED = 50  # batches that the table is counted on when stage two begins
_AT_ONCE = 8
# Even levels one apart are the best for this price of a bit, in squared steps: the slope of
# their error, 1/12, where a bit halves the step.
_EVEN_PRICE = math.log(2.0) / 6.0
# How the price is found at which the search takes as many bits as are wanted.
_PRICE_ROUNDS, _PRICE_BATCHES, _PRICE_POWER = 4, 3, 2.5
# Of the running counts, batches that are counted with those of searched crops.
_RUNNING = 25


@dataclass(frozen=True)
class PaperImageSettings(TwoStageSettings):
    """The settings for crops of photographs.

    start: the model of preset `photo` whose networks it begins from; None: the lapped transform;
    bpp: bits per pixel that the latents may take; price: of a bit, at first.
    """

    batch: int = 4
    rate: float = 3e-4
    adversary: float = 0.002
    adversary_from: float = 0.7
    search_every: int = 20
    searched: int = 2
    search_steps: int = 8
    pool: int = 128
    start_frames: int = 96
    table_batches: int = 24
    table_steps: int = 16
    shape: PaperImageShape = field(default_factory=PaperImageShape)
    start: Path | None = Path("photo")
    bpp: float = 0.287
    price: float = 6e-3


class PaperImageTask(TwoStageTask):
    """Square crops of photographs [N, 3, side, side]."""

    name = "image-paper"
    settings: PaperImageSettings
    model_type = PaperImageModel
    encoder_type, generator_type = PaperImageEncoder, PaperImageGenerator
    linear_start = staticmethod(start_paper_image)
    planes = 3
    licence = IMAGE_LICENCE
    rates: ClassVar[dict[str, float]] = {"basis": 0.05, "log_gain": 3.0}
    decay = 1e-3

    def __init__(
        self, photographs: Photographs, settings: PaperImageSettings, run: Run, device: torch.device
    ) -> None:
        super().__init__(settings, PaperDistance(), run, device)
        on_cpu = device.type == "cpu"
        self.photographs = photographs if on_cpu else StoredPhotographs(photographs, device)
        self._held_out = photographs.held_out()
        self._cells = photographs.crop // STRIDE
        self.scale = self._cells**2
        levels, reach = self.shape.levels, self.shape.reach
        self._even = Quantiser(even_levels(levels, reach)).to(device)
        target = settings.bpp * STRIDE**2
        self.rate = QuadRate(levels, self._even.zero_level, target, settings.price).to(device)
        self.modules["rate"] = self.rate
        self._found_price: float | None = None

    def pair(self) -> Pair:
        networks = super().pair()
        networks.encoder.gains = networks.generator.gains
        return networks

    def start(self) -> None:
        """Start from the networks of `photo`, or from the linear codec."""
        model = self.settings.start
        if model is None:
            super().start()
            return
        photo = load_photo_model("photo", model_folder(model))

        def take(encoder: PaperImageEncoder, generator: PaperImageGenerator, x: Tensor) -> None:
            take_photo_networks(encoder, generator, photo)

        self.begin(take)

    def signals(self, count: int) -> Tensor:
        """Crops [count, 3, side, side] in [0, 1]."""
        x = self.photographs.batch(count, self.random)
        return x.contiguous(memory_format=torch.channels_last)

    def relaxed(self, z: Tensor) -> Tensor:
        # Most latents are zero: with noise one step wide there would be no telling which are not.
        return z + (self._even(z) - z).detach()

    def rate_term(self, z: Tensor) -> Tensor:
        quantiser = self.quantiser or self._even
        z = z.float()
        self.rate.count(quantiser.index(z))
        return self.rate.price.float() * self.rate.bits(z, quantiser).mean()

    def fitted(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        return fit_priced_centres(latents, self._even.centres.cpu().numpy(), _EVEN_PRICE)

    def begin_second_stage(self) -> None:
        super().begin_second_stage()
        assert self.quantiser is not None
        self.rate.forget(self.quantiser.zero_level)
        none = torch.zeros(self.settings.batch, device=self.device)
        with torch.no_grad():
            for _ in range(_COUNTED):
                z = self.average.encoder(self._batch(self.settings.batch), none)
                self.rate.count(self.quantiser.index(z), steer=False)

    def first_counts(self) -> QuadCounts:
        return self.rate.counts

    def model(self, counts: Any = None) -> StaticModel:
        model = cast(PaperImageModel, super().model(counts))
        model.price = self._found_price or float(self.rate.price)
        return model

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Searched latents [N, C, h, w] and costs per cell [N]."""
        own = cast(PaperImageModel, model)
        whole = Area(0, 0, self._cells, self._cells)
        held = x.new_zeros(1, self.shape.channels, self._cells, self._cells)
        problem = priced(own, window_task(own, whole, held, x), "psnr", x)
        with torch.no_grad():
            start = frames_of(own.encoder(x, problem.rate))
        found = search(problem, search_settings(own.penalty, iterations), start=start)
        return map_of(found.indices, whole), found.cost / self.scale

    def counts(self) -> QuadCounts:
        """Counts of quads of training crops that are searched as in the codec."""
        s, model = self.settings, cast(PaperImageModel, self.model())
        batches = [self._batch(s.batch) for _ in range(s.table_batches)]
        code = coded(self.rate.counts)
        for _ in range(_PRICE_ROUNDS):
            quads = self._searched(model, batches[:_PRICE_BATCHES])
            model.price *= (self._bpp(quads, code) / s.bpp) ** _PRICE_POWER
        self._found_price = model.price
        quads = self._searched(model, batches)
        # With those of the encoder's latents in the last steps, of which there are more.
        last = [_RUNNING * part.cpu().numpy() for part in (self.rate.quads, self.rate.pairs)]
        found = [new + old for new, old in zip(code[0].counted(quads), last, strict=True)]
        counts = whole_counts(found[0], found[1], model.quantiser.zero_level)
        bpp = self._bpp(quads, coded(counts))
        self.run.note(f"searched crops take {bpp:.4f} bits per pixel at a price of {model.price:g}")
        return counts

    def _searched(self, model: PaperImageModel, batches: list[Tensor]) -> NDArray[np.int64]:
        """Quads [N, QUAD] of crops that are searched as in the codec."""
        steps, parts = self.settings.table_steps, []
        for x in batches:
            latents, _ = self.search(model, x, steps, check_every=20)
            parts.append(quads_of(model.quantiser.index(latents)))
        return np.concatenate(parts)

    def _bpp(self, quads: NDArray[np.int64], code: Code) -> float:
        """Bits per pixel that quads take."""
        cells = quads.size / self.shape.channels
        return bits_of(code[0].counted(quads), code) / cells / STRIDE**2

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Bits per pixel, PSNR and MS-SSIM of held-out crops by the averages, without search."""
        if not len(self._held_out) or not self.rate.quads.any():
            return {}
        quantiser, code = self.quantiser or self._even, coded(self.rate.counts)
        bpp, psnr, similarity = [], [], []
        for part in self._held_out.split(_AT_ONCE):
            x = part.to(self.device, memory_format=torch.channels_last)
            none = x.new_zeros(len(x))
            with self.autocast():
                z = quantiser(self.average.encoder(x, none).float())
                y = self.average.generator(z, none).clamp(0.0, 1.0)
            bpp.append(self._bpp(quads_of(quantiser.index(z)), code))
            psnr.append(-10.0 * torch.log10((x - y).square().mean((1, 2, 3))))
            similarity.append(ms_ssim(x, y))
        return {
            "held_out_bpp": sum(bpp) / len(bpp),
            "held_out_psnr": float(torch.cat(psnr).mean()),
            "held_out_ms_ssim": float(torch.cat(similarity).mean()),
        }


def even_levels(levels: int, reach: float) -> NDArray[np.float32]:
    """Levels one apart around zero and, beyond two fifths of them, evenly spread to ±reach."""
    half = levels // 2
    near = min(int(0.4 * half), int(reach))
    above = np.concatenate((np.arange(1, near + 1), np.linspace(near, reach, half - near + 1)[1:]))
    centres = np.concatenate((-above[::-1], [0.0], above))
    # An even number of levels has one less below zero.
    return centres[len(centres) - levels :].astype(np.float32)
