"""Statistics of listening tests: ratings of MUSHRA, preferences, and words that were understood.

Listeners are the sample: what one of them answers is no independent observation. Means are those of
listeners' means, and intervals are Student's t over listeners. Listeners of MUSHRA are screened
afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, TextIO

import numpy as np
from scipy import stats

from models.evaluation import tables
from models.evaluation.estimates import Estimate
from models.evaluation.plots import Box
from models.evaluation.screening import rated_trials, screen
from models.evaluation.sessions import (
    KINDS,
    SYSTEM,
    Compared,
    Condition,
    Panel,
    Rated,
    Session,
    Typed,
)
from models.evaluation.significance import (
    LEVEL,
    holm,
    paired_t,
    signed_ranks,
    student,
    student_ratio,
)
from models.evaluation.words import word_errors

BANDS = ("bad", "poor", "fair", "good", "excellent")  # fifths of the scale from 0 to 100
_HOW = {
    "mushra": {
        "mean": "over listeners, of each one's mean over clips; the interval is Student's t over "
        "listeners, 95 %",
        "quartiles": "of all ratings that count",
        "post_screening": "ITU-R BS.1534-3, 4.1.2: a listener is left out who rates the hidden "
        "reference below 90 in more than 15 % of the trials, or an anchor above 90; the "
        "recommendation says the latter of that of 7 kHz alone. A clip whose anchor more than a "
        "quarter of the listeners, and more than one, rate above 90 does not count for that anchor",
        "pairs": "two-sided tests of listeners' means for each pair of systems: paired t and "
        "Wilcoxon's signed ranks (exact), each corrected by Holm over all pairs",
    },
    "ab": {
        "share": "of the answers that prefer either; exact interval (Clopper and Pearson), 95 %",
        "test": "two-sided sign test, exact, corrected by Holm over all pairs; it takes answers "
        "for independent",
        "listeners": "those who prefer the one, or the other, more often",
    },
    "words": {
        "rate": "errors (substitutions, deletions, insertions) over words of the transcripts, in "
        "lower case and without punctuation; pooled, with an interval by Student's t over "
        "listeners, 95 %, of the linearised ratio",
    },
}


@dataclass(frozen=True)
class Rating:
    """How a condition was rated. mean: over listeners; low, high: the quartiles of all ratings."""

    condition: Condition
    mean: Estimate
    median: float
    low: float
    high: float
    ratings: Sequence[float]
    clips: Mapping[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """One system against another: mean difference of listeners' means, and p of both tests, as they
    are and corrected.
    """

    system: str
    other: str
    difference: Estimate
    t: float
    wilcoxon: float
    t_corrected: float = math.nan
    wilcoxon_corrected: float = math.nan


@dataclass(frozen=True)
class Preference:
    """One system against another: answers for the one, the other and neither; share: of the first
    among the decided; p: of the sign test; listeners: who mostly prefer the one, and the other.
    """

    system: str
    other: str
    wins: int
    losses: int
    none: int
    share: Estimate
    p: float
    listeners: tuple[int, int]
    p_corrected: float = math.nan


@dataclass(frozen=True)
class Understood:
    """Word errors under a condition, pooled."""

    condition: Condition
    rate: Estimate
    errors: int
    words: int
    answers: int


@dataclass(frozen=True)
class Report:
    """What a panel found. excluded: (listener, file, why), screened out; the other fields are empty
    but for the kind of the test. listeners: figures of each who counts.
    """

    panel: Panel
    counted: Sequence[Session]
    excluded: Sequence[tuple[str, str, str]]
    ratings: Sequence[Rating] = ()
    differences: Sequence[Difference] = ()
    preferences: Sequence[Preference] = ()
    understood: Sequence[Understood] = ()
    listeners: Sequence[Mapping[str, Any]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        values: dict[str, Any] = {
            "test": self.panel.kind,
            "id": self.panel.sessions[0].test,
            "title": self.panel.sessions[0].title,
            "how": _HOW[self.panel.kind],
            "counted": len(self.counted),
            "excluded": [
                {"listener": listener, "file": file, "reason": reason}
                for listener, file, reason in self.excluded
            ],
            "skipped": dict(self.panel.skipped),
            "remarks": list(self.panel.remarks),
            "listeners": list(self.listeners),
        }
        if self.panel.kind == "mushra":
            values["systems"] = [_plain(each) for each in self.ratings]
            values["pairs"] = [asdict(each) for each in self.differences]
        elif self.panel.kind == "ab":
            values["pairs"] = [asdict(each) for each in self.preferences]
        else:
            values["systems"] = [_plain(each) for each in self.understood]
        return values

    def print(self, stream: TextIO) -> None:
        """Tables, who was left out, and how things were counted."""
        console = tables.console(stream)

        def say(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        first = self.panel.sessions[0]
        title = f' "{first.title}"' if first.title else ""
        say(f"{KINDS[first.kind]} test{title}, {_count(len(self.panel.sessions), 'listener')}")
        for remark in self.panel.remarks:
            say(remark)
        for listener, file, reason in self.excluded:
            say(f"{_who(listener)} ({file}) left out: {reason}")
        if first.kind == "mushra":
            _print_ratings(self, console)
        elif first.kind == "ab":
            _print_preferences(self, console)
        else:
            _print_understood(self, console)
        if len(self.counted) == 1 and first.kind != "ab":  # those of a share are over answers
            say("Of one listener there are no intervals.")
        for what, text in _HOW[first.kind].items():
            say(f"{what.capitalize().replace('_', '-')}: {text}.")

    def boxes(self) -> list[Box]:
        """The ratings of every condition, for a plot; none but of MUSHRA."""
        return [Box(_label(each.condition), each.ratings, each.mean.value) for each in self.ratings]


def report(panel: Panel) -> Report:
    """The figures of a panel."""
    return {"mushra": _rate, "ab": _prefer, "words": _understand}[panel.kind](panel)


# --- MUSHRA ----------------------------------------------------------------------------------


def _rate(panel: Panel) -> Report:
    out = screen(panel.sessions)
    counted = [each for place, each in enumerate(panel.sessions) if place not in out]
    excluded = [
        (panel.sessions[place].listener, panel.sessions[place].file, reason)
        for place, reason in out.items()
    ]
    if not counted:
        return Report(panel, counted, excluded)
    conditions = panel.conditions
    means = np.array(  # [listeners, conditions]
        [np.mean([trial.scores for trial in rated_trials(each)], axis=0) for each in counted]
    )
    everything = [trial for each in counted for trial in rated_trials(each)]
    by_clip: dict[str, list[Rated]] = {}
    for trial in sorted(everything, key=lambda trial: trial.clip):
        by_clip.setdefault(trial.clip, []).append(trial)
    ratings = []
    for place, condition in enumerate(conditions):
        scores = [trial.scores[place] for trial in everything]
        low, median, high = (float(value) for value in np.percentile(scores, [25, 50, 75]))
        clips = {
            clip: student([trial.scores[place] for trial in trials])
            for clip, trials in by_clip.items()
        }
        mean = student(means[:, place].tolist())
        ratings.append(Rating(condition, mean, median, low, high, scores, clips))
    ranks = sorted(range(len(conditions)), key=lambda place: -ratings[place].mean.value)
    systems = [place for place in ranks if conditions[place].role == SYSTEM]
    listeners = [
        {
            "listener": session.listener,
            "file": session.file,
            "trials": len(session.trials),
            "means": {_label(condition): float(own[k]) for k, condition in enumerate(conditions)},
        }
        for session, own in zip(counted, means, strict=True)
    ]
    return Report(
        panel,
        counted,
        excluded,
        ratings=[ratings[place] for place in ranks],
        differences=_differences(
            {conditions[place].name: means[:, place].tolist() for place in systems}
        ),
        listeners=listeners,
    )


def _differences(means: Mapping[str, Sequence[float]]) -> list[Difference]:
    """Every pair of systems; means: of listeners, [n] for each system."""
    found = []
    for (name, ours), (other, theirs) in combinations(means.items(), 2):
        gaps = np.subtract(ours, theirs)
        difference = student(gaps.tolist())
        found.append(Difference(name, other, difference, paired_t(gaps), signed_ranks(gaps)))
    both = zip(
        found, holm([each.t for each in found]), holm([each.wilcoxon for each in found]),
        strict=True,
    )  # fmt: skip
    return [
        Difference(each.system, each.other, each.difference, each.t, each.wilcoxon, t, wilcoxon)
        for each, t, wilcoxon in both
    ]


def _print_ratings(found: Report, console: tables.Console) -> None:
    if not found.ratings:
        console.print("Nobody is left whose ratings count.")
        return
    heads = ("mean", "95 % interval", "median", "quartiles")
    title = f"Ratings by {_count(len(found.counted), 'listener')}"
    table = tables.table(title, ["system"], heads)
    for each in found.ratings:
        table.add_row(
            tables.plain(_label(each.condition)),
            tables.number(each.mean.value, 1),
            _interval(each.mean, 1),
            tables.number(each.median, 1),
            f"{each.low:.1f} to {each.high:.1f}",
        )
    console.print(table)
    if not found.differences or len(found.counted) < 2:
        return
    table = tables.table(
        "Pairs of systems (p corrected by Holm)",
        ["system", "against"],
        ["difference", "95 % interval", "p, paired t", "p, Wilcoxon"],
    )
    for pair in found.differences:
        table.add_row(
            tables.plain(pair.system),
            tables.plain(pair.other),
            tables.number(pair.difference.value, 1, "+"),
            _interval(pair.difference, 1),
            _p(pair.t_corrected),
            _p(pair.wilcoxon_corrected),
        )
    console.print(table)


# --- preferences -----------------------------------------------------------------------------


def _prefer(panel: Panel) -> Report:
    names = [each.name for each in panel.conditions]
    # By the place of the first, then of the second: answers of each listener, +1, -1 or 0.
    answers: dict[tuple[int, int], dict[int, list[int]]] = {}
    listeners = []
    for who, session in enumerate(panel.sessions):
        chosen = 0
        for trial in session.trials:
            assert isinstance(trial, Compared)
            sign = {"a": 1, "b": -1, "none": 0}[trial.answer]
            chosen += sign != 0
            pair = (trial.a, trial.b) if names[trial.a] < names[trial.b] else (trial.b, trial.a)
            sign = sign if pair == (trial.a, trial.b) else -sign
            answers.setdefault(pair, {}).setdefault(who, []).append(sign)
        listeners.append(
            {
                "listener": session.listener,
                "file": session.file,
                "trials": len(session.trials),
                "decided": chosen,
                "left": sum(
                    trial.answer == "a" for trial in session.trials if isinstance(trial, Compared)
                ),
            }
        )
    pairs = [
        _preference(names[a], names[b], answers[a, b])
        for a, b in sorted(answers, key=lambda pair: (names[pair[0]], names[pair[1]]))
    ]
    corrected = holm([each.p for each in pairs])
    pairs = [
        Preference(**{**vars(each), "p_corrected": p})
        for each, p in zip(pairs, corrected, strict=True)
    ]
    return Report(panel, panel.sessions, (), preferences=pairs, listeners=listeners)


def _preference(system: str, other: str, answers: Mapping[int, Sequence[int]]) -> Preference:
    signs = [sign for own in answers.values() for sign in own]
    wins, losses = signs.count(1), signs.count(-1)
    sums = [sum(own) for own in answers.values()]
    p, share = math.nan, Estimate(math.nan, math.nan, math.nan, signs.count(0))
    if wins + losses:
        test = stats.binomtest(wins, wins + losses)
        interval = test.proportion_ci(LEVEL)
        p = float(test.pvalue)
        share = Estimate(
            wins / (wins + losses), float(interval.low), float(interval.high), signs.count(0)
        )
    listeners = sum(each > 0 for each in sums), sum(each < 0 for each in sums)
    return Preference(system, other, wins, losses, signs.count(0), share, p, listeners)


def _print_preferences(found: Report, console: tables.Console) -> None:
    table = tables.table(
        f"Preferences of {_count(len(found.counted), 'listener')}",
        ["system", "against"],
        ["for it", "against", "neither", "share", "95 % interval", "p (Holm)", "listeners"],
    )
    for pair in found.preferences:
        table.add_row(
            tables.plain(pair.system),
            tables.plain(pair.other),
            str(pair.wins),
            str(pair.losses),
            str(pair.none),
            tables.number(pair.share.value, 2),
            _interval(pair.share, 2),
            _p(pair.p_corrected),
            f"{pair.listeners[0]} : {pair.listeners[1]}",
        )
    console.print(table)


# --- words -----------------------------------------------------------------------------------


def _understand(panel: Panel) -> Report:
    conditions = panel.conditions
    shape = len(panel.sessions), len(conditions)
    errors, words, answers = (np.zeros(shape, int) for _ in range(3))
    for who, session in enumerate(panel.sessions):
        for trial in session.trials:
            assert isinstance(trial, Typed)
            wrong, count = word_errors(trial.text, trial.typed)
            errors[who, trial.condition] += wrong
            words[who, trial.condition] += count
            answers[who, trial.condition] += 1
    understood = []
    for place, condition in enumerate(conditions):
        rate = student_ratio(errors[:, place].tolist(), words[:, place].tolist())
        bounded = Estimate(rate.value, max(rate.low, 0.0), rate.high, rate.missing)
        sums = (int(each[:, place].sum()) for each in (errors, words, answers))
        understood.append(Understood(condition, bounded, *sums))
    understood.sort(key=lambda each: (math.isnan(each.rate.value), each.rate.value))
    listeners = [
        {
            "listener": session.listener,
            "file": session.file,
            "trials": len(session.trials),
            "errors": int(errors[who].sum()),
            "words": int(words[who].sum()),
            "rate": _over(errors[who].sum(), words[who].sum()),
            "rates": {
                _label(condition): _over(errors[who, place], words[who, place])
                for place, condition in enumerate(conditions)
            },
        }
        for who, session in enumerate(panel.sessions)
    ]
    return Report(panel, panel.sessions, (), understood=understood, listeners=listeners)


def _print_understood(found: Report, console: tables.Console) -> None:
    table = tables.table(
        f"Word errors of {_count(len(found.counted), 'listener')}",
        ["system"],
        ["word error rate", "95 % interval", "errors", "words", "sentences"],
    )
    for each in found.understood:
        table.add_row(
            tables.plain(_label(each.condition)),
            tables.number(each.rate.value, 3),
            _interval(each.rate, 3),
            str(each.errors),
            str(each.words),
            str(each.answers),
        )
    console.print(table)
    table = tables.table("By listener", ["listener"], ["word error rate", "words", "sentences"])
    for own in found.listeners:
        table.add_row(
            tables.plain(_who(own["listener"])),
            tables.number(own["rate"], 3),
            str(own["words"]),
            str(own["trials"]),
        )
    console.print(table)


# --- words for people ------------------------------------------------------------------------


def _label(condition: Condition) -> str:
    """A condition in tables, and as a key."""
    return condition.name if condition.role == SYSTEM else f"{condition.name} ({condition.role})"


def _who(listener: str) -> str:
    return listener or "a listener without name"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _interval(value: Estimate, digits: int) -> str:
    if not math.isfinite(value.low):
        return tables.UNKNOWN
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return tables.UNKNOWN
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _over(errors: float, words: float) -> float:
    return float(errors / words) if words else math.nan


def _plain(each: Rating | Understood) -> dict[str, Any]:
    values = asdict(each)
    return {**values.pop("condition"), **values}
