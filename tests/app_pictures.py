"""Pictures of the terminal UI: as plain text for comparison, and as SVG for viewing."""

from __future__ import annotations

import io
import re
from collections import defaultdict

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from tests.fake_call import FakeCall, Scene
from tui.app.app import CallApp

SIZE = (100, 30)
_BACKGROUND, _FOREGROUND = (16, 21, 25), (211, 217, 222)
_THEME = TerminalTheme(_BACKGROUND, _FOREGROUND, [_BACKGROUND] * 8)
_RECT = re.compile(
    r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    r' shape-rendering="crispEdges"/>'
)
_HALF_BLOCKS = re.compile(
    r'<text class="t-(r\d+)" x="([\d.]+)" y="[\d.]+" textLength="([\d.]+)"'
    r' clip-path="url\(#t-line-(\d+)\)">▀+</text>'
)
_LINE_HEIGHT, _TOP = 24.4, 1.5


def grid(app: CallApp) -> str:
    """The characters on the screen, dialogs included, without trailing blanks."""
    lines = _console(app).export_text(styles=False).split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def svg(app: CallApp, title: str) -> str:
    """The screen as an SVG image whose identifiers do not depend on its content."""
    return _small(_console(app).export_svg(title=title, unique_id="t", theme=_THEME))


async def picture(scene: Scene | str, size: tuple[int, int] = SIZE, *, clips: bool = True) -> str:
    """An SVG image of a scene, after a while of moving. clips: with real voices."""
    call = FakeCall(scene, clips=clips)
    app = CallApp(call, colour=True, clock=lambda: call.time, poll_hz=0.01)
    async with app.run_test(size=size) as pilot:
        for _ in range(3):
            call.time += 1.0
            app.poll()
            await pilot.pause()
        return svg(app, "sotto")


def _small(image: str) -> str:
    """`image` with one path per colour in place of a rectangle or a letter per cell.

    A third of the size, and the spectrogram does not depend on how a font draws half a block.
    """
    fills = dict(re.findall(r"\.t-(r\d+) { fill: (#\w+)", image))
    cells: defaultdict[str, list[str]] = defaultdict(list)
    halves: defaultdict[str, list[str]] = defaultdict(list)
    for fill, x, y, width, height in _RECT.findall(image):
        cells[fill].append(f"M{x} {y}h{width}v{height}h-{width}z")
    for name, x, width, line in _HALF_BLOCKS.findall(image):
        y = round(int(line) * _LINE_HEIGHT + _TOP, 1)
        halves[fills[name]].append(f"M{x} {y}h{width}v12.3h-{width}z")
    cells.pop("#{:02x}{:02x}{:02x}".format(*_BACKGROUND), None)
    paths = "".join(
        f'<path shape-rendering="crispEdges" fill="{fill}" d="{"".join(parts)}"/>\n'
        for group in (cells, halves)
        for fill, parts in group.items()
    )
    first = _RECT.search(image)
    if first is not None:
        image = image[: first.start()] + paths + image[first.start() :]
    image = _HALF_BLOCKS.sub("", _RECT.sub("", image))
    # Pictures in a page may not load fonts; the lines need no clipping, as nothing leaves them.
    image = re.sub(r"@font-face {.*?}\s*", "", image, flags=re.DOTALL)
    image = re.sub(r'<clipPath id="t-line-\d+">.*?</clipPath>\s*', "", image, flags=re.DOTALL)
    image = re.sub(r' clip-path="url\(#t-line-\d+\)"', "", image)
    used = set(re.findall(r'class="t-(r\d+)"', image))
    image = re.sub(r"\.t-(r\d+) {.*?}\s*", lambda rule: rule[0] if rule[1] in used else "", image)
    return "\n".join(line.strip() for line in image.splitlines() if line.strip()) + "\n"


def _console(app: CallApp) -> Console:
    width, height = app.size
    console = Console(
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=True,
        legacy_windows=False,
    )
    console.print(
        app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    )
    return console
