"""Device slots: devices changed during a call, and sound cards that are plugged in or removed.

The sound system is a fake with PortAudio's rules: it lists the cards found at its last
initialisation, which must not happen while a stream is open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from codec.errors import SottoError
from stream.audio.devices import AudioDeviceError, Device, DeviceNames, refresh
from stream.audio.sinks import NullSink
from stream.audio.slots import RETRY, DeviceSlot, Hotplug, SoundSystem
from stream.audio.sources import Silence
from stream.log import Journal


class Machine:
    """Cards plugged in, those PortAudio knows, and the streams that are open."""

    def __init__(self, *cards: str) -> None:
        self.plugged = set(cards)
        self.known = set(cards)
        self.open: list[str] = []
        self.refreshed = self.looked = 0
        self.stubborn: set[str] = set()  # listed, but cannot be opened

    def devices(self) -> DeviceNames:
        return DeviceNames(tuple(sorted(self.known)), tuple(sorted(self.known)))

    def look(self) -> DeviceNames:
        self.looked += 1
        return DeviceNames(tuple(sorted(self.plugged)), tuple(sorted(self.plugged)))

    def refresh(self) -> None:
        assert not self.open, "PortAudio was initialised anew with open streams"
        self.refreshed += 1
        self.known = set(self.plugged)

    def unplug(self, name: str) -> None:
        self.plugged.discard(name)


class Microphone(Silence):
    is_card = True

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__()
        if name not in machine.known:
            raise AudioDeviceError(f"no input device matches {name}")
        self.name, self._machine = name, machine

    def start(self) -> None:
        if self.name not in self._machine.plugged or self.name in self._machine.stubborn:
            raise AudioDeviceError(f"cannot record from {self.name}: it is not there")
        super().start()
        self._machine.open.append(self.name)

    def stop(self) -> None:
        if self.name in self._machine.open:
            self._machine.open.remove(self.name)


class Scene:
    """A call's two slots on a machine, and the thread that serves both."""

    def __init__(self, machine: Machine, source: str, sink: str, *, patience: float = 20.0) -> None:
        self.machine = machine
        self.now = 100.0
        self.journal = Journal()

        def card(name: str) -> Any:
            return Microphone(machine, name)

        system = SoundSystem(card, card, machine.devices, machine.look, machine.refresh)
        self.busy: DeviceSlot[Any] | None = None  # its thread does not come round to requests
        self.hotplug = Hotplug(
            card(source),
            card(sink),
            system,
            self.journal,
            clock=lambda: self.now,
            patience=patience,
        )
        self.input: DeviceSlot[Any] = self.hotplug.input
        self.output: DeviceSlot[Any] = self.hotplug.output
        for slot in (self.input, self.output):
            slot.start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Scene:
        self._thread.start()
        self.hotplug.step()
        return self

    def __exit__(self, *about: object) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _serve(self) -> None:
        while not self._stop.wait(0.002):
            for slot in (self.input, self.output):
                if slot is not self.busy:
                    slot.serve()

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.hotplug.step()

    def lose(self, slot: DeviceSlot[Any], name: str) -> None:
        self.machine.unplug(name)
        slot.device.error = f"the microphone {name} has stopped: silence is sent instead"

    def log(self) -> list[str]:
        """What was logged about opening cards."""
        texts = [line.text for line in self.journal.after(-1)]
        return [text for text in texts if "has stopped" not in text]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_looked_for_while_all_is_well():
    with Scene(Machine("headset"), "headset", "headset") as scene:
        for _ in range(100):
            scene.later(10.0)
        assert scene.machine.looked == scene.machine.refreshed == 0


def test_a_lost_card_is_opened_again_when_it_is_back():
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.input, "headset")
        for _ in range(5):
            scene.later(RETRY)
        # The other one plays on undisturbed meanwhile.
        assert machine.looked == 5 and machine.refreshed == 0
        assert scene.output.card == "speaker"
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert (scene.input.card, scene.output.card) == ("headset", "speaker")
        assert not scene.input.device.error
        assert machine.refreshed == 1
        assert sorted(machine.open) == ["headset", "speaker"]
        assert scene.log() == ["input is now headset", "output is now speaker"]
        scene.later(100.0)
        assert machine.refreshed == 1


def test_a_card_that_is_there_but_does_not_open_is_tried_less_and_less_often():
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.input, "headset")
        machine.plugged.add("headset")
        machine.stubborn.add("headset")
        for _ in range(600):
            scene.later(1.0)
        assert 8 <= machine.refreshed <= 16
        assert scene.input.card is None
        assert scene.output.card == "speaker"
        machine.stubborn.clear()
        for _ in range(61):
            scene.later(1.0)
        assert scene.input.card == "headset"


def test_a_new_card_is_found_listed_and_opened():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        assert scene.hotplug.devices().inputs == ("headset",)
        machine.plugged.add("usb")
        scene.hotplug.devices()
        scene.later(0.1)
        seen = scene.hotplug.seen()
        assert seen is not None and seen.inputs == ("headset", "usb")
        assert machine.refreshed == 0  # looking disturbs nobody
        scene.hotplug.open_input("usb")
        scene.later(0.1)
        assert (scene.input.card, scene.output.card) == ("usb", "headset")
        assert machine.refreshed == 1
        scene.hotplug.open_output("usb")
        scene.later(0.1)
        assert scene.output.card == "usb"
        assert machine.refreshed == 1  # known by now


