"""A panel for one direction of the call: level, spectrogram, rate and coding figures."""

from __future__ import annotations

from collections.abc import Sequence

from textual.strip import Strip

from stream.call.snapshot import Party, Rate, Snapshot, Spectrogram
from stream.link.events import CallState
from tui.app.figures import bits, clean, cost, decibels, factor, wrap
from tui.app.meter import PeakHold, bar
from tui.app.painting import Line, Painted, flow, heading, width_of
from tui.app.sparkline import sparkline
from tui.app.spectrogram import PLAIN_SHADES, SHADES, History, in_colour, in_shades

_DETAILS_FROM_ROWS = 13
# A picture of more cells than this is drawn only every other time: it is most of the output.
_LARGE_PICTURE = 800


class VoicePanel(Painted):
    """Base of both directions. plain: draw for a slow terminal."""

    def __init__(self, *, colour: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self._colour = colour
        self.plain = False
        self._pictured: tuple[object, ...] = ()
        self._picture: list[Line | Strip] = []
        self._paints = 0
        self._history = History()
        self._hold = PeakHold()
        self._title = ""
        self._notes: Line = []
        self._level: tuple[float, float] | None = None
        self._rows: list[list[Line]] = []
        self._rate = Rate()
        self._centred: list[Line] = []

    def paint(self, width: int, height: int) -> list[Line | Strip]:
        lines: list[Line | Strip] = [heading(self._title, self._notes, width)]
        if self._centred:
            return [*lines, *_centred(self._centred, width, height - 1)]
        if self._level is not None:
            level, peak = self._level
            lines.append([*bar(level, peak, max(width - 8, 1)), (f"  {decibels(level)}", "text")])
        rows = self._rows if height >= _DETAILS_FROM_ROWS else self._rows[:-1]
        below = [self._rate_line(width), *(flow(fields, width) for fields in rows)]
        picture = max(height - len(lines) - len(below), 0)
        return [*lines, *self._draw_picture(width, picture), *below]

    def _draw_picture(self, width: int, height: int) -> list[Line | Strip]:
        """The spectrogram, or the one drawn before."""
        self._paints += 1
        wanted = (width, height, self.plain, self._history)
        large = width * height > _LARGE_PICTURE and not self.plain
        if wanted == self._pictured and large and self._paints % 2:
            return self._picture
        self._pictured = wanted
        if self._colour and not self.plain:
            self._picture = list(in_colour(self._history, width, height))
        else:
            shades = PLAIN_SHADES if self.plain else SHADES
            rows = in_shades(self._history, width, height, shades)
            self._picture = [[(row, "text")] for row in rows]
        return self._picture

    def _feed(self, spectrogram: Spectrogram, rate: Rate, level_db: float, now: float) -> None:
        self._history.feed(spectrogram)
        self._rate = rate
        self._level = (level_db, self._hold.update(level_db, now))

    def _rate_line(self, width: int) -> Line:
        rate = self._rate
        figures = flow([field("rate", bits(rate.now)), field("mean", bits(rate.average))], width)
        unit: Line = [(" bit/s", "label")]
        if width_of(figures) + width_of(unit) <= width:
            figures += unit
        room = min(width - width_of(figures) - 2, 60)
        if room < 3:
            return figures
        return [*figures, ("  ", "text"), (sparkline(rate.history, room), "spark")]


class OwnVoice(VoicePanel):
    """Our own voice, as it is sent."""

    def show(self, snapshot: Snapshot, now: float) -> None:
        """now: seconds on a monotonic clock."""
        talker = snapshot.talker
        self._title = "you"
        self._notes = [own_state(snapshot)]
        self._feed(talker.spectrogram, talker.rate, talker.level_db, now)
        self._rows = [
            [
                field("search", f"{talker.steps:4d}", " steps"),
                field("loss", f"{cost(talker.start_cost)} → {cost(talker.cost)}"),
            ],
            [
                field("real time", factor(talker.real_time)),
                field("IP", bits(talker.rate.ip), " bit/s"),
                field("frames", f"{talker.frames:5d}"),
            ],
            [
                field("silent", f"{talker.silent_frames:4d}"),
                count("gaps", talker.overflows),
                count("unsent", talker.unsent),
            ],
        ]
        self.repaint()


class HeardVoice(VoicePanel):
    """The voice of a remote party, or what we are waiting for."""

    _party: int | None = None

    def show(self, snapshot: Snapshot, listener: Party | None, now: float) -> None:
        """now: seconds on a monotonic clock."""
        if listener is None:
            self._party = None
            self._title, self._notes = "nobody", []
            self._centred = _expectation(snapshot)
            self.repaint()
            return
        if listener.party != self._party:
            self._party, self._history, self._hold = listener.party, History(), PeakHold()
        self._centred = []
        self._title = clean(listener.name) or "caller"
        preset = clean(listener.preset)
        coded = f"{preset} {listener.delay} ms  " if preset else ""
        loud = "" if listener.volume.muted else f"{listener.volume}  ".lstrip()
        self._notes = [(coded, "label"), (loud, "strong"), heard_state(listener)]
        self._feed(listener.spectrogram, listener.rate, listener.level_db, now)
        if snapshot.room:
            self._level = None  # the list of listeners has it
        got = listener.arrivals
        self._rows = [
            [
                count("lost", got.lost),
                count("late", got.late),
                count("partly late", got.partly_late),
                count("received", got.received, harmless=True),
            ],
            [
                field("real time", factor(listener.real_time)),
                field("concealed", f"{got.concealed:5.1f}", " s"),
                field("wire", bits(listener.rate.wire), " bit/s"),
            ],
            [
                count("rejected", got.rejected),
                count("twice", got.duplicates, harmless=True),
                count("underruns", got.underruns),
                count("reordered", got.reordered, harmless=True),
            ],
        ]
        self.repaint()


def voice_state(active: bool) -> tuple[str, str]:
    return ("● talking", "good") if active else ("○ silent", "label")


def heard_state(listener: Party) -> tuple[str, str]:
    """Whether a remote party is speaking, and whether it can be heard."""
    if listener.volume.muted:
        return "✗ muted here", "bad"
    return voice_state(listener.active) if listener.heard else ("✗ not heard", "bad")


def own_state(snapshot: Snapshot) -> tuple[str, str]:
    """Whether our voice is being sent."""
    if snapshot.muted:
        return "✗ MUTED", "bad"
    if snapshot.keeping:
        return "● kept for later", "warn"
    if snapshot.push_to_talk:
        return ("● ON AIR", "good") if snapshot.talking else ("○ off air: space to talk", "warn")
    return voice_state(snapshot.talker.active)


def field(name: str, value: str, unit: str = "") -> Line:
    return [(name + " ", "label"), (value, "text"), (unit, "label")]


def count(name: str, value: int, *, harmless: bool = False) -> Line:
    return [(name + " ", "label"), (f"{value:4d}", "warn" if value and not harmless else "text")]


def _expectation(snapshot: Snapshot) -> list[Line]:
    peer = clean(snapshot.link.peer)
    if snapshot.state is CallState.CONNECTING:
        return [[(f"calling {peer}" if peer else "calling", "text")]]
    if snapshot.state is CallState.WAITING:
        lines: list[Line] = [[("waiting for a call", "text")]]
        if snapshot.link.own_fingerprint:
            lines += [[], [("your key, for the caller to compare:", "label")]]
            lines.append([(clean(snapshot.link.own_fingerprint), "strong")])
        return lines
    if snapshot.room:
        return [[("nobody else is here", "text")]]
    return [[("nobody to be heard", "text")]]


def _centred(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    wrapped: list[Line] = []
    for line in lines:
        if not line:
            wrapped.append([])
        for text, role in line:
            wrapped += [[(piece, role)] for piece in wrap(text, width)]
    above = max((height - len(wrapped)) // 2, 0)
    return [
        *([] for _ in range(above)),
        *([(" " * ((width - width_of(line)) // 2), "text"), *line] for line in wrapped),
    ]
