"""The jitter buffer on simulated networks, clocks and machines: every column is accounted for."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec.packet import STEPS, Kind, Packet
from stream.call.jitter_buffer import (
    BACKLOG,
    CONCEAL_LIMIT,
    PAUSE_LIMIT,
    STORE,
    STRETCH_LIMIT,
    Conceal,
    Decode,
    FadeOut,
    Feed,
    JitterBuffer,
    Prices,
    Task,
    cheapest_delay,
)
from stream.call.timescale import ACTIVE_SHARE, HURRIED_SHARE, MUCH, QUIET_SHARE

RATE, HOP, HOPS, HELD = 16_000, 128, 8, 320
STEP = HOP * HOPS / RATE
TICK = 0.004

SomeTask = TypeVar("SomeTask", Decode, Feed, Conceal, FadeOut)
Label = tuple[str, int]  # ("heard" | "concealed" | "extra", column)


def packet_of(
    step: int, steps: int, *, pause: bool = False, chained: bool = False, sender: int = 0
) -> Packet:
    payload = step.to_bytes(8, "big", signed=True) + bytes([sender])
    kind = Kind.COMFORT_NOISE if pause else Kind.SPEECH
    return Packet(step & 0xFFFF, 0, payload, 0, kind, chained=chained, steps=steps)


@dataclass(order=True)
class Sent:
    """A packet on its way: when it comes, and the step it begins with."""

    at: float
    step: int
    packet: Packet = field(compare=False)

    @property
    def said(self) -> float:
        """When its last sample was said, on the talker's clock."""
        return (self.step + self.packet.steps) * STEP


