"""Option values are checked while the command line is parsed: one line on stderr, status 2."""

from __future__ import annotations

import argparse

import pytest

from tui.terminal import arguments


@pytest.mark.parametrize(
    ("check", "good", "value"),
    [
        (arguments.number, "-2.5e3", -2500.0),
        (arguments.positive, "1e-9", 1e-9),
        (arguments.between(0, 1), "1", 1.0),
        (arguments.between(0, 1), "0", 0.0),
        (arguments.amount("seconds", 0.5, 3600), "0.5", 0.5),
        (arguments.count, "0", 0),
        (arguments.positive_count, "1000000000", 1_000_000_000),
        (arguments.whole(2, 4096), "4096", 4096),
        (arguments.at_once, "1024", 1024),
    ],
)
def test_good_values(check, good, value) -> None:
    found = check(good)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("check", "bad", "message"),
    [
        (arguments.number, "x", "'x' is not a number"),
        (arguments.number, "inf", "inf is not a finite number"),
        (arguments.positive, "nan", "nan is not a finite number"),
        (arguments.positive, "0", "0 is not above 0"),
        (arguments.between(0, 1), "1.01", "1.01 is not between 0 and 1"),
        (arguments.between(0, 1), "nan", "nan is not a finite number"),
        (arguments.amount("minutes", 0.5, 60), "nan", "'nan' is not a number of minutes from 0.5"),
        (arguments.amount("hours", 0.5, 60), "x", "'x' is not a number of hours from 0.5 to 60"),
        (arguments.count, "-1", "-1 is not between 0 and 1000000000"),
        (arguments.count, "1.5", "'1.5' is not a whole number"),
        (arguments.count, "9" * 5000, "is not a whole number"),
        (arguments.positive_count, "0", "0 is not between 1 and 1000000000"),
        (arguments.at_once, "0", "0 is not between 1 and 1024"),
        (arguments.at_once, "99999", "99999 is not between 1 and 1024"),
        (arguments.whole(2, 4096), "1", "1 is not between 2 and 4096"),
    ],
)
def test_bad_values_say_what_is_wrong(check, bad, message) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^[^\n]*$") as caught:
        check(bad)
    assert message in str(caught.value)


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert [arguments.at_most_processors(n) for n in (1, 2, 1024)] == [1, 2, 2]


def test_device_is_one_of_three(capsys) -> None:
    parser = argparse.ArgumentParser()
    arguments.add_device(parser)
    assert parser.parse_args([]).device == "auto"
    assert parser.parse_args(["--device", "cuda"]).device == "cuda"
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--device", "tpu"])
    assert stopped.value.code == 2
    assert "'tpu'" in capsys.readouterr().err
