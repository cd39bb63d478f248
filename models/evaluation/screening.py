"""Which listeners of a MUSHRA test are left out, by ITU-R BS.1534-3, section 4.1.2.

It leaves out who rates the hidden reference below 90 in more than 15 % of the trials, and who rates
the mid-range anchor, of 7 kHz, above 90 in more than 15 %; but clips whose anchor more than 25 % of
the listeners rate above 90 do not count for the latter, since it hardly differs from them. That is
to be expected of the last kilohertz of speech that ends at 8 kHz. So the same rule is applied to
the low anchor, of 3.5 kHz, for which the recommendation has none. Beyond it, one listener alone is
never taken for more than 25 %, lest nobody could be left out of a panel of three.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.evaluation.sessions import ANCHOR, REFERENCE, Rated, Session

HIGH = 90.0  # the reference belongs there, an anchor above it was not heard
MOST_TRIALS = 0.15  # in which a listener may be wrong
MOST_LISTENERS = 0.25  # above HIGH, with an anchor: the clip hardly suffers from it


def screen(sessions: Sequence[Session]) -> dict[int, str]:
    """{place: why} of those who are left out; sessions: of one MUSHRA test."""
    conditions = sessions[0].conditions
    reference = next(k for k, each in enumerate(conditions) if each.role == REFERENCE)
    anchors = [k for k, each in enumerate(conditions) if each.role == ANCHOR]
    trials = [rated_trials(session) for session in sessions]
    alike = {anchor: _alike(trials, anchor) for anchor in anchors}
    found: dict[int, str] = {}
    for place, own in enumerate(trials):
        reasons = []
        low = sum(trial.scores[reference] < HIGH for trial in own)
        if low > MOST_TRIALS * len(own):
            reasons.append(f"rated the hidden reference below 90 in {low} of {len(own)} trials")
        for anchor in anchors:
            over = [trial.scores[anchor] > HIGH for trial in own if trial.clip not in alike[anchor]]
            if sum(over) > MOST_TRIALS * len(over):
                reasons.append(
                    f"rated the anchor {conditions[anchor].name} above 90 in {sum(over)} of "
                    f"{len(over)} trials"
                )
        if reasons:
            found[place] = " and ".join(reasons)
    return found


def rated_trials(session: Session) -> list[Rated]:
    """The trials of a MUSHRA test."""
    return [trial for trial in session.trials if isinstance(trial, Rated)]


def _alike(trials: Sequence[Sequence[Rated]], anchor: int) -> set[str]:
    """The clips that an anchor hardly differs from, to too many; trials: [listeners][trials]."""
    high: dict[str, list[bool]] = {}
    for own in trials:
        for trial in own:
            high.setdefault(trial.clip, []).append(trial.scores[anchor] > HIGH)
    return {clip for clip, over in high.items() if sum(over) > max(1.0, MOST_LISTENERS * len(over))}