@dataclass(repr=False)
class Simulation:
    """A network, a decoder that takes time and a loudspeaker with its own clock.

    drift: how much faster the loudspeaker's clock runs. Columns are labels, and what is queued is
    counted in samples as the real synthesiser does it. undecodable: of which packets; early: how
    many samples are pulled before their time at most.
    """

    drift: float = 0.0
    decode_seconds: float = 0.02
    conceal_seconds: float = 0.01
    pull_size: int = 96
    stands_still: tuple[float, float] = (0.0, 0.0)  # from when to when the loudspeaker does
    undecodable: Callable[[Packet], bool] = lambda packet: False
    early: int = 0
    buffer: JitterBuffer = field(default_factory=lambda: JitterBuffer(HELD))
    now: float = 0.0
    columns: list[Label] = field(default_factory=list)  # all that were queued and not cut
    at: int = 0  # the column that is next
    unheard: int = 0  # samples queued or held by the synthesiser
    delays: list[tuple[float, float]] = field(default_factory=list)
    tasks: list[tuple[float, Task]] = field(default_factory=list)
    slacks: list[int] = field(default_factory=list)  # samples queued when a packet became ready
    cut: set[int] = field(default_factory=set)  # columns that were queued, but never played
    removed: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    keys: list[float] = field(default_factory=list)  # when a key packet was asked for
    lengths: dict[int, int] = field(default_factory=dict)  # steps of the packets that were heard
    credit: float = 0.0
    pulls: list[tuple[float, int]] = field(default_factory=list)  # when, and how much
    pulled: float = 0.0  # when the last one was

    def run(self, arrivals: Iterable[Sent], until: float) -> None:
        waiting = list(arrivals)
        heapq.heapify(waiting)
        buffer = self.buffer
        while self.now < until:
            self.now += TICK
            while waiting and waiting[0].at <= self.now:
                sent = heapq.heappop(waiting)
                buffer.arrive(sent.packet, sent.said, sent.at)
            buffer.passed(round((self.now - self.pulled) * RATE))
            begin, end = self.stands_still
            stood = min(max(self.now - begin, 0.0), end - begin)
            while buffer.played + self.pull_size <= (self.now - stood) * RATE * (1 + self.drift):
                early = min(max(buffer.spare - self.pull_size, 0), self.early)
                early -= early % self.pull_size
                self.unheard -= buffer.pull(self.pull_size + early, early)
                self.pulls.append((self.now, self.pull_size + early))
                self.pulled = self.now
            self._work()

    _busy: tuple[float, Task] | None = None

    def _work(self) -> None:
        if self._busy is not None:
            done, finished = self._busy
            if self.now < done:
                return
            self._busy = None
            self._finish(finished)
        before = self.buffer.queued
        task = self.buffer.next()
        if self.buffer.key_wanted:
            self.buffer.key_wanted = False
            self.keys.append(self.now)
        if task is None:
            return
        self.tasks.append((self.now, task))
        if self.buffer.queued < before:
            self._cut()
        cost = {
            Decode: self.decode_seconds,
            Conceal: self.conceal_seconds,
            Feed: 0.002,
            FadeOut: 0.0,
        }[type(task)]
        self._busy = (self.now + cost - TICK / 2, task)

    def _cut(self) -> None:
        gone = self.unheard - self.buffer.queued
        first = len(self.columns) - gone // HOP
        self.cut |= {column for _, column in self.columns[first:]}
        del self.columns[first:]
        self.unheard = self.buffer.queued

    def _finish(self, task: Task) -> None:
        buffer = self.buffer
        if isinstance(task, FadeOut):
            buffer.faded_out(HELD)
        elif isinstance(task, Feed):
            buffer.fed(task)
        elif isinstance(task, Conceal):
            assert 0 < task.count <= HOPS
            for _ in range(task.count):
                self.columns.append(("extra" if task.extra else "concealed", self.at))
                self.at += not task.extra
            self.unheard += task.count * HOP
            buffer.concealed(task, task.count * HOP, self.conceal_seconds)
        elif self.undecodable(task.frame.packet):
            buffer.failed(task)
        else:
            self._decode(task)

    def _decode(self, task: Decode) -> None:
        buffer, packet, step = self.buffer, task.frame.packet, task.frame.step
        first, end = HOPS * step, HOPS * task.frame.end
        labels: list[Label] = [("heard", column) for column in range(first + task.skip, end)]
        # As the real one changes columns: few of speech, a quarter of a pause.
        hurried = abs(task.correction) > MUCH
        share = 1 / (QUIET_SHARE if packet.pause else HURRIED_SHARE if hurried else ACTIVE_SHARE)
        self.credit = min(self.credit + share * len(labels), max(share * len(labels), 2.0))
        change = int(np.clip(task.correction, -int(self.credit), int(self.credit)))
        self.credit -= abs(change)
        if change > 0:
            labels[1:1] = [("extra", first)] * change
        elif change < 0:
            del labels[1 : 1 - change]
            self.removed[step] = -change
        samples = len(labels) * HOP - (HELD if task.fresh else 0)
        head = min(samples, 16 * HOP)
        if not task.fresh:
            self.slacks.append(buffer.queued)
        silence = buffer.decoded(task, len(labels), head, self.decode_seconds)
        buffer.extended(samples - head)
        self.unheard += samples + silence + (HELD if task.fresh else 0)
        self.columns += labels
        self.lengths[step] = packet.steps
        self.at = max(end, self.at) if task.skip else end
        # Everything before the packet's own columns is yet to be played.
        start = self.now + (buffer.early + self.unheard - len(labels) * HOP) / RATE
        self.delays.append((self.now, start - task.skip * HOP / RATE - step * STEP))

    # --- what it shows ---

    def delay(self, after: float = 0.0, before: float = np.inf) -> np.ndarray:
        """Seconds from each packet's first sample in the air to its being played."""
        return np.array([delay for at, delay in self.delays if after <= at < before])

    def of(self, kind: type[SomeTask]) -> list[SomeTask]:
        return [task for _, task in self.tasks if isinstance(task, kind)]

    def heard(self) -> set[int]:
        """The columns that were played."""
        return {column for kind, column in self.columns if kind == "heard"}

    def check(self) -> None:
        """Every received column is played exactly once and in order, but for its due exceptions."""
        heard = [column for kind, column in self.columns if kind == "heard"]
        assert all(a < b for a, b in pairwise(heard))
        places = set(heard)
        for task in self.of(Decode):
            if task.frame.step not in self.lengths:
                continue  # could not be decoded
            own = set(range(HOPS * task.frame.step + task.skip, HOPS * task.frame.end))
            missing = own - places - self.cut
            assert len(missing) == self.removed[task.frame.step]


Wait = Callable[[int], float | None]  # seconds from a packet's end to its arrival, by its number


def talk(
    seconds: float,
    steps: int,
    wait: Wait = lambda n: 0.05,
    *,
    first: int = 0,
    chained: Callable[[int], bool] = lambda n: False,
    sender: int = 0,
) -> list[Sent]:
    """Arrivals of packets of `steps` each; those whose wait is None never come."""
    sent = []
    for n in range(int(seconds / (steps * STEP))):
        step, delay = first + n * steps, wait(n)
        if delay is not None:
            packet = packet_of(step, steps, chained=chained(n), sender=sender)
            sent.append(Sent((step + steps) * STEP + delay, step, packet))
    return sent


def jitter(most: float, seed: int = 1) -> Callable[[int], float]:
    table = np.random.default_rng(seed).uniform(0.0, most, 100_000)
    return lambda n: 0.05 + float(table[n])


def clean(simulation: Simulation) -> bool:
    """Whether nothing at all was lost."""
    found = simulation.buffer.counters
    return (found.lost, found.late, found.partly_late, found.underruns) == (0, 0, 0, 0)


every_length = pytest.mark.parametrize("steps", STEPS)


