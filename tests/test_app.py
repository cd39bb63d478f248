"""The terminal UI: every key, every state, every size, with and without colour.

Text snapshots of the screen in each state are kept in tests/snapshots. To accept a change:

    SOTTO_NEW_SNAPSHOTS=1 python3 -m pytest tests/test_app.py -k looks
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.color import Color
from textual.pilot import Pilot
from textual.widgets import Input

from stream.call.snapshot import QUIETEST_DB, FrontEndState, Latency, Snapshot, Spectrogram
from stream.call.volume import Volume
from stream.link.authentication import Security
from stream.link.caller import Caller
from stream.link.events import CallState, Offer, Rings
from stream.link.keys import generate
from stream.link.listener import Listener
from stream.link.peers import KnownPeers
from stream.link.ringing import Answer
from stream.log import KEPT_LINES, LogLine
from tests import fake_call
from tests.app_pictures import grid, picture
from tests.fake_call import CODE, OWN_KEY, PEER_KEY, SCENES, FakeCall, Scene
from tests.link_peers import Ear
from tui.app import figures
from tui.app.app import IDLE_DIVISOR, PLAIN_DIVISOR, CallApp
from tui.app.call_bar import CallBar
from tui.app.colormap import colours
from tui.app.dialogs.compare import Compare
from tui.app.dialogs.confirm import Confirm
from tui.app.dialogs.details import FRONT_END, Details
from tui.app.dialogs.help import Help
from tui.app.dialogs.parting import Parting
from tui.app.dialogs.write import Write
from tui.app.keys import BINDINGS
from tui.app.latency_bar import PARTS, shares
from tui.app.log_view import LogView
from tui.app.meter import HOLD_SECONDS, PeakHold, bar
from tui.app.painting import Painted, flow, width_of
from tui.app.push_to_talk import HOLD_BEGINS, RELEASED_AFTER, PushToTalk
from tui.app.sparkline import sparkline
from tui.app.spectrogram import (
    HOPS_PER_CELL,
    KEPT_CELLS,
    LEVELS,
    LOUD,
    PLAIN_SHADES,
    QUIET,
    History,
    in_colour,
    in_shades,
)
from tui.app.theme import has_colour

SNAPSHOTS = Path(__file__).parent / "snapshots"
SMALL, LARGE = (80, 24), (140, 40)
NEVER = 0.001  # polls per second: the tests poll

Step = Callable[[CallApp, FakeCall, "Pilot[None]"], Awaitable[None]]


def play(
    scene: Scene | str = "talking",
    step: Step | None = None,
    *,
    keys: tuple[str, ...] = (),
    size: tuple[int, int] = SMALL,
    colour: bool = True,
    prepare: Callable[[FakeCall], None] | None = None,
) -> tuple[FakeCall, CallApp, str]:
    """Show a scene, press `keys`, take `step`; the call, the app and what was on the screen."""
    call = FakeCall(scene)
    if prepare is not None:
        prepare(call)

    async def act() -> tuple[CallApp, str]:
        app = app_of(call, colour=colour)
        async with app.run_test(size=size, notifications=True) as pilot:
            app.poll()  # whether or not the first one has come by itself
            for _ in range(3):
                call.time += 1.0
                app.poll()
            for _ in range(IDLE_DIVISOR):  # by then it is drawn, even if nobody speaks
                app.poll()
            await pilot.pause()
            if keys:
                await pilot.press(*keys)
            if step is not None:
                await step(app, call, pilot)
            shown = "" if app._exit else grid(app)
        return app, shown

    app, shown = asyncio.run(act())
    return call, app, shown


def app_of(call: FakeCall, colour: bool = True) -> CallApp:
    return CallApp(
        call,
        colour=colour,
        clock=lambda: call.time,
        today=lambda: datetime(2026, 1, 2, 3, 4, 5),
        poll_hz=NEVER,
    )


def commands(call: FakeCall) -> list[tuple[object, ...]]:
    return [entry for entry in call.calls if entry != ("devices",)]


# Looks

OVERLAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "muted": ("talking", ("m",)),
    "push-to-talk": ("talking", ("t",)),
    "on-air": ("talking", ("t", "space")),
    "keeping": ("kept", ("t", "space")),
    "recording": ("talking", ("r", "enter")),
    "record-prompt": ("talking", ("r",)),
    "delays": ("talking", ("f",)),
    "comparing": ("compare", ("c",)),
    "louder": ("room", ("plus", "plus", "down", "x")),
    "writing": ("talking", ("w", *"tea?")),
    "presets": ("talking", ("p",)),
    "devices": ("talking", ("d",)),
    "hang-up": ("talking", ("h",)),
    "help": ("talking", ("question_mark",)),
    "details": ("loss", ("i",)),
    "long-log": ("loss", ("l",)),
    "room-second": ("room", ("down",)),
}
STATES = {**{name: (name, ()) for name in SCENES}, **OVERLAYS}


PLAIN = ("connecting", "talking", "loss", "room", "muted", "refused", "help")


@pytest.mark.parametrize("name", sorted(STATES))
def test_looks(name: str) -> None:
    scene, keys = STATES[name]
    shown: dict[str, str] = {}

    async def both_sizes(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.pause()
        shown["80x24"] = grid(app)
        await pilot.resize_terminal(*LARGE)
        await pilot.pause()
        shown["140x40"] = grid(app)

    play(scene, both_sizes, keys=keys)
    if name in PLAIN:
        shown["80x24 without colour"] = play(scene, keys=keys, colour=False)[2]
    for title, text in shown.items():
        width, height = LARGE if title == "140x40" else SMALL
        lines = text.splitlines()
        assert len(lines) <= height
        assert max(map(cell_len, lines)) <= width
    text = "\n".join(f"--- {title}\n{text}" for title, text in shown.items())
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("SOTTO_NEW_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("waiting", ["waiting for a call", "jrtw-6k2v-9qpx-c4ha", "○ not connected"]),
        ("connecting", ["connecting", "○ not connected", "calling ada.example.org:4747"]),
        (
            "talking",
            [
                *("connected", "Ada", "bk7d-9w3m-x2fe-p80q", "✓ secured", "2k 256 ms"),
                *("Built-in Audio Analog Stereo", "USB Headset", "mouth to ear  392 ms"),
                *("search   15 steps", "loss 0.919 → 0.701", "real time 0.56×", "IP 6468 bit/s"),
            ],
        ),
        (
            "loss",
            [
                *("lost    9", "late    2", "partly late    3", "concealed  11.6 s"),
                "▲ 330 ms more",
            ],
        ),
        ("reconnecting", ["▲ connection lost, trying again: nothing heard for 3.1 s"]),
        ("insecure", ["✗ NOT secured"]),
        ("compare", ["code 39071 58842 00617 93386 14520 77219  same on both screens?"]),
        ("recorded", ["▲ Ada records this call"]),
        ("late", ["▲ late: Ada, 12 s ago, once more and whole: now playing; 3 s more wait"]),
        ("kept", ["▲ 4 s of what you said are kept, to arrive late"]),
        ("overloaded", ["▲ overloaded"]),
        ("room", ["room of 5", "▸ Ada", "Hedy Lamarr", "↑↓ select"]),
        ("empty-room", ["nobody else is here"]),
        ("refused", ["✗ refused", "does not know our key", "press any key"]),
        ("ended", ["Ada hung up"]),
        ("failed", ["cannot reach ada.example.org:4747"]),
    ],
)
def test_a_state_says_so_in_words_even_in_80x24_without_colour(name, words) -> None:
    _, _, shown = play(name, colour=False)
    for word in words:
        assert word in shown
    for part in PARTS:
        assert part in shown


def test_without_colour_nothing_is_sent_in_colour() -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        strips = app.screen._compositor.render_strips()
        for strip in strips:
            for text, style, _ in strip:
                if style is not None and text:
                    for colour in (style.color, style.bgcolor):
                        assert colour is None or colour.is_default
        seen.append(len(strips))

    seen: list[int] = []
    play("talking", look, colour=False, keys=("m",))
    assert seen == [24]
    assert "NO_COLOR" not in os.environ


def test_the_spectrogram_is_in_colour_and_in_shades_without() -> None:
    _, _, coloured = play("talking")
    _, _, plain = play("talking", colour=False)
    assert "▀" in coloured and "░" not in coloured
    assert "▀" not in plain and "░" in plain


SIZES = ((79, 23), (60, 20), (50, 12), (20, 6), (3, 40), (1, 1), (300, 80))


@pytest.mark.parametrize("name", ["room", "waiting", "refused"])
def test_any_size_will_do(name: str) -> None:
    async def shrink(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for size in SIZES:
            await pilot.resize_terminal(*size)
            call.time += 0.3
            app.poll()
            await pilot.pause()
            if name != "refused":
                await pilot.press("question_mark", "escape", "d", "escape")
        assert app.size == SIZES[-1]

    _, app, _ = play(name, shrink)
    assert not app._exit


def test_a_narrow_screen_shows_security_key_and_devices() -> None:
    async def shrink(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for width in (20, 30, 47):
            await pilot.resize_terminal(width, 24)
            call.time += 0.3
            app.poll()
            await pilot.pause()
            bar = app.query_one(CallBar)
            lines = [bar.render_line(y).text.strip() for y in range(bar.size.height)]
            assert lines[0].startswith("● connected")
            assert lines[1] == "✓ secured"
            assert lines[2] in (PEER_KEY, f"key {PEER_KEY}")
            assert re.match("mic [^…]{4}", lines[3]) and re.match("out [^…]{4}", lines[4])

    play("talking", shrink)


def test_the_theme_is_in_force() -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for selector in ("#own", "#log"):
            widget = app.query_one(selector)
            assert isinstance(widget, Painted)
            assert widget.look("title").color == Color.parse("#6fb7b0")
            assert widget.look("title").bgcolor == Color.parse("#101519")

    play("talking", look)


def test_resizing_keeps_the_picture() -> None:
    async def resize(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        before = grid(app)
        await pilot.resize_terminal(*LARGE)
        await pilot.pause()
        larger = grid(app)
        assert larger.count("▀") > before.count("▀")
        await pilot.resize_terminal(*SMALL)
        await pilot.pause()
        assert grid(app) == before

    play("talking", resize)


def test_foreign_text_cannot_command_the_terminal() -> None:
    evil = "Eve\x1b[2J\x07\n[red]x[/] \u202e"

    class Evil(FakeCall):
        def snapshot(self) -> Snapshot:
            seen = super().snapshot()
            listener = replace(seen.listeners[0], name=evil, fingerprint=evil)
            link = replace(seen.link, peer=evil)
            return replace(
                seen,
                listeners=(listener,),
                link=link,
                input_device=evil,
                reason=evil,
                room=self.scene.room,
            )

    for room in (False, True):
        call = Evil(replace(SCENES["reconnecting"], room=room))
        call.log.append(LogLine(9, 1.0, "error", evil))

        async def look(call: FakeCall = call) -> str:
            app = app_of(call)
            async with app.run_test(size=SMALL) as pilot:
                app.poll()
                await pilot.press("i")
                inside = grid(app)
                await pilot.press("escape")
                return inside + grid(app)

        shown = asyncio.run(look())
        assert "Eve [2J [red]x[/]" in shown
        assert not set("\x1b\x07\u202e") & set(shown)


# Keys

CASES: list[tuple[str, tuple[str, ...], list[tuple[object, ...]]]] = [
    ("mute", ("m",), [("set_muted", True)]),
    ("unmute", ("m", "m"), [("set_muted", True), ("set_muted", False)]),
    ("space alone", ("space",), []),
    ("echo left in", ("e",), [("set_front_end", False)]),
    ("echo removed again", ("e", "e"), [("set_front_end", False), ("set_front_end", True)]),
    ("push-to-talk", ("t",), [("set_push_to_talk", True)]),
    ("open microphone", ("t", "t"), [("set_push_to_talk", True), ("set_push_to_talk", False)]),
    ("talk", ("t", "space"), [("set_push_to_talk", True), ("talk", True)]),
    ("preset", ("p", "down", "enter"), [("set_preset", "3k6")]),
    ("preset above", ("p", "up", "enter"), [("set_preset", "1k2")]),
    ("delay", ("f", "up", "enter"), [("set_delay", 128)]),
    ("no preset", ("p", "down", "escape"), []),
    ("input", ("d", "down", "down", "enter"), [("set_input", "pulse")]),
    ("output", ("d", "tab", "down", "enter"), [("set_output", "HDMI / DisplayPort")]),
    (
        "both devices",
        ("d", "down", "enter", "right", "up", "enter", "escape", "m"),
        [("set_input", "USB Headset"), ("set_output", "pulse"), ("set_muted", True)],
    ),
    ("record", ("r", "enter"), [("set_recording", "sotto-20260102-030405.wav")]),
    ("record elsewhere", ("r", "ctrl+u", *"my m.wav", "enter"), [("set_recording", "my m.wav")]),
    ("record nothing", ("r", "ctrl+u", "enter"), [("set_recording", "sotto-20260102-030405.wav")]),
    ("no recording", ("r", "escape"), []),
    (
        "record and stop",
        ("r", "enter", "r"),
        [("set_recording", "sotto-20260102-030405.wav"), ("set_recording", None)],
    ),
    ("louder", ("plus", "plus"), [("set_volume", 0, Volume(3)), ("set_volume", 0, Volume(6))]),
    ("quieter", ("minus",), [("set_volume", 0, Volume(-3))]),
    (
        "mute a voice, and hear it again",
        ("minus", "x", "x"),
        [
            ("set_volume", 0, Volume(-3)),
            ("set_volume", 0, Volume(-3, muted=True)),
            ("set_volume", 0, Volume(-3)),
        ],
    ),
    (
        "louder is not muted",
        ("x", "plus"),
        [("set_volume", 0, Volume(muted=True)), ("set_volume", 0, Volume(3))],
    ),
    ("write", ("w", *"tea?", "enter"), [("send_text", "tea?")]),
    ("write nothing", ("w", "space", "enter"), []),
    ("do not write", ("w", "t", "escape"), []),
    ("hang up", ("h", "h"), [("hang_up",)]),
    ("hang up, yes", ("h", "y"), [("hang_up",)]),
    ("hang up, enter", ("h", "enter"), [("hang_up",)]),
    ("control-q", ("ctrl+q", "ctrl+q"), [("hang_up",)]),
    ("control-c", ("ctrl+c", "ctrl+c"), [("hang_up",)]),
    ("do not hang up", ("h", "n"), []),
    ("nor then", ("h", "escape", "m"), [("set_muted", True)]),
    ("control-c in help", ("question_mark", "ctrl+c", "y"), [("hang_up",)]),
    ("keys in help are no commands", ("question_mark", "m", "t"), []),
]


LEAVING = [case for case in CASES if ("hang_up",) in case[2]]


def test_a_key_does_what_it_says() -> None:
    async def each(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for name, keys, expected in CASES:
            if ("hang_up",) in expected:
                continue
            await pilot.press(*keys)
            assert commands(call) == expected, name
            assert not app._exit, name
            while len(app.screen_stack) > 1:
                await pilot.press("escape")
            call.reset()
            app.poll()

    play("talking", each)


@pytest.mark.parametrize(
    ("state", "label"),
    [
        (FrontEndState.NONE, " mic Built-in"),
        (FrontEndState.ON, " mic Built-in"),
        (FrontEndState.OFF, "raw mic Built-in"),
        (FrontEndState.MISSING, "raw mic Built-in"),
    ],
)
def test_a_microphone_with_its_echo_is_called_raw(state: FrontEndState, label: str) -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        call.front_end = state
        app.poll()
        await pilot.pause()
        assert label in grid(app)
        assert ("raw mic" in label) == ("raw mic" in grid(app))
        await pilot.press("i")
        assert FRONT_END[state] in grid(app)

    play("talking", look)


@pytest.mark.parametrize(
    ("keys", "expected"), [c[1:] for c in LEAVING], ids=[c[0] for c in LEAVING]
)
def test_a_key_that_hangs_up(keys, expected) -> None:
    call, app, _ = play("talking", keys=keys)
    assert commands(call) == expected
    assert app._exit


@pytest.mark.parametrize("name", ["waiting", "connecting"])
def test_before_the_call_hanging_up_asks_nothing(name: str) -> None:
    call, app, _ = play(name, keys=("h",))
    assert commands(call) == [("hang_up",)]
    assert app._exit


@pytest.mark.parametrize("name", ["refused", "ended", "failed"])
@pytest.mark.parametrize("keys", [(), ("question_mark",), ("h",), ("d",)])
def test_a_call_of_so_many_seconds_waits_for_no_key(name: str, keys: tuple[str, ...]) -> None:
    """Whatever dialog is open when it is over."""

    async def act() -> CallApp:
        call = FakeCall("talking")
        app = CallApp(call, clock=lambda: call.time, poll_hz=NEVER, linger=False)
        async with app.run_test(size=SMALL) as pilot:
            app.poll()
            await pilot.press(*keys)
            assert not app._exit
            call.scene = SCENES[name]
            app.poll()
            await pilot.pause()
        return app

    assert asyncio.run(act())._exit


@pytest.mark.parametrize(
    ("name", "key"),
    [("refused", "x"), ("refused", "escape"), ("ended", "m"), ("ended", "ctrl+q"), ("failed", "h")],
)
def test_when_it_is_over_any_key_leaves(name: str, key: str) -> None:
    async def stays(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, Parting)
        call.time += 60
        app.poll()
        app.poll()
        assert not app._exit and len(app.screen_stack) == 2
        await pilot.press(key)

    call, app, _ = play(name, stays)
    assert app._exit
    assert commands(call) == [("hang_up",)]


def test_a_call_that_ends_under_an_open_dialog_says_why() -> None:
    async def end(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        call.scene = SCENES["ended"]
        app.poll()
        await pilot.pause()
        assert "Ada hung up" in grid(app)
        await pilot.press("a")

    _, app, _ = play("talking", end, keys=("r",))
    assert app._exit


def test_help_names_every_key_and_closes() -> None:
    async def read(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, Help)
        shown = grid(app)
        aliases = {"question_mark": "?", "pageup": "PgUp", "pagedown": "PgDn"}
        aliases |= {"up": "↑", "down": "↓", "plus": "+", "minus": "-"}
        for binding in BINDINGS:
            for key in binding.key.split(","):
                assert aliases.get(key, key) in shown
            assert binding.tooltip in shown
        await pilot.press("question_mark")
        assert not isinstance(app.screen, Help)

    play("talking", read, keys=("question_mark",))


def test_details_follow_the_call() -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, Details)
        assert "324 frames" not in grid(app)
        call.time += 5
        app.poll()
        await pilot.pause()
        assert "324 frames" in grid(app)

    play("talking", look, keys=("i",))


def test_the_log_grows_and_scrolls() -> None:
    def fill(call: FakeCall) -> None:
        call.log = [LogLine(i, float(i), "info", f"line {i}.") for i in range(60)]

    async def scroll(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        before = grid(app)
        assert "line 59." in before and "line 54." not in before
        await pilot.press("l")
        await pilot.pause()
        longer = grid(app)
        assert longer.count("line ") > before.count("line ")
        await pilot.press("pageup")
        assert "line 59." not in grid(app) and "newer" in grid(app)
        call.log.append(LogLine(60, 60.0, "info", "line 60."))
        held = [line for line in grid(app).splitlines() if "line " in line]
        app.poll()
        await pilot.pause()
        assert [line for line in grid(app).splitlines() if "line " in line] == held
        await pilot.press("pagedown", "pagedown")
        assert "line 60." in grid(app) and "newer" not in grid(app)
        await pilot.press(*["pageup"] * 30)
        assert "line 0." in grid(app)
        await pilot.press("l", *["pagedown"] * 30)
        await pilot.pause()
        assert "line 60." in grid(app)

    play("talking", scroll, prepare=fill)


def test_log_lines_are_taken_once_and_bounded() -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for _ in range(20):
            app.poll()
        log = app.query_one(LogView)
        assert log.last_number == 1999
        assert len(log.paint(80, 3000)) == 1 + KEPT_LINES

    def fill(call: FakeCall) -> None:
        call.log = [LogLine(i, float(i), "info", "x") for i in range(2000)]

    play("talking", look, prepare=fill)


def test_selecting_in_a_room() -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert "▸ Ada" in grid(app)
        await pilot.press("up")
        await pilot.pause()
        assert "▸ Hedy Lamarr" in grid(app)
        await pilot.click("#room", offset=(5, 2))
        await pilot.pause()
        assert "▸ Grace Hopper" in grid(app)
        call.scene = replace(call.scene, parties=1)  # who was selected has left
        app.poll()
        await pilot.pause()
        assert "▸ Ada" in grid(app)

    play("room", look)


def test_keys_can_be_clicked() -> None:
    async def click(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.click("#keys", offset=(2, 0))

    call, _, _ = play("talking", click)
    assert commands(call) == [("set_muted", True)]


@pytest.mark.parametrize(
    ("keys", "text"),
    [(("m",), "no such thing"), (("d",), "no such thing"), (("p", "down", "enter"), "no such")],
)
def test_what_the_call_refuses_is_said_and_the_screen_goes_on(keys, text) -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.pause()
        assert text in grid(app)
        call.fails = None
        await pilot.press("t")

    def fail(call: FakeCall) -> None:
        call.fails = "no such thing: [bold]"

    call, app, _ = play("talking", look, keys=keys, prepare=fail)
    assert call.calls[-1] == ("set_push_to_talk", True)
    assert not app._exit


def test_a_card_plugged_in_while_the_list_is_open_appears_and_can_be_chosen() -> None:
    async def plug(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert "New card" not in grid(app)
        call.cards = replace(call.cards, inputs=("New card", *call.cards.inputs))
        app.poll()
        await pilot.pause()
        assert "New card" in grid(app)
        await pilot.press("home", "enter")
        assert ("set_input", "New card") in call.calls
        call.cards = replace(call.cards, outputs=())
        app.poll()
        await pilot.pause()
        assert "HDMI" not in grid(app)

    play("talking", plug, keys=("d",))


def test_a_device_that_fails_stays_unmarked() -> None:
    def fail(call: FakeCall) -> None:
        def refuse(name: str) -> None:
            call.fails = "device is busy"
            call.note("set_input", name)

        call.set_input = refuse  # type: ignore[method-assign]

    _, _, shown = play("talking", keys=("d", "down", "enter"), prepare=fail)
    assert "● Built-in Audio Analog Stereo" in shown
    assert "device is busy" in shown


def test_hanging_up_leaves_even_if_the_call_objects() -> None:
    def fail(call: FakeCall) -> None:
        call.fails = "already gone"

    _, app, _ = play("talking", keys=("h", "h"), prepare=fail)
    assert app._exit


def test_in_a_room_the_volume_is_that_of_the_voice_that_is_shown() -> None:
    async def change(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press("down", *["plus"] * 6)
        assert call.volumes == {1: Volume(12)}
        await pilot.press("down", *["minus"] * 9)
        assert call.volumes == {1: Volume(12), 2: Volume(-24)}
        await pilot.press("x")
        await pilot.pause()
        shown = grid(app)
        assert "✗ muted here" in shown
        grace, alan = (next(line for line in shown.splitlines() if name in line) for name in
                       ("Grace Hopper", "▸ Alan"))  # fmt: skip
        assert " +12 " in grace and " -24 ✗" in alan

    play("room", change, size=LARGE)


def test_the_volume_of_nobody_is_not_changed() -> None:
    call, _, _ = play("waiting", keys=("plus", "minus", "x"))
    assert commands(call) == []


def test_a_line_that_is_too_long_is_not_sent_and_says_by_how_much() -> None:
    async def write(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        entry = app.screen.query_one(Input)
        entry.value = "é" * 101
        await pilot.press("enter")
        assert isinstance(app.screen, Write) and commands(call) == []
        assert "2 bytes too long" in grid(app)
        await pilot.press("backspace", "enter")
        assert commands(call) == [("send_text", "é" * 100)]

    play("talking", write)


def test_a_line_that_could_not_be_sent_is_there_to_be_sent_again() -> None:
    async def again(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.pause()
        assert "nobody is connected" in grid(app)
        call.fails = None
        call.reset()
        await pilot.press("w", "!", "enter")
        assert commands(call) == [("send_text", "tea?!")]
        await pilot.press("w", "enter")
        assert commands(call) == [("send_text", "tea?!")]

    def fail(call: FakeCall) -> None:
        call.fails = "nobody is connected"

    play("talking", again, keys=("w", *"tea?", "enter"), prepare=fail)


def test_a_code_that_is_the_same_is_said_with_one_key_only() -> None:
    async def compare(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        for keys in (("n",), ("escape",), ("enter", "c", "h", "escape")):
            await pilot.press("c")
            assert isinstance(app.screen, Compare)
            assert CODE in grid(app)
            await pilot.press(*keys)
            assert len(app.screen_stack) == 1 and commands(call) == []
        await pilot.press("c", "y")
        assert commands(call) == [("verify", 0, CODE)]
        await pilot.press("c")
        await pilot.pause()
        assert "Ada is verified already" in grid(app)

    play("compare", compare)


@pytest.mark.parametrize(
    ("scene", "text"),
    [("insecure", "no code to compare with Ada"), ("empty-room", "no code to compare with nobody")],
)
def test_where_there_is_no_code_it_says_so(scene: str, text: str) -> None:
    async def look(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await pilot.pause()
        assert text in grid(app)
        assert commands(call) == []

    play(scene, look)


@pytest.mark.parametrize("size", [SMALL, (80, 16)], ids=["in the log", "without a log"])
def test_a_line_of_the_others_is_seen_on_every_screen(size: tuple[int, int]) -> None:
    async def hear(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        number = call.log[-1].number + 1
        call.log.append(LogLine(number, 76.0, "said", "Ada: tea? [bold]"))
        app.poll()
        await pilot.pause()
        shown = grid(app)
        assert "Ada: tea? [bold]" in shown
        assert ("» Ada: tea?" in shown) == (size == SMALL)

    play("talking", hear, size=size)


def test_holding_the_talk_key() -> None:
    async def hold(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press("t", "space")
        call.time += 0.5
        for _ in range(40):
            await pilot.press("space")
            call.time += 0.05
            app.poll()
        assert commands(call)[-1] == ("talk", True)
        call.time += RELEASED_AFTER
        app.poll()
        assert commands(call)[1:] == [("talk", True), ("talk", False)]

    play("talking", hold)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ending_signals_hang_up_and_leave_handlers_as_they_were(number: signal.Signals) -> None:
    async def terminate(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert signal.getsignal(number) is not before
        for _ in range(2):
            os.kill(os.getpid(), number)
        for _ in range(200):
            await asyncio.sleep(0.01)
            if app._exit:
                return

    def before(number: int, frame: object) -> None:
        raise AssertionError("the application was not asked")

    outside = signal.signal(number, before)
    try:
        call, app, _ = play("talking", terminate)
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outside)
    assert commands(call) == [("hang_up",)]
    assert app.return_code == 128 + number


def test_a_refused_call_says_what_the_program_says(tmp_path) -> None:
    """The scene that is in the README's pictures."""
    offer, host_keys = Offer("0" * 16, "2k", "Ada"), generate()
    host = Listener("127.0.0.1:0", offer, Security(host_keys, KnownPeers(tmp_path / "known")))
    with contextlib.closing(host):
        host.start()
        security = Security(generate(), peer_key=host_keys.public)
        caller = Caller("127.0.0.1", host.port, offer, security)
        with contextlib.closing(caller):
            caller.start()
            said = Ear(caller).state(CallState.REFUSED, 60.0).reason
    own = caller.link().own_fingerprint
    assert SCENES["refused"].reason.replace(OWN_KEY, own) == said


