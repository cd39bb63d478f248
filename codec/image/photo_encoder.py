"""Encoder of the `photo` preset: searches a picture's latents at the requested rate."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.device import fast_in_half
from codec.entropy.image_context import ANCHORS, QUALITIES, QUALITY_STEPS
from codec.errors import BadInput
from codec.image.base import Job
from codec.image.container import FILE_HEADER_BYTES, Area
from codec.image.photo_prior import PhotoTask, round_latents, tile_bits
from codec.image.presets import Tune
from codec.image.tiling import Window, cut_windows, encode_map, frames_of, map_of, padded_planes
from codec.search.engine import descent
from codec.search.mean_field import MeanField
from codec.search.methods import Method
from codec.search.problem import Distance, Problem, SearchResult, SearchSettings
from codec.search.rdoq import IMAGE, Rdoq, Steps

if TYPE_CHECKING:
    from models.folder import PhotoModel

SEARCH_WINDOW = 64  # largest side of a search window, in cells
TILE = 32  # largest side of a tile, in cells
_SAMPLED_WINDOWS = 6
_CLOSE = 0.02  # tolerance of the bits at the first rate point (natural log)
_LOG_BITS_PER_QUALITY = 0.019  # typical growth in log bits per quality
_LOG_PRICE_PER_QUALITY = 0.0325  # about how the trained price of a bit falls (natural log)
# Most changes of the price of a bit beyond the coarsest and the finest quality (natural log).
_DEAREST, _CHEAPEST = 13.0, 1.4
_DEAD_ZONE = 0.15  # rounding with it takes about the bits of searched latents
_ROUNDS = 1  # of RDOQ, and one more for every so many steps of the search
# What mean-field rounding ends with is nearly whole, and RDOQ finds little in it.
_STEPS_PER_ROUND, _STEPS_PER_ROUND_ADMM = 25, 6
_MOST_ROUNDS = 6
_FITS = 12  # most rounds of moving single indices to meet the allowance
_SLACK = 0.004  # share of the allowance that may be left unused
_TRIES = 6  # most attempts per round to find how many to move
_MOVED = 0.08  # largest share of the bits to change by moves that are estimated independently
_NEARBY = 40  # qualities between which the encoder's output differs by little more than the gains
_FEWEST_IN_TWO = 4  # steps of a search whose rate point is chosen again
_CHECK_EVERY = 16  # steps between scorings of the candidates
_WAY = 1.7  # quantisation steps that a latent could go if all its steps were of the first's size


@dataclass(frozen=True)
class Landing:
    """How a search comes to meet an allowance of bits.

    corrections: the most, of the rate point after the search; aim: what to come to, in shares of
    the allowance; near: errors (natural log) between which nothing is corrected; fills: whether
    moves of single indices then use up what is left. Such moves always serve to get below the
    allowance. rounds: of RDOQ at the end of the search, besides those that its steps earn it.
    """

    corrections: int
    aim: float
    near: tuple[float, float]
    fills: bool
    rounds: int = _ROUNDS


# Moves of single indices do what they promise where F is a squared error. MS-SSIM is too curved for
# that in smooth places, where moves that should have lowered it were found to raise it. They save
# bits better than they spend them: what would lower F for its bits has been moved already.
BY_MOVES = Landing(2, 1.0, (-0.06, 0.15), True)
BY_RATE = Landing(4, 0.988, (-0.012, 0.012), False)


@dataclass(frozen=True)
class Tuning:
    """Search settings for one distance, tuned on training photographs.

    prices: of a bit in the search at the rate anchors, in units of the trained price; saves: bits
    after the search relative to the encoder's latents rounded with the dead zone; later: the same,
    relative to the latents after a third and after two thirds of the search; steps: first step size
    of long and of short searches, in quantisation steps; firmness, moves, looks: of mean-field
    rounding; rdoq: whether RDOQ helps. For MS-SSIM it does not, since the latents move far from the
    encoder's output; and it is too curved for more than one move.
    """

    prices: tuple[float, float, float, float]
    saves: float
    later: tuple[float, float]
    steps: tuple[float, float] = (0.04, 0.1)
    firmness: tuple[float, float] = (0.3, 1.0)
    moves: int = 1
    looks: int = 1
    rdoq: bool = True
    landing: Landing = BY_MOVES

    def price(self, quality: int) -> float:
        """Of a bit, in units of the trained price; log-linear between the anchors."""
        anchors = QUALITY_STEPS * np.arange(ANCHORS)
        return float(np.exp(np.interp(quality, anchors, np.log(self.prices))))


TUNINGS: dict[Tune, Tuning] = {
    "psnr": Tuning(
        (1.75, 1.15, 0.8, 0.8), saves=0.95, later=(1.03, 0.98), firmness=(0.15, 0.8), moves=3,
        looks=2,
    ),
    "ms-ssim": Tuning(
        (1.2, 1.2, 1.2, 1.2), saves=0.9, later=(0.95, 0.98), steps=(0.3, 0.45), rdoq=False,
        landing=BY_RATE,
    ),
    "visual": Tuning(
        (1.2, 1.2, 1.2, 1.2), saves=0.9, later=(0.95, 1.02), steps=(0.1, 0.1),
        landing=Landing(2, 1.0, (-0.06, 0.06), True),
    ),
}  # fmt: skip

# In so few steps the large ones that MS-SSIM needs lead nowhere: on seven photographs four of them
# gave .9573, less than none with .9583, for 7 % fewer bits than allowed. Small ones, and moves of
# single indices after them, give .9615. And the last of few steps still save bits: where that is
# foreseen, fourteen photographs take a fifth less time, as fewer corrections are needed, for the
# same PSNR; and another fifth less without a round of RDOQ before the moves that fill the file.
_BRIEF = 5  # steps
_BRIEFLY = {
    "psnr": replace(
        TUNINGS["psnr"], later=(0.99, 0.945), moves=2, landing=replace(BY_MOVES, rounds=0)
    ),
    "ms-ssim": replace(TUNINGS["ms-ssim"], steps=(0.1, 0.1), landing=BY_MOVES),
}


def tuning_of(tune: Tune, iterations: int) -> Tuning:
    """The settings for a distance, of a search of so many steps."""
    tuning = TUNINGS[tune]
    return _BRIEFLY.get(tune, tuning) if iterations <= _BRIEF else tuning


@dataclass(frozen=True)
class RatePoint:
    """How coarsely latents are quantised, and what a bit costs in the search for them.

    quality: that in the file; price: of a bit, relative to the price at the quality.
    """

    quality: int
    price: float = 1.0

    def moved(self, log_bits: float) -> RatePoint:
        """Where latents take about exp(log_bits) times the bits.

        Below the coarsest quality the price of a bit rises on as it does between qualities, and
        above the finest it falls, as far as that makes better pictures.
        """
        number = self.quality - np.log(self.price) / _LOG_PRICE_PER_QUALITY
        number = round(number + log_bits / _LOG_BITS_PER_QUALITY)
        quality = int(np.clip(number, 0, QUALITIES - 1))
        dearer = np.clip(_LOG_PRICE_PER_QUALITY * (quality - number), -_CHEAPEST, _DEAREST)
        return RatePoint(quality, float(np.exp(dearer)))


@dataclass
class _Coded:
    """Latents of the whole picture at one rate point, and their file."""

    point: RatePoint
    latents: Tensor  # [1, C, rows, columns], integers
    file: bytes
    bits: int  # of the payloads alone

    @property
    def size(self) -> int:
        return len(self.file)


class PhotoEncoder:
    """Encodes one picture with the settings of its job."""

    def __init__(self, model: PhotoModel, device: torch.device, job: Job) -> None:
        self.model, self.job, self.settings = model, job, job.settings
        self._encoded: dict[Window, tuple[int, Tensor]] = {}  # qualities and latents
        self._cost: float | None = None  # of the last window, relative to its start
        # The same of all windows, before the present part of the search. Rate points have costs of
        # their own, so what they fall by is multiplied.
        self._fallen: dict[Window, float] = {}
        # For a picture of one window: its latents, and RDOQ's steps from them.
        self._left: tuple[Tensor, Steps] | None = None
        self.header = job.header
        self._tuning = tuning_of(self.settings.tune, job.steps)
        self.x = padded_planes(job.picture.rgb).to(device)
        self.size = job.picture.height, job.picture.width
        self.windows = cut_windows(self.header.tiles(), SEARCH_WINDOW)
        self.allowed = self.settings.allowed_bytes(job.picture)
        self._half = fast_in_half(device)

    def run(self) -> bytes:
        """Return the encoded file. Raises BadInput if it cannot be as small as allowed."""
        iterations = self.job.steps
        if self.allowed is None:
            point = RatePoint(round((self.settings.quality or 0.0) / 100.0 * (QUALITIES - 1)))
        else:
            saves, dead_zone = self._tuning.saves, _DEAD_ZONE
            if not iterations:
                saves, dead_zone = 1.0, 0.0
            point = self._point_for(self._tile_bits_allowed() / saves, dead_zone)
        z = self._relaxed_map(point.quality)
        if iterations:
            coded = self._search(point, z, iterations)
        else:
            coded = self._code(point, round_latents(z))
        coded = self._fit(coded)
        self.job.report(1.0, self._cost, iterations)
        return coded.file

    def _rate(self, quality: int) -> Tensor:
        return self.x.new_full((1,), quality / QUALITY_STEPS)

    def _distance(self, point: RatePoint) -> Distance:
        price = self._tuning.price(point.quality) * point.price
        price *= float(self.model.price(self._rate(point.quality)))
        return self.model.picture_distance(self.settings.tune, price)

    # --- The rate point that meets the allowance.

    def _tile_bits_allowed(self) -> float:
        """Bits allowed for all tiles of the picture, without headers."""
        spent = FILE_HEADER_BYTES + 16 * len(self.header.tiles())
        if self.job.alpha is not None:
            spent += len(self.job.alpha) + 16
        return max(8.0 * ((self.allowed or 0) - spent), 1.0)

    def _point_for(self, bits: float, dead_zone: float) -> RatePoint:
        """The finest rate point whose rounded latents take at most about `bits`.

        Log bits are nearly linear in the quality, so the secant method takes few steps.
        """
        windows = self.windows
        if len(windows) > _SAMPLED_WINDOWS:
            picks = np.linspace(0, len(windows) - 1, _SAMPLED_WINDOWS).astype(int)
            windows = [windows[k] for k in picks]
        cells = sum(w.area.shape[0] * w.area.shape[1] for w in windows)
        rows, columns = self.header.cells
        wanted = np.log(bits * cells / (rows * columns))
        # The quality lies in [low, high): low is affordable (or the coarsest), high is not.
        low, high = 0, QUALITIES
        at, slope = QUALITIES // 3, _LOG_BITS_PER_QUALITY
        before: tuple[int, float] | None = None
        above = 0.0  # of `high`, how far
        while high - low > 1:
            taken = sum(self._encoded_bits(w, at, dead_zone) for w in windows)
            now = np.log(max(taken, 1.0))
            if now <= wanted:
                low = at
            else:
                high, above = at, now - wanted
            if abs(wanted - now) < _CLOSE:
                return RatePoint(at)
            if before is not None and at != before[0]:
                slope = max((now - before[1]) / (at - before[0]), 0.3 * _LOG_BITS_PER_QUALITY)
            before = at, now
            # Round down, then try one up: if the line is right, that closes the bracket.
            at = at + int(np.floor(np.clip((wanted - now) / slope, -QUALITIES, QUALITIES)))
            at += at == low
            at = int(np.clip(at, low + 1, max(high - 1, low + 1)))
        return RatePoint(low) if low else RatePoint(high).moved(-above)

    def _encoded_bits(self, window: Window, quality: int, dead_zone: float) -> float:
        """Bits of a window's latents, rounded from the encoder's output."""
        z = round_latents(self._relaxed(window, quality), dead_zone)
        return self._window_bits(window, quality, z)

    def _relaxed_map(self, quality: int) -> Tensor:
        """The encoder's output for the whole picture: [1, C, rows, columns]."""
        parts = [(window.area, self._relaxed(window, quality)) for window in self.windows]
        self._encoded.clear()
        z = self.x.new_empty(1, parts[0][1].shape[1], *self.header.cells)
        for area, part in parts:
            area.of(z)[:] = part
        return z

    def _relaxed(self, window: Window, quality: int) -> Tensor:
        """The encoder's output for a window: [1, C, h, w].

        As the start of a search, that at a quality nearby will do, scaled.
        """
        searched = self.job.steps > 0
        known = self._encoded.get(window)
        if known is None or abs(quality - known[0]) > (_NEARBY if searched else 0):
            half, rate = self._half and searched, quality / QUALITY_STEPS
            with torch.autocast(self.x.device.type, torch.bfloat16, enabled=half):
                z = encode_map(self.model.encoder, self.x, rate, window.area)
            known = self._encoded[window] = quality, z
        return self._scaled(known[1], known[0], quality)

    def _scaled(self, z: Tensor, before: int, after: int) -> Tensor:
        """Latents at one quality for the quantisation steps of another."""
        gains = self.model.generator.gains
        return z * (gains(self._rate(after)) / gains(self._rate(before)))

    @torch.no_grad()
    def _window_bits(self, window: Window, quality: int, q: Tensor) -> float:
        """Bits of a window's integer latents q [1, C, h, w] under the float prior."""
        with torch.autocast(q.device.type, torch.bfloat16, enabled=self._half):
            bits = tile_bits(self.model, window.tiles, q, self._rate(quality), q)
        return float(bits.float().sum())

    def _excess(self, coded: _Coded, allowed: float) -> float:
        """Natural log of the bits relative to the allowed bits."""
        return float(np.log(max(coded.bits, 1.0) / allowed))

    def _requantised(self, point: RatePoint, z: Tensor, excess: float) -> tuple[RatePoint, Tensor]:
        """Where latents z come to take about exp(-excess) of the bits, and z scaled to it."""
        wanted = point.moved(-excess)
        return wanted, self._scaled(z, point.quality, wanted.quality)

    # --- The search.

    def _search(self, point: RatePoint, z: Tensor, iterations: int) -> _Coded:
        """Search quantised latents, near the allowance if there is one.

        All latents are searched at the same bit price; the rate point is chosen to meet the
        allowance. It is chosen again after a third and after two thirds of the search, and as often
        more as the tuning's landing has it, while the result is too far off.
        """
        tune, budget = self.settings.tune, self.settings.budget
        plan = StepPlan(
            iterations, budget, self.job.clock, self.allowed is not None, tune,
            self.settings.method or "mean-field",
        )  # fmt: skip
        allowed = 0.0 if self.allowed is None else self._tile_bits_allowed()
        done = 0
        for until, later in zip(plan.choices, self._tuning.later, strict=False):
            z, latents = self._descend(point, z, plan, done, until)
            done, quality = until, point.quality
            bits = sum(self._window_bits(w, quality, w.area.of(latents)) for w in self.windows)
            excess = np.log(max(bits, 1.0) * later / allowed)
            point, z = self._requantised(point, z, float(excess))
        coded = self._code(point, self._descend(point, z, plan, done, plan.main)[1])
        done = plan.main
        landing = self._tuning.landing
        for _ in range(landing.corrections if plan.correction else 0):
            excess = self._excess(coded, landing.aim * allowed)
            wanted, start = self._requantised(coded.point, coded.latents, excess)
            if landing.near[0] < excess < landing.near[1] or wanted == coded.point:
                break
            until = done + plan.correction
            tried = self._code(wanted, self._descend(wanted, start, plan, done, until)[1])
            done = until
            if abs(self._excess(tried, landing.aim * allowed)) >= abs(excess):
                break
            coded = tried
        return coded

    def _descend(
        self, point: RatePoint, z: Tensor, plan: StepPlan, done: int, until: int
    ) -> tuple[Tensor, Tensor]:
        """Take steps `done` to `until` of the plan on a map of relaxed latents, window by window.

        Returns relaxed latents and the best integer ones, after RDOQ at the end of the search.
        """
        rate, distance = self._rate(point.quality), self._distance(point)
        latents, z = round_latents(z), z.clone()
        total = len(self.windows)
        deadline = plan.deadline(until)
        self._left = None
        for number, window in enumerate(self.windows):
            now = self.job.clock()
            limit = None if deadline is None else now + (deadline - now) / (total - number)
            task = PhotoTask(self.model, window, latents, self.x, self.size)

            def report(share: float, steps: int, number: int = number) -> None:
                whole = done + (number + share) / total * (until - done)
                self.job.report(min(whole / plan.total, 1.0), self._cost, steps)

            start = frames_of(window.area.of(z))
            relaxed, found, left = self._search_window(
                task, distance, rate, start, plan, done, until, limit, report,
                self._fallen.get(window, 1.0),
            )  # fmt: skip
            self._fallen[window] = 1.0 if self._cost is None else self._cost
            window.area.of(z)[:] = map_of(relaxed, window.area)
            window.area.of(latents)[:] = map_of(found, window.area)
            if total == 1 and left is not None:
                self._left = latents, left
        return z, latents

    def _search_window(
        self,
        task: PhotoTask,
        distance: Distance,
        rate: Tensor,
        start: Tensor,
        plan: StepPlan,
        done: int,
        until: int,
        limit: float | None,
        report: Callable[[float, int], None],
        fallen: float,
    ) -> tuple[Tensor, Tensor, Steps | None]:
        """Relaxed and integer latents [1, S, C] of a window after some steps from `start`.

        At the end of the search, also the effects of single-index steps from the integer ones.
        fallen: the cost at the start, relative to that at the start of the search.
        """
        settings = plan.settings
        problem = Problem(task.networks, distance, task.target, rate, torch.ones_like(rate))
        found = descent(problem, settings, start)
        last = until >= plan.main
        # Mean-field rounding tells its cost itself, and its last latents are its best.
        best: SearchResult | None = None
        if last and not isinstance(found, MeanField):
            costs, sizes = found.score()
            best = SearchResult(found.candidates[0], costs[0], sizes[0], costs[0], 0)
            self._cost = 1.0
        begun = self.job.clock()
        steps = scored = 0
        first_cost: Tensor | None = None
        while True:
            share = steps / max(until - done, 1)
            if limit is not None:
                share = max(share, (self.job.clock() - begun) / max(limit - begun, 1e-9))
            ended = share >= 1.0
            if not ended:
                whole = min((done + share * (until - done)) / plan.main, 1.0)
                found.step(whole)
                steps += 1
                if isinstance(found, MeanField):
                    first_cost = found.cost if first_cost is None else first_cost
                    self._cost = fallen * float(found.cost / first_cost.clamp_min(1e-9))
            if best and scored < steps and (ended or steps % _CHECK_EVERY == 0):
                best = best.improved(found.candidates, *found.score())
                self._cost = float(best.cost) / max(float(best.start_cost), 1e-9)
                scored = steps
            report(min(share, 1.0), done + steps)
            if ended:
                break
        candidate = found.candidates[0] if best is None else best.indices
        if not last:
            return found.z, candidate, None
        rounds = _ROUNDS if self.allowed is None else self._tuning.landing.rounds
        each = _STEPS_PER_ROUND if isinstance(found, MeanField) else _STEPS_PER_ROUND_ADMM
        rounds = min(_MOST_ROUNDS, rounds + (until - done) // each)
        rdoq = _rdoq(task, distance, rate, candidate)
        moves = self._tuning.rdoq and plan.settings.method in ("mean-field", "rdoq")
        for _ in range(rounds if moves else 0):
            if not rdoq.round():
                break
        if first_cost is not None:
            self._cost = fallen * float(rdoq.steps.cost / first_cost.clamp_min(1e-9))
        return found.z, rdoq.latents, rdoq.steps

    # --- Moves of single indices, until the file meets the allowance.

    def _fit(self, coded: _Coded) -> _Coded:
        """Latents whose file just fits the allowance. Raises BadInput if nothing fits."""
        if self.allowed is None:
            return coded
        best = self._nearest(coded)
        if best is None:
            empty = self._code(RatePoint(0), torch.zeros_like(coded.latents))
            best = self._nearest(empty)
            if best is None:
                raise BadInput(
                    f"the picture does not fit in {self.allowed} bytes: headers and an empty "
                    f"picture take {empty.size}"
                )
        return best

    def _nearest(self, coded: _Coded) -> _Coded | None:
        """Latents that come nearest to the allowance from these, None if none are within it."""
        allowed = self.allowed or 0
        best: _Coded | None = None
        stalled = False
        for _ in range(_FITS):
            below = coded.size <= allowed
            if below and (best is None or coded.size > best.size):
                best = coded
            full = coded.point.quality == QUALITIES - 1 or not self._tuning.landing.fills
            if self._fits(coded) or (below and full):
                break
            excess = self._excess(coded, self._tile_bits_allowed())
            changed = None
            if coded.point.quality == 0 and (excess > 2.0 * _MOVED or stalled):
                changed = self._dearer(coded, max(excess, _MOVED))
            if changed is None:
                changed = self._changed(coded)
            if changed is None:
                break
            # Of few indices the prior tells too little for moves to save what they should.
            stalled = 2 * (changed.size - allowed) > coded.size - allowed > 0
            coded = changed
        return best

    def _dearer(self, coded: _Coded, excess: float) -> _Coded | None:
        """By RDOQ at a higher price of a bit, latents that take about exp(-excess) of the bits.

        Returns None if that saves nothing.
        """
        point = coded.point.moved(-excess)
        rate, distance = self._rate(point.quality), self._distance(point)
        latents = coded.latents.clone()
        for window in self.windows:
            task = PhotoTask(self.model, window, latents, self.x, self.size)
            # A copy, since latents that are kept are written where they came from.
            rdoq = _rdoq(task, distance, rate, frames_of(window.area.of(latents)).clone())
            for _ in range(_MOST_ROUNDS):
                if not rdoq.round():
                    break
            window.area.of(latents)[:] = map_of(rdoq.latents, window.area)
        dearer = self._code(point, latents)
        return dearer if dearer.size < coded.size else None

    def _changed(self, coded: _Coded) -> _Coded | None:
        """Move as many indices by one as it takes to meet the allowance.

        The most useful steps come first. Their number is found by coding, since neighbouring steps
        affect each other's bits. Returns the nearest result below the allowance, or else the
        nearest above, or None if no step is useful.
        """
        allowed = self.allowed or 0
        grow = coded.size < allowed
        positions, steps, gained = self._order(coded, grow)
        if not len(steps):
            return None
        aim = allowed - 0.3 * _SLACK * allowed
        few, size_few = 0, float(coded.size)  # too few steps
        many, size_many = len(steps), None  # enough steps, or all there are
        count = int(np.searchsorted(gained, abs(aim - coded.size) * 8.0)) + 1
        best: _Coded | None = None
        for _ in range(_TRIES):
            count = min(max(count, few + 1), many)
            values = coded.latents.flatten().clone()
            values[positions[:count]] += steps[:count]
            tried = self._code(coded.point, round_latents(values.reshape(coded.latents.shape)))
            if best is None or self._misses(tried) < self._misses(best):
                best = tried
            if self._fits(tried):
                break
            if (tried.size < allowed) == grow:
                few, size_few = count, float(tried.size)
            else:
                many, size_many = count, float(tried.size)
            if many - few <= 1:
                break
            # Interpolate between the two, or else extrapolate from the start.
            if size_many is None:
                ahead = (aim - size_few) * few / ((size_few - coded.size) or 1.0)
                ahead = ahead if ahead > 0 else few
            else:
                between = (aim - size_few) / ((size_many - size_few) or 1.0)
                ahead = min(max(between, 0.1), 0.9) * (many - few)
            count = few + int(min(ahead, many - few))
        return best

    def _fits(self, coded: _Coded) -> bool:
        """Whether the file is within the allowance and close to it."""
        allowed = self.allowed or 0
        return 0 <= allowed - coded.size <= max(_SLACK * allowed, 4.0)

    def _misses(self, coded: _Coded) -> float:
        """Distance from the allowance in bytes; any excess is worse than any shortfall."""
        left = (self.allowed or 0) - coded.size
        return left if left >= 0 else 1e12 - left

    def _order(self, coded: _Coded, grow: bool) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """Useful steps of single indices, the most useful first.

        Returns flat positions, steps of ±1, and the cumulative bits that they take or save.
        """
        # Of an index's two steps, the one that reduces the distance, or the one that saves bits.
        steps, distance, bits = (m.flatten() for m in self._steps(coded, 0.0 if grow else 1e6))
        useful = distance < 0 if grow else bits < 0
        worth = distance / (bits if grow else -bits).clamp_min(1e-3)
        positions = torch.where(useful, worth, torch.inf).argsort()[: int(useful.sum())]
        gained = (bits if grow else -bits)[positions].cumsum(0).cpu().double().numpy()
        gained = np.maximum.accumulate(gained)
        count = int(np.searchsorted(gained, _MOVED * 8.0 * coded.size)) + 1
        positions = positions[:count]
        return positions, steps[positions], gained[:count]

    def _steps(self, coded: _Coded, weight: float) -> tuple[Tensor, ...]:
        """The better step of every index of the picture, at a bit price of `weight`.

        Maps [1, C, rows, columns] of the steps, and of the distance and bits that they would add.
        """
        rate, distance = self._rate(coded.point.quality), self._distance(coded.point)
        whole = tuple(torch.zeros_like(coded.latents) for _ in range(3))
        for window in self.windows:
            q = frames_of(window.area.of(coded.latents))
            # RDOQ's steps if they belong to these latents, or else new ones.
            if self._left is not None and self._left[0] is coded.latents:
                steps = self._left[1]
            else:
                task = PhotoTask(self.model, window, coded.latents, self.x, self.size)
                steps = _rdoq(task, distance, rate, q).steps
            for part, values in zip(whole, steps.better(weight), strict=True):
                window.area.of(part)[:] = map_of(values, window.area)
        return whole

    def _code(self, point: RatePoint, latents: Tensor) -> _Coded:
        """Entropy-code integer latents."""
        quality = point.quality
        q = latents[0].permute(1, 2, 0).cpu().numpy().astype(np.int16)

        def write(tile: Area) -> bytes:
            return self.model.coder.encode(tile.cells_of(q), quality)

        # The compiled coder releases the GIL, so tiles run in parallel.
        with ThreadPoolExecutor(2) as pool:
            payloads = list(pool.map(write, self.header.tiles()))
        bits = 8 * sum(map(len, payloads))
        return _Coded(point, latents, self.job.file(quality, payloads), bits)


class StepPlan:
    """Number of steps and deadlines of the parts of a search.

    choices: steps before the rate point is chosen again; main: steps of the search without
    corrections; correction: further steps for each correction of the rate, or 0.
    """

    def __init__(
        self,
        iterations: int,
        budget: float | None,
        clock: Callable[[], float],
        corrected: bool,
        tune: Tune,
        method: Method,
    ) -> None:
        tuning = tuning_of(tune, iterations)
        self.choices: tuple[int, ...] = ()
        self.correction = 0
        if corrected and iterations >= _FEWEST_IN_TWO:
            self.choices = iterations // 3, 2 * iterations // 3
            self.correction = max(iterations // 8, 1)
        self.main = iterations
        self.total = self.main + tuning.landing.corrections * self.correction
        self.settings = search_settings(iterations, tune, method)
        self._begun, self._budget = clock(), budget

    def deadline(self, until: int) -> float | None:
        """The time by which the first `until` steps must be done."""
        if self._budget is None:
            return None
        return self._begun + self._budget * until / self.total


def search_settings(
    iterations: int, tune: Tune = "psnr", method: Method = "mean-field"
) -> SearchSettings:
    """Search settings; the fewer the iterations, the larger the steps."""
    tuning = tuning_of(tune, iterations)
    long, short = tuning.steps
    step = min(short, max(long, _WAY / max(iterations, 1)))
    return SearchSettings(
        method, iterations, step=step, coupling=5.0, firmness=tuning.firmness,
        moves=tuning.moves, looks=tuning.looks,
    )  # fmt: skip


def _rdoq(task: PhotoTask, distance: Distance, rate: Tensor, latents: Tensor) -> Rdoq:
    """RDOQ of a window's integer latents [1, S, C], at a bit price of 1."""
    with torch.no_grad():
        reference = distance.reference(task.target)
    price = torch.ones_like(rate, dtype=torch.float64)
    return Rdoq(
        task.networks, lambda y: distance.against(reference, y), task.target, rate, price, latents,
        schedule=IMAGE,
    )  # fmt: skip
