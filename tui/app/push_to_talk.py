"""Push-to-talk on a terminal, which reports key presses but no releases.

A tap starts talking, and another tap stops it. A key held down repeats: when a second press follows
the first too soon to be meant as a stop, the key counts as held, and talking stops when the repeats
do.
"""

from __future__ import annotations

# Keyboards begin to repeat after 0.25 to 0.66 s, and then do so every 0.02 to 0.1 s.
HOLD_BEGINS = 0.75
RELEASED_AFTER = 0.35


class PushToTalk:
    """Tells taps of a key from holding it. Times are seconds on a monotonic clock."""

    def __init__(self) -> None:
        self.talking = False
        self._held = False
        self._began = 0.0
        self._last = float("-inf")

    def press(self, now: float) -> bool:
        """Take a press or repeat of the key. Returns whether we talk."""
        since_last = now - self._last
        self._last = now
        if self.talking:
            if self._held or now - self._began < HOLD_BEGINS:
                self._held = True
            else:
                self.talking = False
        elif since_last > RELEASED_AFTER:  # otherwise the key is still down from before
            self.talking, self._held, self._began = True, False, now
        return self.talking

    def poll(self, now: float) -> bool:
        """Take note of the time. Returns whether we talk."""
        if self._held and now - self._last > RELEASED_AFTER:
            self.stop()
        return self.talking

    def stop(self) -> None:
        self.talking = self._held = False
