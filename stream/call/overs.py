"""Which packets of our voice belong to which over: from pressing the key to letting it go."""

from __future__ import annotations

_NUMBERS = 1 << 16


class OverMarks:
    """Follows the key by the samples that were taken while it was down.

    Positions count samples on the scale of the packets. An over has every packet with a sample of
    it, and is over with the first packet that has none: who presses the key again before that goes
    on with the same one.
    """

    def __init__(self) -> None:
        self._number = 0
        self._open = False
        self._first = self._until = 0

    def push(self, first: int, last: int, *, down: bool) -> bool:
        """The samples from `first` to before `last` were taken. Returns whether an over begins."""
        if not down:
            return False
        begins = not self._open
        if begins:
            self._open, self._first = True, first
        self._until = last
        return begins

    def packet(self, first: int, last: int) -> tuple[int | None, int | None]:
        """Which over a packet of these samples belongs to, and which has ended before it."""
        if not self._open or self._first >= last:
            return None, None
        number = self._number
        if self._until > first:
            return number, None
        self._number, self._open = (number + 1) % _NUMBERS, False
        return None, number
