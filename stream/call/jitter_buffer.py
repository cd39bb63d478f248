"""The jitter buffer: when to play what, decided without sound, threads or clocks.

Time is counted in samples handed to the loudspeaker. `JitterBuffer` is told what arrives, what has
been pulled and what a finished task took, and names the next task: decode a frame, conceal a few
columns, or fall silent. `stream.call.remote_stream` carries the tasks out.

A frame is 128 columns of 8 ms, and everything happens in columns. When the queue of samples runs
low and the next frame is not here, columns are concealed in small blocks. A frame that arrives
after c of them is played whole if that keeps the delay within bounds (the delay then grows by c
columns), otherwise without its first c columns. So only what missed its time is lost.

The delay is measured, then chosen, as Jamulus chooses its buffer sizes: for every recent frame it
is known what delay would have been enough, so every delay can be tried on the arrivals as they
were. The cheapest one is wanted, where a frame too late costs as much as a certain delay.
Differences between the wanted delay and the present one become columns to insert or remove, which
also follows the drift between two clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from codec.packet import Packet, unwrap_sequence
from codec.signal.analysis import FRAME_HOPS, FRAME_SAMPLES, HOP
from codec.signal.samples import SAMPLE_RATE
from stream.call.snapshot import Arrivals

MILLISECOND = SAMPLE_RATE // 1000

CONCEAL_BLOCK = 8  # columns concealed at a time
CONCEAL_LIMIT = 3 * FRAME_HOPS  # columns of concealment after which there is silence
STORE = 8  # frames kept that cannot be played yet
LATE_WINDOW = (
    8  # packets this many frames old are late; older ones come from a sender that has restarted
)
WINDOW = 48  # frames whose arrivals decide the delay
TRUSTED = 6  # frames to be seen before the delay may shrink
MARGIN = 12 * MILLISECOND  # wanted on top of what the arrivals ask for
STRETCH_LIMIT = 320 * MILLISECOND  # the delay never exceeds the fastest frame's needs by more
LATE_PRICE = 40 * MILLISECOND  # delay worth spending to have one late frame fewer in the window
# A frame that would wait longer than this comes from a backlog: what is older is given up.
BACKLOG = 768 * MILLISECOND
QUEUE_LIMIT = 2 * SAMPLE_RATE  # no frame is decoded while so much waits to be played

# Sound that must be queued, beyond one pull, for scheduling: grows after underruns, then recovers.
_RESERVE_LEAST = 10 * MILLISECOND
_RESERVE_STEP = 8 * MILLISECOND
_RESERVE_MOST = 80 * MILLISECOND
_RESERVE_RECOVERY = MILLISECOND // 8  # per frame
# What the first frame waits on top of pull and reserve: a little more than is wanted later.
_START_EXTRA = MARGIN + 4 * MILLISECOND
_PULL_LIMIT = 300 * MILLISECOND
_COST_LIMIT = CONCEAL_BLOCK * HOP  # a longer decoding time cannot be waited for by concealing
_FIRST_DECODE = 40 * MILLISECOND
_FIRST_CONCEAL = 20 * MILLISECOND
_RECENT = 64  # packets remembered to recognise duplicates


@dataclass(frozen=True)
class Arrived:
    """A frame waiting to be decoded.

    sequence: unwrapped; captured, arrived: monotonic seconds of its last sample in the air and of
    its packet's arrival; position: samples pulled when it came; prompt: nothing else was missing.
    """

    sequence: int
    packet: Packet
    captured: float | None
    arrived: float
    position: int
    prompt: bool


@dataclass(frozen=True)
class Decode:
    """Decode a frame and queue its columns.

    skip: columns at its beginning whose time has passed; correction: columns wanted more (> 0) or
    fewer (< 0); fresh: nothing is being played, or it has been cut to the `JitterBuffer.queued`
    samples that remain, so begin as from silence.
    """

    frame: Arrived
    skip: int = 0
    correction: int = 0
    fresh: bool = False


@dataclass(frozen=True)
class Conceal:
    """Queue `count` columns of the concealment of a missing frame, from column `begin` on."""

    begin: int
    count: int


@dataclass(frozen=True)
class FadeOut:
    """Let the sound end: nothing has come for too long."""


Task = Decode | Conceal | FadeOut


def cheapest_delay(needs: Iterable[int]) -> int:
    """The delay that costs least on frames with these needs, in samples.

    needs: the delay that would have been enough for each frame. One delay is considered per frame;
    each frame that needs more costs LATE_PRICE, and none beyond STRETCH_LIMIT over the least one
    is considered. Raises ValueError without frames.
    """
    ordered = sorted(needs)
    if not ordered:
        raise ValueError("no frames to choose a delay for")
    most = ordered[0] + STRETCH_LIMIT
    best, best_cost = most, LATE_PRICE * sum(need > most for need in ordered) + most
    for index, need in enumerate(ordered):
        cost = need + LATE_PRICE * (len(ordered) - 1 - index)
        if need <= most and cost <= best_cost:
            best, best_cost = need, cost
    return best


@dataclass
class _Average:
    """A slowly moving estimate, in samples, that single outliers hardly move."""

    value: float
    seen: deque[int] = field(default_factory=lambda: deque(maxlen=9))

    def push(self, samples: int) -> None:
        self.seen.append(samples)
        self.value = sorted(self.seen)[len(self.seen) // 2]


class JitterBuffer:
    """Decides, in samples and columns. Not thread safe: `RemoteStream` holds a lock around it.

    synthesis_delay: samples that the synthesiser keeps until more columns come.
    """

    def __init__(self, synthesis_delay: int) -> None:
        self.counters = Arrivals()
        self.restarts = 0
        self.idle = True
        self.queued = 0  # samples ready to be pulled
        self.played = 0  # samples pulled, silence included
        self._delay = synthesis_delay
        self._next = 0  # sequence number of the frame to be played next
        self._base = 0  # sequence number of the frame the play grid begins with
        self._concealed = 0  # columns concealed in place of the next frame
        self._run = 0  # columns concealed since a frame was played
        self._store: dict[int, Arrived] = {}
        self._outlier: Arrived | None = (
            None  # may be the first frame of a sender that has restarted
        )
        self._jump: Arrived | None = None  # is that first frame
        self._started = False
        self._highest: int | None = None
        self._recent: deque[bytes] = deque(maxlen=_RECENT)
        self._needs: deque[int] = deque(maxlen=WINDOW)
        self._reserve = float(_RESERVE_LEAST)
        self._pulls = [0, 0]  # largest pull of this frame's time and of the one before
        self._pulls_since = 0
        self._starved = False
        self._starting = False  # a fresh frame is being decoded: silence is no underrun
        self._idle_since = 0
        self._decode_cost = _Average(_FIRST_DECODE)
        self._conceal_cost = _Average(_FIRST_CONCEAL)

    # --- what happens --------------------------------------------------------------------------

    def arrive(self, data: bytes, packet: Packet, captured: float | None, arrived: float) -> bool:
        """A valid packet came; `data` are its bytes. Returns whether it is the first such one."""
        if data in self._recent:
            self.counters.duplicates += 1
            return False
        self._recent.append(data)
        self.counters.received += 1
        sequence = unwrap_sequence(self._next, packet.sequence)
        ahead = sequence - self._next
        prompt = ahead == 0 and not self._store
        frame = Arrived(sequence, packet, captured, arrived, self.played, prompt)
        if not self.idle and not -LATE_WINDOW <= ahead < STORE:
            self._arrive_outlier(frame)
            return True
        self._outlier = None
        if self.idle and len(self._store) >= STORE:
            del self._store[min(self._store)]
            self.counters.late += 1
        if not self.idle and ahead < 0:
            self.counters.late += 1
        elif sequence in self._store:
            self.counters.duplicates += 1
        else:
            if not self.idle and self._highest is not None and sequence < self._highest:
                self.counters.reordered += 1
            self._highest = sequence if self._highest is None else max(self._highest, sequence)
            self._store[sequence] = frame
        return True

    def _arrive_outlier(self, frame: Arrived) -> None:
        """A packet far from the sequence: believed when a second one follows, or nothing else is.

        A single one may be damaged in a way that the checksum did not show.
        """
        before, self._outlier = self._jump or self._outlier, frame
        follows = before is not None and 0 < frame.sequence - before.sequence < STORE
        if follows or self._run:
            self._jump = frame
            self._outlier = None

    def pause(self) -> None:
        """Play what is queued and no more; what is missed until the next arrival is no loss."""
        self._store.clear()
        self._outlier = self._jump = None
        self._started = False
        if not self.idle:
            self._run = CONCEAL_LIMIT  # as if that much had been concealed

    def pull(self, count: int) -> int:
        """The loudspeaker takes `count` samples; returns how many there are for it."""
        ready = min(count, self.queued)
        self.queued -= ready
        self.played += count
        starved = ready < count and not self.idle and not self._starting
        if starved and not self._starved:
            self.counters.underruns += 1
            self._reserve = min(self._reserve + _RESERVE_STEP, _RESERVE_MOST)
        self._starved = starved
        self._pulls[0] = max(self._pulls[0], min(count, _PULL_LIMIT))
        self._pulls_since += count
        if self._pulls_since >= FRAME_SAMPLES:
            self._pulls = [0, self._pulls[0]]
            self._pulls_since = 0
        return ready

    # --- what is to be done --------------------------------------------------------------------

    def next(self) -> Task | None:
        """What to do now, if anything. Each task's end must be reported before the next call.

        Cutting short what is queued takes effect at once: `queued` is what may remain.
        """
        if self._jump is not None:
            jump, self._jump = self._jump, None
            self._store.clear()
            return self._restart(jump)
        if self.idle:
            return self._restart(self._store[self._newest()]) if self._store else None
        if self._store and self._wait(newest := self._newest()) > BACKLOG:
            return self._restart(self._store[newest])
        frame = self._store.get(self._next)
        if frame is None:
            return self._bridge()
        if self.queued < self._pull + min(self._decode_cost.value, _COST_LIMIT):
            # It would come too late for its first columns.
            return self._conceal()
        if self.queued > QUEUE_LIMIT:
            return None
        del self._store[self._next]
        if not self._concealed:
            return Decode(frame, correction=self._correction())
        if self._growth() <= STRETCH_LIMIT:
            return Decode(frame)
        self.counters.partly_late += 1
        return Decode(frame, skip=self._concealed)

    def _bridge(self) -> Task | None:
        """What to do while the next frame is not here."""
        needed = self._pull + self._reserve + min(self._conceal_cost.value, _COST_LIMIT)
        if self.queued >= needed:
            return None
        return FadeOut() if self._run >= CONCEAL_LIMIT else self._conceal()

    def _conceal(self) -> Conceal:
        return Conceal(self._concealed, min(CONCEAL_BLOCK, FRAME_HOPS - self._concealed))

    def _restart(self, frame: Arrived) -> Decode:
        """Begin anew with a frame, and give up the ones before it."""
        missed = frame.sequence - self._next
        for sequence in [s for s in self._store if s <= frame.sequence]:
            del self._store[sequence]
            if sequence != frame.sequence:
                self.counters.late += 1
        if self._started:
            self.restarts += 1
            silence = self.played - self._idle_since if self.idle else FRAME_SAMPLES * STORE
            if 0 < missed <= silence // FRAME_SAMPLES + LATE_WINDOW:
                self.counters.lost += missed
        self._started = True
        self._highest = max([frame.sequence, *self._store])
        self._base = self._next = frame.sequence
        self._concealed = 0
        self._needs.clear()
        keep = self._pull + self._reserve + min(self._decode_cost.value, _COST_LIMIT)
        if self.queued > keep and not self.idle:
            self.queued = int(keep)
            self.counters.partly_late += 1
        self.idle = False
        self._starting = True
        return Decode(frame, fresh=True)

    # --- what was done -------------------------------------------------------------------------

    def decoded(self, task: Decode, columns: int, samples: int, seconds: float) -> int:
        """`columns` of a frame gave their first `samples`; returns the silence to queue before.

        seconds: what it took to have them. The rest of the samples is for `extended`.
        """
        if columns + task.skip > FRAME_HOPS:
            self.counters.stretched += columns + task.skip - FRAME_HOPS
        else:
            self.counters.shortened += FRAME_HOPS - task.skip - columns
        cost = int(seconds * SAMPLE_RATE)
        self._decode_cost.push(cost)
        sequence = task.frame.sequence
        ready = self.played if task.frame.prompt else task.frame.position + cost
        self._needs.append(ready + self._pull - (sequence - self._base) * FRAME_SAMPLES)
        silence = 0
        if task.fresh:
            wanted = int(self._pull + self._reserve + _START_EXTRA) + self._delay
            silence = max(wanted - self.queued, 0)
        self.queued += silence + samples
        self._reserve = max(self._reserve - _RESERVE_RECOVERY, _RESERVE_LEAST)
        self._advance(sequence)
        self._run = 0
        self._starting = False
        return silence

    def extended(self, samples: int) -> None:
        """The rest of a frame's `samples` are there."""
        self.queued += samples

    def failed(self, task: Decode) -> None:
        """A frame cannot be decoded; it will be missed like one that never came."""
        if task.fresh:
            self.faded_out(0)
            self._advance(task.frame.sequence)

    def concealed(self, task: Conceal, samples: int, seconds: float) -> None:
        """A block of concealment became `samples`."""
        self._conceal_cost.push(int(seconds * SAMPLE_RATE))
        self.queued += samples
        self.counters.concealed += task.count * HOP / SAMPLE_RATE
        self._run += task.count
        self._concealed += task.count
        if self._concealed >= FRAME_HOPS:
            self.counters.lost += 1
            self._advance(self._next)

    def faded_out(self, samples: int) -> None:
        """The sound ended with the `samples` that were left."""
        self.queued += samples
        self.idle = True
        self._starting = False
        self._idle_since = self.played
        self._run = 0
        self._concealed = 0

    def _advance(self, sequence: int) -> None:
        self._next = sequence + 1
        self._concealed = 0
        if self._store.pop(sequence, None) is not None:
            self.counters.late += 1

    # --- measures ------------------------------------------------------------------------------

    @property
    def _pull(self) -> int:
        """The largest pull lately, in samples."""
        return max(self._pulls)

    def _newest(self) -> int:
        return max(self._store)

    def _begin(self) -> int:
        """Where the next column would be played on the grid of the frames: the present delay."""
        return self.played + self.queued - (self._next - self._base) * FRAME_SAMPLES

    def _wait(self, sequence: int) -> int:
        """Samples from now until a stored frame's turn."""
        frames = (sequence - self._next) * FRAME_SAMPLES
        return self.queued + self._delay + frames - self._concealed * HOP

    def _excess(self) -> float:
        """How much longer frames wait than is wanted, in samples."""
        return self._begin() - cheapest_delay(self._needs) - self._reserve - MARGIN

    def _growth(self) -> float:
        """How much longer than the fastest one frames would wait if the next is played whole."""
        fastest = min(self._needs, default=self._begin())
        return self._begin() - fastest - self._reserve - MARGIN

    def _correction(self) -> int:
        """Columns to insert (> 0) or remove (< 0). Small differences are left alone."""
        columns = self._excess() / HOP
        if columns < -0.5:
            return int(0.5 - columns)
        if columns > 1.0 and len(self._needs) >= TRUSTED:
            return -int(columns)
        return 0

    def ahead(self) -> bool:
        """Whether frames that have arrived are still to be decoded."""
        return bool(self._store) or self._jump is not None
