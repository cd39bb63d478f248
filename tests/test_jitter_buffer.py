"""The jitter buffer on simulated networks, clocks and machines: every column is accounted for."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.packet import Packet, pack
from stream.call.jitter_buffer import (
    BACKLOG,
    CONCEAL_BLOCK,
    CONCEAL_LIMIT,
    LATE_PRICE,
    STRETCH_LIMIT,
    Conceal,
    Decode,
    FadeOut,
    JitterBuffer,
    Task,
    cheapest_delay,
)

RATE, HOP, HOPS, HELD = 16_000, 128, 128, 320
FRAME = HOP * HOPS / RATE
STEP = 0.005

Label = tuple[str, int, int]  # ("heard" | "concealed" | "extra" | "silence", frame, hop)


def packet_of(sequence: int, sender: int = 0) -> Packet:
    return Packet(sequence & 0xFFFF, 0, sequence.to_bytes(8, "big") + bytes([sender]), 0)


@dataclass
class Simulation:
    """A sender, a network, a decoder that takes time and a loudspeaker with its own clock.

    drift: how much faster the loudspeaker's clock runs. Columns are labels, and what is queued is
    counted in samples as the real synthesiser does it.
    """

    drift: float = 0.0
    decode_seconds: float = 0.03
    conceal_seconds: float = 0.015
    pull_size: int = 160
    active: Callable[[int], bool] = lambda sequence: True
    buffer: JitterBuffer = field(default_factory=lambda: JitterBuffer(HELD))
    now: float = 0.0
    columns: list[Label] = field(default_factory=list)  # all that were queued and not cut
    expected: int = 0  # the frame to be played next
    unheard: int = 0  # samples queued or held by the synthesiser
    delays: list[tuple[float, float]] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    slacks: list[int] = field(default_factory=list)  # samples queued when a frame became ready
    removed: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def run(self, arrivals: Iterable[tuple[float, int]], until: float, sender: int = 0) -> None:
        """arrivals: (time, sequence); frame n is captured at (n + 1) * FRAME."""
        waiting = list(arrivals)
        heapq.heapify(waiting)
        buffer = self.buffer
        while self.now < until:
            self.now += STEP
            while waiting and waiting[0][0] <= self.now:
                at, sequence = heapq.heappop(waiting)
                packet = packet_of(sequence, sender)
                buffer.arrive(pack(packet), packet, (sequence + 1) * FRAME, at)
            self._pull()
            self._work()

    def _pull(self) -> None:
        while self.buffer.played + self.pull_size <= self.now * RATE * (1 + self.drift):
            self.unheard -= self.buffer.pull(self.pull_size)

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
        if task is None:
            return
        self.tasks.append(task)
        if self.buffer.queued < before:
            self._cut()
        cost = {Decode: self.decode_seconds, Conceal: self.conceal_seconds, FadeOut: 0.0}[
            type(task)
        ]
        self._busy = (self.now + cost - STEP / 2, task)

    def _cut(self) -> None:
        gone = self.unheard - self.buffer.queued
        del self.columns[len(self.columns) - gone // HOP :]
        self.unheard = self.buffer.queued

    def _finish(self, task: Task) -> None:
        buffer = self.buffer
        if isinstance(task, FadeOut):
            buffer.faded_out(HELD)
            return
        if isinstance(task, Conceal):
            hops = range(task.begin, task.begin + task.count)
            self.columns += [("concealed", self.expected, hop) for hop in hops]
            self.unheard += task.count * HOP
            self.expected += hops.stop == HOPS
            buffer.concealed(task, task.count * HOP, self.conceal_seconds)
            return
        sequence = task.frame.sequence
        self.expected = sequence + 1
        labels: list[Label] = [("heard", sequence, hop) for hop in range(task.skip, HOPS)]
        change = int(np.clip(task.correction, *((-2, 2) if self.active(sequence) else (-32, 32))))
        if change > 0:
            labels[1:1] = [("extra", sequence, n) for n in range(change)]
        elif change < 0:
            del labels[1 : 1 - change]
            self.removed[sequence] = -change
        samples = len(labels) * HOP - (HELD if task.fresh else 0)
        head = min(samples, 16 * HOP)
        if not task.fresh:
            self.slacks.append(buffer.queued)
        silence = buffer.decoded(task, len(labels), head, self.decode_seconds)
        buffer.extended(samples - head)
        self.unheard += samples + silence + (HELD if task.fresh else 0)
        self.columns += labels
        # Everything before the frame's own columns is yet to be played.
        start = self.now + (self.unheard - len(labels) * HOP) / RATE
        self.delays.append((self.now, start - (sequence + 1) * FRAME))

    # --- what it shows ---

    def delay(self, after: float = 0.0, before: float = np.inf) -> np.ndarray:
        """Seconds from each packet's sending to the first of its columns being played."""
        return np.array([delay for at, delay in self.delays if after <= at < before])

    def check(self) -> None:
        """Every received column is played exactly once and in order, but for its due exceptions."""
        heard = [(frame, hop) for kind, frame, hop in self.columns if kind == "heard"]
        assert all(a < b for a, b in pairwise(heard))
        hops = defaultdict(list)
        for frame, hop in heard:
            hops[frame].append(hop)
        concealed: dict[int, int] = defaultdict(int)
        for kind, frame, _ in self.columns:
            concealed[frame] += kind == "concealed"
        restarts = {t.frame.sequence for t in self.tasks if isinstance(t, Decode) and t.fresh}
        frames = sorted(hops)
        cut = {a for a, b in pairwise(frames) if b in restarts}
        for frame in set(frames) - cut:
            count = len(hops[frame])
            assert hops[frame][-1] == HOPS - 1
            if hops[frame][0] == 0:
                assert count == HOPS - self.removed[frame]
            else:
                assert hops[frame][0] == concealed[frame] and count == HOPS - concealed[frame]


