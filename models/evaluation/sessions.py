"""What the page of a listening test saves: one listener's answers, read with every check.

The file is JSON of form 1, an object:

    sotto: "listening test"; form: 1; test: {id, kind, title}, where id is that of the page and kind
    one of `KINDS`; session: of this listener, of one sitting; listener: a name or pseudonym;
    ears: "headphones", "earphones", "loudspeakers" or "", what was listened with, may be missing;
    planned: the number of trials; conditions: [{role, name}], role one of `ROLES`; trials: [...]

and a trial, by kind, where conditions are given by their places:

    mushra: {clip, ratings: [{condition, score}]}, in the order shown, scores from 0 to 100
    ab: {clip, a, b, answer}, answer "a", "b" or "none"
    words: {clip, condition, text, typed}, text what was said

Whatever else it holds is for people.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from codec.errors import BadInput
from codec.files.paths import display_name, open_input, os_errors

FORM = 1
KINDS = {"mushra": "MUSHRA", "ab": "preference", "words": "intelligibility"}
REFERENCE, ANCHOR, SYSTEM = ROLES = ("reference", "anchor", "system")
EARS = ("", "headphones", "earphones", "loudspeakers")

MAX_BYTES = 4 << 20
MAX_FILES = 10_000
MAX_ALL_BYTES = 128 << 20  # of the files together: ten times what so many listeners need
MAX_CONDITIONS = 64
MAX_TRIALS = 2000
MAX_NAME = 200
MAX_TEXT = 4000

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Condition:
    """What was listened to. role: one of `ROLES`; name: of the system."""

    role: str
    name: str


@dataclass(frozen=True)
class Rated:
    """A trial of MUSHRA. scores: from 0 to 100, [conditions]."""

    clip: str
    scores: Sequence[float]


@dataclass(frozen=True)
class Compared:
    """A trial of a preference test. a, b: places of conditions; answer: "a", "b" or "none"."""

    clip: str
    a: int
    b: int
    answer: str


@dataclass(frozen=True)
class Typed:
    """A trial of an intelligibility test. text: what was said; typed: what was understood."""

    clip: str
    condition: int
    text: str
    typed: str


@dataclass(frozen=True)
class Session:
    """One listener's answers in one sitting.

    test, title: identity and title of the page; key: identity of the sitting; ears: one of `EARS`;
    trials: of `kind`.
    """

    file: str
    test: str
    kind: str
    title: str
    key: str
    listener: str
    ears: str
    conditions: Sequence[Condition]
    trials: Sequence[Rated] | Sequence[Compared] | Sequence[Typed]


@dataclass(frozen=True)
class Panel:
    """The sittings of one test. skipped: {file: why it is left out}; remarks: for whoever reads the
    figures, a line each.
    """

    sessions: Sequence[Session]
    skipped: Mapping[str, str]
    remarks: Sequence[str]

    @property
    def kind(self) -> str:
        return self.sessions[0].kind

    @property
    def conditions(self) -> Sequence[Condition]:
        return self.sessions[0].conditions


def result_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, and of folders the `.json` files in them.

    Raises BadInput if a folder holds none, or if there are too many.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        with os_errors("read", path):
            inside = list(islice(path.iterdir(), MAX_FILES + 1))
        results = [each for each in inside if each.suffix.lower() == ".json" and each.is_file()]
        if not results:
            raise BadInput(f"there are no results (.json) in {display_name(path)}")
        if len(inside) > MAX_FILES:
            raise BadInput(f"{display_name(path)} holds more than {MAX_FILES} files")
        found += sorted(results)
    if len(found) > MAX_FILES:
        raise BadInput(f"more than {MAX_FILES} results")
    return found


def read_panel(files: Iterable[Path]) -> Panel:
    """The sittings in files.

    What cannot be used, what is there twice, and what names other systems than most is left out.
    Raises BadInput if nothing is left, if there are results of several tests, which must not be
    mixed, or if all are larger than `MAX_ALL_BYTES`.
    """
    sittings: dict[str, Session] = {}
    skipped: dict[str, str] = {}
    size = 0
    for path in files:
        try:
            session = parse(data := _bytes(path), display_name(path))
        except BadInput as error:
            skipped[display_name(path)] = str(error)
            continue
        size += len(data)
        if size > MAX_ALL_BYTES:
            raise BadInput(f"these results are together over {MAX_ALL_BYTES >> 20} MiB")
        twin = sittings.setdefault(session.key, session)
        if twin is not session:
            other = "" if twin.trials == session.trials else ", with other answers"
            skipped[session.file] = f"it is the same sitting as {twin.file}{other}"
    if not sittings:
        raise BadInput(next(iter(skipped.values()), "there are no results to read"))
    sessions = list(sittings.values())
    _refuse_mixed(sessions)
    ((usual, _),) = Counter(map(_tested, sessions)).most_common(1)
    kept = [each for each in sessions if _tested(each) == usual]
    for each in sessions:
        if _tested(each) != usual:
            skipped[each.file] = f"it names other systems, or another test, than {kept[0].file}"
    return Panel(kept, skipped, _remarks(kept))


def read(path: Path) -> Session:
    """One file. Raises BadInput, naming it, if it is not a whole result of form 1."""
    return parse(_bytes(path), display_name(path))


def _bytes(path: Path) -> bytes:
    """What is in a file, but for what is beyond the limit."""
    with open_input(path) as file, os_errors("read", path):
        return file.read(MAX_BYTES + 1)


def parse(data: bytes, name: str) -> Session:
    """The same of its bytes; name: of the file, for messages."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name} is too large for the results of a listening test")
    try:
        values = json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadInput(f"{name} is no result of a listening test: it is not JSON") from None
    if not isinstance(values, dict) or values.get("sotto") != "listening test":
        raise BadInput(f"{name} is no result of a listening test")
    form = values.get("form")
    if form != FORM or isinstance(form, bool):
        raise BadInput(f"{name} has form {_short(form)}, which this version cannot read")
    try:
        return _session(values, name)
    except _Wrong as error:
        raise BadInput(f"{name} is damaged: {error}") from None


