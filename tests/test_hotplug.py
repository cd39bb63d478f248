"""Sound cards that come and go: what the call does about it, and that PortAudio is left in peace.

The sound system is a fake with PortAudio's rules: it knows the cards of its last initialisation,
which must not happen while a stream is open.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from stream.audio.devices import AudioDeviceError, DeviceNames, refresh
from stream.audio.hotplug import RETRY, Hotplug
from stream.audio.requests import Requests
from stream.audio.sinks import NullSink
from stream.audio.slots import Jack
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


class Half:
    """What Speaking and Hearing share: a jack, and the requests of the thread that serves it."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.journal = Journal()
        self.requests = Requests(self.journal)
        self.jack: Jack[Any] = Jack(
            Microphone(machine, name), Silence, lambda plug: plug.overflows, self.requests,
            self.journal,
        )  # fmt: skip
        self.jack.start()


class Scene:
    """A call's two halves on a machine, and the thread that serves both."""

    def __init__(self, machine: Machine, microphone: str, loudspeaker: str) -> None:
        self.machine = machine
        self.now = 100.0
        self.halves = Half(machine, microphone), Half(machine, loudspeaker)
        self.busy: Half | None = None  # does not come round to its requests
        self.speaking, self.hearing = (half.jack for half in self.halves)
        self.journal = Journal()

        def make(name: str) -> Any:
            return Microphone(machine, name)

        self.hotplug = Hotplug(
            self.speaking,
            self.hearing,
            make,
            make,
            machine.devices,
            machine.look,
            machine.refresh,
            self.journal,
            clock=lambda: self.now,
        )
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
            for half in self.halves:
                if half is not self.busy:
                    half.requests.serve()

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.hotplug.step()

    def lose(self, jack: Jack[Any], name: str) -> None:
        self.machine.unplug(name)
        jack.plug.error = f"the microphone {name} has stopped: silence is sent instead"

    def log(self) -> list[str]:
        return [line.text for line in self.journal.after(-1)]


def test_nothing_is_looked_for_while_all_is_well():
    with Scene(Machine("headset"), "headset", "headset") as scene:
        for _ in range(100):
            scene.later(10.0)
        assert scene.machine.looked == scene.machine.refreshed == 0


def test_a_lost_card_is_opened_again_when_it_is_back():
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.speaking, "headset")
        for _ in range(5):
            scene.later(RETRY)
        # The other one plays on undisturbed meanwhile.
        assert machine.looked == 5 and machine.refreshed == 0
        assert scene.hearing.card == "speaker"
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert (scene.speaking.card, scene.hearing.card) == ("headset", "speaker")
        assert not scene.speaking.lost
        assert machine.refreshed == 1
        assert sorted(machine.open) == ["headset", "speaker"]
        assert scene.log() == ["input is now headset", "output is now speaker"]
        scene.later(100.0)
        assert machine.refreshed == 1


def test_a_card_that_is_there_but_does_not_open_is_tried_less_and_less_often():
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.speaking, "headset")
        machine.plugged.add("headset")
        machine.stubborn.add("headset")
        for _ in range(600):
            scene.later(1.0)
        assert 8 <= machine.refreshed <= 16
        assert scene.speaking.card is None
        assert scene.hearing.card == "speaker"
        machine.stubborn.clear()
        for _ in range(61):
            scene.later(1.0)
        assert scene.speaking.card == "headset"


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
        assert (scene.speaking.card, scene.hearing.card) == ("usb", "headset")
        assert machine.refreshed == 1
        scene.hotplug.open_output("usb")
        scene.later(0.1)
        assert scene.hearing.card == "usb"
        assert machine.refreshed == 1  # known by now


def test_what_is_not_there_is_said_and_nothing_changes():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        scene.hotplug.open_input("gramophone")
        scene.later(0.1)
        assert scene.speaking.card == "headset"
        assert machine.refreshed == 0
        assert scene.log() == ["no input device matches gramophone"]


def test_where_nobody_can_look_the_known_cards_are_tried():
    machine = Machine("headset", "speaker")

    def blind() -> DeviceNames:
        raise AudioDeviceError("cannot look for audio devices")

    machine.look = blind  # type: ignore[method-assign]
    with Scene(machine, "headset", "speaker") as scene:
        scene.lose(scene.speaking, "headset")
        for _ in range(60):
            scene.later(0.5)
        assert machine.refreshed == 1  # after that PortAudio does not know it either
        assert scene.hearing.card == "speaker"
        assert not [line for line in scene.log() if "cannot look" in line]


def test_files_and_pipes_are_left_alone():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        scene.hearing.plug.stop()
        scene.hearing.plug = NullSink()
        scene.lose(scene.speaking, "headset")
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert scene.speaking.card == "headset"
        assert isinstance(scene.hearing.plug, NullSink)


def test_a_thread_that_does_not_let_go_keeps_portaudio_from_being_touched(monkeypatch):
    monkeypatch.setattr("stream.audio.hotplug._PATIENCE", 0.05)
    machine = Machine("headset", "speaker")
    scene = Scene(machine, "headset", "speaker")  # nobody serves the requests
    scene.hotplug.step()
    scene.lose(scene.speaking, "headset")
    machine.plugged.add("headset")
    scene.later(RETRY)
    assert machine.refreshed == 0
    assert machine.open == ["headset", "speaker"]


def test_a_card_that_is_let_go_of_late_is_opened_again(monkeypatch):
    monkeypatch.setattr("stream.audio.hotplug._PATIENCE", 0.05)
    machine = Machine("headset", "speaker")
    with Scene(machine, "headset", "speaker") as scene:
        scene.busy = scene.halves[1]
        scene.lose(scene.speaking, "headset")
        machine.plugged.add("headset")
        scene.later(RETRY)
        assert machine.refreshed == 0
        assert scene.log() == ["the sound card does not answer"]
        scene.busy = None
        deadline = time.monotonic() + 20.0
        while machine.open:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        monkeypatch.setattr("stream.audio.hotplug._PATIENCE", 20.0)
        scene.later(100.0)
        assert [jack.card for jack in (scene.speaking, scene.hearing)] == ["headset", "speaker"]
        assert machine.refreshed == 1


def test_the_thread_serves_and_ends():
    machine = Machine("headset")
    with Scene(machine, "headset", "headset") as scene:
        scene.hotplug.start()
        machine.plugged.add("usb")
        scene.hotplug.open_input("usb")
        deadline = time.monotonic() + 20.0
        while scene.speaking.card != "usb":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        scene.hotplug.stop()
    assert not scene.hotplug._thread.is_alive()


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
