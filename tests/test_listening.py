"""`sotto bench mushra`: what listeners saved is read with care, screened and summed up rightly."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from codec.errors import BadInput
from models.evaluation import listening, sessions, significance
from tests import panels
from tui.cli import main

MEANS = {"sotto 2k": 62.0, "sotto 3k6": 68.0, "codec2 1200": 30.0, "opus 6k": 45.0}


def read(*results: Any) -> sessions.Panel:
    found = [
        sessions.parse(json.dumps(values).encode(), f"{k}.json") for k, values in enumerate(results)
    ]
    return sessions.Panel(found, {}, [])


def report(*results: Any) -> listening.Report:
    return listening.report(read(*results))


def by_name(found: listening.Report) -> dict[str, listening.Rating]:
    return {each.condition.name: each for each in found.ratings}


# --- a panel whose means are known -----------------------------------------------------------


def test_known_means_lie_within_the_intervals_of_twenty_listeners():
    found = report(*panels.panel(MEANS, 20, seed=3))
    assert len(found.counted) == 20 and not found.excluded
    ratings = by_name(found)
    for name, mean in MEANS.items():
        assert ratings[name].mean.low < mean < ratings[name].mean.high
        assert 1 < ratings[name].mean.half_width < 5
    names = [each.condition.name for each in found.ratings]
    assert names[:3] == ["original", "7 kHz low-pass", "sotto 3k6"]
    pairs = {(each.system, each.other): each for each in found.differences}
    assert len(pairs) == 6
    sure = pairs["sotto 2k", "codec2 1200"]
    assert sure.t_corrected < 0.001 and sure.wilcoxon_corrected < 0.001
    assert sure.difference.low < 32 < sure.difference.high


def test_intervals_hold_the_mean_in_about_95_of_100_panels():
    held = []
    for seed in range(25):
        ratings = by_name(report(*panels.panel(MEANS, 20, seed)))
        held += [ratings[name].mean.low < mean < ratings[name].mean.high
                 for name, mean in MEANS.items()]  # fmt: skip
    assert 0.9 <= np.mean(held) < 1
    many = np.random.default_rng(9).normal(60, 8, (4000, 20))
    inside = [each.low < 60 < each.high for each in map(significance.student, many.tolist())]
    assert 0.94 < np.mean(inside) < 0.96


def test_systems_that_are_alike_are_seldom_told_apart():
    alike = dict.fromkeys(MEANS, 50.0)
    wrong = [
        any(each.t_corrected < 0.05 for each in report(*panels.panel(alike, 9, seed)).differences)
        for seed in range(40)
    ]
    assert np.mean(wrong) <= 0.1


# --- post-screening --------------------------------------------------------------------------


def lazy(score: float) -> panels.Scores:
    return lambda clip: [score] * (3 + len(MEANS))


def guessing(seed: int) -> panels.Scores:
    rng = np.random.default_rng(seed)
    return lambda clip: rng.integers(0, 101, 3 + len(MEANS)).tolist()


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (lazy(50), "rated the hidden reference below 90 in 8 of 8 trials"),
        (
            lazy(100),
            "rated the anchor 3.5 kHz low-pass above 90 in 8 of 8 trials and rated the "
            "anchor 7 kHz low-pass above 90 in 8 of 8 trials",
        ),
        (guessing(1), "rated the hidden reference below 90"),
        (guessing(2), "rated the hidden reference below 90"),
    ],
)
def test_who_does_not_listen_is_left_out(scores, reason):
    honest = panels.panel(MEANS, 20, seed=4)
    found = report(*honest, panels.mushra("lazy", list(MEANS), scores))
    assert [(who, why.startswith(reason)) for who, _, why in found.excluded] == [("lazy", True)]
    assert by_name(found)["opus 6k"].mean == by_name(report(*honest))["opus 6k"].mean


def test_one_wrong_trial_in_eight_is_forgiven_and_two_are_not():
    honest = panels.panel(MEANS, 9, seed=5)

    def slips(count: int) -> Any:
        return panels.mushra(
            "slips",
            list(MEANS),
            lambda clip: [89.9 if clip < count else 90, 30, 60, *MEANS.values()],
        )

    assert not report(*honest, slips(1)).excluded
    assert [who for who, _, _ in report(*honest, slips(2)).excluded] == ["slips"]


@pytest.mark.parametrize("anchor", ["low", "mid"])
def test_an_anchor_that_spoils_nothing_is_not_held_against_anybody(anchor):
    """More than a quarter of the listeners praise the anchor of some clips: it is the clips."""

    def results(praising: int) -> list[Any]:
        def scores(listener: int) -> panels.Scores:
            def rate(clip: int) -> list[float]:
                high = 95 if clip < 2 and listener < praising else 30
                return [100, high, 30, 50] if anchor == "low" else [100, 30, high, 50]

            return rate

        return [panels.mushra(f"{k}", ["a"], scores(k)) for k in range(8)]

    assert not report(*results(3)).excluded
    assert len(report(*results(2)).excluded) == 2
    assert len(report(*results(1)[:2]).excluded) == 1  # nobody else heard it that way


def test_an_anchor_like_the_original_leaves_the_other_as_it_is():
    """Everybody takes that of 7 kHz for the original, and one listener that of 3.5 kHz, too."""
    usual = [panels.mushra(f"{k}", ["a"], lambda clip: [100, 20, 97, 50]) for k in range(7)]
    found = report(panels.mushra("deaf", ["a"], lambda clip: [100, 95, 97, 50]), *usual)
    assert found.excluded == [
        ("deaf", "0.json", "rated the anchor 3.5 kHz low-pass above 90 in 8 of 8 trials")
    ]


def test_results_with_one_anchor_are_read_and_screened():
    """As pages saved them before that of 7 kHz came."""

    def old(listener: str, anchor: float) -> Any:
        values = panels.mushra(listener, ["a"], lambda clip: [100, anchor, 0, 50])
        del values["conditions"][2]
        for trial in values["trials"]:
            trial["ratings"] = [
                {"condition": k, "score": score} for k, score in enumerate([100, anchor, 50])
            ]
        return values

    found = report(*(old(f"{k}", 20) for k in range(7)), old("lazy", 95))
    assert [who for who, _, _ in found.excluded] == ["lazy"]


def test_a_panel_of_which_nobody_is_left(tmp_path, capsys):
    files = panels.save([panels.mushra("lazy", list(MEANS), lazy(10))], tmp_path)
    assert main(["bench", "mushra", str(files[0])]) == 0
    printed = capsys.readouterr().out
    assert "Nobody is left" in printed and "no intervals" not in printed
    assert main(["bench", "mushra", str(files[0]), "--plot", str(tmp_path / "x.png")]) == 1
    assert not (tmp_path / "x.png").exists()


# --- by hand ---------------------------------------------------------------------------------


def test_two_listeners_by_hand():
    rows: dict[str, list[list[float]]] = {
        "Ada": [[100, 20, 70, 40, 60], [100, 30, 70, 50, 80]],
        "Bob": [[100, 10, 70, 60, 60], [96, 20, 70, 70, 70]],
    }
    found = report(
        *(panels.mushra(who, ["a", "b"], own.__getitem__, ["1", "2"]) for who, own in rows.items())
    )
    ratings = by_name(found)
    a = ratings["a"]  # listeners' means 45 and 65
    assert a.mean.value == 55
    assert a.mean.high - a.mean.value == pytest.approx(12.706 * 10, rel=1e-3)
    assert (a.low, a.median, a.high) == (47.5, 55.0, 62.5)
    assert a.clips["1"].value == 50
    (pair,) = found.differences  # b - a: 25 and 0
    assert (pair.system, pair.other, pair.difference.value) == ("b", "a", 12.5)
    assert pair.t == pytest.approx(stats.ttest_rel([70, 65], [45, 65]).pvalue)
    assert pair.t_corrected == pair.t


def test_holm_by_hand():
    assert holm_of(0.01, 0.04, 0.03, 0.005) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_of(0.5, 0.6) == [1.0, 1.0]
    assert math.isnan(significance.holm([math.nan, 0.03])[0])
    assert significance.holm([math.nan, 0.03])[1] == 0.03


@given(st.lists(st.integers(-30, 30).filter(bool), min_size=2, max_size=12, unique_by=abs))
def test_signed_ranks_are_those_of_scipy_where_no_ranks_are_tied(gaps):
    assert significance.signed_ranks(gaps) == pytest.approx(stats.wilcoxon(gaps).pvalue)


def test_signed_ranks_by_hand():
    # Ranks 1.5, 1.5, 3, 4 and of the 16 choices of signs two have a sum of 1.5 or less on either
    # side with one of the first two alone, and one has none: (1 + 2) / 16, twice.
    assert significance.signed_ranks([1, -1, 2, 3, 0]) == pytest.approx(2 * 3 / 16)
    assert significance.signed_ranks([0, 0]) == 1
    assert significance.signed_ranks(np.arange(1.0, 301)) < 1e-40


def holm_of(*values: float) -> list[float]:
    return significance.holm(values)


def test_one_listener_has_no_interval(capsys):
    found = report(*panels.panel(MEANS, 1, seed=6))
    assert math.isnan(by_name(found)["opus 6k"].mean.low)
    assert math.isnan(found.differences[0].t)
    json.dumps(found.as_dict())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=30))
def test_a_ratio_over_equal_denominators_is_a_mean(pairs):
    tops = [top for top, _ in pairs]
    mean, ratio = significance.student(tops), significance.student_ratio(tops, [4] * len(tops))
    assert ratio.value == pytest.approx(mean.value / 4)
    assert ratio.high == pytest.approx(mean.high / 4)
    low, high = stats.t.interval(0.95, len(tops) - 1, np.mean(tops), max(stats.sem(tops), 1e-300))
    assert (mean.low, mean.high) == pytest.approx((low, high))


def preference(listener: str, answers: str) -> Any:
    """Answers for a against b, "a", "b" or "-", which is on the other side in every other trial."""
    sides = {"a": "ab", "b": "ba", "-": ("none", "none")}
    trials = [
        {"clip": f"{k}", "a": k % 2, "b": 1 - k % 2, "answer": sides[answer][k % 2]}
        for k, answer in enumerate(answers)
    ]
    systems = [{"role": "system", "name": name} for name in ("a", "b")]
    return panels.result("ab", trials, systems, listener=listener)


def test_preferences_by_hand():
    found = report(
        preference("Ada", "aaa-"), preference("Bob", "aaab"), preference("Eve", "aab-bb")
    )
    (pair,) = found.preferences
    assert (pair.wins, pair.losses, pair.none, pair.listeners) == (8, 4, 2, (2, 1))
    assert pair.share.value == pytest.approx(8 / 12)
    # Clopper and Pearson: quantiles of the beta distribution.
    assert pair.share.low == pytest.approx(stats.beta.ppf(0.025, 8, 5))
    assert pair.share.high == pytest.approx(stats.beta.ppf(0.975, 9, 4))
    assert pair.p == pytest.approx(2 * stats.binom.cdf(4, 12, 0.5))


def test_preferences_of_nobody():
    (pair,) = report(preference("Ada", "--")).preferences
    assert math.isnan(pair.share.value) and math.isnan(pair.p) and pair.none == 2


def words(listener: str, *typed: tuple[int, str]) -> Any:
    """What was understood of "One two, three four!" under each condition."""
    trials = [
        {"clip": f"{k}", "condition": condition, "text": "One two, three four!", "typed": text}
        for k, (condition, text) in enumerate(typed)
    ]
    conditions = [panels.REFERENCE, {"role": "system", "name": "a"}]
    return panels.result("words", trials, conditions, listener=listener)


def test_words_by_hand():
    found = report(
        words("Ada", (0, "one two three four"), (1, "one too three"), (1, "")),
        words("Bob", (1, "ONE two - three 4"), (0, "one two three four")),
    )
    original, system = found.understood
    assert (original.rate.value, original.words, original.errors) == (0, 8, 0)
    assert (system.errors, system.words, system.answers) == (7, 12, 3)
    assert system.rate.value == pytest.approx(7 / 12)
    assert system.rate.low == 0 < system.rate.value < system.rate.high
    ada, bob = found.listeners
    assert (ada["errors"], ada["words"], ada["rates"]["a"]) == (6, 12, 0.75)
    assert bob["rates"]["a"] == 0.25


# --- the command -----------------------------------------------------------------------------


def test_command(tmp_path, capsys):
    folder = tmp_path / "results"
    honest = panels.panel(MEANS, 6, seed=7)
    panels.save([*honest, panels.mushra("lazy", list(MEANS), lazy(50))], folder)
    (folder / "broken.json").write_text('{"sotto": "listening test", "form": 1')
    (folder / "notes.txt").write_text("not looked at")
    (folder / "again.json").write_text(json.dumps(honest[2]))
    figures, picture = tmp_path / "figures.json", tmp_path / "boxes.png"
    command = ["bench", "mushra", str(folder), "--json", str(figures), "--plot", str(picture)]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "lazy (" in printed.out and "below 90 in 8 of 8 trials" in printed.out
    assert "sotto 3k6" in printed.out and "Holm" in printed.out
    assert "broken.json left out" in printed.err and "not JSON" in printed.err
    assert "the same sitting" in printed.err
    values = json.loads(figures.read_text())
    assert values["counted"] == 6
    assert values["excluded"][0]["listener"] == "lazy"
    assert set(values["skipped"]) == {str(folder / "broken.json"), str(folder / "again.json")}
    assert {each["name"] for each in values["systems"]} >= set(MEANS)
    assert len(values["pairs"]) == 6
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and drawn.width > 400
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_results_are_never_replaced(tmp_path, capsys):
    folder = tmp_path / "results"
    files = panels.save(panels.panel(MEANS, 2, seed=7), folder)
    for given_ in (folder, files[0]):
        assert main(["bench", "mushra", str(given_), "--json", str(files[0]), "--force"]) == 2
    assert "would replace what is read" in capsys.readouterr().err


def test_figures_on_standard_output(tmp_path, capsys):
    panels.save([words("Ada", (1, "one")), words("Bob", (1, "two"))], tmp_path)
    assert main(["bench", "mushra", str(tmp_path), "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["systems"][0]["name"] == "a"
    assert "Word errors of 2 listeners" in printed.err
    assert main(["bench", "mushra", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 1


def test_preferences_are_printed(tmp_path, capsys):
    panels.save([preference("[red]Ada[/]", "aab-")], tmp_path)
    assert main(["bench", "mushra", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 : 0" not in printed  # of one listener
    assert "0.09 to 0.99" in printed and "no intervals" not in printed


def test_results_of_several_tests_are_not_mixed(tmp_path, capsys):
    panels.save([words("Ada", (1, "one")), preference("Bob", "ab")], tmp_path)
    assert main(["bench", "mushra", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "results of 2 tests" in message and "000.json" in message and "001.json" in message


def test_one_test_with_other_systems_is_left_out(tmp_path):
    ours, other = words("Ada", (1, "one")), words("Bob", (1, "two"))
    other["conditions"][1] = {"role": "system", "name": "b"}
    found = sessions.read_panel(panels.save([ours, other], tmp_path))
    assert len(found.sessions) == 1
    assert "other systems" in found.skipped[str(tmp_path / "001.json")]


def test_what_most_results_name_was_tested(tmp_path):
    """One file that was edited, and is read first, takes nobody else's answers away."""
    other, ours = words("Ada", (1, "one")), [words(f"{k}", (1, "one")) for k in range(3)]
    other["conditions"][1] = {"role": "system", "name": "b"}
    found = sessions.read_panel(panels.save([other, *ours], tmp_path))
    assert [each.listener for each in found.sessions] == ["0", "1", "2"]
    assert list(found.skipped) == [str(tmp_path / "000.json")]