@pytest.mark.parametrize(
    ("key", "answer"),
    [("a", Answer.ACCEPT), ("r", Answer.REMEMBER), ("n", Answer.REFUSE), ("escape", Answer.REFUSE)],
)
def test_a_caller_that_rings_is_asked_about_once(key: str, answer: Answer) -> None:
    async def decide(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        app.poll()
        await pilot.pause()
        assert '"Eve" calls' in grid(app) and "aaaa-bbbb-cccc-dddd" in grid(app)
        await pilot.press("enter", key)
        await pilot.pause()
        assert '"Eve" calls' not in grid(app)

    call, _, _ = play("ringing", decide)
    assert commands(call) == [("answer", answer, fake_call.RINGING)]


@pytest.mark.parametrize(
    ("ringing", "said"),
    [
        (Rings('ada "Eve"', "aaaa-bbbb", known=True), 'ada "Eve" calls.'),
        (Rings("", ""), "somebody calls, without a key: it may be anybody."),
    ],
    ids=["known", "no key"],
)
def test_only_an_unknown_key_can_be_remembered(ringing: Rings, said: str, monkeypatch) -> None:
    monkeypatch.setattr("tests.fake_call.RINGING", ringing)

    async def decide(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        app.poll()
        await pilot.pause()
        assert said in grid(app) and "remember" not in grid(app)
        await pilot.press("r")
        await pilot.pause()
        assert said in grid(app)
        await pilot.press("a")
        await pilot.pause()
        assert said not in grid(app)

    call, _, _ = play("ringing", decide)
    assert commands(call) == [("answer", Answer.ACCEPT, ringing)]


def test_the_question_goes_when_the_caller_gives_up() -> None:
    async def give_up(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        app.poll()
        await pilot.pause()
        assert '"Eve" calls' in grid(app)
        call.scene = SCENES["waiting"]
        app.poll()
        await pilot.pause()
        assert '"Eve" calls' not in grid(app)

    call, _, _ = play("ringing", give_up)
    assert commands(call) == []


@pytest.mark.parametrize("begun", [("w", "t"), ("w",), ("m",)], ids=["text", "a dialog", "a key"])
def test_what_somebody_types_when_it_rings_is_no_answer(begun: tuple[str, ...]) -> None:
    async def type_on(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press(*begun)
        call.time += 0.3 if begun == ("m",) else 5.0
        call.scene = SCENES["ringing"]
        app.poll()
        await pilot.pause()
        assert '"Eve" calls' in grid(app)
        for letter in "arn":
            call.time += 0.3
            await pilot.press(letter)
        await pilot.pause()
        assert '"Eve" calls' in grid(app) and "you were typing" in grid(app)
        assert not any(command[0] == "answer" for command in call.calls)
        call.time += 1.5
        await pilot.press("a")
        await pilot.pause()
        assert '"Eve" calls' not in grid(app)

    call, _, _ = play("talking", type_on)
    assert call.calls[-1] == ("answer", Answer.ACCEPT, fake_call.RINGING)


def test_an_answer_is_about_the_caller_that_was_asked_about(monkeypatch) -> None:
    second = Rings('"Mallory"', "eeee-ffff-gggg-hhhh")

    async def decide(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        app.poll()
        await pilot.pause()
        first = fake_call.RINGING
        monkeypatch.setattr(fake_call, "RINGING", second)
        await pilot.press("a")  # the screen does not know yet who rings now
        await pilot.pause()
        assert commands(call) == [("answer", Answer.ACCEPT, first)]
        call.scene = SCENES["ringing"]
        app.poll()
        await pilot.pause()
        monkeypatch.setattr(fake_call, "RINGING", first)
        assert '"Mallory" calls' in grid(app)
        for _ in range(2):
            app.poll()
            await pilot.pause()
        assert '"Eve" calls' in grid(app) and "Mallory" not in grid(app)

    play("ringing", decide)


# Cost


def test_a_silent_call_draws_seldom_and_only_what_changed(monkeypatch) -> None:
    async def idle(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        drawn: list[str] = []
        repaint = Painted.repaint

        def counted(widget: Painted) -> None:
            drawn.append("asked")
            repaint(widget)

        monkeypatch.setattr(Painted, "repaint", counted)
        monkeypatch.setattr(Painted, "refresh", lambda *_, **__: drawn.append("refreshed"))
        polls = 8 * IDLE_DIVISOR
        for _ in range(polls):
            app.poll()
        assert drawn.count("asked") <= 7 * polls / IDLE_DIVISOR
        assert set(drawn) == {"asked"}  # the clock stood still

    play("silence", idle)


def test_the_plain_view_draws_speech_seldom_in_single_bytes_and_switches_at_once(
    monkeypatch,
) -> None:
    async def plain(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        assert "▀" in grid(app)
        await pilot.press("v")
        await pilot.pause()
        shown = grid(app)
        assert "▀" not in shown
        assert any(len(set(line) & set(PLAIN_SHADES)) > 3 for line in shown.splitlines())
        draws: list[int] = []
        monkeypatch.setattr(CallApp, "_draw", lambda *_: draws.append(1))
        for _ in range(4 * PLAIN_DIVISOR):
            call.time += 1 / 8
            app.poll()
        assert len(draws) == 4
        call.muted = True
        app.poll()
        assert len(draws) == 5
        monkeypatch.undo()
        await pilot.press("v")
        await pilot.pause()
        assert "▀" in grid(app)

    play("talking", plain, size=LARGE)


def test_speech_and_switches_are_drawn_at_once() -> None:
    async def speak(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        call.muted = True
        app.poll()
        await pilot.pause()
        assert "MUTED" in grid(app)
        call.scene = SCENES["talking"]
        while not call.snapshot().listeners[0].active:
            call.time += 0.1
        app.poll()
        await pilot.pause()
        assert "● talking" in grid(app)

    play("silence", speak)


def test_a_key_is_answered_while_other_threads_keep_both_cores_busy() -> None:
    stop = threading.Event()

    def count() -> None:
        n = 0
        while not stop.is_set():
            n = (31 * n + 7) % 1_000_003

    def multiply() -> None:
        a = np.ones((300, 300), np.float32)
        while not stop.is_set():
            a = a @ a
            a /= a.max()

    waits: list[float] = []
    interval = sys.getswitchinterval()

    async def press(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        threads = [threading.Thread(target=work, daemon=True) for work in (count, multiply)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(9):
                before = len(call.calls)
                begun, spent = time.monotonic(), time.process_time()
                app.simulate_key("m")
                while len(call.calls) == before and time.monotonic() - begun < 60:
                    await asyncio.sleep(0)
                # Of both cores, and not of other programs, which may take their turns.
                waits.append(time.process_time() - spent)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    play("talking", press)
    assert statistics.median(waits) < 2 * 0.3
    assert sys.getswitchinterval() == interval


# Parts


def test_push_to_talk_by_taps() -> None:
    button = PushToTalk()
    assert button.press(10.0)
    assert button.poll(30.0)
    assert not button.press(31.0)
    assert not button.poll(32.0)
    assert button.press(33.0)


@pytest.mark.parametrize("delay", [0.2, 0.66])
@pytest.mark.parametrize("every", [0.02, 0.1, 0.3])
def test_push_to_talk_by_holding(delay: float, every: float) -> None:
    button = PushToTalk()
    now = 5.0
    assert button.press(now)
    now += delay
    for _ in range(50):
        assert button.press(now)
        assert button.poll(now + every * 0.9)
        now += every
    last = now - every
    assert not button.poll(last + RELEASED_AFTER + 0.01)
    assert not button.talking
    assert button.press(last + RELEASED_AFTER + 0.5)


def test_push_to_talk_on_a_keyboard_that_repeats_late_does_not_flutter() -> None:
    button = PushToTalk()
    assert button.press(0.0)
    states = [button.press(HOLD_BEGINS + 0.1 + 0.05 * i) for i in range(40)]
    assert not any(states)


def test_two_quick_taps_are_on_and_off() -> None:
    button = PushToTalk()
    button.press(0.0)
    button.press(0.3)
    assert not button.poll(0.3 + RELEASED_AFTER + 0.01)


def test_peak_hold_holds_and_then_falls() -> None:
    peak = PeakHold()
    assert peak.update(-10.0, 0.0) == -10.0
    assert peak.update(-40.0, HOLD_SECONDS) == -10.0
    assert peak.update(-40.0, HOLD_SECONDS + 0.5) == pytest.approx(-20.0)
    assert peak.update(-15.0, HOLD_SECONDS + 0.6) == -15.0
    assert peak.update(QUIETEST_DB, 1000.0) == QUIETEST_DB


@pytest.mark.parametrize("width", [1, 2, 31, 80])
@pytest.mark.parametrize("level", [-200.0, -60.0, -59.9, -18.3, -0.001, 0.0, 6.0])
def test_the_meter_is_as_wide_as_asked(width: int, level: float) -> None:
    for peak in (level, 0.0, QUIETEST_DB):
        assert width_of(bar(level, peak, width)) == width


def test_the_meter_grows_with_the_level() -> None:
    filled = [
        sum(text.count("█") for text, _ in bar(level, QUIETEST_DB, 60)) for level in range(-60, 1)
    ]
    assert filled == list(range(61))


def test_the_history_takes_each_column_once() -> None:
    rng = np.random.default_rng(1)
    columns = rng.uniform(-1, 1, (1000, 128)).astype(np.float32)
    history, at = History(), 0
    history.feed(Spectrogram(columns[:0], 0))
    while at < 1000:
        at = min(at + int(rng.integers(0, 40)), 1000)
        history.feed(Spectrogram(columns[max(0, at - 300) : at], at))
    whole = 1000 // HOPS_PER_CELL
    assert history.drawn == whole
    expected = columns.reshape(whole, HOPS_PER_CELL, 128).mean(axis=1)
    count = 200
    levels = (expected[-KEPT_CELLS:] - QUIET) / (LOUD - QUIET) * count
    shown = history.levels(KEPT_CELLS, 128, count).astype(int)
    blank, drawn = np.split(shown[::-1].T, [KEPT_CELLS - len(levels)])
    assert not blank.any()
    assert np.abs(drawn - np.clip(levels.astype(int), 0, count - 1)).max() <= 1  # of rounding


def test_the_history_survives_gaps_restarts_and_floods() -> None:
    history = History()
    columns = np.zeros((300, 128), np.float32)
    assert history.feed(Spectrogram(columns, 300))
    assert not history.feed(Spectrogram(columns, 300))
    assert history.feed(Spectrogram(columns, 9000))  # more than were kept
    assert history.feed(Spectrogram(columns[:80], 80))  # another voice
    assert np.count_nonzero(history.levels(50, 128, 8).all(axis=0)) == 80 // HOPS_PER_CELL
    for total in range(100, 40_000, 250):
        history.feed(Spectrogram(columns, total))
    wide = history.levels(KEPT_CELLS + 50, 128, 8)
    assert np.count_nonzero(wide.all(axis=0)) == KEPT_CELLS


def test_the_spectrogram_puts_high_tones_on_top_and_now_at_the_right() -> None:
    history = History()
    columns = np.full((80, 128), -1.0, np.float32)
    columns[72:, 112:] = 1.0
    history.feed(Spectrogram(columns, 80))
    rows = in_shades(history, 20, 8)
    assert rows[0] == " " * 19 + "█"
    assert all(not row.strip() for row in rows[1:])
    strips = in_colour(history, 20, 4)
    assert [strip.cell_length for strip in strips] == [20] * 4
    assert "▀" in strips[0].text and not strips[1].text.strip()


def test_small_differences_are_not_drawn_and_scrolling_changes_nothing_else() -> None:
    columns = FakeCall("talking").snapshot().listeners[0].spectrogram.columns
    exact, steady = History(), History()
    before = np.zeros((0, 0), np.uint8)
    for total in range(160, 481, 16):
        seen = Spectrogram(columns[:total], total)
        exact.feed(seen)
        steady.feed(seen)
        picture = steady.levels(20, 30, LEVELS, dead_zone=1)
        difference = picture.astype(int) - exact.levels(20, 30, LEVELS)
        assert np.abs(difference).max() == 1
        if before.size:
            assert np.array_equal(picture[:, :-2], before[:, 2:])
        before = picture
    changes = [
        int((np.diff(h.levels(20, 30, LEVELS, z)) != 0).sum()) for h, z in ((exact, 0), (steady, 1))
    ]
    assert changes[1] < 0.9 * changes[0]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (0, 3), (500, 200), (5, 0)])
def test_the_spectrogram_at_odd_sizes(width: int, height: int) -> None:
    history = History()
    assert len(in_shades(history, width, height)) == height
    history.feed(Spectrogram(np.zeros((40, 128), np.float32), 40))
    assert [len(row) for row in in_shades(history, width, height)] == [width] * height
    assert [strip.cell_length for strip in in_colour(history, width, height)] == [width] * height


def test_colours_get_lighter_evenly() -> None:
    table = colours(24).astype(float) / 255
    assert table.shape == (24, 3)
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16  # CIE L*
    steps = np.diff(lightness)
    assert (steps > 1.5).all() and (steps < 6).all()


def test_latency_shares_are_to_scale_and_nothing_vanishes() -> None:
    latency = Latency(0.256, 0.012, 0.041, 0.0004, 0.04, 0.009, 0.022)
    for width in (10, 78, 138, 400):
        cells = shares(latency, width)
        assert sum(cells.values()) <= width
        assert min(cells.values()) >= 1
    assert shares(latency, 500)["frame"] == 256
    assert sum(shares(replace(latency, playout=9.0), 78).values()) <= 78
    assert shares(Latency(0.256), 75) == {**dict.fromkeys(PARTS, 0), "frame": 38}


@pytest.mark.parametrize(
    ("draw", "values", "width"),
    [
        (figures.milliseconds, [None, 0.0, 0.0123, 1.024, 9.999], 7),
        (figures.decibels, [-200.0, -99.5, -60.0, -9.6, -0.2, 0.0, 3.0], 6),
        (figures.bits, [0.0, 70.0, 1999.6, 9999.4, 12_345.0, 998_000.0, 5e7], 4),
        (figures.cost, [0.0, 0.1234, 9.9999, 12.3, 99.996, 999.96, 12_345.0], 5),
        (figures.factor, [0.0, 0.56, 9.99, 10.0, 123.0, 1e9], 5),
    ],
)
def test_figures_keep_their_width(draw, values, width: int) -> None:
    assert {cell_len(draw(value)) for value in values} == {width}


def test_text_is_cut_between_words_where_it_can_be() -> None:
    assert figures.fit("Built-in Audio Analog Stereo", 40) == "Built-in Audio Analog Stereo"
    assert figures.fit("Built-in Audio Analog Stereo", 20) == "Built-in Audio…"
    assert figures.fit("Donaudampfschiff", 8) == "Donauda…"
    assert figures.fit("漢字漢字漢字", 6) == "漢字…"
    assert [figures.fit("ab", n) for n in (-1, 0, 1, 2)] == ["", "", "…", "ab"]
    assert figures.wrap("one two three", 7) == ["one two", "three"]
    assert figures.wrap("abcdefgh", 3) == ["abc", "def", "gh"]
    assert figures.wrap("", 5) == [""]
    assert figures.clock(3723.9) == "1:02:03" and figures.clock(-1) == "00:00"
    assert flow([[("abc", "")], [], [("de", "")], [("f", "")]], 7) == [
        ("abc", ""),
        ("  ", "text"),
        ("de", ""),
    ]


def test_the_sparkline() -> None:
    assert sparkline([], 4) == "    "
    assert sparkline([0.0, 0.0], 4) == "  ▁▁"
    assert sparkline([9.0, 0.0, 4.0, 8.0], 3) == "▁▅█"
    assert sparkline([1.0], 0) == ""


def test_whether_the_terminal_has_colour() -> None:
    assert not has_colour({"NO_COLOR": "1", "COLORTERM": "truecolor"})
    assert has_colour({"NO_COLOR": "", "COLORTERM": "truecolor"})
    assert has_colour({})
    # terminfo is read once per process
    for terminal, answer in (("vt100", "False"), ("xterm-256color", "True"), ("dumb", "False")):
        code = f"from tui.app.theme import has_colour; print(has_colour({{'TERM': '{terminal}'}}))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == answer, done.stderr


def test_a_screenshot_is_small_and_whole() -> None:
    image = asyncio.run(picture("loss", SMALL, clips=False))
    assert len(image) < 150_000
    text = re.sub(r"<[^>]*>", "", image).replace("&#160;", " ")
    for words in ("connected", "partly late", "mouth to ear", "hang up"):
        assert words in text
    assert "http" not in re.sub(r"<!--.*?-->|xmlns=\S+", "", image)


def test_confirming_is_asked_again_after_a_no() -> None:
    async def twice(app: CallApp, call: FakeCall, pilot: Pilot[None]) -> None:
        await pilot.press("h", "n", "h")
        assert isinstance(app.screen, Confirm)
        assert not app._exit

    play("talking", twice)


def test_states_all_have_a_scene() -> None:
    assert {scene.state for scene in SCENES.values()} == set(CallState)
