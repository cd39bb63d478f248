"""Training of the paper's systems in the two stages of Liu et al. (2020, section 3.1).

Stage one trains an auto-encoder on float latents against a patch discriminator. Something stands in
for the quantiser (the paper does not say what): for speech uniform noise one quantisation step
wide, so that latents use their range, for pictures even levels. K-means then gives the centres.
Stage two retrains the generator on latents that the ADMM search finds, in half of each batch; the
other half passes through the encoder and the quantiser (straight-through gradient), so that the
encoder stays a good start for the search.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.entropy.quads import QuadCounts
from codec.entropy.quantiser import Quantiser, fit_centres, fit_priced_centres
from codec.entropy.static import SymbolCounts, count_symbols
from codec.image.container import STRIDE, Area
from codec.image.paper import priced, search_settings, window_task
from codec.image.tiling import frames_of, map_of
from codec.search.engine import search
from codec.search.problem import Problem, SearchSettings
from models.folder import (
    load_photo_model,
    model_folder,
    new_model_folder,
    save_model,
    search_networks,
)
from models.networks.common import SignalDistance
from models.networks.discriminator import PatchDiscriminator, generator_loss
from models.networks.image_distance import PaperDistance, ms_ssim
from models.networks.paper import StaticModel, channels_last
from models.networks.photo_paper import (
    PaperImageEncoder,
    PaperImageGenerator,
    PaperImageModel,
    PaperImageShape,
    take_photo_networks,
)
from models.networks.speech_distance import FrameDistance
from models.networks.speech_paper import PaperEncoder, PaperGenerator, PaperModel, PaperShape
from models.training.distributed import alone
from models.training.export import IMAGE_LICENCE, SPEECH_LICENCE
from models.training.frames import FrameShards, FrameSource
from models.training.linear_start import start_paper_image, start_paper_speech
from models.training.log import Number
from models.training.loop import (
    LoopSettings,
    Run,
    Task,
    adamw,
    learning_rate,
    parameter_groups,
    train,
)
from models.training.photographs import Photographs, StoredPhotographs
from models.training.quad_rate import Code, QuadRate, bits_of, coded, quads_of, whole_counts

_CENTRE_SAMPLES = 100_000
_CENTRE_BATCHES = 400
_COUNTED = 50  # batches that the table is counted on when stage two begins
_AT_ONCE = 8
# Wider and deeper than the shipped networks, whose sizes are the defaults of the shape.
_SPEECH_SHAPE = PaperShape(
    encoder_widths=(192, 128, 64), encoder_blocks=(3, 2, 1),
    generator_widths=(192, 128, 48), generator_blocks=(3, 2, 1),
)  # fmt: skip
_IMAGE_SHAPE = PaperImageShape()
# Even levels one apart are the best for this price of a bit, in squared steps: the slope of
# their error, 1/12, where a bit halves the step.
_EVEN_PRICE = math.log(2.0) / 6.0
# How the price is found at which the search takes as many bits as are wanted.
_PRICE_ROUNDS, _PRICE_BATCHES, _PRICE_POWER = 4, 3, 2.5
# Of the running counts, batches that are counted with those of searched crops.
_RUNNING = 25


@dataclass(frozen=True)
class PaperSettings(LoopSettings):
    """How a training runs; the defaults are for speech.

    noise: width of stage one's noise, in even steps over the latents' range; first_share: stage
    one's share of the length; adversary_from: share of stage one after which the discriminator is
    used; adversary: its weight relative to F; search_every: steps of stage two between two
    searches; searched: batches of signals in each of them; pool: the most searched signals that are
    kept; start_frames: how many the linear start is fitted on; table_batches, table_steps: searched
    batches that the symbols are counted on, and the length of their search.
    """

    batch: int = 32
    rate: float = 1.5e-3
    noise: float = 1.0
    first_share: float = 0.6
    adversary_from: float = 0.5
    adversary: float = 0.02
    search_every: int = 24
    searched: int = 4
    search_steps: int = 10
    pool: int = 2048
    start_frames: int = 1000
    table_batches: int = 4
    table_steps: int = 40
    shape: Any = _SPEECH_SHAPE


@dataclass(frozen=True)
class PaperImageSettings(PaperSettings):
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
    shape: Any = _IMAGE_SHAPE
    start: Path | None = Path("photo")
    bpp: float = 0.287
    price: float = 6e-3


class Pair(nn.Module):
    """Encoder and generator in one module; both take a rate point and ignore it."""

    def __init__(self, encoder: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator = generator


class TwoStageTask(Task, ABC):
    """Networks, averages and pool (searched latents with their signals) of one training.

    Subclasses name the networks, and draw and search signals [N, ...]. linear_start: sets the
    linear parts of encoder and generator from signals, on the CPU; scale: divisor of F and costs.
    """

    settings: PaperSettings
    average: Pair
    model_type: ClassVar[type[StaticModel]]
    encoder_type: ClassVar[Callable[..., nn.Module]]
    generator_type: ClassVar[Callable[..., nn.Module]]
    linear_start: ClassVar[Callable[..., None]]
    planes: ClassVar[int]
    licence: ClassVar[str]
    # Learning rates relative to the peak: the linear parts start near their optimum.
    rates: ClassVar[dict[str, float]] = {"basis": 0.1}
    decay = 1e-4
    scale = 1

    def __init__(
        self, settings: PaperSettings, distance: SignalDistance, run: Run, device: torch.device
    ) -> None:
        super().__init__(alone(device))
        torch.manual_seed(settings.seed)
        self.settings, self.run, self.shape = settings, run, settings.shape
        self.networks = self.pair()
        self.discriminator = PatchDiscriminator(planes=self.planes).requires_grad_(False)
        self.distance = distance.to(device)
        for module in (self.networks, self.discriminator):
            channels_last(module)
            module.to(device)
        self.average = copy.deepcopy(self.networks).requires_grad_(False)
        self.modules = {
            "networks": self.networks, "average": self.average, "judge": self.discriminator,
        }  # fmt: skip
        self.quantiser: Quantiser | None = None
        self.pool: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.pool)
        self.random = np.random.default_rng(settings.seed)
        self.stage_start = 0
        self.amount = settings.batch
        self._new_optimisers()

    def pair(self) -> Pair:
        """New networks."""
        return Pair(self.encoder_type(self.shape), self.generator_type(self.shape))

    @abstractmethod
    def signals(self, count: int) -> Tensor:
        """Training signals, on the CPU or the device."""

    def relaxed(self, z: Tensor) -> Tensor:
        """Latents with what stands in for the quantiser in stage one."""
        width = self.settings.noise * 2.0 * self.shape.reach / self.shape.levels
        return z + width * (torch.rand_like(z) - 0.5)

    def rate_term(self, z: Tensor) -> Tensor | None:
        """What the bits of the encoder's latents [N, ...] cost, in units of F over `scale`; None if
        nothing."""
        return None

    def fitted(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        """The centres for latents of the averaged encoder."""
        return fit_centres(latents, self.shape.levels)

    @abstractmethod
    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        """Quantised latents in the generator's layout, and their costs [N]."""

    def _new_optimisers(self) -> None:
        groups = parameter_groups(self.networks, self.rates)
        optimiser = adamw(
            groups, self.settings.rate, (0.9, 0.98), decay=self.decay, device=self.device
        )
        discriminator_optimiser = adamw(
            self.discriminator.parameters(), 4e-4, (0.5, 0.98), decay=1e-4, device=self.device
        )
        self.optimisers = {
            "optimiser": (optimiser, self.networks),
            "judge_optimiser": (discriminator_optimiser, self.discriminator),
        }

    def start(self) -> None:
        """Start from the linear codec."""
        self.begin(self.linear_start)

    def begin(self, start: Callable[..., None]) -> None:
        """Set networks and averages by `start`, from encoder, generator and signals."""
        started = copy.deepcopy(self.networks).cpu()
        signals = self.signals(self.settings.start_frames).cpu()
        start(started.encoder, started.generator, signals)
        self.networks.load_state_dict(started.state_dict())
        self.average.load_state_dict(self.networks.state_dict())

    def _batch(self, count: int) -> Tensor:
        return self.signals(count).to(self.device)

    def model(self, counts: Any = None) -> StaticModel:
        """The averaged networks with centres and a table, as the codec uses them."""
        if self.quantiser is None:
            raise ValueError("the centres are fitted at the end of stage one")
        counts = counts or SymbolCounts(np.ones(self.shape.levels, np.int64))
        model = self.model_type(self.shape, copy.deepcopy(self.quantiser), counts).to(self.device)
        model.encoder = copy.deepcopy(self.average.encoder)
        model.generator = copy.deepcopy(self.average.generator)
        return model.requires_grad_(False).eval()

    @torch.no_grad()
    def begin_second_stage(self) -> None:
        """Fit the centres to the averaged encoder's latents and continue from the averages."""
        batch = self.settings.batch
        none = torch.zeros(batch, device=self.device)
        parts: list[Tensor] = []
        while sum(p.numel() for p in parts) < 4 * _CENTRE_SAMPLES and len(parts) < _CENTRE_BATCHES:
            parts.append(self.average.encoder(self._batch(batch), none).flatten().cpu())
        latents = torch.cat(parts)
        some = latents[torch.randperm(len(latents))[:_CENTRE_SAMPLES]]
        self.quantiser = Quantiser(self.fitted(some.numpy())).to(self.device)
        self.networks.load_state_dict(self.average.state_dict())
        self.stage_start = self.steps
        self._new_optimisers()
        self.run.note(f"step {self.steps}: stage two, on quantised latents")

    def _search(self) -> Tensor:
        """Search new signals and add them to the pool; returns the mean cost."""
        x = self._batch(self.settings.searched * self.settings.batch)
        latents, costs = self.search(self.model(), x, self.settings.search_steps, check_every=5)
        self.pool.extend(zip(latents, x, strict=True))
        return costs.mean()

    def step(self, fraction: float) -> Mapping[str, Number]:
        """One step; stage two begins at `first_share` of the training."""
        s = self.settings
        if fraction >= s.first_share and self.quantiser is None:
            self.begin_second_stage()
        quantiser, step = self.quantiser, self.steps - self.stage_start
        second = quantiser is not None
        if second:
            progress = (fraction - s.first_share) / (1.0 - s.first_share)
            rate = learning_rate(progress, step, 0.4 * s.rate, warmup=100, floor=0.02)
        else:
            progress = fraction / s.first_share
            rate = learning_rate(progress, step, s.rate, warmup=100, floor=0.2)
        values: dict[str, Number] = {}
        if second and (step % s.search_every == 0 or not self.pool):
            values["searched"] = self._search()
        x = self._batch(s.batch // 2 if second else s.batch)
        none = x.new_zeros(len(x))
        with self.autocast():
            z = self.networks.encoder(x, none)
            cost = self.rate_term(z)
            if quantiser is None:
                z = self.relaxed(z)
            else:
                z = z + (quantiser(z) - z).detach()
                drawn = [self.pool[k] for k in self.random.integers(0, len(self.pool), len(x))]
                latents, signals = zip(*drawn, strict=True)
                z = torch.cat((z, torch.stack(latents)))
                x = torch.cat((x, torch.stack(signals)))
            y = self.networks.generator(z, z.new_zeros(len(z)))
        distance = self.distance(x, y) / self.scale
        loss = distance.mean()
        values["distance"] = loss.detach()
        if cost is not None:
            values["cost"] = cost.detach()
            loss = loss + cost * (len(none) / len(x))
        if second:
            values["encoded"] = distance[: len(none)].detach().mean()
        if s.adversary > 0 and (second or progress >= s.adversary_from):
            values["discriminator"] = self.train_discriminator("judge_optimiser", x[::2], y[::2])
            with self.autocast():
                scores = self.discriminator(y[::2])
            loss = loss + s.adversary * generator_loss(scores)
        norm = self.descend("optimiser", rate, loss)
        self.steps += 1
        self.update_average(self.networks, self.steps - self.stage_start, 0.998)
        return values | {"loss": loss.detach(), "norm": norm, "rate": rate}

    def finish(self) -> None:
        """Fit the centres if stage two has not begun."""
        if self.quantiser is None:
            self.begin_second_stage()

    def counts(self) -> Any:
        """Symbol counts of training signals that are searched as in the codec."""
        s, model = self.settings, self.model()
        found = []
        for _ in range(s.table_batches):
            x = self._batch(s.batch)
            latents, _ = self.search(model, x, s.table_steps, check_every=20)
            found.append(model.indices_of(latents))
        return count_symbols(np.stack(found), self.shape.levels)

    def numbers(self) -> dict[str, Any]:
        """Where stage two began, and its centres; the pool is not kept, as it fills again."""
        centres = None if self.quantiser is None else self.quantiser.centres.cpu().tolist()
        return {"stage_start": self.stage_start, "centres": centres}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue in the stage of a checkpoint, with its centres."""
        self.stage_start, centres = int(numbers["stage_start"]), numbers["centres"]
        if centres is not None:
            if len(centres) != self.shape.levels:
                raise ValueError(f"{len(centres)} centres, not {self.shape.levels}")
            self.quantiser = Quantiser(np.array(centres)).to(self.device)
        self.random = np.random.default_rng(self.settings.seed + self.steps)


class PaperTask(TwoStageTask):
    """Log-mel frames [N, T, M] of packed shards."""

    name = "paper"
    model_type, encoder_type, generator_type = PaperModel, PaperEncoder, PaperGenerator
    linear_start = staticmethod(start_paper_speech)
    planes = 1
    licence = SPEECH_LICENCE

    def __init__(
        self, shards: FrameShards, settings: PaperSettings, run: Run, device: torch.device
    ) -> None:
        super().__init__(settings, FrameDistance(), run, device)
        self.shards = shards
        self._frames = FrameSource(shards, device)

    def signals(self, count: int) -> Tensor:
        return self._frames.batch(count, self.random)

    def search(
        self, model: StaticModel, x: Tensor, iterations: int, check_every: int
    ) -> tuple[Tensor, Tensor]:
        settings = SearchSettings(
            iterations=iterations, check_every=check_every, penalty=model.penalty
        )
        problem = Problem.without_bits(search_networks(model), self.distance, x)
        found = search(problem, settings)
        return found.indices, found.cost


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

    def model(self, counts: Any = None) -> StaticModel:
        model = cast(PaperImageModel, super().model(counts or self.rate.counts))
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


def train_two_stages(task: TwoStageTask, folder: Path, target: Path) -> str | None:
    """Train (or resume training) in `folder` and export to `target`; returns the model id.

    Returns None if the run ended early; the same call resumes from the last checkpoint. Raises
    BadInput for a damaged checkpoint or one of other networks.
    """
    if not train(task, folder, task.run) or task.run.stops:
        return None
    task.run.note("counting the symbols of searched training signals")
    model = task.model(task.counts()).cpu()
    with new_model_folder(target) as draft:
        return save_model(model, draft, {"name": "paper", "licence": task.licence})
