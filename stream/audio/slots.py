"""The two device slots of a call: what is in them, and cards that come and go meanwhile.

PortAudio knows the cards there were when it was initialised. What there is now is asked of another
process, which disturbs nothing. Only when a card is to be opened that this process does not know,
or that has been away, both cards are closed, PortAudio is initialised anew, and they are opened
again by their names. A lost card is looked for until it is back; meanwhile its half of the call is
silent.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from codec.errors import SottoError
from stream.audio import devices
from stream.audio.devices import Device, DeviceNames, Direction
from stream.audio.sinks import Loudspeaker, NullSink, Sink
from stream.audio.sources import Microphone, Silence, Source
from stream.log import Journal

RETRY = 3.0  # seconds between looks for a lost card; doubled after each that could not be opened
_LONGEST_RETRY = 60.0
_TICK = 0.5
_PATIENCE = 5.0  # seconds for another thread to close or open its card

AnyDevice = TypeVar("AnyDevice", bound=Device)


@dataclass(frozen=True)
class SoundSystem:
    """This machine's sound cards; tests put others in their place.

    known: the cards that this process knows; look: those there are now, which may take a second;
    refresh: make the latter the former, while no card is open.
    """

    microphone: Callable[[str], Source] = Microphone
    loudspeaker: Callable[[str], Sink] = Loudspeaker
    known: Callable[[], DeviceNames] = devices.known
    look: Callable[[], DeviceNames] = devices.look
    refresh: Callable[[], None] = devices.refresh


class DeviceSlot(Generic[AnyDevice]):
    """One direction of a call: holds the device that one thread reads or writes.

    Other threads use the properties and `request`, which that thread carries out in `serve`.
    card_named: makes a sound card; stand_in: makes what takes the place of one that is closed.
    wanted: the card that was or is to be here; missing: it has to be opened anew (see Hotplug).
    """

    def __init__(
        self,
        direction: Direction,
        device: AnyDevice,
        card_named: Callable[[str], AnyDevice],
        stand_in: Callable[[], AnyDevice],
        journal: Journal,
    ) -> None:
        self.direction, self.device, self.card_named = direction, device, card_named
        self.asked: str | None = None
        self.wanted: str | None = None
        self.missing = False
        self._stand_in, self._journal = stand_in, journal
        self._requests: deque[tuple[Callable[[], AnyDevice] | None, Future[None]]] = deque()
        self._started = False
        self._reported: AnyDevice | None = None
        self._gaps_before = 0

    @property
    def name(self) -> str:
        """What is in use, for people."""
        return self.device.name

    @property
    def card(self) -> str | None:
        """The sound card in use, if it is one."""
        return self.device.name if self.device.is_card else None

    @property
    def gaps(self) -> int:
        """Gaps of all devices so far."""
        return self._gaps_before + self.device.gaps

    def request(self, make: Callable[[], AnyDevice] | None) -> Future[None]:
        """Ask for another device, or with None for the sound card to be closed.

        The answer is a SottoError where that fails; the present device then stays.
        """
        answer: Future[None] = Future()
        self._requests.append((make, answer))
        return answer

    def start(self) -> None:
        """Open the device. Raises SottoError when that is impossible."""
        self.device.start()
        self._started = True

    def stop(self) -> None:
        """Close it; may be called twice."""
        self.device.stop()

    def serve(self) -> None:
        """Carry out what was asked for, and report once that a device has broken."""
        while self._requests:
            make, answer = self._requests.popleft()
            try:
                if make is not None:
                    self.replace(make())
                elif self.device.is_card:
                    silence = self._stand_in()
                    silence.name = f"{self.name} (away)"
                    self.replace(silence)
                answer.set_result(None)
            except SottoError as error:
                answer.set_exception(error)
        if self.device.error is not None and self.device is not self._reported:
            self._reported = self.device
            self._journal.error(self.device.error)

    def replace(self, device: AnyDevice) -> None:
        """Open another device, if the present one is open, and close that.

        Raises SottoError, and keeps the present one, when the new one cannot be opened.
        """
        if self._started:
            device.start()
        self.device, before = device, self.device
        self._gaps_before += before.gaps
        before.stop()


class Hotplug:
    """Opens cards for both slots of a call, `input` and `output`, in a thread of its own."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        system: SoundSystem,
        journal: Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE,
    ) -> None:
        self.input = DeviceSlot("input", source, system.microphone, Silence, journal)
        self.output = DeviceSlot("output", sink, system.loudspeaker, NullSink, journal)
        self._slots: tuple[DeviceSlot[Any], ...] = (self.input, self.output)
        self._system, self._journal = system, journal
        self._clock, self._patience = clock, patience
        self._names: DeviceNames | None = None
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
        """The cards as seen last; begins a new look, whose findings are given from then on."""
        if self._names is None:
            self._names = self._system.known()
        self._look_wanted = True
        self._wake.set()
        return self._names

    def seen(self) -> DeviceNames | None:
        """The cards as seen last, without a new look."""
        return self._names

    def open_input(self, name: str) -> None:
        """Ask for another microphone."""
        self.input.asked = name
        self._wake.set()

    def open_output(self, name: str) -> None:
        """Ask for another loudspeaker."""
        self.output.asked = name
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
            self._look()
        for slot in self._slots:
            name, slot.asked = slot.asked, None
            if name is not None:
                self._change(slot, name)
            if slot.card is not None:
                slot.wanted = slot.card
                slot.missing = slot.missing or slot.device.error is not None
        now = self._clock()
        lost = [slot for slot in self._slots if slot.missing]
        if not lost or now < self._next_try:
            return
        self._next_try = now + self._retry
        names = self._look()
        back = any(slot.wanted in names.of(slot.direction) for slot in lost)
        if back and not self._stop.is_set():
            self._reopen()
        refused = back and any(slot.missing for slot in lost)
        self._retry = min(2.0 * self._retry, _LONGEST_RETRY) if refused else RETRY
        self._next_try = self._clock() + self._retry

    def _look(self) -> DeviceNames:
        """The cards there are now; those we know where that cannot be found out."""
        try:
            self._names = self._system.look()
        except SottoError:
            self._names = self._system.known()
        return self._names

    def _change(self, slot: DeviceSlot[Any], name: str) -> None:
        """Open what was asked for; with a new PortAudio if this one does not know it."""
        known = self._system.known().of(slot.direction)
        if name not in known and name in self._look().of(slot.direction):
            slot.wanted, slot.missing = name, True
            self._reopen()
            return
        try:
            self._open(slot, name)
        except SottoError as error:
            self._journal.error(str(error))

    def _reopen(self) -> None:
        """Close both cards, initialise PortAudio anew, and open them by their names."""
        held = [slot for slot in self._slots if slot.card is not None or slot.missing]
        try:
            for slot in held:
                slot.missing = True  # also if it is closed later than we wait for
                self._have(slot, None)
        except SottoError as error:
            self._journal.warning(str(error))
            return  # one is still open: PortAudio must be left alone
        self._system.refresh()
        for slot in held:
            if slot.wanted is not None:
                try:
                    self._open(slot, slot.wanted)
                except SottoError as error:
                    self._journal.warning(str(error))

    def _open(self, slot: DeviceSlot[Any], name: str) -> None:
        self._have(slot, lambda: slot.card_named(name))
        slot.wanted, slot.missing = name, False
        self._journal.info(f"{slot.direction} is now {name}")

    def _have(self, slot: DeviceSlot[Any], make: Callable[[], Device] | None) -> None:
        """Have another device put in. Raises SottoError: the slot's answer, or that none comes."""
        try:
            slot.request(make).result(self._patience)
        except NoAnswer:
            raise SottoError("the sound card does not answer") from None