class _Wrong(Exception):
    """What is wrong with the values."""


def _session(values: Mapping[str, Any], name: str) -> Session:
    test = _object(values, "test")
    kind = _text(test, "kind", MAX_NAME)
    if kind not in KINDS:
        raise _Wrong(f"there is no test {kind!r}")
    conditions = [
        Condition(_choice(each, "role", ROLES), _name(each, "name"))
        for each in _objects(values, "conditions", MAX_CONDITIONS)
    ]
    if len(set(conditions)) < len(conditions):
        raise _Wrong("a system is there twice")
    _check_roles(kind, [each.role for each in conditions])
    planned = _whole(values, "planned", 1, MAX_TRIALS)
    found = _objects(values, "trials", MAX_TRIALS)
    if len(found) != planned:
        raise _Wrong(f"it holds {len(found)} of {planned} trials")
    trial = {"mushra": _rated, "ab": _compared, "words": _typed}[kind]
    trials: list[Any] = [trial(each, len(conditions)) for each in found]
    if len({_asked(each) for each in trials}) < planned:
        raise _Wrong("a trial is there twice")
    return Session(
        name,
        _id(test, "id"),
        kind,
        _name(test, "title"),
        _id(values, "session"),
        _name(values, "listener"),
        _choice(values, "ears", EARS) if "ears" in values else "",
        conditions,
        trials,
    )


def _check_roles(kind: str, roles: Sequence[str]) -> None:
    wanted = {"mushra": (1, 1, 1), "ab": (0, 0, 2), "words": (0, 0, 1)}[kind]
    most = {"mushra": (1, 2), "ab": (0, 0), "words": (1, 0)}[kind]
    counts = [roles.count(role) for role in ROLES]
    if any(count < least for count, least in zip(counts, wanted, strict=True)) or any(
        count > bound for count, bound in zip(counts, most, strict=False)
    ):
        raise _Wrong(f"a {KINDS[kind]} test does not have these roles: {', '.join(roles)}")


def _rated(values: Mapping[str, Any], count: int) -> Rated:
    scores: dict[int, float] = {}
    for each in _objects(values, "ratings", MAX_CONDITIONS):
        place = _whole(each, "condition", 0, count - 1)
        score = each.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise _Wrong(f"{_short(score)} is no score")
        if not 0 <= score <= 100:  # what is not a number either
            raise _Wrong(f"{_short(score)} is no score from 0 to 100")
        if place in scores:
            raise _Wrong("a condition is rated twice")
        scores[place] = float(score)
    if len(scores) < count:
        raise _Wrong("a condition is not rated")
    return Rated(_name(values, "clip"), [scores[place] for place in range(count)])