@every_length
def test_without_jitter_nothing_is_lost_and_the_delay_is_short(steps):
    simulation = Simulation()
    simulation.run(talk(100, steps), 100)
    simulation.check()
    assert clean(simulation)
    assert simulation.buffer.counters.concealed == 0
    assert 0.010 < np.mean(simulation.slacks) / RATE < 0.030
    # Network, decoding, and what the synthesiser keeps are no choice of the jitter buffer.
    given_ = steps * STEP + 0.05 + simulation.decode_seconds + HELD / RATE
    assert simulation.delay(50.0).max() - given_ < 0.035
    assert simulation.buffer.counters.stretched + simulation.buffer.counters.shortened < 10


@every_length
@pytest.mark.parametrize("most", [0.05, 0.2])
def test_jitter_is_learned(steps, most):
    simulation = Simulation()
    simulation.run(talk(150, steps, jitter(most)), 150)
    simulation.check()
    if steps == 1:  # where some overtake others
        assert simulation.buffer.counters.lost <= 3
    else:
        assert clean(simulation)
    fastest = steps * STEP + 0.05 + simulation.decode_seconds + HELD / RATE
    over_fastest = simulation.delay(50.0) - fastest
    assert most * 0.75 < over_fastest.mean() < most + 0.06
    assert simulation.buffer.counters.concealed < 0.01 * 150


@every_length
def test_reordering_and_duplicates_cost_nothing(steps):
    """200 ms of jitter, every 7th packet twice."""
    arrivals = talk(100, steps, jitter(0.2))
    arrivals += [Sent(sent.at + 0.1, sent.step, sent.packet) for sent in arrivals[::7]]
    simulation = Simulation()
    simulation.run(arrivals, 99)
    simulation.check()
    counters = simulation.buffer.counters
    sent = int(100 / (steps * STEP))
    assert sent - 40 / steps <= counters.received <= sent
    assert counters.duplicates >= sent // 7 - 20
    assert counters.lost <= (3 if steps == 1 else 0) and counters.underruns == 0
    assert counters.reordered > 0 or steps > 2


@every_length
@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_loss_in_bursts_of_two(steps, loss):
    rng, length = np.random.default_rng(7), int(200 / (steps * STEP))
    gone = np.zeros(length + 1, bool)
    for start in np.flatnonzero(rng.random(length) < loss / 2):
        gone[max(start, 1) : start + 2] = True
    simulation, wait = Simulation(), jitter(0.03)
    simulation.run(talk(200, steps, lambda n: None if gone[n] else wait(n)), 200)
    simulation.check()
    counters = simulation.buffer.counters
    assert abs(counters.lost - gone[:-1].sum()) <= 2 + 2 / steps
    assert (counters.partly_late, counters.late, counters.underruns) == (0, 0, 0)
    lost = {HOPS * steps * int(n) for n in np.flatnonzero(gone)}
    assert not simulation.heard() & lost
    assert len(simulation.heard()) > 0.99 * HOPS * steps * (~gone[:-1]).sum() - 2 * HOPS * steps
    assert simulation.delay(50.0).max() < steps * STEP + 0.2


@every_length
@pytest.mark.parametrize("drift", [400e-6, -400e-6])
def test_clocks_that_differ(steps, drift):
    seconds = 750.0
    simulation = Simulation(drift=drift)
    simulation.run(talk(seconds, steps, jitter(0.02)), seconds)
    simulation.check()
    assert clean(simulation)
    assert simulation.buffer.counters.concealed < 0.2
    parts = [simulation.delay(at, at + 150.0) for at in range(150, 750, 150)]
    means = [part.mean() for part in parts]
    assert max(means) - min(means) < 0.006
    assert max(part.max() - part.min() for part in parts) < 0.05
    # 400 ppm of 750 s are 37 columns; many more would be hunting.
    counters = simulation.buffer.counters
    assert abs((counters.stretched - counters.shortened) * np.sign(drift) - 37) < 15
    assert min(counters.stretched, counters.shortened) < 40


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("what", ["card", "network"])
def test_what_becomes_faster_is_soon_followed(steps, what):
    """The sound card stood still, so all comes earlier for it; or there is a shorter way."""
    faster = int(30 / (steps * STEP))
    simulation = Simulation(stands_still=(30.0, 30.15) if what == "card" else (0.0, 0.0))
    shorter, usual = jitter(0.02), 0.15 if what == "network" else 0.0
    simulation.run(talk(60, steps, lambda n: shorter(n) + usual * (n < faster)), 60)
    simulation.check()
    before, after = simulation.delay(20.0, 29.0), simulation.delay(42.0)
    if what == "network":
        before -= usual
    assert after.max() < before.max() + 0.03
    assert simulation.buffer.counters.lost == simulation.buffer.counters.concealed == 0


