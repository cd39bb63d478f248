"""Requests from one thread to another, carried out when the other one comes round to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from codec.errors import SottoError
from stream.log import Journal

_MOST = 16


class Requests:
    """A bounded inbox; when it overflows, the oldest requests are forgotten."""

    def __init__(self, journal: Journal) -> None:
        self._waiting: deque[Callable[[], None]] = deque(maxlen=_MOST)
        self._journal = journal

    def post(self, request: Callable[[], None]) -> None:
        """Any thread: have `request` called by the thread that serves this inbox."""
        self._waiting.append(request)

    def serve(self) -> None:
        """The serving thread: do what was asked; what cannot be done goes to the journal."""
        while self._waiting:
            self._do(self._waiting.popleft())

    def _do(self, request: Callable[[], None]) -> None:
        try:
            request()
        except SottoError as error:
            self._journal.error(str(error))
