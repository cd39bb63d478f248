"""The live encoder, whose search of a frame begins while the frame is still filling.

The owner's loop is: `push` new samples, send the packets that come out, and call `refine` while
there is nothing else to do. No call takes longer than about its slice, or the tail.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.packet import MAX_PAYLOAD, Kind, pack
from codec.search.admm import Descent, cheapen
from codec.search.problem import SearchSettings
from codec.search.rdoq import Rdoq
from codec.signal import analysis
from codec.signal.activity import ActivityDetector
from codec.signal.analysis import FRAME_HOPS, FRAME_SAMPLES, HOP, LEAD, N_MELS, WINDOW
from codec.signal.comfort_noise import encode_noise
from codec.signal.samples import FloatArray
from codec.speech.encoder import SILENT, FrameCoder, Target
from codec.speech.presets import find_preset
from codec.speech.ratecontrol import Bits, Plan

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

SLICE = 0.04  # seconds, the longest that `refine` takes, save for one step's misjudgement
_COLUMNS_KEPT = 2 * FRAME_HOPS  # analysed columns kept for display

# How a frame is searched while it fills; hops are columns. Chosen on training clips: all of these
# lie in flat optima.
_BEGIN = 40  # hops that must be there before the search begins
_BATCH = 4  # steps that must have become due before it goes on ...
_FRESH = 4  # ... and hops, for the encoder has to look at the frame again
_EARLY = 0.875  # share of the steps for the time before the frame is whole
_MARGIN = 8  # hops after its own that a latent step must have seen for its latents to be kept
_ESTIMATE = 32  # hops after which the frame's bits are estimated anew
_GROWTH = 0.5  # steps are larger by this power of how many fewer a latent step will see ...
_LARGEST = 2.5  # ... and at most this much
_STEERING = 0.5  # bit prices change faster than offline: there are fewer steps to change them in
_RDOQ = 0.75  # share of the last steps, or of their time, for optimised quantisation (RDOQ)
_FEW = 10  # steps at the end towards the bit limit, where the search exceeded it


@dataclass(frozen=True)
class EncodedFrame:
    """A packet and how it came about.

    steps: of search; cost, start_cost: true cost of the sent frame and of the encoder network's
    own output, 0 for frames without speech; seconds: spent on analysis and search; payload_bits:
    without the header; quality: the rate point in eighths.
    """

    packet: bytes
    active: bool
    steps: int
    cost: float
    start_cost: float
    seconds: float
    payload_bits: int
    quality: int


class LiveEncoder:
    """Samples in as they come, a packet soon after each frame's last one. For one thread."""

    def __init__(
        self,
        codec: SpeechEngine,
        *,
        iterations: int | None = None,
        tail: float = 0.06,
        clock: Callable[[], float] = time.monotonic,
        activity: ActivityDetector | None = None,
    ) -> None:
        """iterations: search steps per frame (None: the preset's); tail: seconds of search after a
        frame's last sample; activity: finds the frames without speech, which become comfort noise
        (None: all frames are speech). Raises BadInput for negative iterations.
        """
        if iterations is not None and iterations < 0:
            raise BadInput("search steps cannot be negative")
        self._codec, self._activity = codec, activity
        self._tail, self._clock = max(tail, 0.0), clock
        self._coder = FrameCoder(codec)
        self._search = LiveSearch(codec, self._coder, iterations, clock)
        self._search.warm_up()
        analysis.log_mel(np.zeros(WINDOW, np.float32))
        self._next_preset = codec.settings
        self._held = np.zeros(LEAD, np.float32)  # samples that later columns still see
        self._frame = np.full((FRAME_HOPS, N_MELS), -1.0, np.float32)
        self._known = 0  # columns of the frame so far
        self._detected = 0  # samples of its frame that the activity detector has taken
        self._verdict = True  # of the activity detector on its last whole frame
        self._seconds = 0.0
        self._recent: deque[FloatArray] = deque(maxlen=_COLUMNS_KEPT)

    def push(self, samples: FloatArray) -> list[EncodedFrame]:
        """Take 16 kHz mono samples [n], full scale 1; return the frames they completed.

        NaN and infinities become silence. Blocks for up to `tail` seconds of search per frame.
        """
        begun = self._clock()
        samples = analysis.cleaned(samples).reshape(-1)
        frames: list[EncodedFrame] = []
        while len(samples):
            missing = (FRAME_HOPS - self._known - 1) * HOP + WINDOW - len(self._held)
            part, samples = samples[:missing], samples[missing:]
            self._detect(part)
            self._analyse(part)
            if self._known == FRAME_HOPS:
                frames.append(self._complete(begun))
                begun = self._clock()
        self._seconds += self._clock() - begun
        return frames

    def refine(self) -> bool:
        """Search the partly filled frame for up to `SLICE` seconds; False if nothing is due."""
        if not self._search.wants(self._known) or not self._worth_searching():
            return False
        begun = self._clock()
        self._search.refine(self._frame, self._known, begun + SLICE)
        self._seconds += self._clock() - begun
        return True

    def set_preset(self, name: str) -> None:
        """Code frames from the next one on at another preset.

        Raises BadInput for an unknown preset, or one of another model.
        """
        preset, ours = find_preset(name), self._codec.settings
        if preset.model != ours.model:
            raise BadInput(
                f"preset {name!r} has another model than {ours.name!r}; it needs a new stream"
            )
        self._next_preset = preset

    def reset(self) -> None:
        """Discard the frame that is filling: the next sample is the first of another one.

        The noise floor and the rate control's credit stay.
        """
        self._held = np.zeros(LEAD, np.float32)
        self._detected = 0
        self._recent.clear()
        self._begin_frame()

    def columns(self) -> FloatArray:
        """Log-mel columns [n, 128] analysed since the last call, of the latest two seconds."""
        columns = np.array(self._recent, np.float32).reshape(-1, N_MELS)
        self._recent.clear()
        return columns

    def _detect(self, samples: FloatArray) -> None:
        """Give samples to the activity detector, frame by frame."""
        if self._activity is None:
            return
        while len(samples):
            part = samples[: FRAME_SAMPLES - self._detected]
            samples = samples[len(part) :]
            self._activity.push(part)
            self._detected += len(part)
            if self._detected == FRAME_SAMPLES:
                self._verdict, self._detected = self._activity.frame_active(), 0

    def _analyse(self, samples: FloatArray) -> None:
        """Turn samples into columns of the frame."""
        held = np.concatenate((self._held, samples))
        count = max((len(held) - WINDOW) // HOP + 1, 0)
        columns = analysis.log_mel(held)
        self._held = held[count * HOP :].copy()
        self._frame[self._known : self._known + count] = columns
        self._known += count
        self._recent.extend(columns)

    def _worth_searching(self) -> bool:
        """Whether the frame so far may be speech."""
        if self._frame[: self._known].max(initial=-1.0) <= SILENT:
            return False
        return self._activity is None or self._activity.frame_active()

    def _complete(self, begun: float) -> EncodedFrame:
        """Finish the search of the whole frame and make its packet; begin another frame."""
        frame, search, coder = self._frame, self._search, self._coder
        silent = float(frame.max()) <= SILENT
        active = self._verdict and not silent
        payload, quality, kind, cost, start_cost = b"", coder.preset.quality, Kind.SPEECH, 0.0, 0.0
        if active:
            found = search.finish(frame, self._clock() + self._tail)
            x = torch.from_numpy(frame)[None].to(self._codec.device)
            payload, quality = coder.code(x, found.indices, found.plan)
            cost, start_cost = found.cost, found.start_cost
        elif not silent:
            payload, kind = encode_noise(frame), Kind.COMFORT_NOISE
        coder.rate_control.settle([8.0 * len(payload)])
        encoded = EncodedFrame(
            packet=pack(coder.packet(payload, quality, kind)),
            active=active,
            steps=search.steps,
            cost=cost,
            start_cost=start_cost,
            seconds=self._seconds + self._clock() - begun,
            payload_bits=8 * len(payload),
            quality=quality,
        )
        self._begin_frame()
        return encoded

    def _begin_frame(self) -> None:
        self._known, self._seconds = 0, 0.0
        self._search.reset()
        if self._next_preset is not self._coder.preset:
            self._coder.set_preset(self._next_preset)


@dataclass(frozen=True)
class _Estimate:
    """What the first `known` columns of a frame say about the whole.

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
    """A frame [T, M] with its first `known` (> 0) columns mirrored into the others."""
    missing = len(columns) - known
    return np.pad(columns[:known], ((0, missing), (0, 0)), mode="symmetric")


class Pace:
    """A running estimate of the seconds that something takes: quick to rise, slow to fall."""

    def __init__(self) -> None:
        self.seconds = 0.01

    def note(self, seconds: float) -> None:
        share = 0.5 if seconds > self.seconds else 0.1
        self.seconds += share * (seconds - self.seconds)


class LiveSearch:
    """Searches one frame after another, from while it fills until it must be sent.

    The missing columns are taken to mirror those that are there, which keeps level, spectrum and
    bit rate those of the talker. Latent steps see their own columns and a few beside them only, so
    that latents found for the early ones stay good as the frame fills; the late ones start afresh
    from the encoder network. Once the frame is whole, a last few steps run under a deadline, and
    the best of the quantised candidates is kept, the encoder network's own among them.
    """

    def __init__(
        self,
        codec: SpeechEngine,
        coder: FrameCoder,
        iterations: int | None,
        clock: Callable[[], float],
    ) -> None:
        """iterations: the most steps per frame (None: those of the coder's preset)."""
        self._networks, self._searchable = codec.networks, codec.searchable
        self._distance, self._device = codec.distance, codec.device
        self._coder = coder
        self._iterations = iterations
        self._settings = SearchSettings(penalty=codec.networks.penalty, steering=_STEERING)
        self._clock = clock
        self._step_pace, self._rdoq_pace, self._score_pace = Pace(), Pace(), Pace()
        self.reset()

    @property
    def _limit(self) -> int:
        """The most steps per frame."""
        return self._coder.preset.iterations if self._iterations is None else self._iterations

    def reset(self) -> None:
        """Discard the frame; the next call begins another."""
        self.steps = 0
        self._known = 0  # columns the search has seen
        self._descent: Descent | None = None
        self._start: torch.Tensor | None = None  # the encoder network's latents for them
        self._estimate: _Estimate | None = None

    def warm_up(self) -> None:
        """Run every step of a search once, so that the first frame takes no longer than others."""
        plan = Plan(self._coder.preset.quality, MAX_PAYLOAD * 8.0)
        target = self._coder.target([plan])
        x = torch.linspace(-1.0, 0.0, FRAME_HOPS * N_MELS, device=self._device)
        x = x.reshape(1, FRAME_HOPS, N_MELS)
        self._coder.bits(x)
        descent = self._aim(x, target, self._coder.start(x, target.rate, target.limit))
        descent.step(0.0)
        descent.score()
        if self._searchable.steps is not None:
            descent.rdoq(descent.candidates[0]).round()
        self._coder.code(x, self._networks.indices_of(descent.candidates[0])[0], plan)
        self.reset()

    def due(self, known: int) -> int:
        """Steps that `known` columns allow, beyond those taken."""
        share = max(known - _BEGIN, 0) / (FRAME_HOPS - _BEGIN)
        return int(_EARLY * self._limit * share) - self.steps

    def wants(self, known: int) -> bool:
        """Whether a slice of search is worth its time now."""
        if known == self._known:
            return self.due(known) > 0  # the last slice was too short
        return known >= self._known + _FRESH and self.due(known) >= _BATCH

    def refine(self, columns: FloatArray, known: int, deadline: float) -> None:
        """Search on until the steps due are done or the deadline is near; one step at least.

        columns: [T, M] log-mel, of which `known` are there.
        """
        descent = self._descent
        if descent is None or known != self._known:
            descent = self._extend(columns, known)
        while self.due(known) > 0:
            self._step(descent, self._limit - self.steps)
            if self._clock() + self._step_pace.seconds > deadline:
                break

    def finish(self, columns: FloatArray, deadline: float) -> Found:
        """Search the whole frame [T, M] until its iterations or the time are used up."""
        x = self._tensor(columns)
        plan, start = self._plan(x)
        target = self._coder.target([plan])
        start = cheapen(self._searchable, start, target.rate, target.limit)
        descent = self._aim(x, target, start)
        integer = self._searchable.steps is not None  # latents that RDOQ can improve
        share = _RDOQ if integer else 0.0
        last = self._limit - int(share * (self._limit - self.steps))
        spare = deadline - self._clock() - (1 + integer) * self._score_pace.seconds
        descended = self._clock() + (1.0 - share) * spare
        while self.steps < last:
            left = int((descended - self._clock()) / self._step_pace.seconds)
            if left < 1:
                break
            self._step(descent, min(last - self.steps, left))
        if self.steps == 0:
            self._step_pace.seconds *= 0.8  # no step fitted in; the estimate may be out of date
        begun = self._clock()
        options = [self._searchable.quantise(start, 0.0)]
        if descent.age.any():
            z = cheapen(self._searchable, descent.z, target.rate, target.limit, _FEW)
            options.append(self._searchable.quantise(z, 0.0))
        costs, _ = descent.score(options)
        best = int(costs[:, 0].argmin())
        found, cost, start_cost = options[best], float(costs[best]), float(costs[0])
        self._score_pace.note(self._clock() - begun)
        if integer:
            found, cost = self._rdoq(descent, found, cost, deadline)
        return Found(self._networks.indices_of(found)[0], plan, cost, start_cost)

    def _rdoq(
        self, descent: Descent, latents: torch.Tensor, cost: float, deadline: float
    ) -> tuple[torch.Tensor, float]:
        """Latents [1, S, C] and their cost after as many rounds of RDOQ as there is time for."""
        rdoq: Rdoq | None = None
        while self.steps < self._limit:
            begun = self._clock()
            rounds = 2.0 if rdoq is None else 1.0  # the first one only prepares
            if begun + rounds * self._rdoq_pace.seconds + self._score_pace.seconds > deadline:
                break
            if rdoq is None:
                rdoq = descent.rdoq(latents)
            else:
                rdoq.round()
            self.steps += 1
            self._rdoq_pace.note(self._clock() - begun)
        if rdoq is None:
            return latents, cost
        begun = self._clock()
        costs, _ = descent.score([rdoq.latents])
        self._score_pace.note(self._clock() - begun)
        refined = float(costs[0])
        return (rdoq.latents, refined) if refined < cost else (latents, cost)

    def _tensor(self, columns: FloatArray) -> torch.Tensor:
        return torch.from_numpy(columns)[None].to(self._device)

    def _extend(self, columns: FloatArray, known: int) -> Descent:
        """Take in the columns that are new since the last slice."""
        x = self._tensor(filled(columns, known))
        estimate = self._estimate
        if estimate is None or known >= estimate.known + _ESTIMATE:
            bits = self._coder.bits(x)[0]
            estimate = _Estimate(bits, self._coder.plan(bits, preview=True), known)
            self._estimate = estimate
        target = self._coder.target([estimate.plan])
        descent = self._aim(x, target, self._encoded(x, target))
        self._known = known
        return descent

    def _plan(self, x: torch.Tensor) -> tuple[Plan, torch.Tensor]:
        """The plan of the whole frame x [1, T, M], and its warm start."""
        coder, estimate = self._coder, self._estimate
        if estimate is None:
            plan = coder.plan(coder.bits(x)[0])
            return plan, self._encoded(x, coder.target([plan]))
        # The estimate tells how bits grow with quality; only their level is measured anew.
        target = coder.target([estimate.plan])
        start = self._encoded(x, target)
        taken = coder.ideal_bits(self._searchable.quantise(start, 0.0), target.rate)
        expected = max(float(estimate.bits[estimate.plan.quality]), 1.0)
        plan = coder.plan(estimate.bits * (taken / expected))
        if plan.quality != estimate.plan.quality:
            start = self._encoded(x, coder.target([plan]))
        return plan, start

    @torch.no_grad()
    def _encoded(self, x: torch.Tensor, target: Target) -> torch.Tensor:
        return self._searchable.encoder(x, target.rate)

    def _aim(self, x: torch.Tensor, target: Target, start: torch.Tensor) -> Descent:
        """Point the search at x [1, T, M]; latents of steps that had seen enough are kept."""
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
            # The kept latents follow the changes of the encoder network's output.
            latents = torch.where(kept, start + found - base, start)
            descent.revise(x, target.rate, target.weight, target.limit, latents, kept)
        self._start = start
        return self._descent

    def _step(self, descent: Descent, left: int) -> None:
        """One step, of about `left` that are to come."""
        settings, begun = self._settings, self._clock()
        whole = descent.age + left
        progress = descent.age / whole
        growth = (self._limit / whole).clamp_min(1.0) ** _GROWTH
        size = settings.step * (1.0 - 0.9 * progress) * growth.clamp_max(_LARGEST)
        descent.step(size.to(descent.z.dtype))
        self.steps += 1
        self._step_pace.note(self._clock() - begun)
