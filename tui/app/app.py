"""The call screen: polls the call, shows its snapshots and passes keys on to it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.driver import Driver

from codec.errors import SottoError
from stream.call.snapshot import FrontEndState, Latency, Party, Snapshot, Talker
from stream.call.switching import SWITCH_SECONDS
from stream.call.volume import Volume
from stream.link.events import CallState, Rings
from stream.link.ringing import Answer as RingAnswer
from stream.link.wire import MAX_TEXT
from tui.app import keys
from tui.app.alert import Alert, shown
from tui.app.call_bar import CallBar
from tui.app.dialogs.ask_path import AskPath
from tui.app.dialogs.choose import Choose
from tui.app.dialogs.compare import Compare
from tui.app.dialogs.confirm import Confirm
from tui.app.dialogs.details import Details
from tui.app.dialogs.help import Help
from tui.app.dialogs.parting import Parting
from tui.app.dialogs.pick_devices import PickDevices
from tui.app.dialogs.ring import Ring
from tui.app.dialogs.write import Write
from tui.app.driver import BoundedDriver, bounded
from tui.app.key_bar import KeyBar
from tui.app.latency_bar import LatencyBar
from tui.app.log_view import LogView
from tui.app.push_to_talk import PushToTalk
from tui.app.room_list import RoomList
from tui.app.theme import SOTTO_THEME, has_colour
from tui.app.voice_panel import HeardVoice, OwnVoice
from tui.terminal.signals import ENDING, handled

if TYPE_CHECKING:
    from stream.call.call import Call

POLL_HZ = 8
# While nobody speaks, every how many polls the screen is drawn.
IDLE_DIVISOR = 4
# On a slow terminal, whoever speaks.
PLAIN_DIVISOR = 8
# Who has pressed a key so lately goes on typing, whatever has come up on the screen since.
_TYPING_SECONDS = 1.0
_AUDIBLE_DB = -50.0
_OVER = (CallState.REFUSED, CallState.ENDED, CallState.FAILED)
_IN_CALL = (CallState.TALKING, CallState.RECONNECTING)

Answer = TypeVar("Answer")
Question = Choose | AskPath | Confirm | Compare | Write


class CallApp(App[None]):
    """The terminal UI of one call. `run` returns when it is over; after a signal that ends
    programs, `return_code` is 128 + its number."""

    CSS_PATH = "sotto.tcss"
    TITLE = "sotto"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-tiny"),
        (14, "-short"),
        (20, "-normal"),
        (24, "-roomy"),
        (32, "-tall"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = list(keys.BINDINGS)

    def __init__(
        self,
        call: Call,
        *,
        colour: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = datetime.now,
        poll_hz: float = POLL_HZ,
        plain: bool = False,
        linger: bool = True,
    ) -> None:
        """colour: None asks the terminal; today: names the suggested recording; plain: begin as a
        slow terminal needs it, with few bytes; linger: when the call is over, stay until a key is
        pressed."""
        self.colour = has_colour() if colour is None else colour
        with _told(self.colour):
            # Without colour, leave the terminal its own two: then none at all are sent.
            super().__init__(ansi_color=not self.colour)
        self.register_theme(SOTTO_THEME)
        # Before anything is drawn, so that nothing needs to be styled twice.
        self.set_reactive(App.theme, SOTTO_THEME.name)
        self.stylesheet.set_variables(self.get_css_variables())
        self._call = call
        self._clock = clock
        self._today = today
        self._poll_hz = poll_hz
        self.plain = plain
        self._linger = linger
        self._snapshot: Snapshot | None = None
        self._selected = -1
        self._button = PushToTalk()
        self._switch_interval = sys.getswitchinterval()
        self._polls = 0
        self._drawn: tuple[object, ...] = ()
        self._last_error = ""
        self._leaving = False
        self._draft = ""  # a line that could not be sent
        self._rang: Rings | None = None
        self._keys_at = deque([-math.inf, -math.inf], maxlen=2)  # when the latest were pressed
        self._signals = contextlib.ExitStack()

    def get_driver_class(self) -> type[Driver]:
        return bounded(super().get_driver_class())

    def compose(self) -> ComposeResult:
        yield CallBar(id="call")
        yield Alert(id="alert")
        with Horizontal(id="voices"):
            yield OwnVoice(colour=self.colour, id="own")
            with Vertical(id="others"):
                yield RoomList(id="room")
                yield HeardVoice(colour=self.colour, id="heard")
        yield LatencyBar(colour=self.colour, id="latency")
        yield LogView(id="log")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()

        def leave(number: int, frame: FrameType | None) -> None:
            if isinstance(self._driver, BoundedDriver):
                self._driver.leaving.set()  # the loop may wait for a terminal that stands still
            loop.call_soon_threadsafe(self._leave, 128 + number)

        # Not the loop's own way, which forgets the handlers that were there before.
        self._signals.enter_context(handled(ENDING, leave))
        sys.setswitchinterval(SWITCH_SECONDS)
        self.call_after_refresh(self.poll)
        self.set_interval(1 / self._poll_hz, self.poll)

    def on_unmount(self) -> None:
        sys.setswitchinterval(self._switch_interval)
        self._signals.close()

    def poll(self) -> None:
        """Look at the call, and draw what changed."""
        if self._leaving:
            return
        if isinstance(self._driver, BoundedDriver) and self._driver.gone:
            # The signal would have said so, unless it is ignored, as under nohup.
            self._leave(128 + signal.SIGHUP)
            return
        self._poll_button()
        snapshot = self._ask(self._call.snapshot)
        if snapshot is None:
            return
        self._snapshot = snapshot
        log = self._main(LogView)
        if isinstance(self.screen, PickDevices):
            devices = self._ask(self._call.devices_seen)
            if devices is not None:
                self.screen.show(devices, (snapshot.input_device, snapshot.output_device))
        fresh = self._ask(lambda: self._call.log_lines(log.last_number))
        if fresh:
            log.add(fresh)
            for line in fresh:
                if line.level == "said" and not log.display:  # on a low screen
                    self.notify(line.text, markup=False)
        self._polls += 1
        if self._worth_drawing(snapshot):
            self._draw(snapshot)
        self._show_ring(snapshot)
        if snapshot.state in _OVER and not self._linger:
            self._leave()
        elif snapshot.state in _OVER and not isinstance(self.screen, Parting):
            self.push_screen(Parting(snapshot), self._on_parted)

    # --- keys ---------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            self._keys_at.append(self._clock())
        await super().on_event(event)

    def action_mute(self) -> None:
        if self._snapshot is not None:
            muted = not self._snapshot.muted
            self._change(lambda: self._call.set_muted(muted))

    def action_push_to_talk(self) -> None:
        if self._snapshot is not None:
            on = not self._snapshot.push_to_talk
            self._button.stop()
            self._change(lambda: self._call.set_push_to_talk(on))

    def action_front_end(self) -> None:
        if self._snapshot is not None:
            on = self._snapshot.front_end is not FrontEndState.ON
            self._change(lambda: self._call.set_front_end(on))

    def action_talk(self) -> None:
        if self._snapshot is None or not self._snapshot.push_to_talk:
            return
        before = self._button.talking
        talking = self._button.press(self._clock())
        if talking != before:
            self._change(lambda: self._call.talk(talking))

    def action_delay(self) -> None:
        if self._snapshot is None:
            return
        shown = {f"{delay} ms": delay for delay in self._snapshot.delays}
        dialog = Choose("delay", tuple(shown), f"{self._snapshot.talker.delay} ms")
        self._open(dialog, lambda name: self._change(lambda: self._call.set_delay(shown[name])))

    def action_preset(self) -> None:
        if self._snapshot is None:
            return
        dialog = Choose("preset", self._snapshot.presets, self._snapshot.preset)
        self._open(dialog, lambda name: self._change(lambda: self._call.set_preset(name)))

    def action_devices(self) -> None:
        devices = self._ask(self._call.devices)
        if devices is None or self._snapshot is None:
            return
        current = (self._snapshot.input_device, self._snapshot.output_device)
        dialog = PickDevices(
            devices,
            current,
            lambda name: self._change(lambda: self._call.set_input(name)),
            lambda name: self._change(lambda: self._call.set_output(name)),
        )
        self.push_screen(dialog)

    def action_record(self) -> None:
        if self._snapshot is None:
            return
        if self._snapshot.recording:
            self._change(lambda: self._call.set_recording(None))
            return
        name = f"sotto-{self._today():%Y%m%d-%H%M%S}.wav"
        self._open(
            AskPath("record to", name),
            lambda path: self._change(lambda: self._call.set_recording(path)),
        )

    def action_write(self) -> None:
        def send(text: str) -> None:
            self._draft = "" if self._change(lambda: self._call.send_text(text)) else text

        self._open(Write(MAX_TEXT, self._draft), send)

    def action_volume(self, steps: int) -> None:
        """The voice that is shown is so many steps louder."""
        self._set_volume(lambda volume: volume.louder(steps))

    def action_silence(self) -> None:
        """Mute the voice that is shown, or hear it again."""
        self._set_volume(Volume.switched)

    def _set_volume(self, change: Callable[[Volume], Volume]) -> None:
        party = self._chosen(self._snapshot) if self._snapshot is not None else None
        if party is not None:
            number, volume = party.party, change(party.volume)
            self._change(lambda: self._call.set_volume(number, volume))

    def action_compare(self) -> None:
        """Ask whether the code is the same on both screens, where there is one to compare."""
        party = self._chosen(self._snapshot) if self._snapshot is not None else None
        if party is None or not party.code:
            name = "nobody" if party is None else shown(party)
            self.notify(f"there is no code to compare with {name}", markup=False)
        elif party.verified:
            self.notify(f"{shown(party)} is verified already", markup=False)
        else:
            verify = partial(self._call.verify, party.party, party.code)
            self._open(Compare(party), lambda yes: self._change(verify))

    def action_log(self) -> None:
        self._main(LogView).screen.toggle_class("long-log")

    def action_plain(self) -> None:
        """Between the full picture and one for slow terminals."""
        self.plain = not self.plain
        self._redraw()

    def action_scroll_log(self, pages: int) -> None:
        self._main(LogView).scroll_pages(pages)

    def action_select(self, step: int) -> None:
        """Show the listener above (-1) or below (1) the present one."""
        listeners = self._snapshot.listeners if self._snapshot is not None else ()
        if len(listeners) < 2:
            return
        parties = [listener.party for listener in listeners]
        at = parties.index(self._selected) if self._selected in parties else 0
        self._selected = parties[(at + step) % len(parties)]
        self._redraw()

    def on_room_list_selected(self, message: RoomList.Selected) -> None:
        self._selected = message.party
        self._redraw()

    def action_details(self) -> None:
        if self._snapshot is not None:
            self.push_screen(Details(self._snapshot, self._chosen(self._snapshot)))

    def action_help(self) -> None:
        self.push_screen(Help())

    async def action_quit(self) -> None:
        """Hang up; in the middle of a call ask once. The same key again is a yes."""
        talking = self._snapshot is not None and self._snapshot.state in _IN_CALL
        if not talking or isinstance(self.screen, Confirm):
            self._leave()
            return
        question = "Hang up? Press the key again, or y. The others go on talking without you."
        if self._snapshot is None or not self._snapshot.room:
            question = "Hang up? Press the key again, or y."
        self._open(Confirm("hang up", question), lambda yes: self._leave() if yes else None)

    def _show_ring(self, snapshot: Snapshot) -> None:
        """Ask about a caller that rings, once; take the question back when it does no more."""
        asked = next((screen for screen in self.screen_stack if isinstance(screen, Ring)), None)
        ringing = snapshot.ringing
        if asked is not None and asked.ringing is not ringing:
            self._rang = None
            if asked is self.screen:
                asked.dismiss(None)
        elif ringing is None:
            self._rang = None
        elif ringing is not self._rang and asked is None:
            self._rang = ringing
            self.bell()
            typing = self._clock() - self._keys_at[-1] < _TYPING_SECONDS
            writing = isinstance(self.screen, (Write, AskPath))
            dialog = Ring(ringing, self._paused) if typing or writing else Ring(ringing)
            self._keys_at.append(self._clock())
            self.push_screen(dialog, partial(self._on_ring_answered, ringing))

    def _paused(self) -> bool:
        """Whether it has rung for a while, with no key pressed, before the latest."""
        before, latest = self._keys_at
        return latest - before >= _TYPING_SECONDS

    def _on_ring_answered(self, ringing: Rings, answer: RingAnswer | None) -> None:
        if answer is not None:
            self._change(lambda: self._call.answer(answer, ringing))

    # --- polling and drawing ------------------------------------------------------------------

    def _leave(self, return_code: int = 0) -> None:
        if self._leaving:
            return
        self._ask(self._call.hang_up)
        self._leaving = True
        self.exit(return_code=return_code)

    def _on_parted(self, answer: bool | None) -> None:
        self._leave()

    def _poll_button(self) -> None:
        before = self._button.talking
        if before and not self._button.poll(self._clock()):
            self._change(lambda: self._call.talk(False))

    def _ask(self, question: Callable[[], Answer]) -> Answer | None:
        """The answer, or None with the reason on the screen."""
        try:
            answer = question()
        except SottoError as error:
            text = " ".join(str(error).split())
            if text != self._last_error:  # a poll that keeps failing says so once
                self._last_error = text
                self.notify(text, severity="error", markup=False)
            return None
        self._last_error = ""
        return answer

    def _change(self, command: Callable[[], None]) -> bool:
        """Give the call a command and show at once what came of it. Whether it was obeyed."""

        def obeyed() -> bool:
            command()
            return True

        done = self._ask(obeyed) is not None
        self._last_error = ""
        self._redraw()
        return done

    def _open(self, dialog: Question, then: Callable[..., object]) -> None:
        def answered(answer: object) -> None:
            if answer is not None:
                then(answer)

        self.push_screen(dialog, answered)

    def _redraw(self) -> None:
        self._drawn = ()
        self.poll()

    def _main(self, kind: type[Answer]) -> Answer:
        """A widget of the main screen, whatever is open over it."""
        return self.screen_stack[0].query_one(kind)  # type: ignore[type-var]

    def _chosen(self, snapshot: Snapshot) -> Party | None:
        for listener in snapshot.listeners:
            if listener.party == self._selected:
                return listener
        return snapshot.listeners[0] if snapshot.listeners else None

    def _worth_drawing(self, snapshot: Snapshot) -> bool:
        """Whether somebody speaks, or something was switched, or it is time again anyway."""
        voices: list[Talker | Party] = [snapshot.talker, *snapshot.listeners]
        audible = any(voice.active or voice.level_db > _AUDIBLE_DB for voice in voices)
        if audible and not self.plain:
            self._drawn = ()
            return True
        switches = (
            snapshot.state,
            snapshot.muted,
            snapshot.front_end,
            snapshot.push_to_talk,
            snapshot.talking,
            snapshot.keeping,
            snapshot.late is not None and snapshot.late.playing,
            snapshot.recording,
            snapshot.recording_overs,
            snapshot.overloaded,
            snapshot.preset,
            tuple((each.party, each.recording, each.volume) for each in snapshot.listeners),
        )
        divisor = PLAIN_DIVISOR if self.plain else IDLE_DIVISOR
        if switches == self._drawn and self._polls % divisor:
            return False
        self._drawn = switches
        return True

    def _draw(self, snapshot: Snapshot) -> None:
        now = self._clock()
        listener = self._chosen(snapshot)
        self._selected = listener.party if listener is not None else -1
        self._main(CallBar).show(snapshot, listener)
        self._main(Alert).show(snapshot)
        for panel in (self._main(OwnVoice), self._main(HeardVoice)):
            panel.plain = self.plain
        self._main(OwnVoice).show(snapshot, now)
        room = self._main(RoomList)
        room.display = snapshot.room and bool(snapshot.listeners)
        room.screen.set_class(room.display and len(snapshot.listeners) > 4, "crowded")
        if room.display:
            room.show(snapshot.listeners, self._selected, now)
        self._main(HeardVoice).show(snapshot, listener, now)
        latency, grown = (listener.latency, listener.grown) if listener else (Latency(), 0.0)
        self._main(LatencyBar).show(latency, snapshot.link.round_trip, grown)
        self._main(KeyBar).show(snapshot)
        if isinstance(self.screen, Details):
            self.screen.show(snapshot, listener)


@contextlib.contextmanager
def _told(colour: bool) -> Iterator[None]:
    """Textual asks the environment whether to use colour, as an application is made."""
    before = os.environ.pop("NO_COLOR", None)
    if not colour:
        os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("NO_COLOR", None)
        if before is not None:
            os.environ["NO_COLOR"] = before
