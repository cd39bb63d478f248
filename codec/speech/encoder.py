"""Speech to packets, for files and calls alike.

The search sees a frame of up to 1.024 s that slides over the speech: its newest block of latent
steps is searched, those before are fixed. A packet holds one block or several. Columns are analysed
step by step, so that packets do not depend on how the samples were divided into pushes.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.packet import (
    FRAME_STEPS,
    HEADER_BYTES,
    SEQUENCE_MODULUS,
    SESSION_HEADER_BYTES,
    STEPS,
    Kind,
    Packet,
    short_id,
)
from codec.search.engine import by_mean_field, cheapen, refine, search, threads_for
from codec.search.methods import OF_ANY_LATENTS, Method
from codec.search.problem import (
    Distance,
    Networks,
    Problem,
    SearchResult,
    SearchSettings,
)
from codec.search.sliding import NewestDistance, Past, following
from codec.signal import analysis
from codec.signal.activity import ActivityDetector
from codec.signal.analysis import FRAME_HOPS, LEAD, N_MELS, STEP_HOPS, STEP_SAMPLES
from codec.signal.comfort_noise import encode_noise
from codec.signal.samples import FloatArray
from codec.speech.block_coder import TAIL_BITS, BlockCoder, Target
from codec.speech.engine import check_steps
from codec.speech.history import History, Known
from codec.speech.presets import EntropyName
from codec.speech.ratecontrol import STEP_SECONDS, Bits, Plan

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

BLOCK = 4  # the most latent steps that a call searches at once
# Of the search in a call: seconds, and share of its block. In packets of several blocks only the
# last one is waited for, and so a shorter search of it costs little.
LONGEST_TAIL, TAIL_SHARE = 0.02, 0.3
LAST_TAIL = 0.01
# Seconds that what there is of a full block may be searched while its next step is being said, from
# AHEAD_STEPS before it is whole: nothing is late for it, as long as it ends before the next step.
# Packets of several blocks have less of it, as they search all but the last once more in such time.
AHEAD, LONG_AHEAD, AHEAD_STEPS = 0.055, 0.045, 2
CHAINED_BELOW = 4  # packets of fewer steps look back, where nothing is lost
KEY_SECONDS = 4.0  # the longest that a receiver without the past has to wait for a key packet
UNCHAINED_SECONDS = 8.0  # how long packets stay independent once one was lost
SILENT = -0.98  # what never exceeds this (1 dB over the floor) is silence
_NOISE_STEPS = 16  # between two packets of a pause
_NOISE_CHANGE = 8.0  # mean change of the levels, in steps of its payload, that is told at once
_COLUMNS_KEPT = 256  # for display
_GRACE = 0.01  # seconds by which the least search may outlast its budget
_LEARNING = 0.3  # weight of the latest search in how long an iteration takes
_FORGETTING = 0.8  # share of that which is left after each search that it forbade
LEAST_PACKET = 16  # bytes that a limit of packets must leave


@dataclass(frozen=True)
class EncodedPacket:
    """A packet and how it came about.

    packet: None where a pause goes on and nothing need be sent; step: number of its first step;
    steps: how many it holds; active: whether it is speech; iterations: search steps of its last
    block; cost, start_cost: true cost of what was found there and of the encoder network's own
    output, 0 without speech; seconds: spent on all of it; payload_bits: without the header.
    """

    packet: Packet | None
    step: int
    steps: int
    active: bool
    iterations: int = 0
    cost: float = 0.0
    start_cost: float = 0.0
    seconds: float = 0.0
    payload_bits: int = 0


@dataclass
class _Block:
    """A searched block of a packet: symbols [S, C], bits promised and expected, the search."""

    indices: NDArray[np.int8]
    plan: Plan
    bits: float
    iterations: int = 0
    cost: float = 0.0
    start_cost: float = 0.0


@dataclass(frozen=True)
class _Head:
    """What was found of a block before it was whole: latents [1, S, C], their rate point [1]."""

    latents: torch.Tensor
    rate: torch.Tensor
    iterations: int


class SpeechEncoder:
    """Samples in, packets out. For one thread.

    A packet holds `steps` latent steps, searched in blocks of `block` (None: all at once). Whole
    frames do not look back, so that `group` of them can be searched side by side.
    """

    def __init__(
        self,
        codec: SpeechEngine,
        iterations: int | None = None,
        budget: float | None = None,
        method: Method | None = None,
        entropy: EntropyName | None = None,
        group: int = 1,
        *,
        steps: int = FRAME_STEPS,
        block: int | None = None,
        session: bool | None = None,
        chained: bool | None = None,
        activity: ActivityDetector | None = None,
        most_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """iterations: search steps of a block (None: the preset's, or as many as the budget
        allows); budget: seconds of search of a block, from when it is whole (None: files' search,
        which is as long as it takes, and never ahead); method: of the
        search (None: the preset's); entropy: the entropy coder (None: the preset's); session:
        whether packets take their session form (None: all but whole frames do); chained: whether
        they look back (None: the short ones do); activity: finds the pauses, which become comfort
        noise and then nothing (None: all is speech); most_bytes: of a packet with its header.

        Raises BadInput for values out of range, and for what a model cannot do: shorter packets,
        or a method of search.
        """
        if iterations is not None and iterations < 0:
            raise BadInput("search steps cannot be negative")
        if iterations is None and budget is not None:
            iterations = 10_000
        self._codec, self._activity, self._clock = codec, activity, clock
        self._iterations, self._budget, self._share = iterations, budget, 1.0
        self._settings = SearchSettings(
            method=check_method(codec, method), penalty=codec.networks.penalty
        )
        self._coder = BlockCoder(codec, entropy, check_most_bytes(most_bytes))
        if block is not None and block not in STEPS:
            raise BadInput(f"a block cannot be of {block} latent steps (one of {STEPS})")
        self._group, self._most_block = max(group, 1), block
        self._session, self._chain = session, chained
        self._next_preset, self._next_steps = codec.settings, check_steps(codec, steps)
        self._held = np.zeros(LEAD, np.float32)  # samples that later columns still see
        self._columns = np.zeros((0, N_MELS), np.float32)  # a frame's, and those of this packet
        self._recent: deque[FloatArray] = deque(maxlen=_COLUMNS_KEPT)
        self._waiting: list[FloatArray] = []  # whole frames that are searched together
        self._history = History(codec.generator)
        self._sequence = self._step = 0
        self._round = 0.0  # seconds that an iteration takes, lately
        self._quality = codec.settings.quality  # of the latest packet
        self._latest: tuple[Known, Networks] | None = None  # networks, and what comes before
        self._growth: Bits | None = None  # payload bits at each quality, lately
        self._growth_until = 0  # step
        self._due = False  # to look at it again, now that the columns are those of speech
        self._since_key = self._unchained = 0  # steps
        self._pause: bytes | None = None  # what a pause was last said to sound like
        self._since_pause = 0
        self._quiet = 0  # columns since speech ended
        self._detected = 0  # samples of this packet that the activity detector has taken
        self._verdict = True
        self._begin()

    # --- steering ------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Latent steps of the packet that is filling."""
        return self._steps

    def set_preset(self, name: str) -> None:
        """Code from the next packet on at another preset.

        Raises BadInput for an unknown preset, or one of another model.
        """
        self._next_preset = self._codec.sibling(name)

    def set_steps(self, steps: int) -> None:
        """Put another number of latent steps into packets from the next one on. Raises BadInput."""
        self._next_steps = check_steps(self._codec, steps)

    def set_budget(self, seconds: float | None, share: float = 1.0) -> None:
        """Search blocks for so many seconds, from when they are whole; None: without a limit.

        share: of the usual time (`ahead_of`) for each search before that.
        """
        self._budget, self._share = seconds, share

    def want_key(self, lost: bool = False) -> None:
        """Let the next packet be one that needs none before it; after a loss, several seconds of
        them."""
        self._since_key = 1 << 16
        if lost:
            self._unchained = int(UNCHAINED_SECONDS / STEP_SECONDS)

    def reset(self) -> None:
        """Discard the packet that is filling: the next sample begins another one.

        The noise floor, the rate control's credit and the step numbers go on.
        """
        self._coder.control.correct(sum(block.bits for block in self._blocks), 0.0)
        self._recent.clear()
        self._start_afresh()

    def columns(self) -> FloatArray:
        """Log-mel columns [n, N_MELS] analysed since the last call, of the latest two seconds."""
        columns = np.array(self._recent, np.float32).reshape(-1, N_MELS)
        self._recent.clear()
        return columns

    # --- samples -------------------------------------------------------------------------------

    def push(self, samples: FloatArray) -> list[EncodedPacket]:
        """Take 16 kHz mono samples [n], full scale 1; return the packets that became ready.

        NaN and infinities become silence.
        """
        samples = analysis.cleaned(samples).reshape(-1)
        packets: list[EncodedPacket] = []
        needed = STEP_SAMPLES + 2 * LEAD
        while len(self._held) + len(samples) >= needed:
            self._look_after()
            part, samples = np.split(samples, [needed - len(self._held)])
            self._detect(part)
            seen = np.concatenate((self._held, part))
            columns, self._held = analysis.log_mel(seen), seen[STEP_SAMPLES:]
            self._recent.extend(columns)
            self._columns = np.concatenate((self._columns, columns))[-FRAME_HOPS:]
            self._filled += 1
            packets += self._advance()
        if not packets:
            self._look_after()
        self._detect(samples)
        self._held = np.concatenate((self._held, samples))
        return packets

    def finish(self) -> list[EncodedPacket]:
        """The packets of the remaining samples, the last one padded with silence."""
        missing = 0
        left = len(self._held) - LEAD
        if left or self._filled:
            filled = self._filled * STEP_SAMPLES + left
            whole = -(-filled // (self._steps * STEP_SAMPLES)) * self._steps * STEP_SAMPLES
            missing = whole - filled + LEAD
        packets = self.push(np.zeros(missing, np.float32))
        packets += self._encode_frames()
        self._start_afresh()
        return packets

    def _start_afresh(self) -> None:
        """Let the next sample be the first of a packet, with nothing before it."""
        self._held = np.zeros(LEAD, np.float32)
        self._columns = self._columns[:0]
        self._due = False
        self._detected = self._quiet = 0
        self._pause = None
        self._history.clear()
        self._begin()

    def _detect(self, samples: FloatArray) -> None:
        """Give samples to the activity detector, packet by packet."""
        if self._activity is None:
            return
        whole = self._steps * STEP_SAMPLES
        while len(samples):
            part = samples[: whole - self._detected]
            samples = samples[len(part) :]
            self._activity.push(part)
            self._detected += len(part)
            if self._detected == whole:
                self._verdict, self._detected = self._activity.frame_active(), 0

    def _begin(self) -> None:
        """Begin a packet."""
        self._steps, self._filled = self._next_steps, 0
        self._block = self._steps if self._most_block is None else self._most_block
        self._block = min(self._block, self._steps) if self._codec.sliding else self._steps
        session = self._steps < FRAME_STEPS if self._session is None else self._session
        self._header_bytes = SESSION_HEADER_BYTES if session else HEADER_BYTES
        if self._next_preset is not self._coder.preset:
            self._coder.set_preset(self._next_preset)
            self._quality, self._growth = self._next_preset.quality, None
        self._coder.layout(self._steps, self._header_bytes)
        self._blocks: list[_Block] = []
        self._head: _Head | None = None
        self._seconds = 0.0
        self._before = copy.copy(self._history)
        self._chained = False

    def _looks_back(self) -> bool:
        """Whether the packet at hand is chained to the one before."""
        chained = self._steps < CHAINED_BELOW if self._chain is None else self._chain
        # The next key packet could only begin where this one ends.
        due = (self._since_key + self._steps) * STEP_SECONDS > KEY_SECONDS
        return chained and not due and not self._unchained and self._history.context is not None

    def _advance(self) -> list[EncodedPacket]:
        """A step was analysed: search the block and send the packet that it completes."""
        left = -self._filled % self._block
        if left:
            if self._budget is not None and self._block == BLOCK and left <= AHEAD_STEPS:
                self._search_ahead(self._block - left)
            return []
        if self._block == FRAME_STEPS and self._activity is None:
            self._waiting.append(self._columns)
            self._filled = 0
            changed = self._next_preset is not self._coder.preset or self._next_steps != self._steps
            if not changed and len(self._waiting) < self._group:
                return []
            packets = self._encode_frames()
            self._begin()
            return packets
        begun = self._clock()
        last = self._filled == self._steps
        if not last or self._speech(self._columns[-self._filled * STEP_HOPS :]):
            self._search_block(begun, last=last)
        self._seconds += self._clock() - begun
        return [self._complete()] if last else []

    def _speech(self, columns: FloatArray) -> bool:
        """Whether a whole packet's columns are to be coded as speech."""
        verdict = self._activity is None or self._verdict
        return verdict and float(columns.max()) > SILENT

    # --- blocks --------------------------------------------------------------------------------

    def _search_block(self, begun: float, *, last: bool) -> None:
        """Find the latents of the newest block of columns."""
        coder, steps = self._coder, self._block
        if not self._blocks:
            self._chained = self._looks_back()
        chained = self._chained or bool(self._blocks)
        window, x, networks = self._window(steps, chained)
        with threads_for(x):
            quality = self._likely_quality
            guess, bits = coder.guess(window, networks(quality), steps, quality)
            if not self._blocks:
                growth = self._growth
                if growth is None or self._step >= self._growth_until:
                    growth = self._look_at_growth(window, networks(0))
                plan = coder.plan(growth * (bits / max(growth[quality], 1.0)), steps)
            else:
                left = coder.most - sum(block.bits for block in self._blocks)
                plan = coder.control.go_on(quality, bits + 2 * TAIL_BITS, steps, left)
            own = networks(plan.quality)
            # In a hurry, the guess at the next quality will do.
            if abs(plan.quality - quality) > (0 if self._budget is None else 1):
                guess, _ = coder.guess(window, own, steps, plan.quality)
            target = coder.target([plan], steps)
            start = cheapen(own, self._begun(guess, target.rate), target.rate, target.limit)
            self._quality = plan.quality
            block = self._found(own, x, target, start, plan, begun, last=last)
        self._blocks.append(block)
        coder.control.settle([block.bits], steps)
        self._history.add(block.indices, plan.quality / 8.0, chained=chained)

    def _found(
        self,
        networks: Networks,
        x: torch.Tensor,
        target: Target,
        start: torch.Tensor,
        plan: Plan,
        begun: float,
        *,
        last: bool,
    ) -> _Block:
        """The latents of the columns x [1, T, M], searched for if there is time."""
        codec, settings = self._codec, self._search_settings(begun, last=last)
        before = 0 if self._head is None else self._head.iterations
        self._head = None
        overhead = self._coder.overhead
        if self._budget is not None and settings.method == "none":
            latents = networks.quantise(start, 0.0)
            with torch.no_grad():
                bits = networks.prior.bits(latents, target.rate).sum()
            block = _Block(
                codec.networks.indices_of(latents)[0], plan, float(bits) * overhead, before
            )
        else:
            problem = target.problem(networks, self._distance(), x)
            if self._in_haste(settings):
                found = self._refined(problem, settings, start)
            else:
                found = search(problem, settings, start=start, clock=self._clock)
            block = _Block(
                codec.networks.indices_of(found.indices)[0], plan,
                float(found.bits[0]) * overhead,
                before + found.iterations,
                float(found.cost[0]), float(found.start_cost[0]),
            )  # fmt: skip
        return block

    def _refined(
        self, problem: Problem, settings: SearchSettings, start: torch.Tensor
    ) -> SearchResult:
        """A search in limited time, which tells how long the next one's iterations will take."""
        begun = self._clock()
        found = refine(problem, settings, start=start, pace=self._round, clock=self._clock)
        taken = (self._clock() - begun) / found.iterations
        self._round += _LEARNING * (taken - self._round)
        return found

    def _in_haste(self, settings: SearchSettings) -> bool:
        """Whether the time is limited, and the method one that serves in little of it."""
        return self._budget is not None and by_mean_field(self._codec.searchable, settings)

    def _look_at_growth(self, window: torch.Tensor, networks: Networks) -> Bits:
        """How bits grow with quality, which is looked at once in a frame's time."""
        self._growth = self._coder.bits(window, networks, self._block)[0]
        self._growth_until = self._step + FRAME_STEPS
        return self._growth

    def _look_after(self) -> None:
        """Do what the latest packet left to be done, while nobody waits for the next one."""
        if self._due:
            self._due = False
            window, x, networks = self._window(self._block, chained=False)
            with threads_for(x):
                self._look_at_growth(window, networks(0))

    @property
    def _likely_quality(self) -> int:
        """Of the block at hand: that of its packet, or of the packet before."""
        return self._blocks[0].plan.quality if self._blocks else self._quality

    # --- a block that is not yet whole -----------------------------------------------------------

    def _search_ahead(self, steps: int) -> None:
        """Search the first steps of a block while the next one is being said."""
        coder, begun = self._coder, self._clock()
        settings = self._search_settings(begun, last=False)
        quality = self._likely_quality
        if settings.iterations == 0 or not self._in_haste(settings):
            return
        window, x, networks = self._window(steps, bool(self._blocks) or self._looks_back())
        with threads_for(x):
            own = networks(quality)
            guess, _ = coder.guess(window, own, steps, quality)
            target = coder.target([Plan(quality, np.inf)], steps)
            problem = target.problem(own, self._distance(), x)
            found = self._refined(problem, settings, self._begun(guess, target.rate))
        relaxed = found.indices if found.relaxed is None else found.relaxed
        before = 0 if self._head is None else self._head.iterations
        self._head = _Head(relaxed, target.rate, before + found.iterations)
        self._seconds += self._clock() - begun

    def _begun(self, guess: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """A guess [1, S, C] at a block, with what has been found of its beginning."""
        if self._head is None:
            return guess
        head = self._codec.networks.rescale(self._head.latents, self._head.rate, rate)
        return torch.cat((head, guess[:, head.shape[1] :]), dim=1)

    def _window(
        self, steps: int, chained: bool
    ) -> tuple[torch.Tensor, torch.Tensor, Callable[[int], Networks]]:
        """Columns that the encoder network sees [1, T, M], the newest ones [1, T', M], and the
        networks at a quality."""
        newest = self._there(self._columns[-steps * STEP_HOPS :])
        history, begun = self._history, len(self._blocks) * self._block

        def networks(quality: int) -> Networks:
            known = history.before(quality / 8.0, self._steps, begun, chained=chained)
            return self._networks_after(known)

        return self._seen(steps), newest, networks

    def _networks_after(self, known: Known) -> Networks:
        """The networks as the search of what follows sees them."""
        before = self._latest
        if before is None or not before[0].same(known):
            past = Past(*(self._there(part.astype(np.float32)) for part in known))
            # Kept, with what they have found out about the past, for as long as it is the same.
            self._latest = before = known, following(self._codec.searchable, past)
        return before[1]

    def _there(self, rows: FloatArray) -> torch.Tensor:
        """Rows [N, K] on the device of the networks, [1, N, K]."""
        return torch.from_numpy(rows)[None].to(self._codec.device)

    def _seen(self, steps: int) -> torch.Tensor:
        """The columns [1, T, M] that the encoder network sees of the newest steps."""
        seen = min(self._codec.networks.encoder_past, FRAME_STEPS - steps) + steps
        return self._there(self._columns[-seen * STEP_HOPS :])

    def _distance(self) -> Distance:
        whole = self._there(self._columns[-FRAME_STEPS * STEP_HOPS :])
        return NewestDistance(self._codec.distance, whole)

    def _search_settings(self, begun: float, *, last: bool = True) -> SearchSettings:
        iterations = self._iterations
        if iterations is None:
            iterations = self._coder.preset.iterations
        settings = replace(self._settings, iterations=iterations)
        if not last and self._activity is not None and not self._activity.frame_active():
            return replace(settings, method="none")  # most likely part of a pause
        if self._budget is not None:
            budget = self._budget if last else self._share * ahead_of(self._steps)
            left = budget - (self._clock() - begun)
            # A little late rather than without the round that pays most: others are as late.
            grace = _GRACE if last else 0.0
            if left + grace <= self._round:
                # One moment in which the machine stood still must not end all searches.
                self._round *= _FORGETTING
                return replace(settings, method="none")
            settings = replace(settings, budget=left)
        return settings

    # --- packets -------------------------------------------------------------------------------

    def _complete(self) -> EncodedPacket:
        """Make the packet of the columns that are whole, and begin another one."""
        begun = self._clock()
        columns = self._columns[-self._steps * STEP_HOPS :]
        packet = self._speech_packet() if self._speech(columns) else self._pause_packet(columns)
        active = bool(self._blocks) and packet is not None and not packet.pause
        latest = self._blocks[-1] if active else None
        encoded = EncodedPacket(
            packet=packet,
            step=self._step,
            steps=self._steps,
            active=active,
            iterations=latest.iterations if latest else 0,
            cost=latest.cost if latest else 0.0,
            start_cost=latest.start_cost if latest else 0.0,
            seconds=self._seconds + self._clock() - begun,
            payload_bits=8 * len(packet.payload) if packet else 0,
        )
        self._count(packet)
        self._due = active and self._budget is not None and self._step >= self._growth_until
        self._begin()
        return encoded

    def _speech_packet(self) -> Packet:
        coder, blocks = self._coder, self._blocks
        plan = blocks[0].plan
        if len(blocks) > 1:
            plan = Plan(plan.quality, coder.most)
        found = np.concatenate([block.indices for block in blocks])
        known = self._before.before(plan.quality / 8.0, self._steps, chained=self._chained)
        context = self._before.context if self._chained else None
        payload, quality, indices = coder.code(
            self._seen(self._steps), self._networks_after(known), context, found, plan
        )
        kind = Kind.SPEECH
        if not payload:
            payload, kind = self._noise(self._columns[-self._steps * STEP_HOPS :])
            self._history.clear()
        elif indices is not found:
            self._history = copy.copy(self._before)
            self._history.add(indices, quality / 8.0, chained=self._chained)
        coder.control.correct(sum(block.bits for block in blocks), 8.0 * len(payload))
        self._pause = None
        self._quiet = 0
        chained = self._chained and kind is Kind.SPEECH and bool(payload)
        return self._packet(payload, quality, kind, chained=chained)

    def _pause_packet(self, columns: FloatArray) -> Packet | None:
        """What a pause sounds like; None where that has been said and still holds."""
        steps, quality = self._steps, self._coder.preset.quality
        silent = float(columns.max()) <= SILENT
        self._quiet = 0 if silent else min(self._quiet + len(columns), len(self._columns))
        payload, kind = b"", Kind.SPEECH
        if not silent:
            payload, kind = self._noise(self._columns[-self._quiet :])
        self._history.clear()
        before, self._since_pause = self._pause, self._since_pause + steps
        going_on = (
            self._activity is not None
            and before is not None
            and self._since_pause < _NOISE_STEPS
            and not _differ(before, payload)
        )
        taken = 0.0 if going_on else 8.0 * len(payload)
        # Its earlier blocks were searched before it was known for a pause, and settled.
        self._coder.control.correct(sum(block.bits for block in self._blocks), 0.0)
        self._coder.control.settle([taken], steps - len(self._blocks) * self._block)
        if going_on:
            return None
        self._pause, self._since_pause = payload, 0
        return self._packet(payload, quality, kind)

    def _noise(self, columns: FloatArray) -> tuple[bytes, Kind]:
        """Payload and kind of comfort noise like these columns, of silence where it is too long."""
        payload = encode_noise(columns)
        if 8 * len(payload) > self._coder.most:
            return b"", Kind.SPEECH
        return payload, Kind.COMFORT_NOISE

    def _packet(
        self, payload: bytes, quality: int, kind: Kind = Kind.SPEECH, *, chained: bool = False
    ) -> Packet:
        number = self._step if self._header_bytes == SESSION_HEADER_BYTES else self._sequence
        return Packet(
            number % SEQUENCE_MODULUS, quality, payload, short_id(self._codec.model_id), kind,
            self._coder.entropy, chained, self._steps,
        )  # fmt: skip

    def _count(self, packet: Packet | None) -> None:
        steps = self._steps
        self._sequence += 1
        self._step += steps
        self._unchained = max(self._unchained - steps, 0)
        key = packet is not None and not packet.pause and not packet.chained
        self._since_key = steps if key else self._since_key + steps

    # --- whole frames --------------------------------------------------------------------------

    def _encode_frames(self) -> list[EncodedPacket]:
        """Search the frames that wait side by side; they do not depend on each other."""
        frames, self._waiting = self._waiting, []
        if not frames:
            return []
        begun = self._clock()
        codec, coder = self._codec, self._coder
        x = torch.from_numpy(np.stack(frames)).to(codec.device)
        with threads_for(x):
            plans = [
                coder.plan(row, FRAME_STEPS) for row in coder.bits(x, codec.searchable, FRAME_STEPS)
            ]
            target = coder.target(plans, FRAME_STEPS)
            settings = self._search_settings(begun)
            if settings.budget is not None:
                settings = replace(settings, budget=settings.budget * len(frames))
            start = coder.start(x, codec.searchable, FRAME_STEPS, target.rate, target.limit)
            problem = target.problem(codec.searchable, codec.distance, x)
            result = search(problem, settings, start=start, clock=self._clock)
            indices = codec.networks.indices_of(result.indices)
        packets = []
        seconds = (self._clock() - begun) / len(frames)
        for row, plan in enumerate(plans):
            payload, quality, kind = b"", plan.quality, Kind.SPEECH
            self._history.clear()
            if float(frames[row].max()) > SILENT:
                own = x[row : row + 1]
                payload, quality, found = coder.code(
                    own, codec.searchable, None, indices[row], plan
                )
                if payload:
                    self._history.add(found, quality / 8.0, chained=False)
                else:
                    payload, kind = self._noise(frames[row])
            packet = self._packet(payload, quality, kind)
            packets.append(
                EncodedPacket(
                    packet, self._step, FRAME_STEPS, not packet.pause, result.iterations,
                    float(result.cost[row]), float(result.start_cost[row]), seconds,
                    8 * len(payload),
                )
            )  # fmt: skip
            self._count(packet)
        coder.control.settle([float(each.payload_bits) for each in packets], FRAME_STEPS)
        return packets


def _differ(before: bytes, after: bytes) -> bool:
    """Whether two pauses sound so different that it is worth a packet."""
    if len(before) != len(after):
        return True
    if not before:
        return False
    levels = [np.frombuffer(payload, np.uint8).astype(np.float32) for payload in (before, after)]
    return bool(np.abs(levels[0] - levels[1]).mean() > _NOISE_CHANGE)


def tail_of(steps: int) -> float:
    """Seconds that a call may search a block of packets of so many latent steps."""
    return LAST_TAIL if steps > BLOCK else min(LONGEST_TAIL, TAIL_SHARE * steps * STEP_SECONDS)


def ahead_of(steps: int) -> float:
    """Seconds that a call may search a block of packets of so many latent steps, each time before
    the packet is whole."""
    return AHEAD if steps <= BLOCK else LONG_AHEAD


def live_encoder(
    codec: SpeechEngine,
    steps: int,
    *,
    iterations: int | None = None,
    tail: float | None = None,
    most_bytes: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SpeechEncoder:
    """The encoder of a call: short blocks, each searched for `tail` seconds at most (None: what
    suits packets of so many steps), and pauses found."""
    return SpeechEncoder(
        codec, iterations, tail_of(steps) if tail is None else tail,
        steps=steps, block=BLOCK, session=True, activity=ActivityDetector(),
        most_bytes=most_bytes, clock=clock,
    )  # fmt: skip


def check_method(codec: SpeechEngine, method: Method | None) -> Method:
    """The search method, the preset's own if it is None. Raises BadInput if it cannot search the
    latents of the codec."""
    if method is None:
        return codec.settings.method
    if method in ("none", *OF_ANY_LATENTS) or codec.searchable.steps is not None:
        return method
    raise BadInput(
        f"preset {codec.preset} has no whole latents: it is searched by admm or backprop, "
        f"not by {method}"
    )


def check_most_bytes(most: int | None) -> int | None:
    """A limit of packets, if it leaves room for a header and noise. Raises BadInput."""
    if most is not None and most < LEAST_PACKET:
        raise BadInput(f"packets of {most} bytes are too short: at least {LEAST_PACKET}")
    return most
