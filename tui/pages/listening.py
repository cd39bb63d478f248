"""Pages of listening tests: blind, shuffled and level-matched, with results that the browser saves.

`mushra` is after ITU-R BS.1534-3, whose sections are named below, `ab` asks for preferences and
`words` has sentences typed. Which system is which stands nowhere in the page but in `sealed`: a
text that nobody reads by accident, which the page's script opens when everything is answered, and
puts into the results. It keeps no secret from those who want to know.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from codec.errors import BadInput
from codec.files.paths import display_name
from codec.signal.samples import SAMPLE_RATE
from models.evaluation.clips import Clip
from models.evaluation.scores import match_level
from models.evaluation.sessions import (
    ANCHOR,
    FORM,
    KINDS,
    MAX_CONDITIONS,
    MAX_NAME,
    MAX_TEXT,
    REFERENCE,
    SYSTEM,
    Condition,
)
from tui.pages import sounds
from tui.pages.site import Site

MOST_STIMULI = 12  # in a trial of MUSHRA (5.3)
SECONDS, LONGEST = 10.0, 12.0  # of a clip of MUSHRA: about, and at most (5.1)
MOST_PAIRS = 48  # trials of a preference test
PLAYS = 2  # of a sentence that is to be typed
# The two that are mandatory (5.1), by the frequency in Hz up to which they are the original.
ANCHORS = {"3.5 kHz low-pass": 3500.0, "7 kHz low-pass": 7000.0}
# Clips of a test, if nobody says how many: a listener is busy for less than half an hour.
CLIPS = {"mushra": 8, "ab": 12, "words": 24}

_LEVEL = 10 ** (-26 / 20)  # RMS of every clip, full scale 1: usual for speech in such tests
_TAPS = 129  # of an anchor's filter
_SLOPE = 500.0  # Hz from its pass band to its stop band
_ASSETS = (
    "base.css", "listening.css", "sounds.js", "player.js", "trials.js", "deck.js", "tasks.js",
    "results.js", "listening.js",
)  # fmt: skip
_SOUNDS = "{:03}"
_SECONDS = {"mushra": 15, "ab": 20, "words": 25}  # of a listener, for a stimulus or trial

Samples = NDArray[np.floating]
Heard = Callable[[int], Mapping[str, Samples]]


@dataclass(frozen=True)
class Plan:
    """A test before anything is measured: what it consists of, and how long it takes.

    trials: of one listener; minutes: about.
    """

    kind: str
    trials: int
    minutes: int


def plan(kind: str, systems: int, clips: Sequence[Clip]) -> Plan:
    """What a test of so many systems becomes. Raises BadInput if it cannot be held."""
    count = len(usable(kind, clips))
    if not count:
        raise BadInput(
            "a test of words needs clips with a transcript: a .tsv in or beside the folder with "
            "the columns file and text; cropped clips have none"
        )
    if not systems:
        raise BadInput("there is no system to listen to")
    if kind == "mushra":
        stimuli = systems + 1 + len(ANCHORS)
        if stimuli > MOST_STIMULI:
            raise BadInput(
                f"MUSHRA has at most {MOST_STIMULI} sounds in a trial, three of them the hidden "
                f"reference and the anchors: of {systems} systems choose "
                f"{MOST_STIMULI - 1 - len(ANCHORS)} with --presets, --peers or --system"
            )
        seconds = count * stimuli * _SECONDS[kind]
    elif kind == "ab":
        if systems < 2:
            raise BadInput("a preference test needs two systems")
        pairs = systems * (systems - 1) // 2
        # Every pair as often as any other, if there is time for all.
        count = min(count * pairs, MOST_PAIRS - MOST_PAIRS % pairs or MOST_PAIRS)
        seconds = count * _SECONDS[kind]
    else:
        count -= _practice(count)
        seconds = count * _SECONDS[kind]
    most = MAX_CONDITIONS - 1 - len(ANCHORS)
    if systems > most:
        raise BadInput(f"a listening test has at most {most} systems")
    return Plan(kind, count, max(1, round(seconds / 60)))


def usable(kind: str, clips: Sequence[Clip]) -> list[int]:
    """The places of the clips that can be used: of words those whose transcript is known."""
    return [k for k, clip in enumerate(clips) if kind != "words" or (clip.text or "").strip()]


def low_pass(samples: Samples, hertz: float) -> Samples:
    """An anchor: [n] at 16 kHz, without what is above a frequency, and not delayed.

    For that of 3.5 kHz section 5.1 asks for a ripple of 0.1 dB at most in the pass band, and for
    25 dB of attenuation at 4 kHz, 50 dB at 4.5 kHz; of that of 7 kHz it gives only the frequency.
    Here both have a slope of 500 Hz, and 60 dB from its end on, by a Kaiser window.
    """
    window = "kaiser", signal.kaiser_beta(62.0)
    taps = signal.firwin(_TAPS, hertz + 0.52 * _SLOPE, window=window, fs=SAMPLE_RATE)
    return np.convolve(samples, taps, mode="full")[_TAPS // 2 :][: len(samples)]


def write(
    site: Site,
    kind: str,
    clips: Sequence[Clip],
    systems: Sequence[str],
    heard: Heard,
    *,
    title: str = "Listening test",
    plays: int = PLAYS,
    rng: random.Random | None = None,
) -> Plan:
    """Write the page of a test.

    kind: one of `KINDS`; clips: what was coded, with samples [n] at 16 kHz; systems: their names;
    heard: what became of the clip at a place, [n] for each system, aligned with the clip; plays: of
    a sentence that is to be typed; rng: decides in which order the systems are kept. Raises
    BadInput as `plan` does.
    """
    assert kind in KINDS
    found = plan(kind, len(systems), clips)
    rng = rng or random.SystemRandom()
    blind = Blind(kind, systems, rng)
    places = usable(kind, clips)
    practice: dict[str, Any] | None = None
    if kind == "words" and _practice(len(places)):
        last = places.pop()
        name = _SOUNDS.format(len(places))
        signals = {"r": levelled(clips[last].samples)}
        site.write(f"sound/{name}.js", sounds.script(name, signals))
        practice = {"sound": name, "seconds": clips[last].seconds}
    for number, place in enumerate(places):
        name, clip = _SOUNDS.format(number), clips[place]
        stimuli = blind.stimuli(clip.samples, heard(place))
        site.write(f"sound/{name}.js", sounds.script(name, stimuli))
    used = [clips[place] for place in places]
    data = {
        "form": FORM,
        "id": blind.key,
        "kind": kind,
        "title": title[:MAX_NAME],
        "count": len(blind.conditions),
        "clips": [
            {"sound": _SOUNDS.format(k), "seconds": clip.seconds} for k, clip in enumerate(used)
        ],
        "practice": practice,
        "plays": plays,
        "pairs": MOST_PAIRS,
        "sealed": blind.sealed(used),
    }
    site.add_assets(*_ASSETS)
    site.render(
        "listening.html", title=title, kind=kind, plan=found, data=data, plays=plays,
        clips=len(used), stimuli=len(blind.conditions),
    )  # fmt: skip
    return found


class Blind:
    """What is tested, under numbers that mean nothing. key: the identity of the page."""

    def __init__(self, kind: str, names: Sequence[str], rng: random.Random) -> None:
        self.kind = kind
        self.key = f"{rng.getrandbits(128):032x}"
        conditions = [Condition(SYSTEM, name) for name in names]
        if kind != "ab":
            conditions.append(Condition(REFERENCE, "original"))
        if kind == "mushra":
            conditions += [Condition(ANCHOR, name) for name in ANCHORS]
        rng.shuffle(conditions)
        self.conditions = conditions

    def stimuli(self, original: Samples, decoded: Mapping[str, Samples]) -> dict[str, Samples]:
        """The sounds of a clip, [n] each, by their keys: "r" is the open reference."""
        reference = levelled(original)
        found = {} if self.kind == "words" else {"r": reference}
        for number, condition in enumerate(self.conditions):
            if condition.role == REFERENCE:
                samples = reference
            else:
                if condition.role == ANCHOR:
                    samples = low_pass(reference, ANCHORS[condition.name])
                else:
                    samples = decoded[condition.name]
                assert len(samples) == len(reference), condition.name
                samples = match_level(reference, np.asarray(samples, np.float64))
            found[str(number)] = samples
        return found

    def sealed(self, clips: Sequence[Clip]) -> str:
        """What the results name: conditions and clips, and what was said if it is to be typed."""
        values: dict[str, Any] = {
            "conditions": [{"role": each.role, "name": each.name} for each in self.conditions],
            "clips": [_clip_name(k, clip) for k, clip in enumerate(clips)],
        }
        if self.kind == "words":
            values["texts"] = [(clip.text or "")[:MAX_TEXT] for clip in clips]
        return seal(values, self.key)


def levelled(samples: Samples) -> Samples:
    """Samples [n] at the level that all clips of a test have."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return np.asarray(samples, np.float64) * (_LEVEL / level if level > 0 else 1.0)


def seal(values: Any, key: str) -> str:
    """Plain values as a text that nobody reads by accident; key: of the test."""
    mask = cycle(bytes.fromhex(key))
    text = json.dumps(values, ensure_ascii=True).encode()
    return base64.b64encode(bytes(a ^ b for a, b in zip(text, mask, strict=False))).decode()


def _clip_name(number: int, clip: Clip) -> str:
    """A name that results can hold, and no other clip has."""
    name = display_name(clip.name)
    return name if len(name) <= MAX_NAME else f"{number}: {name[-MAX_NAME // 2 :]}"


def _practice(count: int) -> int:
    """How many of so many sentences are for practice."""
    return 1 if count > 1 else 0
