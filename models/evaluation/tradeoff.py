"""Latent size against quantisation levels (Liu et al. 2020, Fig. 4), with the shipped networks.

A cell of the grid restricts latents to a set S: the first `channels` channels of every step take
one of `levels` evenly spaced values, the others are zero. That bounds the rate to 16 * channels *
log2(levels) bits per frame without entropy coding, so bits have no price. ADMM and back-propagation
with rounding search the same S.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from codec.device import choose_device
from codec.entropy.speech_context import MAX_INDEX
from codec.search.engine import search
from codec.search.problem import Networks, Problem, SearchSettings
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.signal.synthesis import synthesise_columns
from models.evaluation import estimates, tables
from models.evaluation.clips import Clip
from models.evaluation.coding import Coded, Coding, Step
from models.evaluation.estimates import Estimate
from models.evaluation.frames import frames_of
from models.evaluation.plots import Line, Panel
from models.evaluation.scores import CodecResult, score_codings
from models.folder import load_speech_model, search_networks
from models.model import FrameModel
from models.networks.speech_distance import FrameDistance

SearchMethod = Literal["admm", "backprop"]

TITLE = "Latent size against levels"
METHODS: Mapping[SearchMethod, str] = {"admm": "ADMM", "backprop": "back-propagation"}
HOW = (
    "sotto's speech networks with the first channels of every step at evenly spaced levels and the "
    "others held at zero; rate point and spacing of a cell are those of the lowest distance F on "
    "some of the frames; rates per second of coded frames, without headers"
)

_FRAME_S = analysis.FRAME_SAMPLES / analysis.SAMPLE_RATE
_AT_ONCE = 64  # frames searched at a time
_PROBES = 16  # frames used to choose the rate point and the spacing
_COUPLING = 6.0  # μ over the trained price of a bit, as in the codec's own search
_STEP = 0.2  # step size of the search, in level spacings: coarse levels are far apart
_TICKS = (100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)  # bit/s
_SCORES = {"pesq_nb": 2, "pesq_wb": 2, "estoi": 3}  # digits in the table


@dataclass(frozen=True)
class Grid:
    """What to try. levels: odd numbers from 3 to 31; qualities: rate points in eighths."""

    channels: Sequence[int] = (8, 16, 32, 64)
    levels: Sequence[int] = (3, 5, 9, 15)
    steps: int = 30
    qualities: Sequence[int] = (0, 8)

    def work(self, clips: int) -> int:
        """The number of times that `run` calls `step`."""
        cells = len(self.channels) * len(self.levels)
        return cells * len(METHODS) * (1 + clips)


@dataclass(frozen=True)
class AllowedSet:
    """S: level spacing and largest magnitude of each channel, both integers, [C]."""

    spacing: Tensor
    limit: Tensor

    def levels(self, z: Tensor) -> Tensor:
        """Latents z [B, S, C] in level spacings, within the range of S."""
        return self.inside(z / self.spacing)

    def latents(self, levels: Tensor) -> Tensor:
        """Latents [B, S, C] of levels in level spacings."""
        return self.inside(levels) * self.spacing

    def nearest(self, levels: Tensor, dead_zone: float = 0.0) -> Tensor:
        """Q: the levels of S nearest to relaxed ones [B, S, C]; there is no dead zone."""
        return self.inside(levels.round())

    def inside(self, levels: Tensor) -> Tensor:
        """Relaxed levels [B, S, C] clamped to the range of S."""
        most = self.limit / self.spacing
        return levels.clamp(-most, most)


@dataclass(frozen=True)
class Point:
    """A cell of the grid and a search method.

    latents: per frame; fixed, range_coded: without and with entropy coding; quality: rate point in
    eighths; distance: mean F; scores: of the clips.
    """

    channels: int
    latents: int
    levels: int
    method: SearchMethod
    quality: int
    fixed_bits_per_s: float
    range_coded_bits_per_s: float
    distance: float
    scores: Mapping[str, Estimate]


class _Free:
    """A prior that charges no bits."""

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.zeros_like(z)


def fixed_rate(latents: int, levels: int) -> float:
    """Bit/s of `latents` per frame of 1.024 s at log2(levels) bits each, not entropy-coded."""
    return latents * math.log2(levels) / _FRAME_S


def allowed_set(channels: int, levels: int, spread: Tensor, fitted: bool) -> AllowedSet:
    """S of the first `channels` channels; spread: RMS of unrestricted latents, [C].

    The levels are consecutive integers or, with `fitted`, about as far apart as those of the best
    uniform quantiser of a Laplacian. Raises ValueError outside the codec's range.
    """
    if not 1 <= channels <= len(spread):
        raise ValueError(f"there are {len(spread)} channels, not {channels}")
    if levels % 2 == 0 or not 3 <= levels <= 2 * MAX_INDEX + 1:
        raise ValueError(f"levels must be an odd number from 3 to {2 * MAX_INDEX + 1}")
    half = levels // 2
    spacing = torch.ones_like(spread)
    if fitted:
        spacing = (1.3 * half**-0.5 * spread).round().clamp(1, MAX_INDEX // half)
    limit = spacing * half
    limit[channels:] = 0.0
    return AllowedSet(spacing, limit)


def restricted(networks: Networks, allowed: AllowedSet) -> Networks:
    """The networks with the levels of S as their latents, and with no price on bits."""
    return replace(
        networks,
        encoder=lambda x, rate: allowed.levels(networks.encoder(x, rate)),
        generator=lambda z, rate: networks.generator(allowed.latents(z), rate),
        fast_generator=lambda z, rate: networks.fast_generator(allowed.latents(z), rate),
        prior=_Free(),
        quantise=allowed.nearest,
    )


class Bench:
    """The speech networks and the frames of all clips, x [B, T, M]."""

    def __init__(self, x: Tensor, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model: FrameModel = load_speech_model("speech").to(self.device)
        self.networks = search_networks(self.model)
        self.distance = FrameDistance().to(self.device)
        self.x = x.to(self.device)

    def search(
        self, allowed: AllowedSet, quality: int, method: SearchMethod, steps: int, every: int = 1
    ) -> tuple[Tensor, float]:
        """Latents in S for every `every`-th frame, [B', S, C], and their mean distance F."""
        settings = SearchSettings(
            method=method,
            iterations=steps,
            step=_STEP,
            penalty=_COUPLING * self.model.rate_weight(quality / 8.0),
        )
        found = [
            search(
                Problem(
                    restricted(self.networks, allowed),
                    self.distance,
                    part,
                    self._rates(part, quality),
                    torch.zeros(len(part), device=self.device),
                ),
                settings,
            )
            for part in self.x[::every].split(_AT_ONCE)
        ]
        cost = torch.cat([result.cost for result in found])
        levels = torch.cat([result.indices for result in found])
        return allowed.latents(levels), float(cost.mean())

    def choose(self, channels: int, levels: int, grid: Grid) -> tuple[AllowedSet, int]:
        """S and rate point of a cell, chosen by the lowest F of a short search on a few frames."""
        every = math.ceil(len(self.x) / _PROBES)
        best: tuple[float, AllowedSet, int] | None = None
        for quality, fitted in itertools.product(grid.qualities, (False, True)):
            allowed = allowed_set(channels, levels, self._spread(quality), fitted)
            _, cost = self.search(allowed, quality, "admm", max(grid.steps // 3, 1), every)
            if best is None or cost < best[0]:
                best = cost, allowed, quality
        if best is None:
            raise ValueError("there is no rate point to choose from")
        return best[1], best[2]

    @torch.no_grad()
    def _spread(self, quality: int) -> Tensor:
        encoder, parts = self.networks.encoder, self.x.split(_AT_ONCE)
        latents = torch.cat([encoder(part, self._rates(part, quality)) for part in parts])
        return latents.square().mean((0, 1)).sqrt()

    def _rates(self, part: Tensor, quality: int) -> Tensor:
        return torch.full((len(part),), quality / 8.0, device=self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor, quality: int) -> FloatArray:
        """Decode latents of one clip [B, S, C] to samples [B * 16384], as the decoder does."""
        frames = self.networks.generator(latents, self._rates(latents, quality))
        return synthesise_columns(frames.reshape(-1, self.x.shape[-1]).cpu().numpy())

    def coded_bits(self, latents: Tensor, quality: int) -> int:
        """Bits of the range coder's payloads for one clip [B, S, C]."""
        coder = self.model.coders["range"]
        indices = self.model.indices_of(latents)
        return sum(8 * len(coder.encode(frame, quality)) for frame in indices)


def run(
    clips: Sequence[Clip],
    grid: Grid | None = None,
    *,
    device: str = "auto",
    workers: int = 2,
    step: Step = lambda name: None,
) -> list[Point]:
    """Search, decode and score every cell of the grid with both methods, in grid order.

    workers: scoring processes, 0 for none. Raises BadInput if the networks cannot be loaded.
    """
    grid = grid or Grid()
    frames = [frames_of(clip.samples) for clip in clips]
    counts = [len(part) for part in frames]
    bench = Bench(torch.cat(frames), device)
    points, codings = [], []
    for channels, levels in itertools.product(grid.channels, grid.levels):
        allowed, quality = bench.choose(channels, levels, grid)
        for method in METHODS:
            latents, distance = bench.search(allowed, quality, method, grid.steps)
            coding = Coding(f"{channels} x {levels}, {method}", "")
            for clip, part in zip(clips, latents.split(counts), strict=True):
                decoded = bench.decode(part, quality)[: len(clip.samples)]
                bits = bench.coded_bits(part, quality)
                coding.coded.append(Coded(decoded, bits, bits, 0.0, 0.0))
            rate = sum(coded.payload_bits for coded in coding.coded) / (len(latents) * _FRAME_S)
            size = latents.shape[1] * channels
            fixed = fixed_rate(size, levels)
            points.append(Point(channels, size, levels, method, quality, fixed, rate, distance, {}))
            codings.append(coding)
            step("latent size and levels")
    scored = score_codings(codings, clips, workers=workers, with_phones=False, step=step)
    return [
        replace(point, scores=_scores(result)) for point, result in zip(points, scored, strict=True)
    ]


def _scores(result: CodecResult) -> dict[str, Estimate]:
    return {key: estimates.mean([clip.scores[key] for clip in result.clips]) for key in _SCORES}


def as_dict(points: Sequence[Point], grid: Grid) -> dict[str, Any]:
    """All figures as plain values."""
    return {"how": HOW, "steps": grid.steps, "points": [tables.flat(point) for point in points]}


def print_table(points: Sequence[Point], console: Console) -> None:
    """The trade-off as a table, a row for each point."""
    heads = ("bit/s, no\nentropy coder", "bit/s,\nrange coder", "rate\npoint", "F")
    table = tables.table(TITLE, [], ["latents", "levels"])
    table.add_column("search", no_wrap=True)
    for head in (*heads, "PESQ-NB", "PESQ-WB", "ESTOI"):
        table.add_column(head, justify="right")
    for point in points:
        table.add_row(
            str(point.latents),
            str(point.levels),
            METHODS[point.method],
            f"{point.fixed_bits_per_s:.0f}",
            f"{point.range_coded_bits_per_s:.0f}",
            f"{point.quality / 8:g}",
            f"{point.distance:.3f}",
            *(tables.estimate(point.scores[key], digits) for key, digits in _SCORES.items()),
        )
    console.print(table)
    console.print(f"{HOW[0].upper()}{HOW[1:]}.")


def panel(points: Sequence[Point]) -> Panel:
    """PESQ-NB against the rate without entropy coding: a line for each latent size and search."""
    lines = []
    sizes = sorted({point.latents for point in points})
    for (at, size), method in itertools.product(enumerate(sizes), METHODS):
        members = [p for p in points if p.latents == size and p.method == method]
        members.sort(key=lambda point: point.fixed_bits_per_s)
        admm = method == "admm"
        lines.append(
            Line(
                f"{size} latents, {METHODS[method]}",
                [point.fixed_bits_per_s for point in members],
                [point.scores["pesq_nb"].value for point in members],
                notes=[str(point.levels) for point in members] if admm else (),
                style={
                    "color": f"C{at % 10}",
                    "linestyle": "-" if admm else "--",
                    "marker": "o" if admm else "s",
                },
            )
        )
    rates = [point.fixed_bits_per_s for point in points]
    low, high = min(rates, default=0.0), max(rates, default=0.0)
    ticks = {tick: f"{tick:.0f}" for tick in _TICKS if 0.7 * low < tick < 1.4 * high}
    return Panel(lines, "bit/s without entropy coding (numbers: levels)", "PESQ-NB", ticks=ticks)
