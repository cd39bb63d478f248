"""The lines at the top: state of the call, peer, security, keys, devices, and a code to compare."""

from __future__ import annotations

from stream.call.snapshot import FrontEndState, Party, Snapshot
from stream.link.events import CallState
from tui.app.figures import UNKNOWN, clean, clock, fit, wrap
from tui.app.painting import Line, Painted, spread, width_of

STATES = {
    CallState.WAITING: ("○", "waiting for a call", "warn"),
    CallState.CONNECTING: ("○", "connecting", "warn"),
    CallState.TALKING: ("●", "connected", "good"),
    CallState.RECONNECTING: ("▲", "reconnecting", "warn"),
    CallState.REFUSED: ("✗", "refused", "bad"),
    CallState.ENDED: ("■", "ended", "label"),
    CallState.FAILED: ("✗", "failed", "bad"),
}
_GAP: Line = [("  ", "text")]
_RAW = (FrontEndState.OFF, FrontEndState.MISSING)
_NARROW = 48  # cells: what would not be readable side by side has lines of its own
_WHOLE_KEY = 21  # cells of a fingerprint and a margin on both sides
_LOW = 12  # rows of a screen that has no room for those


class CallBar(Painted):
    """State of the call as a whole."""

    _snapshot: Snapshot | None = None
    _listener: Party | None = None
    _rows = 2

    def show(self, snapshot: Snapshot, listener: Party | None) -> None:
        """listener: the remote party whose key is shown."""
        self._snapshot, self._listener = snapshot, listener
        self._fit_height()
        self.repaint()

    def on_resize(self) -> None:
        self.styles.padding = (0, 0 if self.app.size.width < _WHOLE_KEY else 1)
        self._fit_height()
        super().on_resize()

    def paint(self, width: int, height: int) -> list[Line]:
        if self._snapshot is None:
            return []
        code = self._code_lines(width)
        if height - len(code) > 2:
            return [*_narrow_lines(self._snapshot, self._listener, width), *code]
        return [
            _call_line(self._snapshot, self._listener, width),
            _device_line(self._snapshot, self._listener, width),
            *code,
        ]

    def _fit_height(self) -> None:
        width, height = self.app.size
        rows = 5 if width < _NARROW and height >= _LOW else 2
        rows += len(self._code_lines(width - 2 * (width >= _WHOLE_KEY)))
        if rows != self._rows:
            self._rows = self.styles.height = rows

    def _code_lines(self, width: int) -> list[Line]:
        """The authentication string of somebody whose key no person has made sure of yet.

        Whole, for a part of it is worth nothing; on a low screen the details alone have it.
        """
        listener = self._listener
        code = "" if listener is None or listener.verified else clean(listener.code)
        if not code or self.app.size.height < _LOW:
            return []
        line: Line = [("code ", "label"), (code, "strong")]
        if width_of(line) > width:
            return [[(part, "strong")] for part in wrap(code, width)]
        said = "  same on both screens? ask, press c"
        return [[*line, (said, "label")] if width_of(line) + len(said) <= width else line]


def secured(snapshot: Snapshot) -> Line:
    """Whether the link is secured, in words: not everybody sees green.

    It is once somebody is connected: before that there is nobody whose key could be known.
    """
    if snapshot.link.secured:
        return [("✓ secured", "good")]
    if snapshot.link.own_fingerprint:
        return [("○ not connected", "label")]
    return [("✗ NOT secured", "bad")]


def _call_line(snapshot: Snapshot, listener: Party | None, width: int) -> Line:
    symbol, word, role = STATES[snapshot.state]
    left: Line = [
        (f"{symbol} {word}", role),
        *_GAP,
        (clock(snapshot.seconds), "text"),
    ]
    right: Line = [
        *secured(snapshot),
        *_GAP,
        ("preset ", "label"),
        (snapshot.preset, "strong"),
        (f" {snapshot.talker.delay} ms", "text"),
    ]
    room = width - width_of(left) - width_of(right) - 4
    name = clean(listener.name) if listener is not None and not snapshot.room else ""
    if snapshot.room:
        name = f"room of {len(snapshot.listeners) + 1}"
    peer = clean(snapshot.link.peer)
    if name and room >= 4:
        shown = fit(name, room)
        left += [*_GAP, (shown, "strong")]
        room = width - width_of(left) - width_of(right) - 4
    if peer and peer not in name and room >= min(len(peer), 12):
        left += [*_GAP, (fit(peer, room), "label")]
    return spread(left, right, width)


def _narrow_lines(snapshot: Snapshot, listener: Party | None, width: int) -> list[Line]:
    """State, security, key and devices, one below the other."""
    symbol, word, role = STATES[snapshot.state]
    recording: Line = [("● REC", "bad")] if snapshot.recording or snapshot.recording_overs else []
    whose, key = _key(snapshot, listener)
    rows = [(whose, key), (_mic(snapshot), clean(snapshot.input_device) or UNKNOWN)]
    rows.append(("out ", clean(snapshot.output_device) or UNKNOWN))
    if width < len(whose) + len(key):
        rows[0] = ("", key)  # whole, if that can be
    return [
        [(fit(f"{symbol} {word}  {clock(snapshot.seconds)}", width), role)],
        spread(secured(snapshot), recording, width),
        *([(label, "label"), (fit(text, width - len(label)), "text")] for label, text in rows),
    ]


def _key(snapshot: Snapshot, listener: Party | None) -> tuple[str, str]:
    """Whose key is shown, and its fingerprint."""
    key = clean(listener.fingerprint) if listener is not None else ""
    return "key " if key else "own key ", key or clean(snapshot.link.own_fingerprint) or UNKNOWN


def _mic(snapshot: Snapshot) -> str:
    # Only what is not as usual is worth a word.
    return "raw mic " if snapshot.front_end in _RAW else "mic "


def _device_line(snapshot: Snapshot, listener: Party | None, width: int) -> Line:
    right: Line = [("● REC", "bad")] if snapshot.recording or snapshot.recording_overs else []
    whose, key = _key(snapshot, listener)
    mic = _mic(snapshot)
    labels = len(whose) + len(mic) + len("out ") + 2 * 2 + (width_of(right) + 2 if right else 0)
    room = max(width - labels, 3)
    names = [clean(snapshot.input_device) or UNKNOWN, clean(snapshot.output_device) or UNKNOWN]
    widths = _shares([len(key), *map(len, names)], room)
    left: Line = [
        (whose, "label"),
        (fit(key, widths[0]), "text"),
        *_GAP,
        (mic, "label" if mic == "mic " else "warn"),
        (fit(names[0], widths[1]), "text"),
        *_GAP,
        ("out ", "label"),
        (fit(names[1], widths[2]), "text"),
    ]
    return spread(left, right, width)


def _shares(wanted: list[int], room: int) -> list[int]:
    """Widths that sum to at most `room`: short names are kept whole, long ones share the rest."""
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for served, i in enumerate(order):
        given[i] = min(wanted[i], room // (len(order) - served))
        room -= given[i]
    return given
