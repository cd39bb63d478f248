"""The delays a talker can choose, those that its machine keeps up with, and delays that grow.

Nothing here reads a clock: whoever asks gives the time and what was measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from codec.errors import BadInput
from codec.packet import DELAYS, FRAME_STEPS, STEP_MS

WHOLE_FRAMES = STEP_MS * FRAME_STEPS

_BLOCK_STEPS = 4  # the most that is searched at once
SEARCH_STEPS = 1  # that a machine must have time for: of all, the first brings most
BUSY_SHARE = 0.6  # of a block's time that its search may take
BEHIND_SECONDS = 3.0  # for which the encoder is behind before the delay is made longer
SETTLE_SECONDS = 6.0  # until it shows whether that was enough

GROWN = 0.3  # seconds over the least delay of late that are worth a word ...
GROWN_FOR = 2.0  # ... after so many seconds
_BACK = 0.15  # what is over the least by no more has been brought back
_MEMORY = 60.0  # seconds after which a delay is no longer unusual


def steps_of(delay: int) -> int:
    """Latent steps of packets that last `delay` milliseconds. Raises BadInput for no such ones."""
    if delay not in DELAYS:
        raise BadInput(f"the delay cannot be {delay} ms (one of {', '.join(map(str, DELAYS))})")
    return delay // STEP_MS


def block_seconds(delay: int) -> float:
    """How much speech is searched at once."""
    return min(steps_of(delay), _BLOCK_STEPS) * STEP_MS / 1000.0


def most_seconds(delay: int) -> float:
    """How long the search of a block may take that the machine has to keep up with."""
    return BUSY_SHARE * block_seconds(delay)


def fitting(wished: int, possible: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The shortest possible delay, of at least the wished one, that the machine keeps up with.

    seconds: what a block at a delay takes with SEARCH_STEPS. The longest one has to do.
    """
    longer = sorted(delay for delay in possible if delay >= wished) or [max(possible)]
    for delay in longer[:-1]:
        if seconds(delay) <= most_seconds(delay):
            return delay
    return longer[-1]


class FallBack:
    """Whether it is time for the next longer delay: the encoder has been behind for seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._settled = float("-inf")

    def update(self, now: float, behind: bool) -> bool:
        """behind: whether the encoder does not keep up with its source."""
        if not behind or now < self._settled:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= BEHIND_SECONDS:
            self._since, self._settled = None, now + SETTLE_SECONDS
            return True
        return False


class Growth:
    """Notices that a voice is heard later and later, and that this is over."""

    def __init__(self) -> None:
        self.seconds = 0.0  # by which the delay has grown; 0 while that is nothing unusual
        self._seen: deque[tuple[float, float]] = deque(maxlen=512)
        self._since: float | None = None
        self._delay: int | None = None

    def update(self, now: float, total: float | None, delay: int) -> str | None:
        """What to tell people, if anything.

        total: seconds from mouth to ear of late, if known; delay: milliseconds of packets, whose
        change is none of this.
        """
        if delay != self._delay:
            self._delay, self._since, self.seconds = delay, None, 0.0
            self._seen.clear()
        if total is None:
            return None
        while self._seen and now - self._seen[0][0] > _MEMORY:
            self._seen.popleft()
        least = min((seen for _, seen in self._seen), default=total)
        self._seen.append((now, total))
        over = total - least
        if self.seconds:
            if over > _BACK:
                self.seconds = over
                return None
            self.seconds, self._since = 0.0, None
            return f"the delay is back to {total:.2f} s"
        if over <= GROWN:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= GROWN_FOR:
            self.seconds = over
            return f"the delay has grown from {least:.2f} to {total:.2f} s"
        return None