@every_length
@pytest.mark.parametrize("shift", [0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
def test_a_shift_of_the_talkers_grid_is_soon_taken(steps, shift):
    """From then on all packets come later, as when a sound server was suspended for a while."""
    length = steps * STEP
    begin = int(20 / length)
    simulation = Simulation()
    simulation.run(talk(60, steps, lambda n: 0.05 + (shift if n >= begin else 0.0)), 60)
    simulation.check()
    counters = simulation.buffer.counters
    damaged = counters.partly_late + counters.lost
    assert damaged <= max(2, 0.5 / length + 1)
    # What is concealed is the shift itself and what is given up before it is believed.
    assert counters.concealed <= shift + max(0.6, 2 * length) + 0.15
    settled = begin * length + shift + max(0.6, 2 * length) + 0.5
    later = [at for at, task in simulation.tasks if isinstance(task, Conceal) and at > settled]
    assert sum(at > settled + 1 for at in later) <= 1
    assert simulation.delay(50.0).max() < length + 0.05 + shift + 0.12


@every_length
@pytest.mark.parametrize("shift", [-0.2, -0.5, -1.0])
def test_a_shift_to_earlier_is_brought_back(steps, shift):
    """Packets come earlier than they were: the delay comes down, at the latest in the pauses."""
    length = steps * STEP
    begin = int(10 / length)
    simulation = Simulation()
    simulation.run(talk(90, steps, lambda n: 1.1 + (shift if n >= begin else 0.0)), 90)
    simulation.check()
    assert simulation.buffer.counters.concealed < 0.5
    assert simulation.delay(85.0).max() < length + 1.1 + shift + 0.3


@every_length
def test_a_long_outage_is_silent_and_ends_cleanly(steps):
    """What piles up during an outage of 10 s is given up, except for the newest."""
    length = steps * STEP

    def wait(n: int) -> float:
        said = (n + 1) * length
        return 30.0 - said + 0.05 + n * 1e-5 if 20.0 < said < 30.0 else 0.05

    simulation, arrivals = Simulation(), talk(60, steps, wait)
    simulation.run(arrivals, 29.0)
    assert simulation.buffer.idle
    assert not [at for at, _ in simulation.tasks if at > 25.0], "silence costs nothing"
    simulation.run([sent for sent in arrivals if sent.at > 29.0], 60)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.concealed == pytest.approx(CONCEAL_LIMIT * HOP / RATE)
    assert counters.underruns == 0
    assert 8 <= counters.lost * length <= 11.5
    assert min(at for at, _ in simulation.delays if at > 29.0) < 30.2
    assert simulation.delay(32.0).max() < length + 0.5
    assert simulation.delay(55.0).max() < length + 0.2


@every_length
def test_a_stall_of_a_second_and_a_half(steps):
    """As TCP does it: nothing, then all of it. What can still be played is."""
    length = steps * STEP

    def wait(n: int) -> float:
        said = (n + 1) * length
        return 21.5 - said if 20.0 < said < 21.45 else 0.05

    simulation = Simulation()
    simulation.run(talk(60, steps, wait), 60)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.lost + counters.partly_late >= 1
    assert counters.lost * length <= 1.6
    assert simulation.delay(35.0).max() < length + 0.25
    assert counters.underruns == 0


def stall(at: float, seconds: float, steps: int) -> Callable[[int], float]:
    """A network that hands on nothing for a while, then all of it."""

    def wait(n: int) -> float:
        said = (n + 1) * steps * STEP
        return max(at + seconds - said, 0.05) if at <= said < at + seconds else 0.05

    return wait


@every_length
def test_packets_somewhat_late_are_played_whole(steps):
    simulation = Simulation()
    simulation.run(talk(100, steps, stall(30.0, 0.3, steps)), 100)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.partly_late) == (0, 0)
    # The delay grows for them, and comes back.
    assert 0 < counters.concealed < 0.32 or steps == 16
    assert simulation.delay(95).max() < steps * STEP + 0.16


def test_a_packet_too_late_is_played_in_part():
    late = 30
    simulation = Simulation()
    simulation.run(talk(60, 16, lambda n: 0.65 if n == late else 0.05), 60)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.partly_late, counters.late) == (0, 1, 0)
    played = [c for c in simulation.heard() if 128 * late <= c < 128 * (late + 1)]
    assert 30 < len(played) < 80 and max(played) == 128 * (late + 1) - 1


@every_length
def test_a_packet_altogether_late_is_not_played_but_taken_note_of(steps):
    late = int(30 / (steps * STEP))
    simulation = Simulation()
    arrivals = talk(60, steps, lambda n: steps * STEP + 0.45 if n == late else 0.05)
    simulation.run(arrivals, 60)
    simulation.check()
    counters = simulation.buffer.counters
    if steps == 16:  # the one after it waits too long for it to be waited for
        assert counters.lost + counters.partly_late >= 1
        return
    assert counters.lost == counters.late >= 1
    assert counters.lost <= 1


