"""Where sound card, file or pipe is plugged into one half of a call, and swapped while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from codec.errors import SottoError
from stream.audio.requests import Requests
from stream.log import Journal

Done = Callable[[SottoError | None], None]


class Plug(Protocol):
    """What a `Source` and a `Sink` have in common."""

    name: str
    is_card: bool
    error: str | None

    def start(self) -> None: ...
    def stop(self) -> None: ...


AnyPlug = TypeVar("AnyPlug", bound=Plug)


class Jack(Generic[AnyPlug]):
    """Holds what is plugged in. All but `open`, `release` and the properties are for one thread.

    plug: what is in use. nothing: makes what stands in for a card that is let go of. gaps: how
    often samples of a plug were lost or missing. requests: the inbox of the thread that uses it.
    """

    def __init__(
        self,
        plug: AnyPlug,
        nothing: Callable[[], AnyPlug],
        gaps: Callable[[AnyPlug], int],
        requests: Requests,
        journal: Journal,
    ) -> None:
        self.plug = plug
        self._nothing, self._count = nothing, gaps
        self._requests, self._journal = requests, journal
        self._started = False
        self._told: AnyPlug | None = None  # of which it was said that it broke
        self._gaps_before = 0

    @property
    def name(self) -> str:
        """What is plugged in, for people."""
        return self.plug.name

    @property
    def card(self) -> str | None:
        """The sound card in use, if it is one."""
        return self.plug.name if self.plug.is_card else None

    @property
    def lost(self) -> bool:
        """Whether what is plugged in has broken."""
        return self.plug.error is not None

    @property
    def gaps(self) -> int:
        """Gaps of all that has been plugged in so far."""
        return self._gaps_before + self._count(self.plug)

    def release(self, done: Done) -> None:
        """Ask for the sound card to be let go of, and be told when it is."""

        def work() -> None:
            if self.plug.is_card:
                nothing = self._nothing()
                nothing.name = f"{self.plug.name} (away)"
                self.replace(nothing)
            done(None)

        self._requests.post(work)

    def open(self, make: Callable[[], AnyPlug], done: Done) -> None:
        """Ask for another plug; the present one stays if it cannot be opened, for that reason."""

        def work() -> None:
            try:
                self.replace(make())
            except SottoError as error:
                done(error)
            else:
                done(None)

        self._requests.post(work)

    def start(self) -> None:
        """Open what is plugged in. Raises SottoError when that is impossible."""
        self.plug.start()
        self._started = True

    def stop(self) -> None:
        """Close it; may be called twice."""
        self.plug.stop()

    def replace(self, plug: AnyPlug) -> None:
        """Open another plug, if the present one is open, and close that.

        Raises SottoError, and keeps the present one, when the new one cannot be opened.
        """
        if self._started:
            plug.start()
        self.plug, before = plug, self.plug
        self._gaps_before += self._count(before)
        before.stop()

    def report(self) -> None:
        """Say once when what is plugged in breaks."""
        if self.plug.error is not None and self.plug is not self._told:
            self._told = self.plug
            self._journal.error(self.plug.error)
