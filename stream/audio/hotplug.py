"""Sound cards that come and go during a call.

PortAudio knows the cards there were when it was initialised. What there is now is asked of another
process, which disturbs nothing. Only when a card is to be opened that this process does not know,
or that has been away, both cards are let go of, PortAudio is initialised anew, and they are opened
again by their names. A lost card is looked for until it is back; meanwhile its half of the call is
silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from codec.errors import SottoError
from stream.audio.devices import DeviceNames
from stream.audio.slots import Done, Jack, Plug

if TYPE_CHECKING:
    from stream.audio.sinks import Sink
    from stream.audio.sources import Source
    from stream.log import Journal

RETRY = 3.0  # seconds between looks for a lost card; doubled after each that could not be opened
_LONGEST_RETRY = 60.0
_TICK = 0.5
_PATIENCE = 5.0  # seconds for the other threads to let go of a card or open it

Card = TypeVar("Card", bound=Plug)


@dataclass
class _Half(Generic[Card]):
    """One direction. wanted: the card it had or shall have; missing: it is to be opened anew."""

    what: str
    jack: Jack[Card]
    make: Callable[[str], Card]
    names: Callable[[DeviceNames], tuple[str, ...]]
    wanted: str | None = None
    missing: bool = False
    asked: str | None = None


class Hotplug:
    """Opens cards for a call, in a thread of its own.

    known: the cards this process knows; look: those there are now, which may take a second;
    refresh: make the latter the former, while no card is open.
    """

    def __init__(
        self,
        speaking: Jack[Source],
        hearing: Jack[Sink],
        source: Callable[[str], Source],
        sink: Callable[[str], Sink],
        known: Callable[[], DeviceNames],
        look: Callable[[], DeviceNames],
        refresh: Callable[[], None],
        journal: Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._halves: tuple[_Half[Source], _Half[Sink]] = (
            _Half("input", speaking, source, lambda devices: devices.inputs),
            _Half("output", hearing, sink, lambda devices: devices.outputs),
        )
        self._known, self._look, self._refresh = known, look, refresh
        self._journal, self._clock = journal, clock
        self._devices: DeviceNames | None = None
        self._look_wanted = False
        self._next_try = 0.0
        self._retry = RETRY
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sotto-cards", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a look that is going on is not waited for."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def devices(self) -> DeviceNames:
        """The cards as seen last; a new look is begun, and what it finds given from then on."""
        if self._devices is None:
            self._devices = self._known()
        self._look_wanted = True
        self._wake.set()
        return self._devices

    def seen(self) -> DeviceNames | None:
        """The cards as seen last, without a new look."""
        return self._devices

    def open_input(self, name: str) -> None:
        """Ask for another microphone."""
        self._ask(self._halves[0], name)

    def open_output(self, name: str) -> None:
        """Ask for another loudspeaker."""
        self._ask(self._halves[1], name)

    def _ask(self, half: _Half[Any], name: str) -> None:
        half.asked = name
        self._wake.set()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_TICK)
            self._wake.clear()
            try:
                self.step()
            except SottoError as error:
                self._journal.error(str(error))

    def step(self) -> None:
        """Do what there is to do now."""
        if self._look_wanted:
            self._look_wanted = False
            self._see()
        halves: tuple[_Half[Any], ...] = self._halves
        for half in halves:
            name, half.asked = half.asked, None
            if name is not None:
                self._change(half, name)
            if half.jack.card is not None:
                half.wanted = half.jack.card
                half.missing = half.missing or half.jack.lost
        now = self._clock()
        lost = [half for half in halves if half.missing]
        if not lost or now < self._next_try:
            return
        self._next_try = now + self._retry
        devices = self._see()
        back = [half for half in lost if half.wanted in half.names(devices)]
        if back and not self._stop.is_set():
            self._reopen()
        self._retry = min(2.0 * self._retry, _LONGEST_RETRY) if back else RETRY
        if not any(half.missing for half in lost):
            self._retry = RETRY
        self._next_try = self._clock() + self._retry

    def _see(self) -> DeviceNames:
        """The cards there are now; those we know where that cannot be found out."""
        try:
            self._devices = self._look()
        except SottoError:
            self._devices = self._known()
        return self._devices

    def _change(self, half: _Half[Any], name: str) -> None:
        """Open what was asked for; with a new PortAudio if this one does not know it."""
        if name not in half.names(self._known()) and name in half.names(self._see()):
            half.wanted, half.missing = name, True
            self._reopen()
            return
        error = self._open(half, name)
        if error is None:
            half.wanted, half.missing = name, False
            self._journal.info(f"{half.what} is now {name}")
        else:
            self._journal.error(str(error))

    def _reopen(self) -> None:
        """Let go of both cards, begin anew, and open them by their names."""
        halves: tuple[_Half[Any], ...] = self._halves
        held = [half for half in halves if half.jack.card is not None or half.missing]
        for half in held:
            half.missing = True  # also if that is done later than we wait for
            if (error := self._wait(half.jack.release)) is not None:
                self._journal.warning(str(error))
                return  # it still has its card: PortAudio must be left alone
        self._refresh()
        for half in held:
            if half.wanted is None:
                continue
            error = self._open(half, half.wanted)
            half.missing = error is not None
            if error is None:
                self._journal.info(f"{half.what} is now {half.wanted}")
            else:
                self._journal.warning(str(error))

    def _open(self, half: _Half[Any], name: str) -> SottoError | None:
        return self._wait(lambda done: half.jack.open(lambda: half.make(name), done))

    def _wait(self, ask: Callable[[Done], None]) -> SottoError | None:
        """Have something done by another thread; what it says, or that it does not answer."""
        answered = threading.Event()
        answers: list[SottoError | None] = []

        def done(error: SottoError | None) -> None:
            answers.append(error)
            answered.set()

        ask(done)
        answered.wait(_PATIENCE)
        return answers[0] if answers else SottoError("the sound card does not answer")
