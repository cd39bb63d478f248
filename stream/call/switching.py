"""How long a busy thread may keep the interpreter from the others while there is a call."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

# At Python's 5 ms sound would come too late, and so would the answer to a key, which takes some ten
# turns: each of them waits that long behind every busy thread.
SWITCH_SECONDS = 0.001


class _Turns:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = SWITCH_SECONDS

    @contextlib.contextmanager
    def short(self) -> Iterator[None]:
        """Context in which threads take turns often; Python's interval comes back after the last
        of those that overlap."""
        with self._lock:
            if not self._users:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(SWITCH_SECONDS)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    sys.setswitchinterval(self._before)


short_turns = _Turns().short