def steady(count: int, delay: Callable[[int], float | None]) -> list[tuple[float, int]]:
    """Arrivals of `count` frames, each `delay(sequence)` seconds after it was sent, if ever."""
    delays = ((n, delay(n)) for n in range(count))
    return [((n + 1) * FRAME + d, n) for n, d in delays if d is not None]


def jitter(most: float, seed: int = 1) -> Callable[[int], float]:
    rng = np.random.default_rng(seed)
    table = rng.uniform(0.0, most, 100_000)
    return lambda n: 0.05 + float(table[n])


def test_without_jitter_nothing_is_lost_and_the_delay_is_short():
    simulation = Simulation()
    simulation.run(steady(200, lambda n: 0.05), 200 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.late, counters.partly_late, counters.underruns) == (0, 0, 0, 0)
    assert counters.concealed == 0
    assert 0.020 < np.mean(simulation.slacks) / RATE < 0.050
    # Network, decoding, and what the synthesiser keeps are no choice of the jitter buffer.
    added = simulation.delay(100.0).mean() - 0.05 - simulation.decode_seconds - HELD / RATE
    assert added < 0.055
    assert counters.stretched + counters.shortened < 10


@pytest.mark.parametrize(("most", "added"), [(0.05, 0.065), (0.2, 0.23)])
def test_jitter_is_learned(most, added):
    simulation = Simulation()
    simulation.run(steady(400, jitter(most)), 400 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.late, counters.partly_late, counters.underruns) == (0, 0, 0, 0)
    over_fastest = simulation.delay(100.0) - 0.05 - simulation.decode_seconds - HELD / RATE
    assert most * 0.8 < over_fastest.mean() < added + 0.03
    late = sum(isinstance(t, Conceal) and t.begin == 0 for t in simulation.tasks)
    assert late < 0.05 * 400