def test_a_sitting_that_was_saved_twice_is_told_with_its_difference(tmp_path):
    first, same, changed = (words("Ada", (1, heard)) for heard in ("one", "one", "two"))
    found = sessions.read_panel(panels.save([first, same, changed], tmp_path))
    assert [each.file for each in found.sessions] == [str(tmp_path / "000.json")]
    assert [why.endswith("other answers") for why in found.skipped.values()] == [False, True]


def test_results_are_limited_together(tmp_path, monkeypatch):
    files = panels.save([words(f"{k}", (1, "one")) for k in range(3)], tmp_path)
    sizes = [file.stat().st_size for file in files]
    monkeypatch.setattr(sessions, "MAX_ALL_BYTES", sum(sizes))
    assert len(sessions.read_panel(files).sessions) == 3
    monkeypatch.setattr(sessions, "MAX_ALL_BYTES", sum(sizes) - 1)
    with pytest.raises(BadInput, match="together over"):
        sessions.read_panel(files)


def test_long_texts_take_no_long_time():
    """What becomes 16 000 words, and took minutes, is compared in a moment."""
    text = "\ufdfa " * 1900
    values = words("Ada", *((1, "one") for _ in range(4)))
    for trial in values["trials"]:
        trial.update(text=text, typed="b " + text)
    begun = time.process_time()
    (understood,) = [each for each in report(values).understood if each.words]
    assert understood.errors == 4 and understood.words == 4 * 4 * 1900
    assert time.process_time() - begun < 20


