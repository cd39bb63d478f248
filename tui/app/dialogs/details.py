"""A dialog with every figure that has no place on the main screen."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from stream.call.snapshot import FrontEndState, Party, Snapshot
from tui.app.dialogs.dialog import Dialog
from tui.app.figures import UNKNOWN, bits, clean, fit, milliseconds

_LABEL = 14
_VALUE = 54


FRONT_END = {
    FrontEndState.NONE: "its sound is sent as it is",
    FrontEndState.ON: "echo and noise are removed",
    FrontEndState.OFF: "echo and noise are left in (key e)",
    FrontEndState.MISSING: "echo and noise cannot be removed: no livekit",
}


class Details(Dialog[None]):
    """A table that is kept up to date while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("i,q,enter", "close", show=False)]

    def __init__(self, snapshot: Snapshot, listener: Party | None) -> None:
        super().__init__("details")
        self._text = Static(_drawn(snapshot, listener))

    def content(self) -> list[Widget]:
        return [self._text]

    def show(self, snapshot: Snapshot, listener: Party | None) -> None:
        self._text.update(_drawn(snapshot, listener), layout=False)


def rows(snapshot: Snapshot, listener: Party | None) -> list[tuple[str, str]]:
    """(name, value) rows; their number changes only with whether anybody is there."""
    link, talker = snapshot.link, snapshot.talker
    offset = UNKNOWN if link.clock_offset is None else f"{link.clock_offset * 1e3:+.1f} ms"
    table = [
        ("your key", clean(link.own_fingerprint) or UNKNOWN),
        ("peer", clean(link.peer) or UNKNOWN),
        ("link", _security(snapshot, listener)),
        ("model", clean(snapshot.model_id)),
        ("round trip", f"{milliseconds(link.round_trip).strip()}, remote clock {offset}"),
        ("reconnections", f"{link.reconnections}, unknown peers turned away {link.strangers}"),
        ("microphone", clean(snapshot.input_device) or UNKNOWN),
        ("", FRONT_END[snapshot.front_end]),
        ("loudspeaker", clean(snapshot.output_device) or UNKNOWN),
        ("recording", clean(snapshot.recording or snapshot.recording_overs) or "off"),
        ("sent", f"{talker.frames} frames, {talker.silent_frames} silent, {talker.unsent} unsent"),
        ("", f"{link.dropped} packets dropped before they were sent"),
        ("", f"{bits(talker.rate.wire)} bit/s on the wire, {talker.overflows} capture gaps"),
    ]
    if listener is None:
        return table
    got = listener.arrivals
    return [
        *table,
        ("their key", clean(listener.fingerprint) or UNKNOWN),
        ("code", clean(listener.code) or UNKNOWN),
        ("their preset", clean(listener.preset) or UNKNOWN),
        ("heard", f"{got.received} packets, {got.lost} lost, {got.late} late"),
        ("", f"{got.partly_late} partly late, {got.concealed:.1f} s concealed"),
        ("", f"{got.reordered} reordered, {got.duplicates} twice, {got.rejected} rejected"),
        ("", f"columns {got.stretched} inserted, {got.shortened} removed"),
        ("", f"{bits(listener.rate.wire)} bit/s on the wire, {got.underruns} underruns"),
    ]


def _security(snapshot: Snapshot, listener: Party | None) -> str:
    if snapshot.link.secured:
        return "secured, verified" if listener is not None and listener.verified else "secured"
    return "not connected" if snapshot.link.own_fingerprint else "NOT secured"


def _drawn(snapshot: Snapshot, listener: Party | None) -> Content:
    return Content("\n").join(
        Content.assemble((name.ljust(_LABEL), "$text-muted"), fit(value, _VALUE))
        for name, value in rows(snapshot, listener)
    )
