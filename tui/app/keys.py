"""The keys of a call: one list of their actions, key bar labels and help texts."""

from __future__ import annotations

from textual.binding import Binding

from stream.call.snapshot import Snapshot


def _key(
    keys: str, action: str, shown: str, label: str, help: str, *, priority: bool = False
) -> Binding:
    """shown: how the key is written; label: for the key bar, if it has a place there; help: what
    the help says, empty where another binding speaks for this one."""
    return Binding(
        keys, action, label, show=False, key_display=shown, tooltip=help, priority=priority
    )


# In the order of the key bar, which leaves out what does not fit from the end.
BINDINGS = (
    _key("space", "talk", "space", "talk", "with push-to-talk: tap to start and stop, or hold"),
    _key("m", "mute", "m", "mute", "mute the microphone, or open it again"),
    _key("t", "push_to_talk", "t", "push-to-talk", "push-to-talk: be heard only when you ask to"),
    _key("p", "preset", "p", "preset", "another preset: more bits, or fewer"),
    _key("f", "delay", "f", "delay", "another delay: shorter, or steadier with fewer bits"),
    _key("d", "devices", "d", "devices", "choose microphone and loudspeaker"),
    _key("r", "record", "r", "rec", "record both sides, or stop recording"),
    _key("h", "quit", "h", "hang up", "hang up, as do ctrl+q and ctrl+c"),
    _key("ctrl+q,ctrl+c", "quit", "", "", "", priority=True),
    _key("question_mark,f1", "help", "?", "help", "this help, also f1"),
    _key("w", "write", "w", "write", "write a line to the others"),
    _key("l", "log", "l", "log", "a longer log, or a short one again"),
    _key("i", "details", "i", "details", "details: keys, counts, clocks"),
    _key("v", "plain", "v", "view", "plain view for a slow terminal, or the full one"),
    _key("c", "compare", "c", "", "compare the code on both screens, to verify who it is"),
    _key("e", "front_end", "e", "", "echo and noise of your microphone: leave in, or remove"),
    _key("plus", "volume(1)", "+ -", "", "the voice that is shown: louder or quieter, by 3 dB"),
    _key("minus", "volume(-1)", "", "", ""),
    _key("x", "silence", "x", "", "the voice that is shown: mute it, or hear it again"),
    _key("pageup", "scroll_log(-1)", "PgUp PgDn", "", "older and newer log lines"),
    _key("pagedown", "scroll_log(1)", "", "", ""),
    _key("up", "select(-1)", "↑ ↓", "", "in a room: choose whose voice is shown"),
    _key("down", "select(1)", "", "", ""),
)


def help_rows() -> list[tuple[str, str]]:
    """(key, what it does) of every key."""
    return [(key.key_display or key.key, key.tooltip) for key in BINDINGS if key.tooltip]


def bar_items(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """(key, label, action) for the key bar, as the call stands."""
    labels = {
        "mute": "unmute" if snapshot.muted else "mute",
        "push_to_talk": "open mic" if snapshot.push_to_talk else "push-to-talk",
        "record": "stop" if snapshot.recording else "rec",
    }
    return [
        (key.key_display or key.key, labels.get(key.action, key.description), key.action)
        for key in BINDINGS
        if key.description and (key.action != "talk" or snapshot.push_to_talk)
    ]
