"""The search of a frame that is still filling: what is heard is searched, what is not is guessed.

The columns that are not there yet are taken to mirror those that are, which keeps level, spectrum
and bit rate those of the talker. Latent steps see their own columns and a few beside them only, so
that what the search found for the early ones stays good when the rest of the frame comes in; the
late ones start afresh from the encoder. Once the frame is whole, a last few steps run under a
deadline, and the best of the quantised candidates is kept, the encoder's own among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.packet import MAX_PAYLOAD
from codec.search.admm import Descent, SearchSettings, cheapen
from codec.search.rdoq import Polish
from codec.signal.analysis import FRAME_HOPS, N_MELS
from codec.signal.samples import FloatArray
from codec.speech.frame_coder import FrameCoder, Target
from codec.speech.ratecontrol import Bits, Plan

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec



# How a frame is searched while it fills; hops are columns. Chosen on training clips: all of these
# lie in flat optima.
_BEGIN = 40  # hops that must be there before the search begins
_BATCH = 4  # steps that must have become due before it goes on ...
_FRESH = 4  # ... and hops, for the encoder has to look at the frame again
_EARLY = 0.875  # share of the steps for the time before the frame is whole
_MARGIN = 8  # hops after its own that a latent step must have seen for what it found to be kept
_ESTIMATE = 32  # hops after which the frame's bits are estimated anew
_GROWTH = 0.5  # steps are larger by this power of how many fewer a latent step will see ...
_LARGEST = 2.5  # ... and at most so much
_STEERING = 0.5  # bit prices move faster than offline: there are fewer steps to move them
_MOVES = 0.75  # share of the last steps, or of their time, that is for moves of single indices
_FEW = 10  # steps at the end towards the bit limit, where the search went beyond it


@dataclass(frozen=True)
class Guess:
    """What the part of a frame that is there, `known` columns, lets expect of the whole.

    bits: [qualities] payload bits of the warm start; plan: what would be planned for them.
    """

    bits: Bits
    plan: Plan
    known: int


@dataclass(frozen=True)
class Found:
    """A searched frame: symbols [S, C], the plan they were searched for, and their true costs."""

    indices: NDArray[np.int8]
    plan: Plan
    cost: float
    start_cost: float


def filled(columns: FloatArray, known: int) -> FloatArray:
    """A frame [T, M] of which the first `known` (> 0) columns are heard, mirrored in the others."""
    unheard = len(columns) - known
    return np.pad(columns[:known], ((0, unheard), (0, 0)), mode="symmetric")


class Pace:
    """A running estimate of how long something takes, in seconds."""

    def __init__(self, guess: float) -> None:
        self.seconds = guess

    def note(self, seconds: float) -> None:
        """Quick to learn that things take longer, slow to forget it."""
        share = 0.5 if seconds > self.seconds else 0.1
        self.seconds += share * (seconds - self.seconds)


class GrowingSearch:
    """Searches one frame after another, each from while it fills until it must be sent."""

    def __init__(
        self,
        codec: SpeechCodec,
        coder: FrameCoder,
        iterations: int,
        clock: Callable[[], float],
    ) -> None:
        self._networks, self._searchable = codec.networks, codec.searchable
        self._distance, self._device = codec.distance, codec.device
        self._coder = coder
        self._settings = SearchSettings(
            iterations=iterations, penalty=codec.networks.penalty, steering=_STEERING
        )
        self._clock = clock
        self._step_pace, self._move_pace, self._score_pace = Pace(0.01), Pace(0.01), Pace(0.01)
        self.reset()

    def set_iterations(self, iterations: int) -> None:
        """How many steps a frame gets at most."""
        self._settings = replace(self._settings, iterations=iterations)

    def reset(self) -> None:
        """Forget the frame; the next call begins another."""
        self.steps = 0
        self._known = 0  # columns the search has seen
        self._descent: Descent | None = None
        self._start: torch.Tensor | None = None  # the encoder's latents for them
        self._guess: Guess | None = None

    def warm_up(self) -> None:
        """Do all that a frame needs once, so that the first one takes no longer than others."""
        plan = Plan(self._coder.preset.quality, MAX_PAYLOAD * 8.0)
        target = self._coder.target([plan])
        x = torch.linspace(-1.0, 0.0, FRAME_HOPS * N_MELS, device=self._device)
        x = x.reshape(1, FRAME_HOPS, N_MELS)
        self._coder.bits(x)
        descent = self._aim(x, target, self._coder.start(x, target.rate, target.limit))
        descent.step(0.0)
        descent.score()
        if self._searchable.neighbours is not None:
            descent.polish(descent.candidates[0]).round()
        self._coder.code(x, self._networks.indices_of(descent.candidates[0])[0], plan)
        self.reset()

    def due(self, known: int) -> int:
        """Steps to take now that `known` columns are there, beyond those taken."""
        share = max(known - _BEGIN, 0) / (FRAME_HOPS - _BEGIN)
        return int(_EARLY * self._settings.iterations * share) - self.steps

    def wants(self, known: int) -> bool:
        """Whether a slice of search is worth its while now."""
        if known == self._known:
            return self.due(known) > 0  # the last slice was not long enough
        return known >= self._known + _FRESH and self.due(known) >= _BATCH

    def refine(self, columns: FloatArray, known: int, deadline: float) -> None:
        """Search on until the steps due are done or the deadline is near; one step at least.

        columns: [T, M] log-mel, of which `known` are heard.
        """
        descent = self._descent
        if descent is None or known != self._known:
            descent = self._grow(columns, known)
        while self.due(known) > 0:
            self._step(descent, self._settings.iterations - self.steps)
            if self._clock() + self._step_pace.seconds > deadline:
                break

    def finish(self, columns: FloatArray, deadline: float) -> Found:
        """Search the whole frame [T, M] until its iterations or the time are used up."""
        x = self._tensor(columns)
        plan, start = self._settle(x)
        target = self._coder.target([plan])
        start = cheapen(self._searchable, start, target.rate, target.limit)
        descent = self._aim(x, target, start)
        moving = self._searchable.neighbours is not None
        share = _MOVES if moving else 0.0
        last = self._settings.iterations - int(share * (self._settings.iterations - self.steps))
        spare = deadline - self._clock() - (1 + moving) * self._score_pace.seconds
        descended = self._clock() + (1.0 - share) * spare
        while self.steps < last:
            left = int((descended - self._clock()) / self._step_pace.seconds)
            if left < 1:
                break
            self._step(descent, min(last - self.steps, left))
        if self.steps == 0:
            self._step_pace.seconds *= 0.8  # was too slow for any step, and may not be any more
        begun = self._clock()
        options = [self._searchable.quantise(start, 0.0)]
        if descent.age.any():
            z = cheapen(self._searchable, descent.z, target.rate, target.limit, _FEW)
            options.append(self._searchable.quantise(z, 0.0))
        costs, _ = descent.score(options)
        best = int(costs[:, 0].argmin())
        found, cost, start_cost = options[best], float(costs[best]), float(costs[0])
        self._score_pace.note(self._clock() - begun)
        if moving:
            found, cost = self._moved(descent, found, cost, deadline)
        return Found(self._networks.indices_of(found)[0], plan, cost, start_cost)

    def _moved(
        self, descent: Descent, latents: torch.Tensor, cost: float, deadline: float
    ) -> tuple[torch.Tensor, float]:
        """Latents [1, S, C] and their cost after moves of single indices, if time is left."""
        polish: Polish | None = None
        while self.steps < self._settings.iterations:
            begun = self._clock()
            rounds = 2.0 if polish is None else 1.0  # the first of them only looks at what there is
            if begun + rounds * self._move_pace.seconds + self._score_pace.seconds > deadline:
                break
            if polish is None:
                polish = descent.polish(latents)
            else:
                polish.round()
            self.steps += 1
            self._move_pace.note(self._clock() - begun)
        if polish is None:
            return latents, cost
        begun = self._clock()
        costs, _ = descent.score([polish.latents])
        self._score_pace.note(self._clock() - begun)
        moved = float(costs[0])
        return (polish.latents, moved) if moved < cost else (latents, cost)

    def _tensor(self, columns: FloatArray) -> torch.Tensor:
        return torch.from_numpy(columns)[None].to(self._device)

    def _grow(self, columns: FloatArray, known: int) -> Descent:
        """Take in the columns heard since the last slice."""
        x = self._tensor(filled(columns, known))
        guess = self._guess
        if guess is None or known >= guess.known + _ESTIMATE:
            bits = self._coder.bits(x)[0]
            guess = self._guess = Guess(bits, self._coder.plan(bits, preview=True), known)
        target = self._coder.target([guess.plan])
        descent = self._aim(x, target, self._encoded(x, target))
        self._known = known
        return descent

    def _settle(self, x: torch.Tensor) -> tuple[Plan, torch.Tensor]:
        """The plan of the whole frame x [1, T, M], and its warm start."""
        coder, guess = self._coder, self._guess
        if guess is None:
            plan = coder.plan(coder.bits(x)[0])
            return plan, self._encoded(x, coder.target([plan]))
        # How bits grow with quality is known well from the part; only their level is new.
        target = coder.target([guess.plan])
        start = self._encoded(x, target)
        taken = coder.ideal_bits(self._searchable.quantise(start, 0.0), target.rate)
        plan = coder.plan(guess.bits * (taken / max(float(guess.bits[guess.plan.quality]), 1.0)))
        if plan.quality != guess.plan.quality:
            start = self._encoded(x, coder.target([plan]))
        return plan, start

    @torch.no_grad()
    def _encoded(self, x: torch.Tensor, target: Target) -> torch.Tensor:
        return self._searchable.encoder(x, target.rate)

    def _aim(self, x: torch.Tensor, target: Target, start: torch.Tensor) -> Descent:
        """Point the search at x [1, T, M]; latent steps that it knew well stay as they are."""
        if self._descent is None or self._start is None:
            self._descent = Descent(
                self._searchable, self._distance, x, target.rate, target.weight,
                self._settings, start, target.limit,
            )  # fmt: skip
        else:
            descent, patch = self._descent, FRAME_HOPS // start.shape[1]
            seen = torch.arange(1, start.shape[1] + 1, device=start.device) * patch
            kept = (seen + _MARGIN <= self._known)[None, :, None]
            found, base = (
                self._networks.rescale(z, descent.rate, target.rate)
                for z in (descent.z, self._start)
            )
            # What the encoder now sees differently moves what the search made of it.
            latents = torch.where(kept, start + found - base, start)
            descent.revise(x, target.rate, target.weight, target.limit, latents, kept)
        self._start = start
        return self._descent

    def _step(self, descent: Descent, left: int) -> None:
        """One step, of about `left` that are to come."""
        settings, begun = self._settings, self._clock()
        whole = descent.age + left
        progress = descent.age / whole
        growth = (settings.iterations / whole).clamp_min(1.0) ** _GROWTH
        size = settings.step * (1.0 - 0.9 * progress) * growth.clamp_max(_LARGEST)
        descent.step(size.to(descent.z.dtype))
        self.steps += 1
        self._step_pace.note(self._clock() - begun)