def test_packets_too_late_are_fed_in_order():
    """A lasting silence of the network, then all of it: chained packets stay decodable."""
    known = [0]  # the step that the decoder's past reaches to

    def undecodable(packet: Packet) -> bool:
        return packet.chained and packet.sequence != known[0]

    simulation = Simulation(undecodable=undecodable)
    original = simulation._finish

    def finish(task: Task) -> None:
        fed = [task] if isinstance(task, Feed) else []
        frames = [*task.feed, task.frame] if isinstance(task, Decode) else [f.frame for f in fed]
        for frame in frames:
            if not undecodable(frame.packet) and frame is not frames[-1]:
                known[0] = frame.end
        original(task)
        if frames and not undecodable(frames[-1].packet):
            known[0] = frames[-1].end

    simulation._finish = finish  # type: ignore[method-assign]
    wait: Wait = lambda n: max(10.7 - (n + 1) * STEP, 0.0) if 157 <= n < 167 else 0.05  # noqa: E731
    simulation.run(talk(20, 1, wait, chained=lambda n: n > 0), 20)
    simulation.check()
    assert not simulation.keys
    assert max(simulation.heard()) > HOPS * 300


@every_length
def test_step_numbers_wrap(steps):
    first = 65_536 - 20 * steps
    simulation = Simulation(now=first * STEP)
    simulation.buffer.played = int(simulation.now * RATE)
    simulation.run(talk(60, steps, first=first), first * STEP + 61)
    counters = simulation.buffer.counters
    assert counters.received == int(60 / (steps * STEP))
    assert counters.lost == counters.late == 0
    assert simulation.buffer.restarts == 0


@every_length
@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("gap", [0.0, 0.6, 10.0])
def test_a_sender_that_starts_again(steps, gap, back):
    """Step numbers begin anew, right after the last packet or later."""
    length = steps * STEP
    simulation = Simulation()
    old = [Sent(s.at, s.step + 5000, s.packet) for s in talk(20, steps)]
    old = [Sent(s.at, s.step, packet_of(s.step, steps)) for s in old]
    simulation.run(old, 20.2)
    if back:
        simulation.buffer.returned()
    begin = 20.2 + gap
    again = [
        Sent(begin + s.at, s.step, packet_of(s.step, steps, sender=1)) for s in talk(20, steps)
    ]
    simulation.run(again, again[-1].at + 0.3 + length)
    # At most its first packets are spent on believing that it is another sender's.
    whole = set(range(HOPS * 2 * steps + 4, HOPS * (steps * int(19 / length))))
    assert len(whole - simulation.heard()) <= simulation.buffer.counters.shortened <= 1
    assert simulation.buffer.restarts == 1
    assert simulation.buffer.counters.lost <= 3
    assert simulation.buffer.counters.underruns == 0


def test_a_sender_that_starts_again_soon_is_heard_at_once_when_it_is_known_to():
    """Its numbers are not far from those it had before: they would seem late."""
    simulation = Simulation()
    simulation.run(talk(4, 4), 4.1)
    simulation.buffer.returned()
    again = [Sent(s.at + 5.0, s.step, packet_of(s.step, 4, sender=1)) for s in talk(4, 4)]
    simulation.run(again, 9.3)
    assert simulation.buffer.restarts == 1
    late = [at for at, task in simulation.tasks if isinstance(task, Decode) and at > 5.0]
    assert late[0] < 5.4 and len(late) >= 14


@every_length
def test_one_stray_packet_does_not_move_the_stream(steps):
    simulation = Simulation()
    stray = Sent(20.5, 30_000, packet_of(30_000, steps))
    simulation.run([*talk(60, steps), stray], 60)
    simulation.check()
    assert simulation.buffer.restarts == 0
    assert simulation.buffer.counters.lost == 0


@every_length
def test_a_burst_after_a_gap_is_followed_to_its_end(steps):
    """The last of many packets at once is the one to be played."""
    length = steps * STEP
    begin, end = int(20 / length), int(31 / length)
    wait: Wait = lambda n: None if begin <= n < end - 8 else max(32 - (n + 1) * length, 0)  # noqa: E731
    simulation = Simulation()
    quiet = talk(20, steps)
    burst = [s for s in talk(31, steps, wait) if s.step >= (end - 8) * steps]
    simulation.run([*quiet, *burst], 33)
    assert max(simulation.heard()) == HOPS * steps * end - 1
    assert simulation.buffer.restarts <= 2


# --- pauses ---------------------------------------------------------------------------------------


