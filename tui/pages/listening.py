"""Pages of listening tests: blind, shuffled and level-matched, with results that the browser saves.

`mushra` is after ITU-R BS.1534-3, `ab` asks for preferences and `words` has sentences typed. Which
system is which stands nowhere in the page but in `sealed`: a text that nobody reads by accident,
which the page's script opens when everything is answered, and puts into the results. It keeps no
secret from those who want to know.
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

MOST_STIMULI = 12  # in a trial of MUSHRA, by the recommendation
MOST_PAIRS = 48  # trials of a preference test
PLAYS = 2  # of a sentence that is to be typed
ANCHOR_NAME = "3.5 kHz low-pass"
# Clips of a test, if nobody says how many: a listener is busy for less than half an hour.
CLIPS = {"mushra": 8, "ab": 12, "words": 24}

_LEVEL = 10 ** (-26 / 20)  # RMS of every clip, full scale 1: usual for speech in such tests
_TAPS = 129  # of the anchor's filter
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
        stimuli = systems + 2
        if stimuli > MOST_STIMULI:
            raise BadInput(
                f"MUSHRA has at most {MOST_STIMULI} sounds in a trial, two of them the hidden "
                f"reference and the anchor: of {systems} systems choose {MOST_STIMULI - 2} with "
                "--presets, --peers or --system"
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
    if systems + 2 > MAX_CONDITIONS:
        raise BadInput(f"a listening test has at most {MAX_CONDITIONS - 2} systems")
    return Plan(kind, count, max(1, round(seconds / 60)))


def usable(kind: str, clips: Sequence[Clip]) -> list[int]:
    """The places of the clips that can be used: of words those whose transcript is known."""
    return [k for k, clip in enumerate(clips) if kind != "words" or (clip.text or "").strip()]


def low_pass(samples: Samples) -> Samples:
    """The anchor: [n] at 16 kHz, without what is above 3.5 kHz, and not delayed.

    ITU-R BS.1534-3 asks for a ripple of 0.1 dB at most up to 3.5 kHz, for 25 dB of attenuation at
    4 kHz, and 50 dB from 4.5 kHz on. A Kaiser window gives 60 dB from 4 kHz on.
    """
    return np.convolve(samples, _filter(), mode="full")[_TAPS // 2 :][: len(samples)]


def _filter() -> Samples:
    found: Samples = signal.firwin(
        _TAPS, 3760.0, window=("kaiser", signal.kaiser_beta(62.0)), fs=SAMPLE_RATE
    )
    return found


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
    site.add_assets("base.css", "listening.css", "sounds.js", "player.js", "listening.js")
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
            conditions.append(Condition(ANCHOR, ANCHOR_NAME))
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
                low = condition.role == ANCHOR
                samples = low_pass(reference) if low else decoded[condition.name]
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