def test_what_is_not_there_is_said_and_nothing_changes():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        scene.hotplug.open_input("gramophone")
        scene.later(0.1)
        assert scene.input.card == "headset"
        assert machine.refreshed == 0
        assert scene.log() == ["no input device matches gramophone"]


def test_where_nobody_can_look_the_known_cards_are_tried():
    machine = Machine("headset", "speaker")

    def blind() -> DeviceNames:
        raise AudioDeviceError("cannot look for audio devices")

    machine.look = blind  # type: ignore[method-assign]
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.input, "headset")
        for _ in range(60):
            scene.later(0.5)
        assert machine.refreshed == 1  # after that PortAudio does not know it either
        assert scene.output.card == "speaker"
        assert not [line for line in scene.log() if "cannot look" in line]


def test_files_and_pipes_are_left_alone():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        scene.output.device.stop()
        scene.output.device = NullSink()
        scene.lose(scene.input, "headset")
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert scene.input.card == "headset"
        assert isinstance(scene.output.device, NullSink)


def test_a_thread_that_does_not_let_go_keeps_portaudio_from_being_touched():
    machine = Machine("headset", "speaker")
    scene = Scene(machine, "headset", "speaker", patience=0.05)  # nobody serves the requests
    scene.hotplug.step()
    scene.lose(scene.input, "headset")
    machine.plugged.add("headset")
    scene.later(RETRY)
    assert machine.refreshed == 0
    assert machine.open == ["headset", "speaker"]


def test_a_card_that_is_let_go_of_late_is_opened_again():
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker", patience=1.0) as scene:
        scene.busy = scene.output
        scene.lose(scene.input, "headset")
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert machine.refreshed == 0
        assert scene.log() == ["the sound card does not answer"]
        scene.busy = None
        wait_until(lambda: not machine.open)

        def opened() -> bool:
            scene.later(100.0)
            return (scene.input.card, scene.output.card) == ("headset", "speaker")

        wait_until(opened)
        assert machine.refreshed >= 1


def test_the_thread_serves_and_ends():
    machine = Machine("headset")
    before = threading.active_count()
    with Scene(machine, "headset", "headset") as scene:
        scene.hotplug.start()
        machine.plugged.add("usb")
        scene.hotplug.open_input("usb")
        wait_until(lambda: scene.input.card == "usb")
        scene.hotplug.stop()
    wait_until(lambda: threading.active_count() == before)


def test_portaudio_that_does_not_come_up_again_is_an_error_in_one_line(monkeypatch):
    class Broken:
        class PortAudioError(Exception):
            pass

        def _terminate(self) -> None:
            pass

        def _initialize(self) -> None:
            raise self.PortAudioError("no memory")

    monkeypatch.setattr("stream.audio.devices.sound_system", Broken)
    with pytest.raises(AudioDeviceError, match="does not start again: no memory"):
        refresh()


class Plug(Device):
    """Counts what is done with it; refuses to start where told."""

    def __init__(self, name: str, *, card: bool = True, refuses: bool = False) -> None:
        super().__init__()
        self.name, self.is_card, self.refuses = name, card, refuses
        self.running = False

    def start(self) -> None:
        if self.refuses:
            raise SottoError(f"{self.name} is taken")
        self.running = True

    def stop(self) -> None:
        self.running = False


def slot_with(device: Plug, *, started: bool = True, journal: Journal | None = None) -> Any:
    slot = DeviceSlot(
        "input", device, Plug, lambda: Plug("silence", card=False), journal or Journal()
    )
    if started:
        slot.start()
    return slot


def answer(slot: DeviceSlot[Any], device: Plug | None) -> BaseException | None:
    """What comes of asking for another device, or for the card to be closed."""
    future = slot.request(None if device is None else lambda: device)
    slot.serve()
    return future.exception(0.0)


def test_another_device_takes_over_and_gaps_add_up():
    first, second = Plug("first"), Plug("second")
    slot = slot_with(first)
    first.gaps, second.gaps = 3, 4
    assert answer(slot, second) is None
    assert (first.running, second.running) == (False, True)
    assert (slot.name, slot.card, slot.gaps) == ("second", "second", 7)


def test_a_device_that_cannot_be_opened_changes_nothing():
    first = Plug("first")
    slot = slot_with(first)
    assert str(answer(slot, Plug("second", refuses=True))) == "second is taken"
    assert slot.device is first and first.running


def test_before_the_call_nothing_is_opened():
    slot = slot_with(Plug("first"), started=False)
    second = Plug("second", refuses=True)
    assert answer(slot, second) is None
    assert slot.device is second and not second.running


def test_only_cards_are_closed_and_only_by_the_thread_that_uses_them():
    card = Plug("headset")
    slot = slot_with(card)
    slot.request(None)
    before = card.running
    slot.serve()
    assert (before, card.running) == (True, False)
    assert (slot.name, slot.card) == ("headset (away)", None)

    file = Plug("speech.wav", card=False)
    slot = slot_with(file)
    assert answer(slot, None) is None
    assert slot.device is file and file.running


def test_what_breaks_is_reported_once():
    device, journal = Plug("headset"), Journal()
    slot = slot_with(device, journal=journal)
    slot.serve()
    device.error = "the headset has stopped"
    slot.serve()
    slot.serve()
    assert [line.text for line in journal.after(-1)] == ["the headset has stopped"]
