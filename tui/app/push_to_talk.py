"""Push-to-talk on a terminal, which reports that a key went down and never that it came up.

A tap starts talking, and another tap ends it. A key held down repeats: as soon as a second press
follows the first sooner than a person means to stop, the key counts as held, and talking ends once
the repeats do.
"""

from __future__ import annotations

# Keyboards begin to repeat after 0.25 to 0.66 s, and then do so every 0.02 to 0.1 s.
HOLD_BEGINS = 0.75
RELEASED_AFTER = 0.35


class PushToTalk:
    """Tells presses of one key from a hold. Times are seconds on a clock that never jumps."""

    def __init__(self) -> None:
        self.talking = False
        self._held = False
        self._began = 0.0
        self._last = float("-inf")

    def press(self, now: float) -> bool:
        """The key was pressed, or repeated. Returns whether we talk."""
        since_last = now - self._last
        self._last = now
        if self.talking:
            if self._held or now - self._began < HOLD_BEGINS:
                self._held = True
            else:
                self.talking = False
        elif since_last > RELEASED_AFTER:  # or else the key is still down from before
            self.talking, self._held, self._began = True, False, now
        return self.talking

    def poll(self, now: float) -> bool:
        """Time went by. Returns whether we talk."""
        if self._held and now - self._last > RELEASED_AFTER:
            self.stop()
        return self.talking

    def stop(self) -> None:
        self.talking = self._held = False
