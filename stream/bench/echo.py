"""Microphones that hear their own loudspeakers: what is said, and what is left of the echo.

First b talks alone, then a, then both (see `stream.bench.talks.turns`). While one end talks alone,
the other's microphone hears nothing but the echo, and what comes back of it is heard at the end
that talks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import FrontEnd, FrontEndMissing
from stream.bench.laboratory import ENDS, Name
from stream.bench.runs import Run
from stream.bench.scenarios import ECHO_ALONE
from stream.bench.signals import locate
from stream.bench.talks import Talk, UtteranceScore, mean_score, score_talk

ADAPTED = 5.0  # seconds of the other's speech after which the echo has to be gone
_OTHER: dict[Name, Name] = {"a": "b", "b": "a"}
_SAME = 0.8  # correlation of what was said with the microphone, which hears an echo as well
_STRAYING = 2.0  # seconds by which a player that was held up may be late
_STARTS = 20.0  # seconds until the players have begun, once they are told to
_PIECE = SAMPLE_RATE // 50  # what a sound card gives at once
_FLOOR = 1e-12  # power below which there is nothing


@dataclass(frozen=True)
class Echo:
    """What was measured at one end.

    left_db: power of what the other end hears of its own voice, over that of the echo in this end's
    microphone, while the other talks alone and from ADAPTED seconds on; alone, together: this end's
    utterances as the other hears them, while it talks alone and while both talk.
    """

    left_db: float | None
    alone: list[UtteranceScore]
    together: list[UtteranceScore]

    def score(self, key: str, *, together: bool) -> float:
        """Mean PESQ or STOI."""
        return mean_score(self.together if together else self.alone, key)


def measure(run: Run) -> dict[Name, Echo]:
    """What there is of echo in a run; its tracks' `said` become what was said, without echo."""
    microphones = {end: run.tracks[end].said for end in ENDS}
    begun = {end: round((run.talk_from - run.tracks[end].began) * SAMPLE_RATE) for end in ENDS}
    starts = {end: _starts(run.talks[end], microphones[end], begun[end]) for end in ENDS}
    for end in ENDS:
        track = run.tracks[end]
        said = _placed(run.talks[end], starts[end], len(track.said))
        run.tracks[end] = replace(track, said=said)
    found = {}
    for end in ENDS:
        talk, other = run.talks[end], _OTHER[end]
        heard = run.tracks[other].heard
        scored = score_talk(talk, starts[end], run.tracks[end].said, heard)
        delays = [item.delay for item in scored]
        delay = float(np.median(delays)) if delays else 0.0
        alone = _alone(run.talks[other], starts[other])
        left = None if alone is None else _left(microphones[end], heard, alone, delay)
        # The first of them are those of its own turn.
        together = 2.0 * ECHO_ALONE + (starts[end][0] - talk.utterances[0].first) / SAMPLE_RATE
        found[end] = Echo(
            left,
            [item for item in scored if item.start < together],
            [item for item in scored if item.start >= together],
        )
    return found


def front_end_share(microphone: FloatArray, loudspeaker: FloatArray) -> float | None:
    """Seconds of one core for a second of these, [n] each; None where there is no front end."""
    try:
        front_end = FrontEnd()
    except FrontEndMissing:
        return None
    count = min(len(microphone), len(loudspeaker)) // _PIECE * _PIECE
    before = time.process_time()
    for at in range(0, count, _PIECE):
        front_end.render(loudspeaker[at : at + _PIECE])
        front_end.capture(microphone[at : at + _PIECE])
    taken = time.process_time() - before
    return taken * SAMPLE_RATE / count if count and front_end.error is None else None


def _starts(talk: Talk, microphone: FloatArray, begun: int) -> list[int]:
    """Where in a microphone's sound each utterance begins; -1 before the first that is found.

    begun: where the players were told to begin. It may take any time to get there.
    """
    starts: list[int] = []
    offset: int | None = None
    for utterance in talk.utterances:
        part = talk.samples[utterance.first : utterance.last]
        straying = round(_STRAYING * SAMPLE_RATE)
        first = max(begun + utterance.first - straying, 0)
        last = begun + utterance.first + round(_STARTS * SAMPLE_RATE)
        if offset is not None:
            first, last = (utterance.first + offset + off for off in (-straying, straying))
        at, match = locate(part, microphone, first, last)
        if match >= _SAME:
            offset = at - utterance.first
        starts.append(-1 if offset is None else utterance.first + offset)
    return starts


def _placed(talk: Talk, starts: Sequence[int], count: int) -> FloatArray:
    """What was said alone, [count]: the utterances where they begin in the recording."""
    said = np.zeros(count, np.float32)
    for utterance, start in zip(talk.utterances, starts, strict=True):
        part = talk.samples[utterance.first : utterance.last]
        if start >= 0:
            part = part[: max(count - start, 0)]
            said[start : start + len(part)] = part
    return said


def _alone(talk: Talk, starts: Sequence[int]) -> tuple[int, int] | None:
    """From where to where an end talks alone, ADAPTED seconds after it has begun to."""
    turn = 0.0 if talk.utterances[0].first < ECHO_ALONE * SAMPLE_RATE else ECHO_ALONE
    own = [
        (start, start + utterance.last - utterance.first)
        for utterance, start in zip(talk.utterances, starts, strict=True)
        if utterance.first < (turn + ECHO_ALONE) * SAMPLE_RATE
    ]
    if not own or own[0][0] < 0:
        return None
    first, last = own[0][0] + round(ADAPTED * SAMPLE_RATE), own[-1][1]
    return (first, last) if last > first else None


def _left(
    microphone: FloatArray, heard: FloatArray, alone: tuple[int, int], delay: float
) -> float | None:
    """dB of what came back of an echo.

    The talker's own voice takes `delay` seconds to the microphone's end, and what its microphone
    hears as much to come back.
    """
    there, back = (round(share * delay * SAMPLE_RATE) for share in (1.0, 2.0))
    first, last = alone
    echo = np.asarray(microphone[first + there : last + there], np.float64)
    rest = np.asarray(heard[first + back : last + back], np.float64)
    if not len(echo) or len(rest) < len(echo):
        return None
    powers = [float(np.mean(part**2)) for part in (echo, rest)]
    if powers[0] <= 1e3 * _FLOOR:  # there was none
        return None
    return 10.0 * math.log10(max(powers[1], _FLOOR) / powers[0])