def sentences(
    seconds: float,
    steps: int,
    wait: Wait = lambda n: 0.05,
    *,
    speech: float = 2.0,
    pause: float = 2.0,
    chained: bool = False,
) -> list[Sent]:
    """Speech and pauses in turn; of a pause one packet in 16 steps is sent, as the encoder does."""
    sent: list[Sent] = []
    since = 1000
    fresh = True
    for n in range(int(seconds / (steps * STEP))):
        step = n * steps
        quiet = (step * STEP) % (speech + pause) >= speech
        since += steps
        if quiet and since < 16:
            continue
        delay = wait(n)
        packet = packet_of(step, steps, pause=quiet, chained=chained and not quiet and not fresh)
        since, fresh = (0, True) if quiet else (1000, False)
        if delay is not None:
            sent.append(Sent((step + steps) * STEP + delay, step, packet))
    return sent


@every_length
def test_a_pause_is_no_loss(steps):
    simulation = Simulation()
    simulation.run(sentences(100, steps), 100)
    simulation.check()
    assert clean(simulation)
    assert simulation.buffer.counters.concealed == 0
    assert not simulation.keys
    speech = [c for c in range(HOPS * 4, HOPS * 1400) if 1.1 < (c * HOP / RATE) % 4.0 < 2.0]
    assert len(set(speech) - simulation.heard()) < 0.01 * len(speech)
    given_ = steps * STEP + 0.05 + simulation.decode_seconds + HELD / RATE
    assert simulation.delay(50.0).max() - given_ < 0.05


@every_length
def test_a_pause_that_nobody_ends_is_silence_in_the_end(steps):
    simulation = Simulation()
    arrivals = [sent for sent in sentences(40, steps) if sent.step * STEP < 6.2]
    simulation.run(arrivals, 14.0)
    assert simulation.buffer.idle
    limit = CONCEAL_LIMIT * HOP / RATE
    assert simulation.buffer.counters.concealed <= limit + 0.1
    pause = sum(task.count for task in simulation.of(Conceal)) * HOP / RATE
    assert pause > PAUSE_LIMIT * HOP / RATE


@every_length
def test_the_delay_is_set_right_in_a_pause(steps):
    """What grew during speech is gone with the next sentence, and nothing of it is cut."""
    simulation = Simulation()
    simulation.run(sentences(40, steps, stall(9.0, 0.3, steps)), 40)
    simulation.check()
    assert simulation.buffer.counters.lost == simulation.buffer.counters.partly_late == 0
    usual = simulation.delay(4.0, 8.0).max()
    assert simulation.delay(13.5, 40).max() < usual + 0.04


@every_length
@pytest.mark.parametrize("jittery", [0.1, 0.2])
def test_pauses_and_jitter(steps, jittery):
    simulation = Simulation()
    simulation.run(sentences(100, steps, jitter(jittery)), 100)
    simulation.check()
    counters = simulation.buffer.counters
    # A sentence's first packet may be later than those before it.
    assert counters.lost + counters.partly_late <= 2
    assert counters.concealed < 0.01 * 100 + 0.3
    assert simulation.delay(50.0).mean() < steps * STEP + 0.05 + jittery + 0.15


@every_length
@pytest.mark.parametrize("shift", [0.3, 0.7])
def test_a_shift_and_pauses(steps, shift):
    length = steps * STEP
    begin = int(19 / length)
    simulation = Simulation()
    waits: Wait = lambda n: 0.05 + (shift if n >= begin else 0.0)  # noqa: E731
    simulation.run(sentences(60, steps, waits), 60)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.lost + counters.partly_late <= max(3, 0.5 / length + 2)
    late = [at for at, task in simulation.tasks if isinstance(task, Conceal)]
    assert counters.concealed <= shift + max(0.6, 2 * length) + 0.3, late


# --- what is pulled early -------------------------------------------------------------------------


@every_length
@pytest.mark.parametrize("jittery", [0.02, 0.3])
def test_what_is_pulled_early_in_a_pause_changes_nothing_else(steps, jittery):
    """Every task is the same at the same time, and so is what is counted."""
    pull = round(TICK * RATE)
    usual, early = Simulation(pull_size=pull), Simulation(pull_size=pull, early=1000)
    for simulation in (usual, early):
        simulation.run(sentences(40, steps, jitter(jittery)), 40)
    early.check()
    assert early.tasks == usual.tasks
    assert early.delays == usual.delays
    assert early.buffer.counters == usual.buffer.counters
    assert len(early.pulls) < 0.7 * len(usual.pulls)


@every_length
def test_only_in_a_pause_is_anything_pulled_early(steps):
    simulation, arrivals = Simulation(early=1000), sentences(20, steps)
    simulation.run(arrivals, 20)
    larger = [at for at, count in simulation.pulls if count > simulation.pull_size]
    latest = [max(sent for sent in arrivals if sent.at <= at) for at in larger]
    assert len(latest) > 20
    assert all(sent.packet.pause for sent in latest)