def _compared(values: Mapping[str, Any], count: int) -> Compared:
    a, b = (_whole(values, side, 0, count - 1) for side in "ab")
    if a == b:
        raise _Wrong("a system is compared with itself")
    return Compared(_name(values, "clip"), a, b, _choice(values, "answer", ("a", "b", "none")))


def _typed(values: Mapping[str, Any], count: int) -> Typed:
    return Typed(
        _name(values, "clip"),
        _whole(values, "condition", 0, count - 1),
        _text(values, "text", MAX_TEXT),
        _text(values, "typed", MAX_TEXT),
    )


def _asked(trial: Rated | Compared | Typed) -> object:
    """What may be asked only once."""
    pair = frozenset((trial.a, trial.b)) if isinstance(trial, Compared) else None
    return trial.clip, pair


def _tested(session: Session) -> tuple[object, ...]:
    """What the sittings of a panel have in common."""
    return session.kind, *session.conditions


def _refuse_mixed(sessions: Sequence[Session]) -> None:
    tests: dict[str, list[Session]] = {}
    for session in sessions:
        tests.setdefault(session.test, []).append(session)
    if len(tests) > 1:
        listed = "; ".join(
            f"{KINDS[some[0].kind]} {test[:8]}: {', '.join(each.file for each in some[:3])}"
            + (f" and {len(some) - 3} more" if len(some) > 3 else "")
            for test, some in tests.items()
        )
        raise BadInput(f"these are results of {len(tests)} tests, give those of one: {listed}")


def _remarks(sessions: Sequence[Session]) -> list[str]:
    named: dict[str, list[str]] = {}
    for session in sessions:
        named.setdefault(session.listener.casefold(), []).append(session.file)
    remarks = [
        f"{len(files)} sittings bear the same name, and count as those of {len(files)} listeners: "
        + ", ".join(files)
        for name, files in named.items()
        if name and len(files) > 1
    ]
    ears = [session.ears for session in sessions if session.ears]
    loud = ears.count("loudspeakers")
    if 0 < loud < len(ears):
        remarks.append(
            f"{loud} listened with loudspeakers, {len(ears) - loud} with headphones or earphones: "
            "BS.1534-3 wants one kind for all (section 8)"
        )
    return remarks


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise _Wrong(f"{key} is missing")
    return found


def _objects(values: Mapping[str, Any], key: str, most: int) -> list[Mapping[str, Any]]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _Wrong(f"{key} is missing")
    if not 1 <= len(found) <= most:
        raise _Wrong(f"{len(found)} {key} are not 1 to {most}")
    return found


def _text(values: Mapping[str, Any], key: str, most: int) -> str:
    found = values.get(key)
    if not isinstance(found, str):
        raise _Wrong(f"{key} is missing")
    if len(found) > most:
        raise _Wrong(f"{key} is longer than {most} characters")
    return found


def _name(values: Mapping[str, Any], key: str) -> str:
    """A text that can be printed; "" stays empty."""
    found = _text(values, key, MAX_NAME)
    return display_name(found) if found else ""


def _choice(values: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    found = _text(values, key, MAX_NAME)
    if found not in known:
        raise _Wrong(f"{key} {_short(found)} is none of {', '.join(known)}")
    return found


def _whole(values: Mapping[str, Any], key: str, low: int, high: int) -> int:
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
        raise _Wrong(f"{key} {_short(found)} is no whole number from {low} to {high}")
    return found


def _id(values: Mapping[str, Any], key: str) -> str:
    found = _text(values, key, MAX_NAME)
    if not _ID.fullmatch(found):
        raise _Wrong(f"{key} is no identity")
    return found


def _short(value: object) -> str:
    """A value for a message: printable and short."""
    if isinstance(value, dict | list):
        return "which is no single value"
    if isinstance(value, float) and not isfinite(value):
        return "infinity"
    text = display_name(json.dumps(value)) if not isinstance(value, int) else f"{value!s:.30}"
    return text if len(text) <= 30 else text[:29] + "…"
