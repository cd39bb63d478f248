"""The jitter buffer: when to play what, decided without sound, threads or clocks.

Time is counted in samples handed to the loudspeaker. `JitterBuffer` is told what arrives, what has
been pulled and what a finished task took, and names the next task: decode a packet, conceal a few
columns, or fall silent. `stream.call.remote_stream` carries the tasks out.

A packet holds a few latent steps of 8 columns of 8 ms each and is numbered by its first step, so it
is always known how much time is missing. When the queue of samples runs low and the next packet is
not here, columns are concealed in small blocks. A packet that arrives after c of them is played
whole if that keeps the delay within bounds (the delay then grows by c columns), otherwise without
its first c columns. So only what missed its time is lost. A packet whose time has passed altogether
still tells the decoder what chained packets after it need.

The delay is measured, then chosen, as Jamulus chooses its buffer sizes: for every recent packet it
is known what delay would have been enough, so every delay can be tried on the arrivals as they
were. The cheapest one is wanted, where a packet too late costs a little, and more the later it is,
as so much has to be concealed. A single one that is very late does not hold the delay up for as
long as it is remembered. What was needed is counted from the packets' ends, so that it still holds
when the talker changes their length. Differences between the wanted delay and the present one
become columns to insert or remove, which also follows the drift between two clocks. In a pause, of
which nothing is sent, the delay is set at once.

In a pause, what is queued may be pulled before its time (see `JitterBuffer.spare`), so that whoever
pulls sleeps for longer. Nothing is decided otherwise for that: until they would have been pulled,
such samples count as queued, and time as it was.

Where several packets in a row are late by much the same, the talker's clock has jumped, or the way
to us is another: from then on that is when its packets are due. Where for two seconds all needed
less than any before, as after the sound card stood still, what was before says nothing any more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from codec.packet import FRAME_STEPS, Packet, unwrap_sequence
from codec.signal.analysis import HOP, STEP_HOPS, STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE
from stream.call.snapshot import Arrivals

MILLISECOND = SAMPLE_RATE // 1000

# Columns concealed at a time while the next packet is not here: it may come at any moment, and the
# delay grows by what was concealed for nothing.
CONCEAL_BLOCK = 2
LONGEST_BLOCK = 8  # in a pause, and where it is known how many are wanted
CONCEAL_LIMIT = 48 * STEP_HOPS  # columns of concealment after which there is silence
PAUSE_LIMIT = 24 * STEP_HOPS  # columns that a pause goes on without a word from the talker
STORE = 64  # packets kept that cannot be played yet
# Packets this many steps ahead or behind come from a sender that has restarted.
AHEAD = BEHIND = 128
WINDOW = 320  # steps whose arrivals decide the delay: 20 s
LATEST_STEPS = 16  # what all packets of so many steps needed, two or more, is needed at least
TRUSTED_STEPS = 32  # to be seen before the delay may shrink: 2 s ...
TRUSTED = 4  # ... and so many packets
MARGIN = 5 * MILLISECOND  # wanted on top of what the arrivals ask for
STRETCH_LIMIT = 320 * MILLISECOND  # the delay never exceeds the fastest packet's needs by more
# Delay worth spending to have one late packet fewer in the window, and what is late of it shorter,
# as a share of that, up to a share of its length. Packets of more steps than PRICED are dearer, as
# there are fewer. With the arrivals of calls at 64 to 256 ms the delay is 6 to 15 ms less than if
# every late packet had cost .07 of its length, and as much is concealed.
LATE_PRICE, LATENESS_PRICE, LATENESS_REACH = MILLISECOND, 0.15, 0.45
PRICED = 4
SPARE = 1.0  # columns by which the delay may be too long before speech is shortened for it
# A packet that would wait longer than this, or than most of its own length, comes from a backlog:
# what is older is given up.
BACKLOG = 480 * MILLISECOND
_BACKLOG_SHARE = 0.75
# However much is sent, no more is decoded than this many times what is played, and a little ahead.
WORK_RATE, WORK_AHEAD = 1.5, 3 * SAMPLE_RATE
QUEUE_LIMIT = 400 * MILLISECOND  # nothing is decoded while so much waits to be played
SHIFT_SECONDS = 0.5  # speech that is late in a row, in SHIFT_PACKETS or more, before that is usual
SHIFT_PACKETS = 2
SHIFT_SAMPLES = 16 * MILLISECOND  # by which all of the latest needed less than any before
# Sound that is left beyond what concealing takes when it is prepared for, as the next packet is not
# here. More of it would prepare for packets that are in time, and that costs as much as decoding.
WARY = 20 * MILLISECOND
KEY_PAUSE = SAMPLE_RATE // 2  # samples between requests for a key packet

# Sound that must be queued, beyond one pull, for scheduling: grows after underruns, then recovers.
_RESERVE_LEAST = 5 * MILLISECOND
_RESERVE_STEP = 8 * MILLISECOND
_RESERVE_MOST = 80 * MILLISECOND
_RESERVE_RECOVERY = 12.0  # samples per second
# What the first packet waits on top of pull and reserve: a little more than is wanted later.
_START_EXTRA = MARGIN + 4 * MILLISECOND
_PULL_LIMIT = 300 * MILLISECOND
_PULLS = 64  # the latest ones, by which the usual one is judged ...
_USUAL_PULL = 0.9  # ... leaving out the largest: they come when the mixer woke late
_COST_LIMIT = STEP_SAMPLES  # a longer decoding time cannot be waited for by concealing
_FIRST_DECODE = 40 * MILLISECOND
_FIRST_CONCEAL = 20 * MILLISECOND
_RECENT = 256  # packets remembered to recognise duplicates


@dataclass(frozen=True)
class Arrived:
    """A packet waiting to be decoded.

    step: unwrapped number of its first; captured, arrived: monotonic seconds of its last sample in
    the air and of its arrival; position: samples pulled when it came; prompt: it need not wait.
    """

    step: int
    packet: Packet
    captured: float | None
    arrived: float
    position: int
    prompt: bool

    @property
    def steps(self) -> int:
        return self.packet.steps

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.step + self.packet.steps


@dataclass(frozen=True)
class Decode:
    """Decode a packet and queue its columns.

    skip: columns at its beginning whose time has passed; correction: columns wanted more (> 0) or
    fewer (< 0); fresh: nothing is being played, or it has been cut to the `JitterBuffer.queued`
    samples that remain, so begin as from silence; feed: packets to take note of before, in order.
    """

    frame: Arrived
    skip: int = 0
    correction: int = 0
    fresh: bool = False
    feed: tuple[Arrived, ...] = ()


@dataclass(frozen=True)
class Feed:
    """Take note of a packet whose time has passed."""

    frame: Arrived


@dataclass(frozen=True)
class Conceal:
    """Queue `count` columns in place of what is missing.

    extra: nothing is missing, a pause is made longer.
    """

    count: int
    extra: bool = False


@dataclass(frozen=True)
class FadeOut:
    """Let the sound end: nothing has come for too long."""


Task = Decode | Feed | Conceal | FadeOut


@dataclass(frozen=True)
class Prices:
    """What a packet costs that comes too late by n samples: late + lateness · min(n, reach)."""

    late: float
    lateness: float
    reach: float

    @classmethod
    def of(cls, steps: int) -> Prices:
        """Those of packets of so many latent steps."""
        scale = max(steps / PRICED, 1.0)
        reach = LATENESS_REACH * min(steps, PRICED) * STEP_SAMPLES
        return cls(LATE_PRICE * scale**2, LATENESS_PRICE * scale, reach)


def cheapest_delay(needs: Iterable[int], prices: Prices) -> int:
    """The delay that costs least on packets with these needs, in samples.

    needs: the delay that would have been enough for each packet. One delay is considered per
    packet, as all others cost more than one of these; none beyond STRETCH_LIMIT over the least one
    is. Raises ValueError without packets.
    """
    ordered = np.sort(np.fromiter(needs, np.int64))
    if not len(ordered):
        raise ValueError("no packets to choose a delay for")
    delays = np.minimum(ordered, ordered[0] + STRETCH_LIMIT)
    sums = np.concatenate(([0], np.cumsum(ordered)))
    # Of the packets, in this order, those from `late` on are too late, from `far` on beyond reach.
    late = np.searchsorted(ordered, delays, side="right")
    far = np.searchsorted(ordered, delays + prices.reach, side="right")
    within = sums[far] - sums[late] - (far - late) * delays + (len(ordered) - far) * prices.reach
    costs = delays + prices.late * (len(ordered) - late) + prices.lateness * within
    return int(delays[np.flatnonzero(costs == costs.min())[-1]])


@dataclass
class _Average:
    """A slowly moving estimate, in samples, that single outliers hardly move."""

    value: float
    seen: deque[int] = field(default_factory=lambda: deque(maxlen=9))

    def push(self, samples: int) -> None:
        self.seen.append(samples)
        self.value = sorted(self.seen)[len(self.seen) // 2]


@dataclass(frozen=True)
class _Need:
    """The delay that would have been enough for a packet which ends before step `end`, from the
    grid on which its last sample was said to the one on which its first would be heard."""

    end: int
    samples: int


class JitterBuffer:
    """Decides, in samples and columns. Not thread safe: `RemoteStream` holds a lock around it.

    synthesis_delay: samples that the synthesiser keeps until more columns come. Attributes:
    counters; restarts; idle (nothing is played); queued (samples ready to be pulled); played
    (samples pulled, silence included); early (of these, whose time has not come); key_wanted (a
    packet needs one that is missing; whoever sees to that clears it).
    """

    def __init__(self, synthesis_delay: int) -> None:
        self.counters = Arrivals()
        self.restarts = 0
        self.idle = True
        self.queued = 0
        self.played = 0
        self.early = 0
        self.key_wanted = False
        self._delay = synthesis_delay
        self._next = 0  # the first step that was neither played nor given up
        self._at = 0  # the column to be queued next
        self._base = 0  # the step that the play grid begins with
        self._steps = FRAME_STEPS  # of the latest packet
        self._run = 0  # columns concealed since a packet was played, but for pauses
        self._pause_left = 0  # columns for which the pause that is played may still go on
        self._pause_began = False  # the latest packet was one of a pause
        self._store: dict[int, Arrived] = {}
        self._outlier: Arrived | None = None  # may be the first of a sender that has restarted
        self._jump: Arrived | None = None  # is that first one
        self._back = False  # the party has just come back, perhaps with other numbers
        self._grace = 0.0  # samples by which packets wait longer since they became shorter
        self._key_asked = -KEY_PAUSE
        self._work = float(WORK_AHEAD)  # samples that may be decoded
        self._late: list[Arrived] = []  # packets in a row that came too late to be played whole
        self._started = False
        self._highest: int | None = None
        self._recent: dict[int, bytes] = {}  # payloads by their numbers, oldest first
        self._needs: deque[_Need] = deque()
        self._reserve = float(_RESERVE_LEAST)
        self._pulled_early = 0  # by the last pull
        self._pull = 0  # the usual one, in samples
        self._pulls: deque[int] = deque(maxlen=_PULLS)
        self._starved = False
        self._starting = False  # a fresh packet is being decoded: silence is no underrun
        self._idle_since = 0
        self._decode_cost = _Average(_FIRST_DECODE)
        self._conceal_cost = _Average(_FIRST_CONCEAL)

    # --- what happens --------------------------------------------------------------------------

    def arrive(self, packet: Packet, captured: float | None, arrived: float) -> bool:
        """A packet came. Returns whether it is the first such one."""
        if self._recent.get(packet.sequence) == packet.payload:
            self.counters.duplicates += 1
            return False
        self._recent.pop(packet.sequence, None)
        self._recent[packet.sequence] = packet.payload
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        self.counters.received += 1
        step = unwrap_sequence(self._next, packet.sequence)
        prompt = STEP_HOPS * step <= self._at and not self._store
        frame = Arrived(step, packet, captured, arrived, self._now, prompt)
        back, self._back = self._back, False
        ahead = step - self._next
        if not self.idle and not -BEHIND <= ahead < AHEAD:
            self._arrive_outlier(frame)
            return True
        self._outlier = None
        if not self.idle and ahead < 0:
            if back:
                self._jump = frame  # a program that was started again counts from 0
            else:
                self.counters.late += 1
        elif step in self._store:
            self.counters.duplicates += 1
        else:
            if not self.idle and self._highest is not None and step < self._highest:
                self.counters.reordered += 1
            self._highest = step if self._highest is None else max(self._highest, step)
            self._store[step] = frame
            if len(self._store) > STORE:
                del self._store[min(self._store)]
                self.counters.late += 1
        return True

    def _arrive_outlier(self, frame: Arrived) -> None:
        """A packet far from the others: believed when a second one follows, or nothing else is.

        A single one may be damaged in a way that nobody noticed, or meant to disturb.
        """
        before, self._outlier = self._jump or self._outlier, frame
        follows = before is not None and 0 < frame.step - before.step < AHEAD
        if follows or self._run:
            self._jump = frame
            self._outlier = None

    def returned(self) -> None:
        """The party was away, and may be a program that has been started again."""
        self._back = True

    def pause(self) -> None:
        """Play what is queued and no more; what is missed until the next arrival is no loss."""
        self._store.clear()
        self._outlier = self._jump = None
        self._started = False
        if not self.idle:
            self._pause_left = 0
            self._run = CONCEAL_LIMIT  # as if that much had been concealed

    def pull(self, count: int, early: int = 0) -> int:
        """The loudspeaker takes `count` samples; returns how many there are for it.

        early: how many of these it takes before their time, no more than it can `spare`.
        """
        ready = min(count, self.queued)
        self.queued -= ready
        self.played += count
        self._work = min(self._work + WORK_RATE * count, WORK_AHEAD)
        usual = not (early or self._pulled_early)  # how long it sleeps after those is no habit
        self.early = self._pulled_early = early
        starved = ready < count - early and not self.idle and not self._starting
        if starved and not self._starved:
            self.counters.underruns += 1
            self._reserve = min(self._reserve + _RESERVE_STEP, _RESERVE_MOST)
        self._starved = starved
        if usual:
            self._note_pull(min(count, _PULL_LIMIT))
        return ready

    def passed(self, count: int) -> None:
        """So many samples have been played since the last pull: the usual ones have become due."""
        usual = max(self._pull, 1)
        self.early = max(self._pulled_early - count // usual * usual, 0)

    @property
    def spare(self) -> int:
        """How many samples may be pulled now, those whose time has come included.

        More than these only in a pause, while nothing has come that ends it, and then no more than
        are queued before there is something to do.
        """
        if self.idle or not self._pause_left or self.ahead():
            return 0
        return max(int(self._ready - self._pull - self._cover), 0)

    @property
    def _ready(self) -> int:
        """Samples that are queued, or were pulled early."""
        return self.queued + self.early

    @property
    def _now(self) -> int:
        """Samples whose time has come."""
        return self.played - self.early

    def _note_pull(self, count: int) -> None:
        pulls = self._pulls
        same = len(pulls) == _PULLS and pulls[0] == count  # takes the place of its like
        pulls.append(count)
        if not same:
            self._pull = sorted(pulls)[int(_USUAL_PULL * len(pulls))]

    # --- what is to be done --------------------------------------------------------------------

    def next(self) -> Task | None:
        """What to do now, if anything. Each task's end must be reported before the next call.

        Cutting short what is queued takes effect at once: `queued` is what may remain.
        """
        if self._jump is not None:
            jump, self._jump = self._jump, None
            self._store.clear()
            return self._restart(jump)
        if not self._store:
            return None if self.idle else self._bridge(None)
        newest = self._store[max(self._store)]
        if self.idle:
            return self._restart(newest) if self._work > 0 else None
        frame = self._store[min(self._store)]
        gap = STEP_HOPS * frame.step - self._at
        if self._pause_left and gap >= 0 and (extra := self._set_delay(frame, gap)) is not None:
            return extra
        if self._work > 0 and self._wait(newest) > self._backlog(newest):
            return self._restart(newest)
        late = self._at - STEP_HOPS * frame.step
        if late < 0:
            return self._bridge(frame)
        skip = 0
        if late and not self._may_grow(frame):
            skip = min(late, STEP_HOPS * frame.steps)
        left = (STEP_HOPS * frame.steps - skip) * HOP
        cost = min(self._decode_cost.value, _COST_LIMIT) + max(self._cover - left, 0.0)
        if self._ready < self._pull + cost:
            if self._run >= CONCEAL_LIMIT and self._work > 0:
                return self._restart(newest)  # concealing has not got ahead of what is pulled
            # It would come too late for its first columns: just so many are put before it that it
            # can be decoded next, even if a pull comes first.
            return Conceal(min(self._lacking(cost), LONGEST_BLOCK))
        if not left and not frame.packet.pause:
            del self._store[frame.step]
            return Feed(frame)
        if self.queued > QUEUE_LIMIT or self._work <= 0:
            self._store[frame.step] = replace(frame, prompt=False)
            return None
        del self._store[frame.step]
        if skip:
            self.counters.partly_late += not frame.packet.pause
            return Decode(frame, skip=skip)
        return Decode(frame, correction=0 if late else self._correction(frame))

    def _set_delay(self, frame: Arrived, gap: int) -> Task | None:
        """In a pause, `gap` columns before a packet: have the delay that is wanted.

        A pause that is too long is cut here and now; one too short gets more columns.
        """
        columns = int(self._excess(frame) / HOP)
        if columns > 0 and self._trusted():
            cut = min(columns, gap)
            self._at += cut
            self.counters.shortened += cut
        elif columns < 0 and self.queued <= QUEUE_LIMIT:
            count = min(-columns, CONCEAL_BLOCK)
            self.counters.stretched += count
            return Conceal(count, extra=True)
        return None

    def _may_grow(self, frame: Arrived) -> bool:
        """Whether a packet that is late may be played whole, and the delay grow for it."""
        if frame.packet.pause:
            return False  # that would be for nothing
        if self._growth(frame) <= STRETCH_LIMIT:
            return True
        if self._late and self._late[-1].step >= frame.step:
            return False
        self._late.append(frame)
        first = self._late[0]
        said = sum(each.steps for each in self._late) * STEP_SAMPLES
        between = (frame.step - first.step) * STEP_SAMPLES
        if (
            len(self._late) < SHIFT_PACKETS
            or said < SHIFT_SECONDS * SAMPLE_RATE
            # What comes all at once was held up; that is no new grid.
            or frame.position - first.position < between // 2
            or max(self._store) != frame.step
        ):
            return False
        self._needs.clear()
        for each in self._late:
            self._note_need(each)
        self._late.clear()
        return True

    def _bridge(self, frame: Arrived | None) -> Task | None:
        """What to do while the next packet is not here; frame: the first one after it."""
        if not self.low:
            return None
        if self._run >= CONCEAL_LIMIT:
            return FadeOut()
        if frame is not None and frame.packet.chained and not self._pause_left:
            self._want_key()
        return self._conceal(frame)

    def _conceal(self, frame: Arrived | None) -> Conceal:
        """Conceal a block, up to `frame`.

        Where so few columns are missing before `frame` that it could not be decoded in time after
        them, it is as late as it then would be.
        """
        count = LONGEST_BLOCK if self._pause_left else CONCEAL_BLOCK
        if frame is not None:
            gap = STEP_HOPS * frame.step - self._at
            count = min(count, max(gap, self._lacking(min(self._decode_cost.value, _COST_LIMIT))))
        return Conceal(count)

    def _lacking(self, cost: float) -> int:
        """Columns to conceal now so that a packet can be decoded next, at a cost in samples, even
        if a pull comes first."""
        lacking = 2 * self._pull + cost + self._conceal_cost.value - self._ready
        return math.ceil(lacking / HOP)

    @property
    def _cover(self) -> float:
        """Samples that must be queued beyond a pull where nothing is about to be decoded."""
        cost = self._conceal_cost.value
        if not self._conceal_cost.seen:
            cost = min(cost, self._decode_cost.value)
        return self._reserve + min(cost, _COST_LIMIT)

    def _want_key(self) -> None:
        if self.played - self._key_asked >= KEY_PAUSE:
            self._key_asked = self.played
            self.key_wanted = True

    def _restart(self, frame: Arrived) -> Decode:
        """Begin anew with a packet, and give up the ones before it."""
        missed = frame.step - self._next
        feed: list[Arrived] = []  # what it needs to be understood
        while (first := feed[0] if feed else frame).packet.chained:
            before = [s for s in self._store.values() if s.end == first.step]
            if not before:
                break
            feed.insert(0, before[0])
        for step in [s for s in self._store if s <= frame.step]:
            del self._store[step]
            if step != frame.step:
                self.counters.late += 1
        if self._started:
            self.restarts += 1
            silence = self.played - self._idle_since if self.idle else AHEAD * STEP_SAMPLES
            if 0 < missed <= silence // STEP_SAMPLES + BEHIND:
                self._count_lost(missed, frame)
        self._started = True
        self._highest = max([frame.step, *self._store])
        self._base = self._next = frame.step
        self._at = STEP_HOPS * frame.step
        self._needs.clear()
        self._late.clear()
        keep = self._pull + self._reserve + min(self._decode_cost.value, _COST_LIMIT)
        if self._ready > keep and not self.idle:
            self.queued = max(int(keep) - self.early, 0)
            self.counters.partly_late += 1
        self.idle = False
        self._starting = True
        return Decode(frame, fresh=True, feed=tuple(feed))

    # --- what was done -------------------------------------------------------------------------

    def decoded(self, task: Decode, columns: int, samples: int, seconds: float) -> int:
        """`columns` of a packet gave their first `samples`; returns the silence to queue before.

        seconds: what it took to have them. The rest of the samples is for `extended`.
        """
        frame = task.frame
        change = columns + task.skip - STEP_HOPS * frame.steps
        self.counters.stretched += max(change, 0)
        self.counters.shortened += max(-change, 0)
        cost = int(seconds * SAMPLE_RATE)
        self._work -= frame.steps * STEP_SAMPLES
        if not frame.packet.pause:  # which costs a fraction
            self._decode_cost.push(cost)
        # One that had to wait for its turn might have been ready earlier.
        self._note_need(frame, self._now if frame.prompt else frame.position + cost)
        silence = 0
        if task.fresh:
            wanted = int(self._pull + self._reserve + _START_EXTRA) + self._delay
            silence = max(wanted - self._ready, 0)
        self.queued += silence + samples
        recovered = _RESERVE_RECOVERY * frame.steps * STEP_SAMPLES / SAMPLE_RATE
        self._reserve = max(self._reserve - recovered, _RESERVE_LEAST)
        if not task.fresh:
            self._count_missing(frame)
        if not task.skip:
            self._late.clear()
        self._grace += max(self._steps - frame.steps, 0) * STEP_SAMPLES
        self._go_on(frame, self._at if task.skip else 0)
        self._pause_left = PAUSE_LIMIT if frame.packet.pause else 0
        self._pause_began = frame.packet.pause
        self._run = 0
        self._starting = False
        return silence

    def extended(self, samples: int) -> None:
        """The rest of a packet's `samples` are there."""
        self.queued += samples

    def fed(self, task: Feed) -> None:
        """A packet that was too late altogether has been taken note of."""
        frame = task.frame
        self.counters.late += 1
        self._note_need(frame)
        self._count_missing(frame)
        self._count_lost(frame.steps, frame)
        self._next, self._steps = frame.end, frame.steps
        self._pause_began = frame.packet.pause

    def failed(self, task: Decode) -> None:
        """A packet cannot be decoded; it will be missed like one that never came."""
        if task.frame.packet.chained:
            self._want_key()
        if task.fresh:
            self.faded_out(0)
            self._go_on(task.frame, 0)

    def concealed(self, task: Conceal, samples: int, seconds: float) -> None:
        """A block of concealment became `samples`."""
        self._conceal_cost.push(int(seconds * SAMPLE_RATE))
        self.queued += samples
        if task.extra:
            return
        self._at += task.count
        if self._pause_left:
            self._pause_left = max(self._pause_left - task.count, 0)
        else:
            self._run += task.count
            self.counters.concealed += task.count * HOP / SAMPLE_RATE

    def faded_out(self, samples: int) -> None:
        """The sound ended with the `samples` that were left."""
        self.queued += samples
        self.idle = True
        self._starting = False
        self._idle_since = self.played
        self._run = self._pause_left = 0
        self._late.clear()

    def _go_on(self, frame: Arrived, at: int) -> None:
        """What follows a packet is next; at: the column that has been reached already."""
        self._next, self._steps = frame.end, frame.steps
        self._at = max(STEP_HOPS * frame.end, at)
        for step in [s for s in self._store if s < frame.end]:  # of the same time: no honest ones
            del self._store[step]
            self.counters.late += 1

    def _count_missing(self, frame: Arrived) -> None:
        """Count what never came of the time before a packet, unless that was a pause."""
        missing = frame.step - self._next
        if missing > 0 and not (self._pause_began and STEP_HOPS * missing <= PAUSE_LIMIT):
            self._count_lost(missing, frame)

    def _count_lost(self, steps: int, frame: Arrived) -> None:
        self.counters.lost += -(-steps // frame.steps)

    # --- measures ------------------------------------------------------------------------------

    def _note_need(self, frame: Arrived, ready: int = 0) -> None:
        """Note what would have been enough for a packet; ready: samples pulled when it was."""
        grid = (frame.end - self._base) * STEP_SAMPLES
        self._needs.append(_Need(frame.end, max(self._own_need(frame), ready - grid)))
        while self._needs and frame.end - self._needs[0].end >= WINDOW:
            self._needs.popleft()
        self._forget_slower()

    def _forget_slower(self) -> None:
        """Forget what was needed before everything became faster, if it did."""
        needs = list(self._needs)
        within = sum(need.end > needs[-1].end - TRUSTED_STEPS for need in needs)
        latest, before = np.split([need.samples for need in needs], [-max(within, TRUSTED)])[::-1]
        if len(before) >= TRUSTED and latest.max() < before.min() - SHIFT_SAMPLES:
            for _ in before:
                self._needs.popleft()

    def _wanted(self, frame: Arrived) -> int:
        """The delay to aim at with a packet, but for its own length."""
        needs = [need.samples for need in self._needs] or [self._own_need(frame)]
        return max(cheapest_delay(needs, Prices.of(self._steps)), self._needed_lately(frame))

    def _needed_lately(self, frame: Arrived) -> int:
        """What a packet needs, and all of the latest did."""
        own = self._own_need(frame)
        if not self._needs:
            return own
        since = self._needs[-1].end - LATEST_STEPS
        return min(own, *(need.samples for need in self._needs if need.end > since))

    def _begin(self, column: int | None = None) -> int:
        """Where the next column would be played on the grid, if it is this one: the delay."""
        at = self._at if column is None else column
        return self.played + self.queued - at * HOP + self._base * STEP_SAMPLES

    def _wait(self, frame: Arrived) -> int:
        """Samples from now until a stored packet's turn."""
        return self._ready + self._delay + (STEP_HOPS * frame.step - self._at) * HOP

    def _backlog(self, newest: Arrived) -> float:
        """The longest that a packet may have to wait, in samples."""
        if self._grace:
            self._grace = min(self._grace, max(self._excess(newest), 0.0))
        shorter = max(self._steps - newest.steps, 0) * STEP_SAMPLES
        own = max(BACKLOG, _BACKLOG_SHARE * newest.steps * STEP_SAMPLES)
        return own + self._grace + shorter

    def _excess(self, frame: Arrived) -> float:
        """How much longer than wanted packets like this one wait, in samples."""
        wanted = self._wanted(frame)
        return self._begin() - wanted - frame.steps * STEP_SAMPLES - self._reserve - MARGIN

    def _growth(self, frame: Arrived) -> float:
        """How much longer than the fastest one packets would wait if this is played whole."""
        fastest = self._needed_lately(frame)
        if self._needs:
            fastest = max(fastest, min(need.samples for need in self._needs))
        begin = self._begin(STEP_HOPS * frame.step)
        return begin - fastest - frame.steps * STEP_SAMPLES - self._reserve - MARGIN

    def _own_need(self, frame: Arrived) -> int:
        """What a packet needs as far as is known when it comes: `next` asks for as much."""
        grid = (frame.end - self._base) * STEP_SAMPLES
        return frame.position + int(self._decode_cost.value) + self._pull - grid

    def _trusted(self) -> bool:
        """Whether enough is known of the arrivals for the delay to shrink."""
        if len(self._needs) < TRUSTED:
            return False
        return self._needs[-1].end - self._needs[0].end >= TRUSTED_STEPS - self._steps

    def _correction(self, frame: Arrived) -> int:
        """Columns to insert (> 0) or remove (< 0). Small differences are left alone: a pause will
        end them for nothing."""
        columns = self._excess(frame) / HOP
        # Too short costs more than too long.
        if columns < -0.25:
            return math.ceil(-columns)
        if columns > SPARE and self._trusted():
            return -int(columns)
        return 0

    @property
    def low(self) -> bool:
        """Whether so little is queued that something is to be done, whatever has come."""
        return not self.idle and self._ready < self._pull + self._cover

    @property
    def wary(self) -> bool:
        """Whether it is time to prepare for concealing the next packet."""
        if self.idle or self._store or self._pause_left or self._run:
            return False
        return self._ready < self._pull + self._cover + WARY

    def ahead(self) -> bool:
        """Whether packets that have arrived are still to be decoded."""
        return bool(self._store) or self._jump is not None