def test_reordering_and_duplicates_cost_nothing():
    """200 ms of jitter, every 7th packet twice, every 11th overtaken by the one after it."""
    wait = jitter(0.2)
    arrivals = steady(300, wait)
    arrivals += [(at + 0.1, n) for at, n in arrivals[::7]]
    arrivals = [(at + (0.25 if n % 11 == 10 else 0.0), n) for at, n in arrivals]
    overtaken = [((n + 2) * FRAME + 0.26, n) for n in range(0, 300, 40)]
    arrivals = [(at, n) for at, n in arrivals if n % 40] + overtaken
    simulation = Simulation()
    simulation.run(arrivals, 299 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.received > 290
    assert counters.duplicates >= 300 // 7 - 2
    assert counters.reordered + counters.late >= 7
    # Only those that came a whole frame too late are lost.
    assert counters.lost <= len(overtaken)
    assert counters.underruns == 0


@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_loss_in_bursts_of_two(loss):
    rng = np.random.default_rng(7)
    gone = np.zeros(600, bool)
    for start in np.flatnonzero(rng.random(600) < loss / 2):
        gone[max(start, 1) : start + 2] = True
    simulation = Simulation()
    wait = jitter(0.03)
    simulation.run(steady(600, lambda n: None if gone[n] else wait(n)), 600 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert abs(counters.lost - gone.sum()) <= 2
    assert (counters.partly_late, counters.late, counters.underruns) == (0, 0, 0)
    frames = {frame for kind, frame, _ in simulation.columns if kind == "heard"}
    assert frames >= set(np.flatnonzero(~gone[:598])) and not frames & set(np.flatnonzero(gone))
    assert simulation.delay(100.0).max() < 0.25


@pytest.mark.parametrize("drift", [200e-6, -200e-6])
def test_an_hour_with_clocks_that_differ(drift):
    simulation = Simulation(drift=drift)
    count = int(3600 / FRAME)
    simulation.run(steady(count, jitter(0.02)), 3600.0)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.late, counters.partly_late, counters.underruns) == (0, 0, 0, 0)
    assert counters.concealed < 2.01 * CONCEAL_BLOCK * HOP / RATE
    parts = [simulation.delay(at, at + 600.0) for at in range(600, 3600, 600)]
    means = [part.mean() for part in parts]
    assert max(means) - min(means) < 0.004
    assert max(part.max() - part.min() for part in parts) < 0.04
    # 3600 s * 200 ppm are 90 columns; more would be hunting.
    grown, shrunk = counters.stretched, counters.shortened
    assert abs((grown - shrunk) * np.sign(drift) - 90) < 15
    assert min(grown, shrunk) < 30


def test_a_long_outage_is_silent_and_ends_cleanly():
    """What piles up during an outage of 10 s is given up, except for the newest."""
    simulation = Simulation()

    def wait(n: int) -> float:
        sent = (n + 1) * FRAME
        return max(30.0 - sent, 0.0) + 0.05 + n * 1e-5 if sent > 20.0 else 0.05

    simulation.run(steady(20, wait), 25.0)
    assert simulation.buffer.idle
    tasks = len(simulation.tasks)
    simulation.run([], 29.0)
    assert len(simulation.tasks) == tasks, "silence costs nothing"
    simulation.run([a for a in steady(60, wait) if a[0] > 29.0], 60 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.concealed == pytest.approx(CONCEAL_LIMIT * HOP / RATE)
    assert counters.underruns == 0
    assert 8 <= counters.lost <= 11
    heard_again = [at for at, _ in simulation.delays if at > 29.0]
    assert heard_again[0] < 30.2
    assert simulation.delay(32.0).max() < 0.5
    assert simulation.delay(55.0).max() < 0.2


def test_a_stall_of_a_second_and_a_half():
    """As TCP does it: nothing, then all of it. What can still be played is."""

    def wait(n: int) -> float:
        sent = (n + 1) * FRAME
        return 21.5 - sent if 20.0 < sent < 21.45 else 0.05

    simulation = Simulation()
    simulation.run(steady(60, wait), 60 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.lost + counters.partly_late >= 1
    assert simulation.delay(23.0).max() < 0.2
    assert counters.underruns == 0


def test_a_frame_somewhat_late_is_played_whole():
    simulation = Simulation()
    simulation.run(steady(100, lambda n: 0.25 if n == 30 else 0.05), 100 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.partly_late) == (0, 0)
    assert 0 < counters.concealed < 32.5 * HOP / RATE
    # The delay grows for it, and comes back.
    assert simulation.delay(31 * FRAME, 33 * FRAME).max() > 0.2
    assert simulation.delay(95 * FRAME).max() < 0.16


def test_a_frame_too_late_is_played_in_part():
    simulation = Simulation()
    simulation.run(steady(60, lambda n: 0.65 if n == 30 else 0.05), 60 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.partly_late, counters.late) == (0, 1, 0)
    played = [hop for kind, frame, hop in simulation.columns if (kind, frame) == ("heard", 30)]
    assert 30 < len(played) < 70 and played[-1] == HOPS - 1


def test_a_frame_altogether_late_is_dropped():
    simulation = Simulation()
    arrivals = steady(60, lambda n: 1.5 if n == 30 else 0.05)
    simulation.run(arrivals, 60 * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert (counters.lost, counters.late, counters.reordered) == (1, 1, 0)


def test_sequence_numbers_wrap():
    simulation = Simulation()
    first = 65_500
    arrivals = [((n + 1) * FRAME + 0.05, first + n) for n in range(80)]
    simulation.run(arrivals, 81 * FRAME)
    counters = simulation.buffer.counters
    assert counters.received == 80 and counters.lost == counters.late == 0
    assert simulation.buffer.restarts == 0


@pytest.mark.parametrize("gap", [0.0, 0.6, 10.0])
def test_a_sender_that_starts_again(gap):
    """Sequence numbers begin anew, right after the last frame or later."""
    simulation = Simulation()
    simulation.run([((n + 1) * FRAME + 0.05, 5000 + n) for n in range(20)], 20.5 * FRAME)
    again = [((n + 21) * FRAME + gap, 17 + n) for n in range(20)]
    simulation.run(again, again[-1][0] + 0.5, sender=1)
    frames = {frame for kind, frame, _ in simulation.columns if kind == "heard"}
    # At most its first frame is spent on believing that it is another sender's.
    assert frames >= set(range(18, 36))
    assert simulation.buffer.restarts == 1
    assert simulation.buffer.counters.lost <= 3
    assert simulation.buffer.counters.underruns == 0


def test_one_stray_packet_does_not_move_the_stream():
    simulation = Simulation()
    arrivals = steady(60, lambda n: 0.05)
    simulation.run([*arrivals, (20.5 * FRAME, 30_000)], 60 * FRAME)
    simulation.check()
    assert simulation.buffer.restarts == 0
    assert simulation.buffer.counters.lost == 0


def test_a_burst_after_a_gap_is_followed_to_its_end():
    """More frames at once than are kept; the last of them is the one to be played."""
    simulation = Simulation()
    burst = [(22 * FRAME + n * 1e-5, n) for n in range(32, 43)]
    simulation.run([*steady(20, lambda n: 0.05), *burst], 22.5 * FRAME)
    frames = {frame for kind, frame, _ in simulation.columns if kind == "heard"}
    assert max(frames) == 42
    assert simulation.buffer.restarts == 1


def test_quiet_parts_take_the_delay_back_faster():
    waits: Callable[[int], float] = lambda n: 0.3 if n < 10 and n % 2 else 0.05  # noqa: E731
    talking, silent = Simulation(), Simulation(active=lambda n: False)
    for simulation in (talking, silent):
        simulation.run(steady(75, waits), 75 * FRAME)
        simulation.check()
    assert silent.delay(14 * FRAME, 16 * FRAME).max() < 0.16
    assert talking.delay(14 * FRAME, 16 * FRAME).min() > 0.2
    assert talking.delay(60 * FRAME).max() < 0.16


def test_a_slow_machine_gets_more_reserve():
    """Decoding takes 150 ms now and then; the delay makes room for it and nothing is lost."""
    simulation = Simulation()
    for n in range(100):
        simulation.decode_seconds = 0.15 if n % 5 == 0 else 0.03
        simulation.run([((n + 1) * FRAME + 0.05, n)], (n + 1.9) * FRAME)
    simulation.check()
    counters = simulation.buffer.counters
    assert counters.lost == 0
    assert counters.underruns <= 2


@given(
    st.lists(
        st.tuples(st.floats(0.0, 2.5), st.sampled_from(["once", "never", "twice"]), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([160, 37, 640]),
)
@settings(max_examples=60)
def test_any_network(network, pull):
    """Whatever the network does, columns are played once and in order and queues stay bounded."""
    arrivals = []
    for n, (wait, fate, _) in enumerate(network):
        times = {"once": 1, "never": 0, "twice": 2}[fate]
        arrivals += [((n + 1) * FRAME + wait + 0.3 * k, n) for k in range(times)]
    actives = [active for *_, active in network]
    simulation = Simulation(pull_size=pull, active=lambda n: actives[n])
    simulation.run(arrivals, (len(network) + 8) * FRAME)
    simulation.check()
    buffer = simulation.buffer
    counters = buffer.counters
    assert buffer.idle and buffer.queued == 0
    decoded = sum(isinstance(task, Decode) for task in simulation.tasks)
    sent = sum(fate != "never" for _, fate, _ in network)
    assert counters.received == sent
    assert decoded <= sent
    assert counters.duplicates == sum(fate == "twice" for _, fate, _ in network)
    assert counters.received <= decoded + counters.late
    assert counters.underruns == 0


@given(st.lists(st.integers(-8000, 8000), min_size=1, max_size=48))
def test_cheapest_delay(needs):
    chosen = cheapest_delay(needs)

    def cost(delay: int) -> int:
        return delay + LATE_PRICE * sum(need > delay for need in needs)

    most = min(needs) + STRETCH_LIMIT
    assert chosen <= most
    assert cost(chosen) == min(cost(d) for d in [*needs, most] if d <= most)


def test_cheapest_delay_needs_frames():
    with pytest.raises(ValueError, match="no frames"):
        cheapest_delay([])


def test_the_store_is_bounded():
    """Packets without end while nothing is played take no memory without end."""
    buffer = JitterBuffer(HELD)
    for n in range(1000):
        packet = packet_of(n)
        buffer.arrive(pack(packet), packet, None, 0.0)
    assert (buffer.counters.received, buffer.counters.late) == (1000, 992)
    assert buffer.ahead()
    task = buffer.next()
    assert isinstance(task, Decode) and task.frame.sequence == 999
    assert not buffer.ahead()
    assert BACKLOG > STRETCH_LIMIT