def test_names_keep_their_colons():
    values = panels.panel({":smile: [red]": 60.0}, 1, seed=7)[0]
    values["test"]["title"] = ":bomb: [bold]"
    report(values).print(printed := open_nowhere())
    assert ":smile: [red]" in printed.getvalue() and '":bomb: [bold]"' in printed.getvalue()


def test_two_kinds_of_transducer_are_remarked(tmp_path):
    for ears, count in (("headphones", 0), ("earphones", 0), ("loudspeakers", 1), ("", 0)):
        results = [
            {**words("Ada", (1, "one")), "ears": "headphones"},
            {**words("Bob", (1, "one")), "ears": ears},
        ]
        found = sessions.read_panel(panels.save(results, tmp_path))
        assert len(found.remarks) == count
        assert all("section 8" in remark for remark in found.remarks)


def test_two_sittings_of_one_name_are_remarked(tmp_path):
    first, second = words("Ada", (1, "one")), words("ADA", (1, "one"))
    found = sessions.read_panel(panels.save([first, second], tmp_path))
    assert len(found.sessions) == 2 and "same name" in found.remarks[0]


@pytest.mark.parametrize("name", ["missing.json", "folder"])
def test_what_is_not_there(tmp_path, capsys, name):
    (tmp_path / "folder").mkdir()
    assert main(["bench", "mushra", str(tmp_path / name)]) == 1
    assert len(capsys.readouterr().err.splitlines()) <= 2