def begin_a_pause(buffer: JitterBuffer) -> None:
    """Let it play a packet of a pause; nothing is to spare while that waits to be decoded."""
    buffer.arrive(packet_of(0, 4, pause=True), 0.0, 0.0)
    assert buffer.spare == 0
    task = buffer.next()
    assert isinstance(task, Decode)
    buffer.decoded(task, 4 * HOPS, 4 * HOPS * HOP, 0.01)


def test_nothing_is_pulled_early_while_something_waits_or_nothing_is_played():
    buffer = JitterBuffer(HELD)
    assert buffer.spare == 0  # nothing is played
    begin_a_pause(buffer)
    spare = buffer.spare
    assert HOPS * HOP < spare < buffer.queued
    buffer.arrive(packet_of(16, 4), 0.0, 0.0)
    assert buffer.spare == 0


def test_time_goes_on_by_usual_pulls_after_an_early_one():
    buffer = JitterBuffer(HELD)
    begin_a_pause(buffer)
    buffer.pull(80)
    queued = buffer.queued
    assert buffer.pull(80 + 400, early=400) == 480
    assert (buffer.queued, buffer.early) == (queued - 480, 400)
    for passed, early in ((79, 400), (80, 320), (399, 80), (400, 0), (9999, 0)):
        buffer.passed(passed)
        assert buffer.early == early
    assert buffer.counters.underruns == 0


def test_pulls_before_their_time_and_after_such_are_no_usual_ones():
    buffer = JitterBuffer(HELD)
    begin_a_pause(buffer)
    buffer.pull(80)
    spare = buffer.spare
    for pulled, early in ((80 + 160, 160), (230, 0)):
        buffer.pull(pulled, early)
        spare -= pulled
        assert buffer.spare == spare + early
    buffer.pull(160)
    assert buffer.spare < spare - 160  # larger pulls are usual


# --- lengths that change --------------------------------------------------------------------------


@pytest.mark.parametrize("before", STEPS)
@pytest.mark.parametrize("after", STEPS)
@pytest.mark.parametrize("pauses", [False, True])
def test_the_length_of_packets_may_change_in_mid_stream(before, after, pauses):
    """Nothing is lost, and the delay follows."""
    say = sentences if pauses else talk
    change = 256  # steps: 16.4 s
    arrivals = [s for s in say(100, before, jitter(0.01)) if s.step < change]
    arrivals += [s for s in say(120, after, jitter(0.01)) if s.step >= change]
    simulation = Simulation()
    simulation.run(arrivals, 115)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.late, counters.underruns) == (0, 0, 0)
    assert counters.partly_late == 0
    longer = max(after - before, 0) * STEP
    assert counters.concealed <= longer + 0.1
    usual = after * STEP + 0.05 + 0.01 + simulation.decode_seconds + HELD / RATE
    assert simulation.delay(105 if pauses else 110).max() < usual + 0.06


# --- chained packets ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2])
def test_a_key_is_asked_for_at_once_when_chained_packets_miss_one(steps):
    lost = int(20 / (steps * STEP))
    key = lost + int(0.4 / (steps * STEP))
    broken = range(steps * (lost + 1), steps * key)
    simulation = Simulation(undecodable=lambda packet: packet.sequence in broken)
    simulation.run(
        talk(40, steps, lambda n: None if n == lost else 0.05, chained=lambda n: n not in (0, key)),
        40,
    )
    simulation.check()
    assert simulation.keys
    assert simulation.keys[0] < (lost + 2) * steps * STEP + 0.2
    assert all(b - a > 0.4 for a, b in pairwise(simulation.keys)) and len(simulation.keys) <= 2
    assert simulation.heard() >= set(range(HOPS * steps * key, HOPS * steps * (key + 100)))
    assert simulation.buffer.counters.concealed < 1.0


@every_length
def test_no_key_is_asked_for_where_packets_stand_for_themselves(steps):
    simulation = Simulation()
    simulation.run(talk(30, steps, lambda n: None if n % 10 == 9 else 0.05), 30)
    assert simulation.buffer.counters.lost > 0 and not simulation.keys


# --- machines and strangers -----------------------------------------------------------------------


@every_length
def test_a_slow_machine_gets_more_reserve(steps):
    """Decoding takes 100 ms now and then; the delay makes room for it and nothing is lost."""
    simulation = Simulation()
    arrivals = talk(100, steps)
    for n in count():
        simulation.decode_seconds = min(0.1, 0.8 * steps * STEP) if n % 7 == 0 else 0.02
        begin, end = n * 0.5, (n + 1) * 0.5
        simulation.run([s for s in arrivals if begin <= s.at < end], end)
        if end > 99:
            break
    simulation.check()
    assert simulation.buffer.counters.lost == 0
    assert simulation.buffer.counters.underruns <= 8