# --- what is read ----------------------------------------------------------------------------

WHOLE = {
    "mushra": panels.panel(MEANS, 1, seed=8)[0],
    "ab": preference("Ada", "ab-"),
    "words": words("Ada", (1, "one two")),
}


def changed(kind: str, change: Any) -> bytes:
    values = copy.deepcopy(WHOLE[kind])
    change(values)
    return json.dumps(values).encode()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_result_is_read(kind):
    session = sessions.parse(json.dumps(WHOLE[kind]).encode(), "a.json")
    assert session.kind == kind
    assert len(session.trials) == WHOLE[kind]["planned"]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("ab", lambda v: v.update(form=2), "has form 2"),
        ("ab", lambda v: v.update(form=True), "has form"),
        ("ab", lambda v: v.update(sotto="something else"), "is no result"),
        ("ab", lambda v: v.pop("test"), "test is missing"),
        ("ab", lambda v: v["test"].update(kind="taste"), "no test 'taste'"),
        ("ab", lambda v: v["test"].update(id="../../etc"), "no identity"),
        ("ab", lambda v: v["trials"].pop(), "2 of 3 trials"),
        ("ab", lambda v: v["trials"].__setitem__(1, v["trials"][0]), "there twice"),
        ("ab", lambda v: v["trials"][0].update(b=v["trials"][0]["a"]), "with itself"),
        ("ab", lambda v: v["trials"][0].update(answer="c"), "none of a, b, none"),
        ("ab", lambda v: v["conditions"].pop(), "does not have these roles"),
        ("ab", lambda v: v["trials"][0].update(a=-1), "no whole number"),
        ("ab", lambda v: v.update(listener="x" * 300), "longer than 200"),
        ("ab", lambda v: v.update(ears="walls"), "ears \"walls\" is none of"),
        ("words", lambda v: v["trials"][0].update(condition=2), "no whole number from 0 to 1"),
        ("words", lambda v: v["trials"][0].update(typed="x" * 9999), "longer than 4000"),
        ("mushra", lambda v: v["trials"][0]["ratings"].pop(), "not rated"),
        ("mushra", lambda v: v["trials"][0]["ratings"][0].update(score=100.5), "0 to 100"),
        ("mushra", lambda v: v["trials"][0]["ratings"][0].update(score=10**400), "0 to 100"),
        ("mushra", lambda v: v["trials"][0]["ratings"][0].update(score=True), "no score"),
        ("mushra", lambda v: v["trials"][0]["ratings"][0].update(condition=1), "rated twice"),
        ("mushra", lambda v: v["trials"][0]["ratings"][0].update(score=math.nan), "not JSON"),
        ("mushra", lambda v: v["conditions"].__setitem__(2, v["conditions"][3]), "there twice"),
        ("mushra", lambda v: v["conditions"][0].update(role="system"), "these roles"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(kind, change, reason):
    with pytest.raises(BadInput, match=reason) as caught:
        sessions.parse(changed(kind, change), "a.json")
    assert str(caught.value).startswith("a.json ") and "\n" not in str(caught.value)


def test_what_cannot_be_printed_is_escaped():
    values = changed("words", lambda v: v.update(listener="\x1b[31mred\n"))
    assert sessions.parse(values, "a.json").listener == "\\x1b[31mred\\n"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "large.json"
    with open(file, "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(BadInput, match="too large"):
        sessions.read(file)


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b"1" * 10_000)
@example(b'{"sotto": "listening test", "form": ' + b"[" * 500 + b"]" * 500 + b"}")
@example("\ud800".encode("utf-8", "surrogatepass"))
def test_any_bytes_are_refused_in_one_line(data):
    with pytest.raises(BadInput) as caught:
        sessions.parse(data, "a.json")
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_any_change_of_a_value_is_read_or_refused(kind, data):
    values = copy.deepcopy(WHOLE[kind])
    place: Any = values
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        session = sessions.parse(json.dumps(values).encode(), "a.json")
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        found = listening.report(sessions.Panel([session], {}, []))
        found.print(open_nowhere())
        json.dumps(found.as_dict())


def open_nowhere() -> Any:
    import io

    return io.StringIO()


def test_folder_in_folder_is_not_searched(tmp_path: Path):
    panels.save([words("Ada", (1, "one"))], tmp_path)
    (tmp_path / "more.json").mkdir()
    assert [path.name for path in sessions.result_files([tmp_path])] == ["000.json"]