def test_a_hundred_packets_a_second_cost_no_more_than_is_played():
    """Packets of 64 ms, six times as many as there is time for, and nothing else."""
    simulation = Simulation(decode_seconds=0.004)
    sent = [Sent(0.05 + n / 100, n, packet_of(n, 1)) for n in range(6000)]
    simulation.run(sent, 60)
    decoded = sum(task.frame.steps for task in simulation.of(Decode))
    assert decoded * STEP < 3.0 * 60
    assert simulation.buffer.queued < RATE
    assert len(simulation.buffer._store) <= STORE


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(STEPS), st.booleans()), max_size=60))
@settings(max_examples=50)
def test_packets_that_overlap_end_in_no_tangle(sent):
    """Nonsense from a hostile talker: steps twice, in any order, of any length."""
    simulation = Simulation()
    simulation.run(
        [
            Sent(0.02 * n, step, packet_of(step, steps, pause=pause, sender=n % 200))
            for n, (step, steps, pause) in enumerate(sent)
        ],
        0.02 * len(sent) + 30,
    )
    heard = [column for kind, column in simulation.columns if kind == "heard"]
    assert len(heard) <= HOPS * 16 * len(sent)
    assert simulation.buffer.idle and simulation.buffer.queued == 0
    assert not simulation.buffer.ahead()


# At its end one column is missing before a packet, and no more is queued than concealing takes.
SHORT_GAP = [
    (1.25, "once", 1, False),
    (1.0, "once", 8, False),
    (1.75, "once", 1, False),
    (0.0, "never", 4, False),
    (1.0, "once", 1, False),
]


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 2.5),
            st.sampled_from(["once", "never", "twice"]),
            st.sampled_from(STEPS),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([160, 37, 640]),
    st.sampled_from([0, 1000]),
)
@settings(max_examples=60)
@example([*((0.0, "once", steps, False) for steps in (1, 8, 16)), *SHORT_GAP], 37, 0)
def test_any_network(network, pull, early):
    """Whatever the network does, columns are played once and in order and queues stay bounded."""
    arrivals: list[Sent] = []
    step = 0
    for wait, fate, steps, pause in network:
        packet = packet_of(step, steps, pause=pause)
        arrivals += [
            Sent((step + steps) * STEP + wait + 0.3 * k, step, packet)
            for k in range({"once": 1, "never": 0, "twice": 2}[fate])
        ]
        step += steps
    simulation = Simulation(pull_size=pull, early=early)
    simulation.run(arrivals, step * STEP + 11)
    simulation.check()
    buffer, counters = simulation.buffer, simulation.buffer.counters
    assert buffer.idle and buffer.queued == 0 and not buffer.ahead()
    decoded = len(simulation.of(Decode))
    sent = sum(fate != "never" for _, fate, _, _ in network)
    assert counters.received == sent
    assert decoded <= sent
    assert counters.duplicates == sum(fate == "twice" for _, fate, _, _ in network)
    assert counters.received <= decoded + counters.late
    assert counters.underruns == 0


@given(
    st.lists(st.integers(-8000, 8000), min_size=1, max_size=48),
    st.builds(Prices, st.floats(0.0, 2000.0), st.floats(0.0, 3.0), st.floats(0.0, 9000.0)),
)
def test_cheapest_delay(needs, prices):
    chosen = cheapest_delay(needs, prices)

    def cost(delay: int) -> float:
        late = [need - delay for need in needs if need > delay]
        return delay + sum(prices.late + prices.lateness * min(n, prices.reach) for n in late)

    most = min(needs) + STRETCH_LIMIT
    assert chosen <= most
    tried = [*range(min(needs), most + 1, 61), *(need for need in needs if need <= most), most]
    assert cost(chosen) == pytest.approx(min(map(cost, tried)))


def test_a_single_late_packet_is_no_reason_to_wait_longer():
    usual = [1000 + 10 * (n % 8) for n in range(80)]
    chosen = (cheapest_delay(needs, Prices.of(4)) for needs in (usual, [*usual, 1250]))
    assert max(chosen) - min(usual) <= 70


def test_cheapest_delay_needs_packets():
    with pytest.raises(ValueError, match="no packets"):
        cheapest_delay([], Prices.of(4))


def test_the_store_is_bounded():
    """Packets without end while nothing is played take no memory without end."""
    buffer = JitterBuffer(HELD)
    for n in range(1000):
        buffer.arrive(packet_of(n, 1), None, 0.0)
    assert (buffer.counters.received, buffer.counters.late) == (1000, 1000 - STORE)
    assert buffer.ahead()
    task = buffer.next()
    assert isinstance(task, Decode) and task.frame.step == 999
    assert not buffer.ahead()
    assert BACKLOG > STRETCH_LIMIT
